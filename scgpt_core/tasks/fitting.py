"""What fine-tuning on a data set shares, whatever the task: job, held-out cells, early stop.

Shapes: N cells of a data set, B of a mini-batch, D width.
"""

import contextlib
import dataclasses
import functools
import shutil
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numba
import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F  # noqa: N812

from scgpt_core.batch import Batch
from scgpt_core.checkpoint import Checkpoint, load_checkpoint
from scgpt_core.config import FineTuningSettings
from scgpt_core.data.binning import draw_keys
from scgpt_core.data.collate import TokenSettings
from scgpt_core.data.loader import ShardLoader
from scgpt_core.data.sources import ArraySource
from scgpt_core.device import autocast
from scgpt_core.model import ScGPT
from scgpt_core.runs import EARLIER, run_record, sha256
from scgpt_core.tasks.variants import Init
from scgpt_core.train.guards import Patience
from scgpt_core.train.memory import resolve_micro_batch
from scgpt_core.train.objectives import Objective, compares_cells
from scgpt_core.train.parallel import World, join_world
from scgpt_core.train.trainer import Evaluate, Loader, Trainer
from scgpt_core.train.tuning import merge, restrict

_FOR_HELDOUT = 7  # added to the seed: cells are not held out by the draws of their genes
_EVALUATION_CELLS = 64
HELDOUT = "heldout"
"""Split of the cells that an early stop looks at."""


class UnfinishedError(Exception):
    """A fit was stopped and saved before its end; run again, it goes on."""


class Fit(NamedTuple):
    """How a fit ended."""

    folder: Path
    """Of its checkpoints and `metrics.jsonl`."""
    record: dict[str, Any]
    """For `run.json`: steps, seconds, which weights were trained, peak memory on a GPU."""


class Job(NamedTuple):
    """One process of those that fine-tune a model on a data set."""

    world: World
    ckpt: Checkpoint
    """What the fine-tuning starts from."""
    init: Init
    seed: int
    """Of all draws."""
    state_folder: Path
    """Where checkpoints lie: a fit that was interrupted goes on."""
    identity: dict[str, Any]
    """Digests of data set and model, and `init`: which job this is, whatever its settings."""
    run: dict[str, Any]
    """What goes into `run.json` beside settings, seconds and memory, in process 0."""


@contextlib.contextmanager
def fine_tuning(
    dataset: str | Path,
    model_folder: str | Path,
    output_folder: str | Path,
    state_folder: str | Path,
    *,
    settings: FineTuningSettings,
    init: Init,
    seed: int,
    threads: int,
    **asked: Any,
) -> Iterator[Job]:
    """Join the processes that fine-tune a model on a data set; process 0 keeps the record.

    Where the block ends well, `run.json` is written, and the checkpoints are deleted.

    Parameters
    ----------
    output_folder
        Gets `run.json`.
    state_folder
        Of checkpoints.
    threads
        CPU threads of this process.
    asked
        What the record tells of the job beside `settings`, `init` and `seed`.
    """
    described = {**settings.model_dump(mode="json"), "init": init, "seed": seed, **asked}
    with contextlib.ExitStack() as stack:
        world = stack.enter_context(join_world(settings.trainer.device))
        run: dict[str, Any] = {}
        if world.rank == 0:
            run = stack.enter_context(run_record(Path(output_folder) / "run.json", described))
        if world.device.type == "cpu":
            numba.get_num_threads()  # starts its threads, which sets torch's number too: before us
            torch.set_num_threads(threads)
        ckpt = load_checkpoint(model_folder, world.device.type, settings.trainer.attention)
        identity = {"dataset": sha256(dataset), "model": ckpt.digest, "init": init}
        run |= {**identity, "device": str(world.device)}
        yield Job(world, ckpt, init, seed, Path(state_folder), identity, run)
    if world.rank == 0:
        shutil.rmtree(state_folder)


def fit_by_epochs(
    model: ScGPT,
    objective: Objective,
    tokens: TokenSettings,
    *,
    train: ArraySource,
    heldout: ArraySource,
    settings: FineTuningSettings,
    job: Job,
    identity: Mapping[str, Any],
    heldout_tokens: TokenSettings | None = None,
    epoch_steps: int | None = None,
) -> Fit:
    """Fine-tune a model in place; in the end it has the weights of the lowest held-out loss.

    Parameters
    ----------
    tokens, heldout_tokens
        How cells are read; held-out ones like the others, where nothing else is said.
    train, heldout
        Cells; without held-out ones there is no early stop.
    identity
        What tells this fit from others of the job, beside cells, tokens, model and loop.
    epoch_steps
        Steps that count as an epoch; None: a pass over the training cells.

    Raises
    ------
    UnfinishedError
        Where a signal or the time budget stopped it.
    """
    evaluate = None
    if heldout.n_cells:
        cells = loader_of_all(heldout, heldout_tokens or tokens, job.seed)
        evaluate = functools.partial(_evaluate, objective, cells, job.world)
    load = functools.partial(
        ShardLoader,
        train,
        tokens,
        batch_cells=settings.trainer.batch_cells,
        seed=job.seed,
        rank=job.world.rank,
        world_size=job.world.size,
        pin=job.world.device.type == "cuda",
    )
    return fit_by_steps(
        model,
        objective,
        load,
        settings=settings,
        job=job,
        identity={**identity, "cells": train.digest, "tokens": dataclasses.asdict(tokens)},
        evaluate=evaluate,
        epoch_steps=epoch_steps,
    )


