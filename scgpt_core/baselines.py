"""The simple methods that every model is measured against, by their name in methods.tsv.

A baseline is a function of a prepared data set and a seed that gives the embedding, float32
(cells, dimensions). To add one: a row of methods.tsv and an entry of `BASELINES`.
"""

import logging
import os
import warnings
from collections.abc import Callable, Mapping
from contextlib import redirect_stdout
from typing import Any, Final
from unittest.mock import patch

import numpy as np
import scanpy as sc
from anndata import AnnData
from numpy.typing import NDArray

from scgpt_core.keys import BATCH, LABEL, UNKNOWN
from scgpt_core.tasks.datasets import require_batches, variable_genes

N_GENES: Final = 2000
"""Variable genes of the baselines; all genes, where a data set has no more."""
_FEW_GENES: Final = 200
N_COMPONENTS: Final = 50
"""Principal components of the baselines."""
N_LATENT: Final = 30
"""Dimensions of scVI and scANVI, as in the study of scib."""
_COUNTS_A_CELL: Final = 1e4
_SCANVI_TRAINING: Final[Mapping[str, Any]] = {"max_epochs": 20, "n_samples_per_label": 100}
SCVI_EPOCHS: int | None = None
"""Of scVI and totalVI; None leaves them to scvi-tools: the more cells, the fewer."""

Baseline = Callable[[AnnData, int], NDArray[np.float32]]


def run_baseline(method: str, adata: AnnData, *, seed: int) -> NDArray[np.float32]:
    """Embed a prepared data set with the baseline of this name: float32 (N, D).

    Raises
    ------
    ValueError
        Where there is no such baseline, or the data set has a single batch.
    """
    if method not in BASELINES:
        message = f"there is no baseline {method!r}; there are: {', '.join(BASELINES)}"
        raise ValueError(message)
    require_batches(adata)
    return np.ascontiguousarray(BASELINES[method](adata, seed), dtype=np.float32)


def log_counts(adata: AnnData, n_genes: int = N_GENES) -> AnnData:
    """Log counts (per 10,000 of a cell) of the variable genes, with their batches."""
    cells = AnnData(adata.X.copy(), obs=adata.obs[[BATCH]], var=adata.var[[]])
    sc.pp.normalize_total(cells, target_sum=_COUNTS_A_CELL)
    sc.pp.log1p(cells)
    return cells[:, variable_genes(adata, n_genes)].copy()


def hvg_pca(adata: AnnData, seed: int, n_genes: int = N_GENES) -> NDArray[np.float32]:
    """Principal components of the log counts (per 10,000) of the most variable genes."""
    cells = log_counts(adata, n_genes)
    n_components = min(N_COMPONENTS, min(cells.shape) - 1)
    sc.pp.pca(cells, n_comps=n_components, random_state=seed)
    return np.asarray(cells.obsm["X_pca"], dtype=np.float32)


def few_genes_pca(adata: AnnData, seed: int) -> NDArray[np.float32]:
    """HVG + PCA of no more genes than the demo's model reads: genes that vary less add noise."""
    return hvg_pca(adata, seed, _FEW_GENES)


def harmony(adata: AnnData, seed: int) -> NDArray[np.float32]:
    """HVG + PCA, its batches then drawn together by soft clusters (Korsunsky et al. 2019)."""
    from harmonypy import run_harmony

    # One thread: sums in another order give other digits.
    corrected = run_harmony(
        hvg_pca(adata, seed), adata.obs, BATCH, random_state=seed, ncores=1, verbose=False
    )
    return np.asarray(corrected.Z_corr, dtype=np.float32)


