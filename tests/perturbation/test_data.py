"""Screens are read in the spellings of GEARS and of scPerturb, checked, and halved."""

import tracemalloc

import numpy as np
import pandas as pd
import pytest
from scipy.sparse import csr_matrix
from screen import make_screen

from scgpt_core.perturbation.data import (
    CONTROL,
    Perturbations,
    read_conditions,
    read_perturbations,
)
from scgpt_core.tasks.datasets import variable_genes


def test_conditions_of_gears() -> None:
    obs = pd.DataFrame({"condition": ["ctrl", "KLF1+ctrl", "ctrl+KLF1", "KLF1+CEBPE"]})
    assert read_conditions(obs).tolist() == ["ctrl", "KLF1+ctrl", "KLF1+ctrl", "CEBPE+KLF1"]


def test_conditions_of_scperturb_are_split_where_nperts_says_so() -> None:
    names = ["control", "KLF1", "KLF1_CEBPE", "RP11_5"]
    obs = pd.DataFrame({"perturbation": names, "nperts": ["0", "1", "2", "1"]})
    assert read_conditions(obs).tolist() == ["ctrl", "KLF1+ctrl", "CEBPE+KLF1", "RP11_5+ctrl"]


def test_a_name_that_is_no_pair_stays_whole_without_nperts() -> None:
    obs = pd.DataFrame(
        {"perturbation": ["control", "RP11_5", "KLF1_ENSG00000105610", "KLF1_CEBPE"]}
    )
    found = read_conditions(obs, measured=["KLF1_CEBPE"])
    assert found.tolist() == [
        "ctrl", "RP11_5+ctrl", "KLF1_ENSG00000105610+ctrl", "KLF1_CEBPE+ctrl"
    ]  # fmt: skip


def test_perturbed_names_that_nobody_knows_are_told_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    read_perturbations(make_screen(["ctrl", "STAT1+ctrl", "NOGENE+ctrl", "JAK2+NOTHER"]))
    said = [record.getMessage() for record in caplog.records if "known human" in record.message]
    assert said == ["perturbed, but neither measured nor a known human gene: NOGENE, NOTHER"]


