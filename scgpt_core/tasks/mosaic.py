"""What all methods of multi-omics are given: cells, some of them without what is beside their RNA.

Every method embeds all cells by what is visible of them, and imputes what is not.

Shapes: N cells, D dimensions, F features of a modality or of all.
"""

from collections.abc import Collection
from pathlib import Path
from typing import Final, NamedTuple

import anndata as ad
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.sparse import csr_matrix, diags_array

from scgpt_core.config import ModalitySettings
from scgpt_core.data.binning import draw_keys
from scgpt_core.data.identity import cell_identity
from scgpt_core.keys import BATCH, IMPUTED, WITHHELD
from scgpt_core.tasks.datasets import write_embedding
from scgpt_core.tasks.modalities import Modalities, Modality, read_modalities

_COUNTS_A_CELL: Final = 1e4
_FOR_WITHHOLDING: Final = 13  # added to the seed: the draw is independent of others

FloatArray = NDArray[np.float32]


class Problem(NamedTuple):
    """What every method is given: cells, and some of them without what is beside their RNA."""

    adata: ad.AnnData
    """Raw RNA counts, with batch and label."""
    visible: Modalities
    withheld_N: NDArray[np.bool_]
    """Cells whose measurements beside RNA no method sees: they are imputed, and compared."""


def pose_problem(
    adata: ad.AnnData, query: Collection[str], settings: ModalitySettings, *, seed: int
) -> Problem:
    """Withhold what is beside RNA of some cells of a prepared data set, for all methods alike.

    Parameters
    ----------
    query
        Batches whose other modalities are withheld; none: a share of the cells is drawn.
    seed
        Of that draw, by the cells' names.

    Raises
    ------
    ValueError
        Where the data set has RNA alone, a batch of `query` does not exist, none of them has more
        than RNA, or nothing is left to learn from, of one modality or of all.
    """
    modalities = read_modalities(adata)
    if not modalities.by_name:
        message = "the data set has RNA alone: name its `modalities` in datasets.tsv"
        raise ValueError(message)
    panels_with = np.any([m.measured_KF.any(axis=1) for m in modalities.by_name.values()], axis=0)
    has_more_N = panels_with[modalities.panel_N]
    if query:
        batches = adata.obs[BATCH].astype(str)
        absent, having = set(query) - set(batches), set(batches[has_more_N])
        if absent or having.isdisjoint(query):
            message = (
                f"query batches {', '.join(sorted(absent or query))}: the batches of the data set"
                f" that have more than RNA, to be withheld, are {', '.join(sorted(having))}; look"
                " at `query` in datasets.tsv"
            )
            raise ValueError(message)
        withheld_N = batches.isin(list(query)).to_numpy()
    else:
        keys_N = draw_keys(seed + _FOR_WITHHOLDING, 0, cell_identity(adata.obs_names.to_numpy()))
        withheld_N = keys_N < settings.withheld_share * 2.0**64
    withheld_N = withheld_N & has_more_N
    if not (has_more_N & ~withheld_N).any():
        message = (
            f"no cell is left with more than RNA where {', '.join(query)} is withheld: look at"
            " `query` in datasets.tsv"
        )
        raise ValueError(message)
    visible = _withhold(modalities, withheld_N)
    panels = np.unique(visible.panel_N)
    unseen = [name for name, m in visible.by_name.items() if not m.measured_KF[panels].any()]
    if unseen:
        message = (
            f"no cell is left with {', '.join(unseen)} where {', '.join(query)} is withheld: leave "
            "it out of `modalities` in datasets.tsv, or give cells to learn it from"
        )
        raise ValueError(message)
    return Problem(adata, _choose_peaks(visible, settings.n_peaks), withheld_N)


def _choose_peaks(modalities: Modalities, n_peaks: int) -> Modalities:
    """Keep the peaks that vary most in being open at all, among the cells they are visible in."""
    if "atac" not in modalities.by_name:
        return modalities
    peaks = modalities.by_name["atac"]
    n_cells_K = np.bincount(modalities.panel_N, minlength=len(peaks.measured_KF))
    n_measured_F = n_cells_K @ peaks.measured_KF
    share_F = peaks.counts_NF.getnnz(axis=0) / np.maximum(n_measured_F, 1)
    best = np.argsort(-share_F * (1 - share_F), kind="stable")[:n_peaks]
    left_out = set(peaks.features) - {peaks.features[i] for i in best}
    return modalities.keep(set(modalities.features) - left_out)


def _withhold(modalities: Modalities, withheld_N: NDArray[np.bool_]) -> Modalities:
    """Move cells to a panel of nothing."""
    keep = diags_array((~withheld_N).astype(np.float32))
    by_name = {}
    for name, modality in modalities.by_name.items():
        counts_NF = csr_matrix(keep @ modality.counts_NF)
        counts_NF.eliminate_zeros()
        nothing = np.zeros((1, len(modality.features)), bool)
        by_name[name] = Modality(
            counts_NF, modality.features, np.vstack([modality.measured_KF, nothing])
        )
    empty = len(next(iter(by_name.values())).measured_KF) - 1
    return Modalities(by_name, np.where(withheld_N, empty, modalities.panel_N))


def normalise(modalities: Modalities, name: str) -> FloatArray:
    """Values (N, F) of a modality that are compared and predicted; NaN where not measured.

    Of proteins the centred log ratio (CLR: log1p less the cell's mean of it over the proteins of
    its panel), of peaks log1p of counts per 10,000 on the peaks that are given.
    """
    measured_NF = modalities.measured(name)
    counts_NF = modalities.by_name[name].counts_NF.toarray()
    if name == "atac":
        counts_NF *= _COUNTS_A_CELL / np.maximum(counts_NF.sum(axis=1, keepdims=True), 1)
    log_NF = np.log1p(counts_NF)
    if name == "protein":
        n_N1 = np.maximum(measured_NF.sum(axis=1, keepdims=True), 1)
        log_NF -= log_NF.sum(axis=1, keepdims=True, where=measured_NF) / n_N1
    return np.where(measured_NF, log_NF, np.nan).astype(np.float32)


def write_joint(
    emb_ND: FloatArray, imputed_NF: FloatArray, problem: Problem, path: str | Path
) -> None:
    """Write the embedding file of a method of several modalities, with what it imputes.

    Parameters
    ----------
    emb_ND
        Cells x dimensions, finite.
    imputed_NF
        In the units of `normalise`, of the features of all modalities; kept where a feature is not
        visible but was learned from other cells.
    problem
        What the method was given.
    path
        The h5ad file to write: that of `write_embedding`, with obsm ``imputed`` by feature, and
        obs ``withheld``, which cells the method is scored on.
    """
    visible = problem.visible
    measured_NF = np.hstack([visible.measured(name) for name in visible.by_name])
    kept_NF = ~measured_NF & measured_NF.any(axis=0)
    table = pd.DataFrame(
        np.where(kept_NF, imputed_NF, np.float32(np.nan)),
        index=problem.adata.obs_names,
        columns=list(visible.features),
    )
    write_embedding(
        emb_ND,
        problem.adata,
        path,
        obs={WITHHELD: problem.withheld_N},
        obsm={IMPUTED: table},
    )
