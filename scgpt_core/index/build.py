"""Building the index of a corpus: streamed, resumable, measured, sealed by a manifest.

Shapes: N cells of the reference, Q sampled cells, K neighbours, D width.
"""

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
from scgpt_core.index.embeddings import Embeddings
from scgpt_core.index.labels import write_labels
from scgpt_core.index.neighbours import (
    SCAN_CELLS,
    Neighbours,
    drop_self,
    search,
    search_exactly,
    share_found,
    write_neighbours,
)
from scgpt_core.index.reference import FILES
from scgpt_core.runs import digest, environment, sha256, whole, write_json

log = logging.getLogger(__name__)

_SCHEMA: Final = 1
_SAMPLE_NEIGHBOURS: Final = 200
"""Neighbours kept of each sampled cell: enough to find some of other data sets among them."""
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
) -> dict[str, Any]:
    """Index the embeddings of a corpus, measure the index, and return its manifest.

    Two passes over the embeddings, one chunk in memory at a time: one adds them, one searches the
    sampled cells exactly. The folder gets the index, the label store, the neighbours of the sampled
    cells, and last the manifest that names the digests of the others.

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

    Raises
    ------
    ValueError
        Where embeddings are broken or do not belong together, or recall@10 is below
        `settings.min_recall`.
    """
    folder = Path(folder)
    embeddings = Embeddings(embedding_files)
    faiss.omp_set_num_threads(threads)
    description = choose_description(settings.description, embeddings.n_cells, embeddings.width)
    plan = digest([embeddings.digest, description, settings.sample_cells, seed])
    state = None if state_folder is None else Path(state_folder) / f"{plan}.faiss"

    order_N = np.random.default_rng(seed).permutation(embeddings.n_cells)
    sample_Q = np.sort(order_N[: settings.sample_cells])
    index = _open_state(state)
    if index is None:
        index = make_index(description, embeddings.width)
        n_train = n_train_cells(index, embeddings.n_cells)
        if n_train:
            log.info("%s: training on %d of %d cells", description, n_train, embeddings.n_cells)
            # The sampled cells come last into the training set: only where it takes all cells.
            train_N = np.sort(np.roll(order_N, -len(sample_Q))[:n_train])
            train_index(index, embeddings.rows(train_N), seed=seed, threads=threads)
    del order_N
    _add(index, embeddings, state, save_seconds=save_seconds)
    set_nprobe(index, settings.nprobe)

    neighbours, measures = _measure(index, embeddings, sample_Q)
    log.info("%s", ", ".join(f"{name} {value:.4g}" for name, value in measures.items()))
    if measures["recall@10"] < settings.min_recall:
        message = (
            f"recall@10 of {description} with nprobe {settings.nprobe} is "
            f"{measures['recall@10']:.3f}, below index.min_recall {settings.min_recall}: raise "
            "index.nprobe, or choose an index.description with longer codes"
        )
        raise ValueError(message)

    with ExitStack() as stack:
        index_file, label_file, neighbour_file = (
            stack.enter_context(whole(folder / name)) for name in FILES
        )
        faiss.write_index(index, str(index_file))
        write_labels(label_file, embeddings)
        write_neighbours(neighbour_file, neighbours, sample_Q)
    manifest = {
        "schema": _SCHEMA,
        **embeddings.origin,
        "description": description,
        "metric": "inner product" if description == "Flat" else "squared distance",
        "nprobe": settings.nprobe,
        "seed": seed,
        "n_cells": embeddings.n_cells,
        "width": embeddings.width,
        "n_sampled": len(sample_Q),
        "bytes_per_cell": (folder / FILES[0]).stat().st_size / embeddings.n_cells,
        "threads": threads,
        **measures,
        "sha256": {name: sha256(folder / name) for name in FILES},
        "environment": environment(),
    }
    write_json(folder / "manifest.json", manifest)
    if state is not None:
        state.unlink(missing_ok=True)
    return manifest


def _open_state(state: Path | None) -> Any:
    if state is None or not state.exists():
        return None
    index = faiss.read_index(str(state))
    log.info("resuming: %d cells are in the index already", index.ntotal)
    return index


def _add(index: Any, embeddings: Embeddings, state: Path | None, *, save_seconds: float) -> None:
    """Add all cells that the index does not hold yet."""
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
        log.info("%d of %d cells added, %.0f s left", index.ntotal, embeddings.n_cells, left)


def _measure(
    index: Any, embeddings: Embeddings, sample_Q: NDArray[np.int64]
) -> tuple[Neighbours, dict[str, float]]:
    """Neighbours of the sampled cells, themselves left out, and how well the index finds them.

    recall@k is the share of the k nearest cells by exact search that are among the k that the
    index gives, mean over the sampled cells.
    """
    query_QD = embeddings.rows(sample_Q)
    k = min(_SAMPLE_NEIGHBOURS, embeddings.n_cells - 1)
    start = time.perf_counter()
    found = drop_self(search(index, query_QD, k + 1), sample_Q)
    milliseconds = (time.perf_counter() - start) * 1000 / len(sample_Q)
    n_exact = min(max(_RECALL_AT), k)
    exact = drop_self(search_exactly(embeddings, query_QD, n_exact + 1), sample_Q)
    recall = {
        f"recall@{at}": share_found(found.rows_QK[:, :at], exact.rows_QK[:, :at])
        for at in _RECALL_AT
    }
    return found, {**recall, "milliseconds_per_query": milliseconds}
