"""Find edges in the attention maps of a model."""

from collections.abc import Mapping
from typing import Any, Literal

from scgpt_core.config import NetworkSettings
from scgpt_core.networks.attention import attend_dataset
from scgpt_core.runs import start_logging


def main(
    cells: str,
    edges: str,
    run_json: str,
    *,
    model_folder: str,
    settings: Mapping[str, Any],
    init: Literal["pretrained", "random"],
    seed: int,
) -> None:
    asked = NetworkSettings.model_validate(settings)
    attend_dataset(cells, model_folder, edges, run_json, settings=asked, init=init, seed=seed)


start_logging(snakemake.log[0])
main(
    snakemake.input.cells,
    snakemake.output.edges,
    snakemake.output.run,
    **snakemake.params,
)
