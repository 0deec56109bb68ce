"""The corpus: cells of sealed shards, read from memory-mapped Arrow files."""

from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from scgpt_core.data import kernels
from scgpt_core.data.cells import Cells, make_room, take_cells
from scgpt_core.data.vocab import Vocabulary
from scgpt_core.keys import DATASET_ID, DONOR_ID, SOMA_JOINID
from scgpt_core.runs import digest, read_json, sha256

Split = Literal["train", "heldout", "all"]


class _Block(NamedTuple):
    """One record batch: arrays that lie in the mapped file."""

    joinids: NDArray[np.int64]
    offsets: NDArray[Any]
    genes: NDArray[Any]
    counts: NDArray[Any]


class Corpus:
    """Cells of a sealed corpus, or of one side of its split; made by `open_corpus`.

    Rows are numbered from 0 in the order of the shards; cells of the other side are skipped.
    """

    def __init__(
        self, folder: Path, manifest: dict[str, Any], vocab: Vocabulary, split: Split
    ) -> None:
        self.folder, self.manifest, self.vocab, self.split = folder, manifest, vocab, split
        self._batches = [
            batch for shard in manifest["shards"] for batch in _map_batches(folder / shard["file"])
        ]
        self._blocks = [_open_block(batch) for batch in self._batches]
        self._chosen = [self._choose(batch) for batch in self._batches]
        sizes = [len(chosen) for chosen in self._chosen]
        self._starts = np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)])

    @property
    def n_cells(self) -> int:
        """Number of cells."""
        return int(self._starts[-1])

    @cached_property
    def digest(self) -> str:
        """Hex SHA-256 of the manifest and the side of the split."""
        return digest([self.manifest["digest"], self.split])

    def cells(self, rows: NDArray[np.int64] | slice, *, into: Cells | None = None) -> Cells:
        """Cells of these rows, in this order; `into` as in `take_cells`."""
        if isinstance(rows, slice):
            rows = np.arange(*rows.indices(self.n_cells))
        turn = np.argsort(rows, kind="stable")
        if not np.array_equal(turn, np.arange(len(rows))):
            back = np.empty_like(turn)
            back[turn] = np.arange(len(rows))
            return take_cells(self.cells(rows[turn]), back)
        indptr = np.concatenate([[0], np.cumsum(self.lengths(rows))])
        genes, counts = make_room(int(indptr[-1]), into)
        cell_ids = np.empty(len(rows), np.int64)
        for block, places, local in self._by_block(rows):
            written = slice(indptr[places.start], indptr[places.stop])
            starts, stops = block.offsets[local], block.offsets[local + 1]
            parts = (block.genes, block.counts, genes[written], counts[written])
            kernels.take_cells(starts, stops, *parts)
            cell_ids[places] = block.joinids[local]
        return Cells(indptr, genes, counts, cell_ids)

    def lengths(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Non-zero genes of the cells of these rows: (B,)."""
        turn = np.argsort(rows, kind="stable")
        lengths = np.empty(len(rows), np.int64)
        for block, places, local in self._by_block(rows[turn]):
            lengths[turn[places]] = block.offsets[local + 1] - block.offsets[local]
        return lengths

    def obs(self, column: str) -> pa.DictionaryArray:
        """Return one of `OBS_COLUMNS` of all cells, in the order of rows."""
        chunks = [
            batch.column(column).take(pa.array(chosen))
            for batch, chosen in zip(self._batches, self._chosen, strict=True)
        ]
        return pa.chunked_array(chunks).unify_dictionaries().combine_chunks()

    def _by_block(
        self, rows: NDArray[np.int64]
    ) -> Iterator[tuple[_Block, slice, NDArray[np.int32]]]:
        """Yield each block that ascending rows touch, their places, and their rows in the block."""
        blocks = np.searchsorted(self._starts, rows, side="right") - 1
        first = 0
        while first < len(rows):
            block = int(blocks[first])
            last = int(np.searchsorted(blocks, block, side="right"))
            local = self._chosen[block][rows[first:last] - self._starts[block]]
            yield self._blocks[block], slice(first, last), local
            first = last

    def _choose(self, batch: pa.RecordBatch) -> NDArray[np.int32]:
        """Rows of a record batch that are on this side of the split."""
        if self.split == "all":
            return np.arange(batch.num_rows, dtype=np.int32)
        by = self.manifest["split"]["by"]
        columns = (DATASET_ID, DONOR_ID) if by == DONOR_ID else (DATASET_ID,)
        heldout = {tuple(group) for group in self.manifest["split"]["heldout"]}
        # Each distinct group is looked up once, by its number.
        encoded = [batch.column(name) for name in columns]
        codes = np.stack([column.indices.to_numpy() for column in encoded])
        groups, group_of_row = np.unique(codes, axis=1, return_inverse=True)
        names = [column.dictionary.to_pylist() for column in encoded]
        held = [
            tuple(name[code] for name, code in zip(names, group, strict=True)) in heldout
            for group in groups.T
        ]
        chosen = np.array(held)[group_of_row] == (self.split == "heldout")
        return np.flatnonzero(chosen).astype(np.int32)


def _map_batches(path: Path) -> list[pa.RecordBatch]:
    reader = pa.ipc.open_file(pa.memory_map(str(path)))
    return [reader.get_batch(i) for i in range(reader.num_record_batches)]


def _open_block(batch: pa.RecordBatch) -> _Block:
    genes, counts = batch.column("genes"), batch.column("counts")
    return _Block(
        batch.column(SOMA_JOINID).to_numpy(),
        genes.offsets.to_numpy(),
        genes.values.to_numpy(),
        counts.values.to_numpy(),
    )


def open_corpus(folder: str | Path, split: Split = "all", *, verify: bool | slice = True) -> Corpus:
    """Cells of a corpus folder: ``manifest.json``, ``vocab.json`` and the shards.

    Parameters
    ----------
    folder
        As `seal_shards` left it.
    split
        Cells to train on, cells that are held out, or all.
    verify
        Compare the SHA-256 of every shard (reads all of it once), or of a slice of them, where
        processes share the work; sizes are always compared.

    Raises
    ------
    ValueError
        That names every shard that is missing, cut off or altered.
    """
    folder = Path(folder)
    if not (folder / "manifest.json").is_file():
        message = f"{folder} has no manifest.json: it is no sealed corpus (run seal_shards)"
        raise ValueError(message)
    manifest = read_json(folder / "manifest.json")
    vocab = Vocabulary.load(folder / "vocab.json")
    shards = manifest["shards"]
    part = verify if isinstance(verify, slice) else slice(None if verify else 0)
    hashed = range(len(shards))[part]
    faults = [
        fault
        for i, shard in enumerate(shards)
        for fault in _faults(folder, shard, verify=i in hashed)
    ]
    if vocab.digest != manifest["vocab_digest"]:
        faults.append("vocab.json is not the vocabulary that the shards were built with")
    if digest({k: v for k, v in manifest.items() if k != "digest"}) != manifest["digest"]:
        faults.append("manifest.json was altered")
    if faults:
        message = f"corpus {folder}: {'; '.join(faults)}. Delete what is named and run again"
        raise ValueError(message)
    return Corpus(folder, manifest, vocab, split)


def _faults(folder: Path, shard: Mapping[str, Any], *, verify: bool) -> Iterator[str]:
    """Yield what is wrong with a shard."""
    path = folder / shard["file"]
    if not path.is_file():
        yield f"{path.name} is missing"
    elif path.stat().st_size != shard["bytes"]:
        yield f"{path.name} has {path.stat().st_size} bytes instead of {shard['bytes']}"
    elif verify and sha256(path) != shard["sha256"]:
        yield f"{path.name} was altered (its SHA-256 is another)"
