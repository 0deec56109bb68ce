"""A tiny model is fine-tuned on real labelled cells, and labels others."""

import json
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import torch
from graph import finetune_in_two_processes
from scipy.sparse import csr_matrix
from tiny_model import save_tiny_model

from scgpt_core.checkpoint import load_checkpoint
from scgpt_core.config import AnnotationSettings
from scgpt_core.tasks import annotation
from scgpt_core.tasks.annotation import annotate_cells, annotate_dataset
from scgpt_core.tasks.fitting import UnfinishedError
from scgpt_core.tasks.labelling import split_cells

ROOT = Path(__file__).parents[2]
SETTINGS = AnnotationSettings.model_validate(
    {
        "labels": {"low_data_shares": [0.5]},
        "n_genes": 60,
        "max_tokens": 40,
        "epochs": 12,
        "trainer": {"batch_cells": 16, "learning_rate": 3e-3, "device": "cpu",
                    "precision": "float32"},
    }
)  # fmt: skip


@pytest.fixture(scope="module")
def adata() -> ad.AnnData:
    """150 blood cells of three technologies and three types, on the 200 genes of most counts."""
    cells = ad.read_h5ad(ROOT / "resources/cells/pbmc_symphony_3tech.h5ad")
    cells = cells[cells.obs["cell_type"].isin(["B", "Mono_CD14", "T_CD4"])]
    rows = np.linspace(0, cells.n_obs - 1, 150).astype(int)
    genes = np.sort(np.argsort(-np.asarray(cells.X.sum(axis=0)).ravel())[:200])
    obs = cells.obs[["batch"]].assign(label=cells.obs["cell_type"]).iloc[rows].astype("category")
    return ad.AnnData(
        cells.X[rows][:, genes].astype(np.float32), obs=obs, var=cells.var.iloc[genes]
    )


