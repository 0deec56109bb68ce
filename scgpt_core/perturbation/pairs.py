"""Control cells and what they are to become: the batches that the model learns from.

What is drawn for a cell depends on (seed, epoch, cell identity), what is drawn for a step on (seed,
epoch, step): batches are the same however many processes share them.

Shapes: B cells in a batch, L tokens (the first is ``<cls>``), G measured genes, K genes of a step.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from scgpt_core.batch import Batch
from scgpt_core.config import ModelConfig
from scgpt_core.data.binning import draw_keys
from scgpt_core.data.identity import digest_cells
from scgpt_core.data.order import cut_step, require_cells_for_ranks
from scgpt_core.perturbation.data import Perturbations, genes_of

NOT_PERTURBED, PERTURBED, PAD_FLAG = range(3)
N_FLAGS: Final = 3
"""Entries of the flag embedding, as published."""
_FOR_PARTNERS, _FOR_ORDER, _FOR_GENES = 17, 19, 23  # added to the seed: the draws are independent


@dataclass(frozen=True)
class Tokens:
    """Which genes are tokens, and what the model reads at perturbed ones."""

    config: ModelConfig
    columns: NDArray[np.int64]
    """Columns of the data that are predicted, ascending: (K,)."""
    ids_G: NDArray[np.int64]
    """Token id of each measured gene."""
    id_of: Mapping[str, int]
    """Token id of each perturbed gene."""
    column_of: Mapping[str, int]
    """Column of each perturbed gene that is measured."""
    target_value_G: NDArray[np.float32] | None = None
    """What stands for the expression of a perturbed gene; None: its own is kept."""

    def batch(
        self,
        values_BG: csr_matrix,
        conditions: Sequence[Sequence[str]],
        cell_ids: NDArray[np.int64],
    ) -> Batch:
        """Tokens of control cells, with the genes that are perturbed in each flagged.

        Perturbed genes that are not among `columns` stand behind these, so that none is left out.

        Parameters
        ----------
        values_BG
            Log-normalised expression.
        conditions
            Perturbed genes of each cell.
        """
        n_cells, n_genes = len(cell_ids), len(self.columns)
        place = {column: 1 + i for i, column in enumerate(self.columns.tolist())}
        extra = [[g for g in genes if self.column_of.get(g) not in place] for genes in conditions]
        shape = (n_cells, 1 + n_genes + max(map(len, extra)))
        config = self.config
        ids_BL = np.full(shape, config.pad_id, np.int64)
        values_BL = np.full(shape, config.pad_value, np.float32)
        flags_BL = np.full(shape, PAD_FLAG, np.int64)
        ids_BL[:, 0], values_BL[:, 0] = config.cls_id, 0
        ids_BL[:, 1 : 1 + n_genes] = self.ids_G[self.columns]
        values_BL[:, 1 : 1 + n_genes] = values_BG[:, self.columns].toarray()
        flags_BL[:, : 1 + n_genes] = NOT_PERTURBED
        for row, genes in enumerate(conditions):
            for gene in genes:
                column = self.column_of.get(gene)
                at = place.get(column) if column is not None else None
                if at is None:
                    at = 1 + n_genes + extra[row].index(gene)
                    value = 0.0 if column is None else values_BG[row, column]
                else:
                    value = values_BL[row, at]
                ids_BL[row, at], flags_BL[row, at] = self.id_of[gene], PERTURBED
                values_BL[row, at] = self._perturbed(value, column)
        return Batch(
            ids_BL=torch.from_numpy(ids_BL),
            values_BL=torch.from_numpy(values_BL),
            padding_BL=torch.from_numpy(flags_BL == PAD_FLAG),
            perturbed_BL=torch.from_numpy(flags_BL),
            cell_B=torch.from_numpy(cell_ids),
        )

    def _perturbed(self, value: float, column: int | None) -> float:
        if self.target_value_G is None or column is None:
            return value
        return float(self.target_value_G[column])


class PairLoader:
    """Steps of control cells beside what they are to become, for one rank.

    Each perturbed cell is visited once an epoch, with a control cell of its batch and cell type.

    Parameters
    ----------
    data
        The cells.
    cells_N
        Perturbed cells to learn from.
    tokens
        Of all genes; steps take some of them.
    shift_CSG
        Mean change by condition of the data and stratum, to become which is the target; None: the
        target is the perturbed cell itself.
    max_genes
        Genes of a step.
    batch_cells, micro_batch_cells
        Cells of a step over all ranks, and of one `Batch`.
    seed
        Of all draws.
    rank, world_size
        Which cells of every step this process takes.
    """

    def __init__(
        self,
        data: Perturbations,
        cells_N: NDArray[np.bool_],
        tokens: Tokens,
        *,
        shift_CSG: NDArray[np.float64] | None,
        max_genes: int,
        batch_cells: int,
        micro_batch_cells: int,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.data, self.tokens, self.shift_CSG = data, tokens, shift_CSG
        self.rows = np.flatnonzero(cells_N)
        self.max_genes, self.seed = max_genes, seed
        self.micro_batch_cells = micro_batch_cells
        self.rank, self.world_size = rank, world_size
        self.steps_per_epoch = -(-len(self.rows) // batch_cells)
        require_cells_for_ranks(
            len(self.rows),
            batch_cells=batch_cells,
            n_steps=self.steps_per_epoch,
            ranks=world_size,
        )
        self._condition = {name: i for i, name in enumerate(data.conditions)}
        controls = [data.is_input & (data.stratum == s) for s in range(data.stratum.max() + 1)]
        self._controls = [np.flatnonzero(chosen_N) for chosen_N in controls]
        self.digest = digest_cells(data.cell_ids[self.rows])
        self._epoch = self._step = 0

    def __iter__(self) -> Iterator[tuple[Batch, ...]]:
        while True:
            rows = self._order()[self._step]
            columns = self._columns()
            partners = self._partners(rows)
            self._step += 1
            if self._step == self.steps_per_epoch:
                self._epoch, self._step = self._epoch + 1, 0
            yield self._batches(rows, partners, columns)

    def _order(self) -> list[NDArray[np.int64]]:
        """Rows of the perturbed cells of each step of the epoch."""
        keys = draw_keys(self.seed + _FOR_ORDER, self._epoch, self.data.cell_ids[self.rows])
        order = self.rows[np.argsort(keys, kind="stable")]
        return np.array_split(order, self.steps_per_epoch)

    def _columns(self) -> NDArray[np.int64]:
        """Columns of the genes of this step."""
        columns = self.tokens.columns
        if len(columns) <= self.max_genes:
            return columns
        rng = np.random.default_rng((self.seed + _FOR_GENES, self._epoch, self._step))
        return np.sort(rng.choice(columns, self.max_genes, replace=False))

    def _partners(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Row of a control cell for each perturbed cell."""
        data = self.data
        keys = draw_keys(self.seed + _FOR_PARTNERS, self._epoch, data.cell_ids[rows])
        controls = [self._controls[stratum] for stratum in data.stratum[rows]]
        return np.array([c[int(key) % len(c)] for c, key in zip(controls, keys, strict=True)])

    def _batches(
        self, rows: NDArray[np.int64], partners: NDArray[np.int64], columns: NDArray[np.int64]
    ) -> tuple[Batch, ...]:
        """Micro-batches of this rank in a step."""
        places = cut_step(
            len(rows),
            micro_batch_cells=self.micro_batch_cells,
            rank=self.rank,
            world_size=self.world_size,
        )
        tokens = replace(self.tokens, columns=columns)
        return tuple(self._pair(tokens, rows[piece], partners[piece]) for piece in places)

    def _pair(self, tokens: Tokens, rows: NDArray[np.int64], partners: NDArray[np.int64]) -> Batch:
        data = self.data
        conditions = [genes_of(name) for name in data.condition_N[rows]]
        batch = tokens.batch(data.log_NG[partners], conditions, data.cell_ids[rows])
        target_BL = np.zeros(batch.ids_BL.shape, np.float32)
        scored_BL = np.zeros(batch.ids_BL.shape, np.bool_)
        scored = slice(1, 1 + len(tokens.columns))
        scored_BL[:, scored] = True
        if self.shift_CSG is None:
            target_BL[:, scored] = data.log_NG[rows][:, tokens.columns].toarray()
        else:
            condition_B = [self._condition[name] for name in data.condition_N[rows]]
            shift_BG = self.shift_CSG[condition_B, data.stratum[rows]]
            target_BL[:, scored] = shift_BG[:, tokens.columns]
        return batch._replace(
            target_BL=torch.from_numpy(target_BL), hidden_BL=torch.from_numpy(scored_BL)
        )

    def state_dict(self) -> dict[str, Any]:
        """Return the state after the step that was handed out last."""
        return {"epoch": self._epoch, "step": self._step, "cells": self.digest}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on behind the step that was handed out last when the state was taken.

        Raises
        ------
        ValueError
            Where the cells are others.
        """
        if state["cells"] != self.digest:
            message = "the state is that of other perturbed cells: delete it, or give these again"
            raise ValueError(message)
        self._epoch, self._step = state["epoch"], state["step"]
