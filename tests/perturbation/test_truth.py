"""Differential genes are those that a perturbation changes, and chance is chance."""

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from scipy.sparse import csr_matrix
from scipy.stats import ttest_ind

from scgpt_core.perturbation.data import CONTROL, Perturbations, genes_of
from scgpt_core.perturbation.metrics import N_DE, discrimination
from scgpt_core.perturbation.splits import Fold
from scgpt_core.perturbation.truth import Truth

RESPONDERS, MARKERS = np.arange(N_DE), np.arange(N_DE, 2 * N_DE)
CONDITIONS = ("A+ctrl", "B+ctrl")


def make_data(
    condition_N: NDArray[np.str_], cell_type_N: NDArray[np.str_], rate_NG: NDArray[np.float64]
) -> Perturbations:
    """Cells of one batch with so many counts of each gene."""
    n_cells, n_genes = rate_NG.shape
    counts_NG = np.random.default_rng(0).poisson(rate_NG)
    names = tuple(f"gene_{g}" for g in range(n_genes))
    return Perturbations(
        csr_matrix(np.log1p(counts_NG).astype(np.float32)),
        condition_N,
        np.full(n_cells, "rep_1"),
        cell_type_N,
        np.arange(n_cells),
        np.arange(n_cells).astype(str),
        names,
        pd.DataFrame(index=names),
        {genes_of(name)[0]: g for g, name in enumerate(sorted(set(condition_N) - {CONTROL}))},
    )


def make_types(sizes: dict[str, tuple[int, int]]) -> Perturbations:
    """So many B and T cells of each condition, which raises responders; T cells have markers."""
    rows = [
        (name, cell_type)
        for name, of_types in sizes.items()
        for cell_type, n in zip("BT", of_types, strict=True)
        for _ in range(n)
    ]
    condition_N, cell_type_N = np.array(rows).T
    rate_NG = np.full((len(rows), 3 * N_DE), 4.0)
    rate_NG[np.ix_(condition_N != CONTROL, RESPONDERS)] *= 1.5
    rate_NG[np.ix_(cell_type_N == "T", MARKERS)] *= 10
    return make_data(condition_N, cell_type_N, rate_NG)


def differential(data: Perturbations, fold: Fold) -> NDArray[np.int64]:
    still_G = np.zeros(len(data.genes))
    return Truth(data, fold).shifted(CONDITIONS[0], 0, still_G).de_genes


def test_markers_of_the_cell_type_that_is_held_out_are_not_differential() -> None:
    data = make_types({CONTROL: (200, 200), CONDITIONS[0]: (100, 100), CONDITIONS[1]: (9, 9)})
    fold = Fold(CONDITIONS, (), CONDITIONS, ("1 of 1",) * 2, "cell_type", "T")
    assert set(differential(data, fold)) == set(RESPONDERS)


def test_markers_of_the_cell_type_that_a_condition_has_more_of_are_not_differential() -> None:
    data = make_types({CONTROL: (200, 200), CONDITIONS[0]: (10, 190), CONDITIONS[1]: (9, 9)})
    fold = Fold((), (), CONDITIONS, ("0 of 1",) * 2)
    assert set(differential(data, fold)) == set(RESPONDERS)


def test_in_one_stratum_differential_genes_are_those_of_welchs_t() -> None:
    data = make_types({CONTROL: (99, 0), CONDITIONS[0]: (40, 0), CONDITIONS[1]: (9, 0)})
    found = differential(data, Fold((), (), CONDITIONS, ("0 of 1",) * 2))
    parts = (data.condition_N == CONDITIONS[0], data.is_control & ~data.is_input)
    t_G = ttest_ind(*(data.log_NG[part].toarray() for part in parts), equal_var=False).statistic
    assert found.tolist() == np.argsort(-np.abs(t_G))[:N_DE].tolist()


def test_discrimination_is_chance_where_all_are_predicted_alike() -> None:
    """Also in a screen whose perturbations lower their own gene, to a tenth, and nothing else."""
    genes = list("ABCDEFGHIJKLMNOPQRST")
    condition_N = np.array([CONTROL] * 100 + [f"{gene}+ctrl" for gene in genes for _ in range(20)])
    rate_NG = np.full((len(condition_N), 2 * len(genes)), 9.0)
    for g, gene in enumerate(genes):
        rate_NG[condition_N == f"{gene}+ctrl", g] *= 0.1
    data = make_data(condition_N, np.full(len(condition_N), "T"), rate_NG)
    truth = Truth(data, Fold((), (), data.conditions, ("0 of 1",) * len(genes)))
    for shift_G in (np.zeros(len(data.genes)), truth.shift_CG[0].mean(axis=0)):
        outcomes = [truth.shifted(name, 0, shift_G) for name in data.conditions]
        assert np.mean([discrimination(each) for each in outcomes]) == pytest.approx(0.5)
