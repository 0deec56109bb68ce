"""Real cells of the repository, in CSR form, for benchmarks of the data path."""

from pathlib import Path

import anndata
import numpy as np
from numpy.typing import NDArray

from scgpt_core.data.cells import Cells, cells_from_csr, take_cells

ROOT = Path(__file__).parents[1]
N_TOKENS = 60_697  # the vocabulary of the published models
PAD_ID, CLS_ID = 60_694, 60_695


def read_cells(name: str, *, min_genes: int, max_genes: int) -> Cells:
    """Cells of ``resources/cells/NAME.h5ad`` that have so many genes.

    Genes get token ids at random over a vocabulary of the published size.
    """
    counts = anndata.read_h5ad(ROOT / "resources" / "cells" / f"{name}.h5ad").X.tocsr()
    tokens = np.random.default_rng(0).choice(PAD_ID, counts.shape[1], replace=False)
    cells = cells_from_csr(
        counts.indptr,
        counts.indices,
        counts.data,
        token_ids=np.sort(tokens),
        cell_ids=np.arange(counts.shape[0]),
    )
    n_genes_N = np.diff(cells.indptr)
    return take_cells(cells, np.flatnonzero((n_genes_N >= min_genes) & (n_genes_N <= max_genes)))


def resample(cells: Cells, n_cells: int, *, seed: int = 0) -> Cells:
    """So many of the cells, drawn with replacement, each with an identity of its own."""
    rows: NDArray[np.int64] = np.random.default_rng(seed).integers(
        len(cells.cell_ids), size=n_cells
    )
    return take_cells(cells, rows)._replace(cell_ids=np.arange(n_cells))
