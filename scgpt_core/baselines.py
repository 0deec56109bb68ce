"""The simple methods that every model is measured against, by their name in methods.tsv.

A baseline is a function of a prepared data set and a seed that gives the embedding, float32
(cells, dimensions). To add one: a row of methods.tsv and an entry of `BASELINES`.
"""

from collections.abc import Callable, Mapping
from typing import Final

import numpy as np
import scanpy as sc
from anndata import AnnData
from numpy.typing import NDArray

from scgpt_core.keys import BATCH
from scgpt_core.tasks.datasets import require_batches, variable_genes

N_GENES: Final = 2000
"""Variable genes of the baselines; all genes, where a data set has no more."""
N_COMPONENTS: Final = 50
"""Principal components of the baselines."""
_COUNTS_A_CELL: Final = 1e4

Baseline = Callable[[AnnData, int], NDArray[np.float32]]


def run_baseline(method: str, adata: AnnData, *, seed: int) -> NDArray[np.float32]:
    """Embed a prepared data set with the baseline of this name.

    Raises
    ------
    ValueError
        Where there is no such baseline, or the data set has a single batch.
    """
    if method not in BASELINES:
        message = f"there is no baseline {method!r}; there are: {', '.join(BASELINES)}"
        raise ValueError(message)
    require_batches(adata)
    return np.ascontiguousarray(BASELINES[method](adata, seed), dtype=np.float32)


def hvg_pca(adata: AnnData, seed: int) -> NDArray[np.float32]:
    """Principal components of the log counts (per 10,000) of the most variable genes."""
    cells = AnnData(adata.X.copy(), obs=adata.obs[[BATCH]])
    sc.pp.normalize_total(cells, target_sum=_COUNTS_A_CELL)
    sc.pp.log1p(cells)
    cells = cells[:, variable_genes(adata, N_GENES)].copy()
    n_components = min(N_COMPONENTS, min(cells.shape) - 1)
    sc.pp.pca(cells, n_comps=n_components, random_state=seed)
    return np.asarray(cells.obsm["X_pca"], dtype=np.float32)


def harmony(adata: AnnData, seed: int) -> NDArray[np.float32]:
    """HVG + PCA, its batches then drawn together by soft clusters (Korsunsky et al. 2019)."""
    from harmonypy import run_harmony

    # One thread: sums in another order give other digits.
    corrected = run_harmony(
        hvg_pca(adata, seed), adata.obs, BATCH, random_state=seed, ncores=1, verbose=False
    )
    return np.asarray(corrected.Z_corr, dtype=np.float32)


BASELINES: Final[Mapping[str, Baseline]] = {"hvg_pca": hvg_pca, "harmony": harmony}
