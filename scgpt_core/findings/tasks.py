"""What the report says of mapping, generation, programs and networks."""

from collections.abc import Mapping
from typing import Final

import pandas as pd

from scgpt_core.findings.words import TIE, compare, plural

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
        f"**{dataset}**: scGPT gives {ours['accuracy']:.1%} of {plural(n_cells, 'cell')} the "
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
            f"{compare(error[best], error[rival], rival)}, its correlation with the truth "
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
        f"**{dataset}**: a gene set is enriched (q < 0.05) in {', in '.join(most)}, and in "
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
