"""Scores of the benchmark: every metric of one run, and tables over methods and seeds.

A tidy table of scores has the columns `COLUMNS`: a row for each metric of each run.
"""

import inspect
import logging
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from scgpt_core import imputation_metrics, label_metrics, metrics
from scgpt_core.imputation_metrics import Imputation
from scgpt_core.keys import BATCH, EMBEDDING, IMPUTED, LABEL, LABEL_SHARE
from scgpt_core.label_metrics import Labels
from scgpt_core.metrics import Cells
from scgpt_core.perturbation import metrics as perturbation_metrics

if TYPE_CHECKING:
    from anndata import AnnData

COLUMNS: Final = ("task", "dataset", "method", "seed", "metric", "value", "seconds")
"""Of a tidy table; `seconds` is what it took to compute the metric."""
MAIN: Final[Mapping[str, tuple[str, ...]]] = {
    "integration": ("avg_bio", "avg_batch", "overall", "scib_overall"),
    "annotation": ("macro_f1", "accuracy", "selective_accuracy", "calibration"),
    "multiomics": ("avg_bio", "avg_batch", "pearson", "spearman"),
    "perturbation": ("pearson_delta", "discrimination", "mse_explained", "energy_explained"),
}
"""Metrics of the main table, by task."""
RANKED_BY: Final = {
    "integration": "overall",
    "annotation": "macro_f1",
    "multiomics": "pearson",
    "perturbation": "pearson_delta",
}
"""The metric that methods are ranked by, by task."""
AT: Final = "_at_"
"""Stands between a metric and the per cent of the labels that were learned from, where not all."""
_RESAMPLES: Final = 2000
_log = logging.getLogger(__name__)


class Metric(NamedTuple):
    """Something measured on an embedding; its function's docstring defines it in words."""

    title: str
    group: Literal["bio", "batch"]
    """Whether it shows that biology is kept apart, or that batches are mixed."""
    compute: Callable[[Cells], float]


class LabelMetric(NamedTuple):
    """Something measured on labels; its function's docstring defines it in words."""

    title: str
    group: Literal["right", "sure", "novel"]
    """Whether labels are right, probabilities honest, or new types found."""
    compute: Callable[[Labels], float]


class ImputationMetric(NamedTuple):
    """Something measured on imputed values; its function's docstring defines it in words."""

    title: str
    group: Literal["imputed"]
    compute: Callable[[Imputation], float]


class Mean(NamedTuple):
    """A mean of metrics; its function's docstring defines it in words."""

    title: str
    compute: Callable[[Mapping[str, float]], float]
    """From the metrics' values by name."""


METRICS: Final[Mapping[str, Metric]] = {
    "nmi": Metric("NMI", "bio", metrics.nmi),
    "ari": Metric("ARI", "bio", metrics.ari),
    "asw_label": Metric("ASW label", "bio", metrics.asw_label),
    "isolated_f1": Metric("Isolated F1", "bio", metrics.isolated_f1),
    "isolated_asw": Metric("Isolated ASW", "bio", metrics.isolated_asw),
    "clisi": Metric("cLISI", "bio", metrics.clisi),
    "cell_cycle": Metric("Cell cycle", "bio", metrics.cell_cycle),
    "asw_batch": Metric("ASW batch", "batch", metrics.asw_batch),
    "graph_connectivity": Metric("Graph conn.", "batch", metrics.graph_connectivity),
    "pcr": Metric("PCR", "batch", metrics.pcr),
    "ilisi": Metric("iLISI", "batch", metrics.ilisi),
    "kbet": Metric("kBET", "batch", metrics.kbet),
}
"""Of integration, in the order of the tables. Greater is better, and 1 is the best."""
LABEL_METRICS: Final[Mapping[str, LabelMetric]] = {
    "macro_f1": LabelMetric("Macro-F1", "right", label_metrics.macro_f1),
    "accuracy": LabelMetric("Accuracy", "right", label_metrics.accuracy),
    "macro_precision": LabelMetric("Precision", "right", label_metrics.macro_precision),
    "macro_recall": LabelMetric("Recall", "right", label_metrics.macro_recall),
    "selective_accuracy": LabelMetric("Selective acc.", "sure", label_metrics.selective_accuracy),
    "calibration": LabelMetric("Calibration", "sure", label_metrics.calibration),
    "covered": LabelMetric("Covered", "sure", label_metrics.covered),
    "covered_accuracy": LabelMetric("Covered acc.", "sure", label_metrics.covered_accuracy),
    "novel_unknown": LabelMetric("New unknown", "novel", label_metrics.novel_unknown),
    "novel_auroc": LabelMetric("New AUROC", "novel", label_metrics.novel_auroc),
}
"""Of annotation, in the order of the tables. Greater is better, and 1 is the best."""
IMPUTATION_METRICS: Final[Mapping[str, ImputationMetric]] = {
    "pearson": ImputationMetric("Pearson", "imputed", imputation_metrics.pearson),
    "spearman": ImputationMetric("Spearman", "imputed", imputation_metrics.spearman),
}
"""Of multi-omics, beside `METRICS`. Greater is better, and 1 is the best."""


