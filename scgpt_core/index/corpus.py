"""Embeddings of a corpus: one file a shard, made by jobs that know nothing of each other."""

import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa

from scgpt_core.checkpoint import load_checkpoint
from scgpt_core.config import EmbedSettings
from scgpt_core.data.shards import OBS_COLUMNS, open_corpus
from scgpt_core.index.embeddings import write_embeddings
from scgpt_core.keys import SOMA_JOINID
from scgpt_core.runs import sha256
from scgpt_core.tasks.embedder import embed_blocks
from scgpt_core.tasks.embedding import CHUNK_CELLS


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
        A model of the corpus's vocabulary.
    output
        File of `write_embeddings`. Finished blocks are kept beside it until it is whole.
    settings
        As for any zero-shot embedding.
    seed
        Of the genes that are sampled, and of ties.

    Raises
    ------
    ValueError
        Where the shard is not as it was sealed, or the model has another vocabulary.
    """
    shard, parts = Path(shard), Path(output).with_suffix(".parts")
    corpus = open_corpus(shard.parent, verify=False)
    ckpt = load_checkpoint(model_folder, settings.device)
    if ckpt.vocab.digest != corpus.vocab.digest:
        message = f"model {model_folder} has another vocabulary than corpus {shard.parent}"
        raise ValueError(message)
    names = [entry["file"] for entry in corpus.manifest["shards"]]
    sealed = corpus.manifest["shards"][names.index(shard.name)]
    if sha256(shard) != sealed["sha256"]:
        message = f"{shard} is not as it was sealed: delete it and run again"
        raise ValueError(message)

    before = sum(entry["rows"] for entry in corpus.manifest["shards"][: names.index(shard.name)])
    rows = range(before, before + sealed["rows"])
    obs = pa.ipc.open_file(pa.memory_map(str(shard))).read_all().select([SOMA_JOINID, *OBS_COLUMNS])
    embedded = embed_blocks(
        (
            corpus.cells(np.array(rows[first : first + CHUNK_CELLS]))
            for first in range(0, len(rows), CHUNK_CELLS)
        ),
        ckpt,
        max_tokens=settings.max_tokens,
        batch_size=settings.batch_size,
        seed=seed,
        precision=settings.precision,
        n_cells=len(rows),
        parts=parts,
    )
    origin = {
        "model": ckpt.digest,
        "corpus": corpus.manifest["digest"],
        "settings": {"max_tokens": settings.max_tokens, "seed": seed},
    }
    write_embeddings(output, obs, embedded, origin=origin)
    shutil.rmtree(parts, ignore_errors=True)
