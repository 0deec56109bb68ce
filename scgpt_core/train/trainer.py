"""The loop that pretraining and every fine-tuning share, from the first step to the last.

It is written for one device. Into how many processes and micro-batches a global batch is cut, and
how often the run is interrupted, changes its course in rounding at most: the loader's order and the
mean of the loss depend on the seed, the step and the global batch. What is taken within a
micro-batch follows its size: the draws of dropout, and ECS and batch norm (`compares_cells`).
"""

import contextlib
import dataclasses
import hashlib
import logging
import math
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from scgpt_core import slurm
from scgpt_core.batch import Batch
from scgpt_core.config import TrainerSettings
from scgpt_core.device import autocast, resolve_precision
from scgpt_core.model import ScGPT
from scgpt_core.portable import is_pinned
from scgpt_core.runs import digest
from scgpt_core.train.flops import FlopsCounter
from scgpt_core.train.guards import FiniteGuard, Patience, StopSignals
from scgpt_core.train.journal import Journal, Totals
from scgpt_core.train.objectives import Objective
from scgpt_core.train.optimizer import build_optimizer, clip_gradients, learning_rate
from scgpt_core.train.parallel import World, average_statistics, gradient_sync, parallelize
from scgpt_core.train.state import Checkpoints

Evaluate = Callable[[ScGPT], Mapping[str, Mapping[str, float]]]
"""Metrics by split and name, of a model in evaluation mode; called in every process."""


class Loader(Protocol):
    """What the trainer needs of a loader: a `ShardLoader`, or one of a task's own."""

    @property
    def steps_per_epoch(self) -> int:
        """Steps of a pass over the cells."""

    def __iter__(self) -> Iterator[tuple[Batch, ...]]:
        """Yield this process's micro-batches of step after step, without end."""

    def state_dict(self) -> dict[str, Any]:
        """Return the state after the step that was handed out last."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on behind it."""


_COURSE = {
    "batch_cells", "learning_rate", "weight_decay", "warmup_steps", "schedule", "decay",
    "clip_norm", "tune", "lora_rank", "lora_alpha",
}  # fmt: skip
"""Settings that change what is learned; the others change where and how fast."""

_TIME_BUDGET = "time budget"

logger = logging.getLogger(__name__)


class Result(NamedTuple):
    """How a run ended."""

    finished: bool
    """False: it was stopped and saved, and goes on when it is run again."""
    totals: Totals
    folder: Path
    """Of its checkpoints and `metrics.jsonl`."""
    earlier_seconds: float
    """Of `totals.seconds`, what runs before this one took."""


