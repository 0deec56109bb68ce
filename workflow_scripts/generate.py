"""Generate profiles of a data set's cells, and compare them with the true ones."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from scgpt_core.config import GenerationSettings
from scgpt_core.runs import start_logging
from scgpt_core.tasks.generation import generate_dataset


def main(
    dataset: str, scores: str, *, model_folder: str, settings: Mapping[str, Any], seed: int
) -> None:
    generate_dataset(
        dataset,
        model_folder,
        Path(scores).parent,
        settings=GenerationSettings.model_validate(settings),
        seed=seed,
    )


start_logging(snakemake.log[0])
main(
    snakemake.input.dataset,
    snakemake.output.scores,
    **snakemake.params,
)
