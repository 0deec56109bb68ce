"""The simple methods that annotation is measured against, by their name in methods.tsv.

A classifier is a function of training cells, their labels, cells to label and a seed, that gives
probabilities. To add one: a row of methods.tsv and an entry of `CLASSIFIERS`.

Shapes: N training cells, M cells to label, G genes, C classes.
"""

import logging
from collections.abc import Callable, Collection, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import anndata as ad
import numpy as np
import scanpy as sc
from anndata import AnnData
from numpy.typing import NDArray
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score
from sklearn.model_selection import KFold, cross_val_predict
from sklearn.multiclass import OneVsRestClassifier
from sklearn.neighbors import KNeighborsClassifier
from sklearn.preprocessing import StandardScaler

from scgpt_core.config import LabelSettings
from scgpt_core.runs import run_record, sha256, write_parquet
from scgpt_core.tasks.datasets import variable_genes
from scgpt_core.tasks.labelling import Split, label_query

N_GENES: Final = 2000
"""Genes that vary most in the training cells; all, where a data set has no more."""
N_COMPONENTS: Final = 50
N_NEIGHBOURS: Final = 15
L2_PENALTIES: Final = (1e-4, 1e-3, 1e-2)
L1_PENALTIES: Final = (1e-3, 1e-2, 1e-1)
"""Inverse penalties that cross-validation chooses from, on genes of unit variance."""
_FOLDS: Final = 3
_CELLTYPIST_GENES: Final = 300
_COUNTS_A_CELL: Final = 1e4
_GREATEST: Final = 10.0  # deviation of a scaled gene

FloatArray = NDArray[np.float64]
Classifier = Callable[[AnnData, NDArray[np.int64], AnnData, int], FloatArray]
"""(training cells, their classes, cells, seed) to probabilities (M, C) of classes 0 to C - 1."""
logger = logging.getLogger(__name__)


def classify_dataset(
    dataset: str | Path,
    predictions: str | Path,
    run_json: str | Path,
    *,
    method: str,
    query: Collection[str],
    settings: LabelSettings,
    seed: int,
) -> None:
    """Label the query of a prepared data set by one of the simple methods.

    Parameters
    ----------
    dataset
        h5ad of `prepare_dataset` or `merge_datasets`.
    predictions
        Parquet to write, see `Labelling`.
    run_json
        Settings, digest, fits, seconds and memory.
    query
        Batches to label, as learned from the labelled cells of the others.
    seed
        Of the split and the method.

    Raises
    ------
    ValueError
        Where there is no such method, or the data set does not allow the split.
    """
    if method not in CLASSIFIERS:
        message = f"there is no classifier {method!r}; there are: {', '.join(CLASSIFIERS)}"
        raise ValueError(message)
    adata = ad.read_h5ad(dataset)

    def learn(split: Split, rows_M: NDArray[np.int64]) -> FloatArray:
        train_N = np.flatnonzero(split.train_N)
        return CLASSIFIERS[method](
            adata[train_N].copy(), split.class_N[train_N], adata[rows_M].copy(), seed
        )

    described = {"method": method, "query": list(query), "seed": seed}
    with run_record(run_json, described | settings.model_dump(mode="json")) as run:
        labelling = label_query(adata, query, settings, seed=seed, learn=learn)
        run |= {"dataset": sha256(dataset), "fits": labelling.fits}
        write_parquet(predictions, labelling.predictions)


def knn_pca(train: AnnData, class_N: NDArray[np.int64], cells: AnnData, seed: int) -> FloatArray:
    """Share of each class among the 15 nearest training cells on 50 principal components."""
    train_NG, cells_MG = _log_counts(train, cells)
    n_components = min(N_COMPONENTS, min(train_NG.shape) - 1)
    pca = PCA(n_components, random_state=seed).fit(train_NG)
    knn = KNeighborsClassifier(min(N_NEIGHBOURS, len(class_N))).fit(
        pca.transform(train_NG), class_N
    )
    return np.asarray(knn.predict_proba(pca.transform(cells_MG)))


def logistic_l2(
    train: AnnData, class_N: NDArray[np.int64], cells: AnnData, seed: int
) -> FloatArray:
    """Multinomial logistic regression, its L2 penalty chosen by cross-validation."""
    models = {c: LogisticRegression(C=c, max_iter=200, tol=1e-3) for c in L2_PENALTIES}
    return _cross_validated(models, train, class_N, cells, seed)


