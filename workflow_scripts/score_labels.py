"""Score the labels that one method gave to a query with every metric of the benchmark."""

from collections.abc import Mapping

import pandas as pd

from scgpt_core.runs import start_logging, whole
from scgpt_core.scores import COLUMNS, score_predictions


def main(predictions: str, output: str, *, run: Mapping[str, str]) -> None:
    scores = score_predictions(pd.read_parquet(predictions))
    scores = scores.assign(task="annotation", **run).astype({"seed": int})[list(COLUMNS)]
    with whole(output) as temporary:
        scores.to_parquet(temporary, index=False)


start_logging(snakemake.log[0])
main(snakemake.input[0], snakemake.output[0], run=dict(snakemake.wildcards.items()))
