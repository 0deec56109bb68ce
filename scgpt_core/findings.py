"""What the report says in words: tables and sentences made from the numbers, whoever wins.

Nothing here knows the outcome of a benchmark: a method is called better only where its mean is,
and the simple baselines stand in every comparison.
"""

from collections.abc import Collection, Mapping
from typing import Any, Final

import numpy as np
import pandas as pd

TIE: Final = 0.005
"""Smaller differences of a score, or shares of an error, count as a tie."""
PREDICTORS: Final = {
    "gene_mean": "the gene's mean",
    "ridge": "ridge regression on principal components",
}
"""Titles of the simple predictors that pretraining is compared with."""
LABELLERS: Final = {
    "scgpt": "scGPT",
    "pca_knn": "kNN on principal components",
    "logistic_regression": "logistic regression",
}
"""Titles of what transfers labels; all but the first are simple baselines."""
GENERATION: Final = {
    "genes": "gene prompt",
    "cell": "cell prompt",
    "cell_correlation": "correlation",
    "gene_error": "error of a gene",
    "mixing": "mixing",
}
"""Titles of the prompts and metrics of generation."""
SIMPLE_CELLS: Final = ("mean of the type", "real cell of the type")
"""The simple ways to make a cell, by their names in the scores of generation."""
PROGRAMS: Final = {
    "static": "programs of gene embeddings",
    "contextual": "programs of genes in their cells",
    "coexpression": "programs of co-expression",
    "random": "random programs",
}
"""Titles of what gene programs are made of; the last two know nothing of the model."""
NETWORKS: Final = {
    "attention": "attention",
    "knockout": "in-silico knock-out",
    "attention_random": "attention, random weights",
    "pearson": "Pearson's r",
    "spearman": "Spearman's r",
    "trees": "boosted trees",
    "expression": "differential expression",
}
"""Titles of the ways to a gene network, and of the simplest way to what changes."""
MODEL_NETWORKS: Final = ("attention", "knockout")
"""Those that the trained model makes."""
_KINDS: Final = {
    "baseline": "a simple baseline",
    "random": "a control, the same network with random weights: what pretraining adds is above it",
    "embed": "the pretrained model as it is, which was not trained on these cells",
    "finetune": "the model trained further on these cells",
    "score": "no method but the ceiling: one half of the true cells predicts the other",
}
"""What a method is, by the rule that runs it."""


def cells_left(funnel: Mapping[str, int]) -> dict[str, int]:
    """Cells that are left after each check of quality control, in its order.

    Parameters
    ----------
    funnel
        Of a corpus's manifest: "cells in", cells dropped for each reason, "cells out".
    """
    left = funnel["cells in"]
    steps = {"cells of the query": left}
    for reason, n_cells in funnel.items():
        if reason not in ("cells in", "cells out"):
            left -= n_cells
            steps[f"− {reason}"] = left
    return steps


def say_corpus(manifest: Mapping[str, Any]) -> str:
    """Say in Markdown how many cells a corpus has, from where, and which are held out."""
    cells_in, n_cells = manifest["funnel"]["cells in"], manifest["n_cells"]
    said = (
        f"The corpus **{manifest['corpus']}** has **{n_cells:,} cells**, {n_cells / cells_in:.1%} "
        f"of the {cells_in:,} that the query gave, with {manifest['nnz'] / n_cells:,.0f} genes in "
        "a cell on average. "
    )
    split = manifest["split"]
    if not split["heldout"]:
        return said + "No cells are held out of training."
    what = {"dataset_id": "data set", "donor_id": "donor"}[split["by"]]
    groups = _plural(len(split["heldout"]), f"whole {what}")
    return said + (
        f"{split['heldout_cells']:,} of them ({split['heldout_cells'] / n_cells:.1%}) are held out "
        f"of training ({groups}): a model is judged on cells of a {what} that it has not seen."
    )


def say_overlap(overlap: Mapping[str, Mapping[str, Any]], datasets: Collection[str]) -> str:
    """Say in Markdown which cells that a model is tested on are in the corpus that it has seen.

    Parameters
    ----------
    overlap
        cells, shared and shared_with (cells by data set of the corpus), by the data set's name.
    datasets
        Which of them.
    """
    seen = [
        f"{found['shared']:,} of the {_plural(found['cells'], 'cell')} of **{name}** "
        f"(in {', '.join(found['shared_with'])})"
        for name, found in ((name, overlap[name]) for name in datasets)
        if found["shared"]
    ]
    if not seen:
        return f"The corpus has none of the cells of {', '.join(datasets)}."
    return (
        f"The corpus has {'; '.join(seen)}: a model that was pretrained on it has seen their "
        "counts, though not their labels."
    )


