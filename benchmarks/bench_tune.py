"""What of a model is fine-tuned (all, frozen layers, LoRA): seconds and memory of a training step.

The published size with random weights, integration's objective on real cells. Each fit is a process
of its own, whose greatest resident memory is told; they run in turn.

On a CPU attention keeps its scores for the backward pass: 8 cells of 1,200 genes take 17 GB, where
300 genes take 3.5.
"""

import argparse
import multiprocessing
import tempfile
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch

from benchmarks.bench_pretrain import SIZES
from benchmarks.harness import report, wall_time
from benchmarks.real_cells import CLS_ID, N_TOKENS, PAD_ID, read_cells
from scgpt_core.config import FineTuningTrainer, ModelConfig
from scgpt_core.data.collate import TokenSettings
from scgpt_core.data.loader import ShardLoader
from scgpt_core.data.sources import ArraySource
from scgpt_core.device import describe_device
from scgpt_core.model import ScGPT
from scgpt_core.runs import peak_memory_mb
from scgpt_core.train.objectives import Integration
from scgpt_core.train.parallel import join_world
from scgpt_core.train.trainer import Trainer
from scgpt_core.train.tuning import restrict

TUNES = get_args(FineTuningTrainer.model_fields["tune"].annotation)


def fit(tune: str, size: str, n_genes: int, batch_cells: int, steps: int) -> dict[str, Any]:
    """Do so many steps after one to warm up; what a step took, and the memory of the process."""
    cells = read_cells("pbmc_zheng_facs", min_genes=200, max_genes=3000)
    genes = np.unique(cells.genes)[:n_genes]
    config = ModelConfig(
        **SIZES[size], n_tokens=N_TOKENS, pad_id=PAD_ID, cls_id=CLS_ID, max_tokens=n_genes + 1,
        gepc="inner product", explicit_zero_prob=True,
    )  # fmt: skip
    tokens = TokenSettings.of_model(
        config, max_tokens=n_genes + 1, cls_value=0, genes=tuple(genes.tolist()), mask_share=0.4
    )
    objective = Integration(
        gepc=True, zero_prob=True, ecs_threshold=0.8, ecs_weight=10, dar_weight=0
    )
    settings = FineTuningTrainer(tune=tune, batch_cells=batch_cells)
    with join_world() as world, tempfile.TemporaryDirectory() as folder:
        model = ScGPT(config).to(world.device)
        restricted = restrict(model, settings, seed=0)
        trainer = Trainer(
            model,
            objective,
            ShardLoader(
                ArraySource(cells), tokens, batch_cells=batch_cells,
                micro_batch_cells=batch_cells, seed=0,
            ),
            settings,
            world=world,
            steps=1_000_000,
            seed=0,
            state_folder=Path(folder),
            identity={},
        )  # fmt: skip
        batches = iter(trainer.loader)
        trainer.step(next(batches))
        start = wall_time()
        for _ in range(steps):
            trainer.step(next(batches))
        is_gpu = world.device.type == "cuda"
        return {
            **restricted,
            "cells_per_s": steps * batch_cells / (wall_time() - start),
            "peak_mb": torch.cuda.max_memory_allocated() / 1e6 if is_gpu else peak_memory_mb(),
            "device": describe_device(world.device),
        }


def main(size: str, *, runs: int, **options: int) -> None:
    """Measure each in turn, and tell it beside the tuning of all weights."""
    context = multiprocessing.get_context("spawn")
    told: dict[str, list[dict[str, Any]]] = {tune: [] for tune in TUNES}
    for _ in range(runs):
        for tune in TUNES:
            with context.Pool(1) as pool:
                told[tune].append(pool.apply(fit, (tune, size), options))
    described = {"ours": "lora", "baseline": "all", "device": told["all"][0]["device"]}
    trained = {tune: fits[0]["trained_weights"] for tune, fits in told.items()}
    notes = {"size": size, **options, "weights": told["all"][0]["weights"], "trained": trained}
    for name, unit, key in (
        ("tune", "cells/s", "cells_per_s"),
        ("tune_memory", "MB, greatest resident memory", "peak_mb"),
    ):
        figures = {tune: [fit[key] for fit in fits] for tune, fits in told.items()}
        report(
            name, unit=unit, runs=figures, less_is_better=key == "peak_mb", notes=notes, **described
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", choices=SIZES, default="published")
    parser.add_argument("--n-genes", type=int, default=300)
    parser.add_argument("--batch-cells", type=int, default=8)
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--runs", type=int, default=3)
    options = vars(parser.parse_args())
    main(options.pop("size"), **options)
