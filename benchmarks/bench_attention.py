"""Peak memory of an attention network by number of its cells, which are read one by one.

Cells are real ones, drawn again and again; weights are random, which changes neither memory nor
time.
"""

import argparse

import anndata as ad
import numpy as np
import torch

from benchmarks.bench_memory import peak_mb
from benchmarks.harness import report
from benchmarks.real_cells import CLS_ID, N_TOKENS, PAD_ID, ROOT, resample
from scgpt_core.checkpoint import Checkpoint
from scgpt_core.config import ModelConfig, NetworkSettings
from scgpt_core.data.cells import read_cells
from scgpt_core.data.vocab import Vocabulary
from scgpt_core.model import ScGPT
from scgpt_core.model.weights import LoadReport
from scgpt_core.networks.attention import attend_genes

SOURCE = "pbmc_symphony_3tech"
ARCHITECTURE = {"width": 64, "n_layers": 3, "n_heads": 2, "ffn_width": 128, "dropout": 0.0}


def attend_cells(n_cells: int, n_genes: int) -> None:
    """Make the network of the genes that most cells express, all of them regulators."""
    adata = ad.read_h5ad(ROOT / "resources" / "cells" / f"{SOURCE}.h5ad")
    often_G = np.argsort(-adata.X.getnnz(axis=0), kind="stable")
    token_ids = np.arange(n_genes, dtype=np.int32)
    cells = resample(read_cells(adata[:, np.sort(often_G[:n_genes])], token_ids), n_cells)
    torch.manual_seed(0)
    vocab = Vocabulary.load(ROOT / "resources/genesets/scgpt_census_vocab.json")
    config = ModelConfig(n_tokens=N_TOKENS, pad_id=PAD_ID, cls_id=CLS_ID, **ARCHITECTURE)
    ckpt = Checkpoint(ScGPT(config).eval(), vocab, config, LoadReport((), (), (), ()), "random")
    edges_TG = attend_genes(
        cells, ckpt, token_ids, np.arange(n_genes), settings=NetworkSettings(), seed=0
    )
    assert np.isfinite(edges_TG).all()


def main() -> None:
    """Measure two numbers of cells."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cells", type=int, nargs=2, default=(3_000, 30_000))
    parser.add_argument("--genes", type=int, default=100)
    options = parser.parse_args()
    few, many = options.cells
    peaks = {n_cells: [peak_mb(attend_cells, n_cells, options.genes)] for n_cells in (few, many)}
    heads, length = ARCHITECTURE["n_heads"], options.genes + 1
    report(
        "attention",
        unit="MB of private memory, peak",
        runs={f"{n_cells:,} cells": figures for n_cells, figures in peaks.items()},
        ours=f"{many:,} cells",
        baseline=f"{few:,} cells",
        less_is_better=True,
        notes={
            "genes": options.genes,
            "mb_of_all_maps_at_once": round(4 * many * heads * length**2 / 1e6),
        },
    )


if __name__ == "__main__":
    main()
