"""Tokens, hiding and batches: literal cases, the published tokens, and independence of company."""

import os
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_array_equal
from random_cells import CLS, PAD, make_cells, make_settings
from safetensors.numpy import load_file

from scgpt_core.config import ModelConfig
from scgpt_core.data.binning import bin_counts
from scgpt_core.data.cells import Cells, cells_from_csr, take_cells
from scgpt_core.data.collate import Tokens, TokenSettings, hide, to_batch, tokenize

GOLDEN = Path(os.environ.get("SCGPT_GOLDEN", Path(__file__).parents[1] / "golden"))
SETTINGS = TokenSettings(
    max_tokens=20, n_bins=11, pad_id=PAD, cls_id=CLS, cls_value=-2, pad_value=-2, mask_value=-1
)


def read(cells: Cells, rows: np.ndarray | None = None, **changes: Any) -> Tokens:
    return tokenize(cells, replace(SETTINGS, **changes), seed=0, rows=rows)


def small_cells() -> Cells:
    """Two cells without ties; the second has one gene of the first."""
    return cells_from_csr(
        [0, 3, 5], [1, 2, 5, 0, 5], [1, 2, 4, 9, 3], token_ids=np.arange(6), cell_ids=np.arange(2)
    )


# -------------------------------------------------------------------------------------- tokenize


def test_literal_tokens() -> None:
    tokens = read(small_cells(), n_bins=3, cls_value=0)
    # edges are the least and the greatest count: bin 1 from the least on, 2 at the greatest
    assert_array_equal(tokens.ids_BL, [[CLS, 1, 2, 5], [CLS, 0, 5, PAD]])
    assert_array_equal(tokens.bins_BL, [[0, 1, 1, 2], [0, 2, 1, -2]])
    assert_array_equal(tokens.padding_BL, [[False] * 4, [False] * 3 + [True]])


def test_the_published_tokens() -> None:
    golden = load_file(GOLDEN / "embed_cells.safetensors")
    rows, columns = golden["expression"].nonzero()
    n_cells, longest = golden["token_ids"].shape
    cells = cells_from_csr(
        np.concatenate([[0], np.bincount(rows, minlength=n_cells).cumsum()]),
        columns,
        golden["expression"][rows, columns],
        token_ids=np.arange(golden["expression"].shape[1]),
        cell_ids=np.arange(n_cells),
    )
    pads = golden["token_ids"][golden["binned_values"] == -2]
    special = {"pad_id": pads[pads != pads[0]][0], "cls_id": golden["token_ids"][0, 0]}
    tokens = read(cells, **special, max_tokens=longest, n_bins=51)
    assert_array_equal(tokens.ids_BL, golden["token_ids"])
    assert_array_equal(tokens.bins_BL, golden["binned_values"])


@pytest.mark.parametrize("max_tokens", [2, 8, 19, 61])
def test_bins_are_those_among_all_genes_of_the_cell(max_tokens: int) -> None:
    cells = make_cells(40)
    bins = bin_counts(cells.indptr, cells.counts, n_bins=11, seed=0, cell_ids=cells.cell_ids)
    tokens = read(cells, max_tokens=max_tokens)
    for row, (first, last) in enumerate(pairwise(cells.indptr)):
        all_bins = dict(zip(cells.genes[first:last].tolist(), bins[first:last], strict=True))
        n_tokens = min(last - first, max_tokens - 1)
        ids = tokens.ids_BL[row, 1 : n_tokens + 1].tolist()
        assert ids == sorted(set(ids))
        assert tokens.bins_BL[row, 1 : n_tokens + 1].tolist() == [all_bins[id_] for id_ in ids]
        assert (~tokens.padding_BL[row]).sum() == n_tokens + 1


def many_of_one_cell(n_cells: int, n_genes: int) -> Cells:
    counts = np.ones(n_cells * n_genes, np.float32)
    genes = np.tile(np.arange(n_genes, dtype=np.int32), n_cells)
    return Cells(np.arange(n_cells + 1) * n_genes, genes, counts, np.arange(n_cells))


@pytest.mark.parametrize("n_taken", [1, 7, 13, 29])
def test_all_samples_are_equally_likely(n_taken: int) -> None:
    n_cells, n_genes = 4000, 30
    tokens = read(many_of_one_cell(n_cells, n_genes), max_tokens=n_taken + 1)
    taken_BG = np.zeros((n_cells, n_genes))
    np.put_along_axis(taken_BG, tokens.ids_BL[:, 1:], 1, axis=1)
    assert (taken_BG.sum(axis=1) == n_taken).all()
    for items, share in (
        (taken_BG, n_taken / n_genes),
        (taken_BG[:, :-1] * taken_BG[:, 1:], n_taken * (n_taken - 1) / n_genes / (n_genes - 1)),
    ):
        sigma = np.sqrt(share * (1 - share) / n_cells)
        assert (abs(items.mean(axis=0) - share) <= 5 * sigma).all()


