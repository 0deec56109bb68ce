"""How near predicted cells come to the true ones: one function a metric, of one condition.

The docstrings of the metrics are the definitions that reports quote.

Shapes: M predicted cells, T true cells, G measured genes, C conditions.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Final, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.distance import cdist

N_DE: Final = 20
"""Differential genes of the metrics that look at these alone."""
_WIDTHS: Final = (0.5, 1.0, 2.0)  # of the kernels of MMD, over the median distance of true cells

FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class Outcome:
    """A condition as it was predicted, and as it truly is."""

    base_G: FloatArray
    """Mean of the control cells that the prediction starts from."""
    shift_G: FloatArray
    """Predicted mean change."""
    cells_MG: NDArray[np.float32]
    """Predicted cells, log-normalised."""
    true_mean_G: FloatArray
    true_shift_CG: FloatArray
    """Mean changes of all conditions from control cells that no method was given."""
    own: int
    """Which of them is this condition's."""
    targets: tuple[int, ...]
    """Columns of its perturbed genes that are measured."""
    unperturbed: NDArray[np.int64]
    """Columns of the genes that no condition perturbs."""
    true_cells_TG: NDArray[np.float32]
    de_genes: NDArray[np.int64]
    """The 20 genes that differ most from control cells of their batch and type (Welch's t)."""

    @property
    def mean(self) -> FloatArray:
        """Predicted mean expression."""
        return self.base_G + self.shift_G

    @property
    def true_shift(self) -> FloatArray:
        """True mean change."""
        return np.asarray(self.true_shift_CG[self.own])

    @cached_property
    def distances(self) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Euclidean distances of cells: among predicted, among true, and between the two."""
        x, y = self.cells_MG, self.true_cells_TG
        return cdist(x, x), cdist(y, y), cdist(x, y)


def pearson(outcome: Outcome) -> float:
    """Correlation of predicted and true mean expression over all genes."""
    return _correlation(outcome.mean, outcome.true_mean_G)


def pearson_de(outcome: Outcome) -> float:
    """Correlation of predicted and true mean expression over the top 20 differential genes."""
    return _correlation(outcome.mean[outcome.de_genes], outcome.true_mean_G[outcome.de_genes])


def pearson_delta(outcome: Outcome) -> float:
    """Correlation of predicted and true mean change over all genes; 0 where no change is predicted.

    The true change is that from control cells which no method was given.
    """
    return _correlation(outcome.shift_G, outcome.true_shift)


def pearson_delta_others(outcome: Outcome) -> float:
    """Correlation of predicted and true mean change over all genes but the perturbed ones.

    That a gene which is knocked out falls itself is known to a method that is told so, without
    having learned what the perturbation does.
    """
    changes = (outcome.shift_G, outcome.true_shift)
    return _correlation(*(np.delete(change_G, outcome.targets) for change_G in changes))


def pearson_delta_de(outcome: Outcome) -> float:
    """Correlation of predicted and true mean change over the top 20 differential genes."""
    return _correlation(outcome.shift_G[outcome.de_genes], outcome.true_shift[outcome.de_genes])


def direction(outcome: Outcome) -> float:
    """Share of the top 20 differential genes whose change has the right sign."""
    predicted, true = np.sign(outcome.shift_G), np.sign(outcome.true_shift)
    return float((predicted == true)[outcome.de_genes].mean())


def mse(outcome: Outcome) -> float:
    """Mean squared error of the mean expression over all genes; smaller is better."""
    return float(((outcome.mean - outcome.true_mean_G) ** 2).mean())


def mse_de(outcome: Outcome) -> float:
    """Mean squared error of the mean expression over the top 20 differential genes."""
    return float(((outcome.mean - outcome.true_mean_G)[outcome.de_genes] ** 2).mean())


def energy_distance(outcome: Outcome) -> float:
    """Energy distance of predicted and true cells (Székely & Rizzo 2013); smaller is better.

    Twice the mean Euclidean distance of a predicted and a true cell, less those of two predicted
    and of two true cells, over log expression; a cell is not compared with itself.
    """
    predicted, true, between = outcome.distances
    return float(2 * between.mean() - _mean_of_pairs(predicted) - _mean_of_pairs(true))


def mmd(outcome: Outcome) -> float:
    """Squared maximum mean discrepancy of predicted and true cells (Gretton et al. 2012).

    Unbiased; mean over Gaussian kernels of 0.5, 1 and 2 times the median distance of true cells.
    Smaller is better.
    """
    median = np.median(outcome.distances[1])
    values = []
    for width in _WIDTHS:
        kernels = [np.exp(-0.5 * (d / (width * median)) ** 2) for d in outcome.distances]
        predicted, true, between = kernels
        values.append(_mean_of_pairs(predicted) + _mean_of_pairs(true) - 2 * between.mean())
    return float(np.mean(values))


def discrimination(outcome: Outcome) -> float:
    """Share of the other perturbations whose true change is farther from the predicted one.

    1: its own is the nearest of all; 0.5: chance, as the mean where all are predicted alike.
    Euclidean distance over the genes that no condition perturbs; missing where there are none. The
    perturbation discrimination score of the Virtual Cell Challenge 2025 (Manhattan) leaves out the
    target of the scored perturbation alone: those of the others, which fall in their own cells,
    then push them away from any prediction. Akin to the centroid accuracy of Systema.
    """
    if not len(outcome.unperturbed):
        return float("nan")
    gap_CG = outcome.true_shift_CG[:, outcome.unperturbed] - outcome.shift_G[outcome.unperturbed]
    distance_C = np.linalg.norm(gap_CG, axis=1)
    others_C = np.delete(distance_C, outcome.own)
    nearest = distance_C[outcome.own]
    return float(np.mean((others_C > nearest) + 0.5 * (others_C == nearest)))


def explained(error_C: FloatArray, still_C: FloatArray) -> float:
    """1 - the sum of the error over conditions / that of no change: 1 is perfect, 0 as no change.

    Strong perturbations count more, as there is more to explain.
    """
    return float(1 - error_C.sum() / still_C.sum())


def calibrated(value: float, floor: float, ceiling: float) -> float:
    """Where a mean lies between that of the training mean (0) and the technical duplicate (1).

    The training mean predicts the mean change of the training perturbations; the duplicate predicts
    one half of the true cells by the other. Missing where the duplicate is no better. Of Pearson
    delta it is that without the perturbed genes.
    """
    return (value - floor) / (ceiling - floor) if ceiling > floor else float("nan")


def top_recall(rank_C: FloatArray, k: int) -> float:
    """Share of the states of cells whose perturbed genes are among the first k that are named.

    Single: one of k genes, for states of one gene. Pair: both, or the one, of k pairs. Candidates
    are told apart by the genes that none of them perturbs.
    """
    return float((rank_C <= k).mean())


def _correlation(x: FloatArray, y: FloatArray) -> float:
    """Pearson's correlation; 0 where one of the two does not vary."""
    x, y = x - x.mean(), y - y.mean()
    norm = np.linalg.norm(x) * np.linalg.norm(y)
    return float(x @ y / norm) if norm > 1e-12 else 0.0


