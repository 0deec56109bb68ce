"""The label vote of nearest neighbours: weights, shares, confidence.

Shapes: Q queries, K neighbours, C labels (classes).
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression

FloatArray = NDArray[np.float64]


def neighbour_weights(similarity_QK: NDArray[np.floating]) -> FloatArray:
    """Weight of each neighbour's vote, 1 for the nearest.

    exp(-(d² - d²_nearest) / mean over neighbours of (d² - d²_nearest)), for distances d between
    unit vectors: the scale is the query's own, so that dense and sparse regions are alike.

    Parameters
    ----------
    similarity_QK
        Cosines, nearest first; -inf where there is no neighbour, whose weight is 0.
    """
    found_QK = np.isfinite(similarity_QK)
    gap_QK = np.where(found_QK, similarity_QK[:, :1], 0.0) - np.where(found_QK, similarity_QK, 0.0)
    scale_Q = gap_QK.sum(axis=1) / np.maximum(found_QK.sum(axis=1), 1)
    scale_Q[scale_Q <= 0] = 1  # all are as near as the nearest: they weigh the same
    return np.where(found_QK, np.exp(-gap_QK / scale_Q[:, None]), 0.0)


def vote(
    weight_QK: FloatArray, codes_QK: NDArray[np.int64], class_weight_C: FloatArray
) -> FloatArray:
    """Share of the votes of each label, (Q, C).

    Each neighbour votes with its weight times that of its label. Neighbours without a label do not
    vote, but doubt: where they are half the weight, the shares sum to a half.

    Parameters
    ----------
    weight_QK
        Weight of each neighbour.
    codes_QK
        Label of each neighbour; -1: none.
    class_weight_C
        Weight of each label, from its frequency in the reference.
    """
    n_queries, n_classes = len(weight_QK), len(class_weight_C)
    voted_QK = (codes_QK >= 0) & (weight_QK > 0)
    cell_QK = np.arange(n_queries)[:, None] * n_classes + codes_QK
    votes_QK = weight_QK * class_weight_C[codes_QK]
    votes_QC = np.bincount(
        cell_QK[voted_QK], votes_QK[voted_QK], minlength=n_queries * n_classes
    ).reshape(n_queries, n_classes)
    total_Q = votes_QC.sum(axis=1)
    labelled_Q = (weight_QK * voted_QK).sum(axis=1) / np.maximum(weight_QK.sum(axis=1), 1e-12)
    share_Q = np.divide(labelled_Q, total_Q, out=np.zeros(n_queries), where=total_Q > 0)
    return np.asarray(votes_QC * share_Q[:, None])


class Calibration(NamedTuple):
    """From the share of the votes to the probability that the label is right (Platt scaling).

    sigmoid(slope x logit(share) + intercept). Platt, Advances in Large Margin Classifiers, 1999.
    """

    slope: float
    intercept: float
    k: int
    """Neighbours that vote: a share of 1 counts as (k + 1/2) / (k + 1)."""

    def __call__(self, share: NDArray[np.floating]) -> FloatArray:
        """Probabilities, of the shape of the shares; 0 where nobody voted for the label."""
        logit = self.slope * _logit(share, self.k) + self.intercept
        return np.where(share > 0, 1 / (1 + np.exp(-logit)), 0.0)


def fit_calibration(share_Q: FloatArray, right_Q: NDArray[np.bool_], k: int) -> Calibration:
    """Fit the probability that the winning label is right to cells whose label is known.

    Parameters
    ----------
    share_Q
        Share of the winning label.
    right_Q
        Whether it is the true one.
    k
        Neighbours that voted.
    """
    # Platt's targets, which stay off 0 and 1: each cell counts partly as right, partly as wrong.
    n_right, n_wrong = int(right_Q.sum()), int((~right_Q).sum())
    target_Q = np.where(right_Q, (n_right + 1) / (n_right + 2), 1 / (n_wrong + 2))
    logit_Q = _logit(share_Q, k)
    fit = LogisticRegression(C=1e6)
    fit.fit(
        np.concatenate([logit_Q, logit_Q])[:, None],
        np.repeat([1, 0], len(share_Q)),
        sample_weight=np.concatenate([target_Q, 1 - target_Q]),
    )
    return Calibration(float(fit.coef_[0, 0]), float(fit.intercept_[0]), k)


def _logit(share: NDArray[np.floating], k: int) -> FloatArray:
    inside = (np.asarray(share, np.float64) * k + 0.5) / (k + 1)
    return np.asarray(np.log(inside / (1 - inside)))


def calibration_error(
    confidence_Q: NDArray[np.floating], right_Q: NDArray[np.bool_], n_bins: int = 10
) -> float:
    """Mean distance of confidence and accuracy over bins of confidence of equal width.

    Expected calibration error: Guo et al., On Calibration of Modern Neural Networks, 2017.
    """
    bin_Q = np.minimum((confidence_Q * n_bins).astype(int), n_bins - 1)
    gap = np.bincount(bin_Q, confidence_Q - right_Q, minlength=n_bins)
    return float(np.abs(gap).sum() / len(confidence_Q))
