"""The simple methods that multi-omics is measured against, by their name in methods.tsv.

A method is a function of a `Problem` and a seed that embeds the cells and predicts all features
beside RNA, in the units of `normalise`. To add one: a row of methods.tsv and an entry of
`JOINT_BASELINES`.

Shapes: N cells, D dimensions, F features beside RNA.
"""

import logging
import warnings
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

import anndata as ad
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.decomposition import PCA
from sklearn.linear_model import RidgeCV
from sklearn.neighbors import NearestNeighbors

from scgpt_core import baselines
from scgpt_core.baselines import N_COMPONENTS, N_GENES, hvg_pca, log_counts, scvi
from scgpt_core.config import ModalitySettings
from scgpt_core.keys import BATCH
from scgpt_core.runs import run_record, sha256
from scgpt_core.tasks.datasets import variable_genes
from scgpt_core.tasks.mosaic import Problem, normalise, pose_problem, write_joint

N_NEIGHBOURS: Final = 15
PENALTIES: Final = tuple(10.0**i for i in range(-1, 5))
"""Of the ridge regression: leave-one-out chooses."""
_FACTORS: Final = 15

FloatArray = NDArray[np.float32]
logger = logging.getLogger(__name__)


class Joint(NamedTuple):
    """What a method makes of a problem."""

    emb_ND: FloatArray
    imputed_NF: FloatArray


JointBaseline = Callable[[Problem, int], Joint]


def run_joint_baseline(
    dataset: str | Path,
    output: str | Path,
    run_json: str | Path,
    *,
    method: str,
    query: Collection[str],
    settings: ModalitySettings,
    seed: int,
) -> None:
    """Embed a prepared data set of several modalities by a simple method, and impute the rest.

    Parameters
    ----------
    output
        h5ad to write, see `write_joint`.
    run_json
        Settings, digest, seconds and memory.
    query, settings
        Of `pose_problem`.

    Raises
    ------
    ValueError
        Where there is no such method, or the data set has RNA alone.
    """
    if method not in JOINT_BASELINES:
        message = f"there is no method {method!r}; there are: {', '.join(JOINT_BASELINES)}"
        raise ValueError(message)
    problem = pose_problem(ad.read_h5ad(dataset), query, settings, seed=seed)
    described = {"method": method, "query": list(query), "seed": seed}
    with run_record(run_json, described | settings.model_dump(mode="json")) as run:
        run["dataset"] = sha256(dataset)
        run["withheld_cells"] = int(problem.withheld_N.sum())
        joint = JOINT_BASELINES[method](problem, seed)
        write_joint(np.asarray(joint.emb_ND, np.float32), joint.imputed_NF, problem, output)


def rna_pca(problem: Problem, seed: int) -> Joint:
    """HVG + PCA of RNA alone; features by ridge regression on the principal components."""
    emb_ND = hvg_pca(problem.adata, seed)
    return Joint(emb_ND, _impute(problem, emb_ND, _ridge))


def concat_pca(problem: Problem, seed: int) -> Joint:
    """PCA of RNA beside PCA of each modality; features by kNN on RNA, also to fill in what lacks.

    Each modality's components are scaled to a total variance of one, so that all count alike.
    """
    emb_ND = hvg_pca(problem.adata, seed)
    imputed_NF = _impute(problem, emb_ND, _nearest)
    blocks = [_unit_variance(emb_ND)]
    columns = np.cumsum([0, *(len(m.features) for m in problem.visible.by_name.values())])
    for name, start, stop in zip(problem.visible.by_name, columns, columns[1:], strict=False):
        values_NF = normalise(problem.visible, name)
        filled_NF = np.where(np.isnan(values_NF), imputed_NF[:, start:stop], values_NF)
        filled_NF = filled_NF[:, np.isfinite(filled_NF).all(axis=0)]
        filled_NF = filled_NF / np.maximum(filled_NF.std(axis=0), 1e-6)
        n_components = min(N_COMPONENTS, *filled_NF.shape)
        blocks.append(_unit_variance(PCA(n_components, random_state=seed).fit_transform(filled_NF)))
    return Joint(np.hstack(blocks), imputed_NF)


