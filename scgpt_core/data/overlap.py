"""Which cells of a data set are in the corpus already: a model has seen these before it is tested.

Cells have other names in every study that uses them, but the same counts. The genes that two
studies share are dealt into bands; two cells are taken for one where they agree in all counts of at
least half of the bands. (Not of all: studies differ in a few genes, by the name of one or by the
version of an annotation.)

Shapes: B cells, K bands, N cells of the data set, T tokens, S data sets of the corpus.
"""

from typing import Any, NamedTuple

import numba
import numpy as np
from numpy.typing import NDArray

from scgpt_core.data.cells import Cells
from scgpt_core.data.corpus import Corpus
from scgpt_core.keys import DATASET_ID

_BLOCK_CELLS = 8192
_BANDS = 8
_LEAST_GENES = 8
"""Expressed genes without which a band says nothing."""


class Overlap(NamedTuple):
    """Cells that a data set shares with a corpus."""

    shared_N: NDArray[np.bool_]
    """True for the cells of the data set that the corpus has."""
    by_dataset: dict[str, int]
    """Number of shared cells by ``dataset_id`` of the corpus, where there are any."""


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
    blocks = [slice(i, i + _BLOCK_CELLS) for i in range(0, corpus.n_cells, _BLOCK_CELLS)]
    expressed_ST = np.zeros((len(names), corpus.vocab.n_tokens), bool)
    for rows in blocks:
        block = corpus.cells(rows)
        expressed_ST[np.repeat(codes[rows], np.diff(block.indptr)), block.genes] = True
    queried_T = np.zeros(corpus.vocab.n_tokens, bool)
    queried_T[cells.genes] = True
    expressed_ST &= queried_T
    prints = [_fingerprints(corpus.cells(rows), codes[rows], expressed_ST) for rows in blocks]
    prints_of_corpus = np.concatenate(prints)
    shared_N, by_dataset = np.zeros(len(cells.cell_ids), bool), {}
    for code, name in enumerate(names):
        own_NK = _fingerprints(cells, np.full(len(cells.cell_ids), code), expressed_ST)
        theirs_BK = prints_of_corpus[codes == code]
        equal_NK = [np.isin(own_NK[:, k], theirs_BK[:, k]) for k in range(_BANDS)]
        found_N = (np.stack(equal_NK, axis=1) & (own_NK != 0)).sum(axis=1) >= _BANDS / 2
        shared_N |= found_N
        if found_N.any():
            by_dataset[name] = int(found_N.sum())
    return Overlap(shared_N, by_dataset)


def _fingerprints(
    cells: Cells, dataset_B: NDArray[np.integer[Any]], genes_ST: NDArray[np.bool_]
) -> NDArray[np.uint64]:
    """(B, K), a number for the counts in each band of the data set's genes; 0: too few of them."""
    prints_BK = np.zeros((len(cells.cell_ids), _BANDS), np.uint64)
    _fill_fingerprints(cells.indptr, cells.genes, cells.counts, dataset_B, genes_ST, prints_BK)
    return prints_BK


@numba.njit(cache=True, nogil=True)
def _fill_fingerprints(
    indptr: NDArray[np.int64],
    genes: NDArray[np.int32],
    counts: NDArray[np.float32],
    dataset_B: NDArray[np.integer[Any]],
    genes_ST: NDArray[np.bool_],
    prints_BK: NDArray[np.uint64],
) -> None:
    n_genes_K = np.zeros(_BANDS, np.int64)
    for b in range(len(prints_BK)):
        n_genes_K[:] = 0
        for i in range(indptr[b], indptr[b + 1]):
            if genes_ST[dataset_B[b], genes[i]]:
                # The finaliser of SplitMix64, of gene and count; a sum does not depend on order.
                z = (np.uint64(genes[i]) << np.uint64(32)) + np.uint64(counts[i])
                z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
                z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
                prints_BK[b, genes[i] % _BANDS] += z ^ (z >> np.uint64(31))
                n_genes_K[genes[i] % _BANDS] += 1
        for k in range(_BANDS):
            if n_genes_K[k] < _LEAST_GENES:
                prints_BK[b, k] = 0
