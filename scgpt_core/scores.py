"""Scores of the benchmark: every metric of one embedding, and tables over methods and seeds.

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

from scgpt_core import metrics
from scgpt_core.keys import BATCH, EMBEDDING, LABEL
from scgpt_core.metrics import Cells

if TYPE_CHECKING:
    from anndata import AnnData

COLUMNS: Final = ("task", "dataset", "method", "seed", "metric", "value", "seconds")
"""Of a tidy table; `seconds` is what it took to compute the metric."""
MAIN: Final = ("avg_bio", "avg_batch", "overall", "scib_overall")
"""Metrics of the main table; methods are ranked by `overall`."""
_RESAMPLES: Final = 2000
_log = logging.getLogger(__name__)


class Metric(NamedTuple):
    """Something measured on the cells; its function's docstring defines it in words."""

    title: str
    group: Literal["bio", "batch"]
    """Whether it shows that biology is kept apart, or that batches are mixed."""
    compute: Callable[[Cells], float]


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
    "asw_batch": Metric("ASW batch", "batch", metrics.asw_batch),
    "graph_connectivity": Metric("Graph conn.", "batch", metrics.graph_connectivity),
    "pcr": Metric("PCR", "batch", metrics.pcr),
    "ilisi": Metric("iLISI", "batch", metrics.ilisi),
    "kbet": Metric("kBET", "batch", metrics.kbet),
}
"""In the order of the tables. Greater is better, and 1 is the best."""


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


def score_embedding(embedding: "AnnData", unintegrated: "AnnData") -> pd.DataFrame:
    """Score one embedding with all of `METRICS` and `MEANS`.

    Parameters
    ----------
    embedding
        Cells with `obs["batch"]`, `obs["label"]` and `obsm["X_emb"]`.
    unintegrated
        The same cells in the HVG + PCA embedding, which PCR compares with.

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


def define_metrics() -> pd.DataFrame:
    """Columns metric, title, group and definition (in words), a row for each metric and mean."""
    rows: list[tuple[str, str, str, str | None]] = [
        (name, metric.title, metric.group, inspect.getdoc(metric.compute))
        for name, metric in METRICS.items()
    ]
    rows += [(name, m.title, "mean", inspect.getdoc(m.compute)) for name, m in MEANS.items()]
    table = pd.DataFrame(rows, columns=["metric", "title", "group", "definition"])
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
    summary = summarise_scores(scores[scores["metric"].isin(MAIN)])
    width = max(len(titles.get(method, method)) for method in summary["method"]) + 4
    blocks = []
    for (task, dataset), part in summary.groupby(["task", "dataset"], sort=False):
        table = part.pivot_table("mean", index="method", columns="metric")[list(MAIN)]
        table = table.sort_values("overall", ascending=False)
        best = table.max()
        lines = [f"{task}: {dataset}", " " * width]
        lines[1] += "".join(f"{MEANS[metric].title:>14}" for metric in MAIN)
        for method, row in table.iterrows():
            cells = (f"{row[m]:.3f}{'*' if row[m] == best[m] else ' '}" for m in MAIN)
            name = titles.get(str(method), str(method))
            lines.append(f"  {name:<{width - 2}}" + "".join(f"{cell:>15}"[1:] for cell in cells))
        blocks.append("\n".join(lines))
    legend = "\n".join(f"{MEANS[m].title}: {inspect.getdoc(MEANS[m].compute)}" for m in MAIN)
    return "\n\n".join([*blocks, legend])
