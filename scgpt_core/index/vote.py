"""The label vote of nearest neighbours: weights, shares, confidence.

Shapes: Q queries, K neighbours, C labels (classes), T labels and groups of labels.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
_BINS = 10
"""Of confidence, in its calibration error."""


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
    """Share of the votes of each label, (Q, C); rows sum to 1, or to 0 where nobody votes.

    Parameters
    ----------
    weight_QK
        Weight of each neighbour.
    codes_QK
        Label of each neighbour; -1: none, it does not vote.
    class_weight_C
        Factor of each label's votes, from its frequency in the reference.
    """
    n_queries, n_classes = len(weight_QK), len(class_weight_C)
    voted_QK = codes_QK >= 0
    cell_QK = np.arange(n_queries)[:, None] * n_classes + codes_QK
    votes_QK = weight_QK * class_weight_C[codes_QK]
    votes_QC = np.bincount(
        cell_QK[voted_QK], votes_QK[voted_QK], minlength=n_queries * n_classes
    ).reshape(n_queries, n_classes)
    total_Q1 = votes_QC.sum(axis=1, keepdims=True)
    share_QC: FloatArray = np.zeros(votes_QC.shape)
    np.divide(votes_QC, total_Q1, out=share_QC, where=total_Q1 > 0)
    return share_QC


class Calibration(NamedTuple):
    """From the share of the votes to the probability that the label is right (Platt scaling).

    sigmoid(slope x logit(share) + intercept), for each label and each group of labels its own.
    Platt, Advances in Large Margin Classifiers, 1999.
    """

    slope_T: FloatArray
    intercept_T: FloatArray
    k: int
    """Neighbours that vote: a share of 1 counts as (k + 1/2) / (k + 1)."""

    def __call__(self, share_QT: NDArray[np.floating]) -> FloatArray:
        """Probabilities (Q, T); 0 where nobody voted for the label."""
        logit_QT = self.slope_T * _logit(share_QT, self.k) + self.intercept_T
        return np.where(share_QT > 0, 1 / (1 + np.exp(-logit_QT)), 0.0)


def fit_calibration(
    share_QT: FloatArray,
    winner_Q: NDArray[np.int64],
    won_QT: NDArray[np.bool_],
    right_QT: NDArray[np.bool_],
    *,
    k: int,
    min_cells: int = 50,
) -> Calibration:
    """Fit to cells whose label is known how often a label that won is right.

    Parameters
    ----------
    share_QT
        Share of the votes of each label, and of each group of labels.
    winner_Q
        The label that won.
    won_QT
        Whether the winner is this label, or of this group; other cells tell nothing of it.
    right_QT
        Whether the true label is this one, or of this group.
    k
        Neighbours that voted.
    min_cells
        Labels and groups that fewer cells were voted into share one curve, that of all winners.
    """
    winners = (np.arange(len(winner_Q)), winner_Q)
    slope, intercept = _fit(share_QT[winners], right_QT[winners], k)
    slope_T, intercept_T = np.full(share_QT.shape[1], slope), np.full(share_QT.shape[1], intercept)
    for t in np.flatnonzero(won_QT.sum(axis=0) >= min_cells):
        won_Q = won_QT[:, t]
        slope_T[t], intercept_T[t] = _fit(share_QT[won_Q, t], right_QT[won_Q, t], k)
    return Calibration(slope_T, intercept_T, k)


def _fit(share_Q: FloatArray, right_Q: NDArray[np.bool_], k: int) -> tuple[float, float]:
    # It takes a second, which jobs that only embed need not spend.
    from sklearn.linear_model import LogisticRegression

    # Platt's targets, which stay off 0 and 1: each cell counts partly as right, partly as wrong.
    n_right, n_wrong = int(right_Q.sum()), int((~right_Q).sum())
    target_Q = np.where(right_Q, (n_right + 1) / (n_right + 2), 1 / (n_wrong + 2))
    logit_Q = _logit(share_Q, k)
    fit = LogisticRegression().fit(
        np.concatenate([logit_Q, logit_Q])[:, None],
        np.repeat([1, 0], len(share_Q)),
        sample_weight=np.concatenate([target_Q, 1 - target_Q]),
    )
    return float(fit.coef_[0, 0]), float(fit.intercept_[0])


def _logit(share: NDArray[np.floating], k: int) -> FloatArray:
    inside = (np.asarray(share, np.float64) * k + 0.5) / (k + 1)
    return np.asarray(np.log(inside / (1 - inside)))


def calibration_error(confidence_Q: NDArray[np.floating], right_Q: NDArray[np.bool_]) -> float:
    """Mean distance of confidence and accuracy over ten bins of confidence of equal width.

    Expected calibration error: Guo et al., On Calibration of Modern Neural Networks, 2017.
    """
    bin_Q = np.minimum((confidence_Q * _BINS).astype(int), _BINS - 1)
    gap = np.bincount(bin_Q, confidence_Q - right_Q, minlength=_BINS)
    return float(np.abs(gap).sum() / len(confidence_Q))
