"""Metrics on outcomes whose values are known by hand."""

from collections.abc import Callable

import numpy as np
import pytest

from scgpt_core.perturbation import metrics
from scgpt_core.perturbation.metrics import Outcome

TRUE = np.array([[1.0, -1, 0, 0], [0, 1, 1, 0], [0, 0, -2, 1]])
"""Changes of three conditions."""


def outcome(
    shift: list[float],
    *,
    own: int = 0,
    targets: tuple[int, ...] = (),
    unperturbed: tuple[int, ...] = (0, 1, 2, 3),
) -> Outcome:
    cells = np.random.default_rng(0).normal(size=(40, 4)).astype(np.float32)
    return Outcome(
        base_G=np.full(4, 2.0),
        shift_G=np.array(shift, float),
        cells_MG=cells,
        true_mean_G=2 + TRUE[own],
        true_shift_CG=TRUE,
        own=own,
        targets=targets,
        unperturbed=np.array(unperturbed, np.int64),
        true_cells_TG=np.random.default_rng(1).normal(size=(60, 4)).astype(np.float32),
        de_genes=np.array([0, 1]),
    )


def test_a_perfect_prediction() -> None:
    perfect = outcome([1, -1, 0, 0])
    for metric in (metrics.pearson, metrics.pearson_delta, metrics.pearson_delta_de):
        assert metric(perfect) == pytest.approx(1)
    assert metrics.direction(perfect) == metrics.discrimination(perfect) == 1
    assert metrics.mse(perfect) == metrics.mse_de(perfect) == 0


def test_no_change_has_no_correlation_and_no_direction() -> None:
    still = outcome([0, 0, 0, 0])
    assert metrics.pearson_delta(still) == metrics.direction(still) == 0
    assert metrics.mse(still) == pytest.approx(0.5)
    assert metrics.mse_de(still) == pytest.approx(1)


def test_discrimination_counts_the_others_that_are_farther() -> None:
    # distances from (0, 1, 0.9, 0): sqrt(5.81), 0.1 and sqrt(10.41)
    assert metrics.discrimination(outcome([0, 1, 0.9, 0], own=0)) == 0.5
    assert metrics.discrimination(outcome([0, 1, 0.9, 0], own=1)) == 1
    assert metrics.discrimination(outcome([0, 1, 0.9, 0], own=2)) == 0


def test_discrimination_does_not_look_at_perturbed_genes() -> None:
    # without gene 2 the prediction is condition 1, and condition 0 alone is farther than 2
    others = (0, 1, 3)
    assert metrics.discrimination(outcome([0, 1, -2, 0], own=2)) == 1
    assert metrics.discrimination(outcome([0, 1, -2, 0], own=2, unperturbed=others)) == 0.5
    assert metrics.discrimination(outcome([0, 1, -2, 0], own=1, unperturbed=others)) == 1
    assert np.isnan(metrics.discrimination(outcome([0, 1, -2, 0], unperturbed=())))


def test_the_perturbed_gene_can_be_left_out() -> None:
    lowered = outcome([3, 0, 0, 0], own=0, targets=(0,))
    assert metrics.pearson_delta(lowered) > 0.5
    assert metrics.pearson_delta_others(lowered) == 0
    assert metrics.pearson_delta_others(outcome([-9, -1, 0, 0], targets=(0,))) == pytest.approx(1)


@pytest.mark.parametrize("metric", [metrics.energy_distance, metrics.mmd])
def test_distances_of_distributions(metric: Callable[[Outcome], float]) -> None:
    near = outcome([0, 0, 0, 0])
    far = Outcome(**{**vars(outcome([0, 0, 0, 0])), "cells_MG": near.cells_MG + 3})
    assert abs(metric(near)) < 0.1
    assert metric(far) > 0.3


def test_energy_distance_as_it_is_defined() -> None:
    of = outcome([0, 0, 0, 0])
    x, y = of.cells_MG[:, None], of.true_cells_TG[:, None]
    between = np.linalg.norm(x - of.true_cells_TG[None], axis=2).mean()
    within = [
        np.linalg.norm(z - z[:, 0][None], axis=2).sum() / (len(z) * (len(z) - 1)) for z in (x, y)
    ]
    assert metrics.energy_distance(of) == pytest.approx(2 * between - sum(within), abs=1e-5)


def test_references() -> None:
    assert metrics.explained(np.array([1.0, 0]), np.array([2.0, 2])) == 0.75
    assert metrics.calibrated(0.6, 0.2, 1.0) == pytest.approx(0.5)
    assert np.isnan(metrics.calibrated(0.6, 0.9, 0.5))
    assert metrics.top_recall(np.array([1, 3, 9, np.nan]), 3) == 0.5
