"""Edges are one table whatever they are from; their difference and their graph follow from it."""

import networkx as nx
import numpy as np
import pandas as pd

from scgpt_core.networks.edges import spread_edges, tabulate_edges, to_graph

REGULATORS, GENES = ["A", "B"], ["A", "B", "C"]
CONTROL = np.array([[0.9, 0.25, -0.5], [0.5, 0.9, np.nan]])
PERTURBED = np.array([[0.9, 0.5, 0.25], [0.25, 0.9, 1.0]])


def edges_of(*, signed: bool) -> pd.DataFrame:
    values = {"control": np.abs(CONTROL) if not signed else CONTROL, "perturbed": PERTURBED}
    table = tabulate_edges(values, REGULATORS, GENES, signed=signed)
    return table.set_index(["condition", "regulator", "target"])[["weight", "sign"]]


def test_edges_have_weights_signs_and_a_difference() -> None:
    expected = {
        ("control", "A", "B"): (0.25, 1),
        ("control", "A", "C"): (0.5, -1),
        ("control", "B", "A"): (0.5, 1),
        ("perturbed", "A", "B"): (0.5, 1),
        ("perturbed", "A", "C"): (0.25, 1),
        ("perturbed", "B", "A"): (0.25, 1),
        ("perturbed", "B", "C"): (1.0, 1),
        ("difference", "A", "B"): (0.25, 1),
        ("difference", "A", "C"): (0.75, 1),
        ("difference", "B", "A"): (0.25, -1),
    }
    found = edges_of(signed=True)
    assert {
        key: tuple(row) for key, row in zip(found.index, found.to_numpy(), strict=True)
    } == expected


def test_methods_without_signs_have_one_in_the_difference_alone() -> None:
    found = edges_of(signed=False)["sign"]
    assert set(found.loc[["control", "perturbed"]]) == {0}
    assert dict(found.loc["difference"]) == {("A", "B"): 1, ("A", "C"): -1, ("B", "A"): -1}


def test_edges_become_a_matrix_and_a_graph() -> None:
    part = edges_of(signed=True).loc["control"].reset_index()
    found = spread_edges(part, ["B", "A"], ["C", "A", "D"])
    np.testing.assert_array_equal(found, [[np.nan, 0.5, np.nan], [0.5, np.nan, np.nan]])
    graph = to_graph(part)
    assert isinstance(graph, nx.DiGraph)
    assert graph.edges["A", "C"] == {"weight": 0.5, "sign": -1}
    assert not graph.has_edge("C", "A")
