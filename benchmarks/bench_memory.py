"""Peak memory of downloading, of building shards and of one epoch, by size; and bytes of a cell.

What a process has for itself is measured (RssAnon): pages of mapped shards are the system's cache,
which it takes back when it needs them. Cells are real ones, drawn again and again.
"""

import argparse
import tempfile
import threading
from collections.abc import Callable
from multiprocessing import get_context
from multiprocessing.queues import Queue
from pathlib import Path
from typing import Any

import anndata as ad
import pandas as pd
import pyarrow as pa

from benchmarks.harness import report
from benchmarks.real_cells import (
    ROOT,
    as_adata,
    build_corpus,
    masked_tokens,
    read_cells,
    resample,
    write_cells,
)
from scgpt_core.data.census import query_census
from scgpt_core.data.corpus import open_corpus
from scgpt_core.data.download import download_partition
from scgpt_core.data.loader import ShardLoader
from scgpt_core.data.local_census import build_census
from scgpt_core.data.partitions import sidecar

PARTITION_CELLS = 50_000
SOURCE = "pbmc_10x_3chem_unlabelled"


# ---------------------------------------------------------------------------------------- measure


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
    peak = peaks.get()
    print(f"{work.__name__}: {peak:.0f} MB", flush=True)  # noqa: T201
    return peak


def _watched(peaks: "Queue[float]", work: Callable[..., None], *args: Any) -> None:
    peak, done = 0.0, threading.Event()

    def watch() -> None:
        nonlocal peak
        while not done.wait(0.01):
            peak = max(peak, _private_mb())

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        work(*args)
    finally:  # else the process would wait for its watcher for ever
        done.set()
        watcher.join()
    peaks.put(peak)


def _private_mb() -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("RssAnon"))


def report_peaks(name: str, peaks: dict[int, list[float]]) -> None:
    """Print and record the peaks by number of cells, the least number first."""
    few, *_, many = peaks
    report(
        name,
        unit="MB of private memory, peak",
        runs={f"{n_cells:,} cells": figures for n_cells, figures in peaks.items()},
        ours=f"{many:,} cells",
        baseline=f"{few:,} cells",
        less_is_better=True,
    )


# ------------------------------------------------------------------------------------------- work


def make_partitions(folder: Path, n_cells: int) -> list[Path]:
    """Partitions of real cells, drawn with replacement; one is written, others are links to it."""
    paths = [folder / f"partition_{i}.h5ad" for i in range(-(-n_cells // PARTITION_CELLS))]
    real = read_cells(SOURCE, min_genes=1000, max_genes=1500)
    write_cells(as_adata(resample(real, min(PARTITION_CELLS, n_cells))), paths[0])
    for path in paths[1:]:
        path.hardlink_to(paths[0])
        sidecar(path).hardlink_to(sidecar(paths[0]))
    return paths


def run_epoch(folder: Path) -> None:
    """All batches of an epoch."""
    corpus = open_corpus(folder, verify=False)
    tokens = masked_tokens(corpus.vocab.pad_id, corpus.vocab.cls_id)
    loader = ShardLoader(corpus, tokens, batch_cells=256, seed=0, threads=2)
    n_cells = sum(len(batch.ids_BL) for batch in loader.batches())
    assert n_cells == corpus.n_cells


def measure_corpora(few: int, many: int, runs: int) -> None:
    """Peaks of building the shards of a corpus, and of an epoch over them."""
    shards: dict[int, list[float]] = {}
    epoch: dict[int, list[float]] = {}
    for n_cells in (few, many):
        with tempfile.TemporaryDirectory(prefix="bench_memory_") as folder:
            partitions = make_partitions(Path(folder), n_cells)
            shards[n_cells] = [peak_mb(build_corpus, partitions) for _ in range(runs)]
            epoch[n_cells] = [peak_mb(run_epoch, Path(folder)) for _ in range(runs)]
    report_peaks("memory_shards", shards)
    report_peaks("memory_epoch", epoch)


def measure_downloads(sizes: list[int], runs: int) -> None:
    """Peaks of downloading a partition from a local Census, by number of its cells."""
    n_real = ad.read_h5ad(ROOT / f"resources/cells/{SOURCE}.h5ad", backed="r").n_obs
    row = {
        "path": f"resources/cells/{SOURCE}.h5ad", "assay": "10x 3' v3", "donor_id": "donor",
        "suspension_type": "cell", "tissue_general": "blood", "disease": "normal",
    }  # fmt: skip
    copies = range(-(-max(sizes) // n_real))
    with tempfile.TemporaryDirectory(prefix="bench_memory_") as name:
        folder = Path(name)
        sources = pd.DataFrame([{"dataset_id": f"copy{i}", **row} for i in copies])
        sources.to_csv(folder / "sources.tsv", sep="\t", index=False)
        build_census(
            folder / "sources.tsv",
            folder / "soma",
            root=ROOT,
            cell_types=ROOT / "resources/cell_types.tsv",
        )
        peaks = {}
        for n_cells in sizes:
            cells = folder / f"cells_{n_cells}.parquet"
            query_census(
                cells,
                census=str(folder / "soma"),
                organism="homo_sapiens",
                obs_value_filter=f"soma_joinid < {n_cells}",
                partition_cells=n_cells,
                attempts=1,
                tiledb={},
            )
            peaks[n_cells] = [peak_mb(download, cells) for _ in range(runs)]
    report_peaks("memory_download", peaks)


def download(cells: Path) -> None:
    """Download the first partition."""
    output = cells.with_suffix(".h5ad")
    download_partition(cells, output, partition=0, attempts=1, tiledb={})


def measure_bytes(n_cells: int) -> None:
    """Bytes of a cell as a shard, in h5ad with gzip, and in Arrow with 32 bits a number."""
    with tempfile.TemporaryDirectory(prefix="bench_memory_") as name:
        folder = Path(name)
        (partition,) = make_partitions(folder, n_cells)
        build_corpus([partition])
        shard = partition.with_suffix(".arrow")
        gzipped = folder / "gzip.h5ad"
        ad.read_h5ad(partition).write_h5ad(gzipped, compression="gzip")
        with pa.memory_map(str(shard)) as file:
            wide = pa.ipc.open_file(file).read_all()
        for column in ("genes", "counts"):
            place = wide.column_names.index(column)
            wide = wide.set_column(place, column, wide[column].cast(pa.list_(pa.int32())))
        with pa.ipc.new_file(str(folder / "wide.arrow"), wide.schema) as writer:
            writer.write_table(wide)
        files = {"shard": shard, "h5ad, gzip": gzipped, "Arrow, int32": folder / "wide.arrow"}
        sizes = {kind: [path.stat().st_size / n_cells] for kind, path in files.items()}
    report(
        "bytes",
        unit="bytes a cell",
        runs=sizes,
        ours="shard",
        baseline="Arrow, int32",
        less_is_better=True,
        notes={"cells": n_cells},
    )


def main() -> None:
    """Measure all, or one part."""
    parts = ("bytes", "download", "corpus")
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=parts)
    parser.add_argument("--cells", type=int, nargs=2, default=(100_000, 1_000_000))
    parser.add_argument("--partition-cells", type=int, nargs="+", default=[5_000, 20_000, 50_000])
    parser.add_argument("--runs", type=int, default=1)
    options = parser.parse_args()
    chosen = [options.only] if options.only else parts
    if "bytes" in chosen:
        measure_bytes(10_000)
    if "corpus" in chosen:
        measure_corpora(*options.cells, options.runs)
    if "download" in chosen:
        measure_downloads(options.partition_cells, options.runs)


if __name__ == "__main__":
    main()
