"""The order of an epoch: blocks of neighbouring cells at random, then cells of a window of blocks.

A whole permutation would read cells from everywhere, one page of a disk each. Blocks are read
whole, and a window of a few hundred of them, from all over the corpus, is shuffled in memory. The
order is a function of (seed, epoch) that can be entered anywhere: nothing is drawn in sequence, so
an epoch resumes in its middle at once, and all ranks know the same order without talking.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from scgpt_core.data.binning import draw_keys

# What a generator is for, beside seed and epoch.
_FOR_BLOCKS, _FOR_WINDOWS, _FOR_BATCHES = 0, 1, 2


class Visits(NamedTuple):
    """Cells in the order in which they are visited."""

    rows: NDArray[np.int64]
    """Row of the cell in its source."""
    repeats: NDArray[np.int64]
    """How often the epoch has visited the cell before (0 unless cells are weighted)."""


@dataclass(frozen=True, kw_only=True)
class EpochOrder:
    """Batches of one epoch; each cell once, or as often as its weight says.

    Parameters
    ----------
    n_cells
        Cells of the source.
    seed, epoch
        What the order is drawn from.
    batch_cells
        Cells of a batch, over all ranks.
    block_cells
        Neighbours that are read together.
    buffer_cells
        Cells of a window, about: those that are shuffled among each other.
    shuffle
        False: cells in the order of the source.
    last
        Cells that do not fill a batch: "spread" gives an epoch one batch more, and sizes that
        differ by one at most; "drop" leaves up to ``batch_cells - 1`` cells out, others each epoch.
    weights
        (n_cells,), not negative: a cell is visited in proportion to it, as often as n_cells allow.
    """

    n_cells: int
    seed: int
    epoch: int
    batch_cells: int
    block_cells: int
    buffer_cells: int
    shuffle: bool
    last: Literal["spread", "drop"]
    weights: NDArray[np.float64] | None = None

    @cached_property
    def n_batches(self) -> int:
        """Batches of the epoch."""
        whole = self.n_visits // self.batch_cells
        return whole if self.last == "drop" else -(-self.n_visits // self.batch_cells)

    @property
    def n_visits(self) -> int:
        """Visits of the epoch, before any are dropped."""
        return int(self._block_ends[-1])

    @property
    def window_batches(self) -> int:
        """Batches of a window."""
        return max(1, round(self.buffer_cells / self.batch_cells))

    def batches(
        self, window: int, lengths: Callable[[NDArray[np.int64]], NDArray[np.int64]] | None = None
    ) -> list[Visits]:
        """Batches of a window.

        Parameters
        ----------
        lengths
            Gives the lengths of rows: cells of like length then share a batch, in batches of
            random order. None: lengths do not matter.
        """
        first = window * self.window_batches
        last = min(first + self.window_batches, self.n_batches)
        bounds = np.array([self._bound(batch) for batch in range(first, last + 1)])
        visits = self._visits(int(bounds[0]), int(bounds[-1]))
        n_visits = len(visits.rows)
        turn = self._rng(_FOR_WINDOWS, window).permutation(n_visits)
        if not self.shuffle:
            turn = np.arange(n_visits)
        if lengths is not None:
            turn = turn[np.argsort(lengths(visits.rows[turn]), kind="stable")]
        batches = [
            Visits(visits.rows[chosen], visits.repeats[chosen])
            for chosen in np.split(turn, bounds[1:-1] - bounds[0])
        ]
        if lengths is not None and self.shuffle:
            batches = [
                batches[i] for i in self._rng(_FOR_BATCHES, window).permutation(len(batches))
            ]
        return batches

    def _bound(self, batch: int) -> int:
        """Visits before a batch."""
        if self.last == "drop":
            return batch * self.batch_cells
        return batch * self.n_visits // self.n_batches

    def _rng(self, purpose: int, index: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, self.epoch, purpose, index])

    def _visits(self, start: int, stop: int) -> Visits:
        """Visits `start` to `stop` of the epoch, before cells are shuffled."""
        first, last = np.searchsorted(self._block_ends, [start, stop - 1], side="right")
        blocks = self._blocks[first : last + 1, None] * self.block_cells
        rows = (blocks + np.arange(self.block_cells)).ravel()
        rows = rows[rows < self.n_cells]
        times = self._times(rows)
        skipped = start - (int(self._block_ends[first - 1]) if first else 0)
        taken = slice(skipped, skipped + stop - start)
        repeats = np.arange(times.sum()) - np.repeat(np.cumsum(times) - times, times)
        return Visits(np.repeat(rows, times)[taken], repeats[taken])

    def _times(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """How often the epoch visits cells: the whole part of what is due, the rest by chance."""
        if self.weights is None:
            return np.ones(len(rows), np.int64)
        due = self.weights[rows] * (self.n_cells / self._sum_of_weights)
        chance = (draw_keys(self.seed, self.epoch, rows) >> np.uint64(11)) * 2.0**-53
        return np.floor(due + chance).astype(np.int64)

    @cached_property
    def _sum_of_weights(self) -> float:
        assert self.weights is not None
        return float(self.weights.sum(dtype=np.float64))

    @cached_property
    def _blocks(self) -> NDArray[np.int64]:
        """Blocks in the order in which they are read."""
        n_blocks = -(-self.n_cells // self.block_cells)
        if not self.shuffle:
            return np.arange(n_blocks)
        return self._rng(_FOR_BLOCKS, 0).permutation(n_blocks)

    @cached_property
    def _block_ends(self) -> NDArray[np.int64]:
        """Visits up to the end of each block, in the order in which blocks are read."""
        n_blocks = len(self._blocks)
        if self.weights is None:
            sizes = np.full(n_blocks, self.block_cells)
            sizes[-1] = self.n_cells - (n_blocks - 1) * self.block_cells
        else:
            step = self.block_cells * 4096
            pieces = [
                np.arange(row, min(row + step, self.n_cells))
                for row in range(0, self.n_cells, step)
            ]
            sizes = np.concatenate(
                [
                    np.add.reduceat(self._times(rows), np.arange(0, len(rows), self.block_cells))
                    for rows in pieces
                ]
            )
        return np.cumsum(sizes[self._blocks])


def shuffle_entropy(order: EpochOrder, groups_N: NDArray[np.int64]) -> tuple[float, float]:
    """Mean entropy of a batch's groups, in bits: in this order, and in a whole permutation.

    Parameters
    ----------
    groups_N
        Group of each cell, as its data set or shard, by number from 0. Groups of neighbours show
        how far the order is from the best that there is.
    """
    n_windows = -(-order.n_batches // order.window_batches)
    batches = [visits.rows for window in range(n_windows) for visits in order.batches(window)]
    whole = np.random.default_rng(order.seed).permutation(np.concatenate(batches))
    bounds = np.cumsum([len(rows) for rows in batches])[:-1]
    return (
        float(np.mean([_entropy(groups_N[rows]) for rows in batches])),
        float(np.mean([_entropy(groups_N[rows]) for rows in np.split(whole, bounds)])),
    )


def _entropy(groups: NDArray[np.int64]) -> float:
    shares = np.unique(groups, return_counts=True)[1] / len(groups)
    return float(-(shares * np.log2(shares)).sum())
