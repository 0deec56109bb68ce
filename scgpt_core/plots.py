"""Figures of the report: one function a figure, each gives back a matplotlib ``Figure``.

The functions choose no backend and leave pyplot's state and the user's rcParams as they were.
Colours are Petroff's (2021) ten, which people with colour vision deficiency tell apart; an eleventh
category takes the first colour again with another marker, and unknown cells are light grey.

Shapes: N cells of a data set, D width of an embedding.
"""

import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import wraps
from itertools import cycle
from pathlib import Path
from typing import Any, Final, ParamSpec

import matplotlib as mpl
import networkx as nx
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullFormatter, PercentFormatter, StrMethodFormatter
from numpy.typing import NDArray
from scipy.cluster.hierarchy import leaves_list, linkage

from scgpt_core.keys import EMBEDDING, UNKNOWN
from scgpt_core.metrics import GRAPH_NEIGHBOURS
from scgpt_core.neighbours import build_graph, find_neighbours
from scgpt_core.runs import whole

_STYLE: Final[dict[Any, Any]] = {
    "axes.axisbelow": True,
    "axes.labelsize": 9,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlesize": 10,
    "figure.dpi": 110,
    "font.size": 9,
    "legend.fontsize": 8,
    "legend.frameon": False,
    "savefig.dpi": 150,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
}
_COLOURS: Final = tuple(mpl.colors.to_hex(colour) for colour in mpl.color_sequences["petroff10"])
_BLUE, _ORANGE, _RED = _COLOURS[:3]
_GREY: Final = "#94a4a2"
_PALE: Final = "#d9d9d9"
_MARKERS: Final = "o^sDvP"
_THOUSANDS: Final = StrMethodFormatter("{x:,.0f}")

P = ParamSpec("P")


def _styled(draw: Callable[P, Figure]) -> Callable[P, Figure]:
    """Draw under the report's style, whatever the caller's rcParams are."""

    @wraps(draw)
    def styled(*args: P.args, **kwargs: P.kwargs) -> Figure:
        with mpl.rc_context():
            mpl.rcdefaults()
            mpl.rcParams.update(_STYLE)
            return draw(*args, **kwargs)

    return styled


def _panels(
    n_rows: int, n_columns: int, *, width: float, height: float, **subplots: Any
) -> tuple[Figure, NDArray[Any]]:
    """Figure and its axes (n_rows, n_columns); width and height of one panel in inches."""
    figure = Figure(figsize=(width * n_columns, height * n_rows), layout="constrained")
    return figure, figure.subplots(n_rows, n_columns, squeeze=False, **subplots)


def save_figure(figure: Figure, path: str | Path) -> None:
    """Write a figure whole or not at all; the file's ending says the format.

    The same figure gives the same bytes: no date is written into it.
    """
    undated = {".svg": {"Date": None}, ".pdf": {"CreationDate": None}}
    with whole(path) as temporary, mpl.rc_context({"svg.hashsalt": "scgpt"}):
        figure.savefig(temporary, metadata=undated.get(temporary.suffix), dpi=_STYLE["savefig.dpi"])


