"""How networks agree with known regulation, beside chance and beside each other.

Shapes: T regulators, G targets, R random networks.
"""

import logging
import random
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final, NamedTuple

import igraph as ig
import networkx as nx
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import ttest_ind

from scgpt_core.networks.coexpression import PEARSON
from scgpt_core.networks.edges import ALL, CONTROL, DIFFERENCE, PERTURBED, spread_edges, to_graph
from scgpt_core.networks.gene_sets import (
    RANKED,
    GeneSets,
    rank_sets,
    read_gene_sets,
    read_regulation,
    targets_by_regulator,
)
from scgpt_core.networks.preparation import LOG, SUBSET, NetworkCells, open_network
from scgpt_core.runs import whole, write_parquet

EXPRESSION: Final = "expression"
"""The simplest way to what changes: the genes' own differential expression."""
ALL_GENES, SUBSET_GENES = "all", "subset"
REGULON, PATHWAY = "regulon", "pathway"
"""Kinds of gene sets: known targets of a factor, and pathways."""
N_RANDOM: Final = 100
_SWAPS: Final = 10
"""Of an edge with another, on average, in a random network."""

logger = logging.getLogger(__name__)


class Truth(NamedTuple):
    """Known edges among the genes of a network, and random ones of equal degrees."""

    regulators: list[str]
    """(T,), those with a known target among the genes."""
    targets: list[str]
    """(G,), those with a known regulator, measured or not: genes that somebody has studied."""
    known_TG: NDArray[np.bool_]
    candidate_TG: NDArray[np.bool_]
    """All pairs but a gene with itself."""
    random_RTG: NDArray[np.bool_]
    """As `known_TG`, but who regulates whom is drawn: each regulator keeps its number of targets,
    and each target that of its regulators."""


def known_network(
    regulation: pd.DataFrame, regulators: Collection[str], genes: Collection[str], *, seed: int
) -> Truth | None:
    """Known edges from regulators to genes; None where there is none.

    Parameters
    ----------
    regulation
        Of `read_regulation`.
    """
    edges = regulation[regulation["source"].isin(regulators) & regulation["target"].isin(genes)]
    if edges.empty:
        return None
    sources = sorted(set(edges["source"]))
    targets = sorted(set(regulation["target"]) & set(genes))
    place_T = {name: i for i, name in enumerate(sources)}
    place_G = {name: i for i, name in enumerate(targets)}
    known_TG = np.zeros((len(sources), len(targets)), np.bool_)
    known_TG[edges["source"].map(place_T), edges["target"].map(place_G)] = True
    candidate_TG = np.array(sources)[:, None] != np.array(targets)[None]
    random_RTG = np.zeros((N_RANDOM, *known_TG.shape), np.bool_)
    for r, drawn in enumerate(_rewire(edges, seed)):
        for source, target in drawn:
            random_RTG[r, place_T[source], place_G[target]] = True
    return Truth(sources, targets, known_TG, candidate_TG, random_RTG)


def _rewire(edges: pd.DataFrame, seed: int) -> Iterator[list[tuple[str, str]]]:
    """Swap the ends of edges, so that the degrees stay: `N_RANDOM` times, from the last state."""
    graph = ig.Graph.TupleList(
        edges[["source", "target"]].itertuples(index=False, name=None), directed=True
    )
    names = graph.vs["name"]
    with _igraph_seeded(seed):
        for _ in range(N_RANDOM):
            graph.rewire(_SWAPS * graph.ecount())
            yield [(names[a], names[b]) for a, b in graph.get_edgelist()]


@contextmanager
def _igraph_seeded(seed: int) -> Iterator[None]:
    ig.set_random_number_generator(random.Random(seed))
    try:
        yield
    finally:
        ig.set_random_number_generator(random)