def fit_by_steps(
    model: ScGPT,
    objective: Objective,
    load: Callable[..., Loader],
    *,
    settings: FineTuningSettings,
    job: Job,
    identity: Mapping[str, Any],
    evaluate: Evaluate | None,
    judge_by: str = HELDOUT,
    epoch_steps: int | None = None,
) -> Fit:
    """Fine-tune a model in place, on the batches of any loader; see `fit_by_epochs`.

    Parameters
    ----------
    load
        Makes the loader, for `micro_batch_cells` cells in a micro-batch.
    evaluate
        Called each epoch; None: there is no early stop.
    judge_by
        The split of it whose `loss` stops the fit early.
    """
    record = restrict(model, settings.trainer, seed=job.seed)
    micro_batch_cells = resolve_micro_batch(model, objective, settings.trainer, job.world)
    loader = load(micro_batch_cells=micro_batch_cells)
    epoch_steps = epoch_steps or loader.steps_per_epoch
    identity = {**job.identity, **identity, "model_config": model.config.model_dump(mode="json")}
    if compares_cells(objective, model):
        identity["micro_batch_cells"] = micro_batch_cells
    result = Trainer(
        model,
        objective,
        loader,
        settings.trainer,
        world=job.world,
        steps=settings.steps or settings.epochs * epoch_steps,
        seed=job.seed,
        state_folder=job.state_folder,
        identity=identity,
        evaluate=evaluate,
        evaluate_steps=epoch_steps,
        patience=evaluate and Patience(judge_by, "loss", settings.patience),
    ).run()
    if not result.finished:
        message = f"stopped after step {result.totals.step} and saved: run it again to go on"
        raise UnfinishedError(message)
    merge(model)
    job.run[EARLIER] = round(job.run.get(EARLIER, 0.0) + result.earlier_seconds, 3)
    record |= {"steps": result.totals.step, "seconds": round(result.totals.seconds, 3)}
    if job.world.device.type == "cuda":
        record["peak_gpu_memory_mb"] = round(torch.cuda.max_memory_allocated() / 1e6, 1)
    return Fit(result.folder, record)


def hold_out(
    cell_ids: NDArray[np.int64], batch_N: NDArray[np.int64], share: float, seed: int
) -> NDArray[np.bool_]:
    """Draw about this share of every batch, but never all of it: (N,), True for cells held out."""
    draw_N = draw_keys(seed + _FOR_HELDOUT, 0, cell_ids)
    heldout_N = np.zeros(len(cell_ids), bool)
    for code in np.unique(batch_N):
        rows = np.flatnonzero(batch_N == code)
        n = min(round(share * len(rows)), len(rows) - 1)
        heldout_N[rows[np.argsort(draw_N[rows], kind="stable")[:n]]] = True
    return heldout_N


def loader_of_all(source: ArraySource, tokens: TokenSettings, seed: int) -> ShardLoader:
    """All cells in order, with equal draws in every epoch."""
    return ShardLoader(source, tokens, batch_cells=_EVALUATION_CELLS, seed=seed, shuffle=False)


@torch.inference_mode()
def embed_batches(
    model: ScGPT, batches: Iterable[Batch], precision: torch.dtype
) -> NDArray[np.float32]:
    """Embed cells batch by batch: (N, D), each row of length one.

    Parameters
    ----------
    model
        In evaluation mode.
    precision
        Of matrix products.
    """
    device = next(model.parameters()).device
    parts = []
    with autocast(device, precision):
        for batch in batches:
            cell_BD = model(batch.to(device), heads=()).cell_BD
            parts.append(F.normalize(cell_BD.float(), dim=1).cpu().numpy())
    return np.concatenate(parts)


def _evaluate(
    objective: Objective, heldout: ShardLoader, world: World, model: ScGPT
) -> dict[str, dict[str, float]]:
    """Mean terms over held-out cells; `loss` is of what is predicted, expression or classes.

    ECS and DAR are left out of it: they depend on which cells share a mini-batch, and the latter is
    a game whose value does not tell how good the embedding is.
    """
    sums: dict[str, float] = defaultdict(float)
    numbers: dict[str, float] = defaultdict(float)
    for batch in heldout.batches():
        sizes = objective.sizes(batch)
        for name, term in objective(model, batch.to(world.device), 1.0).items():
            sums[name] += term.item() * sizes[name]
            numbers[name] += sizes[name]
    means = {name: sums[name] / numbers[name] if numbers[name] else 0.0 for name in sums}
    loss = sum(mean for name, mean in means.items() if name not in ("ecs", "dar"))
    return {HELDOUT: {"loss": loss, **means}}
