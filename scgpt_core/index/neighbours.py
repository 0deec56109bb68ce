"""Neighbours of queries among the reference cells.

Shapes: Q queries, K neighbours, D width.
"""

from pathlib import Path
from typing import Any, Final, NamedTuple

import faiss
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from scgpt_core.index.embeddings import Embeddings, FloatArray

SCAN_CELLS: Final = 65_536
"""Cells whose embeddings are in memory at once, about."""
_CELL, _ROWS, _SIMILARITY = "cell", "neighbours", "similarity"


class Neighbours(NamedTuple):
    """Nearest reference cells of each query, nearest first."""

    rows_QK: NDArray[np.int64]
    """Rows of the reference; -1 where fewer were found."""
    similarity_QK: NDArray[np.float32]
    """Cosines; -inf where fewer were found."""


def keep_first(neighbours: Neighbours, keep_QK: NDArray[np.bool_], k: int) -> Neighbours:
    """Give the first k neighbours that are kept, in their order, filled up with none."""
    turn_QK = np.argsort(~keep_QK, axis=1, kind="stable")[:, :k]
    kept_QK = np.take_along_axis(keep_QK, turn_QK, axis=1)
    rows_QK = np.take_along_axis(neighbours.rows_QK, turn_QK, axis=1)
    similarity_QK = np.take_along_axis(neighbours.similarity_QK, turn_QK, axis=1)
    return Neighbours(
        np.where(kept_QK, rows_QK, -1),
        np.where(kept_QK, similarity_QK, -np.inf).astype(np.float32),
    )


def drop_self(neighbours: Neighbours, self_Q: NDArray[np.int64]) -> Neighbours:
    """Neighbours of reference cells without the cells themselves: one fewer each."""
    keep_QK = neighbours.rows_QK != self_Q[:, None]
    return keep_first(neighbours, keep_QK, neighbours.rows_QK.shape[1] - 1)


def search(index: Any, query_QD: FloatArray, k: int) -> Neighbours:
    """Nearest cells in an index of `make_index`; cosines are estimates where it compresses."""
    distance_QK, rows_QK = index.search(query_QD, k)
    if index.metric_type == faiss.METRIC_L2:
        distance_QK = 1 - distance_QK / 2
    return Neighbours(rows_QK, np.where(rows_QK < 0, -np.inf, distance_QK).astype(np.float32))


def share_found(found_QK: NDArray[np.int64], exact_QK: NDArray[np.int64]) -> float:
    """Share of the exact neighbours that are among those found, mean over queries."""
    hit_QK = (exact_QK[:, :, None] == found_QK[:, None, :]).any(axis=2)
    return float(hit_QK.mean())


def search_exactly(embeddings: Embeddings, query_QD: FloatArray, k: int) -> Neighbours:
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


def write_neighbours(path: Path, neighbours: Neighbours, cells_Q: NDArray[np.int64]) -> None:
    """Write the neighbours of these reference cells as an Arrow file."""
    k = neighbours.rows_QK.shape[1]
    columns = {
        _CELL: pa.array(cells_Q),
        _ROWS: pa.FixedSizeListArray.from_arrays(neighbours.rows_QK.ravel(), k),
        _SIMILARITY: pa.FixedSizeListArray.from_arrays(neighbours.similarity_QK.ravel(), k),
    }
    table = pa.table(columns)
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)


def read_neighbours(path: Path) -> tuple[Neighbours, NDArray[np.int64]]:
    """Neighbours that `write_neighbours` wrote, and the cells whose they are."""
    table = pa.ipc.open_file(pa.memory_map(str(path))).read_all().combine_chunks()
    k = table.schema.field(_ROWS).type.list_size
    rows_QK, similarity_QK = (
        table[name].chunk(0).flatten().to_numpy().reshape(-1, k) for name in (_ROWS, _SIMILARITY)
    )
    return Neighbours(rows_QK, similarity_QK), table[_CELL].to_numpy()
