"""Metrics of how well batches are mixed.

Shapes: N cells, D dimensions, P principal components.
"""

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from scipy.sparse.csgraph import connected_components
from scipy.stats import chi2

from scgpt_core.metrics.cells import NAN, Cells, lisi, silhouettes
from scgpt_core.neighbours import find_neighbours

COMPONENTS: Final = 50
"""Principal components that are regressed on the batch, as in scib."""
_KBET_LEVEL: Final = 0.05
_KBET_LEAST_CELLS: Final = 10


def asw_batch(cells: Cells) -> float:
    """1 less the absolute silhouette width by batch: mean among cells of a label, then over labels.

    Labels that are in one batch are left out.
    """
    scores = []
    for label in np.unique(cells.known_labels):
        is_label_N = cells.label_N == label
        batch_N = cells.batch_N[is_label_N]
        if 1 < len(np.unique(batch_N)) < len(batch_N):
            scores.append(1 - np.abs(silhouettes(cells.emb_ND[is_label_N], batch_N)).mean())
    return float(np.mean(scores)) if scores else NAN


def graph_connectivity(cells: Cells) -> float:
    """Share of a label's cells that hang together in the 15-neighbour graph, the mean over labels.

    Hanging together: the largest connected part of the graph of this label's cells alone.
    """
    shares = []
    for label in np.unique(cells.known_labels):
        rows = np.flatnonzero(cells.label_N == label)
        _, part_N = connected_components(cells.graph[rows][:, rows], directed=False)
        shares.append(np.bincount(part_N).max() / len(rows))
    return float(np.mean(shares)) if shares else NAN


def pcr(cells: Cells) -> float:
    """Principal component regression: how much less variance the batch explains than before.

    The decrease relative to the HVG + PCA embedding, which has 0 by definition; 0 where it grows.
    """
    if cells.n_batches < 2:
        return NAN
    before = batch_variance(cells.unintegrated_ND, cells.batch_N)
    after = batch_variance(cells.emb_ND, cells.batch_N)
    return max(0.0, (before - after) / before)


def ilisi(cells: Cells) -> float:
    """Integration LISI: median effective number of batches around a cell, scaled.

    From 0 (one batch) to 1 (all batches alike). Around a cell are its 90 nearest, weighted by
    distance to a perplexity of 30 (Korsunsky et al. 2019).
    """
    if cells.n_batches < 2:
        return NAN
    return float((np.median(lisi(cells, cells.batch_N)) - 1) / (cells.n_batches - 1))


def kbet(cells: Cells) -> float:
    """Share of a label's cells around which batches are as in the whole label, mean over labels.

    By a chi-squared test at 0.05 of the cell and its nearest cells of the same label, as many as a
    quarter of the mean batch, 10 to 70 (Buettner et al. 2019). Labels of one batch or of fewer than
    10 cells are left out.
    """
    shares = []
    for label in np.unique(cells.known_labels):
        is_label_N = cells.label_N == label
        batches, code_N, size_C = np.unique(
            cells.batch_N[is_label_N], return_inverse=True, return_counts=True
        )
        if len(batches) < 2 or len(code_N) < _KBET_LEAST_CELLS:
            continue
        k = min(70, max(10, int(size_C.mean() / 4)))
        _, indices_NK = find_neighbours(cells.emb_ND[is_label_N], k)
        found_NC = np.eye(len(batches))[code_N[indices_NK]].sum(axis=1)
        expected_C = k * size_C / size_C.sum()
        statistic_N = ((found_NC - expected_C) ** 2 / expected_C).sum(axis=1)
        shares.append(np.mean(chi2.sf(statistic_N, len(batches) - 1) >= _KBET_LEVEL))
    return float(np.mean(shares)) if shares else NAN


def batch_variance(emb_ND: NDArray[np.floating], batch_N: NDArray[Any]) -> float:
    """Share of an embedding's variance that the batch explains, over its first 50 components."""
    x_ND = emb_ND.astype(np.float64)
    x_ND -= x_ND.mean(axis=0)
    _, vectors_DP = np.linalg.eigh(x_ND.T @ x_ND)
    pc_NP = x_ND @ vectors_DP[:, ::-1][:, :COMPONENTS]
    _, code_N, size_C = np.unique(batch_N, return_inverse=True, return_counts=True)
    sum_CP = np.eye(len(size_C))[code_N].T @ pc_NP
    return float((sum_CP**2 / size_C[:, None]).sum() / (pc_NP**2).sum())
