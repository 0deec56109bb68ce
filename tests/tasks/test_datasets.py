import hashlib
import threading
import warnings
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest
from scipy.sparse import csr_matrix

from scgpt_core.config import DatasetRow
from scgpt_core.tasks.datasets import download_dataset, prepare_dataset, variable_genes

ROOT = Path(__file__).parents[2]
CELLS = ROOT / "resources/cells"
PBMC3K = CELLS / "pbmc3k_160_balanced.h5ad"


def prepare(tmp_path: Path, source: Path = PBMC3K, **row: Any) -> ad.AnnData:
    row = {"batch_key": "batch", "label_key": "cell_type", "path": str(source)} | row
    output = tmp_path / "out/prepared.h5ad"
    prepare_dataset(
        DatasetRow(dataset="cells", **row),
        source,
        output,
        cell_types=ROOT / "resources/cell_types.tsv",
    )
    return ad.read_h5ad(output)


def write_changed(tmp_path: Path, change: Any) -> Path:
    adata = ad.read_h5ad(PBMC3K)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".* names are not unique")
        adata = change(adata) or adata
        adata.write_h5ad(tmp_path / "changed.h5ad")
    return tmp_path / "changed.h5ad"


def test_prepared_cells_hold_what_the_tasks_read(tmp_path: Path) -> None:
    source = ad.read_h5ad(PBMC3K)
    prepared = prepare(tmp_path)
    assert (prepared.X != source.X).nnz == 0
    assert prepared.X.dtype == np.float32
    assert prepared.X.has_sorted_indices
    assert list(prepared.obs_names) == list(source.obs_names)
    assert list(prepared.var["feature_id"]) == list(source.var["feature_id"])
    assert prepared.obs["label"].astype(str).tolist() == source.obs["cell_type"].tolist()
    assert all(isinstance(dtype, pd.CategoricalDtype) for dtype in prepared.obs.dtypes)
    assert prepared.uns["source_sha256"] == hashlib.sha256(PBMC3K.read_bytes()).hexdigest()


def test_labels_get_the_names_and_ids_of_the_census_beside_their_own(tmp_path: Path) -> None:
    obs = prepare(tmp_path).obs
    monocytes = obs[obs["label"] == "CD14+ Mono"]
    assert set(monocytes["cell_type"]) == {"classical monocyte"}
    assert set(monocytes["cell_type_ontology_term_id"]) == {"CL:0000860"}


def test_the_filter_keeps_the_singlets_of_cellmix(tmp_path: Path) -> None:
    prepared = prepare(
        tmp_path,
        CELLS / "cellmix_5lines_5batches.h5ad",
        obs_filter='demuxlet_cls == "SNG"',
    )
    assert prepared.n_obs == 1021
    assert prepared.obs["batch"].nunique() == 5


def test_without_keys_there_is_one_batch_and_no_label(tmp_path: Path) -> None:
    obs = prepare(tmp_path, batch_key=None, label_key=None).obs
    assert set(obs["batch"]) == {"cells"}
    assert set(obs["label"]) == set(obs["cell_type"]) == {"unknown"}


def test_missing_labels_are_unknown_and_empty_cells_are_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def change(adata: ad.AnnData) -> None:
        adata.X.data[: adata.X.indptr[3]] = 0
        adata.obs["cell_type"] = adata.obs["cell_type"].astype(object)
        adata.obs.iloc[3:5, adata.obs.columns.get_loc("cell_type")] = None

    prepared = prepare(tmp_path, write_changed(tmp_path, change))
    assert prepared.n_obs == 157
    assert prepared.obs["label"].astype(str).tolist()[:2] == ["unknown", "unknown"]
    assert "3 cells without any count" in caplog.text


@pytest.mark.parametrize("layer", ["raw", "counts"])
def test_counts_are_taken_from_the_named_layer(tmp_path: Path, layer: str) -> None:
    def change(adata: ad.AnnData) -> ad.AnnData:
        adata.raw = adata.copy()
        adata = adata[:, :100].copy()
        adata.layers["counts"] = adata.X.copy()
        adata.X = adata.X.log1p()
        return adata

    source = write_changed(tmp_path, change)
    prepared = prepare(tmp_path, source, layer=layer)
    truth = ad.read_h5ad(PBMC3K)[:, prepared.var_names]
    assert prepared.n_vars == (8665 if layer == "raw" else 100)
    assert (prepared.X != truth[prepared.obs_names].X).nnz == 0
    with pytest.raises(ValueError, match="no layer 'spliced'; there are: counts, raw: name"):
        prepare(tmp_path, source, layer="spliced")
    with pytest.raises(ValueError, match="cells, rows 0, 1"):
        prepare(tmp_path, source)


def test_counts_that_are_in_a_layer_alone_are_asked_for_by_its_name(tmp_path: Path) -> None:
    def change(adata: ad.AnnData) -> ad.AnnData:
        adata = adata[:, :100].copy()
        adata.layers["counts"], adata.X = adata.X, None
        return adata

    empty = write_changed(tmp_path, change)
    with pytest.raises(ValueError, match="there is nothing in X; there are: counts: name the one"):
        prepare(tmp_path, empty)
    assert prepare(tmp_path, empty, layer="counts").n_vars == 100


def duplicate_cell(adata: ad.AnnData) -> None:
    adata.obs_names = ["twin", "twin", *adata.obs_names[2:]]


