"""How well an embedding mixes batches and keeps cell types apart: one function a metric.

The metrics are scib's (Luecken et al. 2022), and tests hold them to scib's own values within 1e-6.
scib searches neighbours, clusters and measures silhouettes anew for each metric; here all share
them. Two differ from scib by choice: LISI is its authors' (by distance in the embedding, where scib
walks a graph), and kBET, for which scib needs R, looks for neighbours in the embedding.

A metric is NaN where it is not defined: one batch, one label, no labels. Cells without a label are
neighbours like all others, and are left out where labels count. The docstrings of the metrics are
the definitions that reports quote.

Shapes: N cells, D dimensions, K neighbours, C categories, P principal components, R resolutions.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import sparse
from scipy.sparse.csgraph import connected_components
from scipy.stats import chi2
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

from scgpt_core.cell_cycle import explain_variance
from scgpt_core.keys import UNKNOWN
from scgpt_core.neighbours import bisect, build_graph, cluster_graph, find_neighbours

RESOLUTIONS: Final = tuple(round(0.2 * i, 1) for i in range(1, 11))
"""Of the Leiden clusterings, as in scib."""
GRAPH_NEIGHBOURS: Final = 15
"""K of the graph, the cell itself included, as in scanpy and scib."""
PERPLEXITY: Final = 30
"""Of LISI, which looks at three times as many neighbours."""
COMPONENTS: Final = 50
"""Principal components that are regressed on the batch, as in scib."""
_KBET_LEVEL: Final = 0.05
_KBET_LEAST_CELLS: Final = 10
_SEED: Final = 0  # of the clusterings: one for all methods, not each its own
_CHUNK: Final = 256  # cells whose distances to all others are held at once: few, for the cache
_NAN: Final = float("nan")


@dataclass
class Cells:
    """An embedding, what is known of its cells, and what the metrics share.

    Parameters
    ----------
    emb_ND
        Cells x dimensions, finite.
    unintegrated_ND
        The same cells before integration: principal components of their log counts.
    batch_N, label_N
        Names; `UNKNOWN` where a cell has no label.
    phase_N2
        Scores of S and G2/M of each cell; None: too few of their genes were measured.
    phase_variance
        By batch, the share of the variance of its log counts that these explain.
    """

    emb_ND: NDArray[np.float32]
    unintegrated_ND: NDArray[np.float32]
    batch_N: NDArray[Any]
    label_N: NDArray[Any]
    phase_N2: NDArray[np.float64] | None = None
    phase_variance: Mapping[str, float] = field(default_factory=dict)

    @cached_property
    def is_known(self) -> NDArray[np.bool_]:
        """(N,), True for cells with a label."""
        return np.asarray(self.label_N != UNKNOWN)

    @cached_property
    def known_labels(self) -> NDArray[Any]:
        """Label of each cell that has one."""
        return np.asarray(self.label_N[self.is_known])

    @cached_property
    def n_batches(self) -> int:
        """Sequencing batches."""
        return len(np.unique(self.batch_N))

    @cached_property
    def n_labels(self) -> int:
        """Labels, `UNKNOWN` aside."""
        return len(np.unique(self.known_labels))

    @cached_property
    def neighbours(self) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """Distances and rows of the cells around each: as many as LISI needs, and itself."""
        return find_neighbours(self.emb_ND, min(3 * PERPLEXITY + 1, len(self.emb_ND)))

    @cached_property
    def graph(self) -> sparse.csr_matrix:
        """UMAP-weighted graph of the nearest cells."""
        distances_NK, indices_NK = self.neighbours
        return build_graph(distances_NK[:, :GRAPH_NEIGHBOURS], indices_NK[:, :GRAPH_NEIGHBOURS])

    @cached_property
    def clusterings(self) -> NDArray[np.int64]:
        """(R, labelled cells), Leiden clusters at each of `RESOLUTIONS`, found among all cells."""
        found = [cluster_graph(self.graph, r, seed=_SEED)[self.is_known] for r in RESOLUTIONS]
        return np.stack(found)

    @cached_property
    def nmi_by_resolution(self) -> NDArray[np.float64]:
        """(R,), normalised mutual information of labels and clusters."""
        scores = [normalized_mutual_info_score(self.known_labels, c_N) for c_N in self.clusterings]
        return np.asarray(scores)

    @cached_property
    def label_silhouettes(self) -> NDArray[np.float64]:
        """(labelled cells,), silhouette width by label."""
        return silhouettes(self.emb_ND[self.is_known], self.known_labels)

    @cached_property
    def isolated_labels(self) -> list[str]:
        """Labels found in the fewest batches; none where every label is in every batch."""
        seen = pd.DataFrame({"label": self.known_labels, "batch": self.batch_N[self.is_known]})
        found_in = seen.groupby("label")["batch"].nunique()
        return sorted(found_in.index[(found_in == found_in.min()) & (found_in < self.n_batches)])

    @cached_property
    def lisi_weights(self) -> NDArray[np.float64]:
        """(N, K - 1), weights of the neighbours of each cell, itself left out; rows sum to 1."""
        distances_NK = self.neighbours[0][:, 1:]
        return weigh_neighbours(distances_NK, min(PERPLEXITY, distances_NK.shape[1] / 3))


def nmi(cells: Cells) -> float:
    """Normalised mutual information of labels and Leiden clusters of the 15-neighbour graph.

    At the best of ten resolutions from 0.2 to 2; normalised by the mean of the two entropies.
    """
    return float(cells.nmi_by_resolution.max()) if cells.n_labels > 1 else _NAN


def ari(cells: Cells) -> float:
    """Rand index, adjusted for chance, of labels and the Leiden clusters that NMI is best with."""
    if cells.n_labels < 2:
        return _NAN
    best_N = cells.clusterings[cells.nmi_by_resolution.argmax()]
    return float(adjusted_rand_score(cells.known_labels, best_N))


def asw_label(cells: Cells) -> float:
    """Mean silhouette width of cells by label, scaled from -1..1 to 0..1."""
    return float((cells.label_silhouettes.mean() + 1) / 2) if cells.n_labels > 1 else _NAN


def isolated_f1(cells: Cells) -> float:
    """F1 of the cluster that fits an isolated label best, the mean over isolated labels.

    Isolated are the labels that are in the fewest batches, unless every label is in all batches.
    The best cluster is sought at all ten resolutions.
    """
    if not cells.isolated_labels:
        return _NAN
    scores = []
    for label in cells.isolated_labels:
        is_label_N = cells.known_labels == label
        f1_R = [
            np.max(2 * np.bincount(c_N, weights=is_label_N) / (np.bincount(c_N) + is_label_N.sum()))
            for c_N in cells.clusterings
        ]
        scores.append(max(f1_R))
    return float(np.mean(scores))


def isolated_asw(cells: Cells) -> float:
    """Mean silhouette width of the cells of an isolated label, scaled to 0..1, over such labels.

    Isolated are the labels that are in the fewest batches, unless every label is in all batches.
    """
    if not cells.isolated_labels or cells.n_labels < 2:
        return _NAN
    widths = [
        cells.label_silhouettes[cells.known_labels == label].mean()
        for label in cells.isolated_labels
    ]
    return float((np.mean(widths) + 1) / 2)


def clisi(cells: Cells) -> float:
    """Cell-type LISI: median effective number of labels around a cell, scaled.

    From 0 (all labels alike) to 1 (one label). Around a cell are its 90 nearest, weighted by
    distance to a perplexity of 30 (Korsunsky et al. 2019).
    """
    if cells.n_labels < 2:
        return _NAN
    median = np.nanmedian(_lisi(cells, cells.label_N)[cells.is_known])
    return float((cells.n_labels - median) / (cells.n_labels - 1))


def cell_cycle(cells: Cells) -> float:
    """Cell-cycle conservation: how little the variance that the phase explains has changed.

    1 less the relative change, at least 0, from the log counts of a batch to the embedding of its
    cells, the mean over batches; phases are scored by the genes of S and G2/M (Tirosh et al. 2016).
    """
    if cells.phase_N2 is None:
        return _NAN
    scores = []
    for batch, before in cells.phase_variance.items():
        rows = cells.batch_N == batch
        after = explain_variance(cells.emb_ND[rows], cells.phase_N2[rows])
        scores.append(max(0.0, 1 - abs(after - before) / before))
    return float(np.mean(scores))


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
    return float(np.mean(scores)) if scores else _NAN


def graph_connectivity(cells: Cells) -> float:
    """Share of a label's cells that hang together in the 15-neighbour graph, the mean over labels.

    Hanging together: the largest connected part of the graph of this label's cells alone.
    """
    shares = []
    for label in np.unique(cells.known_labels):
        rows = np.flatnonzero(cells.label_N == label)
        _, part_N = connected_components(cells.graph[rows][:, rows], directed=False)
        shares.append(np.bincount(part_N).max() / len(rows))
    return float(np.mean(shares)) if shares else _NAN


def pcr(cells: Cells) -> float:
    """Principal component regression: how much less variance the batch explains than before.

    The decrease relative to the HVG + PCA embedding, which has 0 by definition; 0 where it grows.
    """
    if cells.n_batches < 2:
        return _NAN
    before = batch_variance(cells.unintegrated_ND, cells.batch_N)
    after = batch_variance(cells.emb_ND, cells.batch_N)
    return max(0.0, (before - after) / before)


def ilisi(cells: Cells) -> float:
    """Integration LISI: median effective number of batches around a cell, scaled.

    From 0 (one batch) to 1 (all batches alike). Around a cell are its 90 nearest, weighted by
    distance to a perplexity of 30 (Korsunsky et al. 2019).
    """
    if cells.n_batches < 2:
        return _NAN
    return float((np.median(_lisi(cells, cells.batch_N)) - 1) / (cells.n_batches - 1))


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
    return float(np.mean(shares)) if shares else _NAN


def silhouettes(emb_ND: NDArray[np.floating], category_N: NDArray[Any]) -> NDArray[np.float64]:
    """Silhouette width (Rousseeuw 1987) of each cell, (N,), from -1 to 1.

    (b - a) / max(a, b), with a the mean Euclidean distance to the cell's own category and b that
    to the nearest other one; 0 for the only cell of a category. At least two categories.
    """
    _, code_N, size_C = np.unique(category_N, return_inverse=True, return_counts=True)
    x_ND = emb_ND.astype(np.float64)
    x_ND -= x_ND.mean(axis=0)
    square_N = (x_ND**2).sum(axis=1)
    member_NC = np.eye(len(size_C))[code_N]
    width_N = np.empty(len(x_ND))
    for start in range(0, len(x_ND), _CHUNK):
        part = slice(start, start + _CHUNK)
        squares = square_N[part, None] + square_N - 2 * x_ND[part] @ x_ND.T
        own = np.arange(len(squares))
        squares[own, own + start] = 0  # exactly, as the difference of squares is not
        sum_NC = np.sqrt(np.maximum(squares, 0, out=squares), out=squares) @ member_NC
        code = code_N[part]
        within_N = sum_NC[own, code] / np.maximum(size_C[code] - 1, 1)
        mean_NC = sum_NC / size_C
        mean_NC[own, code] = np.inf
        between_N = mean_NC.min(axis=1)
        greater_N = np.maximum(within_N, between_N)
        known_N = (size_C[code] > 1) & (greater_N > 0)
        width_N[part] = np.where(
            known_N, (between_N - within_N) / np.where(known_N, greater_N, 1), 0
        )
    return width_N


def batch_variance(emb_ND: NDArray[np.floating], batch_N: NDArray[Any]) -> float:
    """Share of an embedding's variance that the batch explains, over its first 50 components."""
    x_ND = emb_ND.astype(np.float64)
    x_ND -= x_ND.mean(axis=0)
    _, vectors_DP = np.linalg.eigh(x_ND.T @ x_ND)
    pc_NP = x_ND @ vectors_DP[:, ::-1][:, :COMPONENTS]
    _, code_N, size_C = np.unique(batch_N, return_inverse=True, return_counts=True)
    sum_CP = np.eye(len(size_C))[code_N].T @ pc_NP
    return float((sum_CP**2 / size_C[:, None]).sum() / (pc_NP**2).sum())


