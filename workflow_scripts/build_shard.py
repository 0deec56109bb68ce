"""Make a token shard of a partition's good cells."""

from collections.abc import Mapping
from typing import Any

from scgpt_core.config import QCSettings
from scgpt_core.data.partitions import Partition
from scgpt_core.data.qc import CleanCells
from scgpt_core.data.shards import build_shard
from scgpt_core.data.vocab import Vocabulary
from scgpt_core.runs import start_logging


def main(partition: str, vocab: str, output: str, *, qc: Mapping[str, Any]) -> None:
    cells = CleanCells(Partition(partition), QCSettings.model_validate(qc))
    build_shard(cells, Vocabulary.load(vocab), output)


start_logging(snakemake.log[0])
main(
    snakemake.input.partition,
    snakemake.input.vocab,
    snakemake.output.shard,
    **snakemake.params,
)
