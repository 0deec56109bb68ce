"""Fine-tuning on several modalities: prepare, fit, predict, as in the published tutorial.

RNA, proteins and chromatin peaks are tokens of one sequence, each with its modality. What differs
from the tutorial, by choice: what a cell was not measured for gets no token, so that batches may
have other features; each modality counts alike in the loss; and one is hidden whole of some cells,
so that the model learns to impute it.

Shapes: N cells of a data set, G genes, K panels.
"""

import logging
from collections.abc import Collection
from pathlib import Path
from typing import Any, Final, NamedTuple

import anndata as ad
import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix, hstack

from scgpt_core.checkpoint import Checkpoint, save_checkpoint
from scgpt_core.config import ModelConfig, MultiomicsSettings
from scgpt_core.data.cells import Cells, read_cells, take_cells
from scgpt_core.data.genes import match_var
from scgpt_core.data.identity import digest_cells
from scgpt_core.data.multimodal import N_MODALITIES, ModalityTokens
from scgpt_core.data.sources import ArraySource
from scgpt_core.data.vocab import Vocabulary
from scgpt_core.keys import BATCH, MODALITIES, RNA
from scgpt_core.model import ScGPT
from scgpt_core.model.weights import LoadReport
from scgpt_core.tasks.datasets import variable_genes
from scgpt_core.tasks.fitting import Fit, Job, fine_tuning, fit_by_epochs, hold_out
from scgpt_core.tasks.imputation import Predictor
from scgpt_core.tasks.mosaic import Problem, pose_problem, write_joint
from scgpt_core.tasks.variants import FRESH, Init, make_variant
from scgpt_core.train.journal import METRICS, read_metrics
from scgpt_core.train.objectives import Multiomics
from scgpt_core.train.parallel import gather

_PLAIN: Final = {
    "n_classes": None, "batch_norm": None, "explicit_zero_prob": False,
    "affine_gep": False, "gep_activation": None, "gep_adaptive_bias": False, "gep": True,
}  # fmt: skip
"""What the tutorial does without."""
_FRESH: Final = (*FRESH, "modality_embedding.", "batch_norm.")
logger = logging.getLogger(__name__)


class Prepared(NamedTuple):
    """A data set as the model reads it."""

    problem: Problem
    cells: Cells
    """Of the variable genes and all other features."""
    vocab: Vocabulary
    """The model's, extended by the features that it lacks."""
    genes: tuple[int, ...]
    """Token ids, modality by modality."""
    codes: tuple[int, ...]
    """Modality of each of these."""
    feature_ids: tuple[int, ...]
    """Token ids of the features beside RNA, in the order of `Modalities.features`."""
    unmeasured: tuple[tuple[int, ...], ...]
    """By panel, token ids that its cells were not measured for."""
    batch_N: NDArray[np.int64]
    batches: tuple[str, ...]
    heldout_N: NDArray[np.bool_]
    """True for the cells that the early stop looks at."""

    def source(self, chosen_N: NDArray[np.bool_], batch: int | None = None) -> ArraySource:
        """Give some of the cells to a loader, as if all were of one `batch` if that is given."""
        rows = np.flatnonzero(chosen_N)
        batch_M = self.batch_N[rows] if batch is None else np.full(len(rows), batch)
        panel_M = self.problem.visible.panel_N[rows]
        return ArraySource(take_cells(self.cells, rows), batch=batch_M, panel=panel_M)

    def tokens(self, config: ModelConfig, **settings: Any) -> ModalityTokens:
        """How cells are read: all features that they were measured for, ``<cls>`` with value 0."""
        return ModalityTokens.of_model(
            config,
            max_tokens=len(self.genes) + 1,
            cls_value=0,
            genes=self.genes,
            modalities=self.codes,
            unmeasured=self.unmeasured,
            **settings,
        )


def prepare(
    problem: Problem, vocab: Vocabulary, settings: MultiomicsSettings, *, seed: int
) -> Prepared:
    """Choose variable genes that have a token, give the other features one, hold out cells.

    Raises
    ------
    ValueError
        Where too few of the counts of RNA have a token.
    """
    adata, visible = problem.adata, problem.visible
    match = match_var(adata.var, vocab)
    logger.info("%s", match.report())
    match.require(settings.min_matched, np.asarray(adata.X.sum(axis=0)).ravel())
    variable_G = variable_genes(adata, settings.n_genes, among=match.matched)
    vocab = vocab.extend(visible.features)
    feature_ids = vocab.ids(visible.features)
    counts = csr_matrix(hstack([adata.X, *(m.counts_NF for m in visible.by_name.values())]))
    token_ids = np.concatenate([np.where(variable_G, match.ids, -1), feature_ids])
    cells = read_cells(adata, token_ids, counts_BG=counts)
    rna = np.sort(match.ids[variable_G]).tolist()
    codes = [
        MODALITIES.index(name)
        for name, m in visible.by_name.items()
        for _ in range(len(m.features))
    ]
    absent_KF = ~np.hstack([m.measured_KF for m in visible.by_name.values()])
    batches = adata.obs[BATCH].astype("category").cat
    batch_N = batches.codes.to_numpy().astype(np.int64)
    return Prepared(
        problem,
        cells,
        vocab,
        genes=(*rna, *feature_ids.tolist()),
        codes=(*[MODALITIES.index(RNA)] * len(rna), *codes),
        feature_ids=tuple(feature_ids.tolist()),
        unmeasured=tuple(tuple(feature_ids[absent_F].tolist()) for absent_F in absent_KF),
        batch_N=batch_N,
        batches=tuple(batches.categories),
        heldout_N=hold_out(cells.cell_ids, batch_N, settings.heldout_share, seed),
    )


