"""Building the index of a corpus: streamed, resumable, measured, sealed by a manifest.

Shapes: N cells of the reference, Q sampled cells, K neighbours, D width.
"""

import hashlib
import logging
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

import faiss
import numpy as np
from numpy.typing import NDArray

from scgpt_core.config import IndexSettings
from scgpt_core.index.description import (
    choose_description,
    make_index,
    n_train_cells,
    set_nprobe,
    train_index,
)
from scgpt_core.index.embeddings import Embeddings, Rows
from scgpt_core.index.labels import write_labels
from scgpt_core.index.merge import empty_like, merge_references
from scgpt_core.index.neighbours import (
    SCAN_CELLS,
    drop_self,
    search,
    search_exactly,
    share_found,
)
from scgpt_core.index.reference import FILES, SCHEMA, read_manifest
from scgpt_core.index.sample import Sample, write_sample
from scgpt_core.runs import digest, environment, sha256, whole, write_json

logger = logging.getLogger(__name__)

_RECALL_AT: Final = (1, 10, 50)


def build_index(
    embedding_files: Sequence[str | Path],
    folder: str | Path,
    *,
    settings: IndexSettings,
    seed: int = 0,
    threads: int = 1,
    state_folder: str | Path | None = None,
    save_seconds: float = 600,
    indexed: Sequence[str | Path] = (),
    like: str | Path | None = None,
) -> dict[str, Any]:
    """Index the embeddings of a corpus, measure the index, and return its manifest.

    Two passes over the embeddings, one chunk in memory at a time: one adds them, one searches the
    sampled cells exactly. The folder gets the index, the label store, the sampled cells,
    and last the manifest that names the digests of the others.

    Parameters
    ----------
    embedding_files
        Files of `write_embeddings`; their order is the order of the cells.
    folder
        Where the index goes.
    settings
        Description and measures; `mapping` is not used.
    seed
        Of the sampled cells, the training cells and the lists.
    threads
        Of faiss.
    state_folder
        Where unfinished work is kept, for a later run to resume; removed at the end.
    save_seconds
        Seconds between two states.
    indexed
        References whose cells are the first ones, in this order: their indexes are merged, cells
        after them are added, and nothing is trained. Several must have the same lists and codes.
    like
        Reference whose lists and codes are taken instead of trained, so that both can be merged.

    Raises
    ------
    ValueError
        Where embeddings are broken or do not belong together, recall@10 is below
        `settings.min_recall`, or indexed cells are other ones or cannot be merged.
    """
    folder = Path(folder)
    embeddings = Embeddings(embedding_files)
    faiss.omp_set_num_threads(threads)
    bases = [Path(base) for base in [*indexed, *([like] if like else [])]]
    manifests = [read_manifest(base) for base in bases]
    description = (
        manifests[0]["description"]
        if manifests
        else choose_description(settings.description, embeddings.n_cells, embeddings.width)
    )
    plan = digest([embeddings.digest, description, settings.sample_cells, seed, manifests])
    state = None if state_folder is None else Path(state_folder) / f"{plan}.faiss"

    sample, queries, train_N = _draw(embeddings, settings, seed)
    index = _open_state(state)
    if index is None and bases:
        index = (
            merge_references(indexed, embeddings) if indexed else empty_like(bases[0], embeddings)
        )
    elif index is None:
        index = train_on(description, embeddings, train_N, seed=seed, threads=threads)
    add_cells(index, embeddings, state, save_seconds=save_seconds)
    set_nprobe(index, settings.nprobe)

    measures = _measure(index, embeddings, queries)
    logger.info("%s", ", ".join(f"{name} {value:.4g}" for name, value in measures.items()))
    _require_recall(measures["recall@10"], description, settings)
    _write(folder, index, embeddings, sample)
    manifest = {
        **_describe(folder, index, embeddings),
        "description": description,
        "nprobe": settings.nprobe,
        "seed": seed,
        "sample_cells": len(sample.rows_S),
        "recall_queries": len(queries.rows_S),
        "threads": threads,
        **measures,
    }
    write_json(folder / "manifest.json", manifest)
    if state is not None:
        state.unlink(missing_ok=True)
    return manifest


def _require_recall(recall: float, description: str, settings: IndexSettings) -> None:
    if recall < settings.min_recall:
        message = (
            f"recall@10 of {description} with nprobe {settings.nprobe} is {recall:.3f}, below "
            f"index.min_recall {settings.min_recall}: raise index.nprobe, or choose an "
            "index.description with longer codes"
        )
        raise ValueError(message)