def test_genes_to_keep_are_never_left_out() -> None:
    cells = make_cells(60)
    keep = [3, 17, 40, 59, 1000]
    tokens = read(cells, max_tokens=8, keep_ids=keep)
    sampled = 0
    for row, (first, last) in enumerate(pairwise(cells.indptr)):
        kept = set(keep) & set(cells.genes[first:last].tolist())
        ids = set(tokens.ids_BL[row, 1:].tolist()) - {PAD}
        assert kept <= ids
        assert len(ids) == min(last - first, 7)
        sampled += len(ids - kept)
    assert sampled > 0


def test_other_genes_are_sampled_alike_beside_those_to_keep() -> None:
    cells = many_of_one_cell(4000, 30)
    tokens = read(cells, max_tokens=11, keep_ids=[0, 12])
    share = np.bincount(tokens.ids_BL[:, 1:].ravel(), minlength=30) / 4000
    free = np.delete(share, [0, 12])
    assert share[0] == share[12] == 1
    assert (abs(free - 8 / 28) < 5 * np.sqrt(8 / 28 * 20 / 28 / 4000)).all()


def test_more_genes_to_keep_than_tokens_are_refused() -> None:
    with pytest.raises(ValueError, match="20 genes to keep and <cls> do not fit into 20 tokens"):
        read(make_cells(2), keep_ids=range(20))


def test_given_genes_are_in_every_cell_with_zeros() -> None:
    tokens = read(small_cells(), n_bins=3, genes=[5, 3, 1])
    assert_array_equal(tokens.ids_BL, [[CLS, 5, 3, 1]] * 2)
    assert_array_equal(tokens.bins_BL[0], [-2, 2, 0, 1])  # binned among these genes alone
    assert tokens.bins_BL[1, 1] in (1, 2)
    assert_array_equal(tokens.bins_BL[1, 2:], [0, 0])
    assert not tokens.padding_BL.any()


def test_given_genes_are_sampled_when_they_are_too_many() -> None:
    tokens = read(make_cells(5), genes=range(50), keep_ids=[49])
    assert tokens.ids_BL.shape == (5, 20)
    assert (tokens.ids_BL[:, -1] == 49).all()
    assert len({tuple(ids) for ids in tokens.ids_BL}) == 5


def test_a_gene_given_twice_is_refused() -> None:
    with pytest.raises(ValueError, match="twice"):
        read(make_cells(2), genes=[1, 2, 1])


@given(
    rows=st.permutations(range(30)).flatmap(lambda p: st.integers(1, 30).map(lambda n: p[:n])),
    pad_to=st.sampled_from([None, 20, 33]),
)
def test_a_cell_has_equal_tokens_in_any_company(rows: list[int], pad_to: int | None) -> None:
    cells = make_cells(30)
    alone = read(cells)
    company = read(take_cells(cells, np.array(rows)), pad_to=pad_to)
    among = read(cells, pad_to=pad_to, rows=np.array(rows))
    length = min(alone.ids_BL.shape[1], company.ids_BL.shape[1])
    for theirs, ours, chosen in zip(company, alone, among, strict=True):
        assert_array_equal(theirs[:, :length], ours[rows][:, :length])
        assert_array_equal(theirs, chosen)
    assert company.padding_BL[:, length:].all()
    assert (company.ids_BL[:, length:] == PAD).all()


def test_wrong_counts_name_the_cell() -> None:
    cells = small_cells()
    cells.counts[4] = -3
    with pytest.raises(ValueError, match=r"cell 1 has the count -3.0"):
        read(cells)


def test_cells_longer_than_the_padding_are_refused() -> None:
    with pytest.raises(ValueError, match="pad_to is 3, but a cell has 4 tokens"):
        read(small_cells(), pad_to=3)


def test_no_cells_give_an_empty_batch() -> None:
    tokens = read(small_cells(), rows=np.empty(0, np.int64))
    assert tokens.ids_BL.shape == (0, 1)


# ------------------------------------------------------------------------------------------ hide


def hidden_of(tokens: Tokens, cells: Cells, shares: tuple[float, ...], **seeds):
    settings = {"seed": 0, "mask_value": -1, "shares": shares} | seeds
    return hide(tokens, cell_ids=cells.cell_ids, **settings)


