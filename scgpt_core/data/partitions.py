"""Partitions: the h5ad files in which cells arrive, written and read in blocks of rows.

A partition holds raw counts (CSR), obs as in the Census, and var with `FEATURE_ID`,
`FEATURE_NAME`, `FEATURE_LENGTH` and `N_CELLS`; its SHA-256 lies beside it. One block of rows is
in memory at a time.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
from anndata.io import read_elem, write_elem
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from scgpt_core.keys import FEATURE_ID, N_CELLS
from scgpt_core.runs import COMPRESSION, sha256, whole

logger = logging.getLogger(__name__)

_CHUNK = 1 << 18
"""Numbers in one compressed chunk of the file."""


def sidecar(path: str | Path) -> Path:
    """Where the SHA-256 of a partition is written."""
    path = Path(path)
    return path.with_name(path.name + ".sha256")


class Partition:
    """A finished partition, read once to compare its SHA-256 with the one written beside it.

    Parameters
    ----------
    path
        The h5ad file.

    Raises
    ------
    ValueError
        Where the file, or its SHA-256, is missing or is not what it was when it was finished.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        if not (self.path.is_file() and sidecar(path).is_file()):
            message = f"{path} or its .sha256 does not exist: run download_partition"
            raise ValueError(message)
        expected, found = sidecar(path).read_text().split()[0], sha256(path)
        if found != expected:
            message = (
                f"{path} has SHA-256 {found}, but {expected} when it was finished: it was changed "
                "or cut off since. Delete it and run again"
            )
            raise ValueError(message)

    @cached_property
    def obs(self) -> pd.DataFrame:
        """Cells, with the columns of the Census."""
        return pd.DataFrame(self._read("obs"))

    @cached_property
    def genes(self) -> pd.DataFrame:
        """Genes: var of the file."""
        return pd.DataFrame(self._read("var"))

    @cached_property
    def origin(self) -> dict[str, Any]:
        """Census release, schema version, URI and filter."""
        return dict(self._read("uns")["origin"])

    @cached_property
    def max_count(self) -> float:
        """Greatest count of the partition."""
        return float(self._read("uns")["max_count"])

    def _read(self, name: str) -> Any:
        with h5py.File(self.path) as file:
            return read_elem(file[name])

    def blocks(self, cells: int = 4096) -> Iterator[tuple[int, csr_matrix]]:
        """Yield the first row and the counts of one block of rows after another."""
        with h5py.File(self.path) as file:
            X = file["X"]
            indptr = X["indptr"][...]
            n_genes = int(X.attrs["shape"][1])
            for first in range(0, len(indptr) - 1, cells):
                ends = indptr[first : first + cells + 1]
                stored = slice(ends[0], ends[-1])
                parts = (X["data"][stored], X["indices"][stored], ends - ends[0])
                yield first, csr_matrix(parts, shape=(len(ends) - 1, n_genes))


class PartitionWriter:
    """Appends blocks of rows to an h5ad file; used through `write_partition`."""

    def __init__(self, file: h5py.File, n_genes: int) -> None:
        self._X = file.create_group("X")
        for name, dtype in (("data", np.float32), ("indices", np.int32)):
            self._X.create_dataset(
                name, (0,), dtype, maxshape=(None,), chunks=(_CHUNK,), shuffle=True,
                **COMPRESSION,
            )  # fmt: skip
        self._row_ends = [np.zeros(1, np.int64)]
        self.n_cells_G: NDArray[np.int64] = np.zeros(n_genes, np.int64)
        self.max_count = 0.0

    @property
    def nnz(self) -> int:
        """Non-zero counts written so far."""
        return int(self._row_ends[-1][-1])

    def append(self, counts: csr_matrix) -> None:
        """Write the next rows."""
        for name, values in (("data", counts.data), ("indices", counts.indices)):
            stored = self._X[name]
            stored.resize((self.nnz + len(values),))
            stored[self.nnz :] = values
        self.n_cells_G += np.bincount(counts.indices, minlength=len(self.n_cells_G))
        self.max_count = max(self.max_count, float(counts.data.max(initial=0)))
        self._row_ends.append(self.nnz + counts.indptr[1:].astype(np.int64))

    def finish(self) -> None:
        """Write the row ends and what makes the group a CSR matrix to anndata."""
        row_ends = np.concatenate(self._row_ends)
        self._X.create_dataset("indptr", data=row_ends)
        shape = (len(row_ends) - 1, len(self.n_cells_G))
        self._X.attrs.update(
            {"encoding-type": "csr_matrix", "encoding-version": "0.1.0", "shape": shape}
        )


@contextmanager
def write_partition(
    path: str | Path, obs: pd.DataFrame, var: pd.DataFrame, origin: dict[str, Any]
) -> Iterator[PartitionWriter]:
    """Yield a writer; the file and its SHA-256 appear when the block ends well, or not at all.

    Parameters
    ----------
    path
        The h5ad file.
    obs, var
        Cells and genes, in the order of rows and columns; `N_CELLS` is added to var.
    origin
        Where the cells are from, for ``uns["origin"]``.
    """
    path = Path(path)
    with whole(path) as temporary:
        with h5py.File(temporary, "w") as file:
            file.attrs.update({"encoding-type": "anndata", "encoding-version": "0.1.0"})
            writer = PartitionWriter(file, len(var))
            yield writer
            writer.finish()
            names = var[FEATURE_ID].astype(str).to_numpy()
            write_elem(file, "var", var.assign(**{N_CELLS: writer.n_cells_G}).set_axis(names))
            write_elem(file, "obs", obs)
            write_elem(file, "uns", {"origin": origin, "max_count": writer.max_count})
        with whole(sidecar(path)) as digest:
            digest.write_text(f"{sha256(temporary)}  {path.name}\n")
