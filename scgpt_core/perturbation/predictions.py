"""What every method gives: cells as they would be, predicted from control cells, fold by fold.

Shapes: M control cells that are predicted from, G measured genes, K candidates of reverse.
"""

import functools
import itertools
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final, Protocol

import anndata as ad
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from scgpt_core.config import PerturbationSettings
from scgpt_core.perturbation.data import (
    CONDITION,
    Perturbations,
    genes_of,
    name_condition,
    read_perturbations,
)
from scgpt_core.perturbation.reverse import rank_candidates
from scgpt_core.perturbation.splits import Fold, Split
from scgpt_core.runs import COMPRESSION, sha256, whole, write_parquet

FOLD: Final = "fold"
CONTROL_CELL: Final = "control_cell"
"""obs column: name of the control cell that a predicted cell was made from."""
SEEN: Final = "seen"
_CANDIDATE_CELLS: Final = 12  # whose mean shift stands for a candidate of reverse

FloatArray = NDArray[np.floating[Any]]
logger = logging.getLogger(__name__)


class Predictor(Protocol):
    """A method that has learned from the training conditions of a fold."""

    def __call__(self, genes: Sequence[str], rows_M: NDArray[np.int64]) -> FloatArray:
        """Log-normalised expression of control cells (rows of the data) under a perturbation.

        (M, G).
        """


Fit = Callable[[Perturbations, Fold], Predictor]


def predict_folds(
    data: Perturbations, split: Split, settings: PerturbationSettings, fit: Fit
) -> tuple[ad.AnnData, pd.DataFrame]:
    """Fit a method on each fold, and predict its test conditions, and back from these to genes.

    Returns
    -------
    Predicted cells: X float32, log-normalised; obs `condition`, `fold`, `control_cell` and `seen`.
    And the candidates of reverse, see `reverse_fold`.
    """
    cells, ranks = [], []
    for number, fold in enumerate(split.folds):
        logger.info("fold %d of %d: %s", number + 1, len(split.folds), ", ".join(fold.test))
        predictor = fit(data, fold)
        for condition, seen in zip(fold.test, fold.seen, strict=True):
            rows_M = data.match_controls(fold.truth(data, condition), settings.control_cells)
            obs = {
                CONDITION: condition,
                FOLD: number,
                CONTROL_CELL: data.names[rows_M],
                SEEN: seen,
            }
            names = [f"{number}/{condition}/{i}" for i in range(len(rows_M))]
            predicted_MG = np.asarray(predictor(genes_of(condition), rows_M), np.float32)
            cells.append(ad.AnnData(predicted_MG, obs=pd.DataFrame(obs, index=names)))
        ranks.append(reverse_fold(data, fold, predictor, settings).assign(fold=number))
    predicted = ad.concat(cells)
    predicted.var_names = list(data.genes)
    return predicted, pd.concat(ranks, ignore_index=True)


def reverse_fold(
    data: Perturbations, fold: Fold, predictor: Predictor, settings: PerturbationSettings
) -> pd.DataFrame:
    """Rank the genes and pairs that may have led to each test condition's state.

    Every perturbed gene of the data is a candidate, seen or not; so are the pairs of the data, and
    those of the genes that rank highest alone. Their changes are predicted on control cells of the
    batches and cell types that are tested.

    Returns
    -------
    Columns condition (the state), and those of `rank_candidates`, of single genes and of pairs.
    """
    tested = np.unique(np.concatenate([data.stratum[fold.truth(data, c)] for c in fold.test]))
    rows_M = np.flatnonzero(data.is_input & np.isin(data.stratum, tested))
    rows_M = rows_M[:: max(1, len(rows_M) // _CANDIDATE_CELLS)][:_CANDIDATE_CELLS]
    before_MG = data.log_NG[rows_M].toarray()

    def shift(candidate: str) -> NDArray[np.float64]:
        change_MG = predictor(genes_of(candidate), rows_M) - before_MG
        return np.asarray(change_MG.mean(axis=0), np.float64)

    genes = data.perturbed
    singles = [name_condition([gene]) for gene in genes]
    measured = {name for name in data.conditions if len(genes_of(name)) == 2}
    library = {name: shift(name) for name in (*singles, *sorted(measured))}
    rank = functools.partial(rank_candidates, columns=data.unperturbed)
    tables = []
    for condition in fold.test:
        truth_N = fold.truth(data, condition)
        target_G = data.shifts(
            [condition], cells_N=truth_N, controls_N=data.is_control & ~data.is_input
        )[0]
        alone = rank(target_G, {name: library[name] for name in singles})
        best = [genes_of(name)[0] for name in alone["candidate"][: settings.pair_genes]]
        pairs = sorted(measured.union(map(name_condition, itertools.combinations(best, 2))))
        library |= {name: shift(name) for name in pairs if name not in library}
        both = rank(target_G, {name: library[name] for name in pairs})
        tables.append(pd.concat([alone, both]).assign(condition=condition))
    return pd.concat(tables, ignore_index=True)


def write_predictions(
    predicted: ad.AnnData, candidates: pd.DataFrame, *, cells: str | Path, ranks: str | Path
) -> None:
    """Write predicted cells (h5ad) and candidates of reverse (parquet)."""
    with whole(cells) as temporary:
        predicted.write_h5ad(temporary, **COMPRESSION)
    write_parquet(ranks, candidates)


def read_dataset(dataset: str | Path, split: str | Path) -> tuple[Perturbations, Split]:
    """Read a prepared data set with its split, and the genes that are predicted.

    Raises
    ------
    ValueError
        Where the data are not as they should be, or the split is of others.
    """
    folds = Split.load(split, dataset_sha256=sha256(dataset))
    return read_perturbations(ad.read_h5ad(dataset)).of_genes(folds.genes), folds
