"""Labels go from the reference cells of a data set to its query, whatever method learns them.

All methods have the same cells: those of the batches that are the query, the labelled others to
learn from, and some of these held out, to which the temperature of the probabilities is fitted.

Shapes: N cells of a data set, M some of them, C classes.
"""

import logging
import time
from collections.abc import Collection, Mapping
from typing import Any, NamedTuple, Protocol

import anndata as ad
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar

from scgpt_core.config import LabelSettings
from scgpt_core.data.binning import draw_keys
from scgpt_core.data.identity import cell_identity
from scgpt_core.data.sources import NO_CLASS
from scgpt_core.keys import (
    BATCH,
    CELL,
    CONFIDENCE,
    IS_UNKNOWN,
    LABEL,
    LABEL_SHARE,
    PREDICTED,
    PROBABILITY,
    UNKNOWN,
)

_FOR_SHARE, _FOR_HELDOUT = 11, 7  # added to the seed: the draws are independent of each other
_LEAST_CELLS = 3  # of a class, that are learned from at any share of the labels
_SMALLEST = 1e-6  # what a probability of 0 counts as
_TEMPERATURES = (0.05, 20.0)

FloatArray = NDArray[np.float64]
logger = logging.getLogger(__name__)


class Split(NamedTuple):
    """Which cells are learned from, held out, and to be labelled."""

    train_N: NDArray[np.bool_]
    heldout_N: NDArray[np.bool_]
    query_N: NDArray[np.bool_]
    class_N: NDArray[np.int64]
    """Code of each cell's label among `classes`; `NO_CLASS` where it is none of them."""
    classes: tuple[str, ...]
    """Labels of the reference, sorted."""


class Learner(Protocol):
    """A method: learns from the training cells of a split, and gives probabilities of classes."""

    def __call__(self, split: Split, rows_M: NDArray[np.int64]) -> NDArray[np.floating[Any]]:
        """(M, C) for the cells of these rows; rows sum to 1."""


class Labelling(NamedTuple):
    """What became of a data set's query."""

    predictions: pd.DataFrame
    """A row for each query cell and share of the labels: `cell`, `batch`, `label` (as the data set
    has it), `label_share`, `predicted`, `confidence` (calibrated), `unknown` (bool), and the
    calibrated probability of each class."""
    fits: list[dict[str, Any]]
    """By share of the labels: cells, temperature, held-out loss before and after it, seconds."""


def split_cells(
    adata: ad.AnnData,
    query: Collection[str],
    *,
    heldout_share: float,
    label_share: float,
    seed: int,
) -> Split:
    """Split a prepared data set; what is drawn for a cell depends on its name and the seed.

    Parameters
    ----------
    query
        Batches to label; the labelled cells of the others are the reference.
    heldout_share
        Share of the used reference cells of each label that is held out.
    label_share
        Share of the reference cells of each label to use; those of a smaller share are among those
        of a greater. Never fewer than three of a label, where there are as many.

    Raises
    ------
    ValueError
        Where a batch does not exist, or the reference has fewer than two labels.
    """
    batches, label_N = adata.obs[BATCH].astype(str), adata.obs[LABEL].astype(str).to_numpy()
    absent = sorted(set(query) - set(batches))
    if absent or not query:
        message = (
            f"query batches {', '.join(absent) or 'are not named'}: the data set has"
            f" {', '.join(sorted(set(batches)))}; look at `query` in datasets.tsv"
        )
        raise ValueError(message)
    query_N = batches.isin(list(query)).to_numpy()
    reference_N = ~query_N & (label_N != UNKNOWN)
    classes = tuple(sorted(set(label_N[reference_N])))
    if len(classes) < 2:
        message = (
            f"the reference, of all batches but {', '.join(query)}, has"
            f" {reference_N.sum()} labelled cells of {len(classes)} labels: two labels are needed"
        )
        raise ValueError(message)
    code = {name: i for i, name in enumerate(classes)}
    class_N = np.array([code.get(name, NO_CLASS) for name in label_N])
    cell_ids = cell_identity(adata.obs_names.to_numpy())
    used_N, heldout_N = np.zeros_like(query_N), np.zeros_like(query_N)
    for label in range(len(classes)):
        rows = np.flatnonzero(reference_N & (class_N == label))
        rows = rows[np.argsort(draw_keys(seed + _FOR_SHARE, 0, cell_ids[rows]), kind="stable")]
        rows = rows[: max(_LEAST_CELLS, round(label_share * len(rows)))]
        used_N[rows] = True
        rows = rows[np.argsort(draw_keys(seed + _FOR_HELDOUT, 0, cell_ids[rows]), kind="stable")]
        heldout_N[rows[: min(round(heldout_share * len(rows)), len(rows) - 1)]] = True
    return Split(used_N & ~heldout_N, heldout_N, query_N, class_N, classes)


