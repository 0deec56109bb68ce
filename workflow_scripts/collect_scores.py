"""Gather the scores of all runs in one table, beside what each metric means."""

from collections.abc import Sequence

import pandas as pd

from scgpt_core.runs import start_logging, whole
from scgpt_core.scores import define_metrics


def main(paths: Sequence[str], parquet: str, tsv: str, definitions: str) -> None:
    scores = pd.concat(map(pd.read_parquet, paths), ignore_index=True)
    with whole(parquet) as temporary:
        scores.to_parquet(temporary, index=False)
    for path, table in ((tsv, scores), (definitions, define_metrics())):
        with whole(path) as temporary:
            table.to_csv(temporary, sep="\t", index=False, float_format="%.6g")


start_logging(snakemake.log[0])
main(
    list(snakemake.input),
    snakemake.output.parquet,
    snakemake.output.tsv,
    snakemake.output.definitions,
)
