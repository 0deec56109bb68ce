"""Figures of the report: one function a figure, each gives back a matplotlib ``Figure``.

The functions choose no backend and leave pyplot's state and the user's rcParams as they were.
"""

from scgpt_core.plots.corpora import plot_counts, plot_funnel, plot_histograms, plot_learning_curve
from scgpt_core.plots.embeddings import compute_umap, plot_embeddings, plot_mapping
from scgpt_core.plots.methods import (
    plot_confusion,
    plot_costs,
    plot_curves,
    plot_ranking,
    plot_scores,
)
from scgpt_core.plots.networks import plot_activity, plot_enrichment, plot_network
from scgpt_core.plots.style import assign_styles

__all__ = [
    "assign_styles",
    "compute_umap",
    "plot_activity",
    "plot_confusion",
    "plot_costs",
    "plot_counts",
    "plot_curves",
    "plot_embeddings",
    "plot_enrichment",
    "plot_funnel",
    "plot_histograms",
    "plot_learning_curve",
    "plot_mapping",
    "plot_network",
    "plot_ranking",
    "plot_scores",
]
