"""Knock regulators out in silico, and see what the model predicts without them."""

from collections.abc import Mapping
from typing import Any

from scgpt_core.config import NetworkSettings
from scgpt_core.networks.knockout import knock_out_dataset
from scgpt_core.runs import start_logging


def main(
    cells: str,
    edges: str,
    shifts: str,
    run_json: str,
    *,
    model_folder: str,
    settings: Mapping[str, Any],
    seed: int,
) -> None:
    asked = NetworkSettings.model_validate(settings)
    knock_out_dataset(cells, model_folder, edges, shifts, run_json, settings=asked, seed=seed)


start_logging(snakemake.log[0])
main(
    snakemake.input.cells,
    snakemake.output.edges,
    snakemake.output.shifts,
    snakemake.output.run,
    **snakemake.params,
)