def avg_bio(values: Mapping[str, float]) -> float:
    """Mean of NMI, ARI and ASW label (scGPT paper)."""
    return float(np.mean([values["nmi"], values["ari"], values["asw_label"]]))


def avg_batch(values: Mapping[str, float]) -> float:
    """Mean of ASW batch and graph connectivity (scGPT paper)."""
    return float(np.mean([values["asw_batch"], values["graph_connectivity"]]))


def overall(values: Mapping[str, float]) -> float:
    """0.6 AvgBIO + 0.4 AvgBATCH (scGPT paper)."""
    return 0.6 * avg_bio(values) + 0.4 * avg_batch(values)


def scib_bio(values: Mapping[str, float]) -> float:
    """Mean of all metrics of biology that are defined (scib)."""
    return _mean_of_group(values, "bio")


def scib_batch(values: Mapping[str, float]) -> float:
    """Mean of all metrics of batch mixing that are defined (scib)."""
    return _mean_of_group(values, "batch")


def scib_overall(values: Mapping[str, float]) -> float:
    """0.6 scib bio + 0.4 scib batch (scib)."""
    return 0.6 * scib_bio(values) + 0.4 * scib_batch(values)


def _mean_of_group(values: Mapping[str, float], group: str) -> float:
    there = [values[name] for name, metric in METRICS.items() if metric.group == group]
    return float(np.nanmean(there)) if not np.isnan(there).all() else float("nan")


