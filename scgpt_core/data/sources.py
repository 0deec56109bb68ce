"""Where a loader takes cells from: a corpus, or cells in memory.

Shapes: N cells, B of them.
"""

from typing import Final, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from scgpt_core.data.cells import Cells, take_cells
from scgpt_core.data.identity import digest_cells

NO_CLASS: Final = -1
"""Class of a cell that has none, or none that is known: nothing is learned from it."""


class CellSource(Protocol):
    """Where cells come from, by row: a `Corpus`, or an `ArraySource`."""

    @property
    def n_cells(self) -> int:
        """Number of cells."""

    @property
    def digest(self) -> str:
        """What tells these cells from others."""

    def cells(self, rows: NDArray[np.int64], *, into: Cells | None = None) -> Cells:
        """Cells of these rows, in this order; `into` as in `take_cells`."""

    def lengths(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Non-zero genes of the cells of these rows: (B,)."""


class ArraySource:
    """Cells in memory, with a sequencing batch, a class and a panel each where they have them.

    Parameters
    ----------
    cells
        All cells.
    batch, label, panel
        (N,) integer codes; a label may be `NO_CLASS`; a panel says what a cell was measured for.
    """

    def __init__(
        self,
        cells: Cells,
        *,
        batch: ArrayLike | None = None,
        label: ArrayLike | None = None,
        panel: ArrayLike | None = None,
    ) -> None:
        self._cells = cells
        self.batch_N = self._codes(batch, "batch")
        self.label_N = self._codes(label, "label")
        self.panel_N = self._codes(panel, "panel")

    def _codes(self, codes: ArrayLike | None, name: str) -> NDArray[np.int64] | None:
        if codes is None:
            return None
        codes_N = np.asarray(codes)
        if codes_N.shape != (self.n_cells,) or codes_N.dtype.kind not in "iu":
            message = (
                f"{name} is {codes_N.dtype} of shape {codes_N.shape}: integer codes of "
                f"{self.n_cells} cells are due"
            )
            raise ValueError(message)
        return codes_N.astype(np.int64)

    @property
    def n_cells(self) -> int:
        """Number of cells."""
        return len(self._cells.cell_ids)

    @property
    def digest(self) -> str:
        """Hex SHA-256 of the identities of the cells."""
        return digest_cells(self._cells.cell_ids)

    def cells(self, rows: NDArray[np.int64], *, into: Cells | None = None) -> Cells:
        """Cells of these rows, in this order; `into` as in `take_cells`."""
        return take_cells(self._cells, rows, into=into)

    def lengths(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Non-zero genes of the cells of these rows: (B,)."""
        return self._cells.indptr[rows + 1] - self._cells.indptr[rows]
