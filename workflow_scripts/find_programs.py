"""Find gene programs in a model's gene embeddings, and what they mean."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from scgpt_core.config import NetworkSettings
from scgpt_core.networks.programs import find_dataset_programs
from scgpt_core.runs import start_logging


def main(
    dataset: str,
    run_json: str,
    *,
    model_folder: str,
    gene_sets: str,
    settings: Mapping[str, Any],
    seed: int,
) -> None:
    find_dataset_programs(
        dataset,
        model_folder,
        Path(run_json).parent,
        gene_sets=gene_sets,
        settings=NetworkSettings.model_validate(settings),
        seed=seed,
    )


start_logging(snakemake.log[0])
main(
    snakemake.input.dataset,
    snakemake.output.run,
    gene_sets=snakemake.input.gene_sets,
    **snakemake.params,
)
