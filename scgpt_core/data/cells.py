"""Cells in CSR form, by token id: what every source of cells gives and what is tokenized."""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from scgpt_core.data import kernels


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
    ids_G = np.asarray(token_ids, np.int32)
    indptr_B1 = np.asarray(indptr, np.int64)
    genes = ids_G[np.asarray(indices)]
    values = np.asarray(counts, np.float32)
    row = np.repeat(np.arange(len(indptr_B1) - 1), np.diff(indptr_B1))
    used = (genes >= 0) & (values != 0)
    row, genes, values = row[used], genes[used], values[used]
    key = row * (int(ids_G.max(initial=0)) + 1) + genes
    if (key[1:] <= key[:-1]).any():
        turn = np.argsort(key, kind="stable")
        firsts = np.flatnonzero(np.diff(key[turn], prepend=-1))
        row, genes = row[turn][firsts], genes[turn][firsts]
        values = np.add.reduceat(values[turn], firsts)
    counts_B = np.bincount(row, minlength=len(indptr_B1) - 1)
    return Cells(np.concatenate([[0], np.cumsum(counts_B)]), genes, values, cell_ids)


def take_cells(cells: Cells, rows: NDArray[np.int64]) -> Cells:
    """Cells of these rows, in this order, copied."""
    starts_B, stops_B = cells.indptr[rows], cells.indptr[rows + 1]
    indptr = np.concatenate([[0], np.cumsum(stops_B - starts_B)])
    genes = np.empty(indptr[-1], np.int32)
    counts = np.empty(indptr[-1], np.float32)
    kernels.take_cells(starts_B, stops_B, cells.genes, cells.counts, genes, counts)
    return Cells(indptr, genes, counts, cells.cell_ids[rows])
