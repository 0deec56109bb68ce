"""Scores of predicted perturbations: every metric by condition, and means with their references.

Shapes: G measured genes.
"""

import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Final, NamedTuple

import anndata as ad
import numpy as np
import pandas as pd

from scgpt_core.perturbation.baselines import Training
from scgpt_core.perturbation.data import CONDITION, Perturbations, genes_of
from scgpt_core.perturbation.metrics import (
    CALIBRATED,
    EXPLAINED,
    METRICS,
    TOP,
    Outcome,
    calibrated,
    explained,
    top_recall,
)
from scgpt_core.perturbation.predictions import CONTROL_CELL, FOLD
from scgpt_core.perturbation.reverse import rank_candidates
from scgpt_core.perturbation.splits import Split
from scgpt_core.perturbation.truth import HALVES, Truth

AMONG: Final = "@"
"""Stands between a metric and the group of conditions that it is the mean of."""
_RESAMPLES: Final = 2000


class _Item(NamedTuple):
    """One test condition of one fold."""

    truth: Truth
    fold: int
    condition: str
    seen: str


_Outcomes = Callable[[_Item, int], Outcome]
"""What was predicted of an item, held against a half of the truth."""


def score_predictions(
    data: Perturbations,
    split: Split,
    *,
    predicted: ad.AnnData | None,
    ranks: pd.DataFrame | None,
    focus: Mapping[str, Collection[str]],
) -> pd.DataFrame:
    """Score predicted cells, or the technical duplicate, beside the references.

    Every value is the mean over two halves of the true cells as the truth.

    Parameters
    ----------
    data, split
        The data set, and its folds.
    predicted, ranks
        Of `predict_folds`; None: the technical duplicate.
    focus
        Groups of genes to score apart, by name.

    Returns
    -------
    Columns metric, value and seconds: means over conditions (`pearson_delta`), over groups of them
    (`pearson_delta@strong`, `pearson_delta@1 of 2`), and each condition's, of all and of a group
    (`pearson_delta/A+ctrl`, `pearson_delta@strong/A+ctrl`).
    """
    start = time.perf_counter()
    items = list(_items(data, split))
    outcomes = _duplicate if predicted is None else _Predicted(data, predicted)
    if ranks is None:
        ranks = pd.concat([_rank_duplicates(item) for item in items], ignore_index=True)
    tables = {
        "": _measure(items, outcomes, list(METRICS)),
        "still": _measure(items, _no_change, list(EXPLAINED)),
        "floor": _measure(items, _train_mean(data, split), list(CALIBRATED)),
        "ceiling": _measure(items, _duplicate, list(CALIBRATED)),
    }
    rows: dict[str, float] = {}
    for name, chosen in _groups(items, focus):
        parts = {kind: table[chosen] for kind, table in tables.items()}
        values = _summarise(parts) | _recall(parts[""], ranks)
        rows |= {f"{metric}{name}": value for metric, value in values.items()}
        for metric, column in parts[""].groupby(CONDITION)[list(METRICS)].mean().items():
            rows |= {f"{metric}{name}/{condition}": value for condition, value in column.items()}
    scores = pd.DataFrame({"metric": list(rows), "value": list(rows.values())})
    return scores.assign(seconds=(time.perf_counter() - start) / len(scores))


def _items(data: Perturbations, split: Split) -> Iterator[_Item]:
    truths: dict[str | None, Truth] = {}  # folds by gene share theirs
    for number, fold in enumerate(split.folds):
        if fold.group not in truths:
            truths[fold.group] = Truth(data, fold)
        for condition, seen in zip(fold.test, fold.seen, strict=True):
            yield _Item(truths[fold.group], number, condition, seen)


class _Predicted:
    """Predicted cells, and their mean change from the control cells that they were made from."""

    def __init__(self, data: Perturbations, predicted: ad.AnnData) -> None:
        self.data, self.predicted = data, predicted
        self.rows = predicted.obs.groupby([FOLD, CONDITION], observed=True).indices
        self.row_of = {name: row for row, name in enumerate(data.names)}

    def __call__(self, item: _Item, half: int) -> Outcome:
        part = self.predicted[self.rows[item.fold, item.condition]]
        rows_M = [self.row_of[name] for name in part.obs[CONTROL_CELL]]
        cells_MG = np.asarray(part.X, np.float32)
        # Cell by cell, so that no change is exactly none.
        change_MG = cells_MG.astype(np.float64) - self.data.log_NG[rows_M].toarray()
        shift_G = change_MG.mean(axis=0)
        return item.truth.outcome(item.condition, half, shift_G=shift_G, cells_MG=cells_MG)


def _duplicate(item: _Item, half: int) -> Outcome:
    return item.truth.duplicate(item.condition, half)


def _no_change(item: _Item, half: int) -> Outcome:
    return item.truth.shifted(item.condition, half, np.zeros(len(item.truth.data.genes)))


def _train_mean(data: Perturbations, split: Split) -> _Outcomes:
    means = [Training(data, fold).mean_G for fold in split.folds]
    return lambda item, half: item.truth.shifted(item.condition, half, means[item.fold])


