import dataclasses
import json
from pathlib import Path
from typing import Literal

import anndata as ad
import numpy as np
import pytest
import torch
from graph import finetune_in_two_processes
from tiny_model import save_tiny_model

from scgpt_core.checkpoint import adapt_model, load_checkpoint
from scgpt_core.config import DatasetRow, IntegrationSettings
from scgpt_core.tasks import integration
from scgpt_core.tasks.datasets import prepare_dataset
from scgpt_core.tasks.fitting import UnfinishedError, hold_out
from scgpt_core.tasks.integration import integrate_dataset
from scgpt_core.tasks.variants import make_variant

ROOT = Path(__file__).parents[2]
SETTINGS = IntegrationSettings.model_validate(
    {
        "n_genes": 40,
        "epochs": 3,
        "heldout_share": 0.2,
        "trainer": {"batch_cells": 16, "micro_batch_cells": 16, "learning_rate": 3e-3,
                    "device": "cpu", "precision": "float32"},
    }
)  # fmt: skip


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """120 blood cells of three technologies."""
    folder = tmp_path_factory.mktemp("dataset")
    source, output = folder / "source.h5ad", folder / "cells.h5ad"
    ad.read_h5ad(ROOT / "resources/cells/pbmc_symphony_3tech.h5ad")[::10].write_h5ad(source)
    row = DatasetRow(dataset="cells", path=str(source), batch_key="batch", label_key="cell_type")
    prepare_dataset(row, source, output, cell_types=ROOT / "resources/cell_types.tsv")
    return output


@pytest.fixture(scope="module")
def adata(dataset: Path) -> ad.AnnData:
    return ad.read_h5ad(dataset)