class Trainer:
    """One run of one model.

    Parameters
    ----------
    model
        On the world's device; trained in place.
    objective, loader
        What the model learns, and from which cells.
    settings
        Of the loop.
    world
        The processes that train together (`join_world`).
    steps
        Optimiser steps of the whole run.
    seed
        Of dropout.
    state_folder
        Checkpoints and metrics lie in a subfolder of it that is named after `identity`: the same
        call goes on where a run was interrupted, other settings never go on from its weights.
    identity
        JSON-serialisable: what is learned from beside `settings`, as the corpus's digest. `steps`,
        which the learning rate follows, `patience` and `seed` are added to it.
    evaluate, evaluate_steps
        Called each so many steps, and at the end.
    patience
        When to stop early; the best weights are kept, and the model has them in the end. None: all
        steps are done and the last weights stay.
    """

    def __init__(
        self,
        model: ScGPT,
        objective: Objective,
        loader: Loader,
        settings: TrainerSettings,
        *,
        world: World,
        steps: int,
        seed: int,
        state_folder: Path,
        identity: Mapping[str, Any],
        evaluate: Evaluate | None = None,
        evaluate_steps: int = 1,
        patience: Patience | None = None,
    ) -> None:
        self.model, self.objective, self.loader, self.world = model, objective, loader, world
        self.settings, self.steps, self.seed = settings, steps, seed
        self._evaluate, self._evaluate_steps, self._patience = evaluate, evaluate_steps, patience
        self._flops = FlopsCounter(model)
        self._net = parallelize(model, settings, world)
        self._optimizer = build_optimizer(model, settings)
        self._precision = resolve_precision(world.device, settings.precision)
        self._guard = FiniteGuard()
        course = settings.model_dump(mode="json", include=_COURSE) | {"steps": steps}
        course |= {"precision": str(self._precision), "portable_numerics": is_pinned()}
        if patience is not None:
            course |= {"patience": dataclasses.asdict(patience), "evaluate_steps": evaluate_steps}
        self.folder = state_folder / digest({**identity, "trainer": course, "seed": seed})[:12]
        self._checkpoints = Checkpoints(self.folder, keep=settings.keep_checkpoints, world=world)
        self._best: Checkpoints | None = None
        if patience is not None:
            self._best = Checkpoints(self.folder / "best", keep=1, world=world)
        self.totals = Totals()
        self._sums: dict[str, Tensor] = {}
        self._counts: Counter[str] = Counter()

    def run(self) -> Result:
        """Train until the last step, the early stop, a signal or the end of the time budget.

        Raises
        ------
        FloatingPointError
            Where a loss or gradient is not finite; names the step and the cells.
        """
        begin = saved = time.monotonic()
        budget_s = self._budget()
        self._resume()
        kept, stopped, earlier_s = self.totals.step, "", self.totals.seconds
        with StopSignals() as signals, contextlib.closing(self._open_journal()) as journal:
            steps = iter(self.loader)
            self.model.train()
            if self._is_judged_again and self._evaluate is not None:
                self._judge(journal, self._evaluate)
            while not self._is_over and not stopped:
                start = time.monotonic()
                self.step(next(steps))
                self.totals.seconds += time.monotonic() - start
                if self._is_due(self.settings.log_steps):
                    self._tell(journal)
                if self._evaluate is not None and self._is_due(self._evaluate_steps):
                    self._judge(journal, self._evaluate)
                now = time.monotonic()
                is_due = now - saved > 60 * self.settings.checkpoint_minutes
                signalled, spent, due = self.world.sum(
                    [bool(signals.caught), now - begin > budget_s, is_due]
                )
                if signalled:
                    stopped = signals.caught or "a signal to another process"
                elif spent:
                    stopped = _TIME_BUDGET
                elif due:
                    self._save()
                    kept, saved = self.totals.step, now
            if self.totals.step > kept:
                self._save()
        self._close()
        if stopped == _TIME_BUDGET and not self._is_over and self.world.rank == 0:
            slurm.requeue()
        # The first process that ends unfinished takes the others along: the checkpoint is whole.
        self.world.agree(None)
        return self._end(stopped, earlier_s)

    def step(self, batches: Sequence[Batch]) -> None:
        """Do one optimiser step on the global batch, of which `batches` are this process's."""
        step, world, progress = self.totals.step, self.world, self.totals.step / self.steps
        rate = learning_rate(
            step, self.settings, steps=self.steps, steps_per_epoch=self.loader.steps_per_epoch
        )
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        shares = self._count(batches, progress)
        losses = []
        for i, batch in enumerate(batches):
            # By the place in the global batch: equal dropout however many processes there are.
            torch.manual_seed(_dropout_seed(self.seed, step, i * world.size + world.rank))
            with gradient_sync(self._net, wanted=i == len(batches) - 1):
                with autocast(world.device, self._precision):
                    terms = self.objective(self._net, batch.to(world.device), progress)
                parts = {name: term.float() * shares[i][name] for name, term in terms.items()}
                loss = torch.stack(list(parts.values())).sum()
                # Processes average their gradients, where a sum over them is due.
                (loss * world.size).backward()  # type: ignore[no-untyped-call]
            losses.append(loss.detach())
            for name, part in parts.items():
                self._sums[name] = self._sums.get(name, torch.zeros_like(part)) + part.detach()
        self._counts.update(parts.keys())
        self._guard.check()
        norm = clip_gradients(self.model, self.settings.clip_norm)
        self._guard.watch(step + 1, norm, losses, batches)
        self._optimizer.step()
        self._optimizer.zero_grad()
        average_statistics(self.model, world)
        self.totals.step += 1

    def _count(self, batches: Sequence[Batch], progress: float) -> list[dict[str, float]]:
        """Add to the totals; returns, by term, each micro-batch's share of the global elements."""
        sizes = [self.objective.sizes(batch) for batch in batches]
        names = list(sizes[0])
        tokens_B = torch.cat([(~batch.padding_BL).sum(1) for batch in batches])
        *elements, cells, tokens, flops = self.world.sum(
            [sum(size[name] for size in sizes) for name in names]
            + [len(tokens_B), int(tokens_B.sum()), self._flops(tokens_B)]
        )
        self.totals.cells += int(cells)
        self.totals.tokens += int(tokens)
        self.totals.flops += flops * self.objective.passes(progress)
        return [
            {name: size[name] / n if n else 0.0 for name, n in zip(names, elements, strict=True)}
            for size in sizes
        ]

    def _tell(self, journal: Journal) -> None:
        """Write the mean terms of the steps since the last call that had them."""
        self._guard.check()
        terms = {name: x / self._counts[name] for name, x in self._gather_sums().items()}
        rate = self._optimizer.param_groups[0]["lr"]
        journal.tell_training(self.totals, terms, grad_norm=self._guard.norm, learning_rate=rate)
        self._sums.clear()
        self._counts.clear()

    def _gather_sums(self) -> dict[str, float]:
        """Sum each term over the steps since the last line of the journal, in all processes."""
        sums = self.world.sum([total.item() for total in self._sums.values()])
        return dict(zip(self._sums, sums, strict=True))

    def _judge(self, journal: Journal, evaluate: Evaluate) -> None:
        """Evaluate, and keep the weights where they are the best so far."""
        self._guard.check()
        self.model.eval()
        with torch.no_grad(), autocast(self.world.device, self._precision):
            # One process's figures for all: in their last digits they may differ, and who saves or
            # stops alone waits for the others for ever.
            splits = self.world.agree(evaluate(self.model))
        self.model.train()
        journal.tell_evaluation(self.totals.step, splits)
        if self._patience is not None and self._best is not None:
            value = splits[self._patience.split][self._patience.metric]
            if self._patience.judge(self.totals.step, value):
                self._best.save(self.model, self._optimizer, self._state())

    def _save(self) -> None:
        self._guard.check()
        if self._best is not None:
            self._best.wait()  # no checkpoint may tell of best weights that are not on disk
        self._checkpoints.save(self.model, self._optimizer, self._state())

    def _close(self) -> None:
        """Wait for what is being written: what follows may end the process."""
        for checkpoints in (self._best, self._checkpoints):
            if checkpoints is not None:
                checkpoints.close()

    def _state(self) -> dict[str, Any]:
        return {
            "step": self.totals.step,
            "totals": dataclasses.asdict(self.totals),
            "loader": self.loader.state_dict(),
            "patience": None if self._patience is None else dataclasses.asdict(self._patience),
            "sums": self._gather_sums(),
            "counts": self._counts,
        }

    def _resume(self) -> None:
        """Go on from the newest whole checkpoint, that of the best weights among them."""
        saved = [c for c in (self._checkpoints, self._best) if c is not None]
        saved.sort(key=lambda checkpoints: checkpoints.newest, reverse=True)
        restored = (c.restore(self.model, self._optimizer) for c in saved)
        state = next((state for state in restored if state is not None), None)
        if state is None:
            logger.info("training %d steps; checkpoints in %s", self.steps, self.folder)
            return
        self.totals = Totals(**state["totals"])
        self.loader.load_state_dict(state["loader"])
        for name, total in state["sums"].items():  # those of all processes, in the first
            total = total if self.world.rank == 0 else 0.0
            self._sums[name] = torch.tensor(total, device=self.world.device)
        self._counts = Counter(state["counts"])
        if self._patience is not None:
            self._patience = Patience(**state["patience"])
            self._look_for_best(self._patience)
        step = self.totals.step
        logger.info("going on after step %d of %d from %s", step, self.steps, self.folder)

    def _look_for_best(self, patience: Patience) -> None:
        """Where the best weights were not written, let the next evaluation be the best."""
        if self._best is not None and self._best.newest != patience.best_step:
            logger.warning(
                "the best weights, of step %d, are not in %s: the best are looked for anew",
                patience.best_step,
                self._best.folder,
            )
            patience.best, patience.best_step, patience.waited = math.inf, 0, 0

    def _open_journal(self) -> Journal:
        return Journal(
            self.folder,
            steps=self.steps,
            trackers=self.settings.trackers,
            totals=self.totals,
            judged_again=self._is_judged_again,
            silent=self.world.rank > 0,
        )

    def _budget(self) -> float:
        """Seconds that this run may take: as set, and what its Slurm job has left but a margin."""
        budget_s = 60 * (self.settings.time_budget_minutes or math.inf)
        left_s = slurm.seconds_left() if self.world.rank == 0 else None
        if left_s is None:
            return budget_s
        # Something in any case: also a job that is shorter than the margin must come further.
        return min(budget_s, max(left_s - 60 * self.settings.time_margin_minutes, left_s / 50))

    def _end(self, stopped: str, earlier_s: float) -> Result:
        """Say how the run ended; give the model its best weights where they were kept."""
        if not self._is_over:
            logger.warning(
                "stopped after step %d of %d (%s) and saved: run it again to go on",
                self.totals.step,
                self.steps,
                stopped,
            )
        elif self._best is not None and self._patience is not None and self._patience.best_step:
            state, step = self._best.restore(self.model, self._optimizer), self._patience.best_step
            if state is None or state["step"] != step:
                message = (
                    f"the best weights, of step {step}, are not whole in {self._best.folder} (the"
                    f" log says why, as a full disk): delete {self.folder} and run again"
                )
                raise ValueError(message)
            logger.info("the best weights are of step %d", step)
        return Result(self._is_over, self.totals, self.folder, earlier_s)

    @property
    def _is_judged_again(self) -> bool:
        """Whether the run was over before: the cells to evaluate may be others than they were."""
        return self._is_over and self._evaluate is not None and self._patience is None

    @property
    def _is_over(self) -> bool:
        impatient = self._patience is not None and self._patience.is_over
        return self.totals.step >= self.steps or impatient

    def _is_due(self, every: int) -> bool:
        return self.totals.step % every == 0 or self.totals.step == self.steps


def _dropout_seed(seed: int, step: int, position: int) -> int:
    """Mix the three into 63 bits, so that steps and micro-batches draw independently."""
    mixed = hashlib.blake2b(f"{seed}/{step}/{position}".encode(), digest_size=8).digest()
    return int.from_bytes(mixed, "little") >> 1
