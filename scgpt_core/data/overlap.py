"""Which cells of a data set are in the corpus already: a model has seen these before it is tested.

Cells have other names in every study that uses them, but the same counts. The genes that two
studies share are dealt into bands; two cells are taken for one where they agree in all counts of at
least half of the bands. (Not of all: studies differ in a few genes, by the name of one or by the
version of an annotation.)

Shapes: B cells, K bands, N cells of the data set, T tokens, S data sets of the corpus.
"""

from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import anndata as ad
import numpy as np
from numpy.typing import NDArray

from scgpt_core.data import kernels
from scgpt_core.data.cells import Cells, read_cells
from scgpt_core.data.corpus import Corpus
from scgpt_core.data.genes import LEAST_MATCHED, match_var
from scgpt_core.keys import BATCH, DATASET_ID

_BLOCK_CELLS = 8192
_BANDS = 8
_LEAST_GENES = 8
"""Expressed genes without which a band says nothing."""


class Overlap(NamedTuple):
    """Cells that a data set shares with a corpus, and those of which nobody can tell."""

    shared_N: NDArray[np.bool_]
    """True for the cells of the data set that the corpus has."""
    by_dataset: dict[str, int]
    """Number of shared cells by ``dataset_id`` of the corpus, where there are any."""
    unchecked_N: NDArray[np.bool_]
    """True for cells that express too few genes of every data set of the corpus to be compared."""
    divided_cells: int
    """Cells of the corpus whose counts were divided by gene lengths: none is known again."""


def check_dataset(corpus: Corpus, path: str | Path) -> dict[str, Any]:
    """Tell what a prepared data set and a corpus have in common.

    Parameters
    ----------
    path
        h5ad of `prepare_dataset`.

    Returns
    -------
    cells, shared, shared_with (cells by data set of the corpus), unchecked and divided_in_corpus
    (cells, as in `Overlap`), and datasets: those of the corpus that have the data set's name, or
    that of a ``dataset_id`` or batch in it.

    Raises
    ------
    ValueError
        Where the corpus's vocabulary has too few of its genes (`LEAST_MATCHED` of the counts).
    """
    adata = ad.read_h5ad(path)
    match = match_var(adata.var, corpus.vocab)
    match.require(LEAST_MATCHED, np.asarray(adata.X.sum(axis=0)).ravel(), source=str(path))
    found = find_overlap(corpus, read_cells(adata, match.ids))
    names = {Path(path).stem, *adata.obs.get(DATASET_ID, ()), *adata.obs.get(BATCH, ())}
    return {
        "cells": adata.n_obs,
        "shared": int(found.shared_N.sum()),
        "shared_with": found.by_dataset,
        "unchecked": int(found.unchecked_N.sum()),
        "divided_in_corpus": found.divided_cells,
        "datasets": sorted(names.intersection(corpus.obs(DATASET_ID).unique().to_pylist())),
    }


def find_overlap(corpus: Corpus, cells: Cells) -> Overlap:
    """Find the cells of a data set that are in a corpus; reads the corpus twice, in blocks.

    Parameters
    ----------
    corpus
        Counts as they were measured; cells whose counts were divided by gene lengths are not found.
    cells
        Raw counts of the data set, by the corpus's token ids.
    """
    datasets = corpus.obs(DATASET_ID)
    names, codes = datasets.dictionary.to_pylist(), datasets.indices.to_numpy()
    n_cells = len(cells.cell_ids)
    blocks = [slice(i, i + _BLOCK_CELLS) for i in range(0, corpus.n_cells, _BLOCK_CELLS)]
    expressed_ST = _expressed(corpus, cells, codes, len(names), blocks)

    @lru_cache(maxsize=16)  # data sets of the corpus follow one another
    def own_prints(code: int) -> NDArray[np.uint64]:
        return _fingerprints(cells, np.full(n_cells, code), expressed_ST)

    equal_SN = np.zeros((len(names), n_cells), np.uint8)  # a bit for each band
    whole_S, divided_cells = np.zeros(len(names), bool), 0
    for rows in blocks:
        block = corpus.cells(rows)
        prints_BK = _fingerprints(block, codes[rows], expressed_ST)
        whole_B = _are_whole(block)
        divided_cells += int((~whole_B).sum())
        for code in np.unique(codes[rows][whole_B]).tolist():
            theirs_BK = prints_BK[whole_B & (codes[rows] == code)]
            own_NK = own_prints(code)
            whole_S[code] = True
            for k in range(_BANDS):
                is_equal_N = np.isin(own_NK[:, k], theirs_BK[:, k])
                equal_SN[code] |= np.left_shift(is_equal_N, k, dtype=np.uint8)
    shared_N, checked_N, by_dataset = np.zeros(n_cells, bool), np.zeros(n_cells, bool), {}
    for code in np.flatnonzero(whole_S).tolist():
        told_NK = own_prints(code) != 0
        equal_NK = equal_SN[code, :, None] >> np.arange(_BANDS, dtype=np.uint8) & 1
        found_N = (equal_NK & told_NK).sum(axis=1) >= _BANDS / 2
        checked_N |= told_NK.sum(axis=1) >= _BANDS / 2
        shared_N |= found_N
        if found_N.any():
            by_dataset[names[code]] = int(found_N.sum())
    return Overlap(shared_N, by_dataset, ~checked_N, divided_cells)


def _expressed(
    corpus: Corpus,
    cells: Cells,
    codes: NDArray[np.integer[Any]],
    n_datasets: int,
    blocks: list[slice],
) -> NDArray[np.bool_]:
    """(S, T), the genes that a data set of the corpus and the queried one both express."""
    expressed_ST = np.zeros((n_datasets, corpus.vocab.n_tokens), bool)
    for rows in blocks:
        block = corpus.cells(rows)
        expressed_ST[np.repeat(codes[rows], np.diff(block.indptr)), block.genes] = True
    queried_T = np.zeros(corpus.vocab.n_tokens, bool)
    queried_T[cells.genes] = True
    return expressed_ST & queried_T


def _are_whole(cells: Cells) -> NDArray[np.bool_]:
    """(B,), False for cells with counts that are no whole numbers."""
    whole_B = np.ones(len(cells.cell_ids), bool)
    if not kernels.are_counts(cells.counts):
        cell_of_count = np.repeat(np.arange(len(whole_B)), np.diff(cells.indptr))
        whole_B[cell_of_count[cells.counts != np.floor(cells.counts)]] = False
    return whole_B


def _fingerprints(
    cells: Cells, dataset_B: NDArray[np.integer[Any]], genes_ST: NDArray[np.bool_]
) -> NDArray[np.uint64]:
    """(B, K), a number for the counts in each band of the data set's genes; 0: too few of them."""
    prints_BK = np.zeros((len(cells.cell_ids), _BANDS), np.uint64)
    n_genes_BK = np.zeros(prints_BK.shape, np.int64)
    kernels.add_fingerprints(
        cells.indptr, cells.genes, cells.counts, dataset_B, genes_ST, prints_BK, n_genes_BK
    )
    prints_BK[n_genes_BK < _LEAST_GENES] = 0
    return prints_BK
