"""Tokens of several modalities: each binned by itself, none of what was not measured."""

import numpy as np
from numpy.testing import assert_array_equal

from scgpt_core.data.binning import bin_counts
from scgpt_core.data.cells import Cells, take_cells
from scgpt_core.data.multimodal import ModalityTokens, to_modality_batch

PAD, CLS = 20, 21
RNA, PROTEIN, ATAC, OF_CLS, OF_PAD = range(5)


def make_cells(n_cells: int = 12) -> Cells:
    """Genes 0 to 9 with small counts, proteins 10 to 13 with great ones, peaks 14 to 19."""
    rng = np.random.default_rng(0)
    counts = np.hstack(
        [
            rng.poisson(2, (n_cells, 10)),
            rng.poisson(500, (n_cells, 4)),
            rng.poisson(1, (n_cells, 6)),
        ]
    ).astype(np.float32)
    row, column = counts.nonzero()
    indptr = np.concatenate([[0], np.bincount(row, minlength=n_cells).cumsum()])
    return Cells(
        indptr, column.astype(np.int32), counts[row, column], np.arange(100, 100 + n_cells)
    )


def make_settings(**changes) -> ModalityTokens:
    settings = {
        "max_tokens": 21, "n_bins": 5, "pad_id": PAD, "cls_id": CLS, "cls_value": 0,
        "pad_value": -2, "mask_value": -1, "genes": tuple(range(20)),
        "modalities": (RNA,) * 10 + (PROTEIN,) * 4 + (ATAC,) * 6,
        "unmeasured": ((), (11, 13), tuple(range(10, 20))),
    }  # fmt: skip
    return ModalityTokens(**settings | changes)


def make_batch(cells: Cells, panels: list[int], **changes):
    rows = np.arange(len(cells.cell_ids))
    settings = make_settings(**changes)
    return to_modality_batch(
        cells, settings, seed=3, rows=rows, panel_B=np.resize(np.array(panels), len(rows))
    )


def test_each_modality_is_binned_by_itself() -> None:
    cells = make_cells()
    batch = make_batch(cells, [0])
    assert_array_equal(batch.modality_BL[0], [OF_CLS] + [RNA] * 10 + [PROTEIN] * 4 + [ATAC] * 6)
    counts = cells.counts[: cells.indptr[1]]
    great = counts[counts > 100]
    alone = bin_counts(np.array([0, 4]), great, n_bins=5, seed=3, cell_ids=cells.cell_ids[:1])
    assert_array_equal(batch.values_BL[0, 11:15], alone)
    assert batch.values_BL[:, 1:11].max() == 4  # not all in the lowest bin, as beside proteins


def test_what_is_not_measured_gets_no_token() -> None:
    batch = make_batch(make_cells(), [0, 1, 2])
    assert_array_equal((~batch.padding_BL).sum(1)[:3], [21, 19, 11])
    assert 11 not in batch.ids_BL[1]
    assert 12 in batch.ids_BL[1]
    assert_array_equal(batch.ids_BL == PAD, batch.padding_BL)
    assert_array_equal(batch.modality_BL == OF_PAD, batch.padding_BL)
    assert (np.diff(batch.padding_BL.numpy().astype(int), axis=1) >= 0).all(), "padding is last"


def test_a_modality_is_hidden_whole_of_some_cells_another_epoch_of_others() -> None:
    cells = make_cells(12)
    batch = make_batch(cells, [0], hidden_share=0.5)
    hidden = batch.hidden_BL.numpy()
    of_protein, of_atac = hidden[:, 11:15], hidden[:, 15:]
    assert not hidden[:, :11].any()
    assert (of_protein.all(1) == of_protein.any(1)).all()
    assert (of_atac.all(1) == of_atac.any(1)).all()
    assert not (of_protein.any(1) & of_atac.any(1)).any()
    assert 0 < hidden.any(1).sum() < 12
    assert (batch.values_BL.numpy()[hidden] == -1).all()
    assert_array_equal(batch.values_BL.numpy()[~hidden], batch.target_BL.numpy()[~hidden])


def test_what_is_missing_is_asked_for_with_hidden_values() -> None:
    batch = make_batch(make_cells(), [0, 1, 2], impute=True)
    assert not batch.padding_BL.any()
    assert_array_equal(batch.hidden_BL.sum(1)[:3], [0, 2, 10])
    assert (batch.values_BL[batch.hidden_BL] == -1).all()


def test_a_cell_has_equal_tokens_in_any_company() -> None:
    cells, chosen = make_cells(), np.array([7, 2, 11])
    settings = {"mask_share": 0.4, "hidden_share": 0.5}
    whole = make_batch(cells, [0], **settings)
    part = make_batch(take_cells(cells, chosen), [0], **settings)
    for name in ("ids_BL", "values_BL", "target_BL", "hidden_BL", "modality_BL"):
        assert_array_equal(getattr(part, name), getattr(whole, name)[chosen])
