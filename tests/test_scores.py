import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy.stats import bootstrap

from scgpt_core import scores
from scgpt_core.scores import MEANS, METRICS, main_table, score_embedding, summarise_scores


def toy(seed: int = 0) -> ad.AnnData:
    rng = np.random.default_rng(seed)
    obs = pd.DataFrame({"batch": rng.choice(["x", "y"], 120), "label": ["a", "b", "c"] * 40})
    obs.index = [f"cell{i}" for i in range(120)]
    emb_ND = rng.normal(size=(120, 4)) + 8 * np.eye(4)[np.tile([0, 1, 2], 40)]
    return ad.AnnData(obs=obs, obsm={"X_emb": emb_ND.astype(np.float32)})


def tidy(values: dict[tuple[str, str, int], float]) -> pd.DataFrame:
    """Scores of one data set in which all metrics of a run have one value."""
    rows = [
        ("integration", "cells", method, seed, metric, value, 0.0)
        for (method, _, seed), value in values.items()
        for metric in [*METRICS, *MEANS]
    ]
    return pd.DataFrame(rows, columns=scores.COLUMNS)


def test_every_metric_is_scored_once_in_order() -> None:
    table = score_embedding(toy(), toy())
    assert table["metric"].tolist() == [*METRICS, *MEANS]
    assert table["seconds"].ge(0).all()
    value = dict(zip(table["metric"], table["value"], strict=True))
    assert all(0 <= v <= 1 for v in value.values() if not np.isnan(v))
    assert value["nmi"] == pytest.approx(1)
    assert value["pcr"] == 0


def test_scores_are_equal_on_every_run() -> None:
    first, second = (score_embedding(toy(), toy())["value"] for _ in range(2))
    pd.testing.assert_series_equal(first, second, rtol=0, atol=0)


def test_means_are_those_of_the_papers() -> None:
    values = dict.fromkeys(METRICS, 0.0) | {
        "cell_cycle": float("nan"),  # too few of its genes: not in the mean
        "nmi": 0.9, "ari": 0.6, "asw_label": 0.3, "asw_batch": 0.8, "graph_connectivity": 1.0,
        "isolated_f1": float("nan"), "isolated_asw": float("nan"), "clisi": 0.8,
        "pcr": 0.5, "ilisi": 0.1, "kbet": 0.1,
    }  # fmt: skip
    means = {name: mean.compute(values) for name, mean in MEANS.items()}
    assert means == pytest.approx(
        {
            "avg_bio": 0.6,
            "avg_batch": 0.9,
            "overall": 0.6 * 0.6 + 0.4 * 0.9,
            "scib_bio": (0.9 + 0.6 + 0.3 + 0.8) / 4,  # what is not defined is left out
            "scib_batch": (0.8 + 1.0 + 0.5 + 0.1 + 0.1) / 5,
            "scib_overall": 0.6 * 0.65 + 0.4 * 0.5,
        }
    )


def test_the_paper_s_means_need_all_their_parts() -> None:
    values = dict.fromkeys(METRICS, 0.5) | {"ari": float("nan")}
    assert np.isnan(MEANS["overall"].compute(values))
    assert MEANS["scib_overall"].compute(values) == pytest.approx(0.5)


def test_other_cells_and_broken_embeddings_are_refused() -> None:
    with pytest.raises(ValueError, match="not hold the same cells"):
        score_embedding(toy(), toy()[::-1])
    broken = toy()
    broken.obsm["X_emb"][3, 1] = np.nan
    with pytest.raises(ValueError, match="1 values that are not finite"):
        score_embedding(broken, toy())


def test_every_definition_is_a_sentence() -> None:
    definitions = scores.define_metrics()
    by_task = definitions.groupby("task")["metric"].agg(list)
    assert by_task["integration"] == [*METRICS, *MEANS]
    assert by_task["annotation"] == [*scores.LABEL_METRICS]
    assert by_task["multiomics"] == [*METRICS, *MEANS, *scores.IMPUTATION_METRICS]
    groups = {"bio", "batch", "mean", "right", "sure", "novel", "imputed"}
    groups |= {"change", "error", "references", "reverse"}
    assert set(definitions["group"]) == groups
    assert definitions["definition"].str.fullmatch(r"[^\n]{20,}\.").all()


