"""Fetch the file of a data set and verify it."""

from collections.abc import Mapping
from typing import Any

from scgpt_core.config import DatasetRow
from scgpt_core.runs import start_logging
from scgpt_core.tasks.datasets import download_dataset


def main(output: str, *, row: Mapping[str, Any]) -> None:
    described = DatasetRow.model_validate(row)
    assert described.path is not None, "a data set that is downloaded has a URL"
    download_dataset(described, described.path, output)


start_logging(snakemake.log[0])
main(snakemake.output[0], **snakemake.params)
