"""Fine-tune a model on a data set, and embed the data set with it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from scgpt_core.config import IntegrationSettings
from scgpt_core.runs import start_logging
from scgpt_core.tasks.integration import integrate_dataset


def main(
    dataset: str,
    embedding: str,
    *,
    model_folder: str,
    state_folder: str,
    settings: Mapping[str, Any],
    init: Literal["pretrained", "random"],
    seed: str,
    threads: int,
) -> None:
    integrate_dataset(
        dataset,
        model_folder,
        Path(embedding).parent,
        state_folder=state_folder,
        settings=IntegrationSettings.model_validate(settings),
        init=init,
        seed=int(seed),
        threads=threads,
    )


start_logging(snakemake.log[0])
files = (snakemake.input.dataset, snakemake.output.embedding)
main(*files, threads=snakemake.threads, **snakemake.params)
