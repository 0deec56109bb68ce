"""What ends a run before its last step: a loss that is not finite, a signal, no more progress."""

import logging
import signal
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from types import FrameType, TracebackType
from typing import Self

import torch
from torch import Tensor

from scgpt_core.batch import Batch

_NAMED_CELLS = 20

logger = logging.getLogger(__name__)


class FiniteGuard:
    """Finds a loss or gradient that is not finite.

    The figures of a step are copied to the host behind its kernels and read one step later, so
    that a GPU is never waited for; `check` before anything is kept.
    """

    def __init__(self) -> None:
        self._step = 0
        self._batches: Sequence[Batch] = ()
        self._figures = torch.zeros(1)
        self._copied: torch.cuda.Event | None = None

    @property
    def norm(self) -> float:
        """Gradient norm of the step that was noted last."""
        return self._figures[0].item()

    def watch(
        self, step: int, norm: Tensor, losses: Sequence[Tensor], batches: Sequence[Batch]
    ) -> None:
        """Note a step: its gradient norm, and the loss and the cells of each micro-batch."""
        figures = torch.stack([norm.detach(), *losses])
        self._step, self._batches = step, batches
        self._figures = figures.to("cpu", non_blocking=True)
        if figures.is_cuda:
            self._copied = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._copied.record()

    def check(self) -> None:
        """Raise FloatingPointError, in every process, if the step that was noted is not finite."""
        if self._copied is not None:
            self._copied.synchronize()
        finite = torch.isfinite(self._figures).tolist()
        if finite[0] and all(finite):
            return
        losses = self._figures[1:].tolist()
        bad = [batch for batch, good in zip(self._batches, finite[1:], strict=True) if not good]
        message = (
            f"step {self._step}: gradient norm {self._figures[0].item()}, losses {losses} are not "
            f"finite; {_name_cells(bad or self._batches)}. The last checkpoint is from before: "
            "look at these cells, or lower the learning rate, and run again"
        )
        raise FloatingPointError(message)


def _name_cells(batches: Sequence[Batch]) -> str:
    """Cells whose own input is not finite; where there is none, all cells of the micro-batches."""
    cells: list[int] = []
    what = "cells of these micro-batches"
    suspects = [
        ~(torch.isfinite(batch.values_BL) & torch.isfinite(_target(batch))).all(1)
        for batch in batches
    ]
    if any(bool(suspect_B.any()) for suspect_B in suspects):
        what = "cells with values that are not finite"
    else:
        suspects = [~suspect_B for suspect_B in suspects]
    for batch, suspect_B in zip(batches, suspects, strict=True):
        if batch.cell_B is not None:
            cells += batch.cell_B[suspect_B].tolist()
    more = "" if len(cells) <= _NAMED_CELLS else f" and {len(cells) - _NAMED_CELLS} more"
    return f"{what}: {', '.join(map(str, cells[:_NAMED_CELLS]))}{more}"


def _target(batch: Batch) -> Tensor:
    return batch.values_BL if batch.target_BL is None else batch.target_BL


@dataclass
class Patience:
    """Stops where a metric has not been lower for `evaluations` evaluations in a row.

    Parameters
    ----------
    split, metric
        Which of the evaluation's metrics.
    evaluations
        How many to wait for a lower one.
    best, best_step, waited
        The lowest so far, its step, and evaluations since.
    """

    split: str
    metric: str
    evaluations: int
    best: float = float("inf")
    best_step: int = 0
    waited: int = 0

    def judge(self, step: int, value: float) -> bool:
        """Note an evaluation; True where it is the best so far."""
        if value < self.best:
            self.best, self.best_step, self.waited = value, step, 0
            return True
        self.waited += 1
        return False

    @property
    def is_over(self) -> bool:
        """Whether to stop."""
        return self.waited >= self.evaluations


class StopSignals:
    """Within the block, SIGTERM and SIGUSR1 (pre-emption) are noted instead of ending the process.

    Signals reach the main thread alone: in another one the block does nothing.
    """

    _SIGNALS = (signal.SIGTERM, signal.SIGUSR1)

    def __init__(self) -> None:
        self.caught = ""
        """Name of the signal that came; empty before."""

    def __enter__(self) -> Self:
        self._handlers = {}
        if threading.current_thread() is threading.main_thread():
            self._handlers = {s: signal.signal(s, self._note) for s in self._SIGNALS}
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.caught = signal.Signals(number).name
