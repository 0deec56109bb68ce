"""What the report says of methods beside each other."""

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pandas as pd

from scgpt_core.findings.words import TIE, plural

if TYPE_CHECKING:
    from pandas.io.formats.style import Styler

_KINDS: Final = {
    "baseline": "a simple baseline",
    "random": "a control, the same network with random weights: what pretraining adds is above it",
    "scratch": "the same network trained on these cells alone, from random weights",
    "embed": "the pretrained model as it is",
    "finetune": "the model trained further on these cells",
    "score": "no method but the ceiling: one half of the true cells predicts the other",
}
"""What a method is, by the rule that runs it, and by the weights that it starts from."""


def say_methods(methods: Mapping[str, Mapping[str, Any]]) -> str:
    """List the methods in Markdown, each with what kind it is.

    Parameters
    ----------
    methods
        Rows of methods.tsv, by name.
    """
    lines = []
    for row in methods.values():
        untrained = "random" if row["rule"] == "embed" else "scratch"
        kind = _KINDS[untrained if row.get("init") == "random" else row["rule"]]
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
    Index method; mean, low and high (95 % t interval, missing for one seed), n_seeds, baseline
    (bool), and gain: the mean less that of the best baseline, missing where there is none. Methods
    without a value are left out.
    """
    part = summary[(summary["dataset"] == dataset) & (summary["metric"] == metric)]
    part = part.dropna(subset="mean")
    ranking = part.set_index("method")[["mean", "low", "high", "n_seeds"]]
    ranking["baseline"] = ranking.index.isin(list(baselines))
    ranking["gain"] = ranking["mean"] - ranking.loc[ranking["baseline"], "mean"].max()
    return ranking.sort_values("mean", ascending=False)


def say_winner(ranking: pd.DataFrame, *, dataset: str, metric: str) -> str:
    """Say in Markdown who is best on one data set, by how much, and how sure that is.

    Where no method has a value, it says that there is nothing to compare.

    Parameters
    ----------
    ranking
        As `rank_methods` gives it, with the methods' titles as index.
    dataset, metric
        Their names, for the sentence.
    """
    if ranking.empty:
        return f"On **{dataset}**, {metric} is not defined for any method: nothing to compare."
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
) -> "Styler":
    """Put published values beside those of the run, as a table for a page.

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
    Columns data set, method, metric, published, ours, low and high (95 % t interval), difference
    and source; ours is missing, a dash, where the method was not run.
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
    style = pd.DataFrame(rows).style.hide(axis="index").format(precision=3, na_rep="–")
    style.set_caption("Ours are means over seeds, low and high their 95 % t interval.")
    return style.set_uuid("expected")  # else drawn: a page would have other bytes each time


def _value(row: pd.Series) -> str:
    interval = "" if np.isnan(row["low"]) else f", {row['low']:.3f} to {row['high']:.3f}"
    return f"{row['mean']:.3f}{interval}"


def _how_sure(ranking: pd.DataFrame, other: pd.Series | None) -> str:
    """Say what the intervals are of, and whether those of the best and of another overlap."""
    best = ranking.iloc[0]
    n_seeds = int(best["n_seeds"] if other is None else min(best["n_seeds"], other["n_seeds"]))
    if n_seeds < 2:
        return "With one seed, it is not known how much chance there is in the difference."
    said = f"Ranges are 95 % t intervals over {plural(n_seeds, 'seed')}"
    if other is not None and best["low"] <= other["high"]:
        return f"{said}; the two overlap, so the order may be chance."
    return f"{said}."
