import hashlib
import logging
import os
import re
import signal
import subprocess
import sys
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import anndata as ad
import cellxgene_census
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from s3_server import CensusServer, serve
from scipy.sparse import csc_matrix, csr_matrix, vstack

from scgpt_core.config import SourceRow
from scgpt_core.data import census as census_module
from scgpt_core.data import census_sources
from scgpt_core.data.cell_list import count_partitions, read_origin
from scgpt_core.data.census import query_census
from scgpt_core.data.census_sources import read_source
from scgpt_core.data.download import download_partition
from scgpt_core.data.genes import all_genes, match_var
from scgpt_core.data.local_census import build_census
from scgpt_core.data.partitions import Partition, sidecar
from scgpt_core.data.vocab import Vocabulary
from scgpt_core.keys import SPECIAL_TOKENS

# cellxgene_census.get_anndata gives anndata integers as names.
pytestmark = pytest.mark.filterwarnings("ignore:Transforming to str index")
ALL = "is_primary_data == True"


def query(output: Path, census: object, obs_value_filter: str = ALL, **changed) -> Path:
    settings = {"organism": "homo_sapiens", "partition_cells": 80, "attempts": 1, "tiledb": {}}
    query_census(
        output, census=str(census), obs_value_filter=obs_value_filter, **{**settings, **changed}
    )
    return output


# ----------------------------------------------------------------------------------- local census


def test_a_local_census_is_read_as_the_hosted_one(local_census: Path, source_table: Path) -> None:
    with cellxgene_census.open_soma(uri=str(local_census)) as census:
        cells = cellxgene_census.get_anndata(
            census, "Homo sapiens", obs_value_filter="dataset_id == 'pbmc_zheng_facs'"
        )
        datasets = census["census_info"]["datasets"].read().concat().to_pandas()
        presence = cellxgene_census.get_presence_matrix(census, "Homo sapiens")
    source = ad.read_h5ad(source_table.parent / "pbmc_zheng_facs.h5ad")
    vocab = Vocabulary([*SPECIAL_TOKENS, *cells.var["feature_id"]])
    match = match_var(source.var, vocab)
    expected = np.zeros(cells.shape)
    expected[:, match.ids[match.matched] - len(SPECIAL_TOKENS)] = source.X.toarray()[
        :, match.matched
    ]
    np.testing.assert_array_equal(cells.X.toarray(), expected)
    np.testing.assert_array_equal(cells.obs["raw_sum"], expected.sum(axis=1))
    np.testing.assert_array_equal(cells.obs["nnz"], (expected > 0).sum(axis=1))
    assert (cells.var["feature_length"] > 0).all()
    assert datasets["dataset_total_cell_count"].tolist() == [100, 60, 60]
    assert presence[0].sum() == match.matched.sum()


def test_genes_that_nobody_knows_are_listed(local_census: Path, source_table: Path) -> None:
    with cellxgene_census.open_soma(uri=str(local_census)) as census:
        listed = census["census_info"]["unmatched_genes"].read().concat().to_pandas()
    for path in sorted(source_table.parent.glob("*.h5ad")):
        match = match_var(ad.read_h5ad(path).var, all_genes())
        unmatched = np.array(match.names)[~match.matched]
        assert listed["name"][listed["dataset_id"] == path.stem].tolist() == unmatched.tolist()
    assert set(listed["how"]) <= {"ambiguous", "duplicate", "unknown"}


def test_authors_labels_get_the_common_name(local_census: Path) -> None:
    with cellxgene_census.open_soma(uri=str(local_census)) as census:
        obs = census["census_data"]["homo_sapiens"].obs.read().concat().to_pandas()
    names = obs.groupby("dataset_id", observed=True)["cell_type"].unique().map(set)
    assert "CD4-positive, alpha-beta T cell" in names["pbmc_zheng_facs"]
    assert names["pbmc_citeseq_10x_400_unlabelled"] == {"unknown"}
    ids = obs.groupby("cell_type", observed=True)["cell_type_ontology_term_id"].unique().map(list)
    assert ids["B cell"] == ["CL:0000236"]


