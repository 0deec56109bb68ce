"""Embed a data set of several modalities by a simple method, and impute what is missing."""

from collections.abc import Mapping, Sequence
from typing import Any

from scgpt_core.config import ModalitySettings
from scgpt_core.joint_baselines import run_joint_baseline
from scgpt_core.runs import start_logging


def main(
    dataset: str,
    output: str,
    run_json: str,
    *,
    method: str,
    query: Sequence[str],
    settings: Mapping[str, Any],
    seed: str,
) -> None:
    run_joint_baseline(
        dataset,
        output,
        run_json,
        method=method,
        query=query,
        settings=ModalitySettings.model_validate(settings),
        seed=int(seed),
    )


start_logging(snakemake.log[0])
main(
    snakemake.input[0],
    snakemake.output.embedding,
    snakemake.output.run,
    **snakemake.params,
)
