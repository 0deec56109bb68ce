"""What label transfer is measured against: classifiers of the counts, without any model.

Shapes: N reference cells, Q queries, G genes, C labels.
"""

import logging
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier

from scgpt_core.data.cells import Cells

logger = logging.getLogger(__name__)

_COUNTS_A_CELL: Final = 1e4
_N_GENES: Final = 2000
_N_COMPONENTS: Final = 50
_INVERSE_PENALTY: Final = 0.01
"""Of the logistic regression: a strong penalty, for there are about as many genes as cells."""
_MAX_ITERATIONS: Final = 300


class Prediction(NamedTuple):
    """Labels of queries, and how sure they are."""

    label_Q: NDArray[np.str_]
    confidence_Q: NDArray[np.float64]


def predict_baselines(
    reference: Cells, labels: NDArray[np.str_], query: Cells, *, k: int, seed: int
) -> dict[str, Prediction]:
    """Predict labels by simple methods from counts.

    Both sets are reduced to the genes that both have, normalised to 10,000 counts a cell, and log1p
    is taken; of these genes the 2,000 that vary most in the reference are used.

    Parameters
    ----------
    reference
        Labelled cells.
    labels
        (N,), their labels, at least two different ones.
    query
        Cells by the same token ids.
    k
        Neighbours of the kNN vote.
    seed
        Of the principal components.

    Returns
    -------
    ``pca_knn``: majority of the k nearest reference cells on 50 principal components of the
    reference; ``logistic_regression``: on the log counts.
    """
    n_genes = int(max(reference.genes.max(), query.genes.max())) + 1
    counts_NG, counts_QG = _matrix(reference, n_genes), _matrix(query, n_genes)
    shared_G = (counts_NG.getnnz(axis=0) > 0) & (counts_QG.getnnz(axis=0) > 0)
    log1p_NG, log1p_QG = _log1p(counts_NG[:, shared_G]), _log1p(counts_QG[:, shared_G])
    variable_G = _variable_genes(log1p_NG)
    log1p_NG, log1p_QG = log1p_NG[:, variable_G], log1p_QG[:, variable_G]

    components = min(_N_COMPONENTS, min(log1p_NG.shape) - 1)
    pca = PCA(components, svd_solver="arpack", random_state=seed).fit(log1p_NG)
    knn = KNeighborsClassifier(min(k, len(labels))).fit(pca.transform(log1p_NG), labels)
    regression = LogisticRegression(C=_INVERSE_PENALTY, max_iter=_MAX_ITERATIONS, tol=1e-3)
    regression.fit(log1p_NG, labels)
    return {
        "pca_knn": _predict(knn, pca.transform(log1p_QG)),
        "logistic_regression": _predict(regression, log1p_QG),
    }


def _matrix(cells: Cells, n_genes: int) -> csr_matrix:
    shape = (len(cells.cell_ids), n_genes)
    return csr_matrix((cells.counts, cells.genes, cells.indptr), shape=shape)


def _log1p(counts_BG: csr_matrix) -> csr_matrix:
    total_B = np.maximum(np.asarray(counts_BG.sum(axis=1)).ravel(), 1)
    scaled_BG = counts_BG.multiply((_COUNTS_A_CELL / total_B)[:, None]).tocsr()
    return scaled_BG.log1p()


def _variable_genes(log1p_NG: csr_matrix) -> NDArray[np.int64]:
    mean_G = np.asarray(log1p_NG.mean(axis=0)).ravel()
    square_G = np.asarray(log1p_NG.multiply(log1p_NG).mean(axis=0)).ravel()
    return np.sort(np.argsort(-(square_G - mean_G**2), kind="stable")[:_N_GENES])


def _predict(
    model: KNeighborsClassifier | LogisticRegression, features: NDArray[np.float64] | csr_matrix
) -> Prediction:
    probability_QC = model.predict_proba(features)
    best_Q = probability_QC.argmax(axis=1)
    return Prediction(model.classes_[best_Q], probability_QC[np.arange(len(best_Q)), best_Q])
