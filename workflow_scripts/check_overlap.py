"""Say which cells of the data sets for tests are in the corpus."""

from collections.abc import Sequence
from pathlib import Path

import anndata as ad

from scgpt_core.data.cells import read_cells
from scgpt_core.data.genes import match_var
from scgpt_core.data.overlap import find_overlap
from scgpt_core.data.shards import open_corpus
from scgpt_core.runs import start_logging, write_json


def main(manifest: str, datasets: Sequence[str], output: str) -> None:
    corpus = open_corpus(Path(manifest).parent)
    found = {}
    for path in datasets:
        adata = ad.read_h5ad(path)
        cells = read_cells(adata, match_var(adata.var, corpus.vocab).ids)
        overlap = find_overlap(corpus, cells)
        found[Path(path).stem] = {
            "cells": adata.n_obs,
            "shared": int(overlap.shared_N.sum()),
            "shared_with": overlap.by_dataset,
        }
    write_json(output, found)


start_logging(snakemake.log[0])
main(snakemake.input.manifest, snakemake.input.datasets, snakemake.output[0])
