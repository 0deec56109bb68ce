"""Real cells of the repository, in CSR form and as a corpus, for benchmarks of the data path."""

from collections.abc import Sequence
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from scgpt_core.config import QCSettings
from scgpt_core.data.cells import Cells, cells_from_csr, take_cells
from scgpt_core.data.collate import TokenSettings
from scgpt_core.data.partitions import Partition, write_partition
from scgpt_core.data.qc import CleanCells
from scgpt_core.data.shards import OBS_COLUMNS, build_shard, seal_shards
from scgpt_core.data.vocab import build_vocab
from scgpt_core.keys import FEATURE_ID, FEATURE_LENGTH, FEATURE_NAME, IS_PRIMARY_DATA, SOMA_JOINID

ROOT = Path(__file__).parents[1]
N_TOKENS = 60_697  # the vocabulary of the published models
PAD_ID, CLS_ID = 60_694, 60_695


def masked_tokens(pad_id: int = PAD_ID, cls_id: int = CLS_ID) -> TokenSettings:
    """Tokens of the published length, 40 % of the values masked."""
    return TokenSettings(
        max_tokens=1200,
        n_bins=51,
        pad_id=pad_id,
        cls_id=cls_id,
        cls_value=-2,
        pad_value=-2,
        mask_value=-1,
        mask_share=0.4,
    )


def read_cells(name: str, *, min_genes: int, max_genes: int) -> Cells:
    """Cells of ``resources/cells/NAME.h5ad`` that have so many genes.

    Genes get token ids at random over a vocabulary of the published size.
    """
    counts = ad.read_h5ad(ROOT / "resources" / "cells" / f"{name}.h5ad").X.tocsr()
    tokens = np.random.default_rng(0).choice(PAD_ID, counts.shape[1], replace=False)
    cells = cells_from_csr(
        counts.indptr,
        counts.indices,
        counts.data,
        token_ids=np.sort(tokens),
        cell_ids=np.arange(counts.shape[0]),
    )
    n_genes_N = np.diff(cells.indptr)
    return take_cells(cells, np.flatnonzero((n_genes_N >= min_genes) & (n_genes_N <= max_genes)))


def resample(cells: Cells, n_cells: int, *, seed: int = 0) -> Cells:
    """So many of the cells, drawn with replacement, each with an identity of its own."""
    rows: NDArray[np.int64] = np.random.default_rng(seed).integers(
        len(cells.cell_ids), size=n_cells
    )
    return take_cells(cells, rows)._replace(cell_ids=np.arange(n_cells))


def as_adata(cells: Cells) -> ad.AnnData:
    """Cells as the Census would give them; genes that none of them has are left out."""
    column_T = np.cumsum(np.bincount(cells.genes, minlength=N_TOKENS) > 0) - 1
    shape = (len(cells.cell_ids), int(column_T[-1]) + 1)
    counts = csr_matrix((cells.counts, column_T[cells.genes], cells.indptr), shape)
    names = cells.cell_ids.astype(str)
    obs = pd.DataFrame(dict.fromkeys(OBS_COLUMNS, "x"), index=names, dtype="category")
    obs = obs.assign(**{SOMA_JOINID: cells.cell_ids, IS_PRIMARY_DATA: True})
    genes = [f"ENSG{i:011}" for i in range(counts.shape[1])]
    var = pd.DataFrame({FEATURE_ID: genes, FEATURE_NAME: genes, FEATURE_LENGTH: 1000}, index=genes)
    return ad.AnnData(counts, obs=obs, var=var)


def write_cells(cells: ad.AnnData, path: Path) -> None:
    """Write cells as a partition, as a download does."""
    with write_partition(path, cells.obs, cells.var, {}) as writer:
        for first in range(0, cells.n_obs, 4096):
            writer.append(cells.X[first : first + 4096])


def build_corpus(partitions: Sequence[Path]) -> None:
    """Build and seal the shards of partitions, beside them, as the pipeline does."""
    folder = partitions[0].parent
    vocab = build_vocab(map(Partition, partitions), folder / "vocab.json", min_cells=1)
    shards = [path.with_suffix(".arrow") for path in partitions]
    for path, shard in zip(partitions, shards, strict=True):
        build_shard(CleanCells(Partition(path), QCSettings()), vocab, shard)
    seal_shards(
        shards,
        folder / "vocab.json",
        folder / "manifest.json",
        corpus="bench",
        heldout_by="donor_id",
        heldout_share=0,
        seed=0,
    )
