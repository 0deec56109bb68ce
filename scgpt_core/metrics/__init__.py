"""How well an embedding mixes batches and keeps cell types apart: one function a metric.

The metrics are scib's (Luecken et al. 2022), and tests hold them to scib's own values within 1e-6.
scib searches neighbours, clusters and measures silhouettes anew for each metric; here all share
them. Two differ from scib by choice: LISI is its authors' (by distance in the embedding, where scib
walks a graph), and kBET, for which scib needs R, looks for neighbours in the embedding.

A metric is NaN where it is not defined: one batch, one label, no labels. Cells without a label are
neighbours like all others, and are left out where labels count. The docstrings of the metrics are
the definitions that reports quote.
"""

from scgpt_core.metrics.batch import (
    COMPONENTS,
    asw_batch,
    batch_variance,
    graph_connectivity,
    ilisi,
    kbet,
    pcr,
)
from scgpt_core.metrics.bio import ari, asw_label, cell_cycle, clisi, isolated_asw, isolated_f1, nmi
from scgpt_core.metrics.cells import (
    GRAPH_NEIGHBOURS,
    PERPLEXITY,
    RESOLUTIONS,
    Cells,
    silhouettes,
    weigh_neighbours,
)

__all__ = [
    "COMPONENTS",
    "GRAPH_NEIGHBOURS",
    "PERPLEXITY",
    "RESOLUTIONS",
    "Cells",
    "ari",
    "asw_batch",
    "asw_label",
    "batch_variance",
    "cell_cycle",
    "clisi",
    "graph_connectivity",
    "ilisi",
    "isolated_asw",
    "isolated_f1",
    "kbet",
    "nmi",
    "pcr",
    "silhouettes",
    "weigh_neighbours",
]
