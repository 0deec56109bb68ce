"""Predict the perturbed cells of a data set by one of the simple methods."""

from collections.abc import Mapping
from typing import Any

from scgpt_core.config import PerturbationSettings
from scgpt_core.perturbation.baselines import run_baseline
from scgpt_core.runs import start_logging


def main(
    inputs: Mapping[str, str],
    outputs: Mapping[str, str],
    *,
    method: str,
    settings: Mapping[str, Any],
    seed: str,
) -> None:
    run_baseline(
        **inputs,
        **outputs,
        method=method,
        settings=PerturbationSettings.model_validate(settings),
        seed=int(seed),
    )


start_logging(snakemake.log[0])
main(dict(snakemake.input.items()), dict(snakemake.output.items()), **snakemake.params)
