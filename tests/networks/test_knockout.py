"""A knock-out is the model's prediction with a gene less its prediction without."""

import anndata as ad
import numpy as np
import pytest
import torch
from tiny_model import CheckpointMaker
from torch.nn import functional as F  # noqa: N812

from scgpt_core.config import KnockoutSettings, NetworkSettings
from scgpt_core.data.cells import read_cells, take_cells
from scgpt_core.data.collate import to_batch
from scgpt_core.networks.attention import gene_tokens
from scgpt_core.networks.cells import match_genes_of
from scgpt_core.networks.knockout import knock_out


@pytest.fixture(scope="module")
def cells(monocytes: ad.AnnData) -> ad.AnnData:
    """30 cells of 20 genes, the last of which nobody expresses."""
    share = np.asarray((monocytes.X > 0).mean(axis=0)).ravel()
    chosen = np.argsort(np.abs(share - 0.5), kind="stable")[:19]
    absent = np.flatnonzero(np.asarray(monocytes[:30].X.sum(axis=0)).ravel() == 0)[:1]
    return monocytes[:30, np.concatenate([chosen, absent])].copy()


@pytest.mark.parametrize("how", ["remove", "zero"])
@pytest.mark.parametrize("zeros", [True, False])
def test_a_knock_out_is_done_by_hand(
    cells: ad.AnnData, make_checkpoint: CheckpointMaker, how: str, zeros: bool
) -> None:
    ckpt = make_checkpoint()
    token_ids = match_genes_of(cells, ckpt.vocab, 0.5).ids
    read = read_cells(cells, token_ids)
    settings = NetworkSettings(zeros=zeros, knockout=KnockoutSettings(how=how, max_cells=100))
    found = knock_out(read, ckpt, token_ids, np.array([2, 19]), settings=settings, seed=0)
    rows = np.flatnonzero(cells.X[:, 2].toarray().ravel())
    assert found.n_cells_T.tolist() == [len(rows), 0]
    assert np.isnan(found.change_TG[1]).all()
    assert np.isnan(found.shift_T[1])
    batch = to_batch(
        take_cells(read, rows), gene_tokens(ckpt.config, token_ids, zeros=zeros), seed=0
    )
    out_BL = batch.ids_BL == int(token_ids[2])
    assert out_BL.any(1).all()
    value = -2 if how == "remove" else 0
    without = batch._replace(
        values_BL=torch.where(out_BL, value, batch.values_BL),
        padding_BL=batch.padding_BL | (out_BL if how == "remove" else torch.zeros_like(out_BL)),
    )
    with torch.inference_mode():
        first, second = ckpt.model(batch), ckpt.model(without)
    change_BL = first.gepc_BL - second.gepc_BL
    for place in (0, 5):
        is_target_BL = (batch.ids_BL == int(token_ids[place])) & ~batch.padding_BL
        expected = change_BL[is_target_BL].mean()
        assert found.change_TG[0, place] == pytest.approx(float(expected), abs=1e-5)
    moved = 1 - F.cosine_similarity(first.cell_BD, second.cell_BD).mean()
    assert found.shift_T[0] == pytest.approx(float(moved), abs=1e-5)
    assert found.shift_T[0] > 0


def test_the_same_cells_are_knocked_out_in_any_order(
    cells: ad.AnnData, make_checkpoint: CheckpointMaker
) -> None:
    ckpt = make_checkpoint()
    token_ids = match_genes_of(cells, ckpt.vocab, 0.5).ids
    settings = NetworkSettings(knockout=KnockoutSettings(max_cells=4))
    first, second = (
        knock_out(
            read_cells(c, token_ids), ckpt, token_ids, np.array([3]), settings=settings, seed=0
        )
        for c in (cells, cells[::-1].copy())
    )
    assert first.n_cells_T[0] == 4
    np.testing.assert_allclose(first.change_TG, second.change_TG, atol=1e-5)


def test_a_model_without_gepc_is_refused(
    cells: ad.AnnData, make_checkpoint: CheckpointMaker
) -> None:
    ckpt = make_checkpoint(gepc=None)
    token_ids = match_genes_of(cells, ckpt.vocab, 0.5).ids
    with pytest.raises(ValueError, match="knock-out needs a model with GEPC"):
        knock_out(
            read_cells(cells, token_ids), ckpt, token_ids, np.array([0]),
            settings=NetworkSettings(), seed=0,
        )  # fmt: skip
