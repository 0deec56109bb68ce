"""Fetch the counts of one partition of the corpus."""

from collections.abc import Mapping

from scgpt_core.data.cell_list import read_origin
from scgpt_core.data.download import download_partition
from scgpt_core.runs import start_logging


def main(
    cells: str,
    output: str,
    *,
    partition: str,
    cells_digest: str,
    attempts: int,
    tiledb: Mapping[str, str],
) -> None:
    assert read_origin(cells)["digest"] == cells_digest, (
        "cells have changed since the graph was made"
    )
    download_partition(cells, output, partition=int(partition), attempts=attempts, tiledb=tiledb)


start_logging(snakemake.log[0])
main(snakemake.input.cells, snakemake.output.counts, **snakemake.params)