def logistic_l1(
    train: AnnData, class_N: NDArray[np.int64], cells: AnnData, seed: int
) -> FloatArray:
    """Logistic regression of each class against the rest, its L1 penalty by cross-validation."""
    models = {
        c: OneVsRestClassifier(
            LogisticRegression(C=c, l1_ratio=1, solver="liblinear", tol=1e-3, random_state=seed)
        )
        for c in L1_PENALTIES
    }
    return _cross_validated(models, train, class_N, cells, seed)


def celltypist(train: AnnData, class_N: NDArray[np.int64], cells: AnnData, seed: int) -> FloatArray:
    """CellTypist, trained anew: its selection of genes and its regression (Dominguez Conde 2022).

    Its probabilities are of each class against the rest; here they are scaled to sum to 1.
    """
    import celltypist as package

    for part in (train, cells):
        sc.pp.normalize_total(part, target_sum=_COUNTS_A_CELL)
        sc.pp.log1p(part)
    names = np.array([f"{code:06d}" for code in class_N])  # sorted, as CellTypist sorts classes
    selects = train.n_vars > _CELLTYPIST_GENES  # of a class, by default; it refuses fewer
    try:
        model = package.train(
            train, labels=names, feature_selection=selects, n_jobs=1, random_state=seed
        )
    except TypeError as error:
        if "multi_class" not in str(error):
            raise
        message = (
            f"CellTypist {version('celltypist')} cannot train with scikit-learn"
            f" {version('scikit-learn')}, which has no multi_class any more: run snakemake with"
            " --sdm conda, which gives it one that it can (envs/celltypist.yaml), or leave"
            " celltypist out of benchmark.methods"
        )
        raise ValueError(message) from error
    scores_MC = package.annotate(cells, model=model).probability_matrix.to_numpy(np.float64)
    return np.asarray(scores_MC / np.maximum(scores_MC.sum(axis=1, keepdims=True), 1e-300))


def _cross_validated(
    models: Mapping[float, Any],
    train: AnnData,
    class_N: NDArray[np.int64],
    cells: AnnData,
    seed: int,
) -> FloatArray:
    """Probabilities by the model whose predictions of cells left out have the highest macro-F1.

    Folds are drawn without regard to labels. Where one would learn from a single label, as with one
    cell of the other, the middle penalty is taken.
    """
    train_NG, cells_MG = _log_counts(train, cells)
    scaler = StandardScaler().fit(train_NG)
    train_NG, cells_MG = (
        scaler.transform(x).clip(-_GREATEST, _GREATEST) for x in (train_NG, cells_MG)
    )
    folds = KFold(_FOLDS, shuffle=True, random_state=seed)
    if len(class_N) < _FOLDS or any(np.ptp(class_N[n]) == 0 for n, _ in folds.split(class_N)):
        best = sorted(models)[len(models) // 2]
        logger.warning("too few cells to choose a penalty by cross-validation: %g is taken", best)
    else:
        scores = {
            penalty: f1_score(
                class_N, cross_val_predict(model, train_NG, class_N, cv=folds), average="macro"
            )
            for penalty, model in models.items()
        }
        best = max(scores, key=lambda penalty: scores[penalty])
        logger.info("macro-F1 of cells left out, by inverse penalty: %s", scores)
    return np.asarray(models[best].fit(train_NG, class_N).predict_proba(cells_MG))


def _log_counts(train: AnnData, cells: AnnData) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Log counts (per 10,000 of a cell) of the genes that vary most in the training cells."""
    genes_G = variable_genes(train, N_GENES)
    parts = []
    for part in (train, cells):
        logged = AnnData(part.X.copy())
        sc.pp.normalize_total(logged, target_sum=_COUNTS_A_CELL)
        sc.pp.log1p(logged)
        parts.append(logged.X[:, genes_G].toarray())
    return parts[0], parts[1]


CLASSIFIERS: Final[Mapping[str, Classifier]] = {
    "logistic_l2": logistic_l2,
    "logistic_l1": logistic_l1,
    "knn_pca": knn_pca,
    "celltypist": celltypist,
}
