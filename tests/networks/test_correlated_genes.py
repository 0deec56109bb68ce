"""The simple ways to edges find what is there."""

import numpy as np
from scipy.stats import spearmanr

from scgpt_core.networks.coexpression import boost, correlate


def draw() -> np.ndarray:
    """200 cells of 6 genes; gene 5 follows gene 0, and falls where gene 1 rises."""
    x_NG = np.random.default_rng(0).gamma(2, size=(200, 6))
    x_NG[:, 4] = 1
    x_NG[:, 5] = 2 * x_NG[:, 0] - x_NG[:, 1]
    return x_NG


def test_correlations_are_pearsons_and_spearmans() -> None:
    x_NG = draw()
    varying = [0, 1, 2, 3, 5]
    pearson = correlate(x_NG[:, :2], x_NG, ranks=False)
    np.testing.assert_allclose(pearson[:, varying], np.corrcoef(x_NG[:, varying].T)[:2])
    spearman = correlate(x_NG[:, :2], x_NG, ranks=True)
    np.testing.assert_allclose(spearman[:, varying], spearmanr(x_NG[:, varying]).statistic[:2])
    assert (pearson[:, 4] == 0).all()  # the gene does not vary
    assert spearman[0, 5] > 0.3
    assert spearman[1, 5] < -0.3


def test_trees_find_the_regulators_and_stop_where_they_no_longer_help() -> None:
    x_NG = draw()
    importance = boost(
        x_NG[:, :4], x_NG[:, [1, 4, 5]], own_T=np.arange(4), own_G=np.array([1, 4, 5]),
        max_trees=2000, seed=0,
    )  # fmt: skip
    assert set(np.argsort(importance[:, 2])[-2:]) == {0, 1}
    assert importance[1, 0] == 0  # a gene does not predict itself
    assert (importance[:, 1] == 0).all()
    # Importances add up to the number of trees: many where there is something to learn.
    assert 25 <= importance[:, 0].sum() < importance[:, 2].sum() < 2000
