"""Cells to token batches: sampling, binning, `<cls>`, padding, and hiding, seeded by the cell.

What is drawn for a cell depends on (seed, epoch, cell identity) alone: a cell has equal tokens in
whatever batch, order, thread or process.

Shapes: B cells in a batch, L tokens (the first is ``<cls>``), G genes.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from scgpt_core.batch import Batch
from scgpt_core.config import ModelConfig
from scgpt_core.data import kernels
from scgpt_core.data.binning import draw_keys, quantiles, wrong_counts
from scgpt_core.data.cells import Cells

_FOR_CONDITION = 23  # added to the seed: whether it is told is independent of what is hidden


class Tokens(NamedTuple):
    """Token sequences of cells."""

    ids_BL: NDArray[np.int64]
    bins_BL: NDArray[np.float32]
    padding_BL: NDArray[np.bool_]


class Hidden(NamedTuple):
    """What the model is asked for."""

    values_BL: NDArray[np.float32]
    """The bins, and ``mask_value`` where they are hidden."""
    hidden_BL: NDArray[np.bool_]
    known_BL: NDArray[np.bool_]
    """Real and not hidden: where the others may look in the generative objective."""


@dataclass(frozen=True, kw_only=True)
class TokenSettings:
    """How cells become a `Batch`; at most one of `mask_share` and `unknown_shares` is given."""

    max_tokens: int
    """Longest sequence, ``<cls>`` included; genes beyond it are left out at random."""
    n_bins: int
    """Value bins, the zero bin included."""
    pad_id: int
    cls_id: int
    pad_value: float
    """Value at padded positions."""
    mask_value: float
    """Value at hidden positions."""
    cls_value: float
    """Value of ``<cls>``: `pad_value` zero-shot, 0 in fine-tuning, as published."""
    genes: tuple[int, ...] | None = None
    """These token ids in every cell, in this order, zeros kept; None: what each cell expresses."""
    keep_ids: tuple[int, ...] = ()
    """Token ids that are never left out where a cell has them."""
    mask_share: float | None = None
    """Share of the values that are masked (fine-tuning)."""
    unknown_shares: tuple[float, ...] = ()
    """Shares of unknown genes, one drawn for each cell (generative pretraining)."""
    pad_to: int | None = None
    """Length of every batch; None: that of its longest cell."""
    condition_dropout: float = 0.0
    """Share of the visits at which a cell's condition is not told."""

    @classmethod
    def of_model(cls, config: ModelConfig, **settings: Any) -> Self:
        """Make the settings by which a model reads tokens; ``<cls>`` as in zero-shot use if unsaid.

        Parameters
        ----------
        config
            Gives bins, ids and special values.
        settings
            The other fields.

        Raises
        ------
        ValueError
            Where values are to be hidden from a model of categories that has none for them.
        """
        hides = settings.get("mask_share") is not None or settings.get("unknown_shares")
        if hides and config.value_style == "category" and config.mask_value < 0:
            message = (
                f"value_style: category has no category for a mask_value of {config.mask_value},"
                " and values are to be hidden: give it one of 0 or more"
            )
            raise ValueError(message)
        return cls(
            **{"cls_value": config.pad_value} | settings,
            n_bins=config.n_bins,
            pad_id=config.pad_id,
            cls_id=config.cls_id,
            pad_value=config.pad_value,
            mask_value=config.mask_value,
        )

    def __post_init__(self) -> None:
        if self.mask_share is not None and self.unknown_shares:
            message = "mask_share and unknown_shares are two ways to hide values: give one"
            raise ValueError(message)


def tokenize(
    cells: Cells,
    settings: TokenSettings,
    *,
    seed: int,
    epoch: ArrayLike = 0,
    rows: NDArray[np.int64] | None = None,
) -> Tokens:
    """Token sequences of cells: ``<cls>``, then genes in ascending order of their ids.

    Bins are those of a count among all counts of the cell (`bin_counts`), whether or not genes
    are then left out. Nothing is hidden.

    Parameters
    ----------
    seed, epoch
        What the draws are seeded by, beside the cell; one epoch, or one for each cell.
    rows
        Which of the cells; None: all.

    Raises
    ------
    ValueError
        Where a count is negative or not finite, `pad_to` is less than a cell's tokens, or
        `keep_ids` do not fit into `max_tokens`.
    """
    max_tokens, pad_to, n_kept = settings.max_tokens, settings.pad_to, len(set(settings.keep_ids))
    if n_kept >= max_tokens:
        message = (
            f"{n_kept} genes to keep and <cls> do not fit into {max_tokens} tokens: raise "
            "max_tokens, or keep fewer"
        )
        raise ValueError(message)
    if rows is None:
        rows = np.arange(len(cells.cell_ids))
    if settings.genes is not None:
        cells, rows = _on_genes(cells, rows, settings.genes), np.arange(len(rows))
    starts_B, stops_B, cell_ids = cells.indptr[rows], cells.indptr[rows + 1], cells.cell_ids[rows]
    longest = min(int((stops_B - starts_B).max(initial=0)) + 1, max_tokens)
    if pad_to is not None and pad_to < longest:
        message = f"pad_to is {pad_to}, but a cell has {longest} tokens: lower max_tokens to it"
        raise ValueError(message)
    shape = (len(rows), pad_to or longest)
    tokens = Tokens(*_allocate(shape, np.int64, np.float32, np.bool_))
    tokens.ids_BL[:, 0] = settings.cls_id
    tokens.bins_BL[:, 0] = settings.cls_value
    if len(rows) == 0:
        return tokens
    wrong = kernels.tokenize_cells(
        starts_B,
        stops_B,
        cells.genes,
        cells.counts,
        draw_keys(seed, epoch, cell_ids),
        quantiles(settings.n_bins),
        _is_in(settings.keep_ids, cells.genes),
        max_tokens,
        settings.pad_id,
        float(settings.pad_value),
        *tokens,
    )
    if wrong >= 0:
        raise wrong_counts(cell_ids[wrong], cells.counts[starts_B[wrong] : stops_B[wrong]])
    return tokens


