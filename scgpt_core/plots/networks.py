"""Gene programs and gene networks."""

from collections.abc import Mapping

import networkx as nx
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from scipy.cluster.hierarchy import leaves_list, linkage

from scgpt_core.plots.style import BLUE, GREY, ORANGE, PALE, RED, styled


@styled
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


@styled
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
    ax.grid(color=PALE, linewidth=0.5)
    bar = figure.colorbar(points, label="−log10 q", shrink=0.6)
    bar.outline.set_visible(False)
    shares = [0.25, 0.5, 1.0]
    handles = [ax.scatter([], [], s=250 * share, color=GREY) for share in shares]
    ax.legend(
        handles, [f"{share:.0%} of the set" for share in shares], loc="lower left",
        bbox_to_anchor=(0, 1), ncols=len(shares),
    )  # fmt: skip
    return figure


@styled
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
        ([n for n in graph if n in regulators], "s", ORANGE),
        ([n for n in graph if n not in regulators], "o", PALE),
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
            edge_color={1: BLUE, -1: RED}.get(edge["sign"], GREY),
            style="solid" if edge["known"] else "dashed",
            arrowsize=9,
            node_size=90,
            ax=ax,
        )
    nx.draw_networkx_labels(graph, place, font_size=7, verticalalignment="bottom", ax=ax)
    ax.set_axis_off()
    return figure
