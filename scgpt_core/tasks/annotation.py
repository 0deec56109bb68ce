"""Fine-tuning for annotation (CLS): prepare, fit, predict, as in the published tutorial.

A cell's tokens are the genes that it expresses, so that a query may have other genes than the
reference: those that the query was not measured for are missing, and not zero.

Shapes: N cells of a data set, M some of them, G genes, C classes.
"""

import math
from collections.abc import Collection
from pathlib import Path
from typing import Any, NamedTuple

import anndata as ad
import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from scgpt_core.checkpoint import TRAINING, Checkpoint, load_checkpoint, save_checkpoint
from scgpt_core.config import AnnotationSettings, ModelConfig
from scgpt_core.data.cells import Cells, read_cells, take_cells, thin_cells
from scgpt_core.data.collate import TokenSettings
from scgpt_core.data.genes import match_var
from scgpt_core.data.sources import NO_CLASS, ArraySource
from scgpt_core.data.vocab import Vocabulary
from scgpt_core.device import DeviceName, autocast, resolve_precision
from scgpt_core.keys import CELL
from scgpt_core.model import ScGPT
from scgpt_core.runs import read_json, write_parquet
from scgpt_core.tasks.datasets import variable_genes
from scgpt_core.tasks.fitting import Fit, Job, fine_tuning, fit_by_epochs, loader_of_all
from scgpt_core.tasks.labelling import (
    Split,
    label_query,
    tabulate,
    temper,
)
from scgpt_core.tasks.projection import read_later
from scgpt_core.tasks.variants import Init, make_variant, without_batches
from scgpt_core.train.journal import METRICS, read_metrics
from scgpt_core.train.objectives import Classification, class_weights
from scgpt_core.train.parallel import gather

_PLAIN = {
    "gep": False, "gepc": None, "explicit_zero_prob": False, "affine_gep": False,
    "gep_activation": None, "gep_adaptive_bias": False,
}  # fmt: skip
"""What annotation does without: a cell of a new batch is to be labelled like any other."""


class Prepared(NamedTuple):
    """A data set as the model reads it, and who learns from which cell."""

    cells: Cells
    """Of the genes that are tokens."""
    genes: tuple[int, ...]
    """Token ids of these genes, ascending."""
    max_counts: int | None
    """To which deeper cells were sampled down."""
    depth_genes: tuple[int, ...]
    """Token ids of the genes whose counts are a cell's depth, ascending."""
    split: Split

    def source(self, chosen_N: NDArray[np.bool_]) -> ArraySource:
        """Give some of the cells to a loader, with their classes."""
        rows = np.flatnonzero(chosen_N)
        return ArraySource(take_cells(self.cells, rows), label=self.split.class_N[rows])


def prepare(
    adata: ad.AnnData, vocab: Vocabulary, split: Split, settings: AnnotationSettings, *, seed: int
) -> Prepared:
    """Choose genes that have a token, and that vary among the training cells.

    Parameters
    ----------
    seed
        Of the counts that are left of deep cells.

    Raises
    ------
    ValueError
        Where too few of the data set's counts have a token.
    """
    match = match_var(adata.var, vocab)
    match.require(settings.min_matched, np.asarray(adata.X.sum(axis=0)).ravel())
    chosen_G = match.matched
    if settings.n_genes is not None:
        train = adata[split.train_N].copy()
        chosen_G = variable_genes(train, settings.n_genes, among=match.matched)
    token_ids = np.where(chosen_G, match.ids, -1)
    cells, max_counts = read_cells(adata, token_ids), None
    depth_genes = np.unique(match.ids[match.matched])
    if settings.depth_quantile is not None:
        total_N = _measure_depth(adata.X, match.ids, depth_genes)
        max_counts = max(1, int(np.quantile(total_N, settings.depth_quantile, method="higher")))
        cells = thin_cells(cells, max_counts, seed=seed, total_B=total_N)
    genes = tuple(np.sort(token_ids[chosen_G]).tolist())
    return Prepared(cells, genes, max_counts, tuple(depth_genes.tolist()), split)


def _measure_depth(
    counts_NG: Any, ids_G: NDArray[np.int32], genes: NDArray[np.int32] | list[int]
) -> NDArray[np.float64]:
    """Count (N,) what cells have of some genes: of the same, where they are learned and later.

    Studies differ in what they measure, too: a cell of 30,000 genes would else pass for deeper than
    one of the 2,000 that the model learned from.
    """
    return np.asarray(counts_NG @ np.isin(ids_G, genes).astype(np.float64)).ravel()


