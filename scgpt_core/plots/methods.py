"""Methods beside each other: scores, ranks, confusions, costs."""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter, PercentFormatter

from scgpt_core.plots.style import (
    BLUE,
    COLOURS,
    GREY,
    MARKERS,
    PALE,
    RED,
    panels,
    styled,
    unknown_last,
)


@styled
def plot_scores(
    table: pd.DataFrame, *, groups: Mapping[str, str], baselines: Iterable[str] = ()
) -> Figure:
    """Heat map of scores: a row for each method, a column for each metric, the best value in bold.

    Each column is coloured from its worst (pale) to its best method (dark); the numbers are the
    scores. Names of simple baselines are in italics.

    Parameters
    ----------
    table
        Methods x metrics, greater is better, missing where a metric is not defined.
    groups
        Heading over the columns, by metric; columns of a heading stand together.
    baselines
        Titles of methods that are simple baselines.
    """
    n_rows, n_columns = table.shape
    figure = Figure(figsize=(1.9 + 0.64 * n_columns, 1.5 + 0.32 * n_rows), layout="constrained")
    ax = figure.subplots()
    values = table.to_numpy(dtype=float)
    low, high = np.fmin.reduce(values), np.fmax.reduce(values)  # NaN where all are
    shade = (values - low) / np.where(high > low, high - low, 1)
    ax.imshow(shade, cmap="Blues", vmin=-0.1, vmax=1.5, aspect="auto")
    for (row, column), value in np.ndenumerate(values):
        best = value == high[column]
        text = "–" if np.isnan(value) else f"{value:.3f}"
        ax.text(
            column, row, text, ha="center", va="center", fontweight="bold" if best else "normal"
        )
    ax.set_xticks(
        range(n_columns), list(table.columns), rotation=40, ha="left", rotation_mode="anchor"
    )
    ax.set_yticks(range(n_rows), list(table.index))
    ax.tick_params(length=0, labeltop=True, labelbottom=False)
    for label, method in zip(ax.get_yticklabels(), table.index, strict=True):
        label.set_fontstyle("italic" if method in set(baselines) else "normal")
    headings = [groups[metric] for metric in table.columns]
    for start in (i for i in range(n_columns) if i == 0 or headings[i] != headings[i - 1]):
        end = next(
            (i for i in range(start, n_columns) if headings[i] != headings[start]), n_columns
        )
        ax.text(
            (start + end - 1) / 2,
            n_rows - 0.35,
            headings[start],
            ha="center",
            va="top",
            color="#555555",
        )
        ax.axvline(start - 0.5, color="white", linewidth=4)
    ax.spines[:].set_visible(False)
    return figure


@styled
def plot_ranking(runs: pd.DataFrame, *, metric: str, baselines: Iterable[str]) -> Figure:
    """Who won and by how much: a panel for each data set, a row a method, a dot a seed.

    The dashed line is the best simple baseline; the number at the right of a row is the difference
    of the method's mean from it.

    Parameters
    ----------
    runs
        Columns dataset, method, seed, value; methods without a value are left out.
    metric
        Name of the value, for the axis.
    baselines
        Titles of methods that are simple baselines.
    """
    baselines = set(baselines)
    datasets = list(dict.fromkeys(runs["dataset"]))
    n_methods = runs["method"].nunique()
    figure, axes = panels(1, len(datasets), width=4.4, height=1.1 + 0.3 * n_methods)
    for ax, dataset in zip(axes[0], datasets, strict=True):
        part = runs[runs["dataset"] == dataset].dropna(subset="value")
        means = part.groupby("method")["value"].mean().sort_values()
        bar = means[means.index.isin(baselines)].max()
        for row, (method, mean) in enumerate(means.items()):
            colour = GREY if method in baselines else BLUE
            ax.hlines(row, 0, mean, color=colour, linewidth=6, alpha=0.35)
            seeds = part.loc[part["method"] == method, "value"]
            ax.scatter(seeds, [row] * len(seeds), color=colour, s=22, zorder=3)
            if not np.isnan(bar):
                gain = f"{mean - bar:+.3f}".replace("-", "−")
                ax.text(1.02, row, gain, transform=ax.get_yaxis_transform(), va="center")
        if not np.isnan(bar):
            ax.axvline(bar, color=RED, linestyle="--", linewidth=1.2)
        ax.set_yticks(range(len(means)), list(means.index))
        ax.set(
            title=dataset,
            xlabel=metric,
            xlim=(min(0, part["value"].min()), max(1, part["value"].max())),
        )
    return figure


