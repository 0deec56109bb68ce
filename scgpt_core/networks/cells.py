"""What all of a network is made from: the same cells, genes and regulators for every method.

Shapes: N cells, G genes.
"""

import anndata as ad
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from scgpt_core.data.binning import draw_keys
from scgpt_core.data.genes import GeneMatch, match_var
from scgpt_core.data.identity import cell_identity
from scgpt_core.data.vocab import Vocabulary
from scgpt_core.keys import BATCH
from scgpt_core.tasks.datasets import variable_genes

_COUNTS_A_CELL = 1e4


def match_genes_of(adata: ad.AnnData, vocab: Vocabulary, min_matched: float) -> GeneMatch:
    """Token ids of a data set's genes.

    Raises
    ------
    ValueError
        Where too few of its counts have a token.
    """
    match = match_var(adata.var, vocab)
    match.require(min_matched, np.asarray(adata.X.sum(axis=0)).ravel())
    return match


def named_genes(match: GeneMatch, vocab: Vocabulary) -> NDArray[np.bool_]:
    """Mark genes with a token, the first of each symbol: (G,)."""
    symbols = pd.Series([vocab.symbols[token] for token in match.ids])
    return match.matched & ~symbols.where(match.matched).duplicated().to_numpy()


def log_expression(adata: ad.AnnData) -> ad.AnnData:
    """Copy cells with log counts per 10,000 of each cell in X (CSR, float32)."""
    import scanpy as sc  # takes seconds, which jobs that only read need not spend

    cells = ad.AnnData(adata.X.copy(), obs=adata.obs, var=adata.var[[]])
    sc.pp.normalize_total(cells, target_sum=_COUNTS_A_CELL)
    sc.pp.log1p(cells)
    return cells


def choose_variable(adata: ad.AnnData, n_genes: int, among: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Mark genes that vary most over all cells, conditions and batches included: (G,)."""
    together = ad.AnnData(adata.X, obs=adata.obs[[]].assign(**{BATCH: "all"}), var=adata.var[[]])
    return variable_genes(together, n_genes, among=among)


def sample_rows(adata: ad.AnnData, max_cells: int, *, seed: int) -> NDArray[np.int64]:
    """Rows of some cells, ascending, (M,): the same cells whatever the order of the data set.

    Parameters
    ----------
    max_cells
        How many; all, where there are no more.
    """
    keys = draw_keys(seed, 0, cell_identity(adata.obs_names.to_numpy()))
    return np.sort(np.argsort(keys, kind="stable")[:max_cells])
