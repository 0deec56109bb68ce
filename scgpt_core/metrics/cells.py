"""What the metrics of an embedding share: its cells, their neighbours, clusters and silhouettes.

Shapes: N cells, D dimensions, K neighbours, C categories, R resolutions.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import sparse
from sklearn.metrics import normalized_mutual_info_score

from scgpt_core.keys import UNKNOWN
from scgpt_core.neighbours import bisect, build_graph, cluster_graph, find_neighbours

RESOLUTIONS: Final = tuple(round(0.2 * i, 1) for i in range(1, 11))
"""Of the Leiden clusterings, as in scib."""
GRAPH_NEIGHBOURS: Final = 15
"""K of the graph, the cell itself included, as in scanpy and scib."""
PERPLEXITY: Final = 30
"""Of LISI, which looks at three times as many neighbours."""
_SEED: Final = 0  # of the clusterings: one for all methods, not each its own
_CHUNK: Final = 256  # cells whose distances to all others are held at once: few, for the cache
NAN: Final = float("nan")


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
        """Label of each cell that has one: (M,)."""
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
        """Distances and rows of the K cells around each that LISI needs, itself first: (N, K)."""
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


def lisi(
    cells: Cells, category_N: NDArray[Any], *, aside: str | None = None
) -> NDArray[np.float64]:
    """Inverse Simpson index (N,) of the categories around each cell, but for one `aside`."""
    categories, code_N = np.unique(category_N, return_inverse=True)
    code_NK = code_N[cells.neighbours[1][:, 1:]]
    share_NC = np.stack(
        [
            np.where(code_NK == code, cells.lisi_weights, 0).sum(axis=1)
            for code, category in enumerate(categories)
            if category != aside
        ],
        axis=1,
    )
    total_N = share_NC.sum(axis=1)
    with np.errstate(invalid="ignore"):  # 0 / 0 where all neighbours are aside
        return np.asarray(total_N**2 / (share_NC**2).sum(axis=1))
