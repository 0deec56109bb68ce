"""Order of cells, ranks, resumption, weights and threads of the loader."""

import threading
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from random_cells import make_cells, make_settings

from scgpt_core.batch import Batch
from scgpt_core.data.cells import Cells
from scgpt_core.data.corpus import open_corpus
from scgpt_core.data.loader import ShardLoader, balance_weights
from scgpt_core.data.order import EpochOrder, cut_step, shuffle_entropy
from scgpt_core.data.sources import ArraySource

N_CELLS = 203
CELLS = make_cells(N_CELLS)
SOURCE = ArraySource(CELLS)


def make_loader(source: ArraySource = SOURCE, **changes) -> ShardLoader:
    defaults = {"batch_cells": 16, "seed": 0, "block_cells": 8, "buffer_cells": 64}
    token_settings = changes.pop("settings", make_settings(unknown_shares=(0.25, 0.5)))
    return ShardLoader(source, token_settings, **defaults | changes)


def steps_of(loader: ShardLoader, n_steps: int | None = None) -> list[list[int]]:
    """Identities of the cells of each step."""
    n_steps = loader.steps_per_epoch if n_steps is None else n_steps
    return [[i for b in step for i in b.cell_B.tolist()] for step in islice(loader, n_steps)]


def flat(steps: Iterable[list[int]]) -> list[int]:
    return list(chain.from_iterable(steps))


def assert_equal(ours: Batch, theirs: Batch) -> None:
    for field, one, other in zip(Batch._fields, ours, theirs, strict=True):
        assert (one is None) == (other is None), field
        assert one is None or torch.equal(one, other), field


# ----------------------------------------------------------------------------------------- order


@pytest.mark.parametrize("batch_cells", [1, 7, 16, 203, 500])
@pytest.mark.parametrize("by_length", [False, True])
def test_every_cell_comes_once_an_epoch(batch_cells: int, by_length: bool) -> None:
    loader = make_loader(batch_cells=batch_cells, by_length=by_length)
    for _ in range(2):
        steps = steps_of(loader)
        sizes = [len(step) for step in steps]
        assert sorted(flat(steps)) == sorted(CELLS.cell_ids)
        assert max(sizes) <= batch_cells
        assert max(sizes) - min(sizes) <= 1


def test_epochs_have_orders_of_their_own() -> None:
    loader = make_loader()
    first, second = steps_of(loader), steps_of(loader)
    assert first != second
    assert steps_of(make_loader()) == first
    assert steps_of(make_loader(seed=1)) != first


def test_without_shuffling_epochs_are_equal_and_in_order() -> None:
    loader = make_loader(shuffle=False)
    first, second = list(loader.batches()), list(loader.batches())
    assert flat(batch.cell_B.tolist() for batch in first) == CELLS.cell_ids.tolist()
    for one, other in zip(first, second, strict=True):
        assert_equal(one, other)
    assert loader.epoch == 0


def test_draws_of_a_cell_change_with_the_epoch() -> None:
    loader = make_loader()
    hidden = [
        {
            cell: hidden_L.tolist()
            for batch in loader.batches()
            for cell, hidden_L in zip(batch.cell_B.tolist(), batch.hidden_BL, strict=True)
        }
        for _ in range(2)
    ]
    assert hidden[0] != hidden[1]


def test_cells_of_like_length_share_a_step() -> None:
    def padding(**changes) -> float:
        batches = list(make_loader(settings=make_settings(max_tokens=50), **changes).batches())
        return float(torch.cat([batch.padding_BL.flatten() for batch in batches]).float().mean())

    assert padding(by_length=True) < 0.5 * padding()


@pytest.mark.parametrize("n_cells", [4, 5, 7, 11, 64])
@pytest.mark.parametrize("micro_batch_cells", [1, 2, 5, 100])
@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_ranks_have_equally_many_micro_batches_of_a_step(
    n_cells: int, micro_batch_cells: int, ranks: int
) -> None:
    """A sharded model would hang else."""
    cut = [
        cut_step(n_cells, micro_batch_cells=micro_batch_cells, rank=rank, world_size=ranks)
        for rank in range(ranks)
    ]
    assert len({len(pieces) for pieces in cut}) == 1
    pieces = [piece for together in zip(*cut, strict=True) for piece in together]
    assert np.concatenate(pieces).tolist() == list(range(n_cells))
    most = max(map(len, pieces))
    assert most <= micro_batch_cells or (micro_batch_cells == 1 and most == 2 and n_cells % ranks)


class RecordingSource(ArraySource):
    """Remembers which rows are read together."""

    def __init__(self, cells: Cells) -> None:
        super().__init__(cells)
        self.reads: list[NDArray[np.int64]] = []

    def cells(self, rows: NDArray[np.int64], *, into: Cells | None = None) -> Cells:
        self.reads.append(rows)
        return super().cells(rows, into=into)


