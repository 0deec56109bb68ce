"""Merge prepared data sets over the genes that all of them have."""

from collections.abc import Sequence
from pathlib import Path

from scgpt_core.runs import start_logging
from scgpt_core.tasks.merging import merge_datasets


def main(paths: Sequence[str], output: str) -> None:
    merge_datasets({Path(path).stem: path for path in paths}, output)


start_logging(snakemake.log[0])
main(list(snakemake.input), snakemake.output[0])
