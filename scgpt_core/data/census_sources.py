"""The h5ad files of a local Census: what a row of their table takes of its file.

A file may be larger than memory: obs and var are read once, and counts block by block.
Shapes: N cells that are taken, G genes of the file.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
from anndata.io import read_elem, sparse_dataset
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from scgpt_core.config import SourceRow
from scgpt_core.data.genes import all_genes, match_var
from scgpt_core.data.labels import harmonise_labels
from scgpt_core.data.obs import find_column, query_cells
from scgpt_core.data.qc import check_counts
from scgpt_core.keys import (
    ASSAY,
    CELL_TYPE,
    CELL_TYPE_ID,
    DATASET_ID,
    DISEASE,
    DONOR_ID,
    IS_PRIMARY_DATA,
    SPECIAL_TOKENS,
    SUSPENSION_TYPE,
    TISSUE_GENERAL,
    UNKNOWN,
)

logger = logging.getLogger(__name__)

DESCRIBED = (ASSAY, DONOR_ID, SUSPENSION_TYPE, TISSUE_GENERAL, DISEASE)
"""Columns of the Census that a row gives as a text, or as the obs column that has them."""
_BLOCK_CELLS = 4096
_LEAST_KNOWN_GENES = 0.5
"""Share of a file's genes; below it they are hardly human genes."""


@dataclass(frozen=True, eq=False)
class CensusSource:
    """Cells and genes that a row takes of its file; their counts stay there."""

    row: SourceRow
    path: Path
    place: str
    """Of the counts in the file, as "layers/counts"."""
    rows_N: NDArray[np.int64]
    """Rows of the file that are kept, ascending."""
    obs: pd.DataFrame
    """Columns of the Census for these cells, by their names in the file."""
    genes_G: NDArray[np.int64]
    """Row of each gene in `load_gene_table`, negative where it is not known."""
    unmatched: list[tuple[str, str]]
    """Names of genes that are not known, and how they are not (`GeneMatch.how`)."""

    def blocks(self) -> Iterator[csr_matrix]:
        """Yield raw counts, checked: (at most 4,096, G), without zeros.

        Of counts that are stored by gene (CSC) the whole file's are in memory meanwhile.

        Raises
        ------
        ValueError
            That names the file and rows with values that are no raw counts.
        """
        with _open(self.path) as file:
            counts = _read_counts(file[self.place])
            for first in range(0, len(self.rows_N), _BLOCK_CELLS):
                rows = self.rows_N[first : first + _BLOCK_CELLS]
                is_in_block = np.zeros(counts.shape[0], bool)
                is_in_block[rows] = True
                # By a mask, rows that lie side by side are read at once.
                block = csr_matrix(counts[is_in_block])
                check_counts(block, source=str(self.path), rows_N=rows)
                block.eliminate_zeros()
                yield block


def read_source(row: SourceRow, path: Path, *, cell_types: Path) -> CensusSource:
    """Read which cells and genes a row takes of its file.

    Parameters
    ----------
    row
        Of the table of h5ad files.
    path
        The h5ad file.
    cell_types
        Table of `harmonise_labels`.

    Raises
    ------
    ValueError
        That names the file, where it is none, a column or a layer does not exist, a query does not
        work or keeps no cell, or less than half of the genes are known.
    """
    with _open(path) as file:
        place = _find_counts(file, row.layer, path)
        obs = _read_frame(file, "obs", path)
        var = _read_frame(file, "raw/var" if place == "raw/X" else "var", path)
    source = str(path)
    rows_N = np.flatnonzero(query_cells(obs, row.cells, source=source, key="cells"))
    if not len(rows_N):
        message = f"{path}: cells {row.cells!r} keeps none of {len(obs)} cells: widen it"
        raise ValueError(message)
    described = _describe(obs.iloc[rows_N], row, source, cell_types)
    is_primary = query_cells(obs, row.primary, source=source, key="primary")
    described[IS_PRIMARY_DATA] = is_primary[rows_N]
    match = match_var(var, all_genes())
    logger.info("%s: %s", row.dataset_id, match.report())
    match.require(_LEAST_KNOWN_GENES, source=source)
    return CensusSource(
        row=row,
        path=path,
        place=place,
        rows_N=rows_N,
        obs=described,
        genes_G=match.ids.astype(np.int64) - len(SPECIAL_TOKENS),
        unmatched=[
            (name, how)
            for name, how, matched in zip(match.names, match.how, match.matched, strict=True)
            if not matched
        ],
    )


@contextmanager
def _open(path: Path) -> Iterator[h5py.File]:
    if not path.is_file():
        message = f"{path} does not exist: put it there, or correct its path in the table"
        raise ValueError(message)
    try:
        file = h5py.File(path)
    except OSError as error:
        message = f"{path} is not a whole h5ad file: {error}"
        raise ValueError(message) from error
    with file:
        yield file


def _find_counts(file: h5py.File, layer: str | None, path: Path) -> str:
    """Find the place of a layer's counts in the file."""
    places = {name: f"layers/{name}" for name in file.get("layers", ())}
    if "raw/X" in file:
        places["raw"] = "raw/X"
    if layer is None and "X" in file:
        return "X"
    if layer not in places:
        what = "X is empty" if layer is None else f"there is no layer {layer!r}"
        message = f"{path}: {what}; there are: {', '.join(sorted(places)) or 'none'}"
        raise ValueError(message)
    return places[layer]


def _read_frame(file: h5py.File, name: str, path: Path) -> pd.DataFrame:
    if not isinstance(file.get(name), h5py.Group):
        message = f"{path} has no table {name}: write it again, with anndata 0.7 or later"
        raise ValueError(message)
    frame = pd.DataFrame(read_elem(file[name]))
    return frame.set_axis(frame.index.astype(str))


def _read_counts(stored: h5py.Group | h5py.Dataset) -> Any:
    """Open counts to be read by masks of rows: on disk, or in memory where they are by gene."""
    if isinstance(stored, h5py.Dataset):
        return stored
    counts = sparse_dataset(stored)
    return counts if counts.format == "csr" else counts.to_memory().tocsr()


def _describe(obs: pd.DataFrame, row: SourceRow, source: str, cell_types: Path) -> pd.DataFrame:
    """Columns of the Census that the row gives: as it says, or by the obs column that it names."""

    def describe(column: str) -> pd.Series:
        said: str = getattr(row, column)
        if not said.startswith("obs:"):
            return pd.Series(said, index=obs.index)
        found = find_column(obs, said.removeprefix("obs:"), source=source)
        return found.fillna(UNKNOWN).astype(str)

    labels = harmonise_labels(describe(CELL_TYPE), cell_types)
    return pd.DataFrame(
        {
            DATASET_ID: row.dataset_id,
            **{column: describe(column) for column in DESCRIBED},
            CELL_TYPE: labels.names,
            CELL_TYPE_ID: labels.ids,
        },
        index=obs.index,
    )
