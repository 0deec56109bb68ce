"""How much of the variance of cells their phase in the cell cycle explains (scib's conservation).

Shapes: N cells, G genes, D dimensions.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.sparse import csr_matrix
from sklearn.decomposition import PCA

from scgpt_core.keys import BATCH

if TYPE_CHECKING:
    from anndata import AnnData

COMPONENTS: Final = 50
"""Principal components that are regressed on the phase, as in scib."""
_LEAST_GENES: Final = 10  # of each phase, that a data set must have
_LEAST_CELLS: Final = 10  # of a batch: a line through three fits whatever they are
_COUNTS_A_CELL: Final = 1e4

FloatArray = NDArray[np.float64]


def read_phase_genes(path: str | Path) -> dict[str, list[str]]:
    """Names and Ensembl ids of the genes of S and of G2/M (Tirosh et al. 2016), by phase."""
    table = pd.read_csv(path, sep="\t")
    return {
        str(phase): sorted({*part["gene_name"], *part["gene_id"]})
        for phase, part in table.groupby("phase")
    }


def measure_phases(
    adata: "AnnData", genes: Mapping[str, Sequence[str]]
) -> tuple[FloatArray, dict[str, float]] | None:
    """Scores of S and G2/M (N, 2) in each batch, and the variance of its log counts they explain.

    Parameters
    ----------
    adata
        Raw counts, `obs["batch"]`.
    genes
        By phase, from `read_phase_genes`.

    Returns
    -------
    None where too few of the genes were measured. Batches of fewer than 10 cells have no scores
    (NaN), and are not among the variances.
    """
    import scanpy as sc
    from anndata import AnnData

    there = {phase: adata.var_names.intersection(pd.Index(names)) for phase, names in genes.items()}
    if min(map(len, there.values())) < _LEAST_GENES:
        return None
    score_N2 = np.full((adata.n_obs, 2), np.nan)
    explained = {}
    batch_N = adata.obs[BATCH].astype(str).to_numpy()
    for batch in np.unique(batch_N):
        rows = np.flatnonzero(batch_N == batch)
        if len(rows) < _LEAST_CELLS:
            continue
        cells = AnnData(adata.X[rows].copy(), var=adata.var[[]])
        sc.pp.normalize_total(cells, target_sum=_COUNTS_A_CELL)
        sc.pp.log1p(cells)
        sc.tl.score_genes_cell_cycle(
            cells, s_genes=there["S"].tolist(), g2m_genes=there["G2/M"].tolist()
        )
        score_N2[rows] = cells.obs[["S_score", "G2M_score"]].to_numpy()
        explained[batch] = explain_variance(cells.X, score_N2[rows])
    return score_N2, explained


def explain_variance(
    x_ND: NDArray[np.floating[Any]] | csr_matrix, covariate_N2: FloatArray
) -> float:
    """Share of the variance of the first principal components that a linear model explains.

    What is sparse stays so, centred as it is multiplied: log counts of a batch take gigabytes else.
    """
    n_components = min(COMPONENTS, *x_ND.shape)
    exact = n_components == min(x_ND.shape)
    if exact and not isinstance(x_ND, np.ndarray):
        x_ND = x_ND.toarray()  # small: no more cells, or genes, than components
    pca = PCA(n_components, svd_solver="full" if exact else "arpack", random_state=0)
    pc_NP = pca.fit_transform(x_ND.astype(np.float64))
    design_N3 = np.column_stack([np.ones(len(pc_NP)), covariate_N2])
    residual_NP = pc_NP - design_N3 @ np.linalg.lstsq(design_N3, pc_NP, rcond=None)[0]
    total_P = ((pc_NP - pc_NP.mean(axis=0)) ** 2).sum(axis=0)
    r2_P = np.maximum(0, 1 - (residual_NP**2).sum(axis=0) / total_P)
    return float((r2_P * total_P).sum() / total_P.sum())