@pytest.mark.parametrize("share", [0.0, 0.15, 0.4, 0.75, 1.0])
def test_a_share_of_each_cell_is_hidden(share: float) -> None:
    cells = make_cells(50)
    tokens = read(cells)
    hidden = hidden_of(tokens, cells, (share,))
    n_genes = (~tokens.padding_BL).sum(axis=1) - 1
    assert_array_equal(hidden.hidden_BL.sum(axis=1), [int(n * share) for n in n_genes])
    assert not hidden.hidden_BL[:, 0].any()
    assert not (hidden.hidden_BL & tokens.padding_BL).any()
    assert_array_equal(hidden.known_BL, ~hidden.hidden_BL & ~tokens.padding_BL)
    assert_array_equal(hidden.values_BL, np.where(hidden.hidden_BL, -1, tokens.bins_BL))


def test_masked_values_look_as_the_published_ones() -> None:
    golden = load_file(GOLDEN / "integration" / "arrays.safetensors")
    tokens = Tokens(golden["ids"], golden["values"], golden["padding_mask"])
    hidden = hide(tokens, cell_ids=np.arange(len(tokens.ids_BL)), seed=0, mask_value=-1, shares=[1])
    everywhere = ~golden["padding_mask"]
    everywhere[:, 0] = False
    assert (golden["mask"] <= everywhere).all()
    assert_array_equal(hidden.hidden_BL, everywhere)
    theirs = np.where(golden["mask"], -1, tokens.bins_BL)
    assert_array_equal(theirs, golden["masked_values"])


def test_a_model_of_categories_needs_one_for_what_is_hidden() -> None:
    config = ModelConfig(n_tokens=9, pad_id=8, cls_id=7, value_style="category", pad_value=51)
    TokenSettings.of_model(config, max_tokens=4)
    with pytest.raises(ValueError, match="no category for a mask_value of -1"):
        TokenSettings.of_model(config, max_tokens=4, mask_share=0.4)


def test_each_cell_draws_its_share() -> None:
    cells = many_of_one_cell(3000, 40)
    tokens = read(cells, max_tokens=41)
    hidden_BL = hidden_of(tokens, cells, (0.25, 0.5, 0.75)).hidden_BL
    sizes, n_cells = np.unique(hidden_BL.sum(axis=1), return_counts=True)
    assert sizes.tolist() == [10, 20, 30]
    assert (abs(n_cells / 3000 - 1 / 3) < 5 * np.sqrt(2 / 9 / 3000)).all()
    assert (abs(hidden_BL[:, 1:].mean(axis=0) - 0.5) < 5 * 0.5 / np.sqrt(3000)).all()


@pytest.mark.parametrize("other", [{"seed": 1}, {"epoch": 1}])
def test_other_seeds_and_epochs_hide_others(other: dict[str, int]) -> None:
    cells = make_cells(20)
    tokens = read(cells)
    hidden_BL = hidden_of(tokens, cells, (0.5,)).hidden_BL
    assert (hidden_of(tokens, cells, (0.5,), **other).hidden_BL != hidden_BL).any()
    assert_array_equal(hidden_of(tokens, cells, (0.5,)).hidden_BL, hidden_BL)


# -------------------------------------------------------------------------------------- to_batch


def test_a_batch_has_what_the_settings_ask_for() -> None:
    cells = make_cells(6)
    plain = to_batch(cells, make_settings(), seed=0)
    assert plain.ids_BL.dtype == plain.cell_B.dtype == torch.int64
    assert plain.values_BL.dtype == torch.float32
    assert torch.equal(plain.values_BL, plain.target_BL)
    assert plain.hidden_BL is plain.known_BL is plain.batch_B is plain.label_B is None
    masked = to_batch(cells, make_settings(mask_share=0.4), seed=0)
    assert masked.hidden_BL.any()
    assert masked.known_BL is None
    assert torch.equal(masked.target_BL, plain.target_BL)
    split = to_batch(cells, make_settings(unknown_shares=(0.5,)), seed=0)
    assert torch.equal(split.known_BL, ~(split.hidden_BL | split.padding_BL))
    assert (split.values_BL[split.hidden_BL] == -1).all()


def test_rows_bring_their_batch_and_label() -> None:
    cells = make_cells(6)
    rows, codes, labels = np.array([4, 1]), np.array([0, 2]), np.array([-1, 5])
    batch = to_batch(cells, make_settings(), seed=0, rows=rows, batch_B=codes, label_B=labels)
    assert batch.cell_B.tolist() == cells.cell_ids[rows].tolist()
    assert (batch.batch_B.tolist(), batch.label_B.tolist()) == ([0, 2], [-1, 5])


def test_two_ways_to_hide_are_refused() -> None:
    with pytest.raises(ValueError, match="give one"):
        make_settings(mask_share=0.4, unknown_shares=(0.5,))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_pinned_batches_are_equal() -> None:
    cells = make_cells(6)
    plain, pinned = (to_batch(cells, make_settings(), seed=0, pin=pin) for pin in (False, True))
    assert pinned.ids_BL.is_pinned()
    assert torch.equal(plain.ids_BL, pinned.ids_BL)