def weigh_neighbours(distances_NK: NDArray[np.float64], perplexity: float) -> NDArray[np.float64]:
    """Weights exp(-beta distance) of each row, summing to 1, whose entropy is log(perplexity)."""
    excess_NK = distances_NK - distances_NK.min(axis=1, keepdims=True)

    def negative_entropy(beta_N: NDArray[np.float64]) -> NDArray[np.float64]:
        p_NK = np.exp(-beta_N[:, None] * excess_NK)
        total_N = p_NK.sum(axis=1)
        return np.asarray(-np.log(total_N) - beta_N * (excess_NK * p_NK).sum(axis=1) / total_N)

    beta_N = bisect(negative_entropy, -np.log(perplexity), n=len(distances_NK), iterations=50)
    weight_NK = np.exp(-beta_N[:, None] * excess_NK)
    return np.asarray(weight_NK / weight_NK.sum(axis=1, keepdims=True))


def _lisi(cells: Cells, category_N: NDArray[Any]) -> NDArray[np.float64]:
    """Inverse Simpson index (N,) of the categories around each cell, unknown ones aside."""
    categories, code_N = np.unique(category_N, return_inverse=True)
    code_NK = code_N[cells.neighbours[1][:, 1:]]
    share_NC = np.stack(
        [
            np.where(code_NK == code, cells.lisi_weights, 0).sum(axis=1)
            for code, category in enumerate(categories)
            if category != UNKNOWN
        ],
        axis=1,
    )
    total_N = share_NC.sum(axis=1)
    with np.errstate(invalid="ignore"):  # 0 / 0 where all neighbours are unknown
        return np.asarray(total_N**2 / (share_NC**2).sum(axis=1))
