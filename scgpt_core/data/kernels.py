"""The compiled inner loops of this room: draws, binning, sampling, hiding, copies, fingerprints.

Their public faces are `binning`, `collate`, `cells`, `corpus`, `qc` and `overlap`.
They stand in one file since numba's cache watches the file of the kernel that is called, and would
go on using old code of a helper that is changed in another one. All release the GIL.

Shapes: B cells in a batch, L tokens, E edges, G genes, T tokens of the vocabulary, S data sets, K
bands.
"""

from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic
from numpy.typing import NDArray

# What a draw is for: draws of one cell for two purposes are independent.
FOR_TIES = np.uint64(1)
FOR_GENES = np.uint64(2)
FOR_HIDING = np.uint64(3)
FOR_SHARE = np.uint64(4)

_LARGE = 255  # code of a count that is no integer below: it is binned by itself, not by a table
_HIGH = 1 << 32
_LANES = 4  # histograms in turn: to add to one place again and again waits for the addition before
_FEW = 48  # so many are sorted sooner by insertion than by counting bytes

# By eight bits: the numbers of those that are set, ascending, one a byte.
_ONES_FIRST = np.array(
    [
        sum(bit << 8 * k for k, bit in enumerate(b for b in range(8) if pattern >> b & 1))
        for pattern in range(256)
    ],
    np.uint64,
)

_compiled = numba.njit(cache=True, nogil=True)


@_compiled
def _mix64(z: Any) -> Any:
    # Finaliser of SplitMix64 (Steele, Lea & Flood, OOPSLA 2014).
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


@_compiled
def _mix32(x: Any) -> Any:
    # Wellons' "lowbias32": as _mix64, in half the width, which vector units multiply at once.
    x = np.uint32((x ^ (x >> np.uint32(16))) * np.uint32(0x7FEB352D))
    x = np.uint32((x ^ (x >> np.uint32(15))) * np.uint32(0x846CA68B))
    return np.uint32(x ^ (x >> np.uint32(16)))


@_compiled
def _absorb(key: Any, word: Any) -> Any:
    return _mix64(key ^ _mix64(np.uint64(word) + np.uint64(0x9E3779B97F4A7C15)))


@_compiled
def draw_keys(
    seed: int, epoch_B: NDArray[np.int64], cell_ids_B: NDArray[np.int64]
) -> NDArray[np.uint64]:
    """Give each cell the key of its draws, from the seed, its epoch and its identity alone."""
    keys_B = np.empty(len(cell_ids_B), np.uint64)
    for b in range(len(cell_ids_B)):
        keys_B[b] = _absorb(_absorb(_absorb(np.uint64(0), seed), epoch_B[b]), cell_ids_B[b])
    return keys_B


@_compiled
def _draw(low: Any, high: Any, i: Any) -> Any:
    """Draw i of the stream of two words: uint32, uniform."""
    return _mix32(np.uint32(_mix32(np.uint32(np.uint32(i) + low)) ^ high))


@_compiled
def _words(key: Any, purpose: Any) -> Any:
    """Give the two words of a cell's stream for a purpose."""
    stream = _absorb(key, purpose)
    return np.uint32(stream), np.uint32(stream >> np.uint64(32))


@_compiled
def _below(draw: Any, n: Any) -> Any:
    """Integer uniform below n, from a draw."""
    return np.int64((np.uint64(draw) * np.uint64(n)) >> np.uint64(32))