def scanorama(adata: AnnData, seed: int) -> NDArray[np.float32]:
    """Batches joined like a panorama, by mutual nearest cells (Hie et al. 2019)."""
    import scanorama as package

    cells = log_counts(adata)
    batches = [np.flatnonzero(cells.obs[BATCH] == name) for name in cells.obs[BATCH].unique()]
    with redirect_stdout(None):  # it tells of genes whatever `verbose` is
        parts, _ = package.integrate(
            [cells.X[rows] for rows in batches],
            [cells.var_names.to_numpy()] * len(batches),
            dimred=min(N_COMPONENTS, min(cells.shape) - 1),
            seed=seed,
            verbose=0,
        )
    emb_ND = np.empty((cells.n_obs, parts[0].shape[1]), np.float32)
    for rows, part in zip(batches, parts, strict=True):
        emb_ND[rows] = part
    return emb_ND


def bbknn(adata: AnnData, seed: int) -> NDArray[np.float32]:
    """Diffusion map of a graph that gives every batch as many neighbours (Polański et al. 2020).

    The method itself gives a graph alone; what is scored here is where its random walks lead.
    """
    import bbknn as package

    cells = AnnData(obs=adata.obs[[BATCH]], obsm={"X_pca": hvg_pca(adata, seed)})
    n_components = cells.obsm["X_pca"].shape[1]
    # A tree of all cells: the approximate search that is its default is seeded by nothing.
    package.bbknn(cells, batch_key=BATCH, n_pcs=n_components, computation="cKDTree")
    # The first component is the same for all cells.
    sc.tl.diffmap(cells, n_comps=n_components + 1, random_state=seed)
    walk_ND = cells.obsm["X_diffmap"] * cells.uns["diffmap_evals"]
    return np.asarray(walk_ND[:, 1:], dtype=np.float32)


def scvi(adata: AnnData, seed: int) -> NDArray[np.float32]:
    """Latent means of a variational autoencoder of counts (Lopez et al. 2018)."""
    return np.asarray(_fit_scvi(adata, seed).get_latent_representation(), dtype=np.float32)


def scanvi(adata: AnnData, seed: int) -> NDArray[np.float32]:
    """Latent means of scVI, trained further with the labels (Xu et al. 2021)."""
    from scvi.model import SCANVI

    model = SCANVI.from_scvi_model(
        _fit_scvi(adata, seed), unlabeled_category=UNKNOWN, labels_key=LABEL
    )
    train_scvi(model, **_SCANVI_TRAINING)
    return np.asarray(model.get_latent_representation(), dtype=np.float32)


def _fit_scvi(adata: AnnData, seed: int) -> Any:
    """Train scVI in the size that the study of scib used."""
    package = import_scvi(seed)
    cells = AnnData(
        adata.X[:, variable_genes(adata, N_GENES)].copy(), obs=adata.obs[[BATCH, LABEL]].copy()
    )
    package.model.SCVI.setup_anndata(cells, batch_key=BATCH)
    model = package.model.SCVI(cells, n_layers=2, n_latent=N_LATENT, gene_likelihood="nb")
    train_scvi(model, max_epochs=SCVI_EPOCHS)
    return model


def import_scvi(seed: int) -> Any:
    """Give the package of scvi-tools, seeded, that logs only what is wrong."""
    import scvi as package

    for name in ("lightning.fabric", "lightning.pytorch", "scvi"):
        logging.getLogger(name).setLevel(logging.WARNING)
    package.settings.seed = seed
    return package


def train_scvi(model: Any, **options: Any) -> None:
    """Train a model of scvi-tools on a CPU: no rule of a simple method asks for a GPU."""
    with patch.dict(os.environ), warnings.catch_warnings():
        # Its trainer would take the tasks of an allocation for its own processes, and refuse them.
        os.environ.pop("SLURM_NTASKS", None)
        # How to use Slurm, its own deprecations; what scvi-tools warns of is about the data.
        warnings.filterwarnings("ignore", module=r"lightning\.")
        model.train(accelerator="cpu", enable_progress_bar=False, **options)


BASELINES: Final[Mapping[str, Baseline]] = {
    "hvg_pca": hvg_pca,
    "few_genes_pca": few_genes_pca,
    "harmony": harmony,
    "scanorama": scanorama,
    "bbknn": bbknn,
    "scvi": scvi,
    "scanvi": scanvi,
}
