"""Cells of which a reference is made: of corpora, and of data sets of one's own.

A corpus may have another vocabulary than the model: its tokens are then matched by gene.

Shapes: N cells.
"""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import anndata as ad
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from scgpt_core.checkpoint import Checkpoint, load_checkpoint
from scgpt_core.config import EmbedSettings
from scgpt_core.data.cells import Cells, cells_from_csr
from scgpt_core.data.genes import match_genes, match_var
from scgpt_core.data.identity import cell_identity
from scgpt_core.data.shards import OBS_COLUMNS, Corpus, open_corpus
from scgpt_core.data.vocab import Vocabulary
from scgpt_core.index.embeddings import write_embeddings
from scgpt_core.keys import BATCH, DATASET_ID, SOMA_JOINID, UNKNOWN
from scgpt_core.runs import digest, sha256
from scgpt_core.tasks.datasets import SOURCE_SHA256
from scgpt_core.tasks.embedder import embed_blocks
from scgpt_core.tasks.embedding import CHUNK_CELLS


class Source(Protocol):
    """Where cells of a reference are from."""

    def read(self, rows: NDArray[np.int64]) -> Cells:
        """Give the counts of these cells, by the model's token ids; rows ascend."""

    def column(self, name: str) -> NDArray[np.str_]:
        """Values of an obs column for all cells, (N,); ValueError where there is none."""


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

    def column(self, name: str) -> NDArray[np.str_]:
        """Values of an obs column for all cells: (N,)."""
        return np.array(self._corpus.obs(name).to_pylist(), dtype=str)


class DatasetCells:
    """Cells of a prepared data set, read as they are asked for.

    In the reference each of its batches is a data set (`DATASET_ID`), and a cell's `SOMA_JOINID` is
    made of its name (`cell_identity`).

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
        self._adata = ad.read_h5ad(path, backed="r")
        match = match_var(self._adata.var, vocab)
        some_BG = csr_matrix(self._adata.X[:CHUNK_CELLS])
        match.require(min_matched, np.asarray(some_BG.sum(axis=0)).ravel(), source=str(path))
        self._ids = match.ids
        self.cell_ids = cell_identity(self._adata.obs_names.to_numpy())

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

    def column(self, name: str) -> NDArray[np.str_]:
        """Values of an obs column for all cells: (N,)."""
        return np.array(self.obs()[name].to_pylist(), dtype=str)

    def obs(self) -> pa.Table:
        """Give what the reference keeps of the cells: all obs columns."""
        columns = self._adata.obs.rename(columns={BATCH: DATASET_ID}).astype(str)
        return pa.table({SOMA_JOINID: self.cell_ids, **columns})


def open_source(path: str | Path, vocab: Vocabulary) -> Source:
    """Open the manifest of a sealed corpus, or the h5ad of a prepared data set."""
    path = Path(path)
    if path.suffix == ".h5ad":
        return DatasetCells(path, vocab)
    return CorpusCells(open_corpus(path.parent, verify=False), vocab)


def embed_shard(
    shard: str | Path,
    model_folder: str | Path,
    output: str | Path,
    *,
    settings: EmbedSettings,
    seed: int,
) -> None:
    """Embed the cells of one shard of a sealed corpus.

    Parameters
    ----------
    shard
        Arrow file in a corpus folder.
    model_folder
        Any model.
    output
        File of `write_embeddings`. Finished blocks are kept beside it until it is whole.
    settings
        As for any zero-shot embedding.
    seed
        Of the genes that are sampled, and of ties.

    Raises
    ------
    ValueError
        Where the shard is not as it was sealed, or too few of its genes are in the vocabulary.
    """
    shard = Path(shard)
    corpus = open_corpus(shard.parent, verify=False)
    rows_N = _rows_of_shard(corpus, shard)
    ckpt = load_checkpoint(model_folder, settings.device)
    cells = CorpusCells(corpus, ckpt.vocab, min_matched=settings.min_matched)
    obs = pa.ipc.open_file(pa.memory_map(str(shard))).read_all().select([SOMA_JOINID, *OBS_COLUMNS])
    digest_of = corpus.manifest["digest"]
    _embed(cells, rows_N, obs, digest_of, Path(output), ckpt=ckpt, settings=settings, seed=seed)


def embed_reference(
    dataset: str | Path,
    model_folder: str | Path,
    output: str | Path,
    *,
    settings: EmbedSettings,
    seed: int,
) -> None:
    """Embed the cells of a prepared data set for a reference, as `embed_shard` those of a corpus.

    Parameters
    ----------
    dataset
        h5ad of `prepare_dataset`.
    model_folder, output, settings, seed
        As for `embed_shard`.

    Raises
    ------
    ValueError
        Where too few of its genes are in the vocabulary.
    """
    ckpt = load_checkpoint(model_folder, settings.device)
    cells = DatasetCells(Path(dataset), ckpt.vocab, min_matched=settings.min_matched)
    obs, rows_N = cells.obs(), np.arange(len(cells.cell_ids))
    _embed(cells, rows_N, obs, cells.digest, Path(output), ckpt=ckpt, settings=settings, seed=seed)


def _embed(
    cells: Source,
    rows_N: NDArray[np.int64],
    obs: pa.Table,
    corpus: str,
    output: Path,
    *,
    ckpt: Checkpoint,
    settings: EmbedSettings,
    seed: int,
) -> None:
    parts = output.with_suffix(".parts")
    embedded = embed_blocks(
        map(cells.read, np.split(rows_N, range(CHUNK_CELLS, len(rows_N), CHUNK_CELLS))),
        ckpt,
        max_tokens=settings.max_tokens,
        batch_size=settings.batch_size,
        seed=seed,
        precision=settings.precision,
        n_cells=len(rows_N),
        parts=parts,
    )
    origin = {
        "model": ckpt.digest,
        "corpus": corpus,
        "settings": {"max_tokens": settings.max_tokens, "seed": seed},
    }
    write_embeddings(output, obs, embedded, origin=origin)
    shutil.rmtree(parts, ignore_errors=True)


def _rows_of_shard(corpus: Corpus, shard: Path) -> NDArray[np.int64]:
    """Rows that the shard has in the corpus."""
    first = 0
    for sealed in corpus.manifest["shards"]:
        if sealed["file"] == shard.name:
            if sha256(shard) != sealed["sha256"]:
                break
            return np.arange(first, first + sealed["rows"])
        first += sealed["rows"]
    message = f"{shard} is not as it was when the corpus was sealed: delete it and run again"
    raise ValueError(message)


def sample_labelled(
    sources: Sequence[Source], column: str, *, n_cells: int, seed: int
) -> tuple[Cells, NDArray[np.str_]]:
    """Draw labelled cells at random, with their labels.

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
    labels = [source.column(column) for source in sources]
    label_N = np.concatenate(labels)
    drawn_N = np.random.default_rng(seed).permutation(np.flatnonzero(label_N != UNKNOWN))[:n_cells]
    drawn_N.sort()
    starts = np.cumsum([0, *map(len, labels)])
    parts = [
        source.read(drawn_N[(drawn_N >= first) & (drawn_N < last)] - first)
        for source, first, last in zip(sources, starts[:-1], starts[1:], strict=True)
    ]
    lengths = np.concatenate([np.diff(part.indptr) for part in parts])
    cells = Cells(
        np.concatenate([[0], np.cumsum(lengths)]),
        np.concatenate([part.genes for part in parts]),
        np.concatenate([part.counts for part in parts]),
        np.concatenate([part.cell_ids for part in parts]),
    )
    return cells, label_N[drawn_N]
