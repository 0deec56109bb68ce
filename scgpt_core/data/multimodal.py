"""Cells of several modalities to token batches: RNA, proteins and peaks in one sequence.

Each modality is binned by itself, for counts of one say nothing of those of another; what a cell
was not measured for gets no token; and one modality of some cells is hidden whole, so that a model
learns to impute it.

Shapes: B cells in a batch, L tokens (the first is ``<cls>``).
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from scgpt_core.batch import Batch
from scgpt_core.data.binning import draw_keys
from scgpt_core.data.cells import Cells
from scgpt_core.data.collate import Tokens, TokenSettings, hide, tokenize
from scgpt_core.keys import MODALITIES

N_MODALITIES = len(MODALITIES) + 2
"""Codes of modalities in a model, with those of ``<cls>`` and padding, which is the last."""
_OF_CLS, _OF_PADDING = N_MODALITIES - 2, N_MODALITIES - 1
_FOR_MODALITY = 17  # added to the seed: which modality is hidden is drawn apart from which tokens


class _Layout(NamedTuple):
    """The tokens that every cell has, before those are left out that it was not measured for."""

    genes: dict[int, tuple[int, ...]]
    """Token ids by modality, in the order of the tokens."""
    modality_L: NDArray[np.int64]
    """Modality of each token."""
    absent_KL: NDArray[np.bool_]
    """By panel (K), True for what its cells were not measured for."""


@dataclass(frozen=True, kw_only=True)
class ModalityTokens(TokenSettings):
    """How cells of several modalities become a `Batch`: all `genes` are tokens, zeros kept."""

    modalities: tuple[int, ...]
    """Code (place in `MODALITIES`) of each of `genes`, which stand modality by modality."""
    unmeasured: tuple[tuple[int, ...], ...]
    """By panel, the token ids that its cells were not measured for."""
    hidden_share: float = 0.0
    """Share of the cells of which one modality beside RNA is hidden whole."""
    impute: bool = False
    """Give what is not measured a token with a hidden value, to be predicted, instead of none."""

    @cached_property
    def layout(self) -> _Layout:
        """Tokens of a cell, ``<cls>`` first."""
        genes_G, codes_G = np.array(self.genes), np.array(self.modalities)
        absent_KG = np.stack([np.isin(genes_G, ids) for ids in self.unmeasured])
        return _Layout(
            {
                code: tuple(genes_G[codes_G == code].tolist())
                for code in np.unique(codes_G).tolist()
            },
            np.concatenate([[_OF_CLS], codes_G]),
            np.pad(absent_KG, ((0, 0), (1, 0))),
        )


def to_modality_batch(
    cells: Cells,
    settings: ModalityTokens,
    *,
    seed: int,
    epoch: ArrayLike = 0,
    rows: NDArray[np.int64],
    panel_B: NDArray[np.int64],
    batch_B: NDArray[np.int64] | None = None,
    label_B: NDArray[np.int64] | None = None,
    pin: bool = False,
) -> Batch:
    """`Batch` of cells, on the CPU; see `to_batch`.

    Parameters
    ----------
    panel_B
        Panel of these cells.
    """
    cell_ids = cells.cell_ids[rows]
    tokens = _tokenize(cells, settings, seed=seed, epoch=epoch, rows=rows)
    layout = settings.layout
    absent_BL = layout.absent_KL[panel_B]
    modality_BL = np.tile(layout.modality_L, (len(rows), 1))
    if not settings.impute:
        tokens, modality_BL, absent_BL = _leave_out(tokens, modality_BL, absent_BL, settings)
    values_BL, hidden_BL, _ = hide(
        tokens,
        cell_ids=cell_ids,
        seed=seed,
        epoch=epoch,
        mask_value=settings.mask_value,
        shares=(settings.mask_share or 0.0,),
    )
    if settings.hidden_share:
        keys_B = draw_keys(seed + _FOR_MODALITY, epoch, cell_ids)
        whole_B = _choose_modality(keys_B, layout.genes, settings.hidden_share)
        hidden_BL |= whole_B[:, None] == modality_BL
    if settings.impute:
        hidden_BL |= absent_BL
    values_BL = np.where(hidden_BL, np.float32(settings.mask_value), values_BL)
    return Batch.from_numpy(
        ids_BL=tokens.ids_BL,
        values_BL=values_BL,
        padding_BL=tokens.padding_BL,
        target_BL=tokens.bins_BL,
        hidden_BL=hidden_BL,
        modality_BL=modality_BL,
        batch_B=batch_B,
        label_B=label_B,
        cell_B=cell_ids,
        pin=pin,
    )


def _tokenize(
    cells: Cells, settings: ModalityTokens, *, seed: int, epoch: ArrayLike, rows: NDArray[np.int64]
) -> Tokens:
    """Tokens of all features in the order of `genes`, each modality binned by itself."""
    parts: list[Tokens] = []
    for genes in settings.layout.genes.values():
        alone = replace(settings, max_tokens=len(genes) + 1, genes=genes)
        part = tokenize(cells, alone, seed=seed, epoch=epoch, rows=rows)
        first = 1 if parts else 0  # one ``<cls>`` is enough
        parts.append(Tokens._make(array_BL[:, first:] for array_BL in part))
    return Tokens._make(map(np.hstack, zip(*parts, strict=True)))


def _leave_out(
    tokens: Tokens,
    modality_BL: NDArray[np.int64],
    absent_BL: NDArray[np.bool_],
    settings: ModalityTokens,
) -> tuple[Tokens, NDArray[np.int64], NDArray[np.bool_]]:
    """Turn the tokens of what is not measured into padding, behind all others."""
    longest = int((~absent_BL).sum(axis=1).max())
    order_BL = np.argsort(absent_BL, axis=1, kind="stable")[:, :longest]
    row_B1 = np.arange(len(absent_BL))[:, None]
    absent_BL, modality_BL = absent_BL[row_B1, order_BL], modality_BL[row_B1, order_BL]
    ids_BL, bins_BL = tokens.ids_BL[row_B1, order_BL], tokens.bins_BL[row_B1, order_BL]
    ids_BL[absent_BL], bins_BL[absent_BL] = settings.pad_id, settings.pad_value
    modality_BL[absent_BL] = _OF_PADDING
    return Tokens(ids_BL, bins_BL, absent_BL.copy()), modality_BL, absent_BL


def _choose_modality(
    keys_B: NDArray[np.uint64], codes: Iterable[int], share: float
) -> NDArray[np.int64]:
    """Code of the modality of each cell that is hidden whole; -1 of most: none."""
    others = np.array([code for code in codes if code > 0], np.int64)
    is_chosen_B = (keys_B >> np.uint64(11)) < share * 2.0**53
    which_B = (keys_B & np.uint64(0x7FF)).astype(np.int64) % max(len(others), 1)
    return np.where(is_chosen_B, others[which_B], -1) if len(others) else np.full(len(keys_B), -1)