MEANS: Final[Mapping[str, Mean]] = {
    "avg_bio": Mean("AvgBIO", avg_bio),
    "avg_batch": Mean("AvgBATCH", avg_batch),
    "overall": Mean("Overall", overall),
    "scib_bio": Mean("scib bio", scib_bio),
    "scib_batch": Mean("scib batch", scib_batch),
    "scib_overall": Mean("scib overall", scib_overall),
}
"""In the order of the tables, behind `METRICS`."""


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
        message = f"{EMBEDDING} has {np.sum(~np.isfinite(emb_ND))} values that are not finite"
        raise ValueError(message)
    if not embedding.obs_names.equals(unintegrated.obs_names):
        message = (
            f"the embedding ({embedding.n_obs} cells) and the unintegrated one"
            f" ({unintegrated.n_obs} cells) do not hold the same cells in the same order"
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
            _log.warning("%s is not defined for these batches and labels", metric.title)
    values = {name: value for name, value, _ in rows}
    rows += [(name, mean.compute(values), 0.0) for name, mean in MEANS.items()]
    return pd.DataFrame(rows, columns=["metric", "value", "seconds"])


def score_imputation(embedding: "AnnData", prepared: "AnnData") -> pd.DataFrame:
    """Score what a method imputed with all of `IMPUTATION_METRICS`.

    Parameters
    ----------
    embedding
        Cells with `obsm["imputed"]`, see `write_joint`.
    prepared
        The data set, which has the truth.

    Returns
    -------
    Columns metric, value and seconds; also `pearson/FEATURE` of each feature.
    """
    from scgpt_core.tasks.modalities import read_modalities
    from scgpt_core.tasks.mosaic import normalise

    start = time.perf_counter()
    imputed: pd.DataFrame = embedding.obsm[IMPUTED]
    truth = read_modalities(prepared)
    true_NF = np.hstack([normalise(truth, name) for name in truth.by_name])
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


def define_metrics() -> pd.DataFrame:
    """Columns task, metric, title, group and definition (in words) of each metric and mean."""
    rows = [
        (task, name, metric.title, getattr(metric, "group", "mean"), inspect.getdoc(metric.compute))
        for task, table in (
            ("integration", METRICS),
            ("integration", MEANS),
            ("annotation", LABEL_METRICS),
            ("multiomics", METRICS),
            ("multiomics", MEANS),
            ("multiomics", IMPUTATION_METRICS),
            ("perturbation", perturbation_metrics.METRICS),
            ("perturbation", perturbation_metrics.SUMMARIES),
        )
        for name, metric in table.items()
    ]
    table = pd.DataFrame(rows, columns=["task", "metric", "title", "group", "definition"])
    table["definition"] = table["definition"].str.split().str.join(" ")
    return table


def summarise_scores(scores: pd.DataFrame) -> pd.DataFrame:
    """Mean over seeds of every metric of every method, with its 95 % bootstrap interval.

    Parameters
    ----------
    scores
        Tidy, with `COLUMNS`.

    Returns
    -------
    Columns task, dataset, method, metric, mean, low, high and n_seeds. Low and high are missing
    where there is one seed.
    """
    keys = ["task", "dataset", "method", "metric"]
    rows = []
    for key, values in scores.groupby(keys, sort=False)["value"]:
        low, high = _interval(values.to_numpy())
        rows.append((*key, values.mean(), low, high, len(values)))
    return pd.DataFrame(rows, columns=[*keys, "mean", "low", "high", "n_seeds"])


def learning_curve(summary: pd.DataFrame, *, dataset: str, method: str) -> pd.DataFrame:
    """Macro-F1 of one method by the share of the labels that it learned from.

    Parameters
    ----------
    summary
        As `summarise_scores` gives it.
    dataset, method
        Which of them.

    Returns
    -------
    Columns "share of the labels", "macro-F1", low and high, by ascending share.
    """
    part = summary[(summary["dataset"] == dataset) & (summary["method"] == method)]
    part = part[part["metric"].str.fullmatch(f"macro_f1({AT}.+)?")]
    per_cent = part["metric"].str.removeprefix("macro_f1").str.removeprefix(AT).replace("", "100")
    curve = part[["mean", "low", "high"]].rename(columns={"mean": "macro-F1"})
    curve.insert(0, "share of the labels", per_cent.astype(float) / 100)
    return curve.sort_values("share of the labels", ignore_index=True)


def _interval(values: NDArray[Any]) -> tuple[float, float]:
    """95 % percentile bootstrap interval of a mean, drawn from a fixed seed."""
    if len(values) < 2:
        return float("nan"), float("nan")
    drawn = np.random.default_rng(0).choice(values, (_RESAMPLES, len(values)))
    low, high = np.quantile(drawn.mean(axis=1), [0.025, 0.975])
    return float(low), float(high)


def main_table(scores: pd.DataFrame, titles: Mapping[str, str] | None = None) -> str:
    """Text table of `MAIN`: the methods of each data set, the best first, the best values starred.

    Parameters
    ----------
    scores
        Tidy, with `COLUMNS`.
    titles
        What to call the methods; a method that is not there is called by its name.
    """
    titles = titles or {}
    shown = [metric for metrics_of_task in MAIN.values() for metric in metrics_of_task]
    summary = summarise_scores(scores[scores["metric"].isin(shown)])
    width = max(len(titles.get(method, method)) for method in summary["method"]) + 4
    definitions = define_metrics().set_index(["task", "metric"])
    blocks, legend = [], []
    for (task, dataset), part in summary.groupby(["task", "dataset"], sort=False):
        shown, defined = list(MAIN[str(task)]), definitions.loc[str(task)]
        table = part.pivot_table("mean", index="method", columns="metric", dropna=False)[shown]
        table = table.sort_values(RANKED_BY[str(task)], ascending=False)
        best = table.max()
        lines = [f"{task}: {dataset}", " " * width]
        lines[1] += "".join(f"{defined['title'][metric]:>16}" for metric in shown)
        for method, row in table.iterrows():
            cells = (
                "- " if np.isnan(row[m]) else f"{row[m]:.3f}{'*' if row[m] == best[m] else ' '}"
                for m in shown
            )
            name = titles.get(str(method), str(method))
            lines.append(f"  {name:<{width - 2}}" + "".join(f"{cell:>17}"[1:] for cell in cells))
        blocks.append("\n".join(lines))
        legend += [f"{defined['title'][m]}: {defined['definition'][m]}" for m in shown]
    return "\n\n".join([*blocks, "\n".join(dict.fromkeys(legend))])
