"""The simple ways to edges: correlation of expression, and boosted trees as in GRNBoost2.

Shapes: N cells, T regulators, G targets.
"""

from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata
from sklearn.ensemble import GradientBoostingRegressor

from scgpt_core.config import NetworkSettings
from scgpt_core.networks.edges import tabulate_edges
from scgpt_core.networks.preparation import LOG, SUBSET, open_network
from scgpt_core.runs import run_record, write_parquet

FloatArray = NDArray[np.float64]

PEARSON, SPEARMAN, TREES = "pearson", "spearman", "trees"
BASELINES: Final = (PEARSON, SPEARMAN, TREES)
_GRNBOOST: Final = {"learning_rate": 0.01, "subsample": 0.9, "max_features": 0.1}
"""Settings of GRNBoost2 (Moerman et al. 2019), as its implementation arboreto has them."""
_WINDOW: Final = 25
"""Trees over whose mean gain on the cells left out GRNBoost2 decides to stop."""


def correlate_dataset(
    cells: str | Path, output_folder: str | Path, *, settings: NetworkSettings, seed: int
) -> None:
    """Write the edges of each baseline as `pearson`, `spearman` and `trees` .parquet; the record.

    Parameters
    ----------
    cells
        h5ad of `prepare_network`.
    """
    folder = Path(output_folder)
    described = {**settings.trees.model_dump(mode="json"), "seed": seed}
    with run_record(folder / "baselines.json", described):
        network = open_network(cells)
        logged = network.adata.layers[LOG]
        expressed = {c: logged[rows].toarray() for c, rows in network.rows.items()}
        subset = np.flatnonzero(network.adata.var[SUBSET])
        names = [network.genes[column] for column in subset]
        for source in BASELINES:
            values = {}
            for condition, x_NG in expressed.items():
                x_NT = x_NG[:, network.columns]
                if source == TREES:
                    values[condition] = boost(
                        x_NT,
                        x_NG[:, subset],
                        own_T=network.columns,
                        own_G=subset,
                        max_trees=settings.trees.max_trees,
                        seed=seed,
                    )
                else:
                    values[condition] = correlate(x_NT, x_NG, ranks=source == SPEARMAN)
            targets = names if source == TREES else network.genes
            edges = tabulate_edges(values, network.regulators, targets, signed=source != TREES)
            write_parquet(folder / f"{source}.parquet", edges)


def correlate(x_NT: FloatArray, x_NG: FloatArray, *, ranks: bool) -> FloatArray:
    """Pearson's r, or Spearman's with `ranks`: (T, G); 0 where a gene does not vary."""
    x_NT, x_NG = (_standardise(rankdata(x, axis=0) if ranks else x) for x in (x_NT, x_NG))
    r_TG: FloatArray = x_NT.T @ x_NG / len(x_NT)
    return r_TG


def _standardise(x: FloatArray) -> FloatArray:
    centred: FloatArray = x.astype(np.float64) - x.mean(0, dtype=np.float64)
    deviation: FloatArray = centred.std(0)
    return centred / np.where(deviation > 1e-12, deviation, np.inf)


def boost(
    x_NT: FloatArray,
    x_NG: FloatArray,
    *,
    own_T: NDArray[np.int64],
    own_G: NDArray[np.int64],
    max_trees: int,
    seed: int,
) -> FloatArray:
    """Boost trees that predict each target, for the importance of its regulators: (T, G).

    Parameters
    ----------
    own_T, own_G
        Which genes they are: a gene does not predict itself.
    """
    importance_TG = np.zeros((x_NT.shape[1], x_NG.shape[1]))
    for g, gene in enumerate(own_G):
        others_T = own_T != gene
        if x_NG[:, g].std() == 0:
            continue
        trees = GradientBoostingRegressor(n_estimators=max_trees, random_state=seed, **_GRNBOOST)
        trees.fit(x_NT[:, others_T], x_NG[:, g], monitor=_no_more_gain)
        # scikit-learn makes importances of a target add up to 1: GRNBoost2 takes that back.
        importance_TG[others_T, g] = trees.feature_importances_ * trees.n_estimators_
    return importance_TG


def _no_more_gain(tree: int, trees: GradientBoostingRegressor, variables: dict[str, Any]) -> bool:
    recent = trees.oob_improvement_[max(0, tree - _WINDOW + 1) : tree + 1]
    return tree >= _WINDOW - 1 and bool(recent.mean() < 0)
