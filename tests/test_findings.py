"""Sentences of the report are true of the numbers, whoever wins."""

import numpy as np
import pandas as pd
import pytest

from scgpt_core import findings
from scgpt_core.networks import coexpression, programs, validation
from scgpt_core.tasks import generation

NAN = float("nan")


def summary(**means: float | tuple[float, float, float]) -> pd.DataFrame:
    """Means, or (mean, low, high), of Overall on data set d by method."""
    rows = []
    for method, value in means.items():
        mean, low, high = value if isinstance(value, tuple) else (value, NAN, NAN)
        rows.append(("d", method, "overall", mean, low, high, 1 if np.isnan(low) else 5))
    return pd.DataFrame(
        rows, columns=["dataset", "method", "metric", "mean", "low", "high", "n_seeds"]
    )


def say(table: pd.DataFrame) -> str:
    baselines = {"HVG", "Harmony"}
    ranking = findings.rank_methods(table, dataset="d", metric="overall", baselines=baselines)
    return findings.say_winner(ranking, dataset="d", metric="Overall")


def test_the_ranking_is_from_best_to_worst_with_gains_over_the_best_baseline() -> None:
    ranking = findings.rank_methods(
        summary(HVG=0.5, Harmony=0.6, scGPT=0.75),
        dataset="d",
        metric="overall",
        baselines=["HVG", "Harmony"],
    )
    assert list(ranking.index) == ["scGPT", "Harmony", "HVG"]
    np.testing.assert_allclose(ranking["gain"], [0.15, 0, -0.1])
    assert list(ranking["baseline"]) == [False, True, True]


@pytest.mark.parametrize(
    ("means", "said"),
    [
        (
            {"HVG": 0.5, "Harmony": 0.6, "scGPT": 0.75},
            (
                "**scGPT** has the highest Overall (0.750), 0.150 above the best simple baseline, "
                "**Harmony** (0.600)."
            ),
        ),
        (
            {"HVG": 0.5, "Harmony": 0.8, "scGPT": 0.75, "random": 0.7},
            (
                "**Harmony** has the highest Overall (0.800): a simple baseline wins, 0.050 above "
                "the best model, **scGPT** (0.750)."
            ),
        ),
        (
            {"Harmony": 0.8, "scGPT": 0.797},
            (
                "**Harmony** has the highest Overall (0.800), and the best model, **scGPT** "
                "(0.797), is as good."
            ),
        ),
        ({"scGPT": 0.7}, "**scGPT** has the highest Overall (0.700)."),
    ],
)
def test_the_winner_is_named_with_the_gap_to_the_other_kind(
    means: dict[str, float], said: str
) -> None:
    assert said in say(summary(**means))
    assert "With one seed, it is not known" in say(summary(**means))


def test_methods_without_a_value_neither_win_nor_stand_in_the_comparison() -> None:
    said = say(summary(Harmony=NAN, HVG=0.5, scGPT=0.6, random=NAN))
    assert said.startswith(
        "On **d**, **scGPT** has the highest Overall (0.600), 0.100 above the best simple baseline"
    )
    nothing = "On **d**, Overall is not defined for any method: nothing to compare."
    assert say(summary(Harmony=NAN, scGPT=NAN)) == say(summary()) == nothing


def test_overlapping_intervals_are_called_so() -> None:
    apart = say(summary(Harmony=(0.6, 0.58, 0.62), scGPT=(0.7, 0.68, 0.72)))
    assert "scGPT** has the highest Overall (0.700, 0.680 to 0.720)" in apart
    assert apart.endswith("Ranges are 95 % t intervals over 5 seeds.")
    near = say(summary(Harmony=(0.6, 0.5, 0.69), scGPT=(0.7, 0.68, 0.72)))
    assert near.endswith("the two overlap, so the order may be chance.")