def duplicate_gene(adata: ad.AnnData) -> None:
    adata.var_names = ["MT-CO1", "MT-CO1", *adata.var_names[2:]]


def lose_batch(adata: ad.AnnData) -> None:
    adata.obs["batch"] = [None, *adata.obs["batch"][1:]]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (duplicate_cell, r"1 names stand for several cells \(twin\)"),
        (duplicate_gene, r"1 names stand for several genes \(MT-CO1\)"),
        (lose_batch, "1 cells have no 'batch'"),
    ],
)
def test_faulty_files_are_refused(tmp_path: Path, change: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        prepare(tmp_path, write_changed(tmp_path, change))
    assert not list((tmp_path / "out").glob("*"))


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"label_key": "celltype"}, "no column 'celltype'; it has: cell_type, "),
        (
            {"obs_filter": "qc > 3"},
            "'qc > 3' does not work: .*columns of obs: cell_type",
        ),
        ({"obs_filter": "donor =="}, "obs_filter 'donor ==' does not work"),
        ({"obs_filter": "cell_type"}, "does not say true or false of each cell"),
        (
            {"label_key": None, "obs_columns": "cell_type"},
            "obs_columns has cell_type, where the prepared file has a column of its own",
        ),
        ({"obs_filter": "cell_type == 'neuron'"}, "no cell is left"),
        ({"sha256": "0" * 64}, "has SHA-256 [0-9a-f]{64}, its row says 0000"),
    ],
)
def test_rows_that_do_not_fit_the_file_are_refused(
    tmp_path: Path, row: dict[str, str], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        prepare(tmp_path, **row)


def test_a_cut_off_file_is_refused(tmp_path: Path) -> None:
    cut = tmp_path / "cut.h5ad"
    cut.write_bytes(PBMC3K.read_bytes()[:100_000])
    with pytest.raises(ValueError, match="is not a whole h5ad file"):
        prepare(tmp_path, cut)
    with pytest.raises(ValueError, match="does not exist"):
        prepare(tmp_path, tmp_path / "absent.h5ad")


def test_a_file_of_10x_is_no_h5ad(tmp_path: Path) -> None:
    path = tmp_path / "filtered_feature_bc_matrix.h5"
    with h5py.File(path, "w") as file:
        file["matrix/shape"] = np.array([2, 1])
    with pytest.raises(
        ValueError, match=r"no h5ad file: it has matrix .*scanpy.read_10x_h5\(...\).write_h5ad"
    ):
        prepare(tmp_path, path)


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *args: Any) -> None:
        pass


@pytest.fixture
def server() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=CELLS)) as httpd:
        thread = threading.Thread(target=httpd.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{httpd.server_port}"
        httpd.shutdown()
        thread.join()


def test_a_url_is_downloaded_and_verified(tmp_path: Path, server: str) -> None:
    def download(name: str, **row: Any) -> Path:
        row = {"batch_key": "batch", "label_key": "cell_type"} | row
        described = DatasetRow(dataset="cells", path=f"{server}/{name}", **row)
        download_dataset(described, f"{server}/{name}", tmp_path / "source.h5ad")
        return tmp_path / "source.h5ad"

    digest = hashlib.sha256(PBMC3K.read_bytes()).hexdigest()
    with pytest.raises(ValueError, match="its row of the table needs the file's SHA-256"):
        download(PBMC3K.name)
    with pytest.raises(ValueError, match="its row says"):
        download(PBMC3K.name, sha256="0" * 64)
    with pytest.raises(ValueError, match=r"cannot be downloaded: HTTP Error 404"):
        download("absent.h5ad", sha256=digest)
    assert not list(tmp_path.iterdir())
    assert download(PBMC3K.name, sha256=digest).read_bytes() == PBMC3K.read_bytes()


def test_variable_genes_vary_within_batches(tmp_path: Path) -> None:
    cells = prepare(tmp_path, CELLS / "pbmc_symphony_3tech.h5ad")
    chosen = variable_genes(cells, 300)
    assert chosen.sum() == 300
    names = set(cells.var_names[chosen])
    assert {"LYZ", "NKG7", "CD79A"} <= names
    among = ~cells.var_names.isin(["LYZ"])
    assert "LYZ" not in cells.var_names[variable_genes(cells, 300, among=among)]
    assert variable_genes(cells, 5000).all()


def test_variable_genes_are_told_where_batches_are_too_small_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cells = prepare(tmp_path, CELLS / "pbmc_symphony_3tech.h5ad")
    whole = variable_genes(cells, 300)
    donors = cells.obs["batch"].astype(str)
    donors.iloc[[5, 500, 900]] = ["one", "another", "third"]
    cells.obs["batch"] = donors.astype("category")
    with caplog.at_level("INFO"):
        chosen = variable_genes(cells, 300)
    assert "(1 cells) is too small to rank genes in: counted to 10x_" in caplog.text
    assert (chosen & whole).sum() > 280
    assert set(cells.obs["batch"]) >= {"one", "another", "third"}


def test_variable_genes_of_too_few_cells_say_so() -> None:
    cells = ad.AnnData(
        csr_matrix(np.eye(4, 40, dtype=np.float32)),
        obs=pd.DataFrame({"batch": list("aabb")}, index=list("1234")),
    )
    with pytest.raises(ValueError, match="cells by batch: a 2, b 2"):
        variable_genes(cells, 10)