def _measure(items: Sequence[_Item], outcomes: _Outcomes, names: Sequence[str]) -> pd.DataFrame:
    """Metrics of every item, the mean over the two halves."""
    rows = []
    for item in items:
        halves = [outcomes(item, half) for half in HALVES]
        values = {
            name: float(np.mean([METRICS[name].compute(x) for x in halves])) for name in names
        }
        rows.append({CONDITION: item.condition, FOLD: item.fold, **values})
    return pd.DataFrame(rows)


def _groups(
    items: Sequence[_Item], focus: Mapping[str, Collection[str]]
) -> Iterator[tuple[str, list[bool]]]:
    """Yield the ending of a metric's name, and which items: all, those in focus, by genes seen."""
    yield "", [True] * len(items)
    for name, genes in focus.items():
        chosen = [set(genes_of(item.condition)) <= set(genes) for item in items]
        if any(chosen):
            yield f"{AMONG}{name}", chosen
    kinds = sorted({item.seen for item in items})
    for seen in kinds if len(kinds) > 1 else []:
        yield f"{AMONG}{seen}", [item.seen == seen for item in items]


def _summarise(parts: Mapping[str, pd.DataFrame]) -> dict[str, float]:
    """Means over conditions, what they explain of no change, and where they lie to the ceiling."""
    own = parts[""]
    values = {name: float(own[name].mean()) for name in METRICS}
    for name, share in EXPLAINED.items():
        errors = (parts[kind][name].to_numpy(np.float64) for kind in ("", "still"))
        values[share] = explained(*errors)
    for name, between in CALIBRATED.items():
        ends = (float(parts[kind][name].mean()) for kind in ("floor", "ceiling"))
        values[between] = calibrated(values[name], *ends)
    return values


def _rank_duplicates(item: _Item) -> pd.DataFrame:
    """Rank candidates by the other half's true changes: the ceiling of reverse."""
    truth = item.truth
    library = dict(zip(truth.conditions, truth.shift_CG[1], strict=True))
    target_G = truth.shift_CG[0][truth.row(item.condition)]
    table = rank_candidates(target_G, library, columns=truth.data.unperturbed)
    return table.assign(condition=item.condition, fold=item.fold)


def _recall(own: pd.DataFrame, ranks: pd.DataFrame) -> dict[str, float]:
    """Share of the states whose perturbation is among the first k candidates.

    Of single genes: states of one gene. Of pairs: all states; a pair finds those of its genes too.
    """
    states = own[[CONDITION, FOLD]].merge(ranks, on=[CONDITION, FOLD])
    truth = states[CONDITION].map(genes_of).map(set)
    found = states["candidate"].map(genes_of).map(set)
    is_hit = [true <= names for true, names in zip(truth, found, strict=True)]
    best = states[is_hit].pivot_table("rank", [FOLD, CONDITION], "genes", aggfunc="min")
    # What no state is found by has no rank, and is a miss where there were candidates.
    best = best.reindex(own.set_index([FOLD, CONDITION]).index, columns=states["genes"].unique())
    conditions = best.index.get_level_values(CONDITION)
    is_single = np.array([len(genes_of(condition)) == 1 for condition in conditions])
    values = {}
    for n_genes, name, chosen in ((1, "single", is_single), (2, "pair", is_single >= 0)):
        if n_genes in best and chosen.any():
            for k in TOP:
                rank_C = best.loc[chosen, n_genes].to_numpy(np.float64)
                values[f"reverse_{name}_top{k}"] = top_recall(rank_C, k)
    return values


def groups_of(summary: pd.DataFrame) -> list[str]:
    """Give the endings of the metrics of one data set's groups; the first is "", all conditions."""
    found = summary.loc[summary["metric"].str.fullmatch(f"pearson_delta{AMONG}[^/]+"), "metric"]
    return ["", *dict.fromkeys(found.str.removeprefix("pearson_delta"))]


def intervals_over_conditions(scores: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Mean of a metric over conditions with its 95 % bootstrap interval over them.

    Parameters
    ----------
    scores
        Tidy scores of one data set, as `score_predictions` gives them with `method` and `seed`.
    metric
        Of one condition, of `METRICS`; over a group of conditions with the ending that `groups_of`
        gives (`pearson_delta@strong`).

    Returns
    -------
    Index method; mean, low, high and conditions. Seeds are averaged first: they are no new
    perturbations.
    """
    part = scores[scores["metric"].str.startswith(f"{metric}/")]
    table = part.pivot_table("value", "method", "metric")
    rng = np.random.default_rng(0)
    drawn = rng.integers(0, table.shape[1], (_RESAMPLES, table.shape[1]))
    low, high = np.quantile(table.to_numpy()[:, drawn].mean(axis=2), [0.025, 0.975], axis=1)
    return pd.DataFrame(
        {"mean": table.mean(axis=1), "low": low, "high": high, "conditions": table.shape[1]}
    )
