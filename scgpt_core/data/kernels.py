"""The compiled inner loops: draws, binning, sampling, hiding. Their public faces: binning, collate.

They stand in one file since numba's cache watches the file of the kernel that is called, and would
go on using old code of a helper that is changed in another one. All release the GIL.

Shapes: B cells in a batch, L tokens, E edges.
"""

from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

_GAMMA = np.uint64(0x9E3779B97F4A7C15)
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)

# What a draw is for: draws of one cell for two purposes are independent.
FOR_TIES = np.uint64(1)
FOR_GENES = np.uint64(2)
FOR_HIDING = np.uint64(3)
FOR_SHARE = np.uint64(4)

_SMALL = 256  # counts below are sorted by counting; few counts of a cell are greater

_compiled = numba.njit(cache=True, nogil=True)


@_compiled
def _mix(z: Any) -> Any:
    # The finaliser of SplitMix64 (Steele, Lea & Flood 2014).
    z = (z ^ (z >> np.uint64(30))) * _MIX_1
    z = (z ^ (z >> np.uint64(27))) * _MIX_2
    return z ^ (z >> np.uint64(31))


@_compiled
def _draw(key: Any, i: Any) -> Any:
    """Draw i of the stream `key`: uint64, uniform below 2**32. SplitMix64 by position."""
    return _mix(key + (np.uint64(i) + np.uint64(1)) * _GAMMA) >> np.uint64(32)


@_compiled
def _below(key: Any, i: Any, n: Any) -> Any:
    """Draw i of the stream `key`, as an integer uniform below n."""
    return np.int64((_draw(key, i) * np.uint64(n)) >> np.uint64(32))


@_compiled
def draw_keys(
    seed: int, epoch_B: NDArray[np.int64], cell_ids_B: NDArray[np.int64]
) -> NDArray[np.uint64]:
    """Give each cell the key of its streams, from the seed, its epoch and its identity alone."""
    keys_B = np.empty(len(cell_ids_B), np.uint64)
    root = _mix(np.uint64(seed) + _GAMMA)
    for b in range(len(cell_ids_B)):
        key = _mix(root ^ _mix(np.uint64(epoch_B[b]) + _GAMMA))
        keys_B[b] = _mix(key + _mix(np.uint64(cell_ids_B[b]) + _GAMMA))
    return keys_B


@_compiled
def _stream(key: Any, purpose: Any) -> Any:
    return _mix(key ^ (purpose * _MIX_1))


@_compiled
def _sort_counts(counts: Any, histogram: Any, tail: Any) -> tuple[int, int]:
    """Sort the non-zero counts of a cell: small integers into `histogram`, the rest into `tail`.

    Returns how many are in either; (-1, -1) where a count is negative or not finite.
    """
    histogram[:] = 0
    n = len(counts)
    n_tail = 0
    fractions = False
    for i in range(n):
        count = counts[i]
        whole = np.int64(count)
        if 0 <= whole < _SMALL and whole == count:
            # Four histograms in turn: most counts are 1, and adding to one place again and again
            # would wait for the addition before.
            histogram[i & 3, whole] += 1
        else:
            if not 0 <= count < np.inf:
                return -1, -1
            tail[n_tail] = count
            n_tail += 1
            fractions = fractions or count < _SMALL
    histogram[0] += histogram[1] + histogram[2] + histogram[3]
    if fractions:  # all into the tail, so that its least is not below the histogram's greatest
        n_tail = 0
        for i in range(n):
            if counts[i] > 0:
                tail[n_tail] = counts[i]
                n_tail += 1
        histogram[0] = 0
    tail[:n_tail].sort()
    histogram[0, 0] = 0
    return histogram[0].sum(), n_tail


@_compiled
def _find_edges(
    quantiles_E: Any, n_small: int, histogram: Any, tail: Any, n_tail: int, edges_E: Any
) -> None:
    """Quantiles of sorted counts, rounded to the last bit as numpy's linear interpolation is."""
    last = n_small + n_tail - 1
    value, n_upto = 0, 0  # so many counts are at most `value`
    for e in range(len(edges_E)):
        rank = last * quantiles_E[e]
        below = np.int64(rank)
        above = below + 1 if below < last else below
        while n_upto <= below and n_upto < n_small:
            value += 1
            n_upto += histogram[0, value]
        low = np.float32(value) if below < n_small else tail[below - n_small]
        if above >= n_small:
            high = tail[above - n_small]
        else:
            following = value
            if above >= n_upto:
                following += 1
                while histogram[0, following] == 0:
                    following += 1
            high = np.float32(following)
        share = rank - below
        step = np.float64(high - low)
        edges_E[e] = low + step * share if share < 0.5 else high - step * (1.0 - share)