def test_neighbours_are_read_together_and_in_ascending_order() -> None:
    source = RecordingSource(make_cells(200))
    list(make_loader(source).batches())
    assert len(source.reads) == 4
    for rows in source.reads:
        assert (np.diff(rows) > 0).all()
        blocks = Counter((rows // 8).tolist())
        assert sum(n == 8 for n in blocks.values()) >= len(blocks) - 2  # cut at a window's ends


def test_a_buffer_shuffles_nearly_as_well_as_a_permutation() -> None:
    order = EpochOrder(
        n_cells=20_000,
        seed=0,
        epoch=0,
        batch_cells=64,
        block_cells=16,
        buffer_cells=4096,
        shuffle=True,
    )
    data_sets = np.arange(20_000) // 500  # neighbours are of one data set
    ours, best = shuffle_entropy(order, data_sets)
    assert ours > 0.97 * best
    poor, _ = shuffle_entropy(replace(order, block_cells=500, buffer_cells=64), data_sets)
    assert poor < 0.5 * best


# ----------------------------------------------------------------------------------------- ranks


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    n_cells=st.integers(8, 60),
    batch_cells=st.integers(8, 40),
    world_size=st.integers(1, 4),
    micro_batch_cells=st.integers(1, 12),
    by_length=st.booleans(),
)
def test_ranks_share_the_steps_of_one_process(
    n_cells: int, batch_cells: int, world_size: int, **changes
) -> None:
    changes |= {"source": ArraySource(make_cells(n_cells)), "batch_cells": batch_cells}
    n_steps = 2 * make_loader(**changes).steps_per_epoch
    whole = steps_of(make_loader(**changes), n_steps)
    ranks = [
        islice(make_loader(rank=rank, world_size=world_size, **changes), n_steps)
        for rank in range(world_size)
    ]
    for step, parts in zip(whole, zip(*ranks, strict=True), strict=True):
        assert len({len(part) for part in parts}) == 1  # equally many micro-batches
        sizes = [len(batch.cell_B) for part in parts for batch in part]
        assert min(sizes) >= 1
        assert max(sizes) - min(sizes) <= 1
        dealt = [batch.cell_B.tolist() for turn in zip(*parts, strict=True) for batch in turn]
        assert flat(dealt) == step


def test_micro_batches_do_not_grow_beyond_what_is_asked() -> None:
    steps = islice(make_loader(micro_batch_cells=5), 20)
    assert max(len(batch.cell_B) for step in steps for batch in step) == 5


def test_ranks_without_cells_are_refused() -> None:
    with pytest.raises(ValueError, match="203 cells in steps of 3 do not give each of 4 ranks"):
        make_loader(batch_cells=3, world_size=4)


# ---------------------------------------------------------------------------------------- resume


@pytest.mark.parametrize("taken", [0, 1, 5, 12, 13, 14, 30])
@pytest.mark.parametrize("changes", [{}, {"by_length": True}, {"weights": np.arange(N_CELLS)}])
def test_a_state_goes_on_with_the_same_batches(taken: int, changes: dict[str, Any]) -> None:
    loader = make_loader(**changes)
    going = iter(loader)
    for _ in range(taken):
        next(going)
    state = loader.state_dict()
    resumed = make_loader(threads=2, **changes)
    resumed.load_state_dict(state)
    assert resumed.state_dict() == state
    for ours, theirs in islice(zip(resumed, going, strict=True), 15):
        assert_equal(ours[0], theirs[0])


def test_what_is_left_of_an_epoch_comes_first() -> None:
    loader = make_loader()
    begun = steps_of(loader, 5)
    rest = [batch.cell_B.tolist() for batch in loader.batches()]
    assert sorted(flat(begun + rest)) == sorted(CELLS.cell_ids)
    assert loader.epoch == 1


def test_a_state_can_go_on_in_other_ranks() -> None:
    loader = make_loader()
    steps_of(loader, 4)
    state = loader.state_dict()
    following = steps_of(loader, 1)[0]
    dealt = []
    for rank in range(4):
        other = make_loader(rank=rank, world_size=4)
        other.load_state_dict(state)
        dealt += steps_of(other, 1)[0]
    assert dealt == following


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"seed": 3}, "seed 0 then, 3 now"),
        ({"batch_cells": 8}, "batch_cells 16 then, 8 now"),
        ({"by_length": True}, "by_length False then, True now"),
        ({"weights": np.ones(N_CELLS)}, "weights None then"),
        ({"source": ArraySource(make_cells(N_CELLS, seed=1))}, "cells"),
    ],
)
def test_the_state_of_another_order_is_refused(changes: dict, named: str) -> None:
    state = make_loader().state_dict()
    with pytest.raises(ValueError, match=named):
        make_loader(**changes).load_state_dict(state)


# --------------------------------------------------------------------------------------- weights