def make_model(
    ckpt: Checkpoint, n_classes: int, settings: AnnotationSettings, *, init: Init, seed: int
) -> ScGPT:
    """Make the variant of a model that classifies cells, on the model's device.

    Parameters
    ----------
    init
        "pretrained": what fits is inherited, and the log lists what is not; "random": nothing is.
    seed
        Of the weights that start anew.
    """
    changes = without_batches(ckpt) | _PLAIN
    changes |= {"n_classes": n_classes, "max_tokens": settings.max_tokens}
    return make_variant(ckpt, changes, init=init, seed=seed, dropout=settings.dropout)[0]


def fit(
    model: ScGPT,
    prepared: Prepared,
    settings: AnnotationSettings,
    job: Job,
    *,
    epoch_steps: int,
) -> Fit:
    """Fine-tune a model in place; in the end it has the weights of the lowest held-out loss.

    Parameters
    ----------
    model
        From `make_model`.
    epoch_steps
        Optimiser steps that count as an epoch, however many cells are learned from.
    """
    split = prepared.split
    weights_C = None
    if settings.class_weights:
        weights_C = class_weights(
            torch.from_numpy(split.class_N[split.train_N]), len(split.classes)
        )
    return fit_by_epochs(
        model,
        Classification(weights_C),
        token_settings(model.config, settings.max_tokens, mask_share=settings.mask_share or None),
        heldout_tokens=token_settings(model.config, settings.max_tokens, mask_share=None),
        train=prepared.source(split.train_N),
        heldout=prepared.source(split.heldout_N),
        settings=settings,
        job=job,
        identity={
            "genes": prepared.genes,
            "max_counts": prepared.max_counts,
            "class_weights": None if weights_C is None else weights_C.tolist(),
        },
        epoch_steps=epoch_steps,
    )


def token_settings(
    config: ModelConfig, max_tokens: int, *, mask_share: float | None
) -> TokenSettings:
    """Tokens of annotation: the genes that a cell expresses, ``<cls>`` with value 0."""
    return TokenSettings.of_model(config, max_tokens=max_tokens, cls_value=0, mask_share=mask_share)


@torch.inference_mode()
def predict(
    model: ScGPT, cells: Cells, settings: AnnotationSettings, *, seed: int
) -> NDArray[np.float32]:
    """Probabilities of the classes, not calibrated: float32 (M, C)."""
    model.eval()
    device = next(model.parameters()).device
    precision = resolve_precision(device, settings.trainer.precision)
    tokens = token_settings(model.config, settings.max_tokens, mask_share=None)
    parts = []
    with autocast(device, precision):
        for batch in loader_of_all(ArraySource(cells), tokens, seed).batches():
            logits_BC = model(batch.to(device), heads={"cls"}).class_BC
            parts.append(logits_BC.float().softmax(dim=1).cpu().numpy())
    return np.concatenate(parts)


class _FineTuning:
    """The model as a `Learner`: fine-tuned anew on each split; process 0 keeps the last model."""

    def __init__(self, adata: ad.AnnData, job: Job, settings: AnnotationSettings) -> None:
        self.adata, self.job, self.settings = adata, job, settings
        self.model: ScGPT | None = None
        self.kept: dict[str, Any] = {}
        """Classes, token ids of the genes, depth and what counts for it, steps and learning curve
        of the last fit."""

    def __call__(self, split: Split, rows_M: NDArray[np.int64]) -> NDArray[np.float32]:
        job = self.job
        prepared = prepare(self.adata, job.ckpt.vocab, split, self.settings, seed=job.seed)
        model = make_model(
            job.ckpt, len(split.classes), self.settings, init=job.init, seed=job.seed
        )
        steps = self._steps_per_epoch(split)
        fitted = fit(model, prepared, self.settings, job, epoch_steps=steps)
        self.kept = {
            "classes": split.classes,
            "genes": prepared.genes,
            "max_counts": prepared.max_counts,
            "depth_genes": prepared.depth_genes,
            "fit": fitted.record,
            "curve": read_metrics(fitted.folder / METRICS),
        }
        self.model = gather(model, job.world)
        probability_MC = None
        if self.model is not None:
            cells = take_cells(prepared.cells, rows_M)
            probability_MC = predict(self.model, cells, self.settings, seed=job.seed)
        shared = job.world.agree(probability_MC)
        assert shared is not None
        return shared

    def _steps_per_epoch(self, split: Split) -> int:
        """Count the steps of a pass over the training cells that there are with all labels."""
        n_cells = int((~split.query_N & (split.class_N != NO_CLASS)).sum())
        n_train = n_cells * (1 - self.settings.labels.heldout_share)
        return math.ceil(n_train / self.settings.trainer.batch_cells)