def train_on(
    description: str, embeddings: Rows, order_N: NDArray[np.int64], *, seed: int, threads: int
) -> Any:
    """Make an empty index, trained on the first rows of an order.

    Parameters
    ----------
    description
        As `choose_description` gives it.
    embeddings
        Of all cells.
    order_N
        (N,), rows; of the first ones, as many as the index asks for are trained on.
    seed, threads
        As in `build_index`.
    """
    index = make_index(description, embeddings.width)
    rows_N = np.sort(order_N[: n_train_cells(index, embeddings.n_cells)])
    if len(rows_N):
        logger.info("%s: training on %d cells of %d", description, len(rows_N), embeddings.n_cells)
        train_index(index, embeddings.rows(rows_N), seed=seed, threads=threads)
    return index


def _describe(folder: Path, index: Any, embeddings: Embeddings) -> dict[str, Any]:
    """Describe written files and what they are made of; takes the cells out of the index."""
    return {
        "schema": SCHEMA,
        **embeddings.origin,
        "n_cells": embeddings.n_cells,
        "width": embeddings.width,
        "bytes_per_cell": (folder / FILES[0]).stat().st_size / embeddings.n_cells,
        "sha256": {name: sha256(folder / name) for name in FILES},
        "trained": _trained(index),
        "environment": environment(),
    }


def _trained(index: Any) -> str:
    """Digest of lists and codes, equal where indexes can be merged; takes the cells out."""
    index.reset()
    set_nprobe(index, 1)
    return hashlib.sha256(faiss.serialize_index(index)).hexdigest()


def _draw(
    embeddings: Embeddings, settings: IndexSettings, seed: int
) -> tuple[Sample, Sample, NDArray[np.int64]]:
    """Draw the sample, those of it that measure recall, and the order in which rows train."""
    order_N = np.random.default_rng(seed).permutation(embeddings.n_cells)
    sample_N = order_N[: settings.sample_cells]
    rows_S, queries_S = np.sort(sample_N), np.sort(sample_N[: settings.recall_queries])
    sample = Sample(rows_S, embeddings.rows(rows_S))
    queries = Sample(queries_S, sample.emb_SD[np.searchsorted(rows_S, queries_S)])
    # What is measured on comes last: it is trained on only where the index takes all cells.
    return sample, queries, np.roll(order_N, -len(rows_S))


def _write(folder: Path, index: Any, embeddings: Embeddings, sample: Sample) -> None:
    with ExitStack() as stack:
        index_file, label_file, sample_file = (
            stack.enter_context(whole(folder / name)) for name in FILES
        )
        faiss.write_index(index, str(index_file))
        write_labels(label_file, embeddings)
        write_sample(sample_file, sample)


def _open_state(state: Path | None) -> Any:
    if state is None or not state.exists():
        return None
    index = faiss.read_index(str(state))
    logger.info("resuming: %d cells are in the index already", index.ntotal)
    return index


def add_cells(
    index: Any, embeddings: Rows, state: Path | None = None, *, save_seconds: float = 600
) -> None:
    """Add all cells that an index does not hold yet.

    Parameters
    ----------
    index
        Trained.
    embeddings
        Of all cells, those that it holds first.
    state
        File in which it is kept meanwhile; none where left out.
    save_seconds
        Seconds between two states.
    """
    start = saved = time.monotonic()
    had = index.ntotal
    for first, emb_BD in embeddings.chunks(SCAN_CELLS, first=had):
        assert first == index.ntotal, f"chunk from {first} on, but {index.ntotal} cells are in"
        index.add(emb_BD)
        now = time.monotonic()
        if state is not None and now - saved >= save_seconds:
            with whole(state) as temporary:
                faiss.write_index(index, str(temporary))
            saved = now
        left = (embeddings.n_cells - index.ntotal) * (now - start) / (index.ntotal - had)
        logger.info("%d of %d cells added, %.0f s left", index.ntotal, embeddings.n_cells, left)


def _measure(index: Any, embeddings: Embeddings, queries: Sample) -> dict[str, float]:
    """Recall and time of searching some reference cells, themselves left out.

    recall@k is the share of the k nearest cells by exact search that are among the k that the
    index gives, mean over the queries.
    """
    k = min(max(_RECALL_AT), embeddings.n_cells - 1)
    exact = drop_self(search_exactly(embeddings, queries.emb_SD, k + 1), queries.rows_S)
    start = time.perf_counter()
    found = drop_self(search(index, queries.emb_SD, k + 1), queries.rows_S)
    milliseconds = (time.perf_counter() - start) * 1000 / len(queries.rows_S)
    recall = {
        f"recall@{at}": share_found(found.rows_QK[:, :at], exact.rows_QK[:, :at])
        for at in _RECALL_AT
    }
    return {**recall, "milliseconds_per_query": milliseconds}
