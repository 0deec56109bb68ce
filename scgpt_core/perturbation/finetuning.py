"""Fine-tuning for perturbation prediction: control cell in, perturbed cell out (GEP with flags).

What differs from the published tutorial, by choice: perturbed genes are tokens also where they are
not measured or not drawn; values of all genes are predicted at inference; and, by config, the
target is the mean change, which a random perturbed cell only adds noise to.

Shapes: C conditions, S strata, G measured genes, M control cells, T tokens of the vocabulary.
"""

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from scgpt_core.checkpoint import save_checkpoint
from scgpt_core.config import PerturbationSettings
from scgpt_core.data.identity import digest_cells
from scgpt_core.device import autocast, resolve_precision
from scgpt_core.model import ScGPT
from scgpt_core.networks.gene_sets import GeneSets, read_gene_sets
from scgpt_core.perturbation.data import Perturbations, genes_of
from scgpt_core.perturbation.pairs import PairLoader, Tokens
from scgpt_core.perturbation.predictions import (
    FloatArray,
    Predictor,
    predict_folds,
    read_dataset,
    write_predictions,
)
from scgpt_core.perturbation.splits import Fold
from scgpt_core.perturbation.variant import (
    add_tokens,
    make_model,
    make_tokens,
    scale_predictions,
)
from scgpt_core.tasks.fitting import Fit, Job, fine_tuning, fit_by_steps
from scgpt_core.tasks.variants import Init
from scgpt_core.train.journal import METRICS, read_metrics
from scgpt_core.train.objectives import Perturbation
from scgpt_core.train.parallel import gather
from scgpt_core.train.trainer import Evaluate

_VALIDATION = "validation"
_VALIDATION_CELLS = 32  # control cells whose mean prediction is held against the truth


def fit(
    model: ScGPT,
    data: Perturbations,
    fold: Fold,
    tokens: Tokens,
    settings: PerturbationSettings,
    job: Job,
) -> Fit:
    """Fine-tune a model in place; in the end it has the weights of the best validation.

    Parameters
    ----------
    model, tokens
        From `make_model` and `make_tokens`.
    fold
        Whose training conditions are learned from.
    """
    cells_N = fold.cells(data, fold.train)
    shift_CSG, unit = None, 1.0
    if settings.target == "shift":
        shift_CSG = stratum_shifts(data, cells_N)
        # Changes are far smaller than what a new head predicts: they are learned in units of them.
        unit = float(np.sqrt(np.square(shift_CSG).sum() / np.count_nonzero(shift_CSG)))
        shift_CSG /= unit
    load = functools.partial(
        PairLoader,
        data,
        cells_N,
        tokens,
        shift_CSG=shift_CSG,
        max_genes=settings.max_genes,
        batch_cells=settings.trainer.batch_cells,
        seed=job.seed,
        rank=job.world.rank,
        world_size=job.world.size,
    )
    learned = settings.model_dump(
        mode="json", exclude={"split", "control_cells", "pair_genes", "trainer"}
    )
    fitted = fit_by_steps(
        model,
        Perturbation(),
        load,
        settings=settings,
        job=job,
        identity={
            "settings": learned,
            "cells": digest_cells(data.cell_ids[cells_N]),
            "validation": fold.validation,
        },
        evaluate=_validation(data, fold, tokens, settings) if fold.validation else None,
        judge_by=_VALIDATION,
    )
    scale_predictions(model, unit)
    return fitted