def annotate_dataset(
    dataset: str | Path,
    model_folder: str | Path,
    output_folder: str | Path,
    *,
    query: Collection[str],
    state_folder: str | Path,
    settings: AnnotationSettings,
    init: Init,
    seed: int,
    threads: int = 1,
) -> None:
    """Fine-tune a model on the reference cells of a prepared data set, and label its query.

    Parameters
    ----------
    dataset
        h5ad of `prepare_dataset` or `merge_datasets`.
    output_folder
        Gets `predictions.parquet` (see `Labelling`), the fine-tuned `model/`, which
        `annotate_cells` reads, and `run.json`: settings, digests, fits, learning curve, seconds
        and memory.
    query
        Batches to label, as learned from the labelled cells of the others.
    state_folder
        Of checkpoints; deleted in the end.
    init
        "random": the model folder gives its vocabulary and size alone.
    threads
        CPU threads.

    Raises
    ------
    ValueError
        Where the data set does not allow the split, or too few of its counts have a token.
    UnfinishedError
        Where a signal or the time budget stopped the fit.
    """
    adata, output_folder = ad.read_h5ad(dataset), Path(output_folder)
    with fine_tuning(
        dataset, model_folder, output_folder, state_folder, settings=settings, init=init,
        seed=seed, threads=threads, query=list(query),
    ) as job:  # fmt: skip
        learn = _FineTuning(adata, job, settings)
        labelling = label_query(adata, query, settings.labels, seed=seed, learn=learn)
        if learn.model is None:
            return
        job.run.update(learn.kept, fits=labelling.fits)
        write_parquet(output_folder / "predictions.parquet", labelling.predictions)
        save_checkpoint(output_folder / "model", learn.model, job.ckpt.vocab, training=job.run)


def annotate_cells(
    adata: ad.AnnData, model_folder: str | Path, *, device: DeviceName | str = "auto", seed: int = 0
) -> pd.DataFrame:
    """Label cells with a model that was fine-tuned for it; nothing of them need be known.

    Parameters
    ----------
    adata
        Raw counts in X: sparse, dense or backed. Its genes may be others than those of the
        reference: what it lacks is left out of the cells, and what the model did not learn from is
        not looked at.
    model_folder
        The `model/` of `annotate_dataset`.
    device
        See `load_checkpoint`.
    seed
        Of the genes that are sampled where a cell has more than fit, and of the counts where it
        has more than the cells that the model learned from, in the genes that these had.

    Returns
    -------
    By the cells' names: `predicted`, `confidence` (calibrated), `unknown` (bool), and the
    calibrated probability of each class.

    Raises
    ------
    ValueError
        Where the model was not fine-tuned for annotation, or the cells are not what it can read.
    """
    if adata.isbacked:
        adata = adata.to_memory()
    ckpt = load_checkpoint(model_folder, device)
    training = read_json(Path(model_folder) / TRAINING)
    if ckpt.config.n_classes is None or "classes" not in training:
        message = f"{model_folder} knows no classes: take the model/ that annotation wrote"
        raise ValueError(message)
    known = AnnotationSettings.model_fields.keys() & training["settings"].keys()
    settings = AnnotationSettings.model_validate({k: training["settings"][k] for k in known})
    cells, ids_G = read_later(adata, ckpt.vocab, training["genes"], settings.min_matched)
    if training.get("max_counts") is not None:
        # Models of before do not say which genes: all that have a token.
        depth_genes = training.get("depth_genes", ids_G[ids_G >= 0])
        total_N = _measure_depth(adata.X, ids_G, depth_genes)
        cells = thin_cells(cells, training["max_counts"], seed=seed, total_B=total_N)
    probability_MC = temper(
        predict(ckpt.model, cells, settings, seed=seed), training["fits"][-1]["temperature"]
    )
    table = tabulate(
        probability_MC, training["classes"], unknown_below=settings.labels.unknown_below
    )
    return table.set_axis(adata.obs_names.rename(CELL))
