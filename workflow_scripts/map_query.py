"""Map a data set onto the reference: labels, confidence, novelty, and scores beside baselines."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from scgpt_core.config import EmbedSettings, MappingSettings
from scgpt_core.index.query import map_dataset
from scgpt_core.runs import start_logging


def main(inputs: Mapping[str, Any], output: str, params: Mapping[str, Any], threads: int) -> None:
    map_dataset(
        inputs["dataset"],
        params["model_folder"],
        Path(inputs["index"][0]).parent,
        inputs["sources"],
        Path(output).parent,
        settings=MappingSettings.model_validate(params["settings"]),
        embed=EmbedSettings.model_validate(params["embed"]),
        ontology=inputs["ontology"],
        seed=params["seed"],
        threads=threads,
    )


start_logging(snakemake.log[0])
main(
    dict(snakemake.input.items()),
    snakemake.output.mapping,
    dict(snakemake.params.items()),
    snakemake.threads,
)
