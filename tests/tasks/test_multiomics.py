"""A tiny model is fine-tuned on real CITE-seq cells, embeds all and imputes what is withheld."""

import importlib.util
import json
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import torch
from scipy.sparse import csr_matrix
from tiny_model import save_tiny_model

from scgpt_core import baselines, joint_baselines
from scgpt_core.baselines import hvg_pca
from scgpt_core.checkpoint import load_checkpoint
from scgpt_core.config import (
    DatasetRow,
    MethodRow,
    ModalitySettings,
    MultiomicsSettings,
    read_table,
)
from scgpt_core.joint_baselines import JOINT_BASELINES, run_joint_baseline
from scgpt_core.keys import EMBEDDING, IMPUTED
from scgpt_core.scores import score_embedding, score_imputation
from scgpt_core.tasks import multiomics
from scgpt_core.tasks.datasets import prepare_dataset
from scgpt_core.tasks.fitting import UnfinishedError
from scgpt_core.tasks.merging import merge_datasets
from scgpt_core.tasks.modalities import read_modalities
from scgpt_core.tasks.mosaic import normalise, pose_problem, write_joint
from scgpt_core.tasks.multiomics import integrate_modalities

ROOT = Path(__file__).parents[2]
CELLS = ROOT / "resources/cells"
SETTINGS = MultiomicsSettings.model_validate(
    {
        "n_genes": 40,
        "epochs": 12,
        "min_matched": 0.3,
        "modalities": {"withheld_share": 0.25},
        "trainer": {"batch_cells": 16, "learning_rate": 4e-3, "decay": 1, "device": "cpu",
                    "precision": "float32"},
    }
)  # fmt: skip
CORE = ("rna_pca", "concat_pca", "concat_harmony")
ROWS = read_table(ROOT / "config/methods.tsv", MethodRow)
IGNORE_MOFA = pytest.mark.filterwarnings("ignore::RuntimeWarning:mofapy2.core.nodes.W_nodes")


def prepare(name: str, n_cells: int, folder: Path, **row: str) -> Path:
    """Cells of a real CITE-seq set, on the 300 genes of most counts."""
    cells = ad.read_h5ad(CELLS / f"{name}.h5ad")
    if "label_key" in row:
        cells = cells[cells.obs["cell_type"].isin(["B cells", "NK cells", "CD14+ monocytes"])]
    genes = np.sort(np.argsort(-np.asarray(cells.X.sum(axis=0)).ravel())[:300])
    rows = np.linspace(0, cells.n_obs - 1, n_cells).astype(int)
    source, output = folder / f"source_{name}.h5ad", folder / f"{name}.h5ad"
    cells[rows, genes].copy().write_h5ad(source)
    told = {"batch_key": "batch", "modalities": "protein=protein_expression", **row}
    prepare_dataset(
        DatasetRow.model_validate({"dataset": name, "path": str(source), **told}),
        source,
        output,
        cell_types=ROOT / "resources/cell_types.tsv",
    )
    return output


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """160 cells of three types, with 10 proteins."""
    folder = tmp_path_factory.mktemp("dataset")
    return prepare("pbmc_citeseq_bremsc", 160, folder, label_key="cell_type")


