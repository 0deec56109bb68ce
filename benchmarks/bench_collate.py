"""Collation: tokenize, bin, sample, mask and pad, ours against the published way, one thread each.

The published way is cell by cell: numpy's quantiles and two digitizes, a random permutation to
sample genes, concatenation to pad, and a random choice to mask (v0.2.5 of the published code).
"""

import time

import numpy as np
import torch
from torch import Tensor

from benchmarks.harness import measure, report
from benchmarks.real_cells import masked_tokens, read_cells, resample
from scgpt_core.data.cells import Cells
from scgpt_core.data.collate import to_batch

BATCH_CELLS, N_BATCHES = 64, 4
SETTINGS = masked_tokens()


def collate_as_published(genes: list[np.ndarray], counts: list[np.ndarray]) -> dict[str, Tensor]:
    """One mini-batch, the published way."""
    s = SETTINGS
    all_ids, all_bins = [], []
    for ids_n, counts_n in zip(genes, counts, strict=True):
        edges = np.quantile(counts_n, np.linspace(0, 1, s.n_bins - 1))
        left = np.digitize(counts_n, edges)
        right = np.digitize(counts_n, edges, right=True)
        drawn = np.ceil(np.random.rand(len(counts_n)) * (right - left) + left)
        ids = torch.cat([torch.tensor([s.cls_id]), torch.from_numpy(ids_n.astype(np.int64))])
        bins = torch.cat([torch.tensor([s.cls_value]), torch.from_numpy(drawn.astype(np.float32))])
        if len(ids) > s.max_tokens:
            sampled = torch.randperm(len(ids) - 1)[: s.max_tokens - 1] + 1
            sampled = torch.cat([torch.tensor([0]), sampled])
            ids, bins = ids[sampled], bins[sampled]
        pads = s.max_tokens - len(ids)
        all_ids.append(torch.cat([ids, torch.full((pads,), s.pad_id)]))
        all_bins.append(torch.cat([bins, torch.full((pads,), float(s.pad_value))]))
    ids_BL, bins_BL = torch.stack(all_ids), torch.stack(all_bins)
    values_BL = bins_BL.numpy().copy()
    for row in values_BL:
        real = np.flatnonzero(row != s.pad_value)
        row[np.random.choice(real, int(len(real) * 0.4), replace=False)] = s.mask_value
    values = torch.from_numpy(values_BL)
    return {
        "ids": ids_BL, "values": values, "target": bins_BL,
        "hidden": values.eq(s.mask_value), "padding": ids_BL.eq(s.pad_id),
    }  # fmt: skip


def main() -> None:
    """Measure both on real cells of about 3,400 genes."""
    torch.set_num_threads(1)
    real = read_cells("cellmix_5lines_5batches", min_genes=3000, max_genes=3800)
    cells = resample(real, BATCH_CELLS * N_BATCHES)
    batches = np.arange(BATCH_CELLS * N_BATCHES).reshape(N_BATCHES, BATCH_CELLS)

    def ours() -> float:
        for _ in range(10):  # about as long as one turn of the other, and no shorter than its clock
            for rows in batches:
                to_batch(cells, SETTINGS, seed=0, rows=rows)
        return 10 * batches.size

    def published() -> float:
        for rows in batches:
            collate_as_published(*_split(cells, rows))
        return batches.size

    runs = measure({"ours": ours, "published": published}, runs=41, clock=time.thread_time)
    notes = {
        "max_tokens": SETTINGS.max_tokens,
        "mean_genes": float(np.diff(cells.indptr).mean()),
        "real_cells": len(real.cell_ids),
    }
    report("collate", unit="cells/s/thread", runs=runs, baseline="published", notes=notes)


def _split(cells: Cells, rows: np.ndarray) -> tuple[list[np.ndarray], list[np.ndarray]]:
    spans = [slice(cells.indptr[row], cells.indptr[row + 1]) for row in rows]
    return [cells.genes[span] for span in spans], [cells.counts[span] for span in spans]


if __name__ == "__main__":
    main()