def stratum_shifts(data: Perturbations, cells_N: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Mean change of these cells by condition and stratum: (C, S, G); 0 where there are none."""
    n_strata = int(data.stratum.max()) + 1
    shift_CSG = np.zeros((len(data.conditions), n_strata, len(data.genes)))
    for stratum in range(n_strata):
        here_N = data.stratum == stratum
        present = sorted(set(data.condition_N[cells_N & here_N].tolist()))
        rows = [data.conditions.index(name) for name in present]
        shift_CSG[rows, stratum] = data.shifts(
            present, cells_N=cells_N & here_N, controls_N=data.is_input & here_N
        )
    return shift_CSG


def _validation(
    data: Perturbations, fold: Fold, tokens: Tokens, settings: PerturbationSettings
) -> Evaluate:
    """Mean over validation conditions of 1 - correlation of the predicted with the true change."""
    true_CG = data.shifts(
        fold.validation, cells_N=fold.cells(data, fold.validation), controls_N=data.is_input
    )
    rows_CM = [
        data.match_controls(fold.cells(data, [condition]), _VALIDATION_CELLS)
        for condition in fold.validation
    ]

    def evaluate(model: ScGPT) -> dict[str, dict[str, float]]:
        predictor = ModelPredictor(model, data, tokens, settings)
        losses = []
        for condition, rows_M, true_G in zip(fold.validation, rows_CM, true_CG, strict=True):
            change_MG = predictor(genes_of(condition), rows_M) - data.log_NG[rows_M].toarray()
            losses.append(1 - np.corrcoef(change_MG.mean(axis=0), true_G)[0, 1])
        return {_VALIDATION: {"loss": float(np.mean(losses))}}

    return evaluate


class ModelPredictor:
    """A fine-tuned model as a `Predictor`.

    Parameters
    ----------
    model
        Of `make_model`, fine-tuned.
    data, tokens, settings
        The cells, and how they are read; where the target is a change, it is added to the cells.
    """

    def __init__(
        self, model: ScGPT, data: Perturbations, tokens: Tokens, settings: PerturbationSettings
    ) -> None:
        self.model, self.data, self.tokens, self.settings = model, data, tokens, settings

    @torch.inference_mode()
    def __call__(self, genes: Sequence[str], rows_M: NDArray[np.int64]) -> FloatArray:
        """Log-normalised expression of control cells under a perturbation: (M, G)."""
        self.model.eval()
        device = next(self.model.parameters()).device
        trainer, data, columns = self.settings.trainer, self.data, self.tokens.columns
        predicted_MG = np.asarray(data.log_NG[rows_M].toarray())
        size = trainer.micro_batch_cells or trainer.batch_cells
        with autocast(device, resolve_precision(device, trainer.precision)):
            for start in range(0, len(rows_M), size):
                rows = rows_M[start : start + size]
                batch = self.tokens.batch(
                    data.log_NG[rows], [genes] * len(rows), data.cell_ids[rows]
                )
                gep_BL = self.model(batch.to(device), heads={"gep"}).gep_BL
                gep_BG = gep_BL[:, 1 : 1 + len(columns)].float().cpu().numpy()
                cells = np.s_[start : start + size, columns]
                predicted_MG[cells] = gep_BG + (
                    predicted_MG[cells] if self.settings.target == "shift" else 0
                )
        return predicted_MG


class _FineTuning:
    """The model as a method: fine-tuned anew on each fold; process 0 keeps the models."""

    def __init__(
        self,
        job: Job,
        settings: PerturbationSettings,
        *,
        gene_sets: GeneSets,
        output_folder: Path,
    ) -> None:
        self.job, self.settings = job, settings
        self.gene_sets, self.output_folder = gene_sets, output_folder
        self.kept: list[dict[str, Any]] = []
        """Test conditions, record and learning curve of each fit."""

    def __call__(self, data: Perturbations, fold: Fold) -> Predictor:
        job = self.job
        ckpt = add_tokens(job.ckpt, data, min_matched=self.settings.min_matched)
        tokens = make_tokens(ckpt, data, self.settings)
        model = make_model(
            ckpt,
            data,
            tokens,
            self.settings,
            gene_sets=self.gene_sets,
            init=job.init,
            seed=job.seed,
        )
        fitted = fit(model, data, fold, tokens, self.settings, job)
        curve = read_metrics(fitted.folder / METRICS)
        kept = {"test": fold.test, **fitted.record, "curve": curve}
        tuned = gather(model, job.world)
        if tuned is not None:
            folder = self.output_folder / f"models/{len(self.kept)}"
            save_checkpoint(folder, tuned, ckpt.vocab, training={**job.identity, **kept})
        self.kept.append(kept)
        return self._shared(
            None if tuned is None else ModelPredictor(tuned, data, tokens, self.settings)
        )

    def _shared(self, predictor: ModelPredictor | None) -> Predictor:
        """Let process 0 predict, and the others have what it predicts."""

        def predict(genes: Sequence[str], rows_M: NDArray[np.int64]) -> FloatArray:
            own_MG = None if predictor is None else predictor(genes, rows_M)
            predicted_MG = self.job.world.agree(own_MG)
            assert predicted_MG is not None
            return predicted_MG

        return predict


def perturb_dataset(
    dataset: str | Path,
    model_folder: str | Path,
    output_folder: str | Path,
    state_folder: str | Path,
    *,
    split: str | Path,
    gene_sets: str | Path,
    settings: PerturbationSettings,
    init: Init,
    seed: int,
    threads: int = 1,
) -> None:
    """Fine-tune a model on each fold of a data set, and predict the fold's test conditions.

    Parameters
    ----------
    dataset
        h5ad of `prepare_dataset`, with the columns of `read_conditions`.
    output_folder
        Gets `predictions.h5ad` and `reverse.parquet` (see `predict_folds`), the fine-tuned
        `models/`, one a fold, and `run.json`: settings, digests, learning curves, seconds, memory.
    state_folder
        Of checkpoints; deleted in the end.
    split, gene_sets
        Folds of the data set, and a .gmt file for `gene_start: pathways`.
    init
        "random": the model folder gives its vocabulary and size alone.
    threads
        CPU threads.

    Raises
    ------
    ValueError
        Where the data, the split or the model are not as they should be.
    UnfinishedError
        Where a signal or the time budget stopped a fit.
    """
    data, folds = read_dataset(dataset, split)
    output_folder = Path(output_folder)
    with fine_tuning(
        dataset, model_folder, output_folder, state_folder, settings=settings, init=init,
        seed=seed, threads=threads,
    ) as job:  # fmt: skip
        sets = read_gene_sets(gene_sets) if settings.gene_start == "pathways" else {}
        learn = _FineTuning(job, settings, gene_sets=sets, output_folder=output_folder)
        predicted, ranks = predict_folds(data, folds, settings, learn)
        job.run["fits"] = learn.kept
        if job.world.rank == 0:
            write_predictions(
                predicted,
                ranks,
                cells=output_folder / "predictions.h5ad",
                ranks=output_folder / "reverse.parquet",
            )
