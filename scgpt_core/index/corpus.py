"""Cells of corpora for a reference: embedded shard by shard, and counts for the baselines.

A corpus may have another vocabulary than the model: its tokens are then matched by gene.
"""

import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from scgpt_core.checkpoint import load_checkpoint
from scgpt_core.config import EmbedSettings
from scgpt_core.data.cells import Cells, cells_from_csr
from scgpt_core.data.genes import match_genes
from scgpt_core.data.shards import OBS_COLUMNS, Corpus, open_corpus
from scgpt_core.data.vocab import Vocabulary
from scgpt_core.index.embeddings import write_embeddings
from scgpt_core.keys import SOMA_JOINID, UNKNOWN
from scgpt_core.runs import sha256
from scgpt_core.tasks.embedder import embed_blocks
from scgpt_core.tasks.embedding import CHUNK_CELLS


class CellReader:
    """Reads cells of a corpus by the token ids of a vocabulary.

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
        """Cells of these rows."""
        cells = self._corpus.cells(rows)
        if self._ids is None:
            return cells
        return cells_from_csr(
            cells.indptr, cells.genes, cells.counts, token_ids=self._ids, cell_ids=cells.cell_ids
        )


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
    shard, parts = Path(shard), Path(output).with_suffix(".parts")
    corpus = open_corpus(shard.parent, verify=False)
    ckpt = load_checkpoint(model_folder, settings.device)
    rows_N = _rows_of_shard(corpus, shard)
    cells = CellReader(corpus, ckpt.vocab, min_matched=settings.min_matched)
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
    obs = pa.ipc.open_file(pa.memory_map(str(shard))).read_all()
    origin = {
        "model": ckpt.digest,
        "corpus": corpus.manifest["digest"],
        "settings": {"max_tokens": settings.max_tokens, "seed": seed},
    }
    write_embeddings(output, obs.select([SOMA_JOINID, *OBS_COLUMNS]), embedded, origin=origin)
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
    corpora: Sequence[Corpus], vocab: Vocabulary, column: str, *, n_cells: int, seed: int
) -> tuple[Cells, NDArray[np.str_]]:
    """Draw labelled cells of corpora at random, with their labels.

    Parameters
    ----------
    corpora
        As `open_corpus` gives them.
    vocab
        Whose token ids the cells get.
    column
        obs column of the label.
    n_cells
        How many cells, at most.
    seed
        Of the draw.
    """
    labels = [np.array(corpus.obs(column).to_pylist(), dtype=str) for corpus in corpora]
    label_N = np.concatenate(labels)
    drawn_N = np.random.default_rng(seed).permutation(np.flatnonzero(label_N != UNKNOWN))[:n_cells]
    drawn_N.sort()
    starts = np.cumsum([0, *map(len, labels)])
    parts = [
        CellReader(corpus, vocab).read(drawn_N[(drawn_N >= first) & (drawn_N < last)] - first)
        for corpus, first, last in zip(corpora, starts[:-1], starts[1:], strict=True)
    ]
    lengths = np.concatenate([np.diff(part.indptr) for part in parts])
    cells = Cells(
        np.concatenate([[0], np.cumsum(lengths)]),
        np.concatenate([part.genes for part in parts]),
        np.concatenate([part.counts for part in parts]),
        np.concatenate([part.cell_ids for part in parts]),
    )
    return cells, label_N[drawn_N]