def _allocate(shape: tuple[int, ...], *dtypes: Any) -> list[NDArray[Any]]:
    """Arrays of one shape, side by side in one piece of memory, the widest first.

    The C library keeps what is freed up to twice its largest piece, and gives the rest back to the
    system: of smaller pieces each batch would fetch its memory anew, page by page.
    """
    sizes = [math.prod(shape) * np.dtype(dtype).itemsize for dtype in dtypes]
    memory = np.empty(sum(sizes), np.uint8)
    offsets = accumulate(sizes[:-1], initial=0)
    return [np.ndarray(shape, dtype, memory, at) for dtype, at in zip(dtypes, offsets, strict=True)]


def _on_genes(cells: Cells, rows: NDArray[np.int64], genes: Sequence[int]) -> Cells:
    """Cells that have exactly these genes, in this order, and zeros where they had none."""
    genes_G = np.asarray(genes, np.int32)
    column_T = np.full(int(genes_G.max()) + 1, -1, np.int32)
    column_T[genes_G] = np.arange(len(genes_G))
    if np.count_nonzero(column_T >= 0) < len(genes_G):
        message = "a gene occurs twice in `genes`: name each once"
        raise ValueError(message)
    dense_BG = np.zeros((len(rows), len(genes_G)), np.float32)
    kernels.spread_counts(
        cells.indptr[rows], cells.indptr[rows + 1], cells.genes, cells.counts, column_T, dense_BG
    )
    return Cells(
        np.arange(len(rows) + 1) * len(genes_G),
        np.tile(genes_G, len(rows)),
        dense_BG.ravel(),
        cells.cell_ids[rows],
    )


def _is_in(ids: Sequence[int], genes: NDArray[np.int32]) -> NDArray[np.bool_]:
    """Table by token id of what is among `ids`; empty where that is nothing."""
    if not ids:
        return np.zeros(0, np.bool_)
    table_T = np.zeros(max(int(genes.max(initial=0)), *ids) + 1, np.bool_)
    table_T[list(ids)] = True
    return table_T


def hide(
    tokens: Tokens,
    *,
    cell_ids: NDArray[np.int64],
    seed: int,
    epoch: ArrayLike = 0,
    mask_value: float,
    shares: Sequence[float],
) -> Hidden:
    """Hide the values of a random share of each cell's genes; ``<cls>`` is never hidden.

    Masking and the split into known and unknown genes are the same draw; they differ in what the
    model may look at.

    Parameters
    ----------
    shares
        One of them is drawn for each cell; that share of its genes, rounded down, is hidden.
    """
    hidden = Hidden(*_allocate(tokens.ids_BL.shape, np.float32, np.bool_, np.bool_))
    kernels.hide_tokens(
        tokens.bins_BL,
        tokens.padding_BL,
        draw_keys(seed, epoch, cell_ids),
        np.asarray(shares, np.float64),
        float(mask_value),
        *hidden,
    )
    return hidden


def to_batch(
    cells: Cells,
    settings: TokenSettings,
    *,
    seed: int,
    epoch: ArrayLike = 0,
    rows: NDArray[np.int64] | None = None,
    batch_B: NDArray[np.int64] | None = None,
    label_B: NDArray[np.int64] | None = None,
    condition_B: NDArray[np.int64] | None = None,
    pin: bool = False,
) -> Batch:
    """`Batch` of cells, on the CPU: tokens, and what is hidden of them as `settings` say.

    Parameters
    ----------
    rows
        Which of the cells; None: all.
    batch_B, label_B, condition_B
        Sequencing batch, class and condition of these cells.
    pin
        Into page-locked memory, from which a GPU copies without waiting.
    """
    rows = np.arange(len(cells.cell_ids)) if rows is None else rows
    cell_ids = cells.cell_ids[rows]
    tokens = tokenize(cells, settings, seed=seed, epoch=epoch, rows=rows)
    arrays: dict[str, NDArray[Any] | None] = {
        "ids_BL": tokens.ids_BL,
        "values_BL": tokens.bins_BL,
        "padding_BL": tokens.padding_BL,
        "target_BL": tokens.bins_BL,
        "batch_B": batch_B,
        "label_B": label_B,
        "cell_B": cell_ids,
    }
    if condition_B is not None:
        keys = draw_keys(seed + _FOR_CONDITION, epoch, cell_ids)
        told_B = keys / 2.0**64 >= settings.condition_dropout
        arrays["condition_B"] = np.where(told_B, condition_B, 0)
    shares = settings.unknown_shares if settings.mask_share is None else (settings.mask_share,)
    if shares:
        values_BL, hidden_BL, known_BL = hide(
            tokens,
            cell_ids=cell_ids,
            seed=seed,
            epoch=epoch,
            mask_value=settings.mask_value,
            shares=shares,
        )
        arrays |= {"values_BL": values_BL, "hidden_BL": hidden_BL}
        if settings.unknown_shares:
            arrays["known_BL"] = known_BL
    return Batch.from_numpy(pin=pin, **arrays)
