"""The label vote, by hand."""

import numpy as np
import pytest

from scgpt_core.index.vote import (
    Calibration,
    calibration_error,
    fit_calibration,
    neighbour_weights,
    vote,
)

NONE = -np.inf


@pytest.mark.parametrize(
    ("similarity", "weights"),
    [
        # Gaps 0, 0.1, 0.2: their mean is 0.1.
        ([0.9, 0.8, 0.7], [1, np.exp(-1), np.exp(-2)]),
        # The scale is the query's own: gaps ten times as wide weigh the same.
        ([0.9, -0.1, -1.1], [1, np.exp(-1), np.exp(-2)]),
        ([0.5, 0.5, 0.5], [1, 1, 1]),
        # A neighbour that was not found has no weight and does not count in the mean.
        ([0.9, 0.7, NONE], [1, np.exp(-2), 0]),
        ([NONE, NONE, NONE], [0, 0, 0]),
    ],
)
def test_weights_fall_with_distance(similarity: list[float], weights: list[float]) -> None:
    found = neighbour_weights(np.array([similarity]))
    np.testing.assert_allclose(found, [weights], rtol=1e-9)


@pytest.mark.parametrize(
    ("weights", "codes", "class_weights", "shares"),
    [
        ([1, 1, 1, 1], [0, 0, 1, 0], [1, 1, 1], [0.75, 0.25, 0]),
        ([1, 0.5, 0.5, 0], [0, 1, 1, 2], [1, 1, 1], [0.5, 0.5, 0]),
        # Label 1 is four times rarer: with exponent 1/2 its votes count double.
        ([1, 1, 1, 0], [0, 0, 1, 0], [1, 2, 1], [0.5, 0.5, 0]),
        # Neighbours without a label do not vote.
        ([1, 1, 1, 1], [-1, -1, 1, -1], [1, 1, 1], [0, 1, 0]),
        ([1, 1, 1, 1], [-1, -1, -1, -1], [1, 1, 1], [0, 0, 0]),
    ],
)
def test_shares_of_the_vote(
    weights: list[float], codes: list[int], class_weights: list[float], shares: list[float]
) -> None:
    found = vote(np.array([weights]), np.array([codes]), np.array(class_weights, float))
    np.testing.assert_allclose(found, [shares])


def test_queries_vote_apart() -> None:
    found = vote(np.ones((2, 2)), np.array([[0, 0], [1, 0]]), np.ones(2))
    np.testing.assert_allclose(found, [[1, 0], [0.5, 0.5]])


def test_each_label_is_calibrated_by_how_often_it_is_right() -> None:
    rng = np.random.default_rng(0)
    n, share = 20_000, rng.uniform(0.2, 1, (20_000, 3))
    winner = np.where(np.arange(n) < 40, 2, rng.integers(0, 2, n))
    won = winner[:, None] == np.arange(3)
    true = Calibration(np.array([0.7, 0.2, 0.0]), np.array([-0.5, 1.0, 0.0]), k=15)
    right = rng.random(share.shape) < true(share)
    found = fit_calibration(share, winner, won, right, k=15)
    np.testing.assert_allclose(found.slope_T[:2], true.slope_T[:2], atol=0.1)
    np.testing.assert_allclose(found.intercept_T[:2], true.intercept_T[:2], atol=0.1)
    # 40 cells are too few for a curve of one's own.
    alone = fit_calibration(share, winner, won, right, k=15, min_cells=10**6)
    assert found.slope_T[2] == alone.slope_T[0] == alone.slope_T[2]
    # A group that always wins and is always right does not make single labels look better.
    group = np.ones((n, 1))
    with_group = fit_calibration(
        np.hstack([share, group]),
        winner,
        np.hstack([won, group > 0]),
        np.hstack([right, group > 0]),
        k=15,
    )
    np.testing.assert_array_equal(with_group.slope_T[:3], found.slope_T)


def test_calibration_stays_off_certainty() -> None:
    sure = np.ones((98, 1))
    always_right = fit_calibration(sure, np.zeros(98, int), sure > 0, sure > 0, k=15)
    np.testing.assert_allclose(always_right(np.array([[1.0]])), 99 / 100, atol=0.005)
    assert always_right(np.array([[0.0]])) == 0


def test_calibration_error_by_hand() -> None:
    confidence = np.array([0.95, 0.95, 0.15, 0.15])
    right = np.array([True, False, False, False])
    # Bins 0.9-1: |1.9 - 1| = 0.9; bin 0.1-0.2: |0.3 - 0| = 0.3; over 4 cells.
    assert calibration_error(confidence, right) == pytest.approx(0.3)
