"""Memory of building shards and of one epoch, at two sizes of the corpus; and bytes of a cell.

What a process has for itself is measured (RssAnon): pages of mapped shards are the system's cache,
which it takes back when it needs them. Cells are real ones, drawn again and again.
"""

import argparse
import shutil
import tempfile
import threading
from collections.abc import Callable, Sequence
from multiprocessing import get_context
from multiprocessing.queues import Queue
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
from scipy.sparse import csr_matrix

from benchmarks.harness import report
from benchmarks.real_cells import ROOT
from scgpt_core.config import QCSettings
from scgpt_core.data.collate import TokenSettings
from scgpt_core.data.loader import ShardLoader
from scgpt_core.data.partitions import Partition, write_partition
from scgpt_core.data.qc import CleanCells
from scgpt_core.data.shards import OBS_COLUMNS, build_shard, open_corpus, seal_shards
from scgpt_core.data.vocab import Vocabulary, build_vocab
from scgpt_core.keys import FEATURE_ID, FEATURE_LENGTH, FEATURE_NAME, IS_PRIMARY_DATA, SOMA_JOINID

PARTITION_CELLS = 50_000
BLOCK_CELLS = 5_000
CELLS = ROOT / "resources/cells/pbmc_10x_3chem_unlabelled.h5ad"


def make_partitions(folder: Path, n_cells: int) -> list[Path]:
    """Partitions of real cells, drawn with replacement."""
    real = ad.read_h5ad(CELLS)
    ids = real.var["feature_id"].astype(str)
    known = ((ids != "") & ~ids.duplicated()).to_numpy()
    counts = csr_matrix(real.X, dtype=np.float32)[:, known]
    genes = pd.DataFrame(
        {
            FEATURE_ID: ids[known].to_numpy(),
            FEATURE_NAME: real.var_names[known],
            FEATURE_LENGTH: 1000,
        }
    )
    rng = np.random.default_rng(0)
    paths = []
    for first in range(0, n_cells, PARTITION_CELLS):
        joinids = np.arange(first, min(first + PARTITION_CELLS, n_cells))
        obs = pd.DataFrame(dict.fromkeys(OBS_COLUMNS, "x"), index=joinids.astype(str))
        obs = obs.assign(**{SOMA_JOINID: joinids, IS_PRIMARY_DATA: True})
        paths.append(folder / f"partition_{len(paths)}.h5ad")
        with write_partition(paths[-1], obs, genes, {}) as writer:
            for _ in range(0, len(obs), BLOCK_CELLS):
                writer.append(counts[rng.integers(0, counts.shape[0], BLOCK_CELLS)])
    build_vocab(map(Partition, paths[:1]), folder / "vocab.json", min_cells=1)
    return paths


def build_shards(partitions: Sequence[Path]) -> None:
    """All shards of a corpus in one process."""
    folder = partitions[0].parent
    vocab = Vocabulary.load(folder / "vocab.json")
    shards = [path.with_name(f"{path.stem}.arrow") for path in partitions]
    for path, shard in zip(partitions, shards, strict=True):
        build_shard(CleanCells(Partition(path), QCSettings()), vocab, shard)
    seal_shards(
        shards,
        folder / "vocab.json",
        folder / "manifest.json",
        corpus="bench",
        heldout_by="donor_id",
        heldout_share=0,
        seed=0,
    )


def run_epoch(folder: Path) -> None:
    """All batches of an epoch."""
    corpus = open_corpus(folder, verify=False)
    tokens = TokenSettings(
        max_tokens=1200,
        n_bins=51,
        pad_id=corpus.vocab.pad_id,
        cls_id=corpus.vocab.cls_id,
        cls_value=-2,
        pad_value=-2,
        mask_value=-1,
        mask_share=0.4,
    )
    loader = ShardLoader(corpus, tokens, batch_cells=256, seed=0, threads=2)
    n_cells = sum(len(batch.ids_BL) for batch in loader.batches())
    assert n_cells == corpus.n_cells


def peak_mb(work: Callable[..., None], *args: Any) -> float:
    """Greatest private memory of a new process that does the work, in MB."""
    context = get_context("spawn")
    peaks: Queue[float] = context.Queue()
    process = context.Process(target=_watched, args=(peaks, work, *args))
    process.start()
    process.join()
    if process.exitcode:
        message = f"{work.__name__} failed with {process.exitcode}"
        raise RuntimeError(message)
    return peaks.get()


def _watched(peaks: "Queue[float]", work: Callable[..., None], *args: Any) -> None:
    peak, done = 0.0, threading.Event()

    def watch() -> None:
        nonlocal peak
        while not done.wait(0.01):
            peak = max(peak, _private_mb())

    watcher = threading.Thread(target=watch)
    watcher.start()
    work(*args)
    done.set()
    watcher.join()
    peaks.put(peak)


def _private_mb() -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("RssAnon"))


def bytes_of_a_cell(partition: Path) -> dict[str, float]:
    """Bytes of a cell as a shard, as h5ad with gzip, and as Arrow of 32 bits a number."""
    cells = ad.read_h5ad(partition)
    gzipped = partition.with_name("gzipped.h5ad")
    cells.write_h5ad(gzipped, compression="gzip")
    sizes = {
        "shard": partition.with_suffix(".arrow").stat().st_size,
        "h5ad, gzip": gzipped.stat().st_size,
        "Arrow, int32": cells.X.nnz * 8 + cells.n_obs * 8,
    }
    return {name: round(size / cells.n_obs) for name, size in sizes.items()}


def main() -> None:
    """Measure at both sizes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cells", type=int, nargs=2, default=(100_000, 1_000_000))
    few, many = parser.parse_args().cells
    peaks: dict[str, float] = {}
    sizes: dict[str, float] = {}
    for n_cells in (few, many):
        folder = Path(tempfile.mkdtemp(prefix="bench_memory_"))
        try:
            partitions = make_partitions(folder, n_cells)
            peaks[f"shards, {n_cells:,} cells"] = peak_mb(build_shards, partitions)
            sizes = sizes or bytes_of_a_cell(partitions[0])
            peaks[f"epoch, {n_cells:,} cells"] = peak_mb(run_epoch, folder)
        finally:
            shutil.rmtree(folder)
    for what in ("shards", "epoch"):
        # Cells are no rate here: a figure is 1 over the peak, so that bigger is better.
        runs = {f"{n:,} cells": [1000 / peaks[f"{what}, {n:,} cells"]] for n in (many, few)}
        notes = {"peak_mb": {k: round(v) for k, v in peaks.items()}, "bytes_of_a_cell": sizes}
        report(
            f"memory_{what}",
            unit="1 / GB of private memory",
            runs=runs,
            ours=f"{many:,} cells",
            baseline=f"{few:,} cells",
            notes=notes,
        )


if __name__ == "__main__":
    main()
