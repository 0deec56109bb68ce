"""Score the labels that one method gave to a query with every metric of the benchmark."""

from collections.abc import Mapping

import pandas as pd

from scgpt_core.runs import start_logging
from scgpt_core.scores import score_predictions, write_scores


def main(predictions: str, output: str, *, run: Mapping[str, str]) -> None:
    write_scores(output, score_predictions(pd.read_parquet(predictions)), run)


start_logging(snakemake.log[0])
main(
    snakemake.input[0],
    snakemake.output[0],
    run=dict(snakemake.wildcards.items(), task="annotation"),
)
