"""Embeddings of the cells that a reference is made of: of a corpus's shards, and of data sets.

Shapes: N cells.
"""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from scgpt_core.checkpoint import Checkpoint, load_checkpoint
from scgpt_core.config import EmbedSettings
from scgpt_core.data.corpus import Corpus, open_corpus
from scgpt_core.data.shards import OBS_COLUMNS
from scgpt_core.index.embeddings import write_embeddings
from scgpt_core.index.sources import CorpusCells, DatasetCells, Source, split_rows
from scgpt_core.keys import SOMA_JOINID
from scgpt_core.runs import sha256
from scgpt_core.tasks.embedder import embed_blocks, name_precision


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
    told: dict[str, Any] = {
        "max_tokens": settings.max_tokens, "max_counts": settings.max_counts, "seed": seed,
    }  # fmt: skip
    embedded = embed_blocks(
        map(cells.read, split_rows(rows_N)),
        ckpt,
        **told,
        batch_size=settings.batch_size,
        precision=settings.precision,
        n_cells=len(rows_N),
        parts=parts,
    )
    origin = {
        "model": ckpt.digest,
        "corpus": corpus,
        "precision": name_precision(ckpt, settings.precision),
        "settings": told,
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
