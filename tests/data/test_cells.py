import numpy as np
import pytest
from numpy.testing import assert_array_equal
from random_cells import make_cells

from scgpt_core.data.cells import Cells, cells_from_csr, take_cells, thin_cells


def test_columns_become_token_ids() -> None:
    # columns to tokens: 0 -> 9, 1 -> none, 2 -> 4, 3 -> 9 again, 4 -> 5
    cells = cells_from_csr(
        [0, 4, 4, 7],
        [0, 1, 2, 3, 2, 3, 4],
        [1, 8, 2, 3, 0, 5, 6],
        token_ids=[9, -1, 4, 9, 5],
        cell_ids=np.array([70, 71, 72]),
    )
    assert_array_equal(cells.indptr, [0, 2, 2, 4])
    assert_array_equal(cells.genes, [4, 9, 5, 9])
    assert_array_equal(cells.counts, [2, 4, 6, 5])
    assert_array_equal(cells.cell_ids, [70, 71, 72])
    assert (cells.genes.dtype, cells.counts.dtype) == (np.int32, np.float32)


def test_cells_that_are_in_order_stay_as_they_are() -> None:
    cells = cells_from_csr(
        [0, 2, 3], [0, 2, 1], [1, 2, 3], token_ids=[1, 4, 6], cell_ids=np.arange(2)
    )
    assert_array_equal(cells.genes, [1, 6, 4])
    assert_array_equal(cells.counts, [1, 2, 3])


def test_no_match_leaves_empty_cells() -> None:
    cells = cells_from_csr([0, 1], [0], [1], token_ids=[-1], cell_ids=np.arange(1))
    assert_array_equal(cells.indptr, [0, 0])


def test_rows_are_taken_in_any_order() -> None:
    cells = make_cells(10)
    rows = np.array([7, 2, 2])
    taken = take_cells(cells, rows)
    for place, row in enumerate(rows):
        there, here = slice(*cells.indptr[row : row + 2]), slice(*taken.indptr[place : place + 2])
        assert_array_equal(taken.genes[here], cells.genes[there])
        assert_array_equal(taken.counts[here], cells.counts[there])
    assert_array_equal(taken.cell_ids, cells.cell_ids[rows])


def test_memory_of_cells_that_are_gone_is_written_over_where_it_is_enough() -> None:
    cells = Cells(
        np.array([0, 2, 3, 6]), np.arange(6, dtype=np.int32), np.ones(6, np.float32), np.arange(3)
    )
    gone = take_cells(cells, np.array([2, 0]))
    within = take_cells(cells, np.array([1, 0]), into=gone)
    assert within.genes.tolist() == [2, 0, 1]
    assert np.shares_memory(within.genes, gone.genes)
    beyond = take_cells(cells, np.array([0, 1, 2, 2, 2]), into=gone)
    assert beyond.genes.tolist() == [0, 1, 2, *[3, 4, 5] * 3]
    assert not np.shares_memory(beyond.genes, gone.genes)


def test_deep_cells_are_sampled_down_each_by_itself() -> None:
    counts = np.array([4000, 5000, 1000, 1, 2, 7, 300, 700], np.float32)
    cells = Cells(np.array([0, 3, 3, 6, 8]), np.arange(8, dtype=np.int32), counts, np.arange(4))
    total_B = np.array([20000, 5, 10, 1000.0])  # half of the first cell's are of other genes
    thin = thin_cells(cells, 1000, seed=3, total_B=total_B)
    assert thin.counts[:3].sum() == pytest.approx(500, abs=70)  # binomial, sd 22
    assert thin.counts[:2] / 500 == pytest.approx([0.4, 0.5], abs=0.12)
    for cell in (1, 2, 3):  # no deeper than they may be
        there, here = slice(*cells.indptr[cell : cell + 2]), slice(*thin.indptr[cell : cell + 2])
        assert_array_equal(thin.counts[here], cells.counts[there])
        assert_array_equal(thin.genes[here], cells.genes[there])
    rows = np.array([3, 0])
    again = thin_cells(take_cells(cells, rows), 1000, seed=3, total_B=total_B[rows])
    assert all(map(np.array_equal, again, take_cells(thin, rows)))
    assert not np.array_equal(thin.counts, thin_cells(cells, 1000, seed=4, total_B=total_B).counts)


def test_counts_that_are_not_left_are_no_tokens() -> None:
    cells = make_cells(50)
    total_B = np.add.reduceat(cells.counts, cells.indptr[:-1])
    thin = thin_cells(cells, 20, seed=0)
    assert (thin.counts > 0).all()
    assert len(thin.genes) < len(cells.genes)
    assert thin.indptr[-1] == len(thin.counts) == len(thin.genes)
    n_left = np.add.reduceat(thin.counts, thin.indptr[:-1])
    assert n_left[total_B > 20].mean() == pytest.approx(20, abs=3)


def test_what_are_no_counts_is_not_sampled_down() -> None:
    cells = make_cells(5)
    halves = cells._replace(counts=cells.counts / 2)
    with pytest.raises(ValueError, match="no raw counts cannot be sampled down"):
        thin_cells(halves, 20, seed=0)
