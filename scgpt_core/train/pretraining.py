"""Generative pretraining of a model on a corpus, from scratch or from another model's weights."""

import dataclasses
import functools
import itertools
import logging
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from scgpt_core.batch import Batch
from scgpt_core.checkpoint import save_checkpoint
from scgpt_core.config import ModelConfig, PretrainSettings
from scgpt_core.data.collate import TokenSettings
from scgpt_core.data.corpus import Corpus, open_corpus
from scgpt_core.data.loader import ShardLoader, balance_weights
from scgpt_core.device import describe_device, resolve_precision
from scgpt_core.model import ScGPT
from scgpt_core.runs import read_json, whole, write_json
from scgpt_core.train.evaluation import generation_errors, model_predictor
from scgpt_core.train.flops import FlopsCounter, peak_flops
from scgpt_core.train.journal import METRICS, read_metrics
from scgpt_core.train.memory import resolve_micro_batch
from scgpt_core.train.objectives import Pretraining
from scgpt_core.train.origin import make_model, number_conditions
from scgpt_core.train.parallel import World, gather, join_world
from scgpt_core.train.predictors import GeneMean, RidgeOnPCA
from scgpt_core.train.trainer import Result, Trainer

_BASELINE_CELLS = 20_000
"""Training cells that the simple predictors are fitted to, at most."""
_BASELINE_SEED = 1
"""Of those cells and of the predictors."""

Samples = dict[str, list[Batch]]
"""Batches to evaluate on, by split."""
Errors = dict[str, dict[str, float]]
"""Mean squared errors by split and prediction (`generation_errors`)."""

logger = logging.getLogger(__name__)


def pretrain(
    corpus_folder: Path,
    output_folder: Path,
    settings: PretrainSettings,
    *,
    seed: int,
    state_folder: Path,
    init_from: Path | None = None,
    threads: int = 1,
) -> bool:
    """Pretrain a model and write its folder; False where it was stopped before its last step.

    Run again, it goes on from its last checkpoint. Under torchrun several processes share the work.

    Parameters
    ----------
    corpus_folder
        With `manifest.json`, `vocab.json` and token shards.
    output_folder
        The model folder; the learning curve, `metrics.jsonl`, is written there too.
    seed
        Of weights, order of cells, draws and dropout.
    state_folder
        Where checkpoints lie.
    init_from
        Model folder, our own or a published one, to take weights and size from (continual
        pretraining); its vocabulary may be another.
    threads
        CPU threads of this process.

    Raises
    ------
    ValueError
        Where a shard is missing or altered, or `init_from` does not fit (`make_model`).
    """
    with join_world(settings.trainer.device) as world:
        if world.device.type == "cpu":
            torch.set_num_threads(threads)
        corpus = world.together(functools.partial(_open, corpus_folder, world))
        model, origin = make_model(corpus, settings, seed=seed, init_from=init_from)
        model.to(world.device)
        objective = Pretraining(
            cell_prompt_after=settings.cell_prompt_after,
            unknown_value=model.config.mask_value,
            gepc=model.config.gepc is not None,
        )
        tokens = _token_settings(model.config, settings)
        micro_batch_cells = resolve_micro_batch(model, objective, settings.trainer, world)
        loader = _loader(
            corpus,
            tokens,
            model.config,
            settings,
            micro_batch_cells,
            world,
            seed=seed,
            threads=threads,
        )
        samples = _samples(corpus_folder, corpus, model.config, tokens, settings, seed)
        flops = FlopsCounter(model)
        trainer = Trainer(
            model,
            objective,
            loader,
            settings.trainer,
            world=world,
            steps=settings.steps or settings.epochs * loader.steps_per_epoch,
            seed=seed,
            state_folder=state_folder,
            identity=_identity(corpus, model.config, tokens, settings, origin),
            evaluate=functools.partial(_errors, samples, settings, objective, world),
            evaluate_steps=settings.evaluate_steps,
        )
        baselines = world.agree(
            _baselines(trainer.folder, corpus, tokens, samples, settings) if world.rank == 0 else {}
        )
        result = trainer.run()
        if result.finished:
            report = _report(result, settings, flops, world) | {
                "corpus": {key: corpus.manifest[key] for key in ("corpus", "digest", "census")},
                "init_from": origin,
                "seed": seed,
                "baselines": baselines,
            }
            whole_model = gather(model, world)
            if whole_model is not None:
                save_checkpoint(output_folder, whole_model, corpus.vocab, training=report)
                with whole(output_folder / METRICS) as temporary:
                    shutil.copyfile(result.folder / METRICS, temporary)
    return result.finished


def _open(folder: Path, world: World) -> Corpus:
    """Open the training cells; the processes of a machine share the hashing of its shards."""
    mine = slice(world.rank % world.local_size, None, world.local_size)
    return open_corpus(folder, split="train", verify=mine)


def _loader(
    corpus: Corpus,
    tokens: TokenSettings,
    config: ModelConfig,
    settings: PretrainSettings,
    micro_batch_cells: int,
    world: World,
    *,
    seed: int,
    threads: int,
) -> ShardLoader:
    """Read the training cells, balanced and told their conditions as the settings say."""
    on_gpu = world.device.type == "cuda"
    return ShardLoader(
        corpus,
        tokens,
        batch_cells=settings.trainer.batch_cells,
        micro_batch_cells=micro_batch_cells,
        seed=seed,
        rank=world.rank,
        world_size=world.size,
        threads=threads if on_gpu else 1,
        by_length=True,
        weights=_weights(corpus, settings),
        conditions=number_conditions(corpus, config.conditions, settings.condition_by),
        pin=on_gpu,
    )


