"""Which metrics there are, by task, and the means of them that benchmarks report."""

import inspect
from collections.abc import Callable, Mapping
from typing import Final, Literal, NamedTuple

import numpy as np
import pandas as pd

from scgpt_core import imputation_metrics, label_metrics, metrics
from scgpt_core.imputation_metrics import Imputation
from scgpt_core.label_metrics import Labels
from scgpt_core.metrics import Cells
from scgpt_core.perturbation import metrics as perturbation_metrics

MAIN: Final[Mapping[str, tuple[str, ...]]] = {
    "integration": ("avg_bio", "avg_batch", "overall", "scib_overall"),
    "annotation": ("macro_f1", "accuracy", "selective_accuracy", "calibration"),
    "multiomics": ("avg_bio", "avg_batch", "pearson", "spearman"),
    "perturbation": (
        "pearson_delta_others",
        "pearson_delta",
        "discrimination",
        "mse_explained",
        "energy_explained",
    ),
}
"""Metrics of the main table, by task."""
RANKED_BY: Final = {
    "integration": "overall",
    "annotation": "macro_f1",
    "multiomics": "pearson",
    "perturbation": "pearson_delta_others",
}
"""The metric that methods are ranked by, by task. That of perturbation leaves out the perturbed
genes, of which only some methods are told that they are knocked out."""
AT: Final = "_at_"
"""Stands between a metric and the per cent of the labels that were learned from, where not all."""


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
