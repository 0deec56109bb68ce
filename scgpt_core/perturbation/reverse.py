"""Reverse perturbation: which genes, perturbed, lead to a state of cells that was observed.

Shapes: G genes, K candidates.
"""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import rankdata

from scgpt_core.perturbation.data import genes_of


def rank_candidates(
    target_G: NDArray[np.float64], shifts: Mapping[str, NDArray[np.float64]]
) -> pd.DataFrame:
    """Order candidate perturbations by the distance of their predicted change from the wanted one.

    Parameters
    ----------
    target_G
        Change from control cells to the wanted state, log-normalised expression.
    shifts
        Predicted change (G,) by the candidate's name ("A+ctrl", "A+B").

    Returns
    -------
    Best first: candidate, genes (how many), distance (Euclidean) and rank (from 1; ties share their
    mean rank).
    """
    distance_K = [float(np.linalg.norm(target_G - shift_G)) for shift_G in shifts.values()]
    table = pd.DataFrame({"candidate": list(shifts), "distance": distance_K})
    table.insert(1, "genes", [len(genes_of(name)) for name in shifts])
    # rounded: sums in another order must not part what is equal
    table["rank"] = rankdata(np.round(distance_K, 9))
    return table.sort_values(["rank", "candidate"], ignore_index=True)