def make_model(
    ckpt: Checkpoint, prepared: Prepared, settings: MultiomicsSettings, *, init: Init, seed: int
) -> tuple[ScGPT, LoadReport]:
    """Make the variant of a model that reads these modalities; the report names what starts anew.

    Parameters
    ----------
    init
        "pretrained": `settings.inherit` is inherited; "random": nothing is.
    seed
        Of the weights that start anew.
    """
    several = len(prepared.batches) > 1
    changes: dict[str, Any] = {
        **_PLAIN,
        "n_modalities": N_MODALITIES,
        "n_batches": len(prepared.batches),
        "batch_labels": several,
        "dar": several and settings.dar_weight > 0,
        "gepc": "inner product" if settings.gepc else None,
        "max_tokens": len(prepared.genes) + 1,
    }
    return make_variant(
        ckpt,
        changes,
        init=init,
        seed=seed,
        dropout=settings.dropout,
        inherit=settings.inherit,
        fresh=_FRESH,
        vocab=prepared.vocab,
    )


def fit(model: ScGPT, prepared: Prepared, settings: MultiomicsSettings, job: Job) -> Fit:
    """Fine-tune a model in place; see `fit_by_epochs`."""
    codes = sorted(set(prepared.codes))
    objective = Multiomics(
        {code: MODALITIES[code] for code in codes},
        gepc=settings.gepc,
        dar_weight=settings.dar_weight if model.config.dar else 0.0,
    )
    tokens = prepared.tokens(
        model.config, mask_share=settings.mask_share, hidden_share=settings.hidden_share
    )
    return fit_by_epochs(
        model,
        objective,
        tokens,
        train=prepared.source(~prepared.heldout_N),
        heldout=prepared.source(prepared.heldout_N),
        settings=settings,
        job=job,
        identity={
            "inherit": settings.inherit,
            "dar_weight": objective.dar_weight,
            "withheld": digest_cells(prepared.cells.cell_ids[prepared.problem.withheld_N]),
        },
    )


def integrate_modalities(
    dataset: str | Path,
    model_folder: str | Path,
    output_folder: str | Path,
    *,
    state_folder: str | Path,
    settings: MultiomicsSettings,
    init: Init,
    seed: int,
    query: Collection[str] = (),
    threads: int = 1,
) -> None:
    """Fine-tune a model on the modalities of a prepared data set; embed its cells, impute the rest.

    Parameters
    ----------
    dataset
        h5ad of `prepare_dataset` or `merge_datasets`.
    output_folder
        Gets `embedding.h5ad` (see `write_joint`), the fine-tuned `model/` with its extended
        vocabulary, and `run.json`: settings, digests, what started anew, learning curve, seconds
        and memory.
    state_folder
        Of checkpoints; deleted in the end.
    init
        "random": the model folder gives its vocabulary and size alone.
    query
        Batches whose other modalities are withheld, see `pose_problem`.
    threads
        CPU threads.

    Raises
    ------
    ValueError
        Where the data set has RNA alone, or too few of its counts have a token.
    UnfinishedError
        Where a signal or the time budget stopped the fit.
    """
    problem = pose_problem(ad.read_h5ad(dataset), query, settings.modalities, seed=seed)
    output_folder = Path(output_folder)
    with fine_tuning(
        dataset, model_folder, output_folder, state_folder, settings=settings, init=init,
        seed=seed, threads=threads, query=list(query),
    ) as job:  # fmt: skip
        prepared = prepare(problem, job.ckpt.vocab, settings, seed=seed)
        model, report = make_model(job.ckpt, prepared, settings, init=init, seed=seed)
        fitted = fit(model, prepared, settings, job)
        tuned = gather(model, job.world)
        if tuned is None:
            return
        job.run.update(
            batches=prepared.batches,
            fit=fitted.record,
            load_report=str(report),
            withheld_cells=int(problem.withheld_N.sum()),
            curve=read_metrics(fitted.folder / METRICS),
        )
        predictor = Predictor(tuned, prepared, settings.trainer.precision, seed=seed)
        write_joint(
            predictor.embed(), predictor.impute(), problem, output_folder / "embedding.h5ad"
        )
        save_checkpoint(output_folder / "model", tuned, prepared.vocab, training=job.run)
