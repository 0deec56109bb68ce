"""Every simple method predicts a small screen, and the scores tell which of them knows what."""

from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from screen import GENES, RESPONDING, make_screen

from scgpt_core.config import PerturbationSettings
from scgpt_core.perturbation.baselines import BASELINES, Training, run_baseline
from scgpt_core.perturbation.data import Perturbations, genes_of, read_perturbations
from scgpt_core.perturbation.features import pathway_features
from scgpt_core.perturbation.scores import (
    groups_of,
    intervals_over_conditions,
    score_predictions,
)
from scgpt_core.perturbation.splits import Fold, Split, make_split
from scgpt_core.runs import read_json, sha256

PATHWAY = ["IFNGR1", "IFNGR2", "JAK2", "STAT1"]
SETTINGS = PerturbationSettings.model_validate(
    {
        "split": {"n_folds": 3, "focus": {"pathway": PATHWAY, "others": ["SMAD4", "CUL3"]}},
        "control_cells": 25,
        "pair_genes": 2,
    }
)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A screen, its split, and gene sets of which one has the genes that act alike."""
    folder = tmp_path_factory.mktemp("screen")
    make_screen().write_h5ad(folder / "screen.h5ad")
    digest = sha256(folder / "screen.h5ad")
    data = read_perturbations(ad.read_h5ad(folder / "screen.h5ad"))
    split = make_split(data, SETTINGS.split, dataset_sha256=digest, seed=0)
    split.save(folder / "split.json")
    sets = {"signalling": [*PATHWAY, "JAK1"], "growth": ["SMAD4", "CUL3", "MYC", "TP53", "RB1"]}
    lines = ["\t".join([name, "", *genes]) for name, genes in sets.items()]
    (folder / "sets.gmt").write_text("\n".join(lines) + "\n")
    return {
        "dataset": folder / "screen.h5ad",
        "split": folder / "split.json",
        "gene_sets": folder / "sets.gmt",
    }


def score(files: dict[str, Path], method: str | None, folder: Path) -> dict[str, float]:
    data = read_perturbations(ad.read_h5ad(files["dataset"]))
    split = Split.load(files["split"], dataset_sha256=sha256(files["dataset"]))
    predicted = ranks = None
    if method is not None:
        outputs = {"cells": "cells.h5ad", "ranks": "ranks.parquet", "run_json": "run.json"}
        paths = {name: folder / file for name, file in outputs.items()}
        run_baseline(**files, **paths, method=method, settings=SETTINGS, seed=0)
        predicted, ranks = ad.read_h5ad(paths["cells"]), pd.read_parquet(paths["ranks"])
        assert read_json(paths["run_json"])["dataset"] == split.dataset_sha256
        assert predicted.shape == (25 * len(data.conditions), len(GENES))
        assert set(ranks["genes"]) == {1, 2}
    scores = score_predictions(
        data, split, predicted=predicted, ranks=ranks, focus=SETTINGS.split.focus
    )
    return dict(zip(scores["metric"], scores["value"], strict=True))


def test_the_genes_of_the_split_are_predicted_alone(files: dict[str, Path], tmp_path: Path) -> None:
    data = read_perturbations(ad.read_h5ad(files["dataset"]), n_genes=6)
    split = make_split(data, SETTINGS.split, dataset_sha256=sha256(files["dataset"]), seed=0)
    split.save(tmp_path / "split.json")
    paths = {name: tmp_path / name for name in ("cells", "ranks", "run_json")}
    run_baseline(
        **{**files, "split": tmp_path / "split.json"},
        **paths,
        method="train_mean",
        settings=SETTINGS,
        seed=0,
    )
    assert tuple(ad.read_h5ad(paths["cells"]).var_names) == data.genes


def test_gene_sets_tell_what_the_training_mean_cannot(
    files: dict[str, Path], tmp_path: Path
) -> None:
    mean = score(files, "train_mean", tmp_path)
    ridge = score(files, "pathway_ridge", tmp_path)
    still = score(files, "no_change", tmp_path)
    ceiling = score(files, None, tmp_path)
    assert still["pearson_delta"] == still["mse_explained"] == 0
    assert still["energy_explained"] == pytest.approx(0, abs=0.02)
    assert mean["calibrated_delta"] == pytest.approx(0, abs=1e-6)
    assert ceiling["calibrated_delta"] == ceiling["calibrated_discrimination"] == 1
    for metric in ("pearson_delta", "energy_explained"):
        name = f"{metric}@pathway"
        assert mean[name] < ridge[name]
    assert ceiling["pearson_delta@pathway"] > 0.9
    # all six genes tie where no change is predicted: their mean rank is 3.5
    assert ridge["reverse_single_top3"] > still["reverse_single_top3"] == 0
    assert ceiling["reverse_single_top5"] == still["reverse_single_top5"] == 1
    by_condition = [ridge[f"mse/{gene}+ctrl"] for gene in RESPONDING]
    assert ridge["mse"] == pytest.approx(np.mean(by_condition))


@pytest.mark.parametrize("method", ["cell_mean", "linear", "additive", "pathway_forest"])
def test_every_method_predicts(method: str, files: dict[str, Path], tmp_path: Path) -> None:
    found = score(files, method, tmp_path)
    assert np.isfinite([found["pearson_delta"], found["mse"], found["mmd"]]).all()


def test_an_unknown_method_is_named(files: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no baseline 'magic'; there are: no_change"):
        score(files, "magic", tmp_path)


def train(data: Perturbations, *conditions: str) -> Training:
    return Training(data, Fold(conditions, (), (), ()))


def test_additive_sums_what_was_seen_alone() -> None:
    data = read_perturbations(make_screen())
    training = train(data, "CUL3+ctrl", "SMAD4+ctrl", "JAK2+ctrl")
    shift = BASELINES["additive"](training, {}, 0)
    np.testing.assert_allclose(shift(("CUL3", "SMAD4")), training.shift_CG[:2].sum(0))
    np.testing.assert_allclose(shift(("IFNGR1",)), training.mean_G)


def test_linear_predicts_the_mean_for_genes_that_are_not_measured() -> None:
    data = read_perturbations(make_screen())
    training = train(data, *(name for name in data.conditions if name != "IFNGR1+ctrl"))
    shift = BASELINES["linear"](training, {}, 0)
    np.testing.assert_allclose(shift(("IFNGR1",)), training.mean_G)
    assert not np.allclose(shift(("STAT1",)), training.mean_G)


def test_cell_mean_counts_cells_and_the_control_among_them() -> None:
    data = read_perturbations(make_screen())
    training = train(data, "CUL3+ctrl", "SMAD4+ctrl")
    shift = BASELINES["cell_mean"](training, {}, 0)
    is_training = np.isin(data.condition_N, training.conditions)
    all_G, control_G = (
        data.log_NG[chosen].toarray().mean(axis=0)
        for chosen in (is_training | data.is_input, data.is_input)
    )
    np.testing.assert_allclose(shift(("JAK2",)), all_G - control_G, atol=1e-5)
    # 120 perturbed cells and 60 of the control: two thirds of the change of the perturbed ones
    np.testing.assert_allclose(shift(("JAK2",)), training.mean_G * 2 / 3, atol=1e-5)


def test_forest_predicts_what_genes_of_the_same_set_do() -> None:
    data = read_perturbations(make_screen())
    sets = {"signalling": [*PATHWAY, "JAK1"], "growth": ["SMAD4", "CUL3", "MYC", "TP53", "RB1"]}
    features = dict(zip(RESPONDING, pathway_features(list(RESPONDING), sets), strict=True))
    training = train(data, *(name for name in data.conditions if name != "IFNGR1+ctrl"))
    alike_G, others_G = (
        training.shift_CG[[genes_of(name)[0] in names for name in training.conditions]].mean(axis=0)
        for names in (PATHWAY, ("SMAD4", "CUL3"))
    )
    shift = BASELINES["pathway_forest"](training, features, 0)
    for gene, near_G, far_G in (("IFNGR1", alike_G, others_G), ("CUL3", others_G, alike_G)):
        found_G = shift((gene,))
        assert np.linalg.norm(found_G - near_G) < 0.15 * np.linalg.norm(found_G - far_G)


@pytest.mark.parametrize("method", ["pathway_ridge", "pathway_forest"])
def test_gene_sets_without_two_of_the_perturbed_genes_are_refused(method: str) -> None:
    data = read_perturbations(make_screen())
    vectors = pathway_features(list(RESPONDING), {"a": ["JAK2", "CD4", "CD8A", "LYZ", "MYC"]})
    features = dict(zip(RESPONDING, vectors, strict=True))
    said = "perturbation.gene_sets has two of the 6 perturbed genes .CUL3, IFNGR1, .*, ..."
    with pytest.raises(ValueError, match=said):
        BASELINES[method](train(data, "CUL3+ctrl", "JAK2+ctrl"), features, 0)


def test_features_are_alike_where_sets_are_shared_under_any_name() -> None:
    sets = {"a": ["MARCHF8", "JAK2", "STAT1", "CD4", "CD8A"], "b": ["STAT1"] * 5}
    features = pathway_features(["MARCH8", "JAK2", "CUL3"], sets)
    np.testing.assert_allclose(features, [[1], [1], [0]])


def test_intervals_are_over_conditions_and_not_over_seeds() -> None:
    rows = [
        ("mean", seed, f"mse/{gene}+ctrl", value)
        for seed in range(50)
        for gene, value in (("A", 0.0), ("B", 1.0), ("C", 0.5))
    ]
    scores = pd.DataFrame(rows, columns=["method", "seed", "metric", "value"])
    found = intervals_over_conditions(scores, "mse").loc["mean"]
    assert (found["mean"], found["conditions"]) == (0.5, 3)
    assert found["low"] < 0.2
    assert found["high"] > 0.8


def test_intervals_are_given_for_groups_too(files: dict[str, Path], tmp_path: Path) -> None:
    values = score(files, "train_mean", tmp_path)
    scores = pd.DataFrame({"metric": list(values), "value": list(values.values())})
    scores = scores.assign(method="mean", seed=0)
    found = intervals_over_conditions(scores, "mse@pathway").loc["mean"]
    assert found["conditions"] == len(PATHWAY)
    assert found["mean"] == pytest.approx(values["mse@pathway"])
    assert found["low"] < found["mean"] < found["high"]
    assert groups_of(scores) == ["", "@pathway", "@others"]


def test_groups_are_those_that_were_scored() -> None:
    names = ["pearson_delta", "mse@x", "pearson_delta@x", "pearson_delta@1 of 2"]
    names += ["pearson_delta/A+ctrl", "pearson_delta@x/A+ctrl"]
    assert groups_of(pd.DataFrame({"metric": names})) == ["", "@x", "@1 of 2"]
    assert genes_of("ctrl") == ()