def say_training(training: Mapping[str, Any]) -> str:
    """Say in Markdown what a model was trained on, and how it compares with simple predictors.

    Parameters
    ----------
    training
        `training.json` of a model folder that `pretrain` wrote.
    """
    judged = judged_split(training)
    cells = {"heldout": "held-out cells", "seen": "training cells (no cells are held out)"}[judged]
    error = training["errors"][judged]["gep"]
    verdicts = [
        _compare(error, training["baselines"][name][judged]["gep"], title)
        for name, title in PREDICTORS.items()
    ]
    return (
        f"The model has {training['parameters']:,} parameters and read {training['cells']:,} cells "
        f"in {training['steps']:,} steps. On {cells}, its error on the genes that it was not told "
        f"is {', and '.join(verdicts)}."
    )


def judged_split(training: Mapping[str, Any]) -> str:
    """Which cells a model is judged on: "heldout" where there are any, else "seen"."""
    return "heldout" if "heldout" in training["errors"] else "seen"


def _compare(error: float, baseline: float, title: str) -> str:
    share = (baseline - error) / baseline
    if abs(share) < TIE:
        verdict = "equal to"
    else:
        verdict = f"**{abs(share):.1%} {'below' if share > 0 else 'above'}**"
    return f"{verdict} that of {title} ({error:.3f} against {baseline:.3f})"


def say_methods(methods: Mapping[str, Mapping[str, Any]]) -> str:
    """List the methods in Markdown, each with what kind it is.

    Parameters
    ----------
    methods
        Rows of methods.tsv, by name.
    """
    lines = []
    for row in methods.values():
        kind = _KINDS["random" if row.get("init") == "random" else row["rule"]]
        labels = "; it sees the cell types that it is scored on" if row.get("uses_labels") else ""
        lines.append(f"- **{row['title']}**: {kind}{labels}")
    return "\n".join(lines)


def rank_methods(
    summary: pd.DataFrame, *, dataset: str, metric: str, baselines: Collection[str]
) -> pd.DataFrame:
    """Methods of one data set from best to worst, beside the best simple baseline.

    Parameters
    ----------
    summary
        As `summarise_scores` gives it: dataset, method, metric, mean, low, high, n_seeds.
    dataset, metric
        Which of them; greater values are better.
    baselines
        Methods that count as simple baselines.

    Returns
    -------
    Index method; mean, low and high (95 % interval, missing for one seed), n_seeds, baseline
    (bool), and gain: the mean less that of the best baseline, missing where there is none.
    """
    part = summary[(summary["dataset"] == dataset) & (summary["metric"] == metric)]
    ranking = part.set_index("method")[["mean", "low", "high", "n_seeds"]]
    ranking["baseline"] = ranking.index.isin(list(baselines))
    ranking["gain"] = ranking["mean"] - ranking.loc[ranking["baseline"], "mean"].max()
    return ranking.sort_values("mean", ascending=False)


def say_winner(ranking: pd.DataFrame, *, dataset: str, metric: str) -> str:
    """Say in Markdown who is best on one data set, by how much, and how sure that is.

    Parameters
    ----------
    ranking
        As `rank_methods` gives it, with the methods' titles as index.
    dataset, metric
        Their names, for the sentence.
    """
    best = ranking.iloc[0]
    said = f"On **{dataset}**, **{best.name}** has the highest {metric} ({_value(best)})"
    others = ranking[ranking["baseline"] != best["baseline"]]
    if others.empty:
        return f"{said}. {_how_sure(ranking, None)}"
    other = others.iloc[0]
    gap = best["mean"] - other["mean"]
    kind = "model" if best["baseline"] else "simple baseline"
    if gap < TIE:
        said += f", and the best {kind}, **{other.name}** ({_value(other)}), is as good"
    elif best["baseline"]:
        said += f": a simple baseline wins, {gap:.3f} above the best {kind}"
        said += f", **{other.name}** ({_value(other)})"
    else:
        said += f", {gap:.3f} above the best {kind}, **{other.name}** ({_value(other)})"
    return f"{said}. {_how_sure(ranking, other)}"