@_compiled
def _digits(count: Any, edges_E: Any) -> tuple[int, int]:
    """How many edges lie below `count`, and how many at it or below."""
    low, high = 0, 0
    for edge in edges_E:
        low += edge < count
        high += edge <= count
    return low, high


@_compiled
def _tabulate_digits(edges_E: Any, table: Any) -> None:
    """Digits of every small integer into `table`, rows low and high; zero stays in bin 0."""
    low, high = 0, 0
    table[:, 0] = 0
    for value in range(1, _SMALL):
        while low < len(edges_E) and edges_E[low] < value:
            low += 1
        while high < len(edges_E) and edges_E[high] <= value:
            high += 1
        table[0, value] = low
        table[1, value] = high


@_compiled
def _prepare_bins(
    counts: Any, quantiles_E: Any, histogram: Any, tail: Any, edges_E: Any, table: Any
) -> bool:
    """Edges and digits of one cell; False where it has a count that is none."""
    n_small, n_tail = _sort_counts(counts, histogram, tail)
    if n_small < 0:
        return False
    if n_small + n_tail > 0:
        _find_edges(quantiles_E, n_small, histogram, tail, n_tail, edges_E)
    _tabulate_digits(edges_E, table)
    return True


@_compiled
def _bin(count: Any, i: Any, key: Any, edges_E: Any, table: Any) -> Any:
    """Bin of the i-th count of a cell: at random among those whose edges it equals."""
    whole = np.int64(count)
    if whole < _SMALL and whole == count:
        low, high = table[0, whole], table[1, whole]
    else:
        low, high = _digits(count, edges_E)
    return high - _below(key, i, high - low) if high > low + 1 else high


@_compiled
def bin_cells(
    starts_B: NDArray[np.int64],
    stops_B: NDArray[np.int64],
    counts: NDArray[np.float32],
    keys_B: NDArray[np.uint64],
    quantiles_E: NDArray[np.float64],
    bins: NDArray[np.float32],
) -> int:
    """Bin all counts of the cells into `bins`; the first cell that has a wrong count, or -1."""
    histogram = np.empty((4, _SMALL), np.int32)
    table = np.empty((2, _SMALL), np.int32)
    edges_E = np.empty(len(quantiles_E), np.float64)
    tail = np.empty(max((stops_B - starts_B).max(), 1), np.float32)
    for b in range(len(starts_B)):
        cell = counts[starts_B[b] : stops_B[b]]
        if not _prepare_bins(cell, quantiles_E, histogram, tail, edges_E, table):
            return b
        key = _stream(keys_B[b], FOR_TIES)
        for i in range(len(cell)):
            bins[starts_B[b] + i] = _bin(cell[i], i, key, edges_E, table)
    return -1


@_compiled
def _sample(genes: Any, n_chosen: int, is_kept_T: Any, key: Any, chosen: Any) -> None:
    """Choose `n_chosen` genes at random, in their order, and all that are to be kept among them.

    Selection sampling (Knuth, TAOCP 3.4.2, algorithm S).
    """
    n_left = len(genes)
    n_needed = n_chosen
    if len(is_kept_T):
        for gene in genes:
            n_left -= is_kept_T[gene]
            n_needed -= is_kept_T[gene]
    k = 0
    for i in range(len(genes)):
        if len(is_kept_T) and is_kept_T[genes[i]]:
            take = 1
        else:
            take = int(_below(key, i, n_left) < n_needed)
            n_left -= 1
            n_needed -= take
        if k < n_chosen:
            chosen[k] = i
        k += take