@pytest.mark.parametrize(
    ("obs", "said"),
    [
        ({"guide": ["a"]}, "no column 'condition'.*guide"),
        ({"condition": ["ctrl", None]}, "1 cells have no condition"),
        ({"perturbation": ["A_B_C"], "nperts": [2]}, "'A_B_C' has 3 names, but nperts is 2"),
        (
            {"perturbation": ["control", "BAK1", "BAK1_KLF1"]},
            "'BAK1_KLF1' may be BAK1 and KLF1, or one gene: obs has no column 'nperts'",
        ),
        ({"perturbation": ["control", "x", "x_control"]}, "'x_control' may be x and control"),
        ({"condition": ["A+ctrl"] * 2, "dose_val": ["1", "2"]}, r"A\+ctrl has the doses 1, 2"),
    ],
)
def test_what_is_wrong_with_conditions_is_said(obs: dict[str, list[object]], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        read_conditions(pd.DataFrame(obs))


def test_a_batch_without_controls_stops_the_run() -> None:
    screen = make_screen()
    is_control = screen.obs["condition"] == "ctrl"
    screen = screen[~(is_control & (screen.obs["batch"] == "rep_1"))]
    with pytest.raises(ValueError, match=r"fewer than 4 control cells \(rep_1 / THP-1"):
        read_perturbations(screen)


def test_perturbed_genes_are_found_where_they_are_measured() -> None:
    data = read_perturbations(make_screen())
    assert data.column_of == {"STAT1": data.genes.index("STAT1")}


def test_genes_that_vary_and_those_perturbed_are_kept_at_the_scale_of_all() -> None:
    screen = make_screen(["ctrl", "SMAD4+ctrl", "CUL3+ctrl", "IRF1+ctrl"])
    whole, part = read_perturbations(screen), read_perturbations(screen, n_genes=4)
    vary = set(screen.var_names[variable_genes(screen, 4)])
    assert "IRF1" not in vary
    assert set(part.genes) == vary | {"IRF1"}
    assert part.genes[part.column_of["IRF1"]] == "IRF1"
    assert tuple(part.var.index) == part.genes
    columns = [whole.genes.index(name) for name in part.genes]
    np.testing.assert_array_equal(part.log_NG.toarray(), whole.log_NG[:, columns].toarray())


def test_old_names_lead_to_the_measured_gene() -> None:
    screen = make_screen(["ctrl", "MARCH8+ctrl", "CUL3+ctrl"])
    screen.var_names = ["MARCHF8", *screen.var_names[1:]]
    assert read_perturbations(screen).column_of == {"MARCH8": 0}


def test_halves_and_controls_are_apart_and_equal_in_any_order() -> None:
    screen = make_screen()
    data = read_perturbations(screen)
    order = np.random.default_rng(1).permutation(screen.n_obs)
    turned = read_perturbations(screen[order])
    np.testing.assert_array_equal(turned.half, data.half[order])
    np.testing.assert_array_equal(turned.is_input, data.is_input[order])
    assert not (data.is_input & (data.half >= 0)).any()
    sizes = pd.crosstab([data.condition_N, data.batch_N], data.half)
    assert (sizes.loc[CONTROL] == [30, 15, 15]).all(axis=None)
    assert (sizes.drop(CONTROL)[[0, 1]] == 15).all(axis=None)


def test_shifts_compare_cells_with_controls_of_their_batch() -> None:
    data = read_perturbations(make_screen())
    in_one_batch = data.batch_N == "rep_1"
    changed = data.shifts(
        ["CUL3+ctrl"], cells_N=in_one_batch & ~data.is_control, controls_N=data.is_control
    )[0]
    dense = data.log_NG.toarray()
    expected = dense[in_one_batch & (data.condition_N == "CUL3+ctrl")].mean(0)
    expected -= dense[in_one_batch & data.is_control].mean(0)
    np.testing.assert_allclose(changed, expected, atol=1e-6)
    fallen = {data.genes[i] for i in np.argsort(changed)[:2]}
    assert fallen == {"NKG7", "GNLY"}


def test_shifts_weigh_strata_by_the_cells_in_little_memory() -> None:
    rng = np.random.default_rng(0)
    n_conditions, n_strata, n_genes = 30, 40, 400
    conditions = [CONTROL, *(f"G{i:02}+ctrl" for i in range(n_conditions))]
    condition_N = np.array([*[CONTROL] * 4 * n_strata, *rng.choice(conditions[1:], 3000)])
    batch_N = np.arange(len(condition_N)) % n_strata
    data = Perturbations(
        csr_matrix(rng.poisson(0.2, (len(condition_N), n_genes)).astype(np.float32)),
        condition_N,
        batch_N.astype(str),
        np.full(len(condition_N), "THP-1"),
        np.arange(len(condition_N)),
        np.arange(len(condition_N)).astype(str),
        tuple(f"gene_{i}" for i in range(n_genes)),
        pd.DataFrame(index=range(n_genes)),
        {},
    )
    cells_N = ~data.is_control & ((batch_N < 20) | (condition_N != conditions[1]))
    data.stratum  # noqa: B018  cached before the memory is measured
    tracemalloc.start()
    found = data.shifts(conditions[1:], cells_N=cells_N, controls_N=data.is_control)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 * n_conditions * n_strata * n_genes
    dense = data.log_NG.toarray().astype(np.float64)
    base = np.array([dense[data.is_control & (batch_N == s)].mean(0) for s in range(n_strata)])
    for i in (0, 7):
        chosen_N = cells_N & (condition_N == conditions[1 + i])
        expected = (dense[chosen_N] - base[batch_N[chosen_N]]).mean(0)
        np.testing.assert_allclose(found[i], expected, atol=1e-12)


def test_predictions_start_from_controls_of_the_batches_in_question() -> None:
    data = read_perturbations(make_screen())
    cells = (data.condition_N == "JAK2+ctrl") & (data.batch_N == "rep_0")
    rows = data.match_controls(cells, 50)
    assert len(rows) == 50
    assert set(data.batch_N[rows]) == {"rep_0"}
    assert data.is_input[rows].all()
