"""Cells that a reference is made of, or mapped onto it: of corpora, and of data sets of one's own.

A corpus may have another vocabulary than the model: its tokens are then matched by gene.

Shapes: N cells.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol

import anndata as ad
import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from scgpt_core.data.cells import Cells, cells_from_csr
from scgpt_core.data.corpus import Corpus, open_corpus
from scgpt_core.data.genes import match_genes, match_var
from scgpt_core.data.identity import cell_identity
from scgpt_core.data.shards import OBS_COLUMNS
from scgpt_core.data.vocab import Vocabulary
from scgpt_core.keys import BATCH, DATASET_ID, SOMA_JOINID, UNKNOWN
from scgpt_core.runs import digest
from scgpt_core.tasks.datasets import SOURCE_SHA256
from scgpt_core.tasks.embedding import CHUNK_CELLS


class Source(Protocol):
    """Where cells of a reference are from."""

    def read(self, rows: NDArray[np.int64]) -> Cells:
        """Give the counts of these cells, by the model's token ids; rows ascend."""

    def column(self, name: str) -> pa.DictionaryArray:
        """Values of an obs column for all cells, (N,), as codes; ValueError where there is none."""


class CorpusCells:
    """Cells of a sealed corpus.

    Parameters
    ----------
    corpus
        As `open_corpus` gives it.
    vocab
        Of the model.
    min_matched
        Share of the corpus's genes that must be in the vocabulary.

    Raises
    ------
    ValueError
        Where too few genes match.
    """

    def __init__(self, corpus: Corpus, vocab: Vocabulary, *, min_matched: float = 0) -> None:
        self._corpus = corpus
        self._ids: NDArray[np.int32] | None = None
        if corpus.vocab.digest != vocab.digest:
            match = match_genes(corpus.vocab.tokens, vocab, symbols=corpus.vocab.symbols)
            match.require(min_matched, source=f"vocabulary of corpus {corpus.folder}")
            self._ids = match.ids

    def read(self, rows: NDArray[np.int64]) -> Cells:
        """Give the counts of these cells, by the model's token ids."""
        cells = self._corpus.cells(rows)
        if self._ids is None:
            return cells
        return cells_from_csr(
            cells.indptr, cells.genes, cells.counts, token_ids=self._ids, cell_ids=cells.cell_ids
        )

    def column(self, name: str) -> pa.DictionaryArray:
        """Values of an obs column for all cells: (N,), as codes."""
        _require_column(name, OBS_COLUMNS, self._corpus.folder)
        return self._corpus.obs(name)


class DatasetCells:
    """Cells of a prepared data set, read as they are asked for.

    In the reference each of its batches is a data set, called ``NAME/BATCH`` after the file (NAME
    where it has one batch), unless its obs has a `DATASET_ID` itself: so equal batches of two
    references stay apart. A cell's `SOMA_JOINID` is that of obs, or made of the cell's name
    (`cell_identity`).

    Parameters
    ----------
    path
        h5ad of `prepare_dataset`.
    vocab
        Of the model.
    min_matched
        Share of the counts whose genes must be in the vocabulary.

    Raises
    ------
    ValueError
        Where too few genes match.
    """

    def __init__(self, path: Path, vocab: Vocabulary, *, min_matched: float = 0) -> None:
        self._path, self._adata = path, ad.read_h5ad(path, backed="r")
        match = match_var(self._adata.var, vocab)
        some_BG = csr_matrix(self._adata.X[:CHUNK_CELLS])
        match.require(min_matched, np.asarray(some_BG.sum(axis=0)).ravel(), source=str(path))
        self._ids = match.ids
        self.names: pd.Index = self._adata.obs_names
        """Names of the cells."""
        self.cell_ids = cell_identity(self._adata.obs.get(SOMA_JOINID, self.names).to_numpy())
        self._columns = _encode_obs(self._adata.obs, path.stem)

    @property
    def columns(self) -> list[str]:
        """Names of the obs columns."""
        return list(self._columns)

    @property
    def digest(self) -> str:
        """Of the source file and of which of its cells were taken."""
        return digest([self._adata.uns[SOURCE_SHA256], self.cell_ids.tolist()])

    def read(self, rows: NDArray[np.int64]) -> Cells:
        """Give the counts of these cells, by the model's token ids."""
        counts_BG = csr_matrix(self._adata.X[rows])
        return cells_from_csr(
            counts_BG.indptr,
            counts_BG.indices,
            counts_BG.data,
            token_ids=self._ids,
            cell_ids=self.cell_ids[rows],
        )

    def blocks(self) -> Iterator[Cells]:
        """Read all cells, one block after another."""
        return map(self.read, split_rows(np.arange(len(self.cell_ids))))

    def column(self, name: str) -> pa.DictionaryArray:
        """Values of an obs column for all cells: (N,), as codes."""
        _require_column(name, self.columns, self._path)
        return self._columns[name]

    def obs(self) -> pa.Table:
        """Give what the reference keeps of the cells: all obs columns."""
        return pa.table({SOMA_JOINID: self.cell_ids, **self._columns})

    def close(self) -> None:
        """Close the file."""
        self._adata.file.close()


