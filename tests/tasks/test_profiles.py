"""Simple guesses at profiles, and metrics that know good ones from bad ones."""

import numpy as np
import pytest

from scgpt_core.tasks.profiles import (
    cell_correlations,
    draw_others,
    gene_errors,
    mixing,
    type_means,
)


def test_means_are_of_the_cells_of_the_type_that_have_the_gene() -> None:
    reference_RT = np.array([[1, 4, 0, 0], [3, 0, 0, 0], [9, 6, 2, 0]], np.float32)
    found = type_means(reference_RT, np.array([0, 0, 1]), np.array([1, 0]))
    overall = (1 + 4 + 3 + 9 + 6 + 2) / 6
    np.testing.assert_allclose(found, [[9, 6, 2, overall], [2, 4, 2, overall]], rtol=1e-6)


def test_others_are_of_the_same_type_and_each_is_drawn_once() -> None:
    type_N = np.array([0, 1, 0, 1, 0, 1, 1])
    others_N = draw_others(type_N, seed=0)
    assert (type_N[others_N] == type_N).all()
    assert (others_N != np.arange(7)).all()
    assert sorted(others_N) == list(range(7))


def draw_profiles() -> tuple[np.ndarray, np.ndarray]:
    """True bins of 40 cells and 30 genes, of which a half is scored; gene 5 is in no cell."""
    rng = np.random.default_rng(0)
    true_NT = rng.uniform(1, 50, (40, 30)).astype(np.float32)
    true_NT[:, 5] = 0
    return true_NT, (rng.random(true_NT.shape) < 0.5) & (true_NT > 0)


def test_the_truth_scores_best() -> None:
    true_NT, scored_NT = draw_profiles()
    np.testing.assert_allclose(cell_correlations(true_NT, true_NT, scored_NT), 1)
    error_T = gene_errors(true_NT, true_NT, scored_NT)
    assert np.isnan(error_T[5])
    np.testing.assert_array_equal(np.delete(error_T, 5), 0)


def test_errors_are_of_scored_values_alone_and_correlations_know_the_sign() -> None:
    true_NT, scored_NT = draw_profiles()
    guess_NT = np.where(scored_NT, true_NT + 3, -1000).astype(np.float32)
    np.testing.assert_allclose(
        np.delete(gene_errors(guess_NT, true_NT, scored_NT), 5), 3, rtol=1e-5
    )
    np.testing.assert_allclose(cell_correlations(guess_NT, true_NT, scored_NT), 1, rtol=1e-5)
    np.testing.assert_allclose(cell_correlations(-guess_NT, true_NT, scored_NT), -1, rtol=1e-5)


def test_a_guess_that_says_nothing_correlates_with_nothing() -> None:
    true_NT, scored_NT = draw_profiles()
    true_NT[0, scored_NT[0]] = 7  # nor can a cell of equal values be told
    found = cell_correlations(np.full_like(true_NT, 25), true_NT, scored_NT)
    assert np.isnan(found[0])
    np.testing.assert_array_equal(found[1:], 0)


def test_mixing_tells_cells_of_one_kind_from_cells_of_another() -> None:
    rng = np.random.default_rng(0)
    type_N, type_R = np.repeat([0, 1, 2], [200, 60, 10]), np.repeat([0, 1, 2], [400, 60, 9])
    made, real = (rng.normal(size=(len(x), 5)).astype(np.float32) for x in (type_N, type_R))
    made[type_N == 1] += 10
    found = mixing(made, real, type_N, type_R)
    assert found[type_N == 0].mean() == pytest.approx(1, abs=0.1)
    np.testing.assert_array_equal(found[type_N == 1], 0)
    assert np.isnan(found[type_N == 2]).all()
