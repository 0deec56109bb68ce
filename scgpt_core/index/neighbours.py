"""Neighbours of queries among the reference cells.

Shapes: Q queries, K neighbours, D width.
"""

from typing import Any, Final, NamedTuple

import faiss
import numpy as np
from numpy.typing import NDArray

from scgpt_core.index.embeddings import FloatArray, Rows

SCAN_CELLS: Final = 65_536
"""Cells whose embeddings are in memory at once, about."""


class Neighbours(NamedTuple):
    """Nearest reference cells of each query, nearest first."""

    rows_QK: NDArray[np.int64]
    """Rows of the reference; -1 where fewer were found."""
    similarity_QK: NDArray[np.float32]
    """Cosines; -inf where fewer were found."""


def drop_self(neighbours: Neighbours, self_Q: NDArray[np.int64]) -> Neighbours:
    """Neighbours of reference cells without the cells themselves: one fewer each."""
    keep_QK = neighbours.rows_QK != self_Q[:, None]
    turn_QK = np.argsort(~keep_QK, axis=1, kind="stable")[:, :-1]
    return Neighbours(
        np.take_along_axis(neighbours.rows_QK, turn_QK, axis=1),
        np.take_along_axis(neighbours.similarity_QK, turn_QK, axis=1),
    )


def search(
    index: Any, query_QD: FloatArray, k: int, *, among: NDArray[np.uint8] | None = None
) -> Neighbours:
    """Nearest cells in an index of `make_index`; cosines are estimates where it compresses.

    Parameters
    ----------
    index
        A faiss index.
    query_QD
        Unit rows.
    k
        Neighbours of each.
    among
        `bitmap` of the rows that may be found; all where left out.
    """
    parameters = None if among is None else _restrict(index, among)
    distance_QK, rows_QK = index.search(query_QD, k, params=parameters)
    if index.metric_type == faiss.METRIC_L2:
        distance_QK = 1 - distance_QK / 2
    return Neighbours(rows_QK, np.where(rows_QK < 0, -np.inf, distance_QK).astype(np.float32))


def bitmap(chosen_N: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """One bit a reference cell, for `search`: uint8 (N / 8,), rounded up."""
    return np.packbits(chosen_N, bitorder="little")


def _restrict(index: Any, among: NDArray[np.uint8]) -> Any:
    selector = faiss.IDSelectorBitmap(among)
    ivf = faiss.try_extract_index_ivf(index)
    if ivf is None:
        return faiss.SearchParameters(sel=selector)
    parameters = faiss.SearchParametersIVF(sel=selector, nprobe=ivf.nprobe)
    if isinstance(faiss.downcast_index(index), faiss.IndexPreTransform):
        return faiss.SearchParametersPreTransform(index_params=parameters)
    return parameters


def share_found(found_QK: NDArray[np.int64], exact_QK: NDArray[np.int64]) -> float:
    """Share of the exact neighbours that are among those found, mean over queries."""
    hit_QK = (exact_QK[:, :, None] == found_QK[:, None, :]).any(axis=2)
    return float(hit_QK.mean())


def search_exactly(embeddings: Rows, query_QD: FloatArray, k: int) -> Neighbours:
    """Give the cells nearest by inner product with every one, the embeddings read once."""
    best = Neighbours(
        np.full((len(query_QD), 0), -1, np.int64), np.zeros((len(query_QD), 0), np.float32)
    )
    for first, emb_BD in embeddings.chunks(SCAN_CELLS):
        similarity_QK, rows_QK = faiss.knn(
            query_QD, emb_BD, min(k, len(emb_BD)), metric=faiss.METRIC_INNER_PRODUCT
        )
        similarity_QK = np.hstack([best.similarity_QK, similarity_QK])
        rows_QK = np.hstack([best.rows_QK, rows_QK + first])
        nearest_QK = np.argsort(-similarity_QK, axis=1, kind="stable")[:, :k]
        best = Neighbours(
            np.take_along_axis(rows_QK, nearest_QK, axis=1),
            np.take_along_axis(similarity_QK, nearest_QK, axis=1),
        )
    return best
