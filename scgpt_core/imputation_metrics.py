"""How near imputed values come to the true ones: one function a metric.

All methods are scored on the same values: what one did not impute counts as a constant prediction.
Metrics are NaN where no truth was withheld, and of methods that impute nothing. The docstrings of
the metrics are the definitions that reports quote.

Shapes: N cells, F features.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

_LEAST_CELLS: Final = 10


@dataclass
class Imputation:
    """Imputed and true values.

    Parameters
    ----------
    imputed_NF, true_NF
        In the same units; NaN where nothing was imputed, or where nothing is to be.
    batch_N
        Sequencing batch of each cell: correlations are taken within batches.
    features
        Names.
    """

    imputed_NF: NDArray[np.floating[Any]]
    true_NF: NDArray[np.floating[Any]]
    batch_N: NDArray[Any]
    features: tuple[str, ...]

    @cached_property
    def pearson_by_feature(self) -> dict[str, float]:
        """Pearson correlation of each feature that was to be imputed."""
        return self._by_feature(ranked=False)

    @cached_property
    def spearman_by_feature(self) -> dict[str, float]:
        """Spearman correlation of each feature that was to be imputed."""
        return self._by_feature(ranked=True)

    def _by_feature(self, *, ranked: bool) -> dict[str, float]:
        found: dict[str, float] = {}
        if not np.any(np.isfinite(self.imputed_NF) & np.isfinite(self.true_NF)):
            return found
        for f, feature in enumerate(self.features):
            known_N = np.isfinite(self.true_NF[:, f])
            values = []
            for batch in np.unique(self.batch_N[known_N]):
                rows = known_N & (self.batch_N == batch)
                x_M, y_M = _fill(self.imputed_NF[rows, f]), self.true_NF[rows, f]
                if ranked:
                    x_M, y_M = rankdata(x_M), rankdata(y_M)
                if len(x_M) >= _LEAST_CELLS and y_M.std() > 0:
                    values.append(np.corrcoef(x_M, y_M)[0, 1] if x_M.std() > 0 else 0.0)
            if values:
                found[feature] = float(np.mean(values))
        return found


def _fill(x_M: NDArray[np.floating[Any]]) -> NDArray[np.floating[Any]]:
    """Values with the mean of all where one is missing."""
    missing_M = np.isnan(x_M)
    return np.where(missing_M, 0 if missing_M.all() else x_M[~missing_M].mean(), x_M)


def pearson(imputation: Imputation) -> float:
    """Pearson correlation over cells of imputed and true values of a feature, mean over features.

    Of proteins as centred log ratios, of peaks as log1p of counts per 10,000; within each batch of
    at least 10 cells, then the mean over batches. A constant prediction counts as 0, and so does a
    feature that the method did not impute.
    """
    return _mean(imputation.pearson_by_feature)


def spearman(imputation: Imputation) -> float:
    """Rank correlation over cells of imputed and true values of a feature, mean over features.

    Within each batch of at least 10 cells, then the mean over batches. A constant prediction counts
    as 0, and so does a feature that the method did not impute.
    """
    return _mean(imputation.spearman_by_feature)


def _mean(by_feature: dict[str, float]) -> float:
    return float(np.mean(list(by_feature.values()))) if by_feature else float("nan")
