"""Scores of the benchmark: every metric of one run, and tables over methods and seeds.

A tidy table of scores has the columns `COLUMNS`: a row for each metric of each run.
"""

from scgpt_core.scores.definitions import (
    AT,
    IMPUTATION_METRICS,
    LABEL_METRICS,
    MAIN,
    MEANS,
    METRICS,
    RANKED_BY,
    ImputationMetric,
    LabelMetric,
    Mean,
    Metric,
    avg_batch,
    avg_bio,
    define_metrics,
    overall,
    scib_batch,
    scib_bio,
    scib_overall,
)
from scgpt_core.scores.scoring import (
    COLUMNS,
    score_embedding,
    score_imputation,
    score_predictions,
    write_scores,
)
from scgpt_core.scores.tables import learning_curve, main_table, summarise_scores

__all__ = [
    "AT",
    "COLUMNS",
    "IMPUTATION_METRICS",
    "LABEL_METRICS",
    "MAIN",
    "MEANS",
    "METRICS",
    "RANKED_BY",
    "ImputationMetric",
    "LabelMetric",
    "Mean",
    "Metric",
    "avg_batch",
    "avg_bio",
    "define_metrics",
    "learning_curve",
    "main_table",
    "overall",
    "scib_batch",
    "scib_bio",
    "scib_overall",
    "score_embedding",
    "score_imputation",
    "score_predictions",
    "summarise_scores",
    "write_scores",
]