def concat_harmony(problem: Problem, seed: int) -> Joint:
    """Concatenated PCA, whose batches Harmony draws together; as it is where there is one batch."""
    joint = concat_pca(problem, seed)
    if problem.adata.obs[BATCH].nunique() < 2:
        return joint
    from harmonypy import run_harmony

    # One thread: sums in another order give other digits.
    corrected = run_harmony(
        joint.emb_ND, problem.adata.obs, BATCH, random_state=seed, ncores=1, verbose=False
    )
    return joint._replace(emb_ND=np.asarray(corrected.Z_corr, np.float32))


def mofa(problem: Problem, seed: int) -> Joint:
    """Factors of RNA and all modalities (Argelaguet et al. 2020); features by kNN on the factors.

    What MOFA itself gives back is linear in the factors: cells that lie far out on a factor along
    which cells with the feature hardly vary get values far beyond any true one.
    """
    from mofapy2.run.entry_point import entry_point

    rna_NG = log_counts(problem.adata).X.toarray()
    names = list(problem.visible.by_name)
    views = [rna_NG, *(normalise(problem.visible, name) for name in names)]
    model = entry_point()
    model.set_data_options(scale_views=True, center_groups=True)
    model.set_data_matrix(
        [[np.asarray(view, np.float64)] for view in views],
        likelihoods=["gaussian"] * len(views),
        views_names=["rna", *names],
        samples_names=[problem.adata.obs_names.tolist()],
    )
    model.set_model_options(factors=_FACTORS)
    model.set_train_options(iter=200, convergence_mode="fast", seed=seed, verbose=False, quiet=True)
    model.build()
    model.run()
    z_ND = np.asarray(model.model.nodes["Z"].getExpectation(), np.float32)
    return Joint(z_ND, _impute(problem, z_ND, _nearest))


def totalvi(problem: Problem, seed: int) -> Joint:
    """Latent means of a variational autoencoder of RNA and proteins (Gayoso et al. 2021).

    Peaks it does not read and does not impute; where there are peaks alone, it is scVI. Cells of a
    batch and panel are a batch to it: it takes proteins that are 0 in a whole batch for missing.
    """
    visible = problem.visible
    skipped = [name for name in visible.by_name if name != "protein"]
    if skipped:
        logger.warning("totalVI reads RNA and proteins: %s is left out", ", ".join(skipped))
    imputed_NF = np.full((problem.adata.n_obs, len(visible.features)), np.nan, np.float32)
    if "protein" not in visible.by_name:
        logger.warning("totalVI without proteins is scVI: nothing is imputed")
        return Joint(scvi(problem.adata, seed), imputed_NF)
    package = baselines.import_scvi(seed)
    genes_G = variable_genes(problem.adata, N_GENES)
    cells = ad.AnnData(problem.adata.X[:, genes_G].copy(), obs=problem.adata.obs[[BATCH]].copy())
    cells.obs["source"] = cells.obs[BATCH].astype(str) + "/" + visible.panel_N.astype(str)
    proteins = visible.by_name["protein"]
    cells.obsm["protein"] = pd.DataFrame(
        proteins.counts_NF.toarray(), index=cells.obs_names, columns=list(proteins.features)
    )
    with warnings.catch_warnings():
        # Another format would do as well; and proteins are missing on purpose.
        theirs = "We recommend using setup_mudata|Some proteins have all 0 counts in some batches"
        warnings.filterwarnings("ignore", theirs)
        package.model.TOTALVI.setup_anndata(
            cells, batch_key="source", protein_expression_obsm_key="protein"
        )
        model = package.model.TOTALVI(cells, n_latent=20)
    baselines.train_scvi(model, max_epochs=baselines.SCVI_EPOCHS)

    def decode(panel: int) -> NDArray[Any]:
        sources = sorted(set(cells.obs["source"][visible.panel_N == panel]))
        _, decoded_NF = model.get_normalized_expression(
            transform_batch=sources, n_samples=10, return_mean=True, gene_list=[], return_numpy=True
        )
        return np.asarray(decoded_NF)

    is_protein_F = np.isin(visible.features, proteins.features)
    imputed_NF[:, is_protein_F] = mean_clr(decode, proteins.measured_KF, visible.panel_N)
    return Joint(np.asarray(model.get_latent_representation(), np.float32), imputed_NF)


