"""Verify and check a data set, and write it in the form that all tasks read."""

from collections.abc import Mapping
from typing import Any

from scgpt_core.config import DatasetRow
from scgpt_core.runs import start_logging
from scgpt_core.tasks.datasets import prepare_dataset


def main(source: str, cell_types: str, output: str, *, row: Mapping[str, Any]) -> None:
    prepare_dataset(DatasetRow.model_validate(row), source, output, cell_types=cell_types)


start_logging(snakemake.log[0])
main(
    snakemake.input.file,
    snakemake.input.cell_types,
    snakemake.output[0],
    **snakemake.params,
)
