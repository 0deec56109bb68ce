"""Fine-tuning for batch integration: prepare, fit, predict, as in the published tutorial.

What differs from it, by choice: a mini-batch holds cells of all sequencing batches, each normalised
by the statistics of its own; the fit stops early on the loss of held-out cells, never on labels;
and what is drawn for a cell is seeded by the cell.

Shapes: N cells of a data set, B cells of a mini-batch, G genes, D width.
"""

import dataclasses
import logging
from pathlib import Path
from typing import Any, NamedTuple

import anndata as ad
import numpy as np
from numpy.typing import NDArray

from scgpt_core.checkpoint import Checkpoint, save_checkpoint
from scgpt_core.config import IntegrationSettings, ModelConfig
from scgpt_core.data.cells import Cells, read_cells, take_cells
from scgpt_core.data.collate import TokenSettings
from scgpt_core.data.genes import match_var
from scgpt_core.data.sources import ArraySource
from scgpt_core.data.vocab import Vocabulary
from scgpt_core.device import resolve_precision
from scgpt_core.keys import BATCH
from scgpt_core.model import ScGPT
from scgpt_core.tasks.datasets import require_batches, variable_genes, write_embedding
from scgpt_core.tasks.fitting import (
    Fit,
    Job,
    embed_batches,
    fine_tuning,
    fit_by_epochs,
    hold_out,
    loader_of_all,
)
from scgpt_core.tasks.variants import Init, make_variant
from scgpt_core.train.journal import METRICS, read_metrics
from scgpt_core.train.objectives import Integration
from scgpt_core.train.parallel import gather

logger = logging.getLogger(__name__)


class Prepared(NamedTuple):
    """A data set as the model reads it."""

    cells: Cells
    """Of the variable genes alone."""
    genes: tuple[int, ...]
    """Token ids of the variable genes, ascending."""
    batch_N: NDArray[np.int64]
    batches: tuple[str, ...]
    """Names of the sequencing batches, by code."""
    heldout_N: NDArray[np.bool_]
    """True for the cells that the early stop looks at."""

    def source(self, chosen_N: NDArray[np.bool_]) -> ArraySource:
        """Give some of the cells to a loader."""
        rows = np.flatnonzero(chosen_N)
        return ArraySource(take_cells(self.cells, rows), batch=self.batch_N[rows])


def prepare(
    adata: ad.AnnData, vocab: Vocabulary, settings: IntegrationSettings, *, seed: int
) -> Prepared:
    """Choose variable genes that have a token, and cells of every batch to hold out.

    Raises
    ------
    ValueError
        Where the data set has a single batch, or too few of its counts have a token.
    """
    require_batches(adata)
    match = match_var(adata.var, vocab)
    logger.info("%s", match.report())
    match.require(settings.min_matched, np.asarray(adata.X.sum(axis=0)).ravel())
    variable_G = variable_genes(adata, settings.n_genes, among=match.matched)
    token_ids = np.where(variable_G, match.ids, -1)
    cells = read_cells(adata, token_ids)
    batches = adata.obs[BATCH].astype("category").cat
    batch_N = batches.codes.to_numpy().astype(np.int64)
    return Prepared(
        cells,
        tuple(np.sort(token_ids[variable_G]).tolist()),
        batch_N,
        tuple(batches.categories),
        hold_out(cells.cell_ids, batch_N, settings.heldout_share, seed),
    )


def make_model(
    ckpt: Checkpoint, prepared: Prepared, settings: IntegrationSettings, *, init: Init, seed: int
) -> ScGPT:
    """Make the variant of a model that integrates these batches, on the model's device.

    Parameters
    ----------
    init
        "pretrained": `settings.inherit` is inherited, and the log lists what does not fit;
        "random": nothing is.
    seed
        Of the weights that start anew.
    """
    changes: dict[str, Any] = {
        "n_batches": len(prepared.batches),
        "batch_labels": True,
        "dar": settings.dar_weight > 0,
        "batch_norm": "domain" if settings.domain_batch_norm else None,
        "gepc": "inner product" if settings.gepc else None,
        "explicit_zero_prob": settings.explicit_zero_prob,
        "max_tokens": len(prepared.genes) + 1,
        "n_classes": None,
    }
    return make_variant(
        ckpt, changes, init=init, seed=seed, dropout=settings.dropout, inherit=settings.inherit
    )[0]


