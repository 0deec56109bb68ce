"""Say which cells of the data sets for tests are in the corpus."""

from collections.abc import Sequence
from pathlib import Path

import anndata as ad

from scgpt_core.data.cells import cells_from_csr
from scgpt_core.data.genes import match_var
from scgpt_core.data.identity import cell_identity
from scgpt_core.data.overlap import find_overlap
from scgpt_core.data.shards import open_corpus
from scgpt_core.runs import start_logging, write_json


def main(manifest: str, datasets: Sequence[str], output: str) -> None:
    corpus = open_corpus(Path(manifest).parent)
    found = {}
    for path in datasets:
        adata = ad.read_h5ad(path)
        X, ids = adata.X.tocsr(), match_var(adata.var, corpus.vocab).ids
        names = cell_identity(adata.obs_names)
        cells = cells_from_csr(X.indptr, X.indices, X.data, token_ids=ids, cell_ids=names)
        overlap = find_overlap(corpus, cells)
        found[Path(path).stem] = {
            "cells": adata.n_obs,
            "shared": int(overlap.shared_N.sum()),
            "shared_with": overlap.by_dataset,
        }
    write_json(output, found)


start_logging(snakemake.log[0])
main(snakemake.input.manifest, snakemake.input.datasets, snakemake.output[0])
