"""Metrics of how well biology is kept: types apart, rare types found, the cell cycle conserved."""

import numpy as np
from sklearn.metrics import adjusted_rand_score

from scgpt_core.cell_cycle import explain_variance
from scgpt_core.keys import UNKNOWN
from scgpt_core.metrics.cells import NAN, Cells, lisi


def nmi(cells: Cells) -> float:
    """Normalised mutual information of labels and Leiden clusters of the 15-neighbour graph.

    At the best of ten resolutions from 0.2 to 2; normalised by the mean of the two entropies.
    """
    return float(cells.nmi_by_resolution.max()) if cells.n_labels > 1 else NAN


def ari(cells: Cells) -> float:
    """Rand index, adjusted for chance, of labels and the Leiden clusters that NMI is best with."""
    if cells.n_labels < 2:
        return NAN
    best_N = cells.clusterings[cells.nmi_by_resolution.argmax()]
    return float(adjusted_rand_score(cells.known_labels, best_N))


def asw_label(cells: Cells) -> float:
    """Mean silhouette width of cells by label, scaled from -1..1 to 0..1."""
    return float((cells.label_silhouettes.mean() + 1) / 2) if cells.n_labels > 1 else NAN


def isolated_f1(cells: Cells) -> float:
    """F1 of the cluster that fits an isolated label best, the mean over isolated labels.

    Isolated are the labels that are in the fewest batches, unless every label is in all batches.
    The best cluster is sought at all ten resolutions.
    """
    if not cells.isolated_labels:
        return NAN
    scores = []
    for label in cells.isolated_labels:
        is_label_N = cells.known_labels == label
        f1_R = [
            np.max(2 * np.bincount(c_N, weights=is_label_N) / (np.bincount(c_N) + is_label_N.sum()))
            for c_N in cells.clusterings
        ]
        scores.append(max(f1_R))
    return float(np.mean(scores))


def isolated_asw(cells: Cells) -> float:
    """Mean silhouette width of the cells of an isolated label, scaled to 0..1, over such labels.

    Isolated are the labels that are in the fewest batches, unless every label is in all batches.
    """
    if not cells.isolated_labels or cells.n_labels < 2:
        return NAN
    widths = [
        cells.label_silhouettes[cells.known_labels == label].mean()
        for label in cells.isolated_labels
    ]
    return float((np.mean(widths) + 1) / 2)


def clisi(cells: Cells) -> float:
    """Cell-type LISI: median effective number of labels around a cell, scaled.

    From 0 (all labels alike) to 1 (one label). Around a cell are its 90 nearest, weighted by
    distance to a perplexity of 30 (Korsunsky et al. 2019).
    """
    if cells.n_labels < 2:
        return NAN
    median = np.nanmedian(lisi(cells, cells.label_N, aside=UNKNOWN)[cells.is_known])
    return float((cells.n_labels - median) / (cells.n_labels - 1))


def cell_cycle(cells: Cells) -> float:
    """Cell-cycle conservation: how little the variance that the phase explains has changed.

    1 less the relative change, at least 0, from the log counts of a batch to the embedding of its
    cells, the mean over batches; phases are scored by the genes of S and G2/M (Tirosh et al. 2016).
    Batches of fewer than 10 cells, or without any variance by phase, are left out.
    """
    if cells.phase_N2 is None:
        return NAN
    scores = []
    for batch, before in cells.phase_variance.items():
        if not before > 0:  # also where it is not a number
            continue
        rows = cells.batch_N == batch
        after = explain_variance(cells.emb_ND[rows], cells.phase_N2[rows])
        scores.append(max(0.0, 1 - abs(after - before) / before))
    return float(np.mean(scores)) if scores else NAN