def test_summary_has_the_mean_over_seeds_and_its_interval() -> None:
    table = tidy({("pca", "", 0): 0.4, ("pca", "", 1): 0.5, ("pca", "", 2): 0.6, ("one", "", 0): 1})
    summary = summarise_scores(table).set_index(["method", "metric"])
    pca = summary.loc[("pca", "overall")]
    assert pca["mean"] == pytest.approx(0.5)
    assert pca["n_seeds"] == 3
    error = 4.302653 * 0.1 / np.sqrt(3)  # t of two degrees of freedom
    assert [pca["low"], pca["high"]] == pytest.approx([0.5 - error, 0.5 + error])
    assert [pca["bootstrap_low"], pca["bootstrap_high"]] == pytest.approx([0.4, 0.6])
    ends = ["low", "high", "bootstrap_low", "bootstrap_high"]
    assert summary.loc[("one", "overall"), ends].isna().all()


def test_the_bootstrap_interval_of_many_seeds_is_scipys() -> None:
    values = np.random.default_rng(2).normal(0.5, 0.1, 12)
    table = tidy({("pca", "", seed): value for seed, value in enumerate(values)})
    found = summarise_scores(table).set_index("metric").loc["overall"]
    expected = bootstrap((values,), np.mean, method="percentile", rng=1).confidence_interval
    ends = [found["bootstrap_low"], found["bootstrap_high"]]
    assert ends == pytest.approx([*expected], abs=0.005)


def test_seeds_without_a_value_are_not_counted() -> None:
    nan = float("nan")
    table = tidy({("pca", "", 0): 0.4, ("pca", "", 1): nan, ("pca", "", 2): 0.6})
    pca = summarise_scores(table).set_index("metric").loc["overall"]
    assert [pca["mean"], pca["n_seeds"]] == [0.5, 2]
    assert pca["high"] == pytest.approx(0.5 + 12.7062 * 0.1)
    alone = summarise_scores(tidy({("pca", "", 0): 0.4, ("pca", "", 1): nan}))
    assert alone["n_seeds"].eq(1).all()
    assert alone["low"].isna().all()
    none = summarise_scores(tidy({("pca", "", 0): nan}))
    assert none["n_seeds"].eq(0).all()


def test_the_interval_of_three_seeds_holds_the_mean_in_95_per_cent_of_runs() -> None:
    rng = np.random.default_rng(1)
    drawn = {(f"run {i}", "", seed): rng.normal(0.5, 0.1) for i in range(2000) for seed in range(3)}
    table = tidy(drawn)
    found = summarise_scores(table[table["metric"] == "overall"])
    assert found["low"].lt(0.5).mul(found["high"].gt(0.5)).mean() == pytest.approx(0.95, abs=0.015)


def test_main_table_puts_the_best_first() -> None:
    text = main_table(tidy({("pca", "", 0): 0.4, ("scgpt", "", 0): 0.71}), {"pca": "HVG + PCA"})
    lines = text.splitlines()
    assert lines[0] == "integration: cells"
    assert lines[1].split() == ["AvgBIO", "AvgBATCH", "Overall", "scib", "overall"]
    assert lines[2].split() == ["scgpt", *["0.710*"] * 4]
    assert lines[3].split() == ["HVG", "+", "PCA", *["0.400"] * 4]
    assert "Overall: 0.6 AvgBIO + 0.4 AvgBATCH (scGPT paper)." in lines


def test_no_method_wins_by_the_perturbed_gene_that_it_was_told_of() -> None:
    rows = [
        ("perturbation", "screen", method, 0, metric, value, 0.0)
        for method, own_included, others in (("told", 0.9, 0.1), ("mean", 0.5, 0.4))
        for metric, value in (
            *dict.fromkeys(scores.MAIN["perturbation"], own_included).items(),
            ("pearson_delta_others", others),
        )
    ]
    table = pd.DataFrame(rows, columns=scores.COLUMNS)
    lines = main_table(table.drop_duplicates(["method", "metric"], keep="last")).splitlines()
    assert [lines[2].split()[:2], lines[3].split()[:2]] == [["mean", "0.400*"], ["told", "0.100"]]
