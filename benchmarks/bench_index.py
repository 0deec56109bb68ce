"""The atlas index against the published description, on synthetic cells: `make bench-index`.

N=... sets how many cells (at least 100,000), CORES=... the threads, TRY=1 adds what else was tried
(for a million cells or so).

Cells are a mixture of low-rank Gaussians on the sphere, drawn in chunks from a seed, so that 33
million of them need no disk. All indexes are trained on and filled with the same cells, among which
the exact neighbours of some queries are found. What was built is kept under results/state, and a
later run builds only what is not there.

What was tried, on a million cells of 100 types with 1,024 lists (8 visited, 64 by the published
index), recall@10 of 500 queries and bytes a cell with 8 of id:

========================================  =====  ====
PCA64, PQ16 (published)                   0.633  25.8
OPQ32_64, PQ32x4fsr                       0.641  24.9
OPQ36_72, PQ36x4fsr                       0.658  27.0
OPQ38_76, PQ38x4fsr                       0.666  28.1
OPQ40_80, PQ40x4fsr, 512 lists            0.672  28.6
the same, 5 lists visited (ours)          0.669  28.6
OPQ42_84, PQ42x4fsr                       0.688  30.1
OPQ42_126, PQ42x4fsr                      0.658  30.4
OPQ56_112, PQ56x4fsr                      0.743  37.4
OPQ42_84, 64 found and ranked by 24 bits  0.741  33.1
OPQ42_84, 64 found and ranked by 32 bits  0.748  34.1
========================================  =====  ====

33 million cells have less to spare for centres and lists: ours takes 28 bytes there. Half the lists
halve the table that faiss makes of lists by codes, and what allocation rounds up for each list:
with 42 codes and 16,384 lists recall is .619 but 1,084 MB are resident, not 989. A second code in
the upper bits of the id would cost nothing, but faiss could not select cells by id any more.

Shapes: N cells, T types, Q queries, K neighbours, D width, L latent dimensions, R rank of a type.
"""

import logging
import multiprocessing
import os
import statistics
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import faiss
import numpy as np
import psutil
from numpy.typing import NDArray

from benchmarks.harness import measure, report
from scgpt_core.config import IndexSettings
from scgpt_core.index.build import add_cells, train_on
from scgpt_core.index.description import EXACT_BELOW, choose_description, set_nprobe
from scgpt_core.index.neighbours import search, search_exactly, share_found
from scgpt_core.runs import peak_memory_mb, start_logging, whole

N_CELLS = int(os.environ.get("N", "33_000_000"))
THREADS = int(os.environ.get("CORES", "2"))
TRY = os.environ.get("TRY", "0") == "1"
WIDTH, N_LATENT, N_TYPES, RANK, NOISE = 512, 128, 400, 24, 0.02
CHUNK = 50_000
N_QUERIES, N_EXACT, K = 10_000, 500, 10
FOLDER = Path(f"results/state/bench_index_{N_CELLS}")

log = logging.getLogger(__name__)

FloatArray = NDArray[np.float32]


class Contender(NamedTuple):
    """An index to build, and how it is searched."""

    description: str
    nprobe: int


def name_contenders() -> dict[str, Contender]:
    """Ours, the published one, and with TRY=1 what else was tried with as many lists as ours.

    The published 16,384 lists are for 33 million cells; fewer cells get fewer.
    """
    ours = choose_description("auto", max(N_CELLS, EXACT_BELOW), WIDTH)
    lists = ours.split(",")[1]
    n_lists = min(16_384, 2 ** round(np.log2(4 * np.sqrt(N_CELLS))))
    nprobe = IndexSettings().nprobe
    contenders = {
        "ours": Contender(ours, nprobe),
        "published": Contender(f"PCA64,IVF{n_lists}_HNSW32,PQ16", 64),
    }
    tried = (
        f"OPQ32_64,{lists},PQ32x4fsr",
        f"OPQ42_84,{lists},PQ42x4fsr",
        f"OPQ42_126,{lists},PQ42x4fsr",
        f"OPQ56_112,{lists},PQ56x4fsr",
        f"PCAR96,{lists},RaBitQfs",
    )
    return contenders | {text: Contender(text, nprobe) for text in tried if TRY}


@dataclass
class Mixture:
    """Cell types as low-rank Gaussians in a latent space, whose axes matter less and less."""

    seed: int = 0
    mean_TL: FloatArray = field(init=False)
    factor_TRL: FloatArray = field(init=False)
    share_T: NDArray[np.float64] = field(init=False)
    basis_LD: FloatArray = field(init=False)

    def __post_init__(self) -> None:
        rng = np.random.default_rng(self.seed)
        scale_L = np.arange(1, N_LATENT + 1) ** -0.5
        scale_L /= np.linalg.norm(scale_L)
        common_L = np.eye(N_LATENT)[0]  # as in real embeddings, no cell points the other way
        self.mean_TL = (common_L + rng.standard_normal((N_TYPES, N_LATENT)) * scale_L).astype("f4")
        scale_R = np.arange(1, RANK + 1) ** -0.5
        scale_R *= 0.6 / np.linalg.norm(scale_R)
        factor_TRL = rng.standard_normal((N_TYPES, RANK, N_LATENT)) * scale_L
        self.factor_TRL = (factor_TRL * scale_R[:, None]).astype("f4")
        self.share_T = rng.dirichlet(np.full(N_TYPES, 0.5))
        self.basis_LD = np.linalg.qr(rng.standard_normal((WIDTH, N_LATENT)))[0].T.astype("f4")

    def draw(self, chunk: int, n_cells: int) -> FloatArray:
        """Draw the latent unit vectors (N, L) of one chunk, equal on every call.

        As `basis_LD` has orthonormal rows, their cosines are those of the embeddings.
        """
        rng = np.random.default_rng([self.seed, chunk])
        z_NL = rng.standard_normal((n_cells, N_LATENT), dtype=np.float32)
        z_NL *= NOISE / np.sqrt(N_LATENT)
        weight_NR = rng.standard_normal((n_cells, RANK), dtype=np.float32)
        first = 0
        for t, n in enumerate(rng.multinomial(n_cells, self.share_T)):
            part = slice(first, first + n)
            z_NL[part] += self.mean_TL[t] + weight_NR[part] @ self.factor_TRL[t]
            first += n
        z_NL /= np.linalg.norm(z_NL, axis=1, keepdims=True)
        return z_NL

    def embed(self, z_NL: FloatArray) -> FloatArray:
        """Embeddings (N, D) of latent vectors."""
        return z_NL @ self.basis_LD


