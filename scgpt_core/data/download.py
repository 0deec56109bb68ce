"""The counts of a corpus's cells: from the Census into h5ad files, partition by partition."""

import logging
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import tiledbsoma as soma
from scipy.sparse import csr_matrix

from scgpt_core.data.cell_list import PARTITION, read_origin
from scgpt_core.data.census import FAULTS, Release, open_census, retry
from scgpt_core.data.partitions import write_partition
from scgpt_core.keys import FEATURE_ID, FEATURE_LENGTH, FEATURE_NAME, NNZ, RAW_SUM, SOMA_JOINID

logger = logging.getLogger(__name__)

_BLOCK_CELLS = 4096
T = TypeVar("T")


def download_partition(
    cells: str | Path,
    output: str | Path,
    *,
    partition: int,
    attempts: int,
    tiledb: Mapping[str, Any],
) -> None:
    """Write one partition's raw counts as h5ad, and its SHA-256 beside it.

    Counts arrive in blocks, each of which is tried again by itself after a fault, and is compared
    with the sums that the Census gives for its cells.

    Parameters
    ----------
    cells
        File of `query_census`.
    output
        The h5ad file.
    partition
        Number of the partition.
    attempts
        Tries of a block before a fault of the network is raised.
    tiledb
        TileDB options.
    """
    table = pq.read_table(cells, filters=[(PARTITION, "=", partition)])
    origin = read_origin(cells)
    reader = _CountReader(origin, attempts, tiledb)
    obs = _as_categories(table.drop_columns([PARTITION])).set_axis(
        [str(joinid) for joinid in table[SOMA_JOINID].to_pylist()]
    )
    with write_partition(output, obs, reader.genes, origin) as writer:
        progress = _Progress(len(obs))
        for first in range(0, len(obs), _BLOCK_CELLS):
            counts = reader.read(obs.iloc[first : first + _BLOCK_CELLS])
            writer.append(counts)
            progress.add(counts)
            del counts  # or two blocks would be in memory while the next one is read


def _as_categories(cells: pa.Table) -> pd.DataFrame:
    """Cells as a data frame in which texts are categories."""
    texts = [
        name
        for name, type_ in zip(cells.column_names, cells.schema.types, strict=True)
        if pa.types.is_string(type_)
    ]
    return pd.DataFrame(cells.to_pandas(categories=texts))


class _CountReader:
    """Reads blocks of counts; opens the Census again after a fault."""

    def __init__(self, origin: Mapping[str, str], attempts: int, tiledb: Mapping[str, Any]) -> None:
        hosted = origin["hosted"] == "True"
        self._release = Release(origin["release"] if hosted else "", origin["uri"])
        self._organism = origin["organism"]
        self._attempts, self._tiledb = attempts, tiledb
        self._opened: soma.Measurement | None = None
        self.genes = self._retried(self._read_genes, "genes")

    def read(self, obs: pd.DataFrame) -> csr_matrix:
        """Raw counts of cells, (B, G), columns as in `genes`."""
        what = f"cells {obs[SOMA_JOINID].iloc[0]} to {obs[SOMA_JOINID].iloc[-1]}"
        return self._retried(lambda rna: self._read_counts(rna, obs), what)

    def _retried(self, read: Callable[[soma.Measurement], T], what: str) -> T:
        def read_opened() -> T:
            if self._opened is None:
                census = open_census(self._release, self._tiledb)
                self._opened = census["census_data"][self._organism].ms["RNA"]
            try:
                return read(self._opened)
            except FAULTS:
                self._opened = None
                raise

        return retry(read_opened, self._attempts, what)

    def _read_genes(self, rna: soma.Measurement) -> pd.DataFrame:
        columns = [SOMA_JOINID, FEATURE_ID, FEATURE_NAME, FEATURE_LENGTH]
        genes = rna.var.read(column_names=columns).concat().to_pandas()
        return pd.DataFrame(genes).sort_values(SOMA_JOINID, ignore_index=True)

    def _read_counts(self, rna: soma.Measurement, obs: pd.DataFrame) -> csr_matrix:
        cells, genes = (frame[SOMA_JOINID].to_numpy() for frame in (obs, self.genes))
        raw = rna.X["raw"]
        assert isinstance(raw, soma.SparseNDArray)
        parts = []
        for table in raw.read((cells, slice(None))).tables():
            row = np.searchsorted(cells, table["soma_dim_0"].to_numpy()).astype(np.int32)
            column = np.searchsorted(genes, table["soma_dim_1"].to_numpy()).astype(np.int32)
            parts.append((row, column, table["soma_data"].to_numpy().astype(np.float32)))
        row, column, data = (np.concatenate(each) for each in zip(*parts, strict=True))
        counts = csr_matrix((data, (row, column)), shape=(len(cells), len(genes)))
        counts.sort_indices()
        _compare(counts, obs)
        return counts


def _compare(counts: csr_matrix, obs: pd.DataFrame) -> None:
    """Raise a fault where not all counts of the cells have arrived."""
    same_nnz = np.diff(counts.indptr) == obs[NNZ].to_numpy()
    sums = np.asarray(counts.sum(axis=1, dtype=np.float64)).ravel()
    same_sum = np.isclose(sums, obs[RAW_SUM].to_numpy(), rtol=1e-4)
    wrong = np.flatnonzero(~(same_nnz & same_sum))
    if len(wrong):
        cell = obs.iloc[wrong[0]]
        message = (
            f"{len(wrong)} of {len(obs)} cells came incomplete, first soma_joinid "
            f"{cell[SOMA_JOINID]}: {counts[wrong[0]].nnz} genes instead of {cell[NNZ]}"
        )
        raise ConnectionError(message)


class _Progress:
    """Reports cells and bytes as blocks arrive."""

    def __init__(self, n_cells: int) -> None:
        self._n_cells, self._cells, self._bytes = n_cells, 0, 0
        self._start = time.perf_counter()

    def add(self, counts: csr_matrix) -> None:
        """Count a block."""
        self._cells += counts.shape[0]
        self._bytes += counts.data.nbytes + counts.indices.nbytes + counts.indptr.nbytes
        rate = self._cells / (time.perf_counter() - self._start)
        logger.info(
            "%d of %d cells, %.1f MB, %.0f cells/s",
            self._cells, self._n_cells, self._bytes / 1e6, rate,
        )  # fmt: skip
