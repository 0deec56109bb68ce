"""The order of an epoch: blocks of neighbouring cells at random, then cells of a window of blocks.

A whole permutation would read cells from everywhere, one page of a disk each. Blocks are read
whole, and a window of a few hundred of them, from all over the corpus, is shuffled in memory. The
order is a function of (seed, epoch) that can be entered anywhere: nothing is drawn in sequence, so
an epoch resumes in its middle at once, and all ranks know the same order without talking.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

# What a generator is for, beside seed and epoch.
_FOR_BLOCKS, _FOR_WINDOWS, _FOR_BATCHES, _FOR_WEIGHTS = range(4)


class Visits(NamedTuple):
    """Cells in the order in which they are visited."""

    rows: NDArray[np.int64]
    """Row of the cell in its source."""
    repeats: NDArray[np.int64]
    """How often the epoch has visited the cell before (0 unless cells are weighted)."""


def cut_step(
    n_cells: int, *, micro_batch_cells: int, rank: int, world_size: int
) -> list[NDArray[np.int64]]:
    """Places, in a step of so many cells, of a rank's micro-batches.

    All ranks have equally many, as a sharded model needs: of all micro-batches in order, rank r of
    n has numbers r, r + n, r + 2n... So one may have a cell more than `micro_batch_cells`, where a
    step's cells do not divide by the ranks.
    """
    largest = -(-n_cells // world_size)
    n_pieces = world_size * min(-(-largest // micro_batch_cells), n_cells // world_size)
    return np.array_split(np.arange(n_cells), n_pieces)[rank::world_size]


def require_cells_for_ranks(n_cells: int, *, batch_cells: int, n_steps: int, ranks: int) -> None:
    """Raise a ValueError where a rank would be without a cell in a step of the epoch."""
    if not n_steps or n_cells // n_steps < ranks:
        message = (
            f"{n_cells} cells in steps of {batch_cells} do not give each of {ranks} ranks a cell "
            "in every step: give more cells a step, or fewer ranks"
        )
        raise ValueError(message)


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
        Cells of a batch, over all ranks, at most.
    block_cells
        Neighbours that are read together.
    buffer_cells
        Cells of a window, about: those that are shuffled among each other.
    shuffle
        False: cells in the order of the source.
    cumulative_weights
        (n_cells + 1,), from 0 to 1: weights of all cells before a row, added up. Cells are visited
        in proportion to their weights; None: once.
    """

    n_cells: int
    seed: int
    epoch: int
    batch_cells: int
    block_cells: int
    buffer_cells: int
    shuffle: bool
    cumulative_weights: NDArray[np.float64] | None = None

    @property
    def n_batches(self) -> int:
        """Batches of the epoch."""
        return -(-self.n_cells // self.batch_cells)

    @property
    def n_windows(self) -> int:
        """Windows of the epoch."""
        return -(-self.n_batches // self.window_batches)

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
        """Visits before a batch: sizes differ by one at most."""
        return batch * self.n_cells // self.n_batches

    def _rng(self, purpose: int, index: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, self.epoch, purpose, index])

    def _visits(self, start: int, stop: int) -> Visits:
        """Visits `start` to `stop` of the epoch, before cells are shuffled."""
        first, last = np.searchsorted(self._block_ends, [start, stop - 1], side="right")
        blocks = self._blocks[first : last + 1]
        rows = (blocks[:, None] * self.block_cells + np.arange(self.block_cells)).ravel()
        rows = rows[rows < self.n_cells]
        times = self._times(rows)
        skipped = start - (int(self._block_ends[first - 1]) if first else 0)
        taken = slice(skipped, skipped + stop - start)
        repeats = np.arange(times.sum()) - np.repeat(np.cumsum(times) - times, times)
        return Visits(np.repeat(rows, times)[taken], repeats[taken])

    def _times(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """How often the epoch visits cells."""
        if self.cumulative_weights is None:
            return np.ones(len(rows), np.int64)
        return self._due(rows + 1) - self._due(rows)

    def _due(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Visits that are due to all cells before these rows.

        Systematic sampling: what is due to them by weight, moved by one draw for all and rounded
        down, so that a cell has its due of visits or one more or less, and an epoch n_cells.
        """
        assert self.cumulative_weights is not None
        due = self.cumulative_weights[rows] * self.n_cells
        return np.floor(due + self._rng(_FOR_WEIGHTS, 0).random()).astype(np.int64)

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
        bounds = np.append(np.arange(0, self.n_cells, self.block_cells), self.n_cells)
        visits = bounds if self.cumulative_weights is None else self._due(bounds)
        return np.cumsum(np.diff(visits)[self._blocks])


def shuffle_entropy(order: EpochOrder, groups_N: NDArray[np.int64]) -> tuple[float, float]:
    """Mean entropy of a batch's groups, in bits: in this order, and in a whole permutation.

    Parameters
    ----------
    groups_N
        Group of each cell, as its data set or shard, by number from 0. Groups of neighbours show
        how far the order is from the best that there is.
    """
    batches = [visits.rows for window in range(order.n_windows) for visits in order.batches(window)]
    whole = np.random.default_rng(order.seed).permutation(np.concatenate(batches))
    bounds = np.cumsum([len(rows) for rows in batches])[:-1]
    return (
        float(np.mean([_entropy(groups_N[rows]) for rows in batches])),
        float(np.mean([_entropy(groups_N[rows]) for rows in np.split(whole, bounds)])),
    )


def _entropy(groups: NDArray[np.int64]) -> float:
    shares = np.unique(groups, return_counts=True)[1] / len(groups)
    return float(-(shares * np.log2(shares)).sum())
