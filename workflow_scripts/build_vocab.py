"""Give every gene of the corpus a token."""

from collections.abc import Sequence

from scgpt_core.data.partitions import Partition
from scgpt_core.data.vocab import build_vocab
from scgpt_core.runs import start_logging


def main(
    partitions: Sequence[str], output: str, *, published: Sequence[str], min_cells: int
) -> None:
    build_vocab(
        map(Partition, partitions),
        output,
        min_cells=min_cells,
        published=next(iter(published), None),
    )


start_logging(snakemake.log[0])
main(
    snakemake.input.partitions,
    snakemake.output[0],
    published=snakemake.input.published,
    **snakemake.params,
)
