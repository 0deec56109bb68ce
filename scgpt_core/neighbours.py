"""Neighbours of cells in an embedding: one exact search, and the graph and clusters built on it.

The graph is scanpy's (`sc.pp.neighbors`: UMAP weights), built without importing umap, which takes
every job seconds to compile; a test holds the two together.

Shapes: N cells, D dimensions, K neighbours.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from sklearn.neighbors import NearestNeighbors

_TOLERANCE = 1e-5  # of sums of weights, as in umap
_LEAST_SCALE = 1e-3  # of a cell's mean distance, as in umap


def find_neighbours(
    emb_ND: NDArray[np.floating], k: int
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Exact nearest cells of every cell, by Euclidean distance.

    Parameters
    ----------
    emb_ND
        Cells x dimensions.
    k
        Neighbours of a cell, itself included; at most N.

    Returns
    -------
    Distances and row numbers, (N, k), nearest first; the cell itself comes first of all.
    """
    search = NearestNeighbors(n_neighbors=k, algorithm="brute").fit(emb_ND)
    distances_NK, indices_NK = search.kneighbors(emb_ND)
    # A cell may stand behind its twins, or be pushed out by k of them: swap it to the front.
    own_N = np.arange(len(emb_ND))
    is_own_NK = indices_NK == own_N[:, None]
    place_N = np.where(is_own_NK.any(axis=1), is_own_NK.argmax(axis=1), k - 1)
    indices_NK[own_N, place_N] = indices_NK[:, 0]
    indices_NK[:, 0] = own_N
    distances_NK[:, 0] = 0
    return distances_NK.astype(np.float64), indices_NK.astype(np.int64)


def build_graph(
    distances_NK: NDArray[np.float64], indices_NK: NDArray[np.int64]
) -> sparse.csr_matrix:
    """Weigh neighbours as UMAP does (McInnes 2018): the nearest 1, the others less with distance.

    Each cell's scale makes the weights of its neighbours sum to log2(K). Of a pair's two weights a
    and b the graph has the fuzzy union a + b - ab.

    Parameters
    ----------
    distances_NK, indices_NK
        From `find_neighbours`.

    Returns
    -------
    float32 (N, N), symmetric, without a diagonal.
    """
    n_cells, k = distances_NK.shape
    distances_NK = distances_NK.astype(np.float32)
    nearest_N = np.where(distances_NK > 0, distances_NK, np.inf).min(axis=1)
    nearest_N[np.isinf(nearest_N)] = 0
    excess_NK = np.maximum(distances_NK[:, 1:] - nearest_N[:, None], 0)
    scale_N = bisect(
        lambda scale_N: np.exp(-(excess_NK / scale_N[:, None])).sum(axis=1),
        np.log2(k),
        n=n_cells,
        iterations=64,
    )
    mean_N = np.where(nearest_N > 0, distances_NK.mean(axis=1), distances_NK.mean())
    scale_N = np.maximum(scale_N, _LEAST_SCALE * mean_N)
    weight_NK = np.exp(-excess_NK / scale_N[:, None]).astype(np.float32)
    directed = sparse.csr_matrix(
        (weight_NK.ravel(), indices_NK[:, 1:].ravel(), np.arange(n_cells + 1) * (k - 1)),
        shape=(n_cells, n_cells),
    )
    graph = sparse.csr_matrix(directed + directed.T - directed.multiply(directed.T))
    graph.sort_indices()
    return graph


def bisect(
    increasing: Callable[[NDArray[np.float64]], NDArray[np.float64]],
    target: float,
    *,
    n: int,
    iterations: int,
) -> NDArray[np.float64]:
    """Solve increasing(x) = target for `n` positive unknowns at once, from x = 1.

    Unknowns that are within 1e-5 of the target rest; after `iterations` all do.
    """
    low_N, high_N, x_N = np.zeros(n), np.full(n, np.inf), np.ones(n)
    for _ in range(iterations):
        miss_N = increasing(x_N) - target
        open_N = np.abs(miss_N) >= _TOLERANCE
        if not open_N.any():
            break
        high_N = np.where(miss_N > 0, x_N, high_N)
        low_N = np.where(miss_N > 0, low_N, x_N)
        middle_N = np.where(np.isinf(high_N), 2 * x_N, (low_N + high_N) / 2)
        x_N = np.where(open_N, middle_N, x_N)
    return x_N


def cluster_graph(graph: sparse.csr_matrix, resolution: float, *, seed: int) -> NDArray[np.int64]:
    """Leiden clusters (N,) of a neighbour graph, as `sc.tl.leiden(flavor="igraph")` finds them.

    That flavour is scanpy's announced default. The older one, leidenalg, takes fifty times as long
    for partitions of no greater modularity.
    """
    import scanpy as sc
    from anndata import AnnData

    cells = AnnData(shape=(graph.shape[0], 0))
    sc.tl.leiden(
        cells,
        resolution,
        adjacency=graph,
        flavor="igraph",
        n_iterations=2,
        directed=False,
        random_state=seed,
    )
    return np.asarray(cells.obs["leiden"].cat.codes, dtype=np.int64)