def score_network(edges: pd.DataFrame, truth: Truth) -> dict[str, float]:
    """How well one condition's edges are ranked.

    Parameters
    ----------
    edges
        Of `tabulate_edges`; pairs without an edge rank last.

    Returns
    -------
    "AUPRC", and "AUPRC ratio" over the share of known edges among all pairs, which is what chance
    gives; "early precision" of as many first edges as there are known ones, and its ratio (Pratapa
    et al. 2020); "random AUPRC", mean over random networks of equal degrees, and "p", the share of
    them (with this one) whose AUPRC is no less; "known edges".
    """
    weight_TG = spread_edges(edges, truth.regulators, truth.targets)
    weight = np.nan_to_num(weight_TG, nan=-1.0)[truth.candidate_TG]
    known = truth.known_TG[truth.candidate_TG]
    share = known.mean()
    found = float(average_precisions([known], weight)[0])
    drawn_R = average_precisions((each[truth.candidate_TG] for each in truth.random_RTG), weight)
    first = np.argsort(-weight, kind="stable")[: known.sum()]
    early = known[first].mean()
    return {
        "known edges": int(known.sum()),
        "AUPRC": found,
        "AUPRC ratio": found / share,
        "early precision": early,
        "early precision ratio": early / share,
        "random AUPRC": float(drawn_R.mean()),
        "p": (1 + np.sum(drawn_R >= found)) / (1 + len(drawn_R)),
    }


def average_precisions(
    truths: Iterable[NDArray[np.bool_]], weight_P: NDArray[np.floating]
) -> NDArray[np.float64]:
    """Areas under the precision-recall curves of one ranking for several truths, each (P,): (R,).

    As scikit-learn's `average_precision_score`, which sorts the P pairs anew for each truth. Memory
    does not grow with the truths.
    """
    order = np.argsort(-weight_P, kind="stable")
    last = np.flatnonzero(np.append(np.diff(weight_P[order]) != 0, True))  # of equal weights
    areas = []
    for known_P in truths:
        hits = known_P[order].cumsum()[last]
        areas.append((np.diff(hits, prepend=0) * (hits / (last + 1))).sum() / known_P.sum())
    return np.array(areas)


def score_networks(
    networks: Mapping[str, pd.DataFrame],
    cells: NetworkCells,
    regulation: pd.DataFrame,
    *,
    seed: int,
) -> pd.DataFrame:
    """Score every condition of every source: source, condition, genes, metric, value.

    Each is scored on all targets ("all"), as far as it has edges to them, and on the subset that
    slow methods are run on ("subset").
    """
    subset = cells.adata.var_names[cells.adata.var[SUBSET]].to_list()
    rows = []
    for which, genes in ((ALL_GENES, cells.genes), (SUBSET_GENES, subset)):
        truth = known_network(regulation, cells.regulators, genes, seed=seed)
        if truth is None:
            continue
        for source, edges in networks.items():
            if which == ALL_GENES and set(edges["target"]) <= set(subset) < set(cells.genes):
                continue  # it was run on the subset alone
            for condition, part in edges.groupby("condition", sort=False):
                scores = score_network(part, truth)
                rows += [(source, condition, which, *item) for item in scores.items()]
    return pd.DataFrame(rows, columns=["source", "condition", "genes", "metric", "value"])


def gene_changes(networks: Mapping[str, pd.DataFrame], cells: NetworkCells) -> pd.DataFrame:
    """How much each gene changes between the conditions, by source: genes x sources.

    A network says it by the mean weight of the edges to the gene in the difference; "expression" is
    the gene's own absolute t statistic (Welch), what needs no network at all. Sources without edges
    to all genes are left out.
    """
    logged = cells.adata.layers[LOG].toarray()
    t_G = ttest_ind(
        logged[cells.rows[PERTURBED]], logged[cells.rows[CONTROL]], equal_var=False
    ).statistic
    changes = {EXPRESSION: pd.Series(np.abs(np.nan_to_num(t_G)), index=cells.genes)}
    for source, edges in networks.items():
        difference = edges[edges["condition"] == DIFFERENCE]
        mean = difference.groupby("target")["weight"].mean()
        if set(cells.genes) <= set(mean.index):
            changes[source] = mean.loc[cells.genes]
    return pd.DataFrame(changes)


