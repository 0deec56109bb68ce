"""Value binning: counts of a cell to its quantile bins, as published, but equal on every run."""

from functools import cache

import numpy as np
from numpy.typing import ArrayLike, NDArray

from scgpt_core.data import kernels


def bin_counts(
    indptr: NDArray[np.int64],
    counts: NDArray[np.float32],
    *,
    n_bins: int,
    seed: int,
    cell_ids: NDArray[np.int64],
    epoch: ArrayLike = 0,
) -> NDArray[np.float32]:
    """Bins of the counts of cells in CSR form: 1 to ``n_bins - 1``; zero stays 0.

    The edges are the ``n_bins - 1`` quantiles, at equal steps from 0 to 1, of a cell's non-zero
    counts (Cui et al., Nature Methods 2024, "Value binning"). A count that equals several edges is
    spread over their bins with equal chances, as in the published code; but which one it gets is
    drawn from (seed, epoch, cell identity, position in the cell), so that a cell has equal bins in
    whatever batch, order, process or run. Bins do not change when counts are scaled or log1p'd.

    Parameters
    ----------
    indptr
        (B + 1,), where each cell's counts begin and end.
    counts
        (nnz,), not negative.
    n_bins
        The zero bin included.
    seed, epoch
        What the draws are seeded by, beside the cell; one epoch, or one for each cell.
    cell_ids
        (B,), of `cell_identity`.

    Returns
    -------
    float32 array (nnz,)

    Raises
    ------
    ValueError
        Where a count is negative or not finite.
    """
    counts = np.ascontiguousarray(counts, np.float32)
    bins = np.empty(len(counts), np.float32)
    if len(cell_ids) == 0:
        return bins
    wrong = kernels.bin_cells(
        indptr[:-1], indptr[1:], counts, draw_keys(seed, epoch, cell_ids), quantiles(n_bins), bins
    )
    if wrong >= 0:
        raise wrong_counts(cell_ids[wrong], counts[indptr[wrong] : indptr[wrong + 1]])
    return bins


@cache
def quantiles(n_bins: int) -> NDArray[np.float64]:
    """Quantiles that are the edges of `n_bins` bins: (n_bins - 1,), 0 to 1."""
    if n_bins < 2:
        message = f"n_bins is {n_bins}: at least 2 are needed, the zero bin and one more"
        raise ValueError(message)
    return np.linspace(0, 1, n_bins - 1)


def draw_keys(seed: int, epoch: ArrayLike, cell_ids: NDArray[np.int64]) -> NDArray[np.uint64]:
    """Keys (B,) of the cells' random streams; `epoch` is one, or one for each cell."""
    epochs = np.full(len(cell_ids), epoch, np.int64)
    keys: NDArray[np.uint64] = kernels.draw_keys(seed, epochs, np.asarray(cell_ids, np.int64))
    return keys


def wrong_counts(cell_id: int, counts: NDArray[np.float32]) -> ValueError:
    """Return the error to raise for a cell with a negative or infinite count."""
    worst = counts[~(np.isfinite(counts) & (counts >= 0))][0]
    return ValueError(
        f"cell {cell_id} has the count {worst}: counts are finite and not negative; "
        "give raw counts, not scaled or centred values"
    )