@pytest.fixture(scope="module")
def model_folder(adata: ad.AnnData, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model with its own weights, that knows every other gene."""
    return save_tiny_model(
        tmp_path_factory.mktemp("models") / "tiny", sorted(adata.var_names)[::-2], n_layers=2
    )


def run(
    dataset: Path, model_folder: Path, folder: Path, settings: IntegrationSettings = SETTINGS
) -> ad.AnnData:
    integrate_dataset(
        dataset,
        model_folder,
        folder / "out",
        state_folder=folder / "state",
        settings=settings,
        init="pretrained",
        seed=5,
    )
    return ad.read_h5ad(folder / "out/embedding.h5ad")


def with_trainer(**changes: object) -> IntegrationSettings:
    trainer = SETTINGS.trainer.model_copy(update=changes)
    return SETTINGS.model_copy(update={"trainer": trainer})


def test_variable_genes_that_the_model_knows_are_prepared(
    adata: ad.AnnData, model_folder: Path
) -> None:
    vocab = load_checkpoint(model_folder, "cpu").vocab
    settings = SETTINGS.model_copy(update={"min_matched": 0.3})
    prepared = integration.prepare(adata, vocab, settings, seed=0)
    assert len(prepared.genes) == 40
    assert list(prepared.genes) == sorted(prepared.genes)
    names = [vocab.tokens[id_] for id_ in prepared.genes]
    counts = adata[:, names].X
    assert prepared.cells.counts.sum() == counts.sum()
    assert prepared.batches == ("10x_3pv1", "10x_3pv2", "10x_5p")
    assert [prepared.batches[code] for code in prepared.batch_N] == adata.obs["batch"].tolist()


def test_cells_are_held_out_of_every_batch_whatever_their_order(
    adata: ad.AnnData, model_folder: Path
) -> None:
    vocab = load_checkpoint(model_folder, "cpu").vocab

    def heldout(adata: ad.AnnData, seed: int = 0) -> set[str]:
        prepared = integration.prepare(adata, vocab, SETTINGS, seed=seed)
        return set(adata.obs_names[prepared.heldout_N])

    turned = adata[np.random.default_rng(0).permutation(adata.n_obs)].copy()
    assert heldout(adata) == heldout(turned)
    assert heldout(adata) != heldout(adata, seed=1)
    shares = adata.obs["batch"].value_counts()
    counts = adata[sorted(heldout(adata))].obs["batch"].value_counts()
    assert all(counts[batch] == round(0.2 * n) for batch, n in shares.items())


def test_no_batch_is_held_out_whole() -> None:
    heldout_N = hold_out(np.arange(5), np.array([0, 0, 0, 0, 1]), 0.9, seed=0)
    assert (heldout_N[:4].sum(), heldout_N[4:].sum()) == (3, 0)


def test_user_mistakes_are_named(adata: ad.AnnData, model_folder: Path) -> None:
    vocab = load_checkpoint(model_folder, "cpu").vocab
    one = adata[adata.obs["batch"] == "10x_5p"].copy()
    with pytest.raises(ValueError, match="integration needs two batches"):
        integration.prepare(one, vocab, SETTINGS, seed=0)
    strict = SETTINGS.model_copy(update={"min_matched": 0.9})
    with pytest.raises(ValueError, match=r"of the counts have a token .* 90.0% are required"):
        integration.prepare(adata, vocab, strict, seed=0)


@pytest.mark.parametrize(
    ("init", "inherit"), [("pretrained", "all"), ("pretrained", "genes"), ("random", "all")]
)
def test_weights_that_fit_are_inherited(
    init: integration.Init, inherit: str, adata: ad.AnnData, model_folder: Path
) -> None:
    ckpt = load_checkpoint(model_folder, "cpu")
    settings = SETTINGS.model_copy(update={"inherit": inherit})
    prepared = integration.prepare(adata, ckpt.vocab, settings, seed=0)
    model = integration.make_model(ckpt, prepared, settings, init=init, seed=0)
    assert model.config.n_batches == 3
    assert model.heads == {"gep", "gepc", "dar"}
    theirs, ours = ckpt.model.state_dict(), model.state_dict()
    inherited = {name for name in theirs if torch.equal(theirs[name], ours[name])}
    genes = {"gene_embedding.table.weight"}
    matrices = {name for name in theirs if name.startswith("layers.") and theirs[name].ndim > 1}
    assert len(matrices) == 8
    expected = matrices | genes if inherit == "all" else genes
    assert inherited & (matrices | genes) == (expected if init == "pretrained" else set())


@pytest.mark.parametrize("inherit", ["all", "genes"])
def test_conditions_of_pretraining_are_given_up(
    inherit: Literal["all", "genes"], model_folder: Path
) -> None:
    """No task tells them: DDP would wait for their gradient for ever."""
    ckpt = load_checkpoint(model_folder, "cpu")
    told, _ = adapt_model(ckpt, {"conditions": ("blood", "lung")}, fresh=("condition_embedding.",))
    ckpt = dataclasses.replace(ckpt, model=told, config=told.config)
    model, _ = make_variant(ckpt, {}, init="pretrained", seed=0, dropout=None, inherit=inherit)
    assert model.config.conditions == ()
    assert not [name for name in model.state_dict() if name.startswith("condition")]


def test_fine_tuning_learns_and_writes_what_the_benchmark_reads(
    dataset: Path, adata: ad.AnnData, model_folder: Path, tmp_path: Path
) -> None:
    embedding = run(dataset, model_folder, tmp_path)
    assert embedding.obs_names.equals(adata.obs_names)
    assert embedding.obs[["batch", "label"]].equals(adata.obs[["batch", "label"]])
    np.testing.assert_allclose(np.linalg.norm(embedding.obsm["X_emb"], axis=1), 1, rtol=1e-5)
    record = json.loads((tmp_path / "out/run.json").read_text())
    losses = [line["loss"] for line in record["curve"] if line["split"] == "heldout"]
    assert len(losses) == 3
    assert losses[-1] < losses[0]
    assert record["settings"]["seed"] == 5
    assert not (tmp_path / "state").exists()

    tuned = load_checkpoint(tmp_path / "out/model", "cpu")
    prepared = integration.prepare(adata, tuned.vocab, SETTINGS, seed=5)
    again = integration.predict(tuned.model, prepared, SETTINGS, seed=5)
    np.testing.assert_allclose(again, embedding.obsm["X_emb"], atol=1e-6)


@pytest.mark.parametrize("tune", ["frozen", "lora"])
def test_a_restricted_fit_leaves_a_plain_model(
    tune: str, dataset: Path, model_folder: Path, tmp_path: Path
) -> None:
    settings = with_trainer(tune=tune, lora_rank=2).model_copy(update={"epochs": 2})
    run(dataset, model_folder, tmp_path, settings)
    record = json.loads((tmp_path / "out/run.json").read_text())["fit"]
    assert record["tune"] == tune
    assert record["seconds"] > 0
    assert record["gradient_and_moments_mb"] > 0
    ours = load_checkpoint(tmp_path / "out/model", "cpu").model.state_dict()
    theirs = load_checkpoint(model_folder, "cpu").model.state_dict()
    assert not any("parametrizations" in name for name in ours)
    layers = {name for name in theirs if name.startswith("layers.")}
    matrices = {name for name in layers if theirs[name].dim() == 2}
    changed = {name for name in layers if not torch.equal(ours[name], theirs[name])}
    assert changed == (set() if tune == "frozen" else matrices)
    ranks = [torch.linalg.matrix_rank(ours[n] - theirs[n], atol=1e-5).item() for n in changed]
    assert max(ranks, default=0) <= 2
    n_frozen = sum(theirs[name].numel() for name in layers)
    n_low_rank = sum(2 * sum(theirs[name].shape) for name in changed)
    assert record["trained_weights"] == record["weights"] - n_frozen + n_low_rank
    assert n_low_rank < n_frozen / 2


def test_an_interrupted_fit_goes_on_to_the_same_end(
    dataset: Path, model_folder: Path, tmp_path: Path
) -> None:
    hurried = with_trainer(time_budget_minutes=1e-6)
    with pytest.raises(UnfinishedError, match="stopped after step 1 and saved"):
        run(dataset, model_folder, tmp_path, hurried)
    assert not list((tmp_path / "out").glob("*"))
    resumed = run(dataset, model_folder, tmp_path)
    record = json.loads((tmp_path / "out/run.json").read_text())
    assert record["seconds"] > record["fit"]["seconds"] > record["earlier_seconds"] > 0
    straight = run(dataset, model_folder, tmp_path / "other")
    np.testing.assert_allclose(resumed.obsm["X_emb"], straight.obsm["X_emb"], atol=1e-6)


@pytest.mark.slow
def test_two_processes_integrate_as_one_with_their_micro_batches(
    dataset: Path, model_folder: Path, tmp_path: Path
) -> None:
    """But for the running statistics of batch norm: in one process micro-batches follow another."""
    settings = with_trainer(micro_batch_cells=8).model_copy(update={"patience": 1, "epochs": 8})
    alone = run(dataset, model_folder, tmp_path / "alone", settings)
    finetune_in_two_processes(
        "integration", dataset, model_folder, tmp_path, settings=settings, threads=1
    )
    together = ad.read_h5ad(tmp_path / "out/embedding.h5ad")
    assert (together.obsm["X_emb"] * alone.obsm["X_emb"]).sum(axis=1).min() > 0.999
    curves = [
        json.loads((folder / "run.json").read_text())["curve"]
        for folder in (tmp_path / "out", tmp_path / "alone/out")
    ]
    for split, tolerance in (("train", 1e-5), ("heldout", 0.05)):
        losses = [[line["loss"] for line in curve if line["split"] == split] for curve in curves]
        assert losses[0] == pytest.approx(losses[1], rel=tolerance)


def test_a_fit_from_another_start_or_with_other_micro_batches_is_another_fit(
    dataset: Path, model_folder: Path, tmp_path: Path
) -> None:
    """It does not go on from the other's weights: ECS and batch norm compare a micro-batch."""
    hurried = with_trainer(time_budget_minutes=1e-6)
    for settings in (
        hurried,
        hurried.model_copy(update={"inherit": "genes"}),
        with_trainer(time_budget_minutes=1e-6, micro_batch_cells=8),
    ):
        with pytest.raises(UnfinishedError, match="stopped after step 1 and saved"):
            run(dataset, model_folder, tmp_path, settings)


def test_a_cell_is_embedded_alike_alone_and_among_others(
    adata: ad.AnnData, model_folder: Path
) -> None:
    ckpt = load_checkpoint(model_folder, "cpu")
    prepared = integration.prepare(adata, ckpt.vocab, SETTINGS, seed=0)
    model = integration.make_model(ckpt, prepared, SETTINGS, init="pretrained", seed=0)
    whole = integration.predict(model, prepared, SETTINGS, seed=0)
    chosen = np.arange(7, 30, 3)
    part = prepared._replace(
        cells=integration.take_cells(prepared.cells, chosen),
        batch_N=prepared.batch_N[chosen],
        heldout_N=prepared.heldout_N[chosen],
    )
    np.testing.assert_allclose(
        integration.predict(model, part, SETTINGS, seed=0), whole[chosen], atol=1e-6
    )


def test_without_its_extras_it_is_plain_masked_prediction(
    dataset: Path, model_folder: Path, tmp_path: Path
) -> None:
    plain = SETTINGS.model_copy(
        update={"gepc": False, "explicit_zero_prob": False, "ecs_weight": 0.0, "dar_weight": 0.0,
                "domain_batch_norm": False, "heldout_share": 0.0, "steps": 3}
    )  # fmt: skip
    run(dataset, model_folder, tmp_path, plain)
    record = json.loads((tmp_path / "out/run.json").read_text())
    assert record["fit"]["steps"] == 3
    assert all(line["split"] == "train" for line in record["curve"])
    assert load_checkpoint(tmp_path / "out/model", "cpu").model.heads == {"gep"}
