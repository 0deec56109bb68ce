"""Embed the cells of one shard of the corpus."""

from collections.abc import Mapping
from typing import Any

from scgpt_core.config import EmbedSettings
from scgpt_core.index.corpus import embed_shard
from scgpt_core.runs import start_logging


def main(
    shard: str, model_folder: str, output: str, *, settings: Mapping[str, Any], seed: int
) -> None:
    embed_shard(
        shard, model_folder, output, settings=EmbedSettings.model_validate(settings), seed=seed
    )


start_logging(snakemake.log[0])
main(
    snakemake.input.shard,
    snakemake.params.model_folder,
    snakemake.output[0],
    settings=snakemake.params.settings,
    seed=snakemake.params.seed,
)
