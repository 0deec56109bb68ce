"""Embeddings and mappings, as points in two dimensions.

Shapes: N cells of a data set, D width of an embedding.
"""

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from scgpt_core.keys import EMBEDDING, UNKNOWN
from scgpt_core.plots.style import BLUE, MARKERS, PALE, RED, assign_styles, panels, styled


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
    import scanpy as sc  # here, because these take seconds that other figures need not wait
    from anndata import AnnData

    from scgpt_core.metrics import GRAPH_NEIGHBOURS
    from scgpt_core.neighbours import build_graph, find_neighbours

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


@styled
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
    figure, axes = panels(len(columns), len(layouts), width=2.6, height=2.7)
    for row, column in enumerate(columns):
        styles = assign_styles(
            name for obs in cells.values() for name in obs[column].astype(str).unique()
        )
        for ax, (method, layout) in zip(axes[row], layouts.items(), strict=True):
            _scatter(ax, layout, cells[method][column].astype(str).to_numpy(), styles)
            ax.set_title(method if row == 0 else "")
        axes[row, 0].set_ylabel(f"by {column}", fontsize=10)
        axes[row, -1].legend(handles=_handles(styles), loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure


@styled
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
    figure, axes = panels(1, 4, width=2.6, height=2.9)
    _scatter(axes[0, 0], reference, names, styles)
    for ax in axes[0, 1:]:
        _scatter(ax, reference, np.full(len(reference), UNKNOWN), {UNKNOWN: (PALE, MARKERS[0])})
    _scatter(axes[0, 1], query, predicted, styles)
    points = axes[0, 2].scatter(*query.T, c=cells["confidence"], s=4, cmap="viridis", linewidths=0)
    points.set_clim(0, 1)
    figure.colorbar(points, ax=axes[0, 2], location="bottom", shrink=0.8)
    novel = (cells["novelty"] > novelty_threshold).to_numpy()
    for chosen, colour, name in ((~novel, BLUE, "not novel"), (novel, RED, "novel")):
        label = f"{name} ({chosen.sum():,})"
        axes[0, 3].scatter(*query[chosen].T, c=colour, s=4, linewidths=0, label=label)
    axes[0, 3].legend(loc="upper center", bbox_to_anchor=(0.5, 0), ncols=2, markerscale=2)
    titles = ("reference", "query, predicted label", "query, confidence", "query, novelty")
    for ax, title in zip(axes[0], titles, strict=True):
        ax.set_title(title)
    figure.legend(handles=_handles(styles), loc="outside right upper")
    return figure


def _handles(styles: Mapping[str, tuple[str, str]]) -> list[mpl.lines.Line2D]:
    """Points of categories, for a legend."""
    return [
        mpl.lines.Line2D([], [], linestyle="", marker=marker, color=colour, label=name)
        for name, (colour, marker) in styles.items()
    ]


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
    ax.spines[:].set_color(PALE)
