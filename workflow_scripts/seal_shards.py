"""Seal the shards of a corpus: digests, and which cells are held out."""

from collections.abc import Sequence
from typing import Literal

from scgpt_core.data.shards import seal_shards
from scgpt_core.runs import start_logging


def main(
    shards: Sequence[str],
    vocab: str,
    output: str,
    *,
    corpus: str,
    heldout_by: Literal["donor_id", "dataset_id"],
    heldout_share: float,
    seed: int,
) -> None:
    seal_shards(
        shards,
        vocab,
        output,
        corpus=corpus,
        heldout_by=heldout_by,
        heldout_share=heldout_share,
        seed=seed,
    )


start_logging(snakemake.log[0])
main(
    snakemake.input.shards,
    snakemake.input.vocab,
    snakemake.output[0],
    **snakemake.params,
)
