"""Label the query of a data set by one of the simple methods."""

from collections.abc import Mapping, Sequence
from typing import Any

from scgpt_core.classifiers import classify_dataset
from scgpt_core.config import LabelSettings
from scgpt_core.runs import start_logging


def main(
    dataset: str,
    predictions: str,
    run_json: str,
    *,
    method: str,
    query: Sequence[str],
    settings: Mapping[str, Any],
    seed: str,
) -> None:
    classify_dataset(
        dataset,
        predictions,
        run_json,
        method=method,
        query=query,
        settings=LabelSettings.model_validate(settings),
        seed=int(seed),
    )


start_logging(snakemake.log[0])
main(
    snakemake.input[0],
    snakemake.output.predictions,
    snakemake.output.run,
    **snakemake.params,
)
