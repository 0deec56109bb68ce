"""Reverse perturbation: which genes, perturbed, lead to a state of cells that was observed.

Shapes: G genes, K candidates.
"""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from scgpt_core.perturbation.data import genes_of


def rank_candidates(
    target_G: NDArray[np.float64],
    shifts: Mapping[str, NDArray[np.float64]],
    *,
    columns: NDArray[np.int64],
) -> pd.DataFrame:
    """Order candidate perturbations by the distance of their predicted change from the wanted one.

    Parameters
    ----------
    target_G
        Change from control cells to the wanted state, log-normalised expression.
    shifts
        Predicted change (G,) by the candidate's name ("A+ctrl", "A+B").
    columns
        Genes that the distance is over, the same for every candidate. None that a candidate
        perturbs: that a gene which is knocked out falls itself would give it away.

    Returns
    -------
    Candidate, genes (how many), distance (Euclidean) and rank (from 1, among those of as many
    genes; ties share their mean rank). Single genes come first, and of as many genes the best.
    """
    gaps = [target_G[columns] - shift_G[columns] for shift_G in shifts.values()]
    distance_K = np.array([np.linalg.norm(gap) for gap in gaps], np.float64)
    table = pd.DataFrame({"candidate": list(shifts), "distance": distance_K})
    table.insert(1, "genes", [len(genes_of(name)) for name in shifts])
    # rounded: sums in another order must not part what is equal
    table["rank"] = table["distance"].round(9).groupby(table["genes"]).rank()
    return table.sort_values(["genes", "rank", "candidate"], ignore_index=True)
