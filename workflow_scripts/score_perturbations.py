"""Score the perturbed cells that one method predicted with every metric of the benchmark."""

from collections.abc import Mapping, Sequence

import anndata as ad
import pandas as pd

from scgpt_core.perturbation.predictions import read_dataset
from scgpt_core.perturbation.scores import score_predictions
from scgpt_core.runs import start_logging
from scgpt_core.scores import write_scores


def main(
    inputs: Mapping[str, str],
    output: str,
    *,
    focus: Mapping[str, Sequence[str]],
    run: Mapping[str, str],
) -> None:
    data, split = read_dataset(inputs["dataset"], inputs["split"])
    predicted = ad.read_h5ad(inputs["predictions"]) if "predictions" in inputs else None
    ranks = pd.read_parquet(inputs["ranks"]) if "ranks" in inputs else None
    scores = score_predictions(data, split, predicted=predicted, ranks=ranks, focus=focus)
    write_scores(output, scores, run)


start_logging(snakemake.log[0])
main(
    dict(snakemake.input.items()),
    snakemake.output[0],
    run=dict(snakemake.wildcards.items(), task="perturbation"),
    **snakemake.params,
)
