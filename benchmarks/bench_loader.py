"""Cells a second: our loader, AnnLoader, and tiledbsoma_ml and scDataset where they are installed.

All read the same real cells of 1,000 to 1,500 genes, drawn again and again, from a warm page cache
in batches of 64. Ours gives tokens, binned and masked; the others give raw counts.
"""

import argparse
import logging
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable
from importlib.util import find_spec
from pathlib import Path

import anndata as ad
import numpy as np
from anndata.experimental import AnnLoader

from benchmarks.harness import RUNS, measure, report
from benchmarks.real_cells import (
    as_adata,
    build_corpus,
    masked_tokens,
    read_cells,
    resample,
    write_cells,
)
from scgpt_core.data.corpus import open_corpus
from scgpt_core.data.loader import ShardLoader
from scgpt_core.data.order import EpochOrder, shuffle_entropy

BATCH_CELLS = 64
Batches = Callable[[], Iterable[object]]


def our_batches(folder: Path, threads: int) -> Batches:
    """Give an epoch of our loader."""
    corpus = open_corpus(folder)
    settings = masked_tokens(corpus.vocab.pad_id, corpus.vocab.cls_id)
    return ShardLoader(corpus, settings, batch_cells=BATCH_CELLS, seed=0, threads=threads).batches


def ann_batches(cells: ad.AnnData) -> Batches:
    """Give batches of anndata's loader, from memory."""
    return lambda: (batch.X for batch in AnnLoader(cells, batch_size=BATCH_CELLS, shuffle=True))


def soma_batches(cells: ad.AnnData, folder: Path) -> Batches:
    """Give batches of tiledbsoma_ml, from a SOMA experiment."""
    import tiledbsoma
    import tiledbsoma.io
    from tiledbsoma_ml import ExperimentDataset, experiment_dataloader

    uri = tiledbsoma.io.from_anndata(str(folder / "soma"), cells, measurement_name="RNA")

    def batches() -> Iterable[object]:
        with tiledbsoma.Experiment.open(uri) as experiment:
            query = experiment.axis_query("RNA")
            data = ExperimentDataset(query, layer_name="data", batch_size=BATCH_CELLS)
            yield from experiment_dataloader(data)

    return batches


def block_batches(path: Path) -> Batches:
    """Give batches of scDataset, from h5ad."""
    from scdataset import BlockShuffling, scDataset
    from scdataset.transforms import adata_to_mindex

    backed = ad.read_h5ad(path, backed="r")

    def batches() -> Iterable[object]:
        data = scDataset(
            backed,
            BlockShuffling(block_size=16),
            batch_size=BATCH_CELLS,
            fetch_transform=adata_to_mindex,
        )
        return (batch["X"] for batch in data)

    return batches


def count_cells(batches: Batches) -> Callable[[], float]:
    """Run an epoch and count its cells."""
    return lambda: float(sum(_n_cells(batch) for batch in batches()))


def _n_cells(batch: object) -> int:
    counts = batch[0] if isinstance(batch, tuple) else batch
    return int(counts.shape[0])


def entropy_of_a_million() -> dict[str, float]:
    """Bits of entropy of the data sets in a batch: a million cells, data sets of 5,000 in a row."""
    order = EpochOrder(
        n_cells=1_000_000,
        seed=0,
        epoch=0,
        batch_cells=BATCH_CELLS,
        block_cells=64,
        buffer_cells=16384,
        shuffle=True,
    )
    ours, best = shuffle_entropy(order, np.arange(1_000_000) // 5000)
    return {"loader": round(ours, 3), "whole permutation": round(best, 3)}


def main() -> None:
    """Measure all that are installed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cells", type=int, default=20_480)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--runs", type=int, default=RUNS)
    options = parser.parse_args()
    warnings.filterwarnings("ignore")  # of the other loaders
    logging.disable()
    with tempfile.TemporaryDirectory(prefix="bench_loader_") as name:
        folder = Path(name)
        real = read_cells("pbmc_10x_3chem_unlabelled", min_genes=1000, max_genes=1500)
        cells = as_adata(resample(real, options.cells))
        write_cells(cells, folder / "partition_0.h5ad")
        build_corpus([folder / "partition_0.h5ad"])
        ours = count_cells(our_batches(folder, options.threads))
        others = {"AnnLoader, in memory": ann_batches(cells)}
        if find_spec("tiledbsoma_ml"):
            others["tiledbsoma_ml"] = soma_batches(cells, folder)
        if find_spec("scdataset"):
            others["scDataset, h5ad"] = block_batches(folder / "partition_0.h5ad")
        contenders = {name: count_cells(batches) for name, batches in others.items()}
        runs = measure({"ours": ours} | contenders, runs=options.runs)
        start = time.process_time()
        notes = {
            "cells": options.cells,
            "mean_genes": round(cells.X.nnz / cells.n_obs),
            "threads": options.threads,
            "cells_per_cpu_second": round(ours() / (time.process_time() - start)),
            "entropy_bits": entropy_of_a_million(),
        }
    report("loader", unit="cells/s", runs=runs, baseline="AnnLoader, in memory", notes=notes)


if __name__ == "__main__":
    main()
