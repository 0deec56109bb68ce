"""How right the labels of a query are, and how honest their probabilities: one function a metric.

Greater is better, and 1 is the best. A metric is NaN where it is not defined: no labels are known,
or none is new. The docstrings of the metrics are the definitions that reports quote.

Shapes: M cells of a query.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final, Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.metrics import precision_recall_fscore_support, roc_auc_score

from scgpt_core.keys import CONFIDENCE, IS_UNKNOWN, LABEL, PREDICTED, PROBABILITY, UNKNOWN

N_BINS: Final = 10
"""Bins of confidence, of equal width."""
_NAN: Final = float("nan")


@dataclass
class Labels:
    """Labels of a query's cells, the true ones and those of one method.

    Parameters
    ----------
    true_M
        `UNKNOWN` where no label is known.
    predicted_M, confidence_M
        The most probable label, and its probability.
    unknown_M
        Whether the cell is called unknown.
    classes
        Labels that the reference has.
    """

    true_M: NDArray[Any]
    predicted_M: NDArray[Any]
    confidence_M: NDArray[np.float64]
    unknown_M: NDArray[np.bool_]
    classes: tuple[str, ...]

    @classmethod
    def read(cls, table: pd.DataFrame) -> Self:
        """Take the rows of one share of the labels out of a table of predictions."""
        return cls(
            table[LABEL].to_numpy(str),
            table[PREDICTED].to_numpy(str),
            table[CONFIDENCE].to_numpy(np.float64),
            table[IS_UNKNOWN].to_numpy(bool),
            tuple(table.columns[table.columns.str.startswith(PROBABILITY)].str[len(PROBABILITY) :]),
        )

    @cached_property
    def is_shared(self) -> NDArray[np.bool_]:
        """True for cells of a type that the reference has: (M,)."""
        return np.isin(self.true_M, self.classes)

    @cached_property
    def is_novel(self) -> NDArray[np.bool_]:
        """True for cells of a type that the reference lacks: (M,)."""
        return np.asarray(~self.is_shared & (self.true_M != UNKNOWN))

    @cached_property
    def is_right(self) -> NDArray[np.bool_]:
        """True where the most probable label is the true one: (M,)."""
        return np.asarray(self.true_M == self.predicted_M)

    @cached_property
    def by_label(self) -> pd.DataFrame:
        """Precision, recall, F1 and cells of each type that query and reference have."""
        names = sorted(set(self.true_M[self.is_shared]))
        if not names:
            return pd.DataFrame(columns=["precision", "recall", "f1", "cells"], dtype=float)
        found = precision_recall_fscore_support(
            self.true_M[self.is_shared],
            self.predicted_M[self.is_shared],
            labels=names,
            zero_division=0,
        )
        columns = dict(zip(("precision", "recall", "f1", "cells"), found, strict=True))
        return pd.DataFrame(columns, index=pd.Index(names, name="label"))

    @cached_property
    def coverage_curve(self) -> pd.DataFrame:
        """Columns coverage and accuracy: of the most confident cells of shared types, ever more."""
        confidence_M, is_right = self.confidence_M[self.is_shared], self.is_right[self.is_shared]
        order = np.argsort(-confidence_M, kind="stable")
        number_M = np.arange(1, len(order) + 1)
        accuracy_M = np.cumsum(is_right[order]) / number_M
        # Cells of equal confidence are covered together.
        last_M = np.diff(confidence_M[order], append=-1) != 0
        return pd.DataFrame(
            {"coverage": number_M[last_M] / max(len(order), 1), "accuracy": accuracy_M[last_M]}
        )

    @cached_property
    def reliability_curve(self) -> pd.DataFrame:
        """Columns confidence (mean), accuracy and cells of each bin that has cells."""
        confidence_M = self.confidence_M[self.is_shared]
        bin_M = np.minimum((confidence_M * N_BINS).astype(int), N_BINS - 1)
        bins = pd.DataFrame({"confidence": confidence_M, "accuracy": self.is_right[self.is_shared]})
        curve = bins.groupby(bin_M).mean()
        return curve.assign(cells=bins.groupby(bin_M).size())


def accuracy(labels: Labels) -> float:
    """Share of cells with the right label, among cells of types that the reference has."""
    return _mean(labels.is_right[labels.is_shared])


def macro_f1(labels: Labels) -> float:
    """F1, the mean over types that query and reference have; each counts alike.

    F1 is the harmonic mean of precision and recall. Cells of types that the reference lacks are
    left out.
    """
    return _mean(labels.by_label["f1"])


def macro_precision(labels: Labels) -> float:
    """Share of the cells with a label that truly have it, the mean over shared types."""
    return _mean(labels.by_label["precision"])


def macro_recall(labels: Labels) -> float:
    """Share of the cells of a type that have its label, the mean over shared types."""
    return _mean(labels.by_label["recall"])


def calibration(labels: Labels) -> float:
    """1 - expected calibration error: how near confidence is to accuracy (Guo et al. 2017).

    The error is the mean distance of confidence and accuracy over ten bins of confidence, weighted
    by their cells.
    """
    curve = labels.reliability_curve
    if curve.empty:
        return _NAN
    gap = (curve["confidence"] - curve["accuracy"]).abs()
    return float(1 - np.average(gap, weights=curve["cells"]))


def selective_accuracy(labels: Labels) -> float:
    """Accuracy of the most confident cells, the mean over all shares of cells to be labelled.

    The area under the curve of coverage and accuracy: high where mistakes are not confident.
    """
    curve = labels.coverage_curve
    if curve.empty:
        return _NAN
    return float(np.average(curve["accuracy"], weights=np.diff(curve["coverage"], prepend=0)))


def covered(labels: Labels) -> float:
    """Share of the cells of shared types that are given a label and not called unknown."""
    return _mean(~labels.unknown_M[labels.is_shared])


def covered_accuracy(labels: Labels) -> float:
    """Share of the cells of shared types that are given a label whose label is right."""
    return _mean(labels.is_right[labels.is_shared & ~labels.unknown_M])


def novel_unknown(labels: Labels) -> float:
    """Share of cells of types that the reference lacks that are called unknown, as they should."""
    return _mean(labels.unknown_M[labels.is_novel])


def novel_auroc(labels: Labels) -> float:
    """Probability that a cell of a type that the reference lacks is less confident than another."""
    chosen_M = labels.is_shared | labels.is_novel
    is_novel = labels.is_novel[chosen_M]
    if is_novel.all() or not is_novel.any():
        return _NAN
    return float(roc_auc_score(is_novel, -labels.confidence_M[chosen_M]))


def _mean(values: Any) -> float:
    return float(np.mean(values)) if len(values) else _NAN
