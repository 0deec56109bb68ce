"""Edges from in-silico knock-out: what a model predicts of a cell with a gene and without it.

Shapes: B cells in a batch, L tokens, D width, T regulators, G genes, U cells that are used.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from scgpt_core.batch import Batch
from scgpt_core.checkpoint import Checkpoint, load_checkpoint
from scgpt_core.config import NetworkSettings
from scgpt_core.data.binning import draw_keys
from scgpt_core.data.cells import Cells, take_cells
from scgpt_core.networks.attention import gene_tokens
from scgpt_core.networks.edges import tabulate_edges
from scgpt_core.networks.embeddings import BATCH_TOKENS, batches
from scgpt_core.networks.preparation import open_network
from scgpt_core.runs import run_record, write_parquet


class KnockOut(NamedTuple):
    """What knocking out each regulator does, mean over the cells that express it."""

    change_TG: NDArray[np.float64]
    """Bins by which the predicted expression of a gene is greater with the regulator than without;
    NaN where no cell expresses it."""
    shift_T: NDArray[np.float64]
    """1 - cosine of the cell's embeddings with and without."""
    n_cells_T: NDArray[np.int64]


def knock_out_dataset(
    cells: str | Path,
    model_folder: str | Path,
    output: str | Path,
    shifts: str | Path,
    run_json: str | Path,
    *,
    settings: NetworkSettings,
    seed: int,
) -> None:
    """Write the edges of knock-out, and how far it moves the cells, as parquet; and the record.

    Parameters
    ----------
    cells
        h5ad of `prepare_network`.
    output
        Edges, see `tabulate_edges`.
    shifts
        condition, regulator, cells, shift (see `KnockOut`).

    Raises
    ------
    ValueError
        Where the model has no GEPC, which predicts genes from the embedding of the cell.
    """
    used = settings.model_dump(mode="json", include={"knockout", "zeros", "device"})
    with run_record(run_json, {**used, "seed": seed}) as run:
        ckpt = load_checkpoint(model_folder, settings.device)
        network = open_network(cells)
        genes, regulators = network.token_ids, network.columns
        found = {
            condition: knock_out(each, ckpt, genes, regulators, settings=settings, seed=seed)
            for condition, each in network.cells().items()
        }
        values = {condition: each.change_TG for condition, each in found.items()}
        edges = tabulate_edges(values, network.regulators, network.genes, signed=True)
        moved = [
            pd.DataFrame(
                {
                    "condition": condition,
                    "regulator": network.regulators,
                    "cells": each.n_cells_T,
                    "shift": each.shift_T,
                }
            )
            for condition, each in found.items()
        ]
        write_parquet(output, edges)
        write_parquet(shifts, pd.concat(moved, ignore_index=True))
        run["model"] = ckpt.digest


def knock_out(
    cells: Cells,
    ckpt: Checkpoint,
    token_ids: NDArray[np.int32],
    regulators: NDArray[np.int64],
    *,
    settings: NetworkSettings,
    seed: int,
) -> KnockOut:
    """Knock regulators out one by one, in cells that express them.

    Only the regulator's token changes: the bins of the other genes stay.

    Parameters
    ----------
    cells, token_ids, regulators
        As in `attend_genes`.
    """
    if "gepc" not in ckpt.model.heads:
        message = (
            "knock-out needs a model with GEPC, which predicts genes from the cell embedding: take "
            "another, or leave networks.datasets empty"
        )
        raise ValueError(message)
    shape = len(regulators), len(token_ids)
    found = KnockOut(np.full(shape, np.nan), np.full(shape[0], np.nan), np.zeros(shape[0], int))
    chosen = [
        _draw_expressing(cells, int(token_ids[column]), settings.knockout.max_cells, seed)
        for column in regulators
    ]
    used = np.unique(np.concatenate(chosen))
    kept = take_cells(cells, used)
    whole_UG, whole_UD = _predict(kept, ckpt, token_ids, None, settings=settings, seed=seed)
    for row, (column, rows) in enumerate(zip(regulators, chosen, strict=True)):
        if len(rows) == 0:
            continue
        place = np.searchsorted(used, rows)
        without_UG, without_UD = _predict(
            take_cells(cells, rows),
            ckpt,
            token_ids,
            int(token_ids[column]),
            settings=settings,
            seed=seed,
        )
        change_UG = whole_UG[place] - without_UG
        n_G = np.isfinite(change_UG).sum(0)
        found.change_TG[row] = np.where(n_G > 0, np.nansum(change_UG, 0) / n_G.clip(1), np.nan)
        found.shift_T[row] = 1 - (whole_UD[place] * without_UD).sum(1).mean()
        found.n_cells_T[row] = len(rows)
    return found


def _draw_expressing(cells: Cells, token_id: int, max_cells: int, seed: int) -> NDArray[np.int64]:
    """Rows of cells that express a gene, ascending; the same cells in whatever order they come."""
    rows = np.searchsorted(cells.indptr, np.flatnonzero(cells.genes == token_id), side="right") - 1
    keys = draw_keys(seed, 0, cells.cell_ids[rows])
    return np.sort(rows[np.argsort(keys, kind="stable")[:max_cells]])


@torch.inference_mode()
def _predict(
    cells: Cells,
    ckpt: Checkpoint,
    token_ids: NDArray[np.int32],
    out: int | None,
    *,
    settings: NetworkSettings,
    seed: int,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Predicted bins (U, G), NaN where a gene is no token of the cell, and unit embeddings (U, D).

    Parameters
    ----------
    out
        Token id of the gene that is knocked out; None: none is.
    """
    device = next(ckpt.model.parameters()).device
    place_V = np.full(ckpt.config.n_tokens, -1)
    place_V[token_ids] = np.arange(len(token_ids))
    predicted_UG = np.full((len(cells.cell_ids), len(token_ids)), np.nan)
    parts = []
    tokens = gene_tokens(ckpt.config, token_ids, zeros=settings.zeros)
    first = 0
    for batch in batches(cells, tokens, seed=seed, batch_tokens=BATCH_TOKENS):
        changed = batch if out is None else _knock(batch, out, ckpt, settings.knockout.how)
        output = ckpt.model(changed.to(device), heads={"gepc"})
        parts.append(F.normalize(output.cell_BD.double(), dim=1).cpu().numpy())
        place_BL = place_V[batch.ids_BL.numpy()]
        row_B, column_L = np.nonzero((place_BL >= 0) & ~batch.padding_BL.numpy())
        predicted_UG[first + row_B, place_BL[row_B, column_L]] = (
            output.gepc_BL.double().cpu().numpy()[row_B, column_L]
        )
        first += len(place_BL)
    return predicted_UG, np.concatenate(parts)


def _knock(batch: Batch, token_id: int, ckpt: Checkpoint, how: str) -> Batch:
    is_it_BL: Tensor = batch.ids_BL == token_id
    if how == "zero":
        return batch._replace(values_BL=batch.values_BL.masked_fill(is_it_BL, 0))
    values_BL = batch.values_BL.masked_fill(is_it_BL, ckpt.config.pad_value)
    return batch._replace(values_BL=values_BL, padding_BL=batch.padding_BL | is_it_BL)