def mean_clr(
    decode: Callable[[int], NDArray[Any]],
    measured_KF: NDArray[np.bool_],
    panel_N: NDArray[np.int64],
) -> FloatArray:
    """Centred log ratios, as `normalise` takes them, over the proteins of a panel: (N, F).

    Parameters
    ----------
    decode
        Expression (N, F) of all cells as if they were of this panel.
    measured_KF
        Proteins of each panel.
    panel_N
        Panel of each cell: what several have is their mean, by cells.
    """
    sums_NF = np.zeros((len(panel_N), measured_KF.shape[1]), np.float32)
    n_F = np.zeros(measured_KF.shape[1])
    for panel, measured_F in enumerate(measured_KF):
        n_cells = int((panel_N == panel).sum())
        if n_cells and measured_F.any():
            logged = np.log1p(decode(panel)[:, measured_F])
            sums_NF[:, measured_F] += n_cells * (logged - logged.mean(axis=1, keepdims=True))
            n_F[measured_F] += n_cells
    with np.errstate(invalid="ignore"):
        return np.asarray(sums_NF / n_F, np.float32)


Learn = Callable[[FloatArray, FloatArray, FloatArray], Any]
"""(N, D) components and (N, F) values to learn from, (M, D) components: values (M, F)."""


def _impute(problem: Problem, emb_ND: FloatArray, learn: Learn) -> FloatArray:
    """Predict all features of all cells, those of a panel from the cells that have the panel."""
    values_NF = np.hstack([normalise(problem.visible, name) for name in problem.visible.by_name])
    out_NF = np.full(values_NF.shape, np.nan, np.float32)
    learned_NF = ~np.isnan(values_NF)
    patterns_PF, of_feature_F = np.unique(learned_NF, axis=1, return_inverse=True)
    for p in range(patterns_PF.shape[1]):
        rows, columns = np.flatnonzero(patterns_PF[:, p]), np.flatnonzero(of_feature_F.ravel() == p)
        if len(rows) > 1:
            out_NF[:, columns] = learn(emb_ND[rows], values_NF[np.ix_(rows, columns)], emb_ND)
    return out_NF


def _ridge(x_ND: FloatArray, y_NF: FloatArray, x_MD: FloatArray) -> Any:
    return RidgeCV(PENALTIES).fit(x_ND, y_NF).predict(x_MD).reshape(len(x_MD), -1)


def _nearest(x_ND: FloatArray, y_NF: FloatArray, x_MD: FloatArray) -> Any:
    search = NearestNeighbors(n_neighbors=min(N_NEIGHBOURS, len(x_ND))).fit(x_ND)
    return y_NF[search.kneighbors(x_MD, return_distance=False)].mean(axis=1)


def _unit_variance(block_ND: NDArray[Any]) -> FloatArray:
    """Centre a block and scale it to a total variance of one."""
    centred_ND = block_ND - block_ND.mean(axis=0)
    return np.asarray(centred_ND / np.sqrt(centred_ND.var(axis=0).sum()), np.float32)


JOINT_BASELINES: Final[Mapping[str, JointBaseline]] = {
    "rna_pca": rna_pca,
    "concat_pca": concat_pca,
    "concat_harmony": concat_harmony,
    "mofa": mofa,
    "totalvi": totalvi,
}
