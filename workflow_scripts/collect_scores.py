"""Gather the scores of all runs: one tidy table, means over seeds, what to read, definitions."""

from collections.abc import Mapping, Sequence

import pandas as pd

from scgpt_core.runs import start_logging, whole, write_parquet
from scgpt_core.scores import define_metrics, main_table, summarise_scores


def main(
    paths: Sequence[str],
    parquet: str,
    tsv: str,
    summary: str,
    text: str,
    definitions: str,
    *,
    titles: Mapping[str, str],
) -> None:
    scores = pd.concat(map(pd.read_parquet, paths), ignore_index=True)
    write_parquet(parquet, scores)
    tables = {tsv: scores, summary: summarise_scores(scores), definitions: define_metrics()}
    for path, table in tables.items():
        with whole(path) as temporary:
            table.to_csv(temporary, sep="\t", index=False, float_format="%.6g")
    with whole(text) as temporary:
        temporary.write_text(main_table(scores, titles) + "\n")


start_logging(snakemake.log[0])
main(
    list(snakemake.input),
    **dict(snakemake.output.items()),
    **snakemake.params,
)
