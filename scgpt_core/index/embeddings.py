"""Embeddings of a corpus on disk: one Arrow file a shard, read by memory map in the order of cells.

A row is a cell: its `SOMA_JOINID`, its obs columns (text dictionary-encoded) and its embedding as
D float32. (Where a model puts all cells into a narrow cone, float16 moves neighbours: of the 15
nearest of 1,182 cells with a median cosine of 0.998 it kept 98.8 %.) The file says whose embeddings
they are: digests of the model and of the corpus, what `embed_cells` was told, and the precision
that was used.

Shapes: N cells, D width.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from scgpt_core.keys import EMBEDDING, SOMA_JOINID
from scgpt_core.runs import digest, whole

FloatArray = NDArray[np.float32]

_ORIGIN = b"origin"
_UNIT_TOLERANCE = 0.01


def check_unit_rows(emb_ND: FloatArray, where: str) -> None:
    """Raise ValueError where an embedding is not finite or not of length one.

    Parameters
    ----------
    emb_ND
        Embeddings.
    where
        Where they are from, for the message.
    """
    norm_N = np.linalg.norm(emb_ND, axis=1)
    bad_N = np.flatnonzero(~(np.abs(norm_N - 1) < _UNIT_TOLERANCE))
    if bad_N.size:
        said = "NaN or infinite" if not np.isfinite(norm_N[bad_N[0]]) else "not of length one"
        message = (
            f"{where}: {bad_N.size} of {len(emb_ND)} embeddings are broken; that of row {bad_N[0]} "
            f"is {said} (norm {norm_N[bad_N[0]]:.4g}). Embed the cells anew, with embed_cells"
        )
        raise ValueError(message)


def write_embeddings(
    path: str | Path, obs: pa.Table, blocks: Iterable[FloatArray], *, origin: Mapping[str, Any]
) -> None:
    """Write the cells of a shard, whole or not at all; none of a shard without cells.

    Parameters
    ----------
    path
        Arrow IPC file.
    obs
        A row a cell: `SOMA_JOINID` and any other columns.
    blocks
        Unit rows (B, D) of the next B cells, until there is one for each row of `obs`.
    origin
        ``model`` and ``corpus``, their digests; ``precision``, the format that matrices were
        multiplied in; ``settings``: keywords of `embed_cells` that queries must be embedded with
        too.

    Raises
    ------
    ValueError
        Where an embedding is not finite or not a unit vector.
    """
    path = Path(path)
    if not obs.num_rows:
        blocks = [np.empty((0, 1), np.float32)]  # nobody knows the width, and nobody needs it
    obs = pa.table({name: _encode(obs[name]) for name in obs.column_names})
    metadata = {_ORIGIN: json.dumps(dict(origin), sort_keys=True).encode()}
    done, writer = 0, None
    with whole(path) as temporary, pa.OSFile(str(temporary), "wb") as sink:
        for emb_BD in blocks:
            check_unit_rows(emb_BD, f"{path.stem}, cells from {done} on")
            values = pa.array(emb_BD.astype(np.float32, copy=False).ravel())
            emb_B = pa.FixedSizeListArray.from_arrays(values, emb_BD.shape[1])
            table = obs.slice(done, len(emb_BD)).append_column(EMBEDDING, emb_B)
            if writer is None:
                writer = pa.ipc.new_file(sink, table.schema.with_metadata(metadata))
            writer.write_table(table)
            done += len(emb_BD)
        assert writer is not None
        assert done == obs.num_rows, f"{done} embeddings for {obs.num_rows} cells"
        writer.close()


def _encode(column: pa.ChunkedArray) -> pa.Array:
    """Text as a dictionary of one type, all else as it is, in one chunk."""
    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return column.cast(pa.string()).combine_chunks().dictionary_encode()
    return column.combine_chunks()


class Rows(Protocol):
    """Unit rows that are read part by part: `Embeddings`, or cells that are drawn."""

    width: int
    n_cells: int

    def chunks(self, cells: int, *, first: int = 0) -> Iterator[tuple[int, FloatArray]]:
        """Yield first row and rows of one chunk after another: see `Embeddings.chunks`."""

    def rows(self, rows_N: NDArray[np.int64]) -> FloatArray:
        """Give these rows, (N, D); they ascend."""


class Embeddings:
    """All embeddings of a reference, in one order, without reading them.

    Of the obs columns those are there that all files have.

    Parameters
    ----------
    paths
        Files of `write_embeddings`, in the order of the cells; of one corpus or of several.

    Raises
    ------
    ValueError
        Where a file is missing or cut off, files are of different models, precisions or widths, or
        none has cells.
    """

    def __init__(self, paths: Sequence[str | Path]) -> None:
        if not paths:
            message = "no embedding files were given"
            raise ValueError(message)
        self.paths = [Path(path) for path in paths]
        self._batches: list[pa.RecordBatch] = []
        self._file_of_batch: list[Path] = []
        origins: list[dict[str, Any]] = []
        n_cells_of: dict[str, int] = {}
        self._contents: list[tuple[str, str, int]] = []
        for path in self.paths:
            reader = _open(path)
            batches = [reader.get_batch(i) for i in range(reader.num_record_batches)]
            if not batches:
                continue
            origin = json.loads(reader.schema.metadata[_ORIGIN])
            corpus = origin.pop("corpus")
            n_cells = sum(batch.num_rows for batch in batches)
            n_cells_of[corpus] = n_cells_of.get(corpus, 0) + n_cells
            self._contents.append((path.name, corpus, n_cells))
            origins.append({**origin, "width": _width(reader.schema)})
            if origins[-1] != origins[0]:
                message = (
                    f"{path} and {self.paths[0]} are of different models or settings "
                    f"({origins[-1]} and {origins[0]}): delete the older one and run again. Where "
                    "machines differ in precision, set embed.precision"
                )
                raise ValueError(message)
            self._batches += batches
            self._file_of_batch += [path] * len(batches)
        if not origins:
            message = f"{self.paths[0]} and all other files have no cells to index: look at qc"
            raise ValueError(message)
        self.width: int = origins[0].pop("width")
        self.origin: dict[str, Any] = {**origins[0], "corpora": n_cells_of}
        names = self._batches[0].schema.names
        shared = set.intersection(*(set(batch.schema.names) for batch in self._batches))
        self.columns = [name for name in names if name in shared - {EMBEDDING, SOMA_JOINID}]
        self._starts = np.cumsum([0, *(batch.num_rows for batch in self._batches)])
        self.n_cells = int(self._starts[-1])

    @property
    def digest(self) -> str:
        """Of what the embeddings are and what each file holds: equal when a build resumes."""
        return digest([self.origin, self.width, self._contents])

    def chunks(self, cells: int, *, first: int = 0) -> Iterator[tuple[int, FloatArray]]:
        """Yield the first row and the embeddings of about `cells` cells after another.

        Parameters
        ----------
        cells
            Rows in a chunk, at least (but the last); a chunk ends with a record batch.
        first
            Row to begin with.
        """
        waiting: list[FloatArray] = []
        start, n = first, 0
        for i, batch in enumerate(self._batches):
            if self._starts[i + 1] <= first:
                continue
            part_BD = self._read(i)[max(0, first - int(self._starts[i])) :]
            waiting.append(part_BD)
            n += len(part_BD)
            if n >= cells or batch is self._batches[-1]:
                yield start, np.concatenate(waiting)
                start, n, waiting = start + n, 0, []

    def rows(self, rows_N: NDArray[np.int64]) -> FloatArray:
        """Embeddings of these rows, (N, D); rows ascend."""
        out_ND = np.empty((len(rows_N), self.width), np.float32)
        ends = np.searchsorted(rows_N, self._starts)
        for i in range(len(self._batches)):
            part = slice(ends[i], ends[i + 1])
            if ends[i + 1] > ends[i]:
                out_ND[part] = self._read(i)[rows_N[part] - self._starts[i]]
        return out_ND

    def obs(self) -> Iterator[pa.RecordBatch]:
        """Yield what stands beside the embeddings: `SOMA_JOINID` and the obs columns."""
        for batch in self._batches:
            yield batch.select([SOMA_JOINID, *self.columns])

    def _read(self, i: int) -> FloatArray:
        batch = self._batches[i]
        values = batch.column(batch.schema.get_field_index(EMBEDDING)).flatten()
        emb_BD: FloatArray = values.to_numpy().reshape(-1, self.width)
        check_unit_rows(emb_BD, f"{self._file_of_batch[i]}, cells from row {self._starts[i]} on")
        return emb_BD


def _width(schema: pa.Schema) -> int:
    return int(schema.field(EMBEDDING).type.list_size)


def _open(path: Path) -> pa.RecordBatchFileReader:
    try:
        return pa.ipc.open_file(pa.memory_map(str(path)))
    except (FileNotFoundError, pa.ArrowInvalid) as error:
        message = f"{path} is missing or cut off ({error}): delete it and run embed_corpus again"
        raise ValueError(message) from error
