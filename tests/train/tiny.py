"""A training run of seconds: 96 drawn cells, 24 genes, a model of a few thousand weights.

As a script it is one process of a run, or of several one after another, each in a folder of its
name: `torchrun tests/train/tiny.py FOLDER '{"first": {"steps": 20}}'`.
"""

import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

from scgpt_core.batch import Batch
from scgpt_core.config import ModelConfig, TrainerSettings
from scgpt_core.data.cells import Cells, cells_from_csr
from scgpt_core.data.collate import TokenSettings, to_batch
from scgpt_core.data.loader import ShardLoader
from scgpt_core.data.sources import ArraySource
from scgpt_core.model import ScGPT
from scgpt_core.runs import start_logging
from scgpt_core.train.objectives import Pretraining
from scgpt_core.train.parallel import World, join_world
from scgpt_core.train.trainer import Trainer

N_CELLS, N_GENES, MAX_TOKENS = 96, 24, 16
PAD, CLS = N_GENES, N_GENES + 1
ALONE = World(rank=0, size=1, local_size=1, device=torch.device("cpu"))
SHARES = (0.25, 0.5, 0.75)


def make_cells(n_cells: int = N_CELLS) -> Cells:
    """Cells of three types, which differ in the rates of all genes."""
    rng = np.random.default_rng(0)
    rates = rng.gamma(1, 3, (3, N_GENES))
    counts = rng.poisson(rates[rng.integers(0, 3, n_cells)])
    rows, columns = counts.nonzero()
    return cells_from_csr(
        np.concatenate([[0], np.bincount(rows, minlength=n_cells).cumsum()]),
        columns,
        counts[rows, columns],
        token_ids=np.arange(N_GENES),
        cell_ids=np.arange(1000, 1000 + n_cells),
    )


def make_config(**changes: Any) -> ModelConfig:
    settings: dict[str, Any] = {
        "width": 16, "n_layers": 2, "n_heads": 2, "ffn_width": 16, "dropout": 0.1,
        "n_tokens": N_GENES + 2, "pad_id": PAD, "cls_id": CLS, "max_tokens": MAX_TOKENS,
    }  # fmt: skip
    return ModelConfig(**settings | changes)


def make_model(**changes: Any) -> ScGPT:
    torch.manual_seed(0)
    return ScGPT(make_config(**changes))


TOKENS = TokenSettings(
    max_tokens=MAX_TOKENS,
    n_bins=51,
    pad_id=PAD,
    cls_id=CLS,
    pad_value=-2,
    mask_value=-1,
    cls_value=-2,
    unknown_shares=SHARES,
)


def make_batch(n_cells: int = 8) -> Batch:
    return to_batch(make_cells(n_cells), TOKENS, seed=0)


def make_trainer(
    folder: Path,
    *,
    steps: int,
    world: World = ALONE,
    model: ScGPT | None = None,
    seed: int = 0,
    trainer: dict[str, Any] | None = None,
    loader: type[ShardLoader] = ShardLoader,
    **others: Any,
) -> Trainer:
    """A pretraining run with dropout, accumulation and a cell-prompted second half."""
    defaults = {"batch_cells": 16, "micro_batch_cells": 4, "learning_rate": 1e-2, "log_steps": 1}
    settings = TrainerSettings(**defaults | (trainer or {}))
    return Trainer(
        model or make_model(),
        Pretraining(cell_prompt_after=0.5, unknown_value=-1),
        loader(
            ArraySource(make_cells()),
            TOKENS,
            batch_cells=settings.batch_cells,
            micro_batch_cells=settings.micro_batch_cells,
            seed=seed,
            rank=world.rank,
            world_size=world.size,
        ),
        settings,
        world=world,
        steps=steps,
        seed=seed,
        state_folder=folder,
        identity={},
        **others,
    )


def weights_of(model: ScGPT) -> dict[str, torch.Tensor]:
    """Whole weights, in the first process."""
    return get_model_state_dict(
        model, options=StateDictOptions(full_state_dict=True, cpu_offload=True)
    )


class SlowLoader(ShardLoader):
    """Waits before each step, so that a run can be hit in its middle."""

    def __iter__(self) -> Iterator[tuple[Batch, ...]]:
        for batches in super().__iter__():
            time.sleep(0.02)
            yield batches


def main(folder: str, options: str) -> None:
    start_logging()
    with join_world("cpu") as world:
        finished = [
            run(Path(folder) / name, world, **settings)
            for name, settings in json.loads(options).items()
        ]
    sys.exit(0 if all(finished) else 75)


def run(folder: Path, world: World, *, slow: bool = False, **settings: Any) -> bool:
    """Train, and write the weights; False where it was stopped."""
    if slow:
        settings["loader"] = SlowLoader
    trainer = make_trainer(folder, world=world, **settings)
    result = trainer.run()
    weights = weights_of(trainer.model)
    if weights:
        torch.save(weights, folder / "weights.pt")
    return result.finished


if __name__ == "__main__":
    main(*sys.argv[1:])