def test_cells_that_the_model_has_seen_are_told() -> None:
    overlap = {
        "a": {"cells": 1200, "shared": 0, "shared_with": {}},
        "b": {"cells": 160, "shared": 8, "shared_with": {"x": 7, "y": 1}},
        "c": {"cells": 20, "shared": 0, "shared_with": {}, "unchecked": 15, "datasets": ["c"]},
    }
    nothing = {"unchecked": 0, "divided_in_corpus": 0, "datasets": []}
    overlap = {name: nothing | found for name, found in overlap.items()}
    assert findings.say_overlap(overlap, ["a"]) == "The corpus has none of the cells of a."
    said = findings.say_overlap(overlap, ["a", "b"])
    assert said.startswith("The corpus has 8 of the 160 cells of **b** (in x, y): a model that")
    assert findings.say_overlap(overlap, ["a", "c"]) == (
        "The corpus has none of the cells of a, c that could be compared. It has data sets of the "
        "same name: c. It could not be told for 15 of the 20 cells of **c**, which express too few "
        "of the corpus's genes."
    )
    assert findings.say_overlap(overlap, []).startswith("The corpus has none")
    said = findings.say_overlap(overlap, ["a"], "demo")
    assert said.startswith("The model was imported, and which cells it was trained on is not")
    assert said.endswith("**demo**, which this run made. The corpus has none of the cells of a.")
    with pytest.raises(ValueError, match=r"does not tell of new: .* delete it and run again"):
        findings.say_overlap(overlap, ["a", "new"])
    overlap["a"]["divided_in_corpus"] = 1
    assert findings.say_overlap(overlap, ["a"]) == (
        "The corpus has none of the cells of a that could be compared. Nothing could be compared "
        "with 1 cell of the corpus, whose counts were divided by gene lengths."
    )


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (8.0, "is **20.0% below** that of the gene's mean (8.000 against 10.000)"),
        (11.0, "is **10.0% above** that of the gene's mean (11.000 against 10.000)"),
        (10.01, "is equal to that of the gene's mean (10.010 against 10.000)"),
    ],
)
def test_a_model_is_compared_with_simple_predictors(error: float, said: str) -> None:
    training = {
        "parameters": 1234567,
        "cells": 2000,
        "steps": 10,
        "errors": {"seen": {"gep": 1.0}, "heldout": {"gep": error}},
        "baselines": {
            "gene_mean": {"seen": {"gep": 3.0}, "heldout": {"gep": 10.0}},
            "ridge": {"seen": {"gep": 2.0}, "heldout": {"gep": 40.0}},
        },
    }
    sentence = findings.say_training(training)
    assert "1,234,567 parameters and read 2,000 cells in 10 steps. On held-out cells" in sentence
    assert said in sentence
    assert "against 40.000" in sentence
    del training["errors"]["heldout"]
    assert "On training cells" in findings.say_training(training)
    assert "**66.7% below** that of the gene's mean" in findings.say_training(training)


@pytest.mark.parametrize(
    ("accuracy", "said"),
    [
        (0.9, ", 10.0 points more than the best simple method, logistic regression (80.0%; macro"),
        (0.5, ", 30.0 points less than the best simple method, logistic regression (80.0%; macro"),
        (0.801, ", as good as the best simple method, logistic regression (80.0%; macro"),
    ],
)
def test_mapping_is_told_beside_the_best_simple_method(accuracy: float, said: str) -> None:
    scores = {
        "scgpt": {"cells": 100, "accuracy": accuracy, "macro_f1": 0.25},
        "pca_knn": {"cells": 100, "accuracy": 0.7, "macro_f1": 0.7},
        "logistic_regression": {"cells": 100, "accuracy": 0.8, "macro_f1": 0.75},
    }
    assert said in findings.say_mapping(scores, dataset="q")


def test_the_interval_of_an_accuracy_is_wilsons() -> None:
    scores = {"scgpt": {"cells": 100, "accuracy": 0.5, "macro_f1": 0.25}}
    # Wilson interval of 50 of 100: 0.4038 to 0.5962
    said = findings.say_mapping(scores, dataset="q")
    assert "gives 50.0% of 100 cells the right label (95 % interval 40.4% to 59.6%;" in said
    assert said.endswith("macro-F1 0.250).")
    assert "nothing to score" in findings.say_mapping({}, dataset="q")


def test_methods_are_listed_with_their_kind() -> None:
    said = findings.say_methods(
        {
            "harmony": {"title": "Harmony", "rule": "baseline", "uses_labels": False},
            "r": {"title": "Random", "rule": "embed", "init": "random", "uses_labels": False},
            "f": {"title": "Tuned", "rule": "finetune", "init": "pretrained", "uses_labels": True},
            "s": {"title": "Scratch", "rule": "finetune", "init": "random"},
        }
    ).splitlines()
    assert said[0] == "- **Harmony**: a simple baseline"
    assert said[1].startswith("- **Random**: a control")
    assert said[2].endswith("it sees the cell types that it is scored on")
    assert said[3].endswith("trained on these cells alone, from random weights")


def test_the_score_matrix_has_methods_by_metrics_best_first() -> None:
    rows = [
        ("d", "a", "nmi", 0.5),
        ("d", "a", "overall", 0.1),
        ("d", "b", "overall", 0.2),
        ("e", "a", "nmi", 1.0),
    ]
    table = pd.DataFrame(rows, columns=["dataset", "method", "metric", "mean"])
    matrix = findings.score_matrix(
        table, dataset="d", metrics=["overall", "nmi"], sort_by="overall"
    )
    assert list(matrix.index) == ["b", "a"]
    np.testing.assert_array_equal(matrix.to_numpy(), [[0.2, NAN], [0.1, 0.5]])


FUNNEL = {"cells in": 100, "not primary data": 10, "fewer than 200 genes": 0, "cells out": 90}


def test_the_funnel_becomes_what_is_left() -> None:
    left = {"cells of the query": 100, "− not primary data": 90, "− fewer than 200 genes": 90}
    assert findings.cells_left(FUNNEL) == left


