"""Attention becomes edges as published, in whatever batches and order, in flat memory."""

import functools
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import anndata as ad
import numpy as np
import pytest
import torch
from attention_memory import peak_after
from numpy.typing import NDArray
from scipy.stats import rankdata
from tiny_model import CheckpointMaker

from scgpt_core.checkpoint import Checkpoint
from scgpt_core.config import AttentionSettings, NetworkSettings
from scgpt_core.data.cells import Cells, read_cells, take_cells
from scgpt_core.data.collate import to_batch
from scgpt_core.networks import attention
from scgpt_core.networks.attention import attend_genes, check_heads, gene_tokens, rank_normalise
from scgpt_core.networks.cells import match_genes_of

REGULATORS = np.array([1, 4, 7])


def take_genes(monocytes: ad.AnnData, ckpt: Checkpoint, n: int) -> tuple[Cells, NDArray[np.int32]]:
    """Cells of the genes that most of them express."""
    often = np.argsort(-np.asarray((monocytes.X > 0).sum(axis=0)).ravel(), kind="stable")[:n]
    cells = monocytes[:, np.sort(often)].copy()
    token_ids = match_genes_of(cells, ckpt.vocab, 0.5).ids
    return read_cells(cells, token_ids), token_ids


def by_hand(
    cells: Cells, ckpt: Checkpoint, token_ids: NDArray[np.int32], heads: list[int]
) -> NDArray[np.float64]:
    """Rows, then columns, of each cell's maps of all genes; mean over heads and cells."""
    batch = to_batch(cells, gene_tokens(ckpt.config, token_ids, zeros=True), seed=0)
    with torch.inference_mode():
        maps = ckpt.model(batch, attention_layer=-1).attention_BHLL[:, heads, 1:, 1:]
    rows = rankdata(maps.numpy(), axis=3)
    columns = (rankdata(rows, axis=2) - 1) / (len(token_ids) - 1)
    return columns.mean((0, 1)).T[REGULATORS]  # query i looks at regulator j: j -> i


@pytest.mark.parametrize("heads", [None, (1,)])
def test_edges_are_ranks_of_the_maps(
    monocytes: ad.AnnData, make_checkpoint: CheckpointMaker, heads: tuple[int, ...] | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    ckpt = make_checkpoint()
    cells, token_ids = take_genes(monocytes, ckpt, 30)
    cells = take_cells(cells, np.arange(5))
    settings = NetworkSettings(attention=AttentionSettings(heads=heads))
    expected = by_hand(cells, ckpt, token_ids, list(heads or (0, 1)))
    found = attend_genes(cells, ckpt, token_ids, REGULATORS, settings=settings, seed=0)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    monkeypatch.setattr(attention, "_MAP_NUMBERS", 1)  # cell by cell
    alone = attend_genes(cells, ckpt, token_ids, REGULATORS, settings=settings, seed=0)
    np.testing.assert_allclose(alone, expected, atol=1e-5)


def test_equal_entries_have_equal_ranks() -> None:
    map_HLL = torch.tensor([[[3.0, 1, 1, 0], [3, 1, 1, 0], [0, 2, 2, 1], [5, 6, 7, 8]]])
    found = rank_normalise(map_HLL, torch.tensor([True, False, True, True]))
    rows = rankdata(map_HLL.numpy(), axis=2)
    expected = (rankdata(rows, axis=1) - 1) / 3
    np.testing.assert_allclose(found.numpy(), expected[..., [0, 2, 3]])
    assert found[0, 0, 0] == found[0, 1, 0]


def test_the_order_of_genes_does_not_matter(
    monocytes: ad.AnnData, make_checkpoint: CheckpointMaker
) -> None:
    ckpt = make_checkpoint()
    cells, token_ids = take_genes(monocytes, ckpt, 20)
    cells = take_cells(cells, np.arange(4))
    settings = NetworkSettings()
    turn = np.random.default_rng(0).permutation(20)
    places = np.argsort(turn)[REGULATORS]
    first = attend_genes(cells, ckpt, token_ids, REGULATORS, settings=settings, seed=0)
    second = attend_genes(cells, ckpt, token_ids[turn], places, settings=settings, seed=0)
    # Bins of equal counts are drawn by the gene's place: genes with distinct counts are compared.
    assert np.corrcoef(first[:, turn].ravel(), second.ravel())[0, 1] > 0.95


def test_without_zeros_pairs_are_averaged_over_the_cells_that_have_both(
    monocytes: ad.AnnData, make_checkpoint: CheckpointMaker
) -> None:
    ckpt = make_checkpoint()
    token_ids = np.array([10, 11, 12, 13], np.int32)
    counts = np.array([3, 2, 1, 1, 2], np.float32)
    genes = np.array([10, 11, 12, 10, 12], np.int32)
    cells = Cells(np.array([0, 3, 5]), genes, counts, np.array([7, 8]))
    settings = NetworkSettings(zeros=False)
    found = attend_genes(cells, ckpt, token_ids, np.array([0, 1]), settings=settings, seed=0)
    assert np.isnan(found[:, 3]).all()  # in no cell
    alone = attend_genes(
        take_cells(cells, np.array([0])),
        ckpt,
        token_ids,
        np.array([0, 1]),
        settings=settings,
        seed=0,
    )
    np.testing.assert_allclose(found[1, :3], alone[1, :3], atol=1e-6)  # gene 11 is in one alone


def test_memory_does_not_grow_with_the_cells(
    monocytes: ad.AnnData, make_checkpoint: CheckpointMaker
) -> None:
    ckpt = make_checkpoint()
    cells, token_ids = take_genes(monocytes, ckpt, 64)
    measure = functools.partial(
        peak_after, cells=cells, ckpt=ckpt, token_ids=token_ids, regulators=REGULATORS
    )
    # The peak of a process is that of its life: each measurement has one of its own.
    with ProcessPoolExecutor(1, get_context("spawn"), max_tasks_per_child=1) as processes:
        few, many = processes.map(measure, (300, 3300))
    # The maps of 3,000 more cells are 98 MB, and to rank them takes several times as much.
    assert many - few < 30


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"layer": 2}, "layer is 2: the model has 2 layers"),
        ({"layer": -3}, "layer is -3"),
        ({"heads": (0, 2)}, r"heads are \[0, 2\]: the model has the heads 0 to 1"),
    ],
)
def test_layers_and_heads_that_are_not_there_are_said(
    make_checkpoint: CheckpointMaker, asked: dict[str, object], said: str
) -> None:
    settings = NetworkSettings(attention=AttentionSettings(**asked))
    with pytest.raises(ValueError, match=said):
        check_heads(make_checkpoint().config, settings)
