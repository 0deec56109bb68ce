"""Simple methods of annotation on real cells of three technologies."""

import importlib.util
import sys
from pathlib import Path
from types import SimpleNamespace

import anndata as ad
import numpy as np
import pandas as pd
import pytest

from scgpt_core import classifiers
from scgpt_core.classifiers import CLASSIFIERS, classify_dataset
from scgpt_core.config import LabelSettings, MethodRow, read_table

ROOT = Path(__file__).parents[1]
ROWS = {
    name: row
    for name, row in read_table(ROOT / "config/methods.tsv", MethodRow).items()
    if row.task == "annotation"
}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """240 blood cells and the 1,000 genes with the most counts."""
    adata = ad.read_h5ad(ROOT / "resources/cells/pbmc_symphony_3tech.h5ad")[::5]
    genes = np.argsort(-np.asarray(adata.X.sum(axis=0)).ravel())[:1000]
    path = tmp_path_factory.mktemp("dataset") / "cells.h5ad"
    obs = adata.obs[["batch"]].assign(label=adata.obs["cell_type"]).astype("category")
    ad.AnnData(adata.X[:, np.sort(genes)].astype(np.float32), obs=obs).write_h5ad(path)
    return path


def classify(dataset: Path, folder: Path, method: str) -> pd.DataFrame:
    settings = LabelSettings(low_data_shares=())
    path = folder / "predictions.parquet"
    classify_dataset(
        dataset,
        path,
        folder / "run.json",
        method=method,
        query=["10x_5p"],
        settings=settings,
        seed=3,
    )
    return pd.read_parquet(path)


@pytest.mark.filterwarnings("ignore:`__version__` is deprecated:FutureWarning")  # CellTypist asks
@pytest.mark.parametrize("method", CLASSIFIERS)
def test_labels_are_far_better_than_chance_and_equal_on_every_run(
    method: str, dataset: Path, tmp_path: Path
) -> None:
    package = ROWS[method].requires
    if package and not importlib.util.find_spec(package):
        pytest.skip(f"{package} is not installed (envs/celltypist.yaml has what it runs with)")
    first, second = (classify(dataset, tmp_path / name, method) for name in "ab")
    pd.testing.assert_frame_equal(first, second)
    commonest = first["label"].value_counts(normalize=True).iloc[0]
    assert (first["label"] == first["predicted"]).mean() > commonest + 0.2
    probabilities = first.filter(like="probability: ")
    assert len(probabilities.columns) >= 7
    np.testing.assert_allclose(probabilities.sum(axis=1), 1)


def test_a_celltypist_that_cannot_train_says_what_to_do(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def train(*arguments: object, **options: object) -> None:
        raise TypeError("__init__() got an unexpected keyword argument 'multi_class'")

    monkeypatch.setitem(sys.modules, "celltypist", SimpleNamespace(train=train))
    monkeypatch.setattr(classifiers, "version", {"celltypist": "1.7.1", "scikit-learn": "1.9"}.get)
    with pytest.raises(ValueError, match=r"CellTypist 1.7.1 cannot train .* 1.9, .* --sdm conda"):
        classify(dataset, tmp_path, "celltypist")


def test_a_donor_of_one_training_cell_stops_no_method(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(classifiers, "N_GENES", 200)
    cells = ad.read_h5ad(dataset)
    donors = cells.obs["batch"].astype(str)
    donors.iloc[np.flatnonzero(donors != "10x_5p")[::40]] = ["a", "b", "c", "d"]
    cells.obs["batch"] = donors.astype("category")
    cells.write_h5ad(tmp_path / "cells.h5ad")
    table = classify(tmp_path / "cells.h5ad", tmp_path, "knn_pca")
    assert (table["label"] == table["predicted"]).mean() > 0.5


@pytest.mark.parametrize("method", ["logistic_l2", "logistic_l1"])
def test_one_cell_of_a_label_stops_no_regression(
    method: str, dataset: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Of two labels: a fold without the cell has one label to learn from."""
    cells = ad.read_h5ad(dataset)
    query = (cells.obs["batch"] == "10x_5p").to_numpy()
    is_b = (cells.obs["label"] == "B").to_numpy()
    is_t = (cells.obs["label"] == "T_CD4").to_numpy()
    kept = query & (is_b | is_t) | ~query & is_t
    kept[np.flatnonzero(~query & is_b)[0]] = True
    cells[kept].copy().write_h5ad(tmp_path / "cells.h5ad")
    with caplog.at_level("WARNING"):
        table = classify(tmp_path / "cells.h5ad", tmp_path, method)
    assert table["predicted"].notna().all()
    assert "too few cells to choose a penalty by cross-validation" in caplog.text


def test_a_method_that_does_not_exist_is_named(dataset: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no classifier 'svm'; there are: logistic_l2"):
        classify(dataset, tmp_path, "svm")


def test_every_baseline_of_the_table_has_its_function() -> None:
    assert {name for name, row in ROWS.items() if row.rule == "baseline"} == set(CLASSIFIERS)
