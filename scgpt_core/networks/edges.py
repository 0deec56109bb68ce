"""Edges from regulators to targets: one table for every way to find them.

Shapes: T regulators, G targets.
"""

from collections.abc import Mapping, Sequence
from typing import Final

import networkx as nx
import numpy as np
import pandas as pd
from numpy.typing import NDArray

FloatArray = NDArray[np.floating]

CONTROL, PERTURBED, DIFFERENCE, ALL = "control", "perturbed", "difference", "all"
"""Networks of a data set: of two conditions and what changes between them, or of all cells."""
COLUMNS: Final = ("condition", "regulator", "target", "weight", "sign")


def tabulate_edges(
    values: Mapping[str, FloatArray],
    regulators: Sequence[str],
    targets: Sequence[str],
    *,
    signed: bool,
) -> pd.DataFrame:
    """Edges of each condition and, where there are control and perturbed, of their difference.

    Parameters
    ----------
    values
        (T, G) by condition; NaN where nothing is known of a pair.
    signed
        A value below 0 means that the regulator represses. If not, the values are weights.

    Returns
    -------
    condition, regulator, target, weight (0 or more: edges are ranked by it) and sign: of the
    value, 0 where the method has none; in the difference, 1 for what is greater in the perturbed
    cells and -1 for what is less. A gene is no target of its own.
    """
    values = dict(values)
    if PERTURBED in values:
        values[DIFFERENCE] = values[PERTURBED] - values[CONTROL]
    own_TG = np.asarray(regulators)[:, None] == np.asarray(targets)[None]
    parts = []
    for condition, value_TG in values.items():
        place_T, place_G = np.nonzero(~own_TG & np.isfinite(value_TG))
        value = value_TG[place_T, place_G]
        has_sign = signed or condition == DIFFERENCE
        parts.append(
            pd.DataFrame(
                {
                    "condition": condition,
                    "regulator": np.asarray(regulators)[place_T],
                    "target": np.asarray(targets)[place_G],
                    "weight": np.abs(value).astype(np.float32),
                    "sign": (np.sign(value) if has_sign else np.zeros(len(value))).astype(np.int8),
                }
            )
        )
    return pd.concat(parts, ignore_index=True)


def spread_edges(
    edges: pd.DataFrame, regulators: Sequence[str], targets: Sequence[str]
) -> NDArray[np.float64]:
    """Weights of one condition's edges as a matrix (T, G), NaN where there is no edge."""
    place_T = pd.Index(regulators).get_indexer(pd.Index(edges["regulator"]))
    place_G = pd.Index(targets).get_indexer(pd.Index(edges["target"]))
    asked = (place_T >= 0) & (place_G >= 0)
    matrix_TG = np.full((len(regulators), len(targets)), np.nan)
    matrix_TG[place_T[asked], place_G[asked]] = edges["weight"].to_numpy()[asked]
    return matrix_TG


def to_graph(edges: pd.DataFrame) -> nx.DiGraph:
    """Directed graph of one condition's edges; their other columns are attributes."""
    attributes = [name for name in edges if name not in ("regulator", "target")]
    graph: nx.DiGraph = nx.from_pandas_edgelist(
        edges, "regulator", "target", attributes, create_using=nx.DiGraph
    )
    return graph