def score_matrix(
    summary: pd.DataFrame, *, dataset: str, metrics: Collection[str], sort_by: str
) -> pd.DataFrame:
    """Mean scores of one data set: methods (the best first by `sort_by`) x metrics as given.

    Parameters
    ----------
    summary
        As `summarise_scores` gives it.
    dataset, metrics, sort_by
        Which of them.
    """
    part = summary[summary["dataset"] == dataset]
    matrix = part.pivot_table(index="method", columns="metric", values="mean")
    return matrix.reindex(columns=list(metrics)).sort_values(sort_by, ascending=False)


def compare_expected(
    summary: pd.DataFrame,
    expected: Collection[Mapping[str, Any]],
    *,
    methods: Mapping[str, str],
    metrics: Mapping[str, str],
) -> pd.DataFrame:
    """Put published values beside those of the run.

    Parameters
    ----------
    summary
        As `summarise_scores` gives it, with the methods' titles.
    expected
        Rows of expected.tsv.
    methods, metrics
        Titles by name.

    Returns
    -------
    Columns data set, method, metric, published, ours, low and high (95 % interval), difference and
    source; ours is missing where the method was not run.
    """
    keys = summary[["dataset", "method", "metric"]].itertuples(index=False, name=None)
    values = summary[["mean", "low", "high"]].itertuples(index=False, name=None)
    ours = dict(zip(keys, values, strict=True))
    rows = []
    for row in expected:
        title = methods.get(row["method"], row["method"])
        key = (row["dataset"], title, row["metric"])
        mean, low, high = ours.get(key, (np.nan,) * 3)
        rows.append(
            {
                "data set": row["dataset"],
                "method": title,
                "metric": metrics[row["metric"]],
                "published": row["value"],
                "ours": mean,
                "low": low,
                "high": high,
                "difference": mean - row["value"],
                "source": row["source"],
            }
        )
    return pd.DataFrame(rows)


def say_mapping(scores: Mapping[str, Mapping[str, float]], *, dataset: str) -> str:
    """Say in Markdown how many labels of a query are right, beside the simple methods.

    Parameters
    ----------
    scores
        accuracy, macro_f1 and cells by the method's name (`LABELLERS`), as in a mapping's run.json;
        empty where no label is known.
    dataset
        Name of the query.
    """
    if not scores:
        return f"**{dataset}**: no labels are known, so there is nothing to score."
    ours = scores["scgpt"]
    n_cells = int(ours["cells"])
    low, high = _wilson_interval(ours["accuracy"], n_cells)
    said = (
        f"**{dataset}**: scGPT gives {ours['accuracy']:.1%} of {_plural(n_cells, 'cell')} the "
        f"right label (95 % interval {low:.1%} to {high:.1%}; macro-F1 {ours['macro_f1']:.3f})"
    )
    baselines = {name: score for name, score in scores.items() if name != "scgpt"}
    if not baselines:
        return f"{said}."
    name, best = max(baselines.items(), key=lambda item: item[1]["accuracy"])
    gap = ours["accuracy"] - best["accuracy"]
    if abs(gap) < TIE:
        verdict = "as good as"
    else:
        verdict = f"{abs(gap) * 100:.1f} points {'more' if gap > 0 else 'less'} than"
    return (
        f"{said}, {verdict} the best simple method, {LABELLERS[name]} "
        f"({best['accuracy']:.1%}; macro-F1 {best['macro_f1']:.3f})."
    )


def say_generation(scores: pd.DataFrame, *, dataset: str) -> list[str]:
    """Say in Markdown, a sentence a prompt, how near generated profiles come to the true ones.

    Parameters
    ----------
    scores
        prompt, predictor, cell_type, metric, value, as `generate_dataset` writes them.
    dataset
        Name of the data set.
    """
    overall = scores[scores["cell_type"] == "all"]
    said = []
    for prompt, part in overall.groupby("prompt", sort=False):
        by_metric: dict[str, dict[str, float]] = {metric: {} for metric in GENERATION}
        for predictor, metric, value in zip(
            part["predictor"], part["metric"], part["value"], strict=True
        ):
            by_metric[metric][predictor] = value
        error, correlation = by_metric["gene_error"], by_metric["cell_correlation"]
        best = min(error.keys() - set(SIMPLE_CELLS), key=error.__getitem__)
        rival = min(SIMPLE_CELLS, key=error.__getitem__)
        mixing = by_metric["mixing"]
        mixed = ""
        if best in mixing and SIMPLE_CELLS[1] in mixing:
            mixed = f"; its mixing with real cells is {mixing[best]:.2f}, that of real cells "
            mixed += f"{mixing[SIMPLE_CELLS[1]]:.2f}"
        said.append(
            f"**{dataset}**, {GENERATION[str(prompt)]}: the error of **{best}** in bins is "
            f"{_compare(error[best], error[rival], rival)}, its correlation with the truth "
            f"{correlation[best]:.3f} against {correlation[rival]:.3f}{mixed}."
        )
    return said


