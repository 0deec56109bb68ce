"""What a run tells: lines for people in the log, and metrics as JSONL, TensorBoard or W&B."""

import importlib
import importlib.util
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from scgpt_core.runs import whole

Tracker = Literal["tensorboard", "wandb"]

METRICS = "metrics.jsonl"

logger = logging.getLogger(__name__)


@dataclass
class Totals:
    """What a run has done since its first step, over all its resumptions and processes."""

    step: int = 0
    cells: int = 0
    tokens: int = 0
    """Real ones, ``<cls>`` included, padding not."""
    flops: float = 0
    """Model FLOPs: 6 x non-embedding parameters x tokens + attention, a pass."""
    seconds: float = 0
    """Wall-clock of all steps, with what they waited for data; evaluations do not count."""


class _Sink(Protocol):
    def write(self, step: int, values: Mapping[str, float]) -> None: ...

    def close(self) -> None: ...


class Journal:
    """Metrics of a run, one line of JSON for each step that is told and split.

    Parameters
    ----------
    folder
        `metrics.jsonl` and the trackers' files lie there.
    steps
        Of the whole run, for the time left.
    trackers
        Where metrics go beside `metrics.jsonl`.
    totals
        As resumed; lines of later steps, that were lost, are dropped from `metrics.jsonl`.
    judged_again
        Drop the evaluation of the last step as well.
    silent
        Write nothing: for all processes but the first.
    """

    def __init__(
        self,
        folder: Path,
        *,
        steps: int,
        trackers: Sequence[Tracker],
        totals: Totals,
        judged_again: bool = False,
        silent: bool = False,
    ) -> None:
        self._steps = steps
        self._silent = silent
        self._last = Totals(**asdict(totals))
        if silent:
            return
        self.path = folder / METRICS
        self._sinks = [_open_sink(tracker, folder, totals.step) for tracker in trackers]
        _keep_until(self.path, totals.step, judged_again=judged_again)
        self._file = self.path.open("a")

    def tell_training(self, totals: Totals, terms: Mapping[str, float], **others: float) -> None:
        """Write the terms of the loss, with the speed since the last call and the time left.

        Parameters
        ----------
        terms
            Means over the steps since the last call.
        others
            Further values by name, as the learning rate.
        """
        if self._silent:
            return
        steps, seconds = totals.step - self._last.step, totals.seconds - self._last.seconds
        cells_per_s = (totals.cells - self._last.cells) / seconds
        tokens_per_s = (totals.tokens - self._last.tokens) / seconds
        left = (self._steps - totals.step) * seconds / steps
        loss = sum(terms.values())
        logger.info(
            "step %d/%d | loss %.3f (%s) | %.0f cells/s, %s tokens/s | %s left",
            totals.step,
            self._steps,
            loss,
            ", ".join(f"{name} {value:.3f}" for name, value in terms.items()),
            cells_per_s,
            f"{tokens_per_s:,.0f}",
            spell_time(left),
        )
        speed = {"cells_per_s": cells_per_s, "tokens_per_s": tokens_per_s}
        self._write(totals.step, "train", {"loss": loss, **terms, **others, **speed})
        self._last = Totals(**asdict(totals))

    def tell_evaluation(self, step: int, splits: Mapping[str, Mapping[str, float]]) -> None:
        """Write the metrics of an evaluation, by split and name; the log leaves out parts (@)."""
        if self._silent:
            return
        for split, values in splits.items():
            told = [f"{name} {value:.3f}" for name, value in values.items() if "@" not in name]
            logger.info("step %d/%d | %s: %s", step, self._steps, split, ", ".join(told))
            self._write(step, split, values)

    def _write(self, step: int, split: str, values: Mapping[str, float]) -> None:
        self._file.write(json.dumps({"step": step, "split": split, **values}) + "\n")
        self._file.flush()
        for sink in self._sinks:
            sink.write(step, {f"{split}/{name}": value for name, value in values.items()})

    def close(self) -> None:
        """Close every file."""
        if self._silent:
            return
        self._file.close()
        for sink in self._sinks:
            sink.close()


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Lines of a `metrics.jsonl`; a last line that a kill cut short is left out."""
    lines = path.read_text().splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.endswith("\n")]


def spell_time(seconds: float) -> str:
    """Spell seconds as people say them: "2 h 05 min", "3 min 20 s", "12 s"."""
    minutes, s = divmod(round(seconds), 60)
    hours, m = divmod(minutes, 60)
    if hours:
        return f"{hours} h {m:02d} min"
    return f"{m} min {s:02d} s" if m else f"{s} s"


def _keep_until(path: Path, step: int, *, judged_again: bool) -> None:
    """Drop the lines of steps after `step`, and maybe its evaluation: they will be told again."""
    if not path.exists():
        return
    kept = [
        line
        for line in read_metrics(path)
        if line["step"] < step
        or (line["step"] == step and (line["split"] == "train" or not judged_again))
    ]
    with whole(path) as temporary:
        temporary.write_text("".join(json.dumps(line) + "\n" for line in kept))


def _open_sink(tracker: Tracker, folder: Path, step: int) -> _Sink:
    """Open a tracker, to go on behind a step; ValueError says what to install if it is missing."""
    if importlib.util.find_spec(tracker) is None:
        message = (
            f"trainer.trackers has {tracker!r}, but the package {tracker} is not installed: "
            f"`pip install {tracker}`, or take it out of the list"
        )
        raise ValueError(message)
    return _TensorBoard(folder, step) if tracker == "tensorboard" else _WandB(folder)


class _TensorBoard:
    def __init__(self, folder: Path, step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        # What a killed run told of steps that are done again is not shown.
        self._writer = SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        self._writer.close()


class _WandB:
    def __init__(self, folder: Path) -> None:
        wandb = importlib.import_module("wandb")
        # The folder names the run, so that a resumed run goes on where it was.
        self._run = wandb.init(dir=str(folder), id=folder.name, name=folder.name, resume="allow")

    def write(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log(dict(values), step=step)

    def close(self) -> None:
        self._run.finish()