def test_the_corpus_is_told_with_what_is_held_out() -> None:
    split = {"by": "donor_id", "heldout": [["a", "1"], ["b", "2"]], "heldout_cells": 9}
    manifest = {"corpus": "c", "n_cells": 90, "nnz": 900, "funnel": FUNNEL, "split": split}
    said = findings.say_corpus(manifest)
    assert "**90 cells**, 90.0% of the 100" in said
    assert "10 genes in a cell" in said
    assert "9 of them (10.0%) are held out of training (2 whole donors)" in said
    nothing = findings.say_corpus(manifest | {"split": split | {"heldout": []}})
    assert nothing.endswith("No cells are held out of training.")


def tell_generation(*, ours: float) -> list[str]:
    """Sentences on two prompts, where the error of the mean is 10 and of a real cell 20."""
    errors = {"scGPT": ours + 1, "scGPT, 4 rounds": ours, "mean of the type": 10,
              "real cell of the type": 20}  # fmt: skip
    rows = [
        row
        for prompt in ("genes", "cell")
        for name, error in errors.items()
        for row in (
            (prompt, name, "all", "gene_error", error),
            (prompt, name, "all", "cell_correlation", 5 / error),
            (prompt, name, "T", "cell_correlation", 0.9),
            *([(prompt, name, "all", "mixing", error / 20)] if prompt == "cell" else []),
        )
    ]
    columns = ["prompt", "predictor", "cell_type", "metric", "value"]
    return findings.say_generation(pd.DataFrame(rows, columns=columns), dataset="d")


def test_generation_is_told_beside_the_best_simple_way_whoever_wins() -> None:
    by_genes, by_cell = tell_generation(ours=8)
    assert (
        "**d**, gene prompt: the error of **scGPT, 4 rounds** in bins is **20.0% below**"
        in by_genes
    )
    assert "that of mean of the type (8.000 against 10.000)" in by_genes
    assert "correlation with the truth 0.625 against 0.500" in by_genes
    assert "mixing" not in by_genes
    assert by_cell.endswith("its mixing with real cells is 0.40, that of real cells 1.00.")
    by_genes, _ = tell_generation(ours=12)
    assert "**20.0% above** that of mean of the type" in by_genes


def test_published_values_stand_beside_ours() -> None:
    summary = pd.DataFrame(
        [("pbmc", "Harmony", "overall", 0.8, 0.79, 0.81, 3)],
        columns=["dataset", "method", "metric", "mean", "low", "high", "n_seeds"],
    )
    expected = [
        {"dataset": "pbmc", "method": name, "metric": "overall", "value": 0.846, "source": "paper"}
        for name in ("harmony", "scvi")
    ]
    style = findings.compare_expected(
        summary, expected, methods={"harmony": "Harmony"}, metrics={"overall": "Overall"}
    )
    table = style.data.set_index("method")
    assert table.loc["Harmony", "difference"] == pytest.approx(-0.046)
    assert table.loc["Harmony", "metric"] == "Overall"
    assert table["published"].tolist() == [0.846, 0.846]
    assert np.isnan(table.loc["scvi", "ours"])
    html = style.to_html()
    assert "-0.046" in html
    assert "–" in html


def test_gene_programs_are_told_beside_coexpression_and_chance() -> None:
    shares = {"static": 0.25, "contextual": 0.2, "coexpression": 0.3, "random": 0.01}
    rows = [
        (source, metric, value)
        for source, share in shares.items()
        for metric, value in (("programs", 20), ("enriched share", share), ("genes", 400))
    ]
    table = pd.DataFrame(rows, columns=["source", "metric", "value"])
    said = findings.say_programs(table, dataset="d")
    assert said.startswith("**d**: a gene set is enriched (q < 0.05) in 25% of the 20 programs")
    assert "30% of the 20 programs of co-expression, and in 1% of the 20 random programs" in said


@pytest.mark.parametrize(
    ("pearson", "said"),
    [(1.1, "It is above that"), (1.5, "It is **below** that"), (1.2, "It is equal to that")],
)
def test_networks_are_told_beside_the_best_other_way(pearson: float, said: str) -> None:
    ratios = {"attention": 1.0, "knockout": 1.2, "attention_random": 0.9, "pearson": pearson}
    rows = [
        (source, "control", "all", metric, value)
        for source, ratio in ratios.items()
        for metric, value in (("AUPRC ratio", ratio), ("p", 0.25))
    ]
    columns = ["source", "condition", "genes", "metric", "value"]
    (sentence,) = findings.say_networks(pd.DataFrame(rows, columns=columns), dataset="d")
    assert "**d**, control, all targets" in sentence
    chance = "times chance, **no more than** random networks of the same degrees give (p = 0.25)"
    assert f"by in-silico knock-out, is 1.20 {chance}. {said}" in sentence
    assert sentence.endswith(f" of the best other way, Pearson's r: {pearson:.2f} {chance}.")


def test_titles_are_of_what_the_stages_write() -> None:
    """The names stand twice, so that a page need not import what trains models."""
    assert findings.SIMPLE_CELLS == generation.SIMPLE
    assert set(findings.PROGRAMS) == set(programs.SOURCES)
    assert {*coexpression.BASELINES, validation.EXPRESSION} < set(findings.NETWORKS)
