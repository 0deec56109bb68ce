"""Embed the cells of a data set that is a reference."""

from collections.abc import Mapping
from typing import Any

from scgpt_core.config import EmbedSettings
from scgpt_core.index.corpus import embed_reference
from scgpt_core.runs import start_logging


def main(
    dataset: str, output: str, *, model_folder: str, settings: Mapping[str, Any], seed: int
) -> None:
    asked = EmbedSettings.model_validate(settings)
    embed_reference(dataset, model_folder, output, settings=asked, seed=seed)


start_logging(snakemake.log[0])
main(snakemake.input.dataset, snakemake.output[0], **snakemake.params)
