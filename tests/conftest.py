"""Real cells at their smallest, as the stages of the pipeline leave them; built once a session."""

import fcntl
import os
from collections import Counter
from pathlib import Path

import anndata as ad
import pandas as pd
import pytest
from graph import assert_ran, snakemake

from scgpt_core.config import QCSettings
from scgpt_core.data.cell_list import count_partitions
from scgpt_core.data.census import query_census
from scgpt_core.data.download import download_partition
from scgpt_core.data.local_census import build_census
from scgpt_core.data.partitions import Partition
from scgpt_core.data.qc import CleanCells
from scgpt_core.data.shards import build_shard, seal_shards
from scgpt_core.data.vocab import build_vocab

ROOT = Path(__file__).parents[1]
RESOURCES = ROOT / "resources"

# obs column of the donor, and of the expert label; cells to take.
_SOURCES = {
    "pbmc_zheng_facs": ("donor", "obs:cell_type", 100),
    "pbmc_kang_harmony2k": ("batch", "obs:cell_type_muscat", 60),
    "pbmc_citeseq_10x_400_unlabelled": ("batch", "unknown", 60),
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Start with the longest files: pytest-xdist hands out one after another."""
    slow = Counter(
        item.path
        for item in items
        if item.get_closest_marker("slow") or item.get_closest_marker("slurm")
    )
    items.sort(key=lambda item: -slow[item.path])


@pytest.fixture(scope="session")
def resources() -> Path:
    """The folder of real cells and gene sets."""
    return RESOURCES


@pytest.fixture(scope="session")
def source_table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A table of three h5ad files of real cells, beside them: 220 cells of five donors."""
    folder = tmp_path_factory.mktemp("sources")
    rows = []
    for name, (donor, cell_type, n_cells) in _SOURCES.items():
        cells = ad.read_h5ad(RESOURCES / f"cells/{name}.h5ad")
        cells[:: cells.n_obs // n_cells][:n_cells].copy().write_h5ad(folder / f"{name}.h5ad")
        rows.append(
            {
                "dataset_id": name,
                "path": f"{name}.h5ad",
                "assay": "10x 3' v2",
                "donor_id": f"obs:{donor}",
                "suspension_type": "cell",
                "tissue_general": "blood",
                "disease": "normal",
                "cell_type": cell_type,
            }
        )
    pd.DataFrame(rows).to_csv(folder / "sources.tsv", sep="\t", index=False)
    return folder / "sources.tsv"


@pytest.fixture(scope="session")
def local_census(source_table: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A local Census of 220 cells of three data sets."""
    census = tmp_path_factory.mktemp("census") / "soma"
    build_census(
        source_table,
        census,
        root=source_table.parent,
        cell_types=RESOURCES / "cell_types.tsv",
    )
    return census


@pytest.fixture(scope="session")
def cells_parquet(local_census: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All cells of the local Census, in three partitions."""
    cells = tmp_path_factory.mktemp("cells") / "cells.parquet"
    query_census(
        cells,
        census=str(local_census),
        organism="homo_sapiens",
        obs_value_filter="is_primary_data == True",
        partition_cells=80,
        attempts=1,
        tiledb={},
    )
    return cells


@pytest.fixture(scope="session")
def partitions(cells_parquet: Path) -> list[Path]:
    """Finished partitions, beside their list of cells."""
    paths = [
        cells_parquet.with_name(f"partition_{i}.h5ad")
        for i in range(count_partitions(cells_parquet))
    ]
    for number, path in enumerate(paths):
        download_partition(cells_parquet, path, partition=number, attempts=1, tiledb={})
    return paths


@pytest.fixture(scope="session")
def corpus_folder(partitions: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sealed corpus of three shards; the cells of one donor are held out. Read it only."""
    folder = tmp_path_factory.mktemp("corpus")
    vocab = build_vocab(map(Partition, partitions), folder / "vocab.json", min_cells=2)
    shards = []
    for number, path in enumerate(partitions):
        shards.append(folder / f"shard_{number}.arrow")
        build_shard(CleanCells(Partition(path), QCSettings()), vocab, shards[-1])
    seal_shards(
        shards,
        folder / "vocab.json",
        folder / "manifest.json",
        corpus="tiny",
        heldout_by="donor_id",
        heldout_share=0.2,
        seed=0,
    )
    return folder


@pytest.fixture(scope="session")
def smoke_results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a smoke run without its report; the path has a space, as some file systems do.

    The processes of pytest-xdist share one run, and so do several pytests that are told one
    SCGPT_SMOKE_RUN: who comes first makes it, the others wait.
    """
    root = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        root = root.parent
    folder = Path(os.environ.get("SCGPT_SMOKE_RUN", root / "smoke run"))
    _run_once(folder, "results", "--omit-from", "render_report")
    return folder


@pytest.fixture(scope="session")
def smoke_run(smoke_results: Path) -> Path:
    """The folder of a whole smoke run; `said.txt` in it is what Snakemake said."""
    _run_once(smoke_results, "report")
    return smoke_results


def _run_once(folder: Path, part: str, *arguments: str) -> None:
    """Run a part of the smoke graph, unless it was run; adds what Snakemake says to `said.txt`."""
    with folder.with_name(f"{folder.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        ended = folder / f"{part} ended"
        if not ended.exists():
            done = snakemake(folder, *arguments)
            assert_ran(done)
            with (folder / "said.txt").open("a") as said:
                said.write(done.stdout + done.stderr)
            ended.touch()
