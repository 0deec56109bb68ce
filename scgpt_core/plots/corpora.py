"""Corpora and training: what is in them, what was left out, how the loss fell."""

from collections.abc import Mapping
from itertools import cycle
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from scgpt_core.keys import UNKNOWN
from scgpt_core.plots.style import BLUE, GREY, ORANGE, PALE, RED, THOUSANDS, panels, styled


@styled
def plot_learning_curve(
    curve: pd.DataFrame, *, baselines: Mapping[str, Mapping[str, float]] | None = None
) -> Figure:
    """Loss by step: a panel for each objective, a line for each split, baselines dashed.

    Parameters
    ----------
    curve
        Columns step, split, objective, value.
    baselines
        Loss of a simple predictor by its name, by objective: what the model must get below.
    """
    objectives = list(dict.fromkeys(curve["objective"]))
    splits = list(dict.fromkeys(curve["split"]))
    figure, axes = panels(1, len(objectives), width=3.4, height=2.8)
    for ax, objective in zip(axes[0], objectives, strict=True):
        part = curve[curve["objective"] == objective]
        for i, (split, colour) in enumerate(zip(splits, (BLUE, RED, ORANGE), strict=False)):
            line = part[part["split"] == split].sort_values("step")
            if len(line):
                marker = "" if i == 0 and len(line) > 30 else "o"
                ax.plot(
                    line["step"],
                    line["value"],
                    color=colour,
                    marker=marker,
                    markersize=3,
                    label=split,
                )
        lines = (baselines or {}).get(objective, {})
        for (name, value), dash in zip(lines.items(), cycle(("--", ":", "-.")), strict=False):
            ax.axhline(value, color="#555555", linestyle=dash, linewidth=1.2, label=name)
        ax.set(title=objective, xlabel="optimiser step", ylabel="loss" if ax is axes[0, 0] else "")
        ax.legend()
    return figure


@styled
def plot_histograms(
    numbers: Mapping[str, Mapping[str, NDArray[Any]]],
    *,
    thresholds: Mapping[str, float] | None = None,
) -> Figure:
    """Stacked histograms of numbers by group of cells, a panel for each number.

    Parameters
    ----------
    numbers
        For each number's name (with its unit) the values by group, such as cells with a right and
        a wrong label; at most three groups, the same in every panel. Empty ones get no legend.
    thresholds
        Where a decision is made, by the number's name: a dashed line.
    """
    figure, axes = panels(1, len(numbers), width=4.4, height=2.8)
    for ax, (label, groups) in zip(axes[0], numbers.items(), strict=True):
        edges = np.histogram_bin_edges(np.concatenate(list(groups.values())), bins=30)
        names = [name if len(values) else f"_{name}" for name, values in groups.items()]
        colours = (BLUE, RED, PALE)[: len(groups)]
        ax.hist(list(groups.values()), bins=edges, stacked=True, color=colours, label=names)
        if thresholds and label in thresholds:
            threshold = thresholds[label]
            ax.axvline(threshold, color="black", linestyle="--", label=f"threshold {threshold:.3g}")
        ax.set(xlabel=label, ylabel="cells")
        ax.yaxis.set_major_locator(MaxNLocator(integer=True))
        ax.yaxis.set_major_formatter(THOUSANDS)
        if len(groups) > 1:
            ax.legend()
    return figure


@styled
def plot_funnel(steps: Mapping[str, int]) -> Figure:
    """Cells left after each step of quality control, as bars from top to bottom.

    Parameters
    ----------
    steps
        Cells left, by the step's name, in the order of the flow; the first is all cells.
    """
    names, left = list(steps), np.array(list(steps.values()))
    figure, axes = panels(1, 1, width=6.4, height=0.9 + 0.36 * len(names))
    ax = axes[0, 0]
    ax.barh(names, left, color=[GREY, *[BLUE] * (len(names) - 1)], height=0.7)
    lost = -np.diff(left, prepend=left[:1])
    for row, (n_left, n_lost) in enumerate(zip(left, lost, strict=True)):
        text = f" {n_left:,}" + (f"  (−{n_lost:,})" if n_lost else "")
        ax.text(n_left, row, text, va="center")
    ax.invert_yaxis()
    ax.set(xlabel="cells", xlim=(0, 1.25 * max(left.max(), 1)))
    ax.xaxis.set_major_formatter(THOUSANDS)
    return figure


@styled
def plot_counts(counts: Mapping[str, int], *, label: str, shown: int = 30) -> Figure:
    """Horizontal bars of how many cells fall in each category, the largest at the top.

    Parameters
    ----------
    counts
        Cells by category.
    label
        What the categories are.
    shown
        Categories that have a bar of their own; the rest share one.
    """
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    if len(ordered) > shown:
        rest = ordered[shown:]
        ordered = [*ordered[:shown], (f"{len(rest):,} others", sum(n for _, n in rest))]
    figure, axes = panels(1, 1, width=5.6, height=0.9 + 0.24 * len(ordered))
    ax = axes[0, 0]
    names, numbers = zip(*ordered, strict=True)
    colours = [PALE if name == UNKNOWN else BLUE for name in names]
    bars = ax.barh(names, numbers, color=colours, height=0.7)
    ax.bar_label(bars, fmt="{:,.0f}", padding=3, fontsize=8)
    ax.invert_yaxis()
    ax.margins(x=0.15)
    ax.set(xlabel="cells", ylabel=label)
    ax.xaxis.set_major_formatter(THOUSANDS)
    return figure
