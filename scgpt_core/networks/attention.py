"""Edges from attention: who looks at whom, rank-normalised, averaged over cells one by one.

A gene reads the genes that it attends to: the regulator is the key, the target the query.

Shapes: H heads, L genes of a cell, R regulators among them, T regulators, G genes.
"""

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from scgpt_core.checkpoint import Checkpoint, load_checkpoint
from scgpt_core.config import ModelConfig, NetworkSettings
from scgpt_core.data.cells import Cells
from scgpt_core.data.collate import TokenSettings
from scgpt_core.networks.edges import tabulate_edges
from scgpt_core.networks.embeddings import batches
from scgpt_core.networks.preparation import open_network
from scgpt_core.runs import run_record, write_parquet
from scgpt_core.tasks.embedding import with_random_weights
from scgpt_core.tasks.variants import Init

_MAP_NUMBERS = 2**22
"""Entries of the attention maps of a forward pass, at most (but one cell): 16 MB."""


def attend_dataset(
    cells: str | Path,
    model_folder: str | Path,
    output: str | Path,
    run_json: str | Path,
    *,
    settings: NetworkSettings,
    init: Init,
    seed: int,
) -> None:
    """Write the edges of attention as parquet (see `tabulate_edges`), and the record of the run.

    Parameters
    ----------
    cells
        h5ad of `prepare_network`.
    init
        "random": the model's architecture with new weights, what training adds is above it.

    Raises
    ------
    ValueError
        Where the model has no such layer or heads.
    """
    used = settings.model_dump(mode="json", include={"attention", "zeros", "device"})
    described = {**used, "init": init, "seed": seed}
    with run_record(run_json, described) as run:
        ckpt = load_checkpoint(model_folder, settings.device)
        if init == "random":
            ckpt = with_random_weights(ckpt, seed)
        check_heads(ckpt.config, settings)
        network = open_network(cells)
        genes, regulators = network.token_ids, network.columns
        values = {
            condition: attend_genes(each, ckpt, genes, regulators, settings=settings, seed=seed)
            for condition, each in network.cells().items()
        }
        edges = tabulate_edges(values, network.regulators, network.genes, signed=False)
        write_parquet(output, edges)
        run |= {"model": ckpt.digest, "cells": {c: len(rows) for c, rows in network.rows.items()}}


def check_heads(config: ModelConfig, settings: NetworkSettings) -> None:
    """Stop where a model has no such layer or heads."""
    layer, heads = settings.attention.layer, settings.attention.heads
    if not -config.n_layers <= layer < config.n_layers:
        message = f"networks.attention.layer is {layer}: the model has {config.n_layers} layers"
        raise ValueError(message)
    if heads is not None and (not heads or max(heads) >= config.n_heads):
        message = (
            f"networks.attention.heads are {list(heads)}: the model has the heads 0 to "
            f"{config.n_heads - 1}"
        )
        raise ValueError(message)


@torch.inference_mode()
def attend_genes(
    cells: Cells,
    ckpt: Checkpoint,
    token_ids: NDArray[np.int32],
    regulators: NDArray[np.int64],
    *,
    settings: NetworkSettings,
    seed: int,
) -> NDArray[np.float64]:
    """Mean rank-normalised attention of each gene to each regulator: (T, G), 0 to 1.

    Maps are ranked and added up cell by cell: memory does not grow with the cells.

    Parameters
    ----------
    cells
        Of these genes alone.
    token_ids
        (G,), of the genes.
    regulators
        (T,), places of the regulators among them.

    Returns
    -------
    NaN for pairs that are tokens of no cell together.
    """
    device = next(ckpt.model.parameters()).device
    place_V = torch.full((ckpt.config.n_tokens,), -1, device=device)
    place_V[torch.from_numpy(token_ids.astype(np.int64)).to(device)] = torch.arange(
        len(token_ids), device=device
    )
    row_G = torch.full((len(token_ids),), -1, device=device)
    row_G[torch.from_numpy(regulators).to(device)] = torch.arange(len(regulators), device=device)
    sum_TG = torch.zeros(len(regulators), len(token_ids), dtype=torch.float64, device=device)
    n_TG = torch.zeros_like(sum_TG)
    heads = settings.attention.heads or range(ckpt.config.n_heads)
    length = len(token_ids) + 1
    for batch in batches(
        cells,
        gene_tokens(ckpt.config, token_ids, zeros=settings.zeros),
        seed=seed,
        batch_tokens=_MAP_NUMBERS // (ckpt.config.n_heads * length),
    ):
        here = batch.to(device)
        output = ckpt.model(here, heads=(), attention_layer=settings.attention.layer)
        for map_HLL, ids_L, padding_L in zip(
            output.attention_BHLL, here.ids_BL, here.padding_BL, strict=True
        ):
            n_tokens = int((~padding_L).sum())  # genes stand between <cls> and padding
            genes_L = place_V[ids_L[1:n_tokens]]
            row_L = row_G[genes_L]
            is_regulator_L = row_L >= 0
            ranks_HLR = rank_normalise(
                map_HLL[list(heads), 1:n_tokens, 1:n_tokens].float(), is_regulator_L
            )
            where = (row_L[is_regulator_L][:, None], genes_L[None])
            sum_TG[where] += ranks_HLR.mean(0).T.double()
            n_TG[where] += 1
    mean_TG: NDArray[np.float64] = (sum_TG / n_TG).cpu().numpy()
    return mean_TG


def gene_tokens(config: ModelConfig, token_ids: NDArray[np.int32], *, zeros: bool) -> TokenSettings:
    """Tokens of a network's cells: all of its genes, or those that the cell expresses."""
    genes = tuple(token_ids.tolist()) if zeros else None
    return TokenSettings.of_model(config, max_tokens=len(token_ids) + 1, genes=genes)


def rank_normalise(map_HLL: Tensor, columns_L: Tensor) -> Tensor:
    """Ranks of a map's entries, first in their rows, then in their columns: 0 to 1.

    As published (Cui et al. 2024), but that equal entries have equal ranks, so that the order of
    the genes does not matter.

    Parameters
    ----------
    map_HLL
        Attention of queries (rows) to keys (columns).
    columns_L
        bool, the keys (R of them) to keep; all are ranked in the rows.
    """
    in_rows_HLR = _average_ranks(map_HLL)[..., columns_L]
    in_columns_HRL = _average_ranks(in_rows_HLR.transpose(1, 2).contiguous())
    return in_columns_HRL.transpose(1, 2) / max(map_HLL.shape[1] - 1, 1)


def _average_ranks(x: Tensor) -> Tensor:
    """Ranks along the last dimension, from 0; equal entries have the mean of theirs."""
    ordered, order = x.sort(-1)
    place = torch.arange(x.shape[-1], device=x.device)
    starts = torch.ones_like(ordered, dtype=torch.bool)  # of runs of equal entries
    starts[..., 1:] = ordered[..., 1:] != ordered[..., :-1]
    first = torch.where(starts, place, 0).cummax(-1).values
    ends = starts.roll(-1, dims=-1)
    last = torch.where(ends, place, x.shape[-1]).flip(-1).cummin(-1).values.flip(-1)
    return torch.empty_like(x).scatter_(-1, order, (first + last) / 2)