def say_programs(scores: pd.DataFrame, *, dataset: str) -> str:
    """How many gene programs mean something, of embeddings, of co-expression and of chance.

    Parameters
    ----------
    scores
        Columns source, metric, value, of `scgpt_core.networks.programs`.
    """
    values = scores.set_index(["metric", "source"])["value"].to_dict()
    parts = [
        f"{values['enriched share', source]:.0%} of the {values['programs', source]:.0f} {title}"
        for source, title in PROGRAMS.items()
    ]
    *most, last = parts
    return (
        f"**{dataset}**: a Reactome set is enriched (q < 0.05) in {', in '.join(most)}, and in "
        f"{last} (mean over draws)."
    )


def say_networks(scores: pd.DataFrame, *, dataset: str) -> list[str]:
    """Which network agrees best with known regulation, a sentence for each condition.

    Parameters
    ----------
    scores
        Columns source, condition, genes, metric, value, of `scgpt_core.networks.validation`.
    """
    sentences = []
    for (genes, condition), part in scores.groupby(["genes", "condition"], sort=False):
        table = part.pivot_table(index="source", columns="metric", values="value")
        table = table.sort_values("AUPRC ratio", ascending=False)
        ours = table[table.index.isin(MODEL_NETWORKS)].iloc[0]
        theirs = table[~table.index.isin(MODEL_NETWORKS)].iloc[0]
        if abs(ours["AUPRC ratio"] - theirs["AUPRC ratio"]) < TIE:
            verdict = "is equal to that"
        else:
            above = ours["AUPRC ratio"] > theirs["AUPRC ratio"]
            verdict = "is above that" if above else "is **below** that"
        sentences.append(
            f"**{dataset}**, {condition}, {genes} targets: the best AUPRC of the trained model, by "
            f"{NETWORKS[str(ours.name)]}, is {_times_chance(ours)}. It {verdict} of the best other "
            f"way, {NETWORKS[str(theirs.name)]}: {_times_chance(theirs)}."
        )
    return sentences


def _times_chance(row: pd.Series) -> str:
    """Say how far above chance a network is, and whether its degrees alone would be as far."""
    known = "more than" if row["p"] < 0.05 else "**no more than**"
    return (
        f"{row['AUPRC ratio']:.2f} times chance, {known} random networks of the same degrees give "
        f"(p = {row['p']:.2f})"
    )


def _wilson_interval(share: float, number: int) -> tuple[float, float]:
    """95 % interval of a share of independent cells (Wilson 1927)."""
    z = 1.96
    centre = share + z**2 / (2 * number)
    width = z * (share * (1 - share) / number + z**2 / (4 * number**2)) ** 0.5
    scale = 1 + z**2 / number
    return (centre - width) / scale, (centre + width) / scale


def _value(row: pd.Series) -> str:
    interval = "" if np.isnan(row["low"]) else f", {row['low']:.3f} to {row['high']:.3f}"
    return f"{row['mean']:.3f}{interval}"


def _how_sure(ranking: pd.DataFrame, other: pd.Series | None) -> str:
    """Say what the intervals are of, and whether those of the best and of another overlap."""
    best, n_seeds = ranking.iloc[0], int(ranking["n_seeds"].min())
    if np.isnan(best["low"]) or (other is not None and np.isnan(other["low"])):
        return "One seed was run: how much chance there is in the difference is not known."
    said = f"Ranges are 95 % intervals over {_plural(n_seeds, 'seed')}"
    if other is not None and best["low"] <= other["high"]:
        return f"{said}; the two overlap, so the order may be chance."
    return f"{said}."


def _plural(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"