def test_other_names_of_cell_types_are_another_census(
    source_table: Path, resources: Path, tmp_path: Path
) -> None:
    """Partitions and shards, which have these names, are made anew by the release's name."""
    table = tmp_path / "one.tsv"
    pd.read_csv(source_table, sep="\t").head(1).to_csv(table, sep="\t", index=False)
    edited = tmp_path / "cell_types.tsv"
    edited.write_text((resources / "cell_types.tsv").read_text().replace("B cell", "B lymphocyte"))
    digests = []
    for number, names in enumerate((resources / "cell_types.tsv", edited)):
        census = tmp_path / f"{number}_soma"
        build_census(table, census, root=source_table.parent, cell_types=names)
        cells = pq.read_schema(query(tmp_path / f"{number}.parquet", census)).metadata
        digests.append(cells[b"release"])
    assert digests[0] != digests[1]


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("donor_id", "obs:nobody", r"facs\.h5ad: obs has no column 'nobody'; it has: cell_type,"),
        ("layer", "counts", r"facs\.h5ad: there is no layer 'counts'; there are: none"),
        ("layer", "raw", r"facs\.h5ad: there is no layer 'raw'; there are: none"),
        ("cells", "celltype == 'B'", r"facs\.h5ad: cells .* does not work: name 'celltype' is not"),
        ("cells", "cell_type == 'B'", r"facs\.h5ad: cells .* keeps none of 100 cells: widen it"),
        ("primary", "cell_type ==", r"facs\.h5ad: primary 'cell_type ==' does not work"),
        ("cells", "cell_type", r"facs\.h5ad: cells 'cell_type' .* not say true or false of each"),
        ("cells", "new = cell_type", r"facs\.h5ad: cells .* does not say true or false of each"),
        ("path", "nowhere.h5ad", r"nowhere\.h5ad does not exist"),
        ("path", "sources.tsv", r"sources\.tsv is not a whole h5ad file"),
    ],
)
def test_a_mistake_in_the_table_is_named(
    column: str, value: str, message: str, source_table: Path, resources: Path, tmp_path: Path
) -> None:
    table = pd.read_csv(source_table, sep="\t").head(1)
    table.assign(**{column: value}).to_csv(tmp_path / "t.tsv", sep="\t", index=False)
    with pytest.raises(ValueError, match=message):
        build_census(
            tmp_path / "t.tsv",
            tmp_path / "soma",
            root=source_table.parent,
            cell_types=resources / "cell_types.tsv",
        )
    assert not (tmp_path / "soma").exists()


def test_a_fault_is_told_by_its_row_in_the_file_where_few_cells_are_taken(
    source_table: Path, resources: Path, tmp_path: Path
) -> None:
    cells = ad.read_h5ad(source_table.parent / "pbmc_zheng_facs.h5ad")[:20].copy()
    cells.obs["cell_type"] = ["T", *["B"] * 7, "T", *["B"] * 8, "T", "B", "B"]
    cells.X = cells.X.astype(np.float32)
    cells.X.data[cells.X.indptr[17]] = 0.5
    cells.write_h5ad(tmp_path / "mine.h5ad")
    row = pd.read_csv(source_table, sep="\t").head(1)
    row = row.assign(path="mine.h5ad", cells='cell_type == "T"')
    row.to_csv(tmp_path / "x.tsv", sep="\t", index=False)
    with pytest.raises(ValueError, match=r"mine\.h5ad, rows 17: values that are not whole"):
        build_census(
            tmp_path / "x.tsv",
            tmp_path / "soma",
            root=tmp_path,
            cell_types=resources / "cell_types.tsv",
        )


def test_own_cells_come_from_a_layer_and_counts_are_checked(
    source_table: Path, resources: Path, tmp_path: Path
) -> None:
    cells = ad.read_h5ad(source_table.parent / "pbmc_zheng_facs.h5ad")[:20].copy()
    cells.layers["counts"] = cells.X.copy()
    cells.X = cells.X / 2
    cells.write_h5ad(tmp_path / "mine.h5ad")
    row = pd.read_csv(source_table, sep="\t").head(1).assign(path="mine.h5ad", dataset_id="mine")
    settings = {"root": tmp_path, "cell_types": resources / "cell_types.tsv"}
    row.to_csv(tmp_path / "x.tsv", sep="\t", index=False)
    with pytest.raises(ValueError, match=r"mine\.h5ad, rows .* values that are not whole numbers"):
        build_census(tmp_path / "x.tsv", tmp_path / "soma", **settings)
    query_rows = row.assign(layer="counts", cells='cell_type == "CD34+"')
    query_rows.to_csv(tmp_path / "layer.tsv", sep="\t", index=False)
    build_census(tmp_path / "layer.tsv", tmp_path / "soma", **settings)
    found = pq.read_table(query(tmp_path / "cells.parquet", tmp_path / "soma")).to_pandas()
    assert len(found) == (cells.obs["cell_type"] == "CD34+").sum()
    assert set(found["cell_type"]) == {"hematopoietic precursor cell"}


