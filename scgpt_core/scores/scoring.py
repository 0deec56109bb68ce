"""Every metric of one run."""

import logging
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from scgpt_core import runs
from scgpt_core.imputation_metrics import Imputation
from scgpt_core.keys import BATCH, EMBEDDING, IMPUTED, LABEL, LABEL_SHARE, WITHHELD
from scgpt_core.label_metrics import Labels
from scgpt_core.metrics import Cells

if TYPE_CHECKING:
    from anndata import AnnData

from scgpt_core.scores.definitions import AT, IMPUTATION_METRICS, LABEL_METRICS, MEANS, METRICS

COLUMNS: Final = ("task", "dataset", "method", "seed", "metric", "value", "seconds")
"""Of a tidy table; `seconds` is what it took to compute the metric."""
logger = logging.getLogger(__name__)


def write_scores(path: str | Path, scores: pd.DataFrame, run: Mapping[str, str]) -> None:
    """Write the scores of one run as a tidy table, parquet.

    Parameters
    ----------
    scores
        Columns metric, value and seconds.
    run
        Its task, dataset, method and seed.
    """
    runs.write_parquet(path, scores.assign(**run).astype({"seed": int})[list(COLUMNS)])


def score_embedding(
    embedding: "AnnData",
    unintegrated: "AnnData",
    *,
    phases: tuple[NDArray[np.float64], Mapping[str, float]] | None = None,
) -> pd.DataFrame:
    """Score one embedding with all of `METRICS` and `MEANS`.

    Parameters
    ----------
    embedding
        Cells with `obs["batch"]`, `obs["label"]` and `obsm["X_emb"]`.
    unintegrated
        The same cells in the HVG + PCA embedding, which PCR compares with.
    phases
        Of the cell cycle, from `measure_phases`; None: its conservation is not defined.

    Returns
    -------
    Columns metric, value and seconds; the value is missing where a metric is not defined. What
    metrics share (neighbours, clusters, silhouettes) counts in the seconds of the first to use it.

    Raises
    ------
    ValueError
        If the embedding is not finite, or the two do not hold the same cells in the same order.
    """
    emb_ND = np.ascontiguousarray(embedding.obsm[EMBEDDING], dtype=np.float32)
    if not np.isfinite(emb_ND).all():
        message = (
            f"{EMBEDDING} has {np.sum(~np.isfinite(emb_ND))} values that are not finite: look at "
            "the log of its method"
        )
        raise ValueError(message)
    if not embedding.obs_names.equals(unintegrated.obs_names):
        message = (
            f"the embedding ({embedding.n_obs} cells) and the unintegrated one"
            f" ({unintegrated.n_obs} cells) do not hold the same cells in the same order: delete"
            " both and run again"
        )
        raise ValueError(message)
    cells = Cells(
        emb_ND,
        unintegrated_ND=np.asarray(unintegrated.obsm[EMBEDDING], dtype=np.float32),
        batch_N=embedding.obs[BATCH].astype(str).to_numpy(),
        label_N=embedding.obs[LABEL].astype(str).to_numpy(),
        phase_N2=None if phases is None else phases[0],
        phase_variance={} if phases is None else phases[1],
    )
    rows = []
    for name, metric in METRICS.items():
        start = time.perf_counter()
        value = metric.compute(cells)
        rows.append((name, value, time.perf_counter() - start))
        if np.isnan(value):
            logger.warning("%s is not defined for these batches and labels", metric.title)
    values = {name: value for name, value, _ in rows}
    rows += [(name, mean.compute(values), 0.0) for name, mean in MEANS.items()]
    return pd.DataFrame(rows, columns=["metric", "value", "seconds"])


def score_imputation(embedding: "AnnData", prepared: "AnnData") -> pd.DataFrame:
    """Score what a method imputed with all of `IMPUTATION_METRICS`.

    Parameters
    ----------
    embedding
        Cells with `obsm["imputed"]` and `obs["withheld"]`, see `write_joint`.
    prepared
        The data set, which has the truth: normalised, as the methods learned it, over the features
        that are imputed. What is compared is the same for all methods: the withheld values of every
        feature that is known of other cells.

    Returns
    -------
    Columns metric, value and seconds; also `pearson/FEATURE` of each feature.

    Raises
    ------
    ValueError
        Where the embedding does not say which cells were withheld.
    """
    from scgpt_core.tasks.modalities import read_modalities
    from scgpt_core.tasks.mosaic import normalise

    start = time.perf_counter()
    if WITHHELD not in embedding.obs:
        message = (
            f"the embedding has no obs[{WITHHELD!r}], which says what is to be imputed: a version"
            " before wrote it; delete its folder and run again"
        )
        raise ValueError(message)
    withheld_N = embedding.obs[WITHHELD].to_numpy(bool)
    imputed: pd.DataFrame = embedding.obsm[IMPUTED]
    truth = read_modalities(prepared).keep(frozenset(imputed.columns))
    true_NF = np.hstack([normalise(truth, name) for name in truth.by_name])
    learnable_F = np.isfinite(true_NF[~withheld_N]).any(axis=0)
    true_NF[~(withheld_N[:, None] & learnable_F)] = np.nan
    imputation = Imputation(
        imputed.to_numpy(),
        pd.DataFrame(true_NF, columns=list(truth.features))[list(imputed.columns)].to_numpy(),
        embedding.obs[BATCH].astype(str).to_numpy(),
        tuple(imputed.columns),
    )
    values = {name: metric.compute(imputation) for name, metric in IMPUTATION_METRICS.items()}
    values |= {f"pearson/{name}": r for name, r in imputation.pearson_by_feature.items()}
    table = pd.DataFrame({"metric": values.keys(), "value": values.values()})
    return table.assign(seconds=(time.perf_counter() - start) / len(table))


def score_predictions(predictions: pd.DataFrame) -> pd.DataFrame:
    """Score the labels of a query with all of `LABEL_METRICS`.

    Parameters
    ----------
    predictions
        A row for each cell and share of the labels, see `scgpt_core.tasks.labelling.Labelling`.

    Returns
    -------
    Columns metric, value and seconds; the value is missing where a metric is not defined. There
    are also `f1/LABEL`, `precision/LABEL` and `recall/LABEL` of each type that query and reference
    have, and, where fewer labels were learned from, `macro_f1_at_10` and `accuracy_at_10` (10 per
    cent of them) and so on.
    """
    shares = predictions[LABEL_SHARE]
    labels = Labels.read(predictions[shares == 1])
    rows = []
    for name, metric in LABEL_METRICS.items():
        start = time.perf_counter()
        rows.append((name, metric.compute(labels), time.perf_counter() - start))
    for kind in ("precision", "recall", "f1"):
        rows += [(f"{kind}/{label}", v, 0.0) for label, v in labels.by_label[kind].items()]
    for share in sorted(set(shares) - {1}):
        fewer = Labels.read(predictions[shares == share])
        for name in ("macro_f1", "accuracy"):
            value = LABEL_METRICS[name].compute(fewer)
            rows.append((f"{name}{AT}{100 * share:g}", value, 0.0))
    return pd.DataFrame(rows, columns=["metric", "value", "seconds"])