def assign_styles(categories: Iterable[str]) -> dict[str, tuple[str, str]]:
    """Colour and marker of every category, in sorted order; `UNKNOWN` is pale and comes last."""
    found = set(categories)
    styles = {
        name: (_COLOURS[i % len(_COLOURS)], _MARKERS[i // len(_COLOURS) % len(_MARKERS)])
        for i, name in enumerate(sorted(found - {UNKNOWN}))
    }
    if UNKNOWN in found:
        styles[UNKNOWN] = (_PALE, _MARKERS[0])
    return styles


def compute_umap(emb_ND: NDArray[np.float32], *, seed: int) -> NDArray[np.float32]:
    """Seeded two-dimensional UMAP of an embedding (McInnes 2018), for looking at only.

    It lays out the graph that the metrics are computed on: UMAP's own search of neighbours would
    find nearly the same one, after compiling for half a minute.

    Parameters
    ----------
    emb_ND
        Cells x dimensions.
    seed
        Of the layout; one thread, so that the same seed gives the same picture.

    Returns
    -------
    float32 (N, 2).
    """
    import scanpy as sc  # here, because it takes seconds
    from anndata import AnnData

    adata = AnnData(obsm={EMBEDDING: emb_ND})
    graph = build_graph(*find_neighbours(emb_ND, min(GRAPH_NEIGHBOURS, len(emb_ND))))
    adata.obsp["connectivities"] = graph
    adata.uns["neighbors"] = {
        "connectivities_key": "connectivities",
        "params": {"method": "umap", "n_neighbors": GRAPH_NEIGHBOURS, "use_rep": EMBEDDING},
    }
    with warnings.catch_warnings():  # of what UMAP could do with packages that it does without
        warnings.filterwarnings("ignore", "Tensorflow not installed", ImportWarning)
        warnings.filterwarnings("ignore", "IProgress not found")
        sc.tl.umap(adata, random_state=seed)
    return np.asarray(adata.obsm["X_umap"], dtype=np.float32)


@_styled
def plot_embeddings(
    layouts: Mapping[str, NDArray[np.float32]],
    cells: Mapping[str, pd.DataFrame],
    *,
    columns: Sequence[str],
) -> Figure:
    """Grid of two-dimensional layouts: a row for each obs column, a column for each method.

    Parameters
    ----------
    layouts
        (N, 2) by the method's title.
    cells
        obs of the same cells in the same order, by the method's title.
    columns
        obs columns to colour by, a row of panels each.
    """
    figure, axes = _panels(len(columns), len(layouts), width=2.6, height=2.7)
    for row, column in enumerate(columns):
        styles = assign_styles(
            name for obs in cells.values() for name in obs[column].astype(str).unique()
        )
        for ax, (method, layout) in zip(axes[row], layouts.items(), strict=True):
            _scatter(ax, layout, cells[method][column].astype(str).to_numpy(), styles)
            ax.set_title(method if row == 0 else "")
        axes[row, 0].set_ylabel(f"by {column}", fontsize=10)
        handles = [
            mpl.lines.Line2D([], [], linestyle="", marker=marker, color=colour, label=name)
            for name, (colour, marker) in styles.items()
        ]
        axes[row, -1].legend(handles=handles, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure


@_styled
def plot_mapping(
    reference: NDArray[np.float32],
    reference_labels: Sequence[str],
    query: NDArray[np.float32],
    cells: pd.DataFrame,
    *,
    novelty_threshold: float,
) -> Figure:
    """Show queries on the layout of their reference: labels, confidence, and which are novel.

    Parameters
    ----------
    reference
        (S, 2), places of reference cells.
    reference_labels
        Their labels.
    query
        (Q, 2), places of the queries.
    cells
        The queries' predicted, confidence and novelty, as `LabelTransfer.map` gives them.
    novelty_threshold
        Novelty above which a query is novel.
    """
    predicted = cells["predicted"].fillna(UNKNOWN).to_numpy(str)
    names = np.array(list(reference_labels), str)
    styles = assign_styles([*names, *predicted])
    figure, axes = _panels(1, 4, width=2.6, height=2.9)
    _scatter(axes[0, 0], reference, names, styles)
    for ax in axes[0, 1:]:
        _scatter(ax, reference, np.full(len(reference), UNKNOWN), {UNKNOWN: (_PALE, _MARKERS[0])})
    _scatter(axes[0, 1], query, predicted, styles)
    points = axes[0, 2].scatter(*query.T, c=cells["confidence"], s=4, cmap="viridis", linewidths=0)
    points.set_clim(0, 1)
    figure.colorbar(points, ax=axes[0, 2], location="bottom", shrink=0.8)
    novel = (cells["novelty"] > novelty_threshold).to_numpy()
    for chosen, colour, name in ((~novel, _BLUE, "not novel"), (novel, _RED, "novel")):
        label = f"{name} ({chosen.sum():,})"
        axes[0, 3].scatter(*query[chosen].T, c=colour, s=4, linewidths=0, label=label)
    axes[0, 3].legend(loc="upper center", bbox_to_anchor=(0.5, 0), ncols=2, markerscale=2)
    titles = ("reference", "query, predicted label", "query, confidence", "query, novelty")
    for ax, title in zip(axes[0], titles, strict=True):
        ax.set_title(title)
    _label_styles(figure, styles)
    return figure


def _label_styles(figure: Figure, styles: Mapping[str, tuple[str, str]]) -> None:
    """Legend of categories to the right of a figure."""
    handles = [
        mpl.lines.Line2D([], [], linestyle="", marker=marker, color=colour, label=name)
        for name, (colour, marker) in styles.items()
    ]
    figure.legend(handles=handles, loc="outside right upper")


def _scatter(
    ax: Axes,
    layout: NDArray[np.float32],
    names: NDArray[Any],
    styles: Mapping[str, tuple[str, str]],
) -> None:
    """Points in random order: none of the categories lies on top because of its name."""
    order = np.random.default_rng(0).permutation(len(layout))
    colours = np.array([mpl.colors.to_rgba(styles[name][0]) for name in names])
    markers = np.array([styles[name][1] for name in names])
    size = float(np.clip(8000 / max(len(layout), 1), 1.5, 12))
    for marker in np.unique(markers):
        chosen = order[markers[order] == marker]
        ax.scatter(
            layout[chosen, 0],
            layout[chosen, 1],
            c=colours[chosen],
            s=size,
            marker=marker,
            linewidths=0,
            rasterized=True,
        )
    ax.set(xticks=[], yticks=[])
    ax.spines[:].set_visible(True)
    ax.spines[:].set_color(_PALE)


@_styled
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
    figure, axes = _panels(1, len(objectives), width=3.4, height=2.8)
    for ax, objective in zip(axes[0], objectives, strict=True):
        part = curve[curve["objective"] == objective]
        for i, (split, colour) in enumerate(zip(splits, (_BLUE, _RED, _ORANGE), strict=False)):
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


@_styled
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


@_styled
def plot_ranking(runs: pd.DataFrame, *, metric: str, baselines: Iterable[str]) -> Figure:
    """Who won and by how much: a panel for each data set, a row a method, a dot a seed.

    The dashed line is the best simple baseline; the number at the right of a row is the difference
    of the method's mean from it.

    Parameters
    ----------
    runs
        Columns dataset, method, seed, value.
    metric
        Name of the value, for the axis.
    baselines
        Titles of methods that are simple baselines.
    """
    baselines = set(baselines)
    datasets = list(dict.fromkeys(runs["dataset"]))
    n_methods = runs["method"].nunique()
    figure, axes = _panels(1, len(datasets), width=4.4, height=1.1 + 0.3 * n_methods)
    for ax, dataset in zip(axes[0], datasets, strict=True):
        part = runs[runs["dataset"] == dataset]
        means = part.groupby("method")["value"].mean().sort_values()
        bar = means[means.index.isin(baselines)].max()
        for row, (method, mean) in enumerate(means.items()):
            colour = _GREY if method in baselines else _BLUE
            ax.hlines(row, 0, mean, color=colour, linewidth=6, alpha=0.35)
            seeds = part.loc[part["method"] == method, "value"]
            ax.scatter(seeds, [row] * len(seeds), color=colour, s=22, zorder=3)
            if not np.isnan(bar):
                gain = f"{mean - bar:+.3f}".replace("-", "−")
                ax.text(1.02, row, gain, transform=ax.get_yaxis_transform(), va="center")
        if not np.isnan(bar):
            ax.axvline(bar, color=_RED, linestyle="--", linewidth=1.2)
        ax.set_yticks(range(len(means)), list(means.index))
        ax.set(title=dataset, xlabel=metric, xlim=(0, max(1, part["value"].max())))
    return figure


@_styled
def plot_confusion(truth: Sequence[str], predicted: Sequence[str]) -> Figure:
    """Confusion matrix, each row in per cent of the cells of that true label.

    Rows are the true labels and columns the predicted ones in the same order, so that the diagonal
    is what was right; columns of labels that no cell truly has come after them.
    """
    counts = pd.crosstab(pd.Series(list(truth), dtype=str), pd.Series(list(predicted), dtype=str))
    rows = sorted(counts.index, key=_unknown_last)
    # all true labels first, so that the diagonal stands also where one is never predicted
    columns = rows + sorted(set(counts.columns) - set(rows), key=_unknown_last)
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


def _unknown_last(name: str) -> tuple[bool, str]:
    return name == UNKNOWN, name


@_styled
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
    figure, axes = _panels(1, len(numbers), width=4.4, height=2.8)
    for ax, (label, groups) in zip(axes[0], numbers.items(), strict=True):
        edges = np.histogram_bin_edges(np.concatenate(list(groups.values())), bins=30)
        names = [name if len(values) else f"_{name}" for name, values in groups.items()]
        colours = (_BLUE, _RED, _PALE)[: len(groups)]
        ax.hist(list(groups.values()), bins=edges, stacked=True, color=colours, label=names)
        if thresholds and label in thresholds:
            threshold = thresholds[label]
            ax.axvline(threshold, color="black", linestyle="--", label=f"threshold {threshold:.3g}")
        ax.set(xlabel=label, ylabel="cells")
        ax.yaxis.set_major_locator(MaxNLocator(integer=True))
        ax.yaxis.set_major_formatter(_THOUSANDS)
        if len(groups) > 1:
            ax.legend()
    return figure


@_styled
def plot_funnel(steps: Mapping[str, int]) -> Figure:
    """Cells left after each step of quality control, as bars from top to bottom.

    Parameters
    ----------
    steps
        Cells left, by the step's name, in the order of the flow; the first is all cells.
    """
    names, left = list(steps), np.array(list(steps.values()))
    figure, axes = _panels(1, 1, width=6.4, height=0.9 + 0.36 * len(names))
    ax = axes[0, 0]
    ax.barh(names, left, color=[_GREY, *[_BLUE] * (len(names) - 1)], height=0.7)
    lost = -np.diff(left, prepend=left[:1])
    for row, (n_left, n_lost) in enumerate(zip(left, lost, strict=True)):
        text = f" {n_left:,}" + (f"  (−{n_lost:,})" if n_lost else "")
        ax.text(n_left, row, text, va="center")
    ax.invert_yaxis()
    ax.set(xlabel="cells", xlim=(0, 1.25 * max(left.max(), 1)))
    ax.xaxis.set_major_formatter(_THOUSANDS)
    return figure


@_styled
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
    figure, axes = _panels(1, 1, width=5.6, height=0.9 + 0.24 * len(ordered))
    ax = axes[0, 0]
    names, numbers = zip(*ordered, strict=True)
    colours = [_PALE if name == UNKNOWN else _BLUE for name in names]
    bars = ax.barh(names, numbers, color=colours, height=0.7)
    ax.bar_label(bars, fmt="{:,.0f}", padding=3, fontsize=8)
    ax.invert_yaxis()
    ax.margins(x=0.15)
    ax.set(xlabel="cells", ylabel=label)
    ax.xaxis.set_major_formatter(_THOUSANDS)
    return figure


@_styled
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
    figure, axes = _panels(1, len(curves), width=3.6, height=3.2, sharey=True)
    titles = list(dict.fromkeys(title for lines in curves.values() for title in lines))
    for ax, (dataset, lines) in zip(axes[0], curves.items(), strict=True):
        if diagonal:
            ax.plot([0, 1], [0, 1], color=_GREY, linestyle="--", linewidth=1)
        for title, line in lines.items():
            i = titles.index(title)
            colour, marker = _COLOURS[i % len(_COLOURS)], _MARKERS[i % len(_MARKERS)]
            marker = marker if len(line) <= 30 else ""
            ax.plot(line[x], line[y], color=colour, marker=marker, markersize=4, label=title)
            if "low" in line and line["low"].notna().any():
                ax.fill_between(line[x], line["low"], line["high"], color=colour, alpha=0.15)
        ax.set(title=dataset, xlabel=x, ylabel=y if ax is axes[0, 0] else "")
        ax.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    handles, names = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside right center")
    return figure


@_styled
def plot_costs(costs: pd.DataFrame) -> Figure:
    """Time and peak memory by method: a dot for each run, the median written beside them.

    Parameters
    ----------
    costs
        Columns method, seconds, peak_memory_mb; a row for each run.
    """
    medians = costs.groupby("method")[["seconds", "peak_memory_mb"]].median().sort_values("seconds")
    figure, axes = _panels(1, 2, width=3.8, height=0.9 + 0.3 * len(medians), sharey=True)
    labels = {"seconds": "wall-clock time, s (log scale)", "peak_memory_mb": "peak memory, MB"}
    for ax, (column, label) in zip(axes[0], labels.items(), strict=True):
        for row, method in enumerate(medians.index):
            values = costs.loc[costs["method"] == method, column]
            ax.scatter(values, [row] * len(values), color=_BLUE, s=22, zorder=3)
            median = medians.loc[method, column]
            text = f"{median:,.0f}" if median >= 100 else f"{median:.1f}"
            ax.annotate(text, (median, row), xytext=(0, 4), textcoords="offset points", ha="center")
        ax.set_yticks(range(len(medians)), list(medians.index))
        ax.grid(axis="y", color=_PALE, linewidth=0.8)
        ax.margins(x=0.2, y=0.08)
        ax.set_xlabel(label)
    axes[0, 0].set_xscale("log")
    axes[0, 0].xaxis.set_minor_formatter(NullFormatter())
    axes[0, 1].set_xlim(left=0)
    return figure


@_styled
def plot_activity(activity: pd.DataFrame, *, titles: Mapping[str, str]) -> Figure:
    """Heat map of gene programs: how active each is in each type of cells.

    Rows and columns that are alike stand together.

    Parameters
    ----------
    activity
        Programs x labels.
    titles
        What a program's row is called.
    """
    rows, columns = (_order_alike(table) for table in (activity, activity.T))
    shown = activity.iloc[rows, columns]
    limit = float(np.abs(shown.to_numpy()).max(initial=1e-9))
    figure = Figure(
        figsize=(4.2 + 0.36 * shown.shape[1], 1.6 + 0.2 * shown.shape[0]), layout="constrained"
    )
    ax = figure.subplots()
    image = ax.imshow(shown, cmap="RdBu_r", vmin=-limit, vmax=limit, aspect="auto")
    ax.set_xticks(range(shown.shape[1]), shown.columns, rotation=40, ha="right")
    ax.set_yticks(range(shown.shape[0]), [titles[program] for program in shown.index])
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    bar = figure.colorbar(image, label="mean score of the program in cells of the type", shrink=0.7)
    bar.outline.set_visible(False)
    return figure


def _order_alike(table: pd.DataFrame) -> list[int]:
    """Order of the rows in a tree of their likeness; as they are, where there are no three."""
    if len(table) < 3:
        return list(range(len(table)))
    return [int(row) for row in leaves_list(linkage(table.to_numpy(), "average"))]


@_styled
def plot_enrichment(enrichment: pd.DataFrame, *, shown: int = 20) -> Figure:
    """Dot plot of the gene sets that programs are rich in: a row a set, a column a program.

    Parameters
    ----------
    enrichment
        Columns program, gene_set, overlap, set_genes, q; those of the least q are drawn.
    shown
        Gene sets, at most.
    """
    best = enrichment.sort_values(["q", "gene_set"]).drop_duplicates("gene_set").head(shown)
    drawn = enrichment[enrichment["gene_set"].isin(best["gene_set"]) & (enrichment["q"] < 0.05)]
    programs = sorted(drawn["program"].unique(), key=int)
    sets = [name for name in best["gene_set"] if name in set(drawn["gene_set"])]
    figure = Figure(
        figsize=(5.4 + 0.32 * len(programs), 1.8 + 0.26 * len(sets)), layout="constrained"
    )
    ax = figure.subplots()
    points = ax.scatter(
        drawn["program"].map(programs.index),
        drawn["gene_set"].map(sets.index),
        s=250 * drawn["overlap"] / drawn["set_genes"],
        c=-np.log10(drawn["q"].clip(1e-12)),
        cmap="viridis_r",
        vmin=0,
    )
    ax.set_xticks(range(len(programs)), programs)
    ax.set_yticks(range(len(sets)), [name if len(name) < 60 else f"{name[:57]}…" for name in sets])
    ax.set(xlabel="program", xlim=(-0.7, len(programs) - 0.3), ylim=(len(sets) - 0.3, -0.7))
    ax.grid(color=_PALE, linewidth=0.5)
    bar = figure.colorbar(points, label="−log10 q", shrink=0.6)
    bar.outline.set_visible(False)
    shares = [0.25, 0.5, 1.0]
    handles = [ax.scatter([], [], s=250 * share, color=_GREY) for share in shares]
    ax.legend(
        handles, [f"{share:.0%} of the set" for share in shares], loc="lower left",
        bbox_to_anchor=(0, 1), ncols=len(shares),
    )  # fmt: skip
    return figure


@_styled
def plot_network(edges: pd.DataFrame, *, seed: int) -> Figure:
    """Draw a network: regulators as squares, targets as dots, arrows from the first to the second.

    Width is weight; blue is a positive sign, red a negative one, grey none; edges that are known
    are whole, the others dashed.

    Parameters
    ----------
    edges
        Columns regulator, target, weight, sign and known (0: not known).
    seed
        Of the layout.
    """
    graph = nx.from_pandas_edgelist(
        edges, "regulator", "target", ["weight", "sign", "known"], create_using=nx.DiGraph
    )
    # Parts that are not joined fly apart, where nothing holds them to the middle.
    place = nx.spring_layout(graph, k=2.2 / max(len(graph), 1) ** 0.5, seed=seed, weight=None)
    figure = Figure(figsize=(8.5, 7), layout="constrained")
    ax = figure.subplots()
    regulators = set(edges["regulator"])
    for names, shape, colour in (
        ([n for n in graph if n in regulators], "s", _ORANGE),
        ([n for n in graph if n not in regulators], "o", _PALE),
    ):
        nx.draw_networkx_nodes(
            graph, place, nodelist=names, node_shape=shape, node_color=colour, node_size=90, ax=ax
        )
    greatest = edges["weight"].max()
    for source, target, edge in graph.edges(data=True):
        nx.draw_networkx_edges(
            graph,
            place,
            edgelist=[(source, target)],
            width=0.5 + 2 * edge["weight"] / greatest,
            edge_color={1: _BLUE, -1: _RED}.get(edge["sign"], _GREY),
            style="solid" if edge["known"] else "dashed",
            arrowsize=9,
            node_size=90,
            ax=ax,
        )
    nx.draw_networkx_labels(graph, place, font_size=7, verticalalignment="bottom", ax=ax)
    ax.set_axis_off()
    return figure
