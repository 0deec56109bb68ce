"""Score one embedding of several modalities, and what was imputed, with every metric."""

from collections.abc import Mapping

import anndata as ad
import pandas as pd

from scgpt_core.runs import start_logging, whole
from scgpt_core.scores import COLUMNS, score_embedding, score_imputation


def main(
    embedding: str, unintegrated: str, dataset: str, output: str, *, run: Mapping[str, str]
) -> None:
    embedded = ad.read_h5ad(embedding)
    parts = [
        score_embedding(embedded, ad.read_h5ad(unintegrated)),
        score_imputation(embedded, ad.read_h5ad(dataset)),
    ]
    scores = pd.concat(parts, ignore_index=True).assign(task="multiomics", **run)
    with whole(output) as temporary:
        scores.astype({"seed": int})[list(COLUMNS)].to_parquet(temporary, index=False)


start_logging(snakemake.log[0])
main(*snakemake.input, snakemake.output[0], run=dict(snakemake.wildcards.items()))