@dataclass
class Latents:
    """Latent vectors of all cells, drawn as they are asked for: what the project takes for rows."""

    mixture: Mixture
    n_cells: int = N_CELLS
    width: int = N_LATENT

    def chunks(self, cells: int, *, first: int = 0) -> Iterator[tuple[int, FloatArray]]:
        """Yield first row and rows of each chunk; every chunk has cells of all types."""
        assert first % CHUNK == 0, f"chunks begin at multiples of {CHUNK}, whatever {cells} says"
        for start in range(first, self.n_cells, CHUNK):
            yield start, self.draw(start)

    def rows(self, rows_N: NDArray[np.int64]) -> FloatArray:
        """Give these rows, which ascend."""
        chunks = np.split(rows_N, np.flatnonzero(np.diff(rows_N // CHUNK)) + 1)
        return np.concatenate([self.draw(part[0])[part % CHUNK] for part in chunks])

    def draw(self, start: int) -> FloatArray:
        """Draw the chunk that begins with this row, or has it."""
        chunk = int(start) // CHUNK
        return self.mixture.draw(chunk, min(CHUNK, self.n_cells - chunk * CHUNK))


@dataclass
class Cells(Latents):
    """Their embeddings."""

    width: int = WIDTH

    def draw(self, start: int) -> FloatArray:
        """Draw the chunk that begins with this row, or has it."""
        return self.mixture.embed(super().draw(start))


def build(description: str, cells: Mixture) -> Any:
    """Train an index on some of the cells and add all of them, as `build_index` does."""
    drawn = Cells(cells)
    index = train_on(description, drawn, np.arange(N_CELLS), seed=0, threads=THREADS)
    add_cells(index, drawn)
    return index


def file_of(description: str) -> Path:
    """Where an index is kept."""
    return FOLDER / f"{description}.faiss"


def resident_mb(path: Path, query_QD: FloatArray) -> float:
    """Memory that a process takes more once it has read an index and searched it, in MB."""
    process = psutil.Process()
    before = process.memory_info().rss
    index = faiss.read_index(str(path))
    search(index, query_QD, K)
    return float(process.memory_info().rss - before) / 1e6


def main() -> None:
    """Build what is not built yet, then measure size, memory, recall and speed."""
    start_logging()
    faiss.omp_set_num_threads(THREADS)
    cells, contenders = Mixture(), name_contenders()
    query_QL = cells.draw(2**31, N_QUERIES)  # no chunk of the cells has this number
    query_QD = cells.embed(query_QL)
    notes: dict[str, Any] = {"cells": N_CELLS, "threads": THREADS}
    exact_file = FOLDER / "exact.npy"
    if not exact_file.exists():
        # Latent vectors have the cosines of the embeddings, and a quarter of their width.
        exact_QK = search_exactly(Latents(cells), query_QL[:N_EXACT], K).rows_QK
        with whole(exact_file) as temporary:
            np.save(temporary, exact_QK)
    exact_QK = np.load(exact_file)
    indexes = {}
    for name, contender in contenders.items():
        path = file_of(contender.description)
        if not path.exists():
            with whole(path) as temporary:
                faiss.write_index(build(contender.description, cells), str(temporary))
            notes["peak MB of building"] = round(peak_memory_mb())
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            memory = pool.apply(resident_mb, (path, query_QD[:N_EXACT]))
        indexes[name] = faiss.read_index(str(path))
        set_nprobe(indexes[name], contender.nprobe)
        found_QK = search(indexes[name], query_QD[:N_EXACT], K).rows_QK
        n_bytes = path.stat().st_size
        notes[name] = {
            **contender._asdict(),
            f"recall@{K}": round(share_found(found_QK, exact_QK), 4),
            "MB on disk": round(n_bytes / 1e6, 1),
            "MB resident": round(memory, 1),
            "bytes a cell": round(n_bytes / N_CELLS, 2),
        }
        log.info("%s: %s", name, notes[name])

    def search_all(name: str) -> float:
        search(indexes[name], query_QD, K)
        return N_QUERIES

    runs = measure({name: partial(search_all, name) for name in indexes})
    for name, rates in runs.items():
        notes[name]["seconds"] = round(N_QUERIES / statistics.median(rates), 3)
    report("index", unit="queries/s", runs=runs, baseline="published", notes=notes)


if __name__ == "__main__":
    main()