@pytest.fixture(scope="module")
def dataset(adata: ad.AnnData, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("dataset") / "cells.h5ad"
    adata.write_h5ad(path)
    return path


@pytest.fixture(scope="module")
def model_folder(adata: ad.AnnData, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model with its own weights, that knows most of the genes."""
    return save_tiny_model(tmp_path_factory.mktemp("models") / "tiny", sorted(adata.var_names)[20:])


def run(
    dataset: Path, model_folder: Path, folder: Path, settings: AnnotationSettings = SETTINGS
) -> pd.DataFrame:
    annotate_dataset(
        dataset,
        model_folder,
        folder / "out",
        query=["10x_5p"],
        state_folder=folder / "state",
        settings=settings,
        init="pretrained",
        seed=5,
    )
    return pd.read_parquet(folder / "out/predictions.parquet")


@pytest.fixture(scope="module")
def finished(
    dataset: Path, model_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, pd.DataFrame]:
    folder = tmp_path_factory.mktemp("run")
    return folder, run(dataset, model_folder, folder)


def test_fine_tuning_labels_cells_of_another_technology(
    finished: tuple[Path, pd.DataFrame],
) -> None:
    folder, table = finished
    assert sorted(set(table["label_share"])) == [0.5, 1.0]
    full = table[table["label_share"] == 1]
    assert (full["label"] == full["predicted"]).mean() > 0.8
    record = json.loads((folder / "out/run.json").read_text())
    losses = [line["loss"] for line in record["curve"] if line["split"] == "heldout"]
    assert min(losses) < losses[0]
    assert record["classes"] == ["B", "Mono_CD14", "T_CD4"]
    assert len(record["genes"]) == 60
    assert [fit["label_share"] for fit in record["fits"]] == [0.5, 1.0]
    assert not (folder / "state").exists()


def test_the_kept_model_gives_the_same_labels_to_cells_without_labels(
    finished: tuple[Path, pd.DataFrame], adata: ad.AnnData, tmp_path: Path
) -> None:
    folder, table = finished
    query = adata[adata.obs["batch"] == "10x_5p"]
    bare = ad.AnnData(query.X, obs=query.obs[[]], var=query.var)
    again = annotate_cells(bare, folder / "out/model", device="cpu", seed=5)
    full = table[table["label_share"] == 1].set_index("cell")
    assert again["predicted"].tolist() == full.loc[again.index, "predicted"].tolist()
    np.testing.assert_allclose(again["confidence"], full.loc[again.index, "confidence"], atol=1e-5)
    bare.write_h5ad(tmp_path / "bare.h5ad")
    backed = ad.read_h5ad(tmp_path / "bare.h5ad", backed="r")
    from_file = annotate_cells(backed, folder / "out/model", device="cpu", seed=5)
    pd.testing.assert_frame_equal(from_file, again)


def test_deep_cells_are_sampled_down_whether_learned_or_labelled(
    dataset: Path, adata: ad.AnnData, tmp_path: Path
) -> None:
    labels = SETTINGS.labels.model_copy(update={"low_data_shares": ()})
    settings = SETTINGS.model_copy(update={"depth_quantile": 0.25, "labels": labels})
    model_folder = save_tiny_model(tmp_path / "tiny", [*sorted(adata.var_names)[20:], "MORE"])
    table = run(dataset, model_folder, tmp_path, settings).set_index("cell")
    vocab = load_checkpoint(model_folder, "cpu").vocab
    has_token_G = np.array([name in vocab for name in adata.var_names])
    total_N = np.asarray(adata.X[:, has_token_G].sum(axis=1)).ravel()
    record = json.loads((tmp_path / "out/run.json").read_text())
    assert (total_N < record["max_counts"]).mean() == pytest.approx(0.25, abs=0.01)
    query = adata[adata.obs["batch"] == "10x_5p"]
    again = annotate_cells(query, tmp_path / "out/model", device="cpu", seed=5)
    np.testing.assert_allclose(again["confidence"], table.loc[again.index, "confidence"], atol=1e-5)
    assert (table["label"] == table["predicted"]).mean() > 0.8

    more = ad.concat([query, ad.AnnData(np.full((query.n_obs, 1), 1e4), obs=query.obs[[]])], axis=1)
    more.var_names = [*query.var_names, "MORE"]
    still = annotate_cells(more, tmp_path / "out/model", device="cpu", seed=5)
    pd.testing.assert_frame_equal(still, again)  # no deeper for a gene that was not learned from

    split = split_cells(adata, ["10x_5p"], heldout_share=0.1, label_share=1, seed=0)
    every = adata.X[:, [name in vocab for name in adata.var_names]]
    whole = settings.model_copy(update={"n_genes": None})
    cells = annotation.prepare(adata, vocab, split, whole, seed=0).cells
    left_N = np.add.reduceat(cells.counts, cells.indptr[:-1])
    there_N = np.asarray(every.sum(axis=1)).ravel()
    deep_N = total_N > record["max_counts"]
    assert np.array_equal(left_N[~deep_N], there_N[~deep_N])
    share_N = record["max_counts"] / total_N
    assert left_N[deep_N].sum() == pytest.approx((there_N * share_N)[deep_N].sum(), rel=0.02)


def test_a_query_may_lack_genes_and_have_others(
    finished: tuple[Path, pd.DataFrame], adata: ad.AnnData
) -> None:
    folder, _ = finished
    query = adata[adata.obs["batch"] == "10x_5p"]
    fewer = query[:, query.var_names[::-1][30:]].copy()
    names = [*fewer.var_names, "NOT_A_GENE"]
    counts = np.hstack([fewer.X.toarray(), np.ones((query.n_obs, 1), np.float32)])
    other = ad.AnnData(counts, obs=query.obs[[]], var=pd.DataFrame(index=names))
    labels = annotate_cells(other, folder / "out/model", device="cpu")
    assert (labels["predicted"] == query.obs["label"].astype(str)).mean() > 0.8


def test_a_model_without_classes_is_refused(adata: ad.AnnData, model_folder: Path) -> None:
    with pytest.raises(ValueError, match="knows no classes: take the model/ that annotation wrote"):
        annotate_cells(adata, model_folder, device="cpu")


def test_an_interrupted_fit_goes_on_to_the_same_end(
    dataset: Path, model_folder: Path, finished: tuple[Path, pd.DataFrame], tmp_path: Path
) -> None:
    trainer = SETTINGS.trainer.model_copy(update={"time_budget_minutes": 1e-6})
    hurried = SETTINGS.model_copy(update={"trainer": trainer})
    # A fit on cells of another depth is another fit.
    for each in (hurried, hurried.model_copy(update={"depth_quantile": 0.3})):
        with pytest.raises(UnfinishedError, match="stopped after step 1 and saved"):
            run(dataset, model_folder, tmp_path, each)
    assert not list((tmp_path / "out").glob("*"))
    resumed = run(dataset, model_folder, tmp_path)
    np.testing.assert_allclose(resumed["confidence"], finished[1]["confidence"], atol=1e-5)


def test_two_processes_label_as_one(
    dataset: Path, model_folder: Path, finished: tuple[Path, pd.DataFrame], tmp_path: Path
) -> None:
    finetune_in_two_processes(
        "annotation", dataset, model_folder, tmp_path, "--query", "10x_5p",
        settings=SETTINGS, threads=2,
    )  # fmt: skip
    together = pd.read_parquet(tmp_path / "out/predictions.parquet")
    assert together["predicted"].tolist() == finished[1]["predicted"].tolist()
    np.testing.assert_allclose(together["confidence"], finished[1]["confidence"], atol=1e-3)


@pytest.mark.parametrize("init", ["pretrained", "random"])
def test_weights_that_fit_are_inherited(
    init: annotation.Init, adata: ad.AnnData, model_folder: Path
) -> None:
    ckpt = load_checkpoint(model_folder, "cpu")
    model = annotation.make_model(ckpt, 3, SETTINGS, init=init, seed=0)
    assert model.heads == {"cls"}
    theirs, ours = ckpt.model.state_dict(), model.state_dict()
    name = "gene_embedding.table.weight"
    assert torch.equal(theirs[name], ours[name]) == (init == "pretrained")


def test_genes_are_chosen_without_looking_at_the_query(
    adata: ad.AnnData, model_folder: Path
) -> None:
    vocab = load_checkpoint(model_folder, "cpu").vocab

    def genes(adata: ad.AnnData) -> tuple[int, ...]:
        split = split_cells(adata, ["10x_5p"], heldout_share=0.1, label_share=1, seed=0)
        return annotation.prepare(adata, vocab, split, SETTINGS, seed=0).genes

    counts = adata.X.toarray()
    counts[adata.obs["batch"] == "10x_5p"] = 1
    other = ad.AnnData(csr_matrix(counts), obs=adata.obs, var=adata.var)
    assert len(genes(adata)) == 60
    assert genes(adata) == genes(other)