@_compiled
def tokenize_cells(
    starts_B: NDArray[np.int64],
    stops_B: NDArray[np.int64],
    genes: NDArray[np.int32],
    counts: NDArray[np.float32],
    keys_B: NDArray[np.uint64],
    quantiles_E: NDArray[np.float64],
    is_kept_T: NDArray[np.bool_],
    max_tokens: int,
    ids_BL: NDArray[np.int64],
    bins_BL: NDArray[np.float32],
    padding_BL: NDArray[np.bool_],
) -> int:
    """Write genes and bins of the cells behind position 0; the first cell with wrong counts, or -1.

    Bins are those among all genes of the cell, before genes are sampled. Position 0 and what is
    beyond a cell's last token stay as they are; `padding_BL` becomes False at the cell's tokens.
    """
    longest = max((stops_B - starts_B).max(), 1)
    histogram = np.empty((4, _SMALL), np.int32)
    table = np.empty((2, _SMALL), np.int32)
    edges_E = np.empty(len(quantiles_E), np.float64)
    tail = np.empty(longest, np.float32)
    chosen = np.arange(longest)
    whole = True
    for b in range(len(starts_B)):
        start, n = starts_B[b], stops_B[b] - starts_B[b]
        cell = counts[start : start + n]
        if not _prepare_bins(cell, quantiles_E, histogram, tail, edges_E, table):
            return b
        if n >= max_tokens:
            n = max_tokens - 1
            _sample(genes[start : stops_B[b]], n, is_kept_T, _stream(keys_B[b], FOR_GENES), chosen)
            whole = False
        elif not whole:
            chosen[:n] = np.arange(n)
        key = _stream(keys_B[b], FOR_TIES)
        padding_BL[b, : n + 1] = False
        for k in range(n):
            i = chosen[k]
            ids_BL[b, k + 1] = genes[start + i]
            bins_BL[b, k + 1] = _bin(cell[i], i, key, edges_E, table)
    return -1


@_compiled
def hide_tokens(
    bins_BL: NDArray[np.float32],
    padding_BL: NDArray[np.bool_],
    keys_B: NDArray[np.uint64],
    shares: NDArray[np.float64],
    mask_value: float,
    values_BL: NDArray[np.float32],
    hidden_BL: NDArray[np.bool_],
    known_BL: NDArray[np.bool_],
) -> None:
    """Hide a share of each cell's real tokens, but for position 0.

    The share is one of `shares`, drawn for each cell; its number of tokens is rounded down.
    """
    n_cells, n_positions = padding_BL.shape
    for b in range(n_cells):
        n_left = -1
        for position in range(n_positions):
            n_left += not padding_BL[b, position]
        share = shares[_below(_stream(keys_B[b], FOR_SHARE), 0, len(shares))]
        n_needed = np.int64(n_left * share)
        key = _stream(keys_B[b], FOR_HIDING)
        for position in range(n_positions):
            real = position > 0 and not padding_BL[b, position]
            hide = real and _below(key, position, n_left) < n_needed
            n_left -= real
            n_needed -= hide
            hidden_BL[b, position] = hide
            known_BL[b, position] = not (hide or padding_BL[b, position])
            values_BL[b, position] = mask_value if hide else bins_BL[b, position]


@_compiled
def spread_counts(
    starts_B: NDArray[np.int64],
    stops_B: NDArray[np.int64],
    genes: NDArray[np.int32],
    counts: NDArray[np.float32],
    column_T: NDArray[np.int32],
    dense_BG: NDArray[np.float32],
) -> None:
    """Write counts into `dense_BG`, each in its gene's column; genes of column -1 are left out."""
    for b in range(len(starts_B)):
        for i in range(starts_B[b], stops_B[b]):
            gene = genes[i]
            if gene < len(column_T) and column_T[gene] >= 0:
                dense_BG[b, column_T[gene]] = counts[i]


@_compiled
def take_cells(
    starts_B: NDArray[np.int64],
    stops_B: NDArray[np.int64],
    genes: NDArray[np.int32],
    counts: NDArray[np.float32],
    taken_genes: NDArray[np.int32],
    taken_counts: NDArray[np.float32],
) -> None:
    """Write genes and counts of the cells one behind the other."""
    end = 0
    for b in range(len(starts_B)):
        start, n = starts_B[b], stops_B[b] - starts_B[b]
        taken_genes[end : end + n] = genes[start : start + n]
        taken_counts[end : end + n] = counts[start : start + n]
        end += n
