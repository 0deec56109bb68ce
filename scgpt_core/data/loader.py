"""Batches of a corpus or of cells in memory: shuffled, split over ranks, prefetched, resumable.

The batches of an epoch are the same whatever the number of ranks, threads and micro-batches: they
follow from (seed, epoch) alone, and so does what is drawn for a cell. Threads prepare them (the
kernels release the GIL); no process is forked.
"""

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import fields, replace
from hashlib import sha256
from itertools import islice
from typing import Any, Literal, NamedTuple, Protocol, TypedDict

import numpy as np
from numpy.typing import ArrayLike, NDArray

from scgpt_core.batch import Batch
from scgpt_core.data.cells import Cells, take_cells
from scgpt_core.data.collate import TokenSettings, to_batch
from scgpt_core.data.order import EpochOrder, Visits


class CellSource(Protocol):
    """Where cells come from, by row: a `Corpus`, or an `ArraySource`."""

    @property
    def n_cells(self) -> int:
        """Number of cells."""

    @property
    def digest(self) -> str:
        """What tells these cells from others."""

    def cells(self, rows: NDArray[np.int64]) -> Cells:
        """Cells of these rows, in this order."""

    def lengths(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Non-zero genes of the cells of these rows."""


class ArraySource:
    """Cells in memory, with a sequencing batch and a class each where they have them.

    Parameters
    ----------
    cells
        All cells.
    batch, label
        (N,) integer codes; a label of -1 is none.
    """

    def __init__(
        self, cells: Cells, *, batch: ArrayLike | None = None, label: ArrayLike | None = None
    ) -> None:
        self._cells = cells
        self.batch_N = self._codes(batch, "batch")
        self.label_N = self._codes(label, "label")

    def _codes(self, codes: ArrayLike | None, name: str) -> NDArray[np.int64] | None:
        if codes is None:
            return None
        codes_N = np.asarray(codes)
        if codes_N.shape != (self.n_cells,) or codes_N.dtype.kind not in "iu":
            message = (
                f"{name} is {codes_N.dtype} of shape {codes_N.shape}: integer codes of "
                f"{self.n_cells} cells are due"
            )
            raise ValueError(message)
        return codes_N.astype(np.int64)

    @property
    def n_cells(self) -> int:
        """Number of cells."""
        return len(self._cells.cell_ids)

    @property
    def digest(self) -> str:
        """Hex SHA-256 of the identities of the cells."""
        return sha256(self._cells.cell_ids.astype("<i8").tobytes()).hexdigest()

    def cells(self, rows: NDArray[np.int64]) -> Cells:
        """Cells of these rows, in this order."""
        return take_cells(self._cells, rows)

    def lengths(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Non-zero genes of the cells of these rows."""
        return self._cells.indptr[rows + 1] - self._cells.indptr[rows]


class LoaderState(TypedDict):
    """Where an epoch stands, and what its order follows from."""

    epoch: int
    step: int
    order: dict[str, Any]


class _Slice(NamedTuple):
    """One rank's part of a step."""

    rows: NDArray[np.int64]
    repeats: NDArray[np.int64]
    n_micro_batches: int


class _Window(NamedTuple):
    """One rank's cells of a window, by ascending row, and its parts of the steps."""

    cells: Cells
    rows: NDArray[np.int64]
    slices: list[_Slice]


class ShardLoader:
    """Batches of one rank, epoch by epoch.

    Iterating gives one epoch, from where `load_state_dict` has left it, as a `Batch` at a time;
    `steps` gives the same batches as one tuple a step.

    Parameters
    ----------
    source
        A corpus, or cells in memory.
    settings
        How cells become tokens and what is hidden of them.
    batch_cells
        Cells of a step, over all ranks and micro-batches.
    seed
        Of the order, and of what is drawn for the cells.
    shuffle
        False for evaluation: cells in the order of the source, and equal draws in every epoch.
    last
        Cells that do not fill a step: "spread" makes steps smaller by at most a cell or so and
        visits each cell once; "drop" keeps all steps full and leaves some cells to other epochs.
    rank, world_size
        Which slice of every step this process takes.
    micro_batch_cells
        Cells of one `Batch`, at most; None: the rank's whole slice of a step.
    threads
        Threads that prepare batches.
    block_cells, buffer_cells
        Neighbouring cells that are read together; cells that are shuffled among each other. Two
        buffers are held in memory, about 10 kB a cell of 1,300 genes.
    by_length
        Let cells of like length share a step, among those of a buffer: less padding.
    weights
        (n_cells,), not negative: how often cells are visited, relative to each other.
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
        last: Literal["spread", "drop"] = "spread",
        rank: int = 0,
        world_size: int = 1,
        micro_batch_cells: int | None = None,
        threads: int = 1,
        block_cells: int = 64,
        buffer_cells: int = 16384,
        by_length: bool = False,
        weights: NDArray[np.float64] | None = None,
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
        self._order = EpochOrder(
            n_cells=source.n_cells,
            seed=seed,
            epoch=0,
            batch_cells=batch_cells,
            block_cells=block_cells,
            buffer_cells=buffer_cells,
            shuffle=shuffle,
            last=last,
            weights=_checked(weights, source.n_cells),
        )
        smallest = self._order.n_visits // max(self._order.n_batches, 1)
        if self._order.n_batches == 0 or smallest < world_size:
            message = (
                f"{source.n_cells} cells in steps of {batch_cells} do not give each of "
                f"{world_size} ranks a cell in every step: give more cells a step, or fewer ranks"
            )
            raise ValueError(message)

    def __len__(self) -> int:
        """Count the steps of the epoch."""
        return self._order.n_batches

    @property
    def epoch(self) -> int:
        """The epoch that the next step is of."""
        return self._order.epoch

    def __iter__(self) -> Iterator[Batch]:
        for batches in self.steps():
            yield from batches

    def steps(self) -> Iterator[tuple[Batch, ...]]:
        """Yield the steps of the epoch that are left, each as this rank's micro-batches.

        All ranks get equally many micro-batches, so that they can talk to each other in each.
        """
        pool = ThreadPoolExecutor(self._threads, "loader")
        try:
            tasks = self._tasks(pool, self._order, self._step)
            pending = deque(islice(tasks, 2 * self._threads))
            while pending:
                batches = pending.popleft().result()
                pending.extend(islice(tasks, 1))
                self._advance()
                yield batches
        finally:
            pool.shutdown(cancel_futures=True)

    def state_dict(self) -> LoaderState:
        """Return the state after the step that was handed out last."""
        return {"epoch": self.epoch, "step": self._step, "order": self._identity()}

    def load_state_dict(self, state: LoaderState) -> None:
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
            message = f"the state is that of another order of cells: {'; '.join(differences)}"
            raise ValueError(message)
        self._step = state["step"]
        self._order = replace(self._order, epoch=state["epoch"])

    def _identity(self) -> dict[str, Any]:
        """Return what the order of batches follows from, but for the epoch."""
        order = self._order
        names = [field.name for field in fields(order) if field.name not in ("epoch", "weights")]
        weights = None if order.weights is None else sha256(order.weights.tobytes()).hexdigest()
        return {name: getattr(order, name) for name in names} | {
            "cells": self._source.digest,
            "by_length": self._by_length,
            "weights": weights,
        }

    def _advance(self) -> None:
        self._step += 1
        if self._step == self._order.n_batches:
            self._step = 0
            if self._order.shuffle:
                self._order = replace(self._order, epoch=self.epoch + 1)

    def _tasks(
        self, pool: ThreadPoolExecutor, order: EpochOrder, first: int
    ) -> Iterator[Future[tuple[Batch, ...]]]:
        """Start the work on one step after another, windows half a window ahead."""
        size = order.window_batches
        windows: dict[int, Future[_Window]] = {}
        for step in range(first, order.n_batches):
            ahead = min(step + size // 2, order.n_batches - 1)
            # A window stands before its steps in the pool's queue, so none waits for it for ever.
            for window in sorted({step // size, ahead // size} - set(windows)):
                windows[window] = pool.submit(self._read, order, window)
            windows.pop(step // size - 1, None)
            yield pool.submit(self._prepare, order.epoch, windows[step // size], step % size)

    def _read(self, order: EpochOrder, window: int) -> _Window:
        """Read this rank's cells of a window, in the order in which they lie in the source."""
        batches = order.batches(window, self._lengths if self._by_length else None)
        slices = [self._slice(visits) for visits in batches]
        rows = np.unique(np.concatenate([part.rows for part in slices]))
        return _Window(self._source.cells(rows), rows, slices)

    def _lengths(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        return np.minimum(self._source.lengths(rows), self._settings.max_tokens - 1)

    def _slice(self, visits: Visits) -> _Slice:
        n_cells, ranks = len(visits.rows), self._world_size
        largest = -(-n_cells // ranks)
        n_micro_batches = min(-(-largest // self._micro_batch_cells), n_cells // ranks)
        mine = slice(self._rank, None, ranks)
        return _Slice(visits.rows[mine], visits.repeats[mine], n_micro_batches)

    def _prepare(self, epoch: int, reading: Future[_Window], index: int) -> tuple[Batch, ...]:
        window = reading.result()
        part = window.slices[index]
        return tuple(
            self._batch(window, rows, epoch + (repeats << 32))
            for rows, repeats in zip(
                np.array_split(part.rows, part.n_micro_batches),
                np.array_split(part.repeats, part.n_micro_batches),
                strict=True,
            )
        )

    def _batch(self, window: _Window, rows: NDArray[np.int64], epoch_B: NDArray[np.int64]) -> Batch:
        source = self._source
        batch_N = source.batch_N if isinstance(source, ArraySource) else None
        label_N = source.label_N if isinstance(source, ArraySource) else None
        return to_batch(
            window.cells,
            self._settings,
            seed=self._order.seed,
            epoch=epoch_B,
            rows=np.searchsorted(window.rows, rows),
            batch_B=None if batch_N is None else batch_N[rows],
            label_B=None if label_N is None else label_N[rows],
            pin=self._pin,
        )


def _checked(weights: NDArray[np.float64] | None, n_cells: int) -> NDArray[np.float64] | None:
    if weights is None:
        return None
    weights_N = np.ascontiguousarray(weights, np.float64)
    if weights_N.shape != (n_cells,):
        message = f"weights have shape {weights_N.shape}: one for each of {n_cells} cells is due"
        raise ValueError(message)
    if not (np.isfinite(weights_N).all() and (weights_N >= 0).all() and weights_N.any()):
        message = "weights are to be finite, not negative, and not all 0"
        raise ValueError(message)
    return weights_N