@pytest.mark.parametrize("layer", [None, "raw", "counts"])
@pytest.mark.parametrize("stored", [csr_matrix, csc_matrix, np.asarray])
def test_counts_are_read_block_by_block_however_they_are_stored(
    layer: str | None,
    stored: Callable[..., Any],
    source_table: Path,
    resources: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(census_sources, "_BLOCK_CELLS", 7)
    cells = ad.read_h5ad(source_table.parent / "pbmc_zheng_facs.h5ad")
    counts = cells.X.toarray()
    cells.X = stored(counts if layer is None else counts / 2)
    cells.layers["counts"] = stored(counts)
    cells.raw = ad.AnnData(stored(counts), obs=cells.obs, var=cells.var)
    cells.write_h5ad(tmp_path / "mine.h5ad")
    row = pd.read_csv(source_table, sep="\t").iloc[0].dropna()
    kept = "cell_type != 'CD34+'"
    row = SourceRow.model_validate({**row, "cells": kept, **({"layer": layer} if layer else {})})
    source = read_source(row, tmp_path / "mine.h5ad", cell_types=resources / "cell_types.tsv")
    blocks = list(source.blocks())
    assert {block.shape[0] for block in blocks[:-1]} == {7}
    expected = counts[(cells.obs["cell_type"] != "CD34+").to_numpy()]
    np.testing.assert_array_equal(np.concatenate([block.toarray() for block in blocks]), expected)


def test_a_layer_is_not_read_whole(source_table: Path, resources: Path, tmp_path: Path) -> None:
    cells = ad.read_h5ad(source_table.parent / "pbmc_zheng_facs.h5ad")
    many = ad.AnnData(
        obs=pd.concat([cells.obs] * 400, ignore_index=True).rename(index=str), var=cells.var
    )
    many.layers["counts"] = vstack([csr_matrix(cells.X, dtype=np.float32)] * 400, format="csr")
    many.write_h5ad(tmp_path / "mine.h5ad")
    row = pd.read_csv(source_table, sep="\t").iloc[0].dropna()
    row = SourceRow.model_validate({**row, "layer": "counts"})
    tracemalloc.start()
    source = read_source(row, tmp_path / "mine.h5ad", cell_types=resources / "cell_types.tsv")
    assert sum(block.shape[0] for block in source.blocks()) == 40_000
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 0.5 * 8 * many.layers["counts"].nnz


def test_a_study_may_have_a_file_for_each_sample(
    source_table: Path, resources: Path, tmp_path: Path
) -> None:
    cells = ad.read_h5ad(source_table.parent / "pbmc_zheng_facs.h5ad")
    halves = {"a": cells[:50, 1:].copy(), "b": cells[50:].copy()}
    for name, half in halves.items():
        half.obs_names = [f"barcode {number}" for number in range(50)]
        half.write_h5ad(tmp_path / f"{name}.h5ad")
    first, other = (pd.read_csv(source_table, sep="\t").iloc[[row]] for row in (0, 1))
    other = other.assign(path=source_table.parent / other["path"].item())
    rows = [first.assign(path="a.h5ad"), other, first.assign(path="b.h5ad")]
    table = pd.concat(rows).assign(title="A study")
    table.to_csv(tmp_path / "t.tsv", sep="\t", index=False)
    settings = {"root": tmp_path, "cell_types": resources / "cell_types.tsv"}
    build_census(tmp_path / "t.tsv", tmp_path / "soma", **settings)
    with cellxgene_census.open_soma(uri=str(tmp_path / "soma")) as census:
        info = census["census_info"]
        datasets = info["datasets"].read().concat().to_pandas()
        unmatched = info["unmatched_genes"].read().concat().to_pandas()
        presence = cellxgene_census.get_presence_matrix(census, "Homo sapiens")
        found = cellxgene_census.get_anndata(
            census, "Homo sapiens", obs_value_filter="dataset_id == 'pbmc_zheng_facs'"
        )
    assert datasets["dataset_id"].tolist() == ["pbmc_zheng_facs", "pbmc_kang_harmony2k"]
    assert datasets["dataset_total_cell_count"].tolist() == [100, 60]
    assert datasets["dataset_h5ad_path"][0] == "a.h5ad, b.h5ad"
    assert not unmatched.duplicated(["dataset_id", "name"]).any()
    assert presence.shape[0] == 2
    assert presence[0].sum() == match_var(cells.var, all_genes()).matched.sum()
    assert found.obs["soma_joinid"].tolist() == list(range(100))
    assert found.obs["observation_joinid"].is_unique
    in_cell = np.asarray((found.X > 0).sum(axis=1)).ravel()
    np.testing.assert_array_equal(found.obs["nnz"], in_cell)
    table.assign(title=["A study", "", "Another"]).to_csv(tmp_path / "t.tsv", sep="\t", index=False)
    with pytest.raises(ValueError, match=r"rows of pbmc_zheng_facs have different values of title"):
        build_census(tmp_path / "t.tsv", tmp_path / "soma", **settings)


# ------------------------------------------------------------------------------------------ query


def test_a_query_writes_sorted_cells_their_partitions_and_origin(cells_parquet: Path) -> None:
    cells = pq.read_table(cells_parquet).to_pandas()
    assert cells["soma_joinid"].tolist() == list(range(220))
    assert cells["partition"].value_counts(sort=False).tolist() == [80, 80, 60]
    assert count_partitions(cells_parquet) == 3
    origin = read_origin(cells_parquet)
    assert origin["schema_version"] == "2.1.0"
    assert origin["release"].startswith("local-")
    assert (origin["organism"], origin["obs_value_filter"]) == ("homo_sapiens", ALL)


def test_cells_that_take_more_than_one_buffer_are_all_found(
    cells_parquet: Path, local_census: Path, tmp_path: Path
) -> None:
    small = {"soma.init_buffer_bytes": 64 * 8}  # as a hosted Census has more cells than a buffer
    cells = query(tmp_path / "cells.parquet", local_census, tiledb=small)
    found = pq.ParquetFile(cells)
    groups = [found.metadata.row_group(i).num_rows for i in range(found.num_row_groups)]
    assert len(groups) > 3
    assert min(groups) > 0
    assert found.read().equals(pq.read_table(cells_parquet))
    assert count_partitions(cells) == 3
    assert read_origin(cells) == read_origin(cells_parquet)


def test_equal_cells_have_equal_digests(local_census: Path, tmp_path: Path) -> None:
    def find(**changed) -> str:
        return read_origin(query(tmp_path / "cells.parquet", local_census, **changed))["digest"]

    assert find() == find()
    assert find() != find(partition_cells=70)
    assert find() != find(obs_value_filter="soma_joinid < 100")


def test_the_filter_and_primary_copies_are_heeded(
    source_table: Path, resources: Path, tmp_path: Path
) -> None:
    table = pd.read_csv(source_table, sep="\t").assign(primary=["cell_type != 'CD34+'", None, None])
    table.to_csv(tmp_path / "t.tsv", sep="\t", index=False)
    build_census(
        tmp_path / "t.tsv",
        tmp_path / "soma",
        root=source_table.parent,
        cell_types=resources / "cell_types.tsv",
    )
    both = f"{ALL} and dataset_id in ['pbmc_zheng_facs', 'elsewhere']"
    cells = pq.read_table(query(tmp_path / "c.parquet", tmp_path / "soma", both)).to_pandas()
    assert set(cells["dataset_id"]) == {"pbmc_zheng_facs"}
    assert "hematopoietic precursor cell" not in set(cells["cell_type"])


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"obs_value_filter": "tissue_general == 'moon'"}, "no cell of .* fits"),
        (
            {"obs_value_filter": "tisue == 'blood'"},
            r"tisue does not exist.*Columns of obs: soma_joinid",
        ),
        ({"obs_value_filter": "disease = 'normal'"}, "Could not parse"),
        ({"organism": "mus_musculus"}, "has no 'mus_musculus'; it has homo_sapiens"),
        ({"census": "some/folder"}, "the local Census some/folder does not exist"),
    ],
)
def test_a_question_without_answer_says_why(
    changed: dict[str, str], message: str, local_census: Path, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        query(tmp_path / "cells.parquet", **{"census": local_census, **changed})
    assert not list(tmp_path.iterdir())


# --------------------------------------------------------------------------------------- download


def test_partitions_hold_the_counts_of_their_cells(
    partitions: list[Path], local_census: Path
) -> None:
    with cellxgene_census.open_soma(uri=str(local_census)) as census:
        expected = cellxgene_census.get_anndata(census, "Homo sapiens")
    found = [ad.read_h5ad(path) for path in partitions]
    counts = np.concatenate([cells.X.toarray() for cells in found])
    np.testing.assert_array_equal(counts, expected.X.toarray())
    for path, cells in zip(partitions, found, strict=True):
        assert list(cells.var["feature_id"]) == list(expected.var["feature_id"])
        np.testing.assert_array_equal(cells.var["n_cells"], (cells.X > 0).sum(axis=0).A1)
        assert cells.obs_names.tolist() == cells.obs["soma_joinid"].astype(str).tolist()
        assert sidecar(path).read_text().split()[0] == hashlib.sha256(path.read_bytes()).hexdigest()
        assert Partition(path).max_count == cells.X.max()


def test_a_download_reports_cells_and_bytes(
    cells_parquet: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        download_partition(cells_parquet, tmp_path / "p.h5ad", partition=2, attempts=1, tiledb={})
    n_bytes = Partition(tmp_path / "p.h5ad").obs["nnz"].sum() * 8 + 61 * 4
    assert f"60 of 60 cells, {n_bytes / 1e6:.1f} MB, " in caplog.text


def test_blocks_give_all_rows_in_order(partitions: list[Path]) -> None:
    whole = ad.read_h5ad(partitions[0]).X.toarray()
    blocks = list(Partition(partitions[0]).blocks(cells=33))
    assert [first for first, _ in blocks] == [0, 33, 66]
    np.testing.assert_array_equal(np.concatenate([b.toarray() for _, b in blocks]), whole)


@pytest.mark.parametrize("fault", ["changed", "cut off", "gone", "no digest"])
def test_a_partition_that_is_not_what_it_was_is_named(
    fault: str, partitions: list[Path], tmp_path: Path
) -> None:
    path = tmp_path / "partition_0.h5ad"
    content = bytearray(partitions[0].read_bytes())
    sidecar(path).write_text(sidecar(partitions[0]).read_text())
    if fault == "changed":
        content[len(content) // 2] ^= 1
    path.write_bytes(content[:-100] if fault == "cut off" else content)
    if fault == "gone":
        path.unlink()
    if fault == "no digest":
        sidecar(path).unlink()
    with pytest.raises(ValueError, match=re.escape(str(path))):
        Partition(path)


# ------------------------------------------------------------------------------------- over a net


@pytest.fixture(scope="module")
def bucket(local_census: Path) -> Iterator[CensusServer]:
    with serve(local_census.parent) as server:
        yield server


@pytest.fixture(scope="module")
def remote_cells(bucket: CensusServer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The cells of the Census in the bucket."""
    cells = tmp_path_factory.mktemp("remote") / "cells.parquet"
    return query(cells, "s3://bucket/soma", tiledb=bucket.tiledb)


@pytest.fixture
def server(bucket: CensusServer) -> Iterator[CensusServer]:
    """The bucket, without faults."""
    yield bucket
    bucket.reset()


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Waits between tries, not waited for."""
    waits: list[float] = []
    monkeypatch.setattr(census_module.time, "sleep", waits.append)
    return waits


class Faults:
    """The same fault for the first objects of the counts, `n` of them."""

    def __init__(self, kind: str, n: int) -> None:
        self.kind, self.left = kind, n

    def __call__(self, key: str) -> str | None:
        if "/X/raw/__fragments" in key and self.left:
            self.left -= 1
            return self.kind
        return None


@pytest.mark.parametrize("kind", ["unavailable", "cut off"])
def test_a_download_outlives_faults_of_the_network(
    kind: str,
    server: CensusServer,
    remote_cells: Path,
    waits: list[float],
    partitions: list[Path],
    tmp_path: Path,
) -> None:
    server.fault = Faults(kind, 5)
    output = tmp_path / "partition_0.h5ad"
    download_partition(remote_cells, output, partition=0, attempts=9, tiledb=server.tiledb)
    assert server.fault.left == 0
    assert 1 <= len(waits) <= 5
    assert waits == [2**n for n in range(len(waits))]
    found, expected = (ad.read_h5ad(path).X for path in (output, partitions[0]))
    assert (found != expected).nnz == 0


def test_a_download_gives_up_after_its_attempts_and_leaves_nothing(
    server: CensusServer, remote_cells: Path, waits: list[float], tmp_path: Path
) -> None:
    server.fault = Faults("unavailable", 10_000)
    with pytest.raises(census_module.soma.SOMAError, match="503"):
        download_partition(
            remote_cells, tmp_path / "p.h5ad", partition=0, attempts=3, tiledb=server.tiledb
        )
    assert waits == [1, 2]
    assert not list(tmp_path.iterdir())


def test_cells_that_come_incomplete_are_noticed(
    cells_parquet: Path, waits: list[float], tmp_path: Path
) -> None:
    table = pq.read_table(cells_parquet)
    nnz = table["nnz"].to_numpy().copy()
    nnz[7] += 1  # as if one count of the cell had been lost on the way
    changed = table.set_column(table.column_names.index("nnz"), "nnz", [nnz])
    pq.write_table(changed.replace_schema_metadata(table.schema.metadata), tmp_path / "c.parquet")
    with pytest.raises(ConnectionError, match="1 of 80 cells came incomplete, first soma_joinid 7"):
        download_partition(
            tmp_path / "c.parquet", tmp_path / "p.h5ad", partition=0, attempts=2, tiledb={}
        )
    assert waits == [1]


@pytest.fixture
def hosted(server: CensusServer, monkeypatch: pytest.MonkeyPatch) -> CensusServer:
    """The server as the host of Census releases."""
    release = {
        "release_date": None,
        "release_build": "2025-11-08",
        "soma": {"uri": "s3://bucket/soma", "s3_region": "us-west-2"},
        "h5ads": {"uri": "s3://bucket/h5ads", "s3_region": "us-west-2"},
        "flags": {"lts": True},
    }
    server.releases = {"stable": "2025-11-08", "2025-11-08": release}
    directory = cellxgene_census._release_directory
    monkeypatch.setattr(
        directory, "CELL_CENSUS_RELEASE_DIRECTORY_URL", f"{server.url}/release.json"
    )
    monkeypatch.setattr(
        directory, "CELL_CENSUS_MIRRORS_DIRECTORY_URL", f"{server.url}/mirrors.json"
    )
    return server


def test_stable_is_resolved_once_and_written_down(hosted: CensusServer, tmp_path: Path) -> None:
    cells = query(tmp_path / "cells.parquet", "stable", tiledb=hosted.tiledb)
    origin = read_origin(cells)
    assert (origin["census"], origin["release"]) == ("stable", "2025-11-08")
    assert origin["uri"] == "s3://bucket/soma"
    # Another release becomes the stable one: the corpus stays with its own.
    hosted.releases["stable"] = "2026-05-05"
    hosted.releases["2026-05-05"] = {**hosted.releases["2025-11-08"], "release_build": "2026-05-05"}
    hosted.releases["2026-05-05"]["soma"] = {"uri": "s3://bucket/gone", "s3_region": "us-west-2"}
    download_partition(cells, tmp_path / "p.h5ad", partition=2, attempts=1, tiledb=hosted.tiledb)
    assert Partition(tmp_path / "p.h5ad").origin == origin


def test_a_release_that_is_gone_is_named_with_those_that_are_there(
    hosted: CensusServer, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=r"'2021-01-01' does not exist .* 2025-11-08"):
        query(tmp_path / "cells.parquet", "2021-01-01", tiledb=hosted.tiledb)


# ------------------------------------------------------------------------------------------- kill


@pytest.mark.slow
def test_a_killed_download_leaves_nothing_that_passes_for_finished(
    server: CensusServer, remote_cells: Path, partitions: list[Path], tmp_path: Path
) -> None:
    output = tmp_path / "partition_1.h5ad"
    server.fault = Faults("stall", 10_000)
    call = (
        f"{str(remote_cells)!r}, {str(output)!r}, partition=1, attempts=1, tiledb={server.tiledb}"
    )
    script = f"from scgpt_core.data.download import download_partition as run; run({call})"
    job = subprocess.Popen([sys.executable, "-c", script])
    assert server.stalled.wait(300)
    os.kill(job.pid, signal.SIGKILL)
    assert job.wait() == -signal.SIGKILL
    assert [path.name for path in tmp_path.iterdir()] == [f".partition_1.partial-{job.pid}.h5ad"]
    with pytest.raises(ValueError, match="does not exist: run download_partition"):
        Partition(output)
    server.reset()
    download_partition(remote_cells, output, partition=1, attempts=1, tiledb=server.tiledb)
    assert (ad.read_h5ad(output).X != ad.read_h5ad(partitions[1]).X).nnz == 0
    assert not list(tmp_path.glob(".*"))