def rank_changes(changes: pd.DataFrame, kinds: Mapping[str, GeneSets]) -> pd.DataFrame:
    """Which sets the genes that change are of: source, kind, and the columns of `rank_sets`.

    Parameters
    ----------
    changes
        Of `gene_changes`.
    kinds
        Gene sets by kind, such as pathways, and targets of a factor.
    """
    tables = [
        rank_sets(changes[source].to_numpy(), changes.index.to_list(), sets).assign(
            source=source, kind=kind
        )
        for source in changes.columns.astype(str)
        for kind, sets in kinds.items()
    ]
    return pd.concat(tables, ignore_index=True)


def graph_edges(
    network: pd.DataFrame, correlation: pd.DataFrame, regulation: pd.DataFrame, n_edges: int
) -> pd.DataFrame:
    """Give the strongest edges of a network as they are drawn.

    Parameters
    ----------
    network
        Of `tabulate_edges`; its difference is taken, where it has one.
    correlation
        The network of Pearson's r: its sign stands where the method has none.

    Returns
    -------
    regulator, target, weight, sign, and known: 1 or -1 as CollecTRI has it, 0 where it does not.
    """
    condition = DIFFERENCE if (network["condition"] == DIFFERENCE).any() else ALL
    pair = ["regulator", "target"]
    part = network[network["condition"] == condition]
    order = part.sort_values(["weight", *pair], ascending=[False, True, True])
    edges = order.head(n_edges)[[*pair, "weight", "sign"]]
    signs = correlation[correlation["condition"] == condition][[*pair, "sign"]]
    edges = edges.merge(signs.rename(columns={"sign": "correlation"}), on=pair, how="left")
    edges["sign"] = edges["sign"].where(edges["sign"] != 0, edges["correlation"].fillna(0))
    modes = regulation.rename(columns={"source": "regulator", "weight": "known"})
    edges = edges.drop(columns="correlation").merge(modes, on=pair, how="left")
    return edges.fillna({"known": 0}).astype({"sign": int, "known": int, "weight": float})


def validate_dataset(
    cells: str | Path,
    networks: Mapping[str, str | Path],
    output_folder: str | Path,
    *,
    regulation: str | Path,
    gene_sets: str | Path,
    n_edges: int,
    seed: int,
) -> None:
    """Write what networks are worth, and their strongest edges.

    Parameters
    ----------
    cells
        h5ad of `prepare_network`.
    networks
        Tables of edges by source; those of Pearson's r among them.
    output_folder
        Gets `scores.parquet` (see `score_networks`), `changes.parquet` (see `rank_changes`; empty
        without two conditions), and by source `{source}_graph.parquet` (see `graph_edges`) and
        `{source}.graphml`.
    n_edges
        Edges of a graph.
    """
    folder = Path(output_folder)
    network_cells, known = open_network(cells), read_regulation(regulation)
    edges = {source: pd.read_parquet(path) for source, path in networks.items()}
    scores = score_networks(edges, network_cells, known, seed=seed)
    for line in scores[scores["metric"] == "AUPRC ratio"].itertuples():
        logger.info("%s, %s, %s genes: AUPRC ratio %.3f", *line[1:4], line.value)
    tables = {"scores": scores, "changes": pd.DataFrame(columns=["source", "kind", *RANKED])}
    if PERTURBED in network_cells.rows:
        kinds = {REGULON: targets_by_regulator(known), PATHWAY: read_gene_sets(gene_sets)}
        tables["changes"] = rank_changes(gene_changes(edges, network_cells), kinds)
    for source, table in edges.items():
        drawn = graph_edges(table, edges[PEARSON], known, n_edges)
        tables[f"{source}_graph"] = drawn
        with whole(folder / f"{source}.graphml") as temporary:
            nx.write_graphml(to_graph(drawn), temporary)
    for name, table in tables.items():
        write_parquet(folder / f"{name}.parquet", table)
