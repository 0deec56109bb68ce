"""Bins against the published ones and numpy's, and what they must not depend on."""

import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from random_cells import make_cells
from safetensors.numpy import load_file

from scgpt_core.data.binning import bin_counts

GOLDEN = Path(os.environ.get("SCGPT_GOLDEN", Path(__file__).parents[1] / "golden"))

small = st.integers(1, 12).map(float)
deep = st.integers(1, 5000).map(float)
fractions = st.floats(np.float32(0.01), 400, width=32)
cells_of_counts = st.sampled_from([small, deep, fractions, small | deep | fractions]).flatmap(
    lambda elements: hnp.arrays(np.float32, st.integers(1, 120), elements=elements)
)


def bin_one(counts, *, n_bins: int = 11, seed: int = 0, cell_id: int = 7, epoch: int = 0):
    counts = np.asarray(counts, np.float32)
    indptr, cell_ids = np.array([0, len(counts)]), np.array([cell_id])
    return bin_counts(indptr, counts, n_bins=n_bins, seed=seed, cell_ids=cell_ids, epoch=epoch)


def numpy_digits(counts: NDArray[np.float32], n_bins: int) -> tuple[NDArray, NDArray]:
    """Lowest and highest bin of each count, by numpy."""
    edges = np.quantile(counts, np.linspace(0, 1, n_bins - 1))
    low, high = np.digitize(counts, edges, right=True), np.digitize(counts, edges)
    return np.minimum(low + 1, high), high


@pytest.mark.parametrize(
    ("counts", "allowed"),
    [
        # edges 1, 1, 5: a 1 lies on the first two, 2 between, 5 on the last
        ([1, 1, 1, 2, 5], [{1, 2}, {1, 2}, {1, 2}, {2}, {3}]),
        ([3], [{1, 2, 3}]),
        ([0, 4, 0, 8], [{0}, {1}, {0}, {3}]),
        # edges 0.5, 300, 70000: fractions and large counts among small ones
        ([0.5, 300, 70_000], [{1}, {2}, {3}]),
        ([0, 0], [{0}, {0}]),
    ],
)
def test_literal_bins(counts: list[float], allowed: list[set[int]]) -> None:
    draws = np.array([bin_one(counts, n_bins=4, seed=seed) for seed in range(60)])
    assert [set(column) for column in draws.T] == allowed


@given(counts=cells_of_counts, n_bins=st.integers(2, 60), seed=st.integers(0, 2**63 - 1))
def test_bins_lie_where_numpy_has_them(counts: NDArray, n_bins: int, seed: int) -> None:
    bins = bin_one(counts, n_bins=n_bins, seed=seed)
    lowest, highest = numpy_digits(counts, n_bins)
    assert (lowest <= bins).all()
    assert (bins <= highest).all()


def test_ties_follow_the_published_distribution() -> None:
    golden = load_file(GOLDEN / "binning_with_ties.safetensors")
    rows = golden["rows"].astype(np.float32)
    indptr = np.arange(len(rows) + 1) * rows.shape[1]
    n_bins = golden["edges"].shape[1] + 1
    low, high = golden["digit_low"], golden["digit_high"]
    draws = np.array(
        [
            bin_counts(indptr, rows.ravel(), n_bins=n_bins, seed=seed, cell_ids=indptr[:-1])
            for seed in range(1000)
        ]
    ).reshape(1000, *rows.shape)
    np.testing.assert_array_equal(draws.min(axis=0), np.minimum(low + 1, high))
    np.testing.assert_array_equal(draws.max(axis=0), high)
    spread = np.maximum(high - low, 1)
    sigma = np.sqrt((spread**2 - 1) / 12)
    mean = np.where(low == high, high, (low + 1 + high) / 2)
    assert (abs(draws.mean(axis=0) - mean) <= 5 * sigma / np.sqrt(1000)).all()
    theirs = golden["mean_of_200_draws"]
    assert (abs(draws.mean(axis=0) - theirs) <= 5 * sigma / np.sqrt(160)).all()


def test_tied_bins_are_equally_likely_and_independent() -> None:
    n_cells, n_candidates = 4000, 10
    counts = np.full(2 * n_cells, 3, np.float32)  # all edges are 3, so both have bins 1 to 10
    bins = bin_counts(
        np.arange(n_cells + 1) * 2, counts, n_bins=11, seed=0, cell_ids=np.arange(n_cells)
    )
    seen = np.zeros((n_candidates, n_candidates))
    first, second = bins.reshape(n_cells, 2).T.astype(int) - 1
    np.add.at(seen, (first, second), 1)
    expected = n_cells / seen.size
    chi_square = ((seen - expected) ** 2 / expected).sum()
    assert chi_square < 99 + 5 * np.sqrt(2 * 99)


@given(st.permutations(range(12)).flatmap(lambda p: st.integers(1, 12).map(lambda n: p[:n])))
def test_a_cell_has_equal_bins_in_any_company(rows: list[int]) -> None:
    cells = make_cells(12)
    settings = {"n_bins": 11, "seed": 3, "epoch": 2}
    alone = bin_counts(cells.indptr, cells.counts, cell_ids=cells.cell_ids, **settings)
    spans = [slice(*cells.indptr[row : row + 2]) for row in rows]
    company = bin_counts(
        np.cumsum([0] + [span.stop - span.start for span in spans]),
        np.concatenate([cells.counts[span] for span in spans]),
        cell_ids=cells.cell_ids[rows],
        **settings,
    )
    np.testing.assert_array_equal(company, np.concatenate([alone[span] for span in spans]))


@pytest.mark.parametrize("other", [{"seed": 1}, {"epoch": 1}, {"cell_id": 8}])
def test_other_seeds_epochs_and_cells_draw_otherwise(other: dict[str, int]) -> None:
    assert (bin_one(np.ones(50)) != bin_one(np.ones(50), **other)).any()


def test_bins_of_scaled_counts_are_the_same() -> None:
    counts = np.random.default_rng(0).geometric(0.1, 300).astype(np.float32)
    np.testing.assert_array_equal(bin_one(counts), bin_one(np.log1p(counts / 3)))


@pytest.mark.parametrize("wrong", [-1, -0.5, np.nan, np.inf])
def test_what_is_no_count_is_refused(wrong: float) -> None:
    with pytest.raises(ValueError, match=f"cell 7 has the count {wrong}"):
        bin_one([1, wrong, 300])


def test_one_bin_is_refused() -> None:
    with pytest.raises(ValueError, match="n_bins is 1"):
        bin_one([1, 2], n_bins=1)


def test_no_cells_have_no_bins() -> None:
    none = np.empty(0, np.float32)
    cell_ids = np.empty(0, np.int64)
    assert bin_counts(np.array([0]), none, n_bins=11, seed=0, cell_ids=cell_ids).size == 0
