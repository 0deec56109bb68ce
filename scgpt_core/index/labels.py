"""What is known of the reference cells, beside the index: any obs column, memory-mapped.

Row i describes the cell whose id in the index is i. Text columns have one dictionary for all rows.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from scgpt_core.index.embeddings import Embeddings
from scgpt_core.keys import SOMA_JOINID, UNKNOWN


def write_labels(path: Path, embeddings: Embeddings) -> None:
    """Write joinids and obs columns of all cells; one record batch is in memory at a time."""
    values = _shared_dictionaries(embeddings)
    writer = None
    with pa.OSFile(str(path), "wb") as sink:
        for batch in embeddings.obs():
            columns = {
                name: _recode(column, values[name]) if name in values else column
                for name, column in zip(batch.schema.names, batch.columns, strict=True)
            }
            part = pa.record_batch(columns)
            if writer is None:
                writer = pa.ipc.new_file(sink, part.schema)
            writer.write_batch(part)
        assert writer is not None, "Embeddings holds at least one batch"
        writer.close()


def _shared_dictionaries(embeddings: Embeddings) -> dict[str, pa.Array]:
    found: dict[str, set[str]] = {}
    for batch in embeddings.obs():
        for name, column in zip(batch.schema.names, batch.columns, strict=True):
            if pa.types.is_dictionary(column.type):
                found.setdefault(name, set()).update(column.dictionary.to_pylist())
    return {name: pa.array(sorted(values), pa.string()) for name, values in found.items()}


def _recode(column: pa.DictionaryArray, values: pa.Array) -> pa.DictionaryArray:
    place = pa.compute.index_in(column.dictionary, values)
    return pa.DictionaryArray.from_arrays(place.take(column.indices), values)


class Labels:
    """The label store of an index, opened without reading it.

    Parameters
    ----------
    path
        File of `write_labels`.
    """

    def __init__(self, path: Path) -> None:
        self._table = pa.ipc.open_file(pa.memory_map(str(path))).read_all()

    def __len__(self) -> int:
        return int(self._table.num_rows)

    @property
    def columns(self) -> list[str]:
        """Names of the obs columns."""
        return [name for name in self._table.column_names if name != SOMA_JOINID]

    def categories(self, column: str) -> list[str]:
        """Values of a text column, sorted, `UNKNOWN` left out.

        Raises
        ------
        ValueError
            Where there is no such column or it is not text.
        """
        self._require(column)
        kind = self._table.schema.field(column).type
        if not pa.types.is_dictionary(kind):
            message = f"obs column {column!r} is {kind}, where labels (text) are due"
            raise ValueError(message)
        values = self._table[column].chunk(0).dictionary.to_pylist()
        return [value for value in values if value != UNKNOWN]

    def codes(self, column: str, rows: NDArray[np.int64] | None = None) -> NDArray[np.int64]:
        """Place of each row's value in `categories`; -1 where it is unknown or missing.

        Parameters
        ----------
        column
            A text column.
        rows
            Rows of any shape, -1 for none; all rows in order where left out.
        """
        values = [*self.categories(column), UNKNOWN]
        store = self._table[column].chunk(0).dictionary.to_pylist()
        place = {value: i for i, value in enumerate(values)}
        recode = np.array([place[value] for value in store] + [len(values) - 1], np.int64)
        recode[recode == len(values) - 1] = -1
        if rows is None:
            stored = pa.chunked_array([part.indices for part in self._table[column].chunks])
            return np.asarray(recode[stored.fill_null(len(store)).to_numpy()])
        taken = self._take(column, rows)
        codes = taken.indices.fill_null(len(store)).to_numpy(zero_copy_only=False)
        return np.asarray(recode[codes]).reshape(rows.shape)

    def values(self, columns: Sequence[str], rows: NDArray[np.int64]) -> pa.Table:
        """Values of obs columns or `SOMA_JOINID` at rows (1-D); null where the row is -1.

        Raises
        ------
        ValueError
            Where there is no such column.
        """
        for name in columns:
            self._require(name)
        return pa.table({name: self._take(name, rows) for name in columns})

    def _require(self, column: str) -> None:
        if column not in self._table.column_names:
            message = (
                f"the reference has no obs column {column!r}; it has: {', '.join(self.columns)}"
            )
            raise ValueError(message)

    def _take(self, column: str, rows: NDArray[np.int64]) -> pa.Array:
        wanted = pa.array(rows.ravel(), mask=rows.ravel() < 0)
        return self._table[column].take(wanted).combine_chunks()