def label_query(
    adata: ad.AnnData,
    query: Collection[str],
    settings: LabelSettings,
    *,
    seed: int,
    learn: Learner,
) -> Labelling:
    """Learn from shares of the reference's labels and last from all, and label the query.

    Parameters
    ----------
    query
        Batches to label.
    seed
        Of the split.
    learn
        The method.
    """
    tables, fits = [], []
    for share in (*sorted(settings.low_data_shares), 1.0):
        start = time.perf_counter()
        split = split_cells(
            adata, query, heldout_share=settings.heldout_share, label_share=share, seed=seed
        )
        rows_M = np.flatnonzero(split.heldout_N | split.query_N)
        probability_MC = np.asarray(learn(split, rows_M), np.float64)
        is_heldout_M = split.heldout_N[rows_M]
        heldout = probability_MC[is_heldout_M], split.class_N[split.heldout_N]
        temperature = fit_temperature(*heldout)
        calibrated = temper(heldout[0], temperature), heldout[1]
        fits.append(
            {
                LABEL_SHARE: share,
                "train_cells": int(split.train_N.sum()),
                "heldout_cells": int(split.heldout_N.sum()),
                "temperature": temperature,
                "heldout_loss": nll(*heldout),
                "heldout_loss_calibrated": nll(*calibrated),
                "seconds": round(time.perf_counter() - start, 3),
            }
        )
        logger.info("%s", fits[-1])
        table = tabulate(
            temper(probability_MC[~is_heldout_M], temperature),
            split.classes,
            unknown_below=settings.unknown_below,
        )
        obs = adata.obs[[BATCH, LABEL]][split.query_N].astype(str)
        obs = obs.rename_axis(CELL).reset_index().assign(**{LABEL_SHARE: share})
        tables.append(pd.concat([obs, table], axis=1))
    return Labelling(pd.concat(tables, ignore_index=True), fits)


def tabulate(
    probability_MC: FloatArray, classes: Collection[str], *, unknown_below: float
) -> pd.DataFrame:
    """Columns `predicted`, `confidence`, `unknown` and the probability of each class."""
    names = np.array(list(classes), dtype=object)
    confidence_M = probability_MC.max(axis=1)
    columns: Mapping[str, Any] = {
        PREDICTED: names[probability_MC.argmax(axis=1)],
        CONFIDENCE: confidence_M,
        IS_UNKNOWN: confidence_M < unknown_below,
    }
    probabilities = {PROBABILITY + name: probability_MC[:, i] for i, name in enumerate(names)}
    return pd.DataFrame({**columns, **probabilities})


def temper(probability_MC: NDArray[np.floating[Any]], temperature: float) -> FloatArray:
    """Soften (temperature above 1) or sharpen probabilities: softmax(log p / temperature)."""
    logit_MC = np.log(np.maximum(probability_MC, _SMALLEST)) / temperature
    odds_MC = np.exp(logit_MC - logit_MC.max(axis=1, keepdims=True))
    return np.asarray(odds_MC / odds_MC.sum(axis=1, keepdims=True), np.float64)


def fit_temperature(probability_MC: FloatArray, class_M: NDArray[np.int64]) -> float:
    """Temperature of the lowest negative log likelihood (Guo et al. 2017).

    Parameters
    ----------
    probability_MC, class_M
        Of held-out cells, and their true classes; 1 where there is no cell.
    """
    if not len(class_M):
        logger.warning("no cell is held out: the probabilities stay as they are")
        return 1.0
    found = minimize_scalar(
        lambda x: nll(temper(probability_MC, float(np.exp(x))), class_M),
        bounds=np.log(_TEMPERATURES),
        method="bounded",
    )
    return float(np.exp(found.x))


def nll(probability_MC: FloatArray, class_M: NDArray[np.int64]) -> float:
    """Mean negative log likelihood of the true classes; NaN of no cell."""
    if not len(class_M):
        return float("nan")
    true_M = probability_MC[np.arange(len(class_M)), class_M]
    return float(-np.log(np.maximum(true_M, _SMALLEST)).mean())
