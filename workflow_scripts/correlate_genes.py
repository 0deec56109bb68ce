"""Find edges by the simple methods that a model is measured against."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from scgpt_core.config import NetworkSettings
from scgpt_core.networks.coexpression import correlate_dataset
from scgpt_core.runs import start_logging


def main(cells: str, run_json: str, *, settings: Mapping[str, Any], seed: int) -> None:
    asked = NetworkSettings.model_validate(settings)
    correlate_dataset(cells, Path(run_json).parent, settings=asked, seed=seed)


start_logging(snakemake.log[0])
main(
    snakemake.input.cells,
    snakemake.output.run,
    **snakemake.params,
)
