"""Cells in CSR form, by token id: what every source of cells gives and what is tokenized."""

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from scgpt_core.data import kernels
from scgpt_core.data.binning import draw_keys
from scgpt_core.data.identity import cell_identity

if TYPE_CHECKING:
    import anndata as ad
    from scipy.sparse import csr_matrix

_FOR_THINNING = 11  # added to the seed: counts are not left by the draws of their bins


class Cells(NamedTuple):
    """Cells in CSR form: non-zero counts only, and no ``<cls>``."""

    indptr: NDArray[np.int64]
    """(B + 1,), where each cell begins and ends."""
    genes: NDArray[np.int32]
    """(nnz,), token ids, ascending in a cell."""
    counts: NDArray[np.float32]
    """(nnz,), raw counts."""
    cell_ids: NDArray[np.int64]
    """(B,), ``soma_joinid`` or `cell_identity` of the names."""


def read_cells(
    adata: "ad.AnnData", token_ids: ArrayLike, *, counts_BG: "csr_matrix | None" = None
) -> Cells:
    """Cells of a data set by token id, known by their names.

    Parameters
    ----------
    adata
        Raw counts in X, a sparse matrix (B, G).
    token_ids
        (G,), as in `cells_from_csr`.
    counts_BG
        To be read instead of X.
    """
    counts_BG = adata.X.tocsr() if counts_BG is None else counts_BG
    return cells_from_csr(
        counts_BG.indptr,
        counts_BG.indices,
        counts_BG.data,
        token_ids=token_ids,
        cell_ids=cell_identity(adata.obs_names.to_numpy()),
    )


def cells_from_csr(
    indptr: ArrayLike,
    indices: ArrayLike,
    counts: ArrayLike,
    *,
    token_ids: ArrayLike,
    cell_ids: NDArray[np.int64],
) -> Cells:
    """Cells of a CSR matrix of counts, its columns renamed to token ids.

    Parameters
    ----------
    indptr, indices, counts
        (B + 1,), (nnz,), (nnz,): the parts of the matrix; zeros that it stores are left out.
    token_ids
        (G,), token id of each column; columns of -1 are left out, columns of one id are added up.
    cell_ids
        (B,), of `cell_identity`.
    """
    indptr_B1 = np.asarray(indptr, np.int64)
    columns, values = np.asarray(indices, np.int32), np.asarray(counts, np.float32)
    genes, kept = np.empty(len(values), np.int32), np.empty(len(values), np.float32)
    ends_B = np.empty(len(indptr_B1) - 1, np.int64)
    ids_G = np.asarray(token_ids, np.int32)
    ascending = kernels.keep_tokens(indptr_B1, columns, values, ids_G, genes, kept, ends_B)
    ends_B1 = np.concatenate([[0], ends_B])
    cells = Cells(ends_B1, genes[: ends_B1[-1]], kept[: ends_B1[-1]], cell_ids)
    return cells if ascending else _in_order(cells)


def thin_cells(
    cells: Cells, max_counts: int, *, seed: int, total_B: NDArray[np.floating[Any]] | None = None
) -> Cells:
    """Sample the counts of deep cells down, as if they had been sequenced less.

    Of a cell with more than `max_counts` each count is kept with the probability that leaves so
    many on average. What is drawn depends on the cell and the seed alone.

    Parameters
    ----------
    total_B
        Counts of each cell, where `cells` has some of its genes alone.

    Raises
    ------
    ValueError
        Where counts are not whole numbers.
    """
    if not kernels.are_counts(cells.counts):
        message = "what are no raw counts cannot be sampled down: give raw counts, or no max_counts"
        raise ValueError(message)
    if total_B is None:
        sum_B1 = np.concatenate([[0], np.cumsum(cells.counts, dtype=np.float64)])
        total_B = np.diff(sum_B1[cells.indptr])
    share_B = max_counts / np.maximum(total_B, max_counts)
    keys_B = draw_keys(seed + _FOR_THINNING, 0, cells.cell_ids)
    counts = cells.counts.copy()
    for i in np.flatnonzero(share_B < 1):
        part = slice(cells.indptr[i], cells.indptr[i + 1])
        rng = np.random.Generator(np.random.Philox(key=int(keys_B[i])))
        counts[part] = rng.binomial(counts[part].astype(np.int64), share_B[i])
    kept = counts > 0
    n_kept = np.concatenate([[0], np.cumsum(kept)])
    return Cells(n_kept[cells.indptr], cells.genes[kept], counts[kept], cells.cell_ids)


def _in_order(cells: Cells) -> Cells:
    """Cells with their genes in ascending order, and counts of one gene added up."""
    row = np.repeat(np.arange(len(cells.cell_ids)), np.diff(cells.indptr))
    key = row * (int(cells.genes.max(initial=0)) + 1) + cells.genes
    turn = np.argsort(key, kind="stable")
    firsts = np.flatnonzero(np.diff(key[turn], prepend=-1))
    counts_B = np.bincount(row[turn][firsts], minlength=len(cells.cell_ids))
    return Cells(
        np.concatenate([[0], np.cumsum(counts_B)]),
        cells.genes[turn][firsts],
        np.add.reduceat(cells.counts[turn], firsts),
        cells.cell_ids,
    )


def take_cells(cells: Cells, rows: NDArray[np.int64], *, into: Cells | None = None) -> Cells:
    """Cells of these rows, in this order, copied.

    Parameters
    ----------
    into
        Cells from here that are needed no more: their memory is written over, where it is enough.
    """
    starts_B, stops_B = cells.indptr[rows], cells.indptr[rows + 1]
    indptr = np.concatenate([[0], np.cumsum(stops_B - starts_B)])
    genes, counts = make_room(int(indptr[-1]), into)
    kernels.take_cells(starts_B, stops_B, cells.genes, cells.counts, genes, counts)
    return Cells(indptr, genes, counts, cells.cell_ids[rows])


def make_room(n: int, into: Cells | None = None) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """Arrays for n genes and their counts, in memory of other cells where that is enough.

    To take fresh memory from the system, page by page, takes as long as to copy cells into it.
    """
    if into is not None:
        genes, counts = _whole(into.genes), _whole(into.counts)
        if min(len(genes), len(counts)) >= n:
            return genes[:n], counts[:n]
    room = n + n // 8  # for others, a little larger
    return np.empty(room, np.int32)[:n], np.empty(room, np.float32)[:n]


def _whole(part: NDArray[Any]) -> NDArray[Any]:
    """Give the array that this is the beginning of."""
    return part if part.base is None else part.base