def _require_column(name: str, columns: Sequence[str], where: Path) -> None:
    if name not in columns:
        message = f"{where} has no obs column {name!r}; it has: {', '.join(columns)}"
        raise ValueError(message)


def _encode_obs(obs: pd.DataFrame, dataset: str) -> dict[str, pa.DictionaryArray]:
    """Columns of obs as codes of texts, with the data set that each cell is of."""
    coded = {
        name: obs[name].astype("category").cat.rename_categories(str)
        for name in obs.columns
        if name != SOMA_JOINID
    }
    if BATCH in coded and DATASET_ID not in coded:
        batch = coded[BATCH].cat.remove_unused_categories()
        several = len(batch.cat.categories) > 1
        coded[BATCH] = batch.cat.rename_categories(
            lambda name: f"{dataset}/{name}" if several else dataset
        )
        coded = {DATASET_ID if name == BATCH else name: coded[name] for name in coded}
    return {name: pa.array(column) for name, column in coded.items()}


def split_rows(rows_N: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """Rows in blocks of cells that are in memory at once."""
    return np.split(rows_N, range(CHUNK_CELLS, len(rows_N), CHUNK_CELLS))


def open_source(path: str | Path, vocab: Vocabulary) -> Source:
    """Open the manifest of a sealed corpus, or the h5ad of a prepared data set."""
    path = Path(path)
    if path.suffix == ".h5ad":
        return DatasetCells(path, vocab)
    return CorpusCells(open_corpus(path.parent, verify=False), vocab)


def sample_labelled(
    sources: Sequence[Source], column: str, *, n_cells: int, seed: int
) -> tuple[Cells, NDArray[np.str_]]:
    """Draw labelled cells at random, with their labels; of the others codes alone are read.

    Parameters
    ----------
    sources
        As `open_source` gives them.
    column
        obs column of the label.
    n_cells
        How many cells, at most.
    seed
        Of the draw.
    """
    coded = [source.column(column) for source in sources]
    starts = np.cumsum([0, *(int(_known(labels).sum()) for labels in coded)])
    rng, n_labelled = np.random.default_rng(seed), int(starts[-1])
    drawn = np.sort(rng.choice(n_labelled, min(n_cells, n_labelled), replace=False, shuffle=False))
    parts, label_parts = [], []
    for source, labels, first, last in zip(sources, coded, starts[:-1], starts[1:], strict=True):
        among_known = drawn[(drawn >= first) & (drawn < last)] - first
        rows = np.flatnonzero(_known(labels))[among_known]
        parts.append(source.read(rows))
        label_parts.append(np.array(labels.take(pa.array(rows)).to_pylist(), dtype=str))
    lengths = np.concatenate([np.diff(part.indptr) for part in parts])
    cells = Cells(
        np.concatenate([[0], np.cumsum(lengths)]),
        np.concatenate([part.genes for part in parts]),
        np.concatenate([part.counts for part in parts]),
        np.concatenate([part.cell_ids for part in parts]),
    )
    return cells, np.concatenate(label_parts)


def _known(labels: pa.DictionaryArray) -> NDArray[np.bool_]:
    """Which cells have a label."""
    is_known = np.array([label != UNKNOWN for label in labels.dictionary.to_pylist()] + [False])
    codes = labels.indices.cast(pa.int32()).fill_null(len(is_known) - 1)
    return np.asarray(is_known[codes.to_numpy(zero_copy_only=False)])