@styled
def plot_confusion(truth: Sequence[str], predicted: Sequence[str]) -> Figure:
    """Confusion matrix, each row in per cent of the cells of that true label.

    Rows are the true labels and columns the predicted ones in the same order, so that the diagonal
    is what was right; columns of labels that no cell truly has come after them.
    """
    counts = pd.crosstab(pd.Series(list(truth), dtype=str), pd.Series(list(predicted), dtype=str))
    rows = sorted(counts.index, key=unknown_last)
    # all true labels first, so that the diagonal stands also where one is never predicted
    columns = rows + sorted(set(counts.columns) - set(rows), key=unknown_last)
    counts = counts.reindex(index=rows, columns=columns, fill_value=0)
    shares = counts.div(counts.sum(axis=1), axis=0).to_numpy()
    figure = Figure(
        figsize=(2.6 + 0.42 * len(columns), 2.2 + 0.34 * len(rows)), layout="constrained"
    )
    ax = figure.subplots()
    image = ax.imshow(shares, cmap="cividis", vmin=0, vmax=1, aspect="auto")
    for (row, column), share in np.ndenumerate(shares):
        if share >= 0.005:
            ax.text(
                column, row, f"{100 * share:.0f}", ha="center", va="center", fontsize=7.5,
                color="white" if share < 0.6 else "black",
            )  # fmt: skip
    ax.set_xticks(range(len(columns)), columns, rotation=40, ha="right", rotation_mode="anchor")
    ax.set_yticks(range(len(rows)), [f"{name} ({counts.loc[name].sum():,})" for name in rows])
    ax.set(xlabel="predicted label", ylabel="true label (cells)")
    ax.tick_params(length=0)
    figure.colorbar(
        image, label="share of the true label", format=PercentFormatter(1), shrink=0.8
    ).outline.set_visible(False)
    return figure


@styled
def plot_curves(
    curves: Mapping[str, Mapping[str, pd.DataFrame]], *, x: str, y: str, diagonal: bool = False
) -> Figure:
    """Lines of every method, a panel for each data set.

    Parameters
    ----------
    curves
        By data set and title of a method: columns `x` and `y`, shares of 1, and `low` and `high`
        where there are intervals.
    x, y
        Columns, and what the axes are called.
    diagonal
        Draw where the two are equal.
    """
    figure, axes = panels(1, len(curves), width=3.6, height=3.2, sharey=True)
    titles = list(dict.fromkeys(title for lines in curves.values() for title in lines))
    for ax, (dataset, lines) in zip(axes[0], curves.items(), strict=True):
        if diagonal:
            ax.plot([0, 1], [0, 1], color=GREY, linestyle="--", linewidth=1)
        for title, line in lines.items():
            i = titles.index(title)
            colour, marker = COLOURS[i % len(COLOURS)], MARKERS[i % len(MARKERS)]
            marker = marker if len(line) <= 30 else ""
            ax.plot(line[x], line[y], color=colour, marker=marker, markersize=4, label=title)
            if "low" in line and line["low"].notna().any():
                ax.fill_between(line[x], line["low"], line["high"], color=colour, alpha=0.15)
        ax.set(title=dataset, xlabel=x, ylabel=y if ax is axes[0, 0] else "")
        ax.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    handles, names = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside right center")
    return figure


@styled
def plot_costs(costs: pd.DataFrame) -> Figure:
    """Time and peak memory by method: a dot for each run, the median written beside them.

    Parameters
    ----------
    costs
        Columns method, seconds, peak_memory_mb; a row for each run.
    """
    medians = costs.groupby("method")[["seconds", "peak_memory_mb"]].median().sort_values("seconds")
    figure, axes = panels(1, 2, width=3.8, height=0.9 + 0.3 * len(medians), sharey=True)
    labels = {"seconds": "wall-clock time, s (log scale)", "peak_memory_mb": "peak memory, MB"}
    for ax, (column, label) in zip(axes[0], labels.items(), strict=True):
        for row, method in enumerate(medians.index):
            values = costs.loc[costs["method"] == method, column]
            ax.scatter(values, [row] * len(values), color=BLUE, s=22, zorder=3)
            median = medians.loc[method, column]
            text = f"{median:,.0f}" if median >= 100 else f"{median:.1f}"
            ax.annotate(text, (median, row), xytext=(0, 4), textcoords="offset points", ha="center")
        ax.set_yticks(range(len(medians)), list(medians.index))
        ax.grid(axis="y", color=PALE, linewidth=0.8)
        ax.margins(x=0.2, y=0.08)
        ax.set_xlabel(label)
    axes[0, 0].set_xscale("log")
    axes[0, 0].xaxis.set_minor_formatter(NullFormatter())
    axes[0, 1].set_xlim(left=0)
    return figure