def _compile_write_eight(_typing: Any, array: Any, _at: Any, _base: Any, _packed: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        array, at, base, packed = arguments
        wide = ir.VectorType(ir.IntType(32), 8)
        bytes_ = builder.bitcast(packed, ir.VectorType(ir.IntType(8), 8))
        first = builder.insert_element(wide(ir.Undefined), base, ir.IntType(32)(0))
        bases = builder.shuffle_vector(first, first, wide([0] * 8))
        data = context.make_array(signature.args[0])(context, builder, array).data
        place = builder.bitcast(builder.gep(data, [at]), wide.as_pointer())
        builder.store(builder.add(bases, builder.zext(bytes_, wide)), place, align=4)
        return context.get_dummy_value()

    return types.void(array, types.uint64, types.uint32, types.uint64), generate


# (array, at, base, packed): write `base` plus each byte of the word `packed` at eight places of an
# array, in one step; of a loop over them the compiler makes eight.
_write_eight: Any = intrinsic(_compile_write_eight)


@_compiled
def _choose(key: Any, purpose: Any, n_chosen: Any, draws: Any, chosen: Any) -> None:
    """Set `n_chosen` random items of `chosen` to 1, and the others to 0.

    Each item is taken where a byte of its own is below a threshold, which gives about the number;
    then items at random are taken, or put back, until it is met. To both steps all items are alike,
    so all sets of the number are equally likely.
    """
    low, high = _words(key, purpose)
    n = len(chosen)
    turn = (n + 3) // 4
    for i in range(turn):
        draws[i] = _draw(low, high, i)
    item_draws = draws[:turn].view(np.uint8)
    threshold = np.uint8(min(n_chosen * 256 // max(n, 1), 255))
    n_taken = np.int32(0)
    for i in range(n):
        chosen[i] = item_draws[i] < threshold
    for i in range(n):  # not in the loop above: of bytes alone, that one is four times as fast
        n_taken += np.int32(chosen[i])
    while n_taken != n_chosen:
        i = _below(_draw(low, high, turn), n)
        turn += 1
        if chosen[i] == (n_taken > n_chosen):
            n_taken += 1 - 2 * int(chosen[i])
            chosen[i] = 1 - chosen[i]


@_compiled
def _encode_counts(counts: Any, codes: Any) -> None:
    """Codes of counts: themselves where they are integers below `_LARGE`."""
    for i in range(len(counts)):
        code = np.int32(min(max(counts[i], np.float32(0)), np.float32(_LARGE)))
        codes[i] = code if np.float32(code) == counts[i] else _LARGE


@_compiled
def _collect_tail(counts: Any, codes: Any, n_large: int, tail: Any) -> tuple[bool, bool]:
    """Write the `n_large` large counts into `tail`.

    Returns whether all of them are counts, and whether some are no integers.
    """
    n_tail = 0
    fractions = False
    words = codes.view(np.uint64)
    for w in range((len(counts) + 7) // 8):
        sevens = words[w] & np.uint64(0x7F7F7F7F7F7F7F7F)
        full = (sevens + np.uint64(0x0101010101010101)) & words[w]
        if full & np.uint64(0x8080808080808080):  # one of the eight codes is _LARGE
            for i in range(8 * w, min(8 * w + 8, len(counts))):
                if codes[i] == _LARGE:
                    if not 0 <= counts[i] < np.inf:
                        return False, False
                    fractions = fractions or counts[i] < _LARGE
                    tail[n_tail] = counts[i]
                    n_tail += 1
            if n_tail == n_large:
                break
    return True, fractions


@_compiled
def _sort_tail(tail: Any, n: int, scratch: Any) -> None:
    """Sort the first n, byte by byte: the bits of floats that are not negative are in order."""
    if n <= _FEW:
        for i in range(1, n):
            value, j = tail[i], i
            while j > 0 and tail[j - 1] > value:
                tail[j] = tail[j - 1]
                j -= 1
            tail[j] = value
        return
    source, target = tail.view(np.uint32), scratch.view(np.uint32)
    ends = np.empty(257, np.int64)
    for shift in (0, 8, 16, 24):
        ends[:] = 0
        for i in range(n):
            ends[(source[i] >> np.uint32(shift) & np.uint32(255)) + 1] += 1
        for byte in range(256):
            ends[byte + 1] += ends[byte]
        for i in range(n):
            byte = source[i] >> np.uint32(shift) & np.uint32(255)
            target[ends[byte]] = source[i]
            ends[byte] += 1
        source, target = target, source


@_compiled
def _sort_counts(
    counts: Any, codes: Any, histogram: Any, tail: Any, scratch: Any
) -> tuple[int, int]:
    """Sort the non-zero counts of a cell: by code into `histogram[0]`, the large ones into `tail`.

    Returns how many are in either; (-1, -1) where a count is negative or not finite.
    """
    n = len(counts)
    histogram[:] = 0
    for i in range(n):
        histogram[i & (_LANES - 1), codes[i]] += 1
    for lane in range(1, _LANES):
        for code in range(_LARGE + 1):
            histogram[0, code] += histogram[lane, code]
    n_tail = histogram[0, _LARGE]
    n_small = n - n_tail - histogram[0, 0]
    if n_tail:
        good, fractions = _collect_tail(counts, codes, n_tail, tail)
        if not good:
            return -1, -1
        if fractions:  # then all, since some of the tail are less than some of the histogram
            n_small, n_tail = 0, 0
            for i in range(n):
                tail[n_tail] = counts[i]
                n_tail += counts[i] > 0
        _sort_tail(tail, n_tail, scratch)
    return n_small, n_tail


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
def _tabulate_digits(edges_E: Any, digits: Any) -> None:
    """Digits of each code: the highest bin, times 2**32, and among how many is drawn."""
    digits[:] = 0
    for edge in edges_E:
        if edge < _LARGE:
            digits[np.int64(np.ceil(edge))] += _HIGH
            digits[np.int64(edge) + 1] += 1
    upto = np.int64(0)  # how many edges are at the code or below, times 2**32, and below
    for code in range(1, _LARGE):
        upto += digits[code]
        high = upto >> 32
        digits[code] = upto - upto % _HIGH + max(high - upto % _HIGH, 1)
    digits[0] = 1  # zero stays in bin 0


@_compiled
def _prepare_bins(
    counts: Any,
    quantiles_E: Any,
    codes: Any,
    histogram: Any,
    tail: Any,
    scratch: Any,
    edges_E: Any,
    digits: Any,
) -> bool:
    """Codes, edges and digits of one cell; False where it has a count that is none."""
    _encode_counts(counts, codes)
    n_small, n_tail = _sort_counts(counts, codes, histogram, tail, scratch)
    if n_small < 0:
        return False
    if n_small + n_tail > 0:
        _find_edges(quantiles_E, n_small, histogram, tail, n_tail, edges_E)
        _tabulate_digits(edges_E, digits)
    else:  # nothing but zeros, or nothing at all
        digits[0] = 1
    return True


@_compiled
def _write_bins(
    counts: Any,
    codes: Any,
    key: Any,
    edges_E: Any,
    digits: Any,
    positions: Any,
    draws: Any,
    larges: Any,
    bins: Any,
) -> None:
    """Write bins of the counts at these positions: at random where a count equals several edges."""
    low, high = _words(key, FOR_TIES)
    for k in range(len(bins)):
        draws[k] = _draw(low, high, positions[k])
    n_large = np.uint64(0)
    for k in range(len(bins)):
        code = codes[positions[k]]
        larges[n_large] = np.uint32(k)
        n_large += np.uint64(code == _LARGE)
        bins[k] = (digits[code] >> 32) - _below(draws[k], digits[code] % _HIGH)
    for k in larges[:n_large]:
        n_low, n_high = _digits(counts[positions[k]], edges_E)
        bins[k] = n_high - _below(draws[k], max(n_high - n_low, 1))


@_compiled
def _write_genes(genes: Any, positions: Any, ids: Any) -> None:
    for k in range(len(ids)):
        ids[k] = genes[positions[k]]


@_compiled
def _longest(starts_B: Any, stops_B: Any) -> int:
    longest = 0
    for b in range(len(starts_B)):
        longest = max(longest, stops_B[b] - starts_B[b])
    return longest


@_compiled
def _allocate_positions(longest: int) -> Any:
    """Give room for what `_write_bins` writes of the longest cell, and all its positions first."""
    every = np.empty(longest, np.uint32)
    for i in range(longest):
        every[i] = i
    return every, np.empty(longest, np.uint32), np.empty(longest, np.uint32)


@_compiled
def _allocate_bins(longest: int, n_edges: int) -> Any:
    """Give room for what `_prepare_bins` writes of the longest cell, in the order of its arguments.

    Codes are read by words of eight.
    """
    return (
        np.zeros(longest + 8 & -8, np.uint8),
        np.empty((_LANES, _LARGE + 1), np.int32),
        np.empty(longest, np.float32),
        np.empty(longest, np.float32),
        np.empty(n_edges, np.float64),
        np.empty(_LARGE + 1, np.int64),
    )


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
    longest = _longest(starts_B, stops_B)
    every, draws, larges = _allocate_positions(longest)
    codes, histogram, tail, scratch, edges_E, digits = _allocate_bins(longest, len(quantiles_E))
    for b in range(len(starts_B)):
        cell, out = counts[starts_B[b] : stops_B[b]], bins[starts_B[b] : stops_B[b]]
        if not _prepare_bins(cell, quantiles_E, codes, histogram, tail, scratch, edges_E, digits):
            return b
        _write_bins(cell, codes, keys_B[b], edges_E, digits, every, draws, larges, out)
    return -1


@_compiled
def _sample(
    genes: Any, n_chosen: Any, key: Any, is_kept_T: Any, draws: Any, chosen: Any, positions: Any
) -> None:
    """Write positions of genes, ascending: those to be kept, and others at random."""
    n_kept = 0
    if len(is_kept_T):
        for gene in genes:
            n_kept += is_kept_T[gene]
    n_free = len(genes) - n_kept
    _choose(key, FOR_GENES, n_chosen - n_kept, draws, chosen[:n_free])
    if n_kept:  # spread what was chosen of the free genes over all, from behind
        for i in range(len(genes) - 1, -1, -1):
            kept = is_kept_T[genes[i]]
            n_free -= not kept
            chosen[i] = 1 if kept else chosen[n_free]
    # No branch for what chance decides: a word of choices is read at once, and eight positions are
    # written, of which the next word writes over those behind the chosen ones.
    n_written = np.uint64(0)
    words = chosen.view(np.uint64)
    chosen[len(genes) : (len(genes) + 7) // 8 * 8] = 0
    for w in range((len(genes) + 7) // 8):
        pattern = words[w] * np.uint64(0x0102040810204080) >> np.uint64(56)  # a bit of each byte
        _write_eight(positions, n_written, np.uint32(8 * w), _ONES_FIRST[pattern])
        n_written += words[w] * np.uint64(0x0101010101010101) >> np.uint64(56)  # sum of the bytes


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
    pad_id: int,
    pad_value: float,
    ids_BL: NDArray[np.int64],
    bins_BL: NDArray[np.float32],
    padding_BL: NDArray[np.bool_],
) -> int:
    """Write genes and bins of the cells behind position 0; the first cell with wrong counts, or -1.

    Bins are those among all genes of the cell, before genes are sampled.
    """
    longest = _longest(starts_B, stops_B)
    every, draws, larges = _allocate_positions(longest)
    codes, histogram, tail, scratch, edges_E, digits = _allocate_bins(longest, len(quantiles_E))
    chosen = np.empty(longest + 8 & -8, np.uint8)
    sampled = np.empty(longest + 8, np.uint32)
    for b in range(len(starts_B)):
        cell = counts[starts_B[b] : stops_B[b]]
        cell_genes = genes[starts_B[b] : stops_B[b]]
        if not _prepare_bins(cell, quantiles_E, codes, histogram, tail, scratch, edges_E, digits):
            return b
        n = min(len(cell), max_tokens - 1)
        positions = every
        if n < len(cell):
            _sample(cell_genes, n, keys_B[b], is_kept_T, draws, chosen, sampled)
            positions = sampled
        ids, bins = ids_BL[b, 1:], bins_BL[b, 1:]
        _write_genes(cell_genes, positions, ids[:n])
        _write_bins(cell, codes, keys_B[b], edges_E, digits, positions, draws, larges, bins[:n])
        ids[n:] = pad_id
        bins[n:] = pad_value
        padding_BL[b, : n + 1] = False
        padding_BL[b, n + 1 :] = True
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
    """Hide a share of each cell's tokens, but for position 0; padding stands behind the tokens.

    The share is one of `shares`, drawn for each cell; its number of tokens is rounded down.
    """
    n_positions = padding_BL.shape[1]
    draws, chosen = np.empty(n_positions, np.uint32), np.empty(n_positions, np.uint8)
    for b in range(len(padding_BL)):
        padding, bins = padding_BL[b], bins_BL[b]
        hidden, known, values = hidden_BL[b], known_BL[b], values_BL[b]
        n = -1
        for position in range(n_positions):
            n += not padding[position]
        low, high = _words(keys_B[b], FOR_SHARE)
        share = shares[_below(_draw(low, high, 0), len(shares))]
        chosen[:] = 0
        _choose(keys_B[b], FOR_HIDING, np.int64(n * share), draws, chosen[1 : n + 1])
        for position in range(n_positions):
            hide = chosen[position] > 0
            hidden[position] = hide
            known[position] = not (hide | padding[position])
            values[position] = mask_value if hide else bins[position]


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
        for i in range(starts_B[b], stops_B[b]):  # an assignment of slices takes seconds to compile
            taken_genes[end] = genes[i]
            taken_counts[end] = counts[i]
            end += 1


@_compiled
def keep_tokens(
    indptr_B: NDArray[np.int64],
    indices: NDArray[np.int32],
    values: NDArray[np.float32],
    ids_G: NDArray[np.int32],
    genes: NDArray[np.int32],
    counts: NDArray[np.float32],
    ends_B: NDArray[np.int64],
) -> bool:
    """Write what is not zero and has a token, cell behind cell, and where each of them ends.

    Returns whether token ids ascend in every cell.
    """
    end = 0
    ascending = True
    for b in range(len(ends_B)):
        last = -1
        for i in range(indptr_B[b], indptr_B[b + 1]):
            gene = ids_G[indices[i]]
            if gene >= 0 and values[i] != 0:
                genes[end] = gene
                counts[end] = values[i]
                end += 1
                ascending &= gene > last
                last = gene
        ends_B[b] = end
    return ascending


@_compiled
def add_fingerprints(
    indptr: NDArray[np.int64],
    genes: NDArray[np.int32],
    counts: NDArray[np.float32],
    dataset_B: NDArray[np.integer[Any]],
    genes_ST: NDArray[np.bool_],
    prints_BK: NDArray[np.uint64],
    n_genes_BK: NDArray[np.int64],
) -> None:
    """Add up, band by band, a number for each count of a gene of the data set, and such genes.

    A sum does not depend on the order of the genes.
    """
    n_bands = np.int64(prints_BK.shape[1])
    for b in range(len(prints_BK)):
        for i in range(indptr[b], indptr[b + 1]):
            if genes_ST[dataset_B[b], genes[i]]:
                band = genes[i] % n_bands
                word = (np.uint64(genes[i]) << np.uint64(32)) + np.uint64(counts[i])
                prints_BK[b, band] += _mix64(word)
                n_genes_BK[b, band] += 1


@_compiled
def are_counts(values: NDArray[np.number]) -> bool:
    """Whether all are whole, finite and not negative."""
    good = True
    for value in values:
        good &= (value >= 0) & (value < np.inf) & (value == np.floor(value))
    return good