def fit(model: ScGPT, prepared: Prepared, settings: IntegrationSettings, job: Job) -> Fit:
    """Fine-tune a model in place; in the end it has the weights of the lowest held-out loss.

    Parameters
    ----------
    model
        From `make_model`.
    """
    objective = _objective(settings)
    tokens = token_settings(model.config, prepared, mask_share=settings.mask_share)
    return fit_by_epochs(
        model,
        objective,
        tokens,
        train=prepared.source(~prepared.heldout_N),
        heldout=prepared.source(prepared.heldout_N),
        settings=settings,
        job=job,
        identity={**dataclasses.asdict(objective), "inherit": settings.inherit},
    )


def _objective(settings: IntegrationSettings) -> Integration:
    return Integration(
        gepc=settings.gepc,
        zero_prob=settings.explicit_zero_prob,
        ecs_threshold=settings.ecs_threshold,
        ecs_weight=settings.ecs_weight,
        dar_weight=settings.dar_weight,
    )


def token_settings(
    config: ModelConfig, prepared: Prepared, *, mask_share: float | None
) -> TokenSettings:
    """Tokens of integration: all variable genes in every cell, zeros kept, `<cls>` with value 0."""
    return TokenSettings.of_model(
        config,
        max_tokens=len(prepared.genes) + 1,
        cls_value=0,
        genes=prepared.genes,
        mask_share=mask_share,
    )


def predict(
    model: ScGPT, prepared: Prepared, settings: IntegrationSettings, *, seed: int
) -> NDArray[np.float32]:
    """Embed all cells with nothing masked: float32 (N, D), each row of length one."""
    tokens = token_settings(model.config, prepared, mask_share=None)
    loader = loader_of_all(prepared.source(np.ones_like(prepared.heldout_N)), tokens, seed)
    precision = resolve_precision(next(model.parameters()).device, settings.trainer.precision)
    return embed_batches(model.eval(), loader.batches(), precision)


def integrate_dataset(
    dataset: str | Path,
    model_folder: str | Path,
    output_folder: str | Path,
    *,
    state_folder: str | Path,
    settings: IntegrationSettings,
    init: Init,
    seed: int,
    threads: int = 1,
) -> None:
    """Fine-tune a model on a prepared data set, and embed the data set with it.

    Parameters
    ----------
    dataset
        h5ad of `prepare_dataset`.
    output_folder
        Gets `embedding.h5ad` (obs ``batch`` and ``label``, obsm ``X_emb``), the fine-tuned `model/`
        and `run.json`: settings, digests, learning curve, seconds and memory.
    state_folder
        Of checkpoints; deleted in the end.
    init
        "random": the model folder gives its vocabulary and size alone.
    threads
        CPU threads.

    Raises
    ------
    UnfinishedError
        Where a signal or the time budget stopped the fit.
    """
    adata, output_folder = ad.read_h5ad(dataset), Path(output_folder)
    with fine_tuning(
        dataset, model_folder, output_folder, state_folder, settings=settings, init=init,
        seed=seed, threads=threads,
    ) as job:  # fmt: skip
        prepared = prepare(adata, job.ckpt.vocab, settings, seed=seed)
        model = make_model(job.ckpt, prepared, settings, init=init, seed=seed)
        fitted = fit(model, prepared, settings, job)
        tuned = gather(model, job.world)
        if tuned is None:
            return
        job.run.update(
            batches=prepared.batches,
            genes=prepared.genes,
            fit=fitted.record,
            curve=read_metrics(fitted.folder / METRICS),
        )
        write_embedding(
            predict(tuned, prepared, settings, seed=seed), adata, output_folder / "embedding.h5ad"
        )
        save_checkpoint(output_folder / "model", tuned, job.ckpt.vocab, training=job.run)