def test_cells_come_as_often_as_their_weights_say() -> None:
    weights = np.ones(N_CELLS)
    weights[:50], weights[50:60] = 5, 0
    loader = make_loader(weights=weights)
    row_of = {cell: row for row, cell in enumerate(CELLS.cell_ids.tolist())}
    due = weights * N_CELLS / weights.sum()
    visits = np.zeros(N_CELLS)
    for _ in range(30):
        epoch = np.zeros(N_CELLS)
        for cell in flat(steps_of(loader)):
            epoch[row_of[cell]] += 1
        assert epoch.sum() == N_CELLS
        assert (abs(epoch - due) < 1).all()
        visits += epoch
    assert (visits[50:60] == 0).all()
    assert abs(visits[60:].mean() / 30 - due[60]) < 0.05


def test_visits_of_one_epoch_draw_otherwise() -> None:
    weights = np.zeros(N_CELLS)
    weights[CELLS.indptr[1:] - CELLS.indptr[:-1] > 30] = 1
    seen: dict[int, list] = {}
    for batch in make_loader(weights=weights).batches():
        for cell, hidden_L in zip(batch.cell_B.tolist(), batch.hidden_BL.tolist(), strict=True):
            seen.setdefault(cell, []).append(tuple(hidden_L[:20]))
    repeated = [draws for draws in seen.values() if len(draws) > 1]
    assert repeated
    assert all(len(set(draws)) == len(draws) for draws in repeated)


@pytest.mark.parametrize(("strength", "expected"), [(0, [3, 1]), (0.5, [3**0.5, 1]), (1, [1, 1])])
def test_balanced_groups_are_visited_more_evenly(strength: float, expected: list[float]) -> None:
    weights = balance_weights(np.array([7, 2, 7, 7]), strength)
    visits = np.array([weights[[0, 2, 3]].sum(), weights[1]])
    np.testing.assert_allclose(visits / visits[1], expected)


@pytest.mark.parametrize(
    ("weights", "named"),
    [
        (np.ones(3), r"shape \(3,\): one for each of 203 cells"),
        (np.zeros(N_CELLS), "not all 0"),
        (np.full(N_CELLS, -1.0), "not negative"),
        (np.full(N_CELLS, np.nan), "finite"),
    ],
)
def test_weights_that_are_none_are_refused(weights: NDArray, named: str) -> None:
    with pytest.raises(ValueError, match=named):
        make_loader(weights=weights)


# --------------------------------------------------------------------------------------- threads


@pytest.mark.parametrize("changes", [{"threads": 4}, {"buffer_cells": 1}, {"buffer_cells": 999}])
def test_threads_change_nothing(changes: dict[str, int]) -> None:
    changes = {"buffer_cells": 64} | changes
    one = make_loader(buffer_cells=changes["buffer_cells"])
    for ours, theirs in zip(one.batches(), make_loader(**changes).batches(), strict=True):
        assert_equal(ours, theirs)


def test_a_loader_that_is_left_leaves_no_threads() -> None:
    batches = make_loader(threads=3).batches()
    next(batches)
    assert any(thread.name.startswith("loader") for thread in threading.enumerate())
    batches.close()
    assert not any(thread.name.startswith("loader") for thread in threading.enumerate())


def test_faults_in_threads_reach_the_caller() -> None:
    cells = make_cells(40)
    cells.counts[-1] = -1
    with pytest.raises(ValueError, match=f"cell {cells.cell_ids[-1]} has the count -1.0"):
        list(make_loader(ArraySource(cells)).batches())


# --------------------------------------------------------------------------------------- sources


def test_batch_and_label_follow_their_cells() -> None:
    codes = CELLS.cell_ids % 3
    loader = make_loader(ArraySource(CELLS, batch=codes, label=codes - 1), micro_batch_cells=5)
    for batch in loader.batches():
        assert torch.equal(batch.batch_B, batch.cell_B % 3)
        assert torch.equal(batch.label_B, batch.cell_B % 3 - 1)


@pytest.mark.parametrize("codes", [np.zeros(3, int), np.zeros(N_CELLS)])
def test_codes_that_do_not_fit_are_refused(codes: NDArray) -> None:
    with pytest.raises(ValueError, match="integer codes of 203 cells are due"):
        ArraySource(CELLS, batch=codes)


@pytest.mark.parametrize("split", ["train", "heldout"])
def test_a_corpus_is_loaded_whole(corpus_folder: Path, split: str) -> None:
    corpus = open_corpus(corpus_folder, split)
    token_settings = make_settings(pad_id=corpus.vocab.pad_id, cls_id=corpus.vocab.cls_id)
    in_memory = ArraySource(corpus.cells(np.arange(corpus.n_cells)))
    seen = []
    loaders = [
        ShardLoader(source, token_settings, batch_cells=16, seed=0, by_length=True, block_cells=4)
        for source in (corpus, in_memory)
    ]
    for ours, theirs in zip(*(loader.batches() for loader in loaders), strict=True):
        assert_equal(ours, theirs)
        seen += ours.cell_B.tolist()
    assert sorted(seen) == sorted(corpus.cells(np.arange(corpus.n_cells)).cell_ids)
