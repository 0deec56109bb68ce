"""The true cells of a fold in two halves: what predictions are held against, and their ceiling.

Every method is scored against each half in turn. The technical duplicate predicts one half by the
other: no method can be expected to do better.

Shapes: T true cells, M predicted cells, G measured genes, C conditions.
"""

from functools import cached_property
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.stats import ttest_ind_from_stats
from sklearn.utils.sparsefuncs import mean_variance_axis

from scgpt_core.perturbation.data import Perturbations, genes_of
from scgpt_core.perturbation.metrics import N_DE, Outcome
from scgpt_core.perturbation.splits import Fold

HALVES: Final = (0, 1)
MOST_CELLS: Final = 250
"""Of a half of a condition, that distributions are compared with: this bounds the memory."""
SHIFTED_CELLS: Final = 100
"""Control cells of the references."""

FloatArray = NDArray[np.float64]


class _Moments(NamedTuple):
    """Mean and variance of cells of one stratum, and how many there are."""

    mean_G: NDArray[np.float32]
    variance_G: NDArray[np.float32]
    n_cells: int


class Truth:
    """Test conditions of a fold, as they truly are.

    Parameters
    ----------
    data, fold
        The cells, and which of them are predicted.
    """

    def __init__(self, data: Perturbations, fold: Fold) -> None:
        self.data, self.fold = data, fold
        true_N = fold.truths(data)
        self.conditions = data.well_measured(true_N)
        """Those that the state of a test condition is told apart from."""
        self.shift_CG = {
            half: data.shifts(
                self.conditions,
                cells_N=true_N & (data.half == half),
                controls_N=data.is_control & (data.half == half),
            )
            for half in HALVES
        }
        """Mean changes by half, each from control cells of its own."""

    def row(self, condition: str) -> int:
        """Place of a condition in `conditions`."""
        return self.conditions.index(condition)

    def outcome(
        self, condition: str, half: int, *, shift_G: FloatArray, cells_MG: NDArray[np.float32]
    ) -> Outcome:
        """Hold a predicted mean change and predicted cells against a half of the true cells."""
        data, columns = self.data, self.data.column_of
        rows = self._rows(condition, half)
        true_mean_G = data.log_NG[rows].mean(axis=0).A1.astype(np.float64)
        from_input_G = data.shifts(
            [condition], cells_N=_mask(rows, len(data.names)), controls_N=data.is_input
        )[0]
        return Outcome(
            base_G=true_mean_G - from_input_G,
            shift_G=shift_G,
            cells_MG=cells_MG,
            true_mean_G=true_mean_G,
            true_shift_CG=self.shift_CG[half],
            own=self.row(condition),
            targets=tuple(columns[gene] for gene in genes_of(condition) if gene in columns),
            unperturbed=data.unperturbed,
            true_cells_TG=data.log_NG[rows[:MOST_CELLS]].toarray(),
            de_genes=self._differential(condition),
        )

    def shifted(self, condition: str, half: int, shift_G: FloatArray) -> Outcome:
        """Predict matched control cells, all changed alike."""
        rows = self.data.match_controls(self.fold.truth(self.data, condition), SHIFTED_CELLS)
        cells_MG = (self.data.log_NG[rows].toarray() + shift_G).astype(np.float32)
        return self.outcome(condition, half, shift_G=shift_G, cells_MG=cells_MG)

    def duplicate(self, condition: str, half: int) -> Outcome:
        """Predict a half by the other one."""
        other = 1 - half
        cells_MG = self.data.log_NG[self._rows(condition, other)[:MOST_CELLS]].toarray()
        shift_G = self.shift_CG[other][self.row(condition)]
        return self.outcome(condition, half, shift_G=shift_G, cells_MG=cells_MG)

    def _rows(self, condition: str, half: int) -> NDArray[np.int64]:
        """Rows of a half's cells, in an order that has nothing to do with the file's."""
        chosen_N = self.fold.truth(self.data, condition) & (self.data.half == half)
        rows = np.flatnonzero(chosen_N)
        return rows[np.argsort(self.data.cell_ids[rows], kind="stable")]

    def _differential(self, condition: str) -> NDArray[np.int64]:
        """Genes with the greatest absolute Welch's t, of all true cells against control cells.

        Of every cell the mean of its stratum's control cells is taken off: what tells batches and
        cell types apart is no effect of a perturbation.
        """
        true = self._moments(self.fold.truth(self.data, condition))
        statistics = []
        for moments in (true, {stratum: self._of_controls[stratum] for stratum in true}):
            n_S = [m.n_cells for m in moments.values()]
            n_cells = sum(n_S)
            gap_SG = np.array([m.mean_G - self._of_controls[s].mean_G for s, m in moments.items()])
            mean_G = np.average(gap_SG, axis=0, weights=n_S).astype(np.float32)
            within_SG = np.array([m.variance_G for m in moments.values()])
            variance_G = np.average(within_SG + (gap_SG - mean_G) ** 2, axis=0, weights=n_S)
            variance_G = variance_G.astype(np.float32)
            deviation_G = np.sqrt(variance_G * n_cells / max(n_cells - 1, 1)) + 1e-9
            statistics += [mean_G, deviation_G, n_cells]
        t_G = ttest_ind_from_stats(*statistics, equal_var=False).statistic
        return np.argsort(-np.abs(t_G), kind="stable")[:N_DE]

    @cached_property
    def _of_controls(self) -> dict[int, _Moments]:
        """Of control cells that no method was given."""
        return self._moments(self.data.is_control & ~self.data.is_input)

    def _moments(self, chosen_N: NDArray[np.bool_]) -> dict[int, _Moments]:
        """Of these cells, by stratum."""
        found = {}
        for stratum in np.unique(self.data.stratum[chosen_N]).tolist():
            part = self.data.log_NG[chosen_N & (self.data.stratum == stratum)]
            mean_G, variance_G = mean_variance_axis(part, axis=0)
            found[stratum] = _Moments(mean_G, variance_G, part.shape[0])
        return found


def _mask(rows: NDArray[np.int64], n_cells: int) -> NDArray[np.bool_]:
    chosen_N = np.zeros(n_cells, np.bool_)
    chosen_N[rows] = True
    return chosen_N
