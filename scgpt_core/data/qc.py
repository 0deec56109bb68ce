"""Quality control: are these raw counts, and which cells are good enough for the corpus."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.sparse import csr_matrix, issparse

from scgpt_core.config import QCSettings
from scgpt_core.data import kernels
from scgpt_core.data.partitions import Partition
from scgpt_core.keys import ASSAY, FEATURE_LENGTH, FEATURE_NAME, IS_PRIMARY_DATA, SOMA_JOINID

_BLOCK_CELLS = 4096
_ROWS_SHOWN = 5


def check_counts(counts: Any, *, source: str, rows_N: NDArray[np.int64] | None = None) -> None:
    """Stop where values are not raw counts: whole, finite numbers that are not negative.

    Parameters
    ----------
    counts
        (N, G) sparse matrix, array, or anything that gives blocks of rows when sliced (a backed
        ``adata.X``); read in blocks.
    source
        The file or data set, for the message.
    rows_N
        Numbers of the rows in the source, for the message; None: they are all of it.

    Raises
    ------
    ValueError
        With the source, the first rows at fault and what was seen there.
    """
    for first, block in _blocks(counts):
        values = block.data
        if kernels.are_counts(values):
            continue
        faulty = ~np.isfinite(values) | (values < 0) | (values != np.floor(values))
        row_of_value = np.repeat(np.arange(block.shape[0]), np.diff(block.indptr))
        rows = np.unique(row_of_value[faulty])
        places = first + rows[:_ROWS_SHOWN]
        shown = ", ".join(map(str, places if rows_N is None else rows_N[places]))
        more = ", ..." if len(rows) > _ROWS_SHOWN else ""
        message = (
            f"{source}, rows {shown}{more}: {_describe_fault(block, values[faulty], rows)}. "
            "Raw counts are required: look for them in adata.raw or in a layer"
        )
        raise ValueError(message)


def _blocks(counts: Any) -> Iterator[tuple[int, csr_matrix]]:
    for first in range(0, counts.shape[0], _BLOCK_CELLS):
        block = counts[first : first + _BLOCK_CELLS]
        yield first, csr_matrix(block if issparse(block) else np.asarray(block))


def _describe_fault(
    block: csr_matrix, faulty: NDArray[np.floating[Any]], rows: NDArray[np.int64]
) -> str:
    """Say what kind of values were found where counts were expected."""
    examples = ", ".join(f"{value:g}" for value in faulty[:3])
    if np.isnan(faulty).any():
        return f"NaN among the values ({int(np.isnan(faulty).sum())} of them)"
    if not np.isfinite(faulty).all():
        return "infinite values"
    if (faulty < 0).any():
        return f"negative values, as {faulty.min():g} (scaled or log-transformed data?)"
    faulty_rows = block[rows].astype(np.float64)
    for totals, name in (
        (np.asarray(faulty_rows.sum(axis=1)).ravel(), "normalised"),
        (np.asarray(_expm1(faulty_rows).sum(axis=1)).ravel(), "log1p-normalised"),
    ):
        if len(rows) > 1 and np.isfinite(totals).all() and np.ptp(totals) < 1e-3 * totals.mean():
            return f"values are {name} to {totals.mean():.6g} a cell, as {examples}"
    return f"values that are not whole numbers, as {examples}"


def _expm1(counts: csr_matrix) -> csr_matrix:
    # float64 overflows above 709; such values are no logarithms of counts.
    return counts.expm1() if counts.data.max(initial=0) < 700 else counts * np.inf


class CleanCells:
    """The cells of a partition that pass quality control, and a count of those that do not.

    Parameters
    ----------
    partition
        Raw counts and obs.
    settings
        Thresholds.
    """

    def __init__(self, partition: Partition, settings: QCSettings) -> None:
        self.partition = partition
        self.funnel = {"cells in": 0, "cells out": 0}
        """Cells that came in, that were dropped for each reason, and that are left."""
        self._settings = settings
        self._full_length_N = partition.obs[ASSAY].isin(settings.full_length_assays).to_numpy()
        names = partition.genes[FEATURE_NAME].astype(str).str.upper()
        self._mito_G = names.str.startswith("MT-").to_numpy(float)
        self._repeated_N = partition.obs[SOMA_JOINID].duplicated().to_numpy()

    @property
    def max_count(self) -> float | None:
        """Greatest count; None where counts are divided by gene lengths and are not whole."""
        return None if self._full_length_N.any() else self.partition.max_count

    def blocks(self) -> Iterator[tuple[pd.DataFrame, csr_matrix]]:
        """Yield obs (B rows) and counts (B, G) of the cells that pass, block by block.

        Raises
        ------
        ValueError
            Where the values are no raw counts.
        """
        lengths_G = self.partition.genes[FEATURE_LENGTH].to_numpy(float)
        for first, counts in self.partition.blocks():
            rows = slice(first, first + counts.shape[0])
            rows_N = np.arange(rows.start, rows.stop)
            check_counts(counts, source=str(self.partition.path), rows_N=rows_N)
            counts.eliminate_zeros()
            kept = self._keep(counts, rows)
            if self._full_length_N[rows].any():
                counts = divide_by_length(counts, lengths_G, self._full_length_N[rows])
            yield self.partition.obs.iloc[rows][kept], counts[kept]

    def _keep(self, counts: csr_matrix, rows: slice) -> NDArray[np.bool_]:
        """Say which cells pass; a dropped cell counts for the first reason that fits it."""
        kept = np.ones(counts.shape[0], bool)
        self.funnel["cells in"] += len(kept)
        for reason, fault in self._faults(counts, rows):
            self.funnel[reason] = self.funnel.get(reason, 0) + int((kept & fault).sum())
            kept &= ~fault
        self.funnel["cells out"] = self.funnel.pop("cells out") + int(kept.sum())
        return kept

    def _faults(self, counts: csr_matrix, rows: slice) -> Iterator[tuple[str, NDArray[np.bool_]]]:
        """Yield each reason to drop a cell, and which cells it fits."""
        limits, obs = self._settings, self.partition.obs.iloc[rows]
        n_genes = np.diff(counts.indptr)
        totals = np.asarray(counts.sum(axis=1), float).ravel()
        yield "soma_joinid seen before", self._repeated_N[rows]
        yield "not primary data", ~obs[IS_PRIMARY_DATA].to_numpy(bool)
        if limits.assays is not None:
            yield "assay not wanted", ~obs[ASSAY].isin(limits.assays).to_numpy()
        yield f"fewer than {limits.min_genes} genes", n_genes < limits.min_genes
        if limits.max_genes is not None:
            yield f"more than {limits.max_genes} genes", n_genes > limits.max_genes
        yield f"fewer than {limits.min_counts} counts", totals < limits.min_counts
        if limits.max_mito_share is not None:
            mito = np.asarray(counts @ self._mito_G).ravel()
            reason = f"more than {limits.max_mito_share:.0%} mitochondrial counts"
            yield reason, mito > limits.max_mito_share * totals


def divide_by_length(
    counts: csr_matrix, lengths_G: NDArray[np.number], rows: NDArray[np.bool_]
) -> csr_matrix:
    """Divide the counts of some cells by the length of the gene, in units of the median length.

    Full-length protocols read a long transcript more often than a short one; others count
    molecules and are left as they are.

    Parameters
    ----------
    counts
        (B, G).
    lengths_G
        Bases, of merged exons.
    rows
        (B,), True for cells of full-length assays.

    Raises
    ------
    ValueError
        Where a length is not known (zero or NaN).
    """
    lengths_G = np.asarray(lengths_G, np.float64)
    if not (lengths_G > 0).all():
        message = (
            f"{int((~(lengths_G > 0)).sum())} genes have no length, which full-length assays need: "
            "give it in var['feature_length'], or leave these assays out (qc.assays)"
        )
        raise ValueError(message)
    factor_G = np.median(lengths_G) / lengths_G
    chosen = np.repeat(rows, np.diff(counts.indptr))
    values = np.where(chosen, counts.data * factor_G[counts.indices], counts.data)
    return csr_matrix((values.astype(np.float32), counts.indices, counts.indptr), counts.shape)