def _identity(
    corpus: Corpus,
    config: ModelConfig,
    tokens: TokenSettings,
    settings: PretrainSettings,
    origin: str | None,
) -> dict[str, Any]:
    """Tell this run from others in its folder, beside the settings of the loop."""
    return {
        "corpus": corpus.digest,
        "init_from": origin,
        "model": config.model_dump(mode="json"),
        "tokens": dataclasses.asdict(tokens),
        "cell_prompt_after": settings.cell_prompt_after,
        "gene_start": settings.gene_start,
        "condition_by": settings.condition_by,
        "balance": settings.balance_by and [settings.balance_by, settings.balance_strength],
    }


def _weights(corpus: Corpus, settings: PretrainSettings) -> NDArray[np.float64] | None:
    """How often cells are visited, relative to each other; None: equally often."""
    if settings.balance_by is None:
        return None
    groups = corpus.obs(settings.balance_by).indices.to_numpy()
    return balance_weights(groups, settings.balance_strength)


def _token_settings(config: ModelConfig, settings: PretrainSettings) -> TokenSettings:
    """Tokens as zero-shot embedding makes them, with a split into known and unknown genes."""
    return TokenSettings.of_model(
        config,
        max_tokens=settings.max_tokens,
        unknown_shares=settings.unknown_shares,
        condition_dropout=settings.condition_dropout if settings.condition_by else 0.0,
    )


def _samples(
    folder: Path,
    corpus: Corpus,
    config: ModelConfig,
    tokens: TokenSettings,
    settings: PretrainSettings,
    seed: int,
) -> Samples:
    """Draw cells to evaluate on: `seen`, of the training cells, and `heldout`, if any are."""
    tokens = dataclasses.replace(tokens, condition_dropout=0.0)
    splits = {"seen": corpus, "heldout": open_corpus(folder, split="heldout", verify=False)}
    samples = {
        name: _sample(
            cells,
            tokens,
            settings.evaluate_cells,
            seed,
            number_conditions(cells, config.conditions, settings.condition_by),
        )
        for name, cells in splits.items()
        if cells.n_cells
    }
    if "heldout" not in samples:
        logger.warning("the corpus holds no cells out: errors are of cells that training sees")
    return samples


def _sample(
    corpus: Corpus,
    tokens: TokenSettings,
    n_cells: int,
    seed: int,
    conditions: NDArray[np.int64] | None = None,
) -> list[Batch]:
    """Up to `n_cells` of the corpus at random, in batches: the same in every process and run."""
    loader = ShardLoader(
        corpus, tokens, batch_cells=32, seed=seed, by_length=True, conditions=conditions
    )
    return list(itertools.islice(loader.batches(), -(-n_cells // 32)))


def _baselines(
    folder: Path,
    corpus: Corpus,
    tokens: TokenSettings,
    samples: Samples,
    settings: PretrainSettings,
) -> dict[str, Errors]:
    """Errors of the simple predictors by their name and split, computed once in a run's life."""
    path = folder / f"baselines_{settings.evaluate_cells}.json"
    if not path.exists():
        cells = _sample(corpus, tokens, _BASELINE_CELLS, seed=_BASELINE_SEED)
        mean = GeneMean.fit(cells, corpus.vocab.n_tokens)
        ridge = RidgeOnPCA.fit(cells, mean, seed=_BASELINE_SEED)
        errors = {
            name: {
                split: generation_errors(predict, batches, settings.unknown_shares)
                for split, batches in samples.items()
            }
            for name, predict in (("gene_mean", mean), ("ridge", ridge))
        }
        write_json(path, errors)
        for name, by_split in errors.items():
            logger.info(
                "baseline %s: %s", name, {s: round(e["gep"], 3) for s, e in by_split.items()}
            )
    return read_json(path)


def _errors(
    samples: Samples,
    settings: PretrainSettings,
    objective: Pretraining,
    world: World,
    model: ScGPT,
) -> Errors:
    """Errors of the model, over the samples that the processes share out among them."""
    predict = model_predictor(model, objective, world.device)
    return {
        split: generation_errors(predict, batches, settings.unknown_shares, world=world)
        for split, batches in samples.items()
    }


def _report(
    result: Result, settings: PretrainSettings, flops: FlopsCounter, world: World
) -> dict[str, Any]:
    """Tell what `training.json` says of the run itself."""
    totals = result.totals
    precision = resolve_precision(world.device, settings.trainer.precision)
    peak = peak_flops(world.device, precision)
    used = totals.flops / totals.seconds / world.size
    last = {line.pop("split"): line for line in read_metrics(result.folder / METRICS)}
    return {
        "objective": "generative pretraining",
        "steps": totals.step,
        "cells": totals.cells,
        "tokens": totals.tokens,
        "seconds": round(totals.seconds, 1),
        "cells_per_s": round(totals.cells / totals.seconds, 1),
        "tokens_per_s": round(totals.tokens / totals.seconds),
        "parameters": flops.parameters,
        "non_embedding_parameters": flops.non_embedding,
        "gflops_per_s_and_process": round(used / 1e9, 1),
        "flops_use": None if peak is None else round(used / peak, 3),
        "device": describe_device(world.device),
        "processes": world.size,
        "threads": torch.get_num_threads(),
        "precision": str(precision).removeprefix("torch."),
        "errors": {split: last[split] for split in ("seen", "heldout") if split in last},
        "settings": settings.model_dump(mode="json"),
    }