@pytest.fixture(scope="module")
def mosaic(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """These and 60 of 10x: other proteins, two more batches."""
    folder = tmp_path_factory.mktemp("mosaic")
    other = prepare("pbmc_citeseq_10x_400_unlabelled", 60, folder)
    merge_datasets({"one": dataset, "two": other}, folder / "merged.h5ad")
    return folder / "merged.h5ad"


@pytest.fixture(scope="module")
def model_folder(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model that knows most of the genes, and no protein."""
    folder = tmp_path_factory.mktemp("models") / "tiny"
    genes = sorted(set(ad.read_h5ad(dataset).var["feature_id"]) - {""})
    return save_tiny_model(folder, genes[5:])


def run(
    dataset: Path,
    model_folder: Path,
    folder: Path,
    settings: MultiomicsSettings = SETTINGS,
    query: tuple[str, ...] = (),
) -> ad.AnnData:
    integrate_modalities(
        dataset,
        model_folder,
        folder / "out",
        state_folder=folder / "state",
        settings=settings,
        init="pretrained",
        seed=5,
        query=query,
    )
    return ad.read_h5ad(folder / "out/embedding.h5ad")


def test_new_tokens_start_anew_and_are_named(dataset: Path, model_folder: Path) -> None:
    ckpt = load_checkpoint(model_folder, "cpu")
    problem = pose_problem(ad.read_h5ad(dataset), [], ModalitySettings(), seed=0)
    for inherit in ("genes", "all"):
        settings = SETTINGS.model_copy(update={"inherit": inherit})
        prepared = multiomics.prepare(problem, ckpt.vocab, settings, seed=0)
        model, report = multiomics.make_model(ckpt, prepared, settings, init="pretrained", seed=0)
        n = ckpt.vocab.n_tokens
        assert report.new_tokens == problem.visible.features
        assert "10 new tokens (protein:CD154, " in str(report)
        assert prepared.vocab.tokens[:n] == ckpt.vocab.tokens
        ours, theirs = model.state_dict(), ckpt.model.state_dict()
        table = "gene_embedding.table.weight"
        assert ours[table].shape[0] == n + 10
        assert torch.equal(ours[table][:n], theirs[table])
        inherited = torch.equal(
            ours["layers.0.attention.qkv.weight"], theirs["layers.0.attention.qkv.weight"]
        )
        assert inherited == (inherit == "all")
    scratch, report = multiomics.make_model(ckpt, prepared, SETTINGS, init="random", seed=0)
    assert report.matched == ()
    assert not torch.equal(scratch.state_dict()[table][:n], theirs[table])


def test_withheld_proteins_are_imputed_and_scored(
    dataset: Path, model_folder: Path, tmp_path: Path
) -> None:
    embedding = run(dataset, model_folder, tmp_path)
    record = json.loads((tmp_path / "out/run.json").read_text())
    assert "10 new tokens" in record["load_report"]
    losses = [line["loss"] for line in record["curve"] if line["split"] == "heldout"]
    assert min(losses) < losses[0]
    imputed = embedding.obsm[IMPUTED]
    filled = imputed.notna().any(axis=1)
    assert filled.sum() == record["withheld_cells"]
    assert imputed[filled].notna().all(axis=None)
    truth = ad.read_h5ad(dataset)
    values = score_imputation(embedding, truth).set_index("metric")["value"]
    assert values["pearson"] > 0.3
    assert set(values.index) >= {"pearson", "spearman", "pearson/protein:CD19"}

    tuned = load_checkpoint(tmp_path / "out/model", "cpu")
    assert "protein:CD19" in tuned.vocab
    assert tuned.config.n_modalities == 5


def test_a_mosaic_is_one_embedding_and_its_withheld_batch_is_imputed(
    mosaic: Path, model_folder: Path, tmp_path: Path
) -> None:
    query = ("two/pbmc5k_v3",)
    settings = SETTINGS.model_copy(update={"epochs": 1})
    embedding = run(mosaic, model_folder, tmp_path, settings, query)
    cells = ad.read_h5ad(mosaic)
    measured = read_modalities(cells).measured("protein")
    asked = embedding.obsm[IMPUTED].notna().to_numpy()
    withheld = cells.obs["batch"].isin(query).to_numpy()
    assert asked[withheld].all()
    np.testing.assert_array_equal(asked[~withheld], ~measured[~withheld])
    norms = np.linalg.norm(embedding.obsm[EMBEDDING], axis=1)
    np.testing.assert_allclose(norms, 1, rtol=1e-5)
    assert load_checkpoint(tmp_path / "out/model", "cpu").model.heads == {"gep", "gepc", "dar"}


def combine(dataset: Path, output: Path, method: str, query: tuple[str, ...] = ()) -> ad.AnnData:
    """What a simple method makes of a data set; skipped where its package is not installed."""
    package = ROWS[method].requires
    if package and not importlib.util.find_spec(package):
        pytest.skip(f"{package} is not installed")
    run_joint_baseline(
        dataset, output, output.with_suffix(".json"), method=method, query=query,
        settings=SETTINGS.modalities, seed=5,
    )  # fmt: skip
    return ad.read_h5ad(output)


@IGNORE_MOFA
@pytest.mark.parametrize("method", JOINT_BASELINES)
def test_simple_methods_impute_what_is_withheld_and_write_the_same_bytes_on_every_run(
    method: str, dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(baselines, "SCVI_EPOCHS", 100)
    simple = combine(dataset, tmp_path / "a.h5ad", method)
    truth = ad.read_h5ad(dataset)
    withheld_N = pose_problem(truth, [], SETTINGS.modalities, seed=5).withheld_N
    filled_NF = simple.obsm[IMPUTED].notna().to_numpy()
    np.testing.assert_array_equal(filled_NF, np.broadcast_to(withheld_N[:, None], filled_NF.shape))
    score = score_imputation(simple, truth).set_index("metric")["value"]
    assert score["pearson"] > (0.5 if method in CORE else 0.3)
    scored = score_embedding(simple, simple).set_index("metric")["value"]
    assert np.isnan(scored["avg_batch"])  # one batch
    assert scored["avg_bio"] > 0.5 or method not in CORE
    combine(dataset, tmp_path / "b.h5ad", method)
    assert (tmp_path / "a.h5ad").read_bytes() == (tmp_path / "b.h5ad").read_bytes()


@IGNORE_MOFA
@pytest.mark.parametrize("method", JOINT_BASELINES)
def test_simple_methods_impute_the_withheld_batch_of_a_mosaic(
    method: str, mosaic: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(baselines, "SCVI_EPOCHS", 2)
    query = ("two/pbmc5k_v3",)
    simple = combine(mosaic, tmp_path / "e.h5ad", method, query)
    cells = ad.read_h5ad(mosaic)
    asked_NF = ~read_modalities(cells).measured("protein")
    asked_NF[cells.obs["batch"].isin(query)] = True
    np.testing.assert_array_equal(simple.obsm[IMPUTED].notna().to_numpy(), asked_NF)


@pytest.fixture(scope="module")
def multiome(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """30 made-up peaks beside real RNA: a third of them are open in one cell type alone."""
    folder = tmp_path_factory.mktemp("multiome")
    cells = ad.read_h5ad(dataset)
    rng = np.random.default_rng(0)
    is_b = (cells.obs["label"] == "B cells").to_numpy()[:, None]
    chance = np.where(np.arange(30) < 10, np.where(is_b, 0.8, 0.05), 0.04)
    names = [f"chr1:{1000 * i}-{1000 * i + 500}" for i in range(30)]
    source = ad.AnnData(cells.X, obs=cells.obs, var=cells.var)
    source.obsm["atac"] = pd.DataFrame(
        rng.binomial(2, chance).astype(np.float32), index=cells.obs_names, columns=names
    )
    source.obs = source.obs.drop(columns="panel")
    source.write_h5ad(folder / "source.h5ad")
    row = DatasetRow.model_validate(
        {"dataset": "multiome", "path": str(folder / "source.h5ad"), "label_key": "label",
         "modalities": "atac=atac"}
    )  # fmt: skip
    prepare_dataset(
        row, folder / "source.h5ad", folder / "cells.h5ad",
        cell_types=ROOT / "resources/cell_types.tsv",
    )  # fmt: skip
    return folder / "cells.h5ad"


def test_peaks_are_tokens_too(multiome: Path, model_folder: Path, tmp_path: Path) -> None:
    settings = SETTINGS.model_copy(
        update={"modalities": ModalitySettings(n_peaks=20, withheld_share=0.25), "epochs": 4}
    )
    embedding = run(multiome, model_folder, tmp_path, settings)
    assert embedding.obsm[IMPUTED].shape[1] == 20
    scores = score_imputation(embedding, ad.read_h5ad(multiome))
    by_peak = scores[scores["metric"].str.startswith("pearson/atac:")]
    assert len(by_peak) == 20
    assert by_peak["value"].notna().all()
    run_joint_baseline(
        multiome, tmp_path / "b.h5ad", tmp_path / "run.json", method="concat_pca",
        query=[], settings=settings.modalities, seed=5,
    )  # fmt: skip
    simple = score_imputation(ad.read_h5ad(tmp_path / "b.h5ad"), ad.read_h5ad(multiome)).set_index(
        "metric"
    )["value"]
    assert simple["pearson/atac:chr1:0-500"] > 0.4


def test_peaks_are_chosen_without_looking_at_what_is_withheld(multiome: Path) -> None:
    cells, settings = ad.read_h5ad(multiome), ModalitySettings(n_peaks=10, withheld_share=0.5)
    problem = pose_problem(cells, [], settings, seed=0)
    counts = cells.obsm["atac"].toarray()
    counts[problem.withheld_N] = np.arange(30) % 2
    cells.obsm["atac"] = csr_matrix(counts)
    assert pose_problem(cells, [], settings, seed=0).visible.features == problem.visible.features


def test_true_peaks_score_as_perfect_in_the_units_that_methods_learn(
    multiome: Path, tmp_path: Path
) -> None:
    cells = ad.read_h5ad(multiome)
    problem = pose_problem(cells, [], ModalitySettings(n_peaks=20, withheld_share=0.5), seed=0)
    chosen = read_modalities(cells).keep(problem.visible.features)
    emb_ND = np.zeros((cells.n_obs, 2), np.float32)
    write_joint(emb_ND, normalise(chosen, "atac"), problem, tmp_path / "e.h5ad")
    scores = score_imputation(ad.read_h5ad(tmp_path / "e.h5ad"), cells)
    np.testing.assert_allclose(scores["value"], 1, rtol=1e-5)


def test_what_a_method_does_not_impute_counts_as_a_constant(multiome: Path, tmp_path: Path) -> None:
    """A method that leaves out what is hard for it is no better for that."""
    cells = ad.read_h5ad(multiome)
    problem = pose_problem(cells, [], ModalitySettings(n_peaks=20, withheld_share=0.5), seed=0)
    true_NF = normalise(read_modalities(cells).keep(problem.visible.features), "atac")
    emb_ND = np.zeros((cells.n_obs, 2), np.float32)

    def score(imputed_NF: np.ndarray) -> pd.Series:
        write_joint(emb_ND, imputed_NF, problem, tmp_path / "e.h5ad")
        table = score_imputation(ad.read_h5ad(tmp_path / "e.h5ad"), cells)
        return table.set_index("metric")["value"]

    half_NF = np.where(np.arange(20) < 10, true_NF, np.float32(np.nan))
    half = score(half_NF)
    assert half[["pearson", "spearman"]].tolist() == pytest.approx([0.5, 0.5])
    assert half[f"pearson/{problem.visible.features[-1]}"] == 0
    some_NF = np.where(np.arange(cells.n_obs)[:, None] % 2, true_NF, np.float32(np.nan))
    assert 0.3 < score(some_NF)["pearson"] < 0.95
    assert score(np.full_like(true_NF, np.nan)).isna().all()
    old = ad.read_h5ad(tmp_path / "e.h5ad")
    del old.obs["withheld"]
    with pytest.raises(ValueError, match=r"no obs\['withheld'\].* delete its folder and run again"):
        score_imputation(old, cells)


def test_totalvi_leaves_peaks_out_and_says_so(
    multiome: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    problem = pose_problem(ad.read_h5ad(multiome), [], ModalitySettings(), seed=0)
    monkeypatch.setattr(joint_baselines, "scvi", hvg_pca)
    joint = joint_baselines.totalvi(problem, 0)
    assert joint.imputed_NF.shape == (160, 30)
    assert np.isnan(joint.imputed_NF).all()
    assert "totalVI reads RNA and proteins: atac is left out" in caplog.text


def test_centred_log_ratios_are_over_the_panel_of_the_truth(mosaic: Path) -> None:
    """Where the decoded proteins are the true ones; what several panels have is a mean by cells."""
    truth = read_modalities(ad.read_h5ad(mosaic))
    protein, true_NF = truth.by_name["protein"], normalise(truth, "protein")
    clr_NF = joint_baselines.mean_clr(
        lambda panel: protein.counts_NF.toarray(), protein.measured_KF, truth.panel_N
    )
    assert np.isfinite(clr_NF).all()
    alone_F = protein.measured_KF.sum(axis=0) == 1
    assert 0 < alone_F.sum() < len(alone_F)
    measured_NF = truth.measured("protein") & alone_F
    np.testing.assert_allclose(clr_NF[measured_NF], true_NF[measured_NF], atol=1e-5)


def test_an_interrupted_fit_goes_on_to_the_same_end(
    dataset: Path, model_folder: Path, tmp_path: Path
) -> None:
    settings = SETTINGS.model_copy(update={"epochs": 1})
    trainer = settings.trainer.model_copy(update={"time_budget_minutes": 1e-6})
    hurried = settings.model_copy(update={"trainer": trainer})
    # A fit from another start is another fit: neither goes on from the other's weights.
    for each in (hurried, hurried.model_copy(update={"inherit": "all"})):
        with pytest.raises(UnfinishedError, match="stopped after step 1 and saved"):
            run(dataset, model_folder, tmp_path, each)
    resumed = run(dataset, model_folder, tmp_path, settings)
    straight = run(dataset, model_folder, tmp_path / "other", settings)
    for key in (EMBEDDING, IMPUTED):
        np.testing.assert_allclose(
            np.asarray(resumed.obsm[key]), np.asarray(straight.obsm[key]), atol=1e-5
        )


def test_user_mistakes_are_named(dataset: Path, tmp_path: Path) -> None:
    plain = ad.read_h5ad(dataset)
    del plain.uns["modalities"]
    with pytest.raises(ValueError, match="has RNA alone: name its `modalities`"):
        pose_problem(plain, [], ModalitySettings(), seed=0)
    with pytest.raises(ValueError, match=r"no cell is left .* where bremsc_inhouse is withheld"):
        pose_problem(ad.read_h5ad(dataset), ["bremsc_inhouse"], ModalitySettings(), seed=0)
    said = r"query batches in_house: the batches .* are bremsc_inhouse; look at `query`"
    with pytest.raises(ValueError, match=said):
        pose_problem(ad.read_h5ad(dataset), ["in_house"], ModalitySettings(), seed=0)
    some = ad.read_h5ad(dataset)
    some.uns["modalities"]["protein"]["measured"] = np.array([[False] * 10, [True] * 10])
    some.obs["panel"] = np.where(np.arange(some.n_obs) < 80, "0", "1")
    some.obs["batch"] = np.where(np.arange(some.n_obs) < 80, "plain", "cite")
    with pytest.raises(ValueError, match=r"query batches plain: the batches .* are cite; look at"):
        pose_problem(some, ["plain"], ModalitySettings(), seed=0)
    peaks = {"features": ["atac:1", "atac:2"], "measured": np.array([[False] * 2, [True] * 2])}
    some.uns["modalities"]["protein"]["measured"][0] = True
    some.uns["modalities"]["atac"] = some.uns["modalities"]["protein"] | peaks
    some.obsm["atac"] = csr_matrix((some.n_obs, 2), dtype=np.float32)
    with pytest.raises(ValueError, match="no cell is left with atac where cite is withheld"):
        pose_problem(some, ["cite"], ModalitySettings(), seed=0)
    with pytest.raises(ValueError, match="no method 'magic'; there are: rna_pca"):
        run_joint_baseline(
            dataset, tmp_path / "e.h5ad", tmp_path / "r.json", method="magic", query=[],
            settings=ModalitySettings(), seed=0,
        )  # fmt: skip
    assert set(CORE) < set(JOINT_BASELINES)
