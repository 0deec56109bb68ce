"""Batches of a corpus or of cells in memory: shuffled, split over ranks, prefetched, resumable.

The batches of an epoch are the same whatever the number of ranks, threads and micro-batches: they
follow from (seed, epoch) alone, and so does what is drawn for a cell. Threads prepare them (the
kernels release the GIL); no process is forked.
"""

import weakref
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, fields, replace
from hashlib import sha256
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from scgpt_core.batch import Batch
from scgpt_core.data.cells import Cells
from scgpt_core.data.collate import TokenSettings, to_batch
from scgpt_core.data.multimodal import ModalityTokens, to_modality_batch
from scgpt_core.data.order import EpochOrder, Visits, cut_step, require_cells_for_ranks
from scgpt_core.data.sources import ArraySource, CellSource


class _Piece(NamedTuple):
    """Cells of one micro-batch."""

    rows: NDArray[np.int64]
    repeats: NDArray[np.int64]


@dataclass(frozen=True)
class _Window:
    """One rank's cells of a window, by ascending row, and its micro-batches of each step."""

    cells: Cells
    rows: NDArray[np.int64]
    steps: list[list[_Piece]]


class ShardLoader:
    """Batches of one rank, epoch by epoch.

    Iterating gives step after step, epoch after epoch, each as this rank's micro-batches; all ranks
    have equally many, so that they can talk to each other in each. `batches` ends with the epoch.

    Parameters
    ----------
    source
        A corpus, or cells in memory.
    settings
        How cells become tokens and what is hidden of them.
    batch_cells
        Cells of a step, over all ranks and micro-batches, at most: where they do not fill the last
        one of an epoch, all are a little smaller.
    seed
        Of the order, and of what is drawn for the cells.
    shuffle
        False for evaluation: cells in the order of the source, and equal draws in every epoch.
    rank, world_size
        Which slice of every step this process takes.
    micro_batch_cells
        Cells of one `Batch`, at most (`cut_step`); None: the rank's whole slice of a step.
    threads
        Threads that prepare batches.
    block_cells, buffer_cells
        Neighbouring cells that are read together; cells that are shuffled among each other. Two
        buffers are held in memory, about 10 kB a cell of 1,300 genes.
    by_length
        Let cells of like length share a step, among those of a buffer: less padding.
    weights
        (n_cells,), not negative: how often cells are visited, relative to each other.
    conditions
        (n_cells,), what the model is told of each cell, see `Batch.condition_B`; None: nothing.
    pin
        Batches in page-locked memory, for copies to a GPU.
    """

    def __init__(
        self,
        source: CellSource,
        settings: TokenSettings,
        *,
        batch_cells: int,
        seed: int,
        shuffle: bool = True,
        rank: int = 0,
        world_size: int = 1,
        micro_batch_cells: int | None = None,
        threads: int = 1,
        block_cells: int = 64,
        buffer_cells: int = 16384,
        by_length: bool = False,
        weights: NDArray[np.float64] | None = None,
        conditions: NDArray[np.int64] | None = None,
        pin: bool = False,
    ) -> None:
        self._step = 0
        self._source = source
        self._settings = settings
        self._rank, self._world_size = rank, world_size
        self._micro_batch_cells = micro_batch_cells or batch_cells
        self._threads = threads
        self._by_length = by_length
        self._pin = pin
        self._spare: list[Cells] = []  # of windows that are gone: their memory is used again
        self._condition_N = conditions
        self._batch_N = source.batch_N if isinstance(source, ArraySource) else None
        self._label_N = source.label_N if isinstance(source, ArraySource) else None
        self._panel_N = source.panel_N if isinstance(source, ArraySource) else None
        self._order = EpochOrder(
            n_cells=source.n_cells,
            seed=seed,
            epoch=0,
            batch_cells=batch_cells,
            block_cells=block_cells,
            buffer_cells=buffer_cells,
            shuffle=shuffle,
            cumulative_weights=_cumulate(weights, source.n_cells),
        )
        self.steps_per_epoch = self._order.n_batches
        require_cells_for_ranks(
            source.n_cells,
            batch_cells=batch_cells,
            n_steps=self.steps_per_epoch,
            ranks=world_size,
        )

    @property
    def epoch(self) -> int:
        """The epoch that the next step is of."""
        return self._order.epoch

    def __iter__(self) -> Iterator[tuple[Batch, ...]]:
        return self._run(endless=True)

    def batches(self) -> Iterator[Batch]:
        """Yield this rank's micro-batches of what is left of the epoch."""
        for step in self._run(endless=False):
            yield from step

    def _run(self, *, endless: bool) -> Iterator[tuple[Batch, ...]]:
        pool = ThreadPoolExecutor(self._threads, "loader")
        try:
            tasks = self._tasks(pool, endless=endless)
            pending = deque(islice(tasks, 2 * self._threads))
            while pending:
                step = pending.popleft().result()
                pending.extend(islice(tasks, 1))
                self._advance()
                yield step
        finally:
            pool.shutdown(cancel_futures=True)

    def state_dict(self) -> dict[str, Any]:
        """Return the state after the step that was handed out last."""
        return {"epoch": self.epoch, "step": self._step, "order": self._identity()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on behind the step that was handed out last when the state was taken.

        Ranks, threads and micro-batches may be others than they were.

        Raises
        ------
        ValueError
            Where the cells, or the settings that make their order, are others.
        """
        differences = [
            f"{name} {state['order'].get(name)!r} then, {value!r} now"
            for name, value in self._identity().items()
            if state["order"].get(name) != value
        ]
        if differences:
            message = (
                f"the state is that of another order of cells: {'; '.join(differences)}. Give back "
                "what has changed, or start anew"
            )
            raise ValueError(message)
        self._step = state["step"]
        self._order = replace(self._order, epoch=state["epoch"])

    def _identity(self) -> dict[str, Any]:
        """Return what the order of batches follows from, but for the epoch."""
        order = self._order
        names = {field.name for field in fields(order)} - {"epoch", "cumulative_weights"}
        weights = order.cumulative_weights
        return {name: getattr(order, name) for name in sorted(names)} | {
            "cells": self._source.digest,
            "by_length": self._by_length,
            "weights": None if weights is None else sha256(weights.tobytes()).hexdigest(),
        }

    def _advance(self) -> None:
        self._step += 1
        if self._step == self.steps_per_epoch:
            self._step, self._order = 0, self._following(self._order)

    def _following(self, order: EpochOrder) -> EpochOrder:
        return replace(order, epoch=order.epoch + 1) if order.shuffle else order

    def _windows(self, *, endless: bool) -> Iterator[tuple[EpochOrder, int, int]]:
        """Yield the windows that are left, with the first step in them that is left."""
        order = self._order
        window, first = divmod(self._step, order.window_batches)
        while True:
            for later in range(window, order.n_windows):
                yield order, later, first if later == window else 0
            if not endless:
                return
            order, window, first = self._following(order), 0, 0

    def _tasks(
        self, pool: ThreadPoolExecutor, *, endless: bool
    ) -> Iterator[Future[tuple[Batch, ...]]]:
        """Start the work on one step after another, and read windows half a window ahead.

        A window stands in the pool's queue before its steps, so none waits for it for ever.
        """
        windows = (
            (order, window, first, pool.submit(self._read, order, window))
            for order, window, first in self._windows(endless=endless)
        )
        current = next(windows, None)
        while current is not None:
            order, window, first, reading = current
            n_steps = min(order.window_batches, order.n_batches - window * order.window_batches)
            for step in range(first, n_steps):
                yield pool.submit(self._prepare, order.epoch, reading, step)
                if step == (first + n_steps) // 2:
                    current = next(windows, None)

    def _read(self, order: EpochOrder, window: int) -> _Window:
        """Read this rank's cells of a window, in the order in which they lie in the source."""
        batches = order.batches(window, self._lengths if self._by_length else None)
        steps = [self._pieces(visits) for visits in batches]
        rows = np.unique(np.concatenate([piece.rows for step in steps for piece in step]))
        into = self._spare.pop() if self._spare else None
        read = _Window(self._source.cells(rows, into=into), rows, steps)
        weakref.finalize(read, self._spare.append, read.cells).atexit = False
        return read

    def _lengths(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        return np.minimum(self._source.lengths(rows), self._settings.max_tokens - 1)

    def _pieces(self, visits: Visits) -> list[_Piece]:
        """Micro-batches of this rank in a step."""
        places = cut_step(
            len(visits.rows),
            micro_batch_cells=self._micro_batch_cells,
            rank=self._rank,
            world_size=self._world_size,
        )
        return [_Piece(visits.rows[piece], visits.repeats[piece]) for piece in places]

    def _prepare(self, epoch: int, reading: Future[_Window], step: int) -> tuple[Batch, ...]:
        window = reading.result()
        return tuple(self._batch(epoch, window, piece) for piece in window.steps[step])

    def _batch(self, epoch: int, window: _Window, piece: _Piece) -> Batch:
        told: dict[str, Any] = {
            "seed": self._order.seed,
            "epoch": epoch + (piece.repeats << 32),
            "rows": np.searchsorted(window.rows, piece.rows),
            "batch_B": None if self._batch_N is None else self._batch_N[piece.rows],
            "label_B": None if self._label_N is None else self._label_N[piece.rows],
            "pin": self._pin,
        }
        if isinstance(self._settings, ModalityTokens):
            assert self._panel_N is not None, "cells of several modalities have panels"
            panel_B = self._panel_N[piece.rows]
            return to_modality_batch(window.cells, self._settings, panel_B=panel_B, **told)
        condition_B = None if self._condition_N is None else self._condition_N[piece.rows]
        return to_batch(window.cells, self._settings, condition_B=condition_B, **told)


def balance_weights(groups_N: NDArray[np.integer[Any]], strength: float) -> NDArray[np.float64]:
    """Weights (N,) that even out how often groups of cells, as tissues or data sets, are visited.

    Parameters
    ----------
    groups_N
        Group of each cell, by number.
    strength
        0: cells are visited equally often; 1: groups are; between: a group as its size to the power
        of ``1 - strength``.
    """
    _, group_N, sizes = np.unique(groups_N, return_inverse=True, return_counts=True)
    weights: NDArray[np.float64] = (sizes.astype(np.float64) ** -strength)[group_N]
    return weights


def _cumulate(weights: NDArray[np.float64] | None, n_cells: int) -> NDArray[np.float64] | None:
    """Sum the weights of all cells before each row, as shares of all."""
    if weights is None:
        return None
    weights_N = np.asarray(weights, np.float64)
    if weights_N.shape != (n_cells,):
        message = f"weights have shape {weights_N.shape}: one for each of {n_cells} cells is due"
        raise ValueError(message)
    if not (np.isfinite(weights_N).all() and (weights_N >= 0).all() and weights_N.any()):
        message = "weights are to be finite, not negative, and not all 0"
        raise ValueError(message)
    sums: NDArray[np.float64] = np.concatenate([[0.0], np.cumsum(weights_N)])
    sums /= sums[-1]
    return sums
