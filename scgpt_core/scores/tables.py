"""Tables over methods and seeds."""

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import t

from scgpt_core.scores.definitions import AT, MAIN, RANKED_BY, define_metrics

_LEVEL: Final = 0.95
_RESAMPLES: Final = 2000


def summarise_scores(scores: pd.DataFrame) -> pd.DataFrame:
    """Mean over seeds of every metric of every method, with its 95 % intervals.

    Parameters
    ----------
    scores
        Tidy, with `COLUMNS`.

    Returns
    -------
    Columns task, dataset, method, metric; mean, low and high (t interval, which the report shows),
    bootstrap_low and bootstrap_high, and n_seeds, of the seeds that have a value. The ends of
    intervals are missing where it is one.
    """
    keys = ["task", "dataset", "method", "metric"]
    rows = []
    for key, values in scores.groupby(keys, sort=False)["value"]:
        there = values.dropna().to_numpy()
        ends = (*_t_interval(there), *_bootstrap_interval(there))
        rows.append((*key, values.mean(), *ends, len(there)))
    ends_of = ["low", "high", "bootstrap_low", "bootstrap_high"]
    return pd.DataFrame(rows, columns=[*keys, "mean", *ends_of, "n_seeds"])


def learning_curve(summary: pd.DataFrame, *, dataset: str, method: str) -> pd.DataFrame:
    """Macro-F1 of one method by the share of the labels that it learned from.

    Parameters
    ----------
    summary
        As `summarise_scores` gives it.
    dataset, method
        Which of them.

    Returns
    -------
    Columns "share of the labels", "macro-F1", low and high, by ascending share.
    """
    part = summary[(summary["dataset"] == dataset) & (summary["method"] == method)]
    part = part[part["metric"].str.fullmatch(f"macro_f1({AT}.+)?")]
    per_cent = part["metric"].str.removeprefix("macro_f1").str.removeprefix(AT).replace("", "100")
    curve = part[["mean", "low", "high"]].rename(columns={"mean": "macro-F1"})
    curve.insert(0, "share of the labels", per_cent.astype(float) / 100)
    return curve.sort_values("share of the labels", ignore_index=True)


def _t_interval(values: NDArray[Any]) -> tuple[float, float]:
    """95 % interval of a mean (Student 1908)."""
    if len(values) < 2:
        return float("nan"), float("nan")
    error = values.std(ddof=1) / np.sqrt(len(values))
    reach = float(t.ppf((1 + _LEVEL) / 2, len(values) - 1) * error)
    return float(values.mean()) - reach, float(values.mean()) + reach


def _bootstrap_interval(values: NDArray[Any]) -> tuple[float, float]:
    """95 % interval of a mean by the percentile bootstrap (Efron 1979).

    It is no wider than the values are: that of three is their range, which holds the mean of many
    three times of four.
    """
    if len(values) < 2:
        return float("nan"), float("nan")
    drawn = np.random.default_rng(0).integers(0, len(values), (_RESAMPLES, len(values)))
    ends = [(1 - _LEVEL) / 2, (1 + _LEVEL) / 2]
    low, high = np.quantile(values[drawn].mean(axis=1), ends)
    return float(low), float(high)


def main_table(scores: pd.DataFrame, titles: Mapping[str, str] | None = None) -> str:
    """Text table of `MAIN`: the methods of each data set, the best first, the best values starred.

    Parameters
    ----------
    scores
        Tidy, with `COLUMNS`.
    titles
        What to call the methods; a method that is not there is called by its name.
    """
    titles = titles or {}
    shown = [metric for metrics_of_task in MAIN.values() for metric in metrics_of_task]
    summary = summarise_scores(scores[scores["metric"].isin(shown)])
    width = max(len(titles.get(method, method)) for method in summary["method"]) + 4
    definitions = define_metrics().set_index(["task", "metric"])
    blocks, legend = [], []
    for (task, dataset), part in summary.groupby(["task", "dataset"], sort=False):
        shown, defined = list(MAIN[str(task)]), definitions.loc[str(task)]
        table = part.pivot_table("mean", index="method", columns="metric", dropna=False)[shown]
        table = table.sort_values(RANKED_BY[str(task)], ascending=False)
        best = table.max()
        lines = [f"{task}: {dataset}", " " * width]
        lines[1] += "".join(f"{defined['title'][metric]:>16}" for metric in shown)
        for method, row in table.iterrows():
            cells = (
                "- " if np.isnan(row[m]) else f"{row[m]:.3f}{'*' if row[m] == best[m] else ' '}"
                for m in shown
            )
            name = titles.get(str(method), str(method))
            lines.append(f"  {name:<{width - 2}}" + "".join(f"{cell:>17}"[1:] for cell in cells))
        blocks.append("\n".join(lines))
        legend += [f"{defined['title'][m]}: {defined['definition'][m]}" for m in shown]
    return "\n\n".join([*blocks, "\n".join(dict.fromkeys(legend))])
