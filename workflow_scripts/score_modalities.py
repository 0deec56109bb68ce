"""Score one embedding of several modalities, and what was imputed, with every metric."""

from collections.abc import Mapping

import anndata as ad
import pandas as pd

from scgpt_core.runs import start_logging
from scgpt_core.scores import score_embedding, score_imputation, write_scores


def main(
    embedding: str, unintegrated: str, dataset: str, output: str, *, run: Mapping[str, str]
) -> None:
    embedded = ad.read_h5ad(embedding)
    parts = [
        score_embedding(embedded, ad.read_h5ad(unintegrated)),
        score_imputation(embedded, ad.read_h5ad(dataset)),
    ]
    write_scores(output, pd.concat(parts, ignore_index=True), run)


start_logging(snakemake.log[0])
main(
    *snakemake.input,
    snakemake.output[0],
    run=dict(snakemake.wildcards.items(), task="multiomics"),
)