def _mean_of_pairs(x_TT: FloatArray) -> float:
    """Mean of what is between two different cells."""
    n_cells = len(x_TT)
    return float((x_TT.sum() - np.trace(x_TT)) / (n_cells * (n_cells - 1)))


class ConditionMetric(NamedTuple):
    """Something measured on one condition; its function's docstring defines it in words."""

    title: str
    group: Literal["change", "error"]
    """Whether it tells how right a change is (greater is better), or how wrong (smaller is)."""
    compute: Callable[[Outcome], float]


class Summary(NamedTuple):
    """Something measured on all conditions; its function's docstring defines it in words."""

    title: str
    group: Literal["references", "reverse"]
    compute: Callable[..., float]


METRICS: Final[Mapping[str, ConditionMetric]] = {
    "pearson_delta": ConditionMetric("Pearson delta", "change", pearson_delta),
    "pearson_delta_others": ConditionMetric("P. delta others", "change", pearson_delta_others),
    "pearson_delta_de": ConditionMetric("P. delta DE", "change", pearson_delta_de),
    "direction": ConditionMetric("Direction DE", "change", direction),
    "discrimination": ConditionMetric("Discrimination", "change", discrimination),
    "pearson": ConditionMetric("Pearson", "change", pearson),
    "pearson_de": ConditionMetric("Pearson DE", "change", pearson_de),
    "mse": ConditionMetric("MSE", "error", mse),
    "mse_de": ConditionMetric("MSE DE", "error", mse_de),
    "energy_distance": ConditionMetric("Energy distance", "error", energy_distance),
    "mmd": ConditionMetric("MMD", "error", mmd),
}
"""In the order of the tables; every value is the mean over two halves of the true cells."""
EXPLAINED: Final = {"mse": "mse_explained", "energy_distance": "energy_explained"}
"""Errors, and the names of the shares of them that are explained."""
CALIBRATED: Final = {
    "pearson_delta_others": "calibrated_delta",
    "discrimination": "calibrated_discrimination",
}
"""Metrics, and their names between floor and ceiling."""
TOP: Final = (1, 3, 5)
"""k of the top-k recall."""
SUMMARIES: Final[Mapping[str, Summary]] = {
    "mse_explained": Summary("MSE explained", "references", explained),
    "energy_explained": Summary("Energy expl.", "references", explained),
    "calibrated_delta": Summary("Calib. delta", "references", calibrated),
    "calibrated_discrimination": Summary("Calib. discr.", "references", calibrated),
    **{
        f"reverse_{what}_top{k}": Summary(f"{what.capitalize()} top {k}", "reverse", top_recall)
        for what in ("single", "pair")
        for k in TOP
    },
}
"""In the order of the tables, behind `METRICS`; greater is better."""
