"""What label transfer is measured against: classifiers of the counts, without any model.

Shapes: N reference cells, Q queries, G genes, C labels.
"""

import logging
from typing import Any, Final, NamedTuple

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

    label_Q: NDArray[Any]
    """Texts."""
    confidence_Q: NDArray[np.float64]


class Baselines:
    """Simple methods that learn labels from counts, and predict those of queries block by block.

    Reference and queries are reduced to the genes that both have, normalised to 10,000 counts a
    cell, and log1p is taken; of these genes the 2,000 that vary most in the reference are used.

    Parameters
    ----------
    reference
        Labelled cells.
    labels
        (N,), their labels, at least two different ones.
    query_genes
        Token ids of all genes that are expressed in any query.
    k
        Neighbours of the kNN vote.
    seed
        Of the principal components.
    """

    def __init__(
        self,
        reference: Cells,
        labels: NDArray[np.str_],
        query_genes: NDArray[np.int32],
        *,
        k: int,
        seed: int,
    ) -> None:
        self._n_genes = int(max(reference.genes.max(), query_genes.max())) + 1
        counts_NG = _matrix(reference, self._n_genes)
        in_query_G = np.zeros(self._n_genes, bool)
        in_query_G[query_genes] = True
        self._shared_G = (counts_NG.getnnz(axis=0) > 0) & in_query_G
        log1p_NG = _log1p(counts_NG[:, self._shared_G])
        self._variable_G = _variable_genes(log1p_NG)
        log1p_NG = log1p_NG[:, self._variable_G]
        components = min(_N_COMPONENTS, min(log1p_NG.shape) - 1)
        self._pca = PCA(components, svd_solver="arpack", random_state=seed).fit(log1p_NG)
        self._knn = KNeighborsClassifier(min(k, len(labels)))
        self._knn.fit(self._pca.transform(log1p_NG), labels)
        self._regression = LogisticRegression(
            C=_INVERSE_PENALTY, max_iter=_MAX_ITERATIONS, tol=1e-3
        )
        self._regression.fit(log1p_NG, labels)

    def predict(self, query: Cells) -> dict[str, Prediction]:
        """Predict the labels of some queries, by the same token ids.

        Returns
        -------
        ``pca_knn``: majority of the k nearest reference cells on 50 principal components of the
        reference; ``logistic_regression``: on the log counts.
        """
        log1p_QG = _log1p(_matrix(query, self._n_genes)[:, self._shared_G])[:, self._variable_G]
        return {
            "pca_knn": _predict(self._knn, self._pca.transform(log1p_QG)),
            "logistic_regression": _predict(self._regression, log1p_QG),
        }


def predict_baselines(
    reference: Cells, labels: NDArray[np.str_], query: Cells, *, k: int, seed: int
) -> dict[str, Prediction]:
    """Predict labels of queries that are in memory as a whole: see `Baselines`."""
    return Baselines(reference, labels, np.unique(query.genes), k=k, seed=seed).predict(query)


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
    return Prediction(
        model.classes_.astype(object)[best_Q], probability_QC[np.arange(len(best_Q)), best_Q]
    )
