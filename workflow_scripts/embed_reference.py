"""Embed the cells of a data set that is a reference."""

from collections.abc import Mapping
from typing import Any

from scgpt_core.config import EmbedSettings
from scgpt_core.index.corpus import embed_reference
from scgpt_core.runs import start_logging


def main(
    dataset: str, model_folder: str, output: str, *, settings: Mapping[str, Any], seed: int
) -> None:
    embed_reference(
        dataset, model_folder, output, settings=EmbedSettings.model_validate(settings), seed=seed
    )


start_logging(snakemake.log[0])
main(
    snakemake.input.dataset,
    snakemake.params.model_folder,
    snakemake.output[0],
    settings=snakemake.params.settings,
    seed=snakemake.params.seed,
)
