"""All metrics of one embedding of 16,000 cells, ours against scib.

scib is given the same Leiden (igraph's, which is scanpy's announced default); what its own default,
leidenalg, takes is measured once and noted. LISI and kBET are ours alone: scib's need a newer C
library and R.
"""

import argparse
import contextlib
import io
import os
import time
import warnings

import anndata as ad
import numpy as np
import pandas as pd
import scanpy as sc
from scib import metrics as scib

from benchmarks.harness import RUNS, measure, report
from benchmarks.real_cells import ROOT
from scgpt_core.baselines import run_baseline
from scgpt_core.keys import BATCH, EMBEDDING, LABEL
from scgpt_core.neighbours import find_neighbours
from scgpt_core.scores import score_embedding

N_CELLS = 16_000
N_NEIGHBOURS = 10
IGRAPH = {"flavor": "igraph", "n_iterations": 2, "directed": False}


def embed_real_cells() -> ad.AnnData:
    """16,000 cells: random mixtures of a real cell and a near one of its batch and label.

    Of the HVG + PCA embedding of 1,200 blood cells of three technologies.
    """
    adata = ad.read_h5ad(ROOT / "resources/cells/pbmc_symphony_3tech.h5ad")
    adata.obs[LABEL] = adata.obs["cell_type"]
    emb_ND = run_baseline("hvg_pca", adata, seed=0)
    rng = np.random.default_rng(0)
    groups = adata.obs.groupby([BATCH, LABEL], observed=True).indices
    near_NK = np.tile(np.arange(adata.n_obs)[:, None], N_NEIGHBOURS)
    for rows in groups.values():
        k = min(N_NEIGHBOURS, len(rows))
        near_NK[rows, :k] = rows[find_neighbours(emb_ND[rows], k)[1]]
    cells = rng.integers(0, adata.n_obs, N_CELLS)
    others = near_NK[cells, rng.integers(0, N_NEIGHBOURS, N_CELLS)]
    share = rng.random((N_CELLS, 1), dtype=np.float32)
    obs = adata.obs[[BATCH, LABEL]].iloc[cells].astype("category")
    obs.index = pd.Index(map(str, range(N_CELLS)))
    mixed_ND = share * emb_ND[cells] + (1 - share) * emb_ND[others]
    counts = np.zeros((N_CELLS, 1), np.float32)  # scib does not work without a matrix
    return ad.AnnData(counts, obs=obs, obsm={EMBEDDING: mixed_ND})


def score_by_scib(embedded: ad.AnnData, **leiden: object) -> None:
    """Metrics that scib computes here, called as its own `metrics` function calls them."""
    adata = embedded.copy()
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")  # scib's own, of pandas and scanpy
        # All neighbours, as ours are: scanpy does not read the graph of the locked pynndescent.
        sc.pp.neighbors(adata, use_rep=EMBEDDING, transformer="sklearn")
        scib.cluster_optimal_resolution(
            adata, LABEL, "cluster", use_rep=EMBEDDING, verbose=False, **leiden
        )
        scib.nmi(adata, "cluster", LABEL)
        scib.ari(adata, "cluster", LABEL)
        scib.silhouette(adata, LABEL, EMBEDDING)
        scib.silhouette_batch(adata, BATCH, LABEL, EMBEDDING, verbose=False)
        scib.pcr_comparison(adata, adata, BATCH, embed=EMBEDDING)
        scib.isolated_labels_f1(adata, LABEL, BATCH, EMBEDDING, verbose=False, **leiden)
        scib.isolated_labels_asw(adata, LABEL, BATCH, EMBEDDING, verbose=False)
        scib.graph_connectivity(adata, LABEL)


def main(n_runs: int) -> None:
    """Measure both on this machine's cores."""
    adata = embed_real_cells()

    def ours() -> float:
        score_embedding(adata, adata)
        return 60.0  # a rate per second, told per minute

    def theirs() -> float:
        score_by_scib(adata, **IGRAPH)
        return 60.0  # a rate per second, told per minute

    start = time.perf_counter()
    score_by_scib(adata)
    by_default = time.perf_counter() - start
    runs = measure({"ours": ours, "scib": theirs}, runs=n_runs)
    seconds = score_embedding(adata, adata).set_index("metric")["seconds"]
    notes = {
        "cells": N_CELLS,
        "dimensions": adata.obsm[EMBEDDING].shape[1],
        "threads": os.environ.get("OMP_NUM_THREADS", os.cpu_count()),
        "seconds": {name: round(value, 2) for name, value in seconds.items() if value >= 0.01},
        "seconds_of_scib_by_default": round(by_default, 1),
    }
    report("metrics", unit="embeddings/min", runs=runs, baseline="scib", notes=notes)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=RUNS)
    main(parser.parse_args().runs)
