"""Shards: the corpus as token ids and raw counts, in Arrow files.

`build_shard` makes one file of one partition, `seal_shards` the manifest that makes a corpus of
them, which `scgpt_core.data.corpus` reads. A shard has one row a cell: ``soma_joinid`` (int64),
``genes`` (list of uint16 or uint32: token ids, ascending), ``counts`` (list of uint16, or of
float32 where counts are larger or not whole), and the columns `OBS_COLUMNS`, dictionary-encoded.
"""

import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from scgpt_core.data.cells import cells_from_csr
from scgpt_core.data.genes import LEAST_MATCHED, match_genes
from scgpt_core.data.vocab import Vocabulary
from scgpt_core.keys import (
    ASSAY,
    CELL_TYPE,
    CELL_TYPE_ID,
    DATASET_ID,
    DISEASE,
    DONOR_ID,
    FEATURE_ID,
    FEATURE_NAME,
    SOMA_JOINID,
    SUSPENSION_TYPE,
    TISSUE_GENERAL,
)
from scgpt_core.runs import digest, read_json, sha256, whole, write_json

if TYPE_CHECKING:  # machines that only train have no anndata
    from scgpt_core.data.qc import CleanCells

logger = logging.getLogger(__name__)

SCHEMA_VERSION: Final = 1
OBS_COLUMNS: Final = (
    DATASET_ID, DONOR_ID, ASSAY, CELL_TYPE, CELL_TYPE_ID, TISSUE_GENERAL, DISEASE, SUSPENSION_TYPE,
)  # fmt: skip


# ------------------------------------------------------------------------------------------ build


def build_shard(cells: "CleanCells", vocab: Vocabulary, output: str | Path) -> dict[str, Any]:
    """Write the cells of a partition as a shard, and beside it (``.json``) its summary.

    Parameters
    ----------
    cells
        What quality control lets pass; one block of it is in memory at a time.
    vocab
        Genes without a token are left out.
    output
        The Arrow file.

    Returns
    -------
    The summary: rows, non-zeros, bytes, SHA-256, QC funnel, cells of each donor, and which share of
    the counts has no token.

    Raises
    ------
    ValueError
        Where the values are no raw counts, or the vocabulary has too few of the genes
        (`LEAST_MATCHED` of the counts).
    """
    output = Path(output)
    genes = cells.partition.genes
    match = match_genes(genes[FEATURE_ID], vocab, symbols=genes[FEATURE_NAME])
    logger.info("%s: %s", cells.partition.path.name, match.report())
    writer = _ShardWriter(cells, vocab, match.ids)
    with whole(output) as temporary:
        with pa.OSFile(str(temporary), "wb") as sink, pa.ipc.new_file(sink, writer.schema) as file:
            for batch in writer.batches():
                file.write_batch(batch)
        if writer.rows:
            match.require(LEAST_MATCHED, writer.counts_G, source=str(cells.partition.path))
        all_counts, kept_counts = writer.counts_G.sum(), writer.counts_G[match.matched].sum()
        summary: dict[str, Any] = {
            "rows": writer.rows,
            "nnz": writer.nnz,
            "bytes": temporary.stat().st_size,
            "sha256": sha256(temporary),
            "vocab_digest": vocab.digest,
            "funnel": cells.funnel,
            "counts_without_token": round(1 - float(kept_counts / max(all_counts, 1)), 6),
            "genes_without_token": int((~match.matched).sum()),
            "groups": [[*group, n] for group, n in sorted(writer.groups.items())],
            "origin": cells.partition.origin,
        }
        write_json(output.with_suffix(".json"), summary)
    logger.info("%s: %d cells, %.1f MB", output.name, writer.rows, summary["bytes"] / 1e6)
    return summary


class _ShardWriter:
    """Makes record batches of clean cells and counts what goes into them."""

    def __init__(self, cells: "CleanCells", vocab: Vocabulary, ids_G: NDArray[np.int32]) -> None:
        self._cells, self._ids_G = cells, ids_G
        self.rows = self.nnz = 0
        self.counts_G = np.zeros(len(ids_G))
        self.groups: Counter[tuple[str, str]] = Counter()
        small_counts = cells.max_count is not None and cells.max_count < 1 << 16
        self._gene_type = pa.uint16() if vocab.n_tokens <= 1 << 16 else pa.uint32()
        self._count_type = pa.uint16() if small_counts else pa.float32()
        obs = cells.partition.obs
        self._categories = {
            name: pa.array(sorted(obs[name].astype(str).unique())) for name in OBS_COLUMNS
        }
        self.schema = pa.schema(
            [
                (SOMA_JOINID, pa.int64()),
                ("genes", pa.list_(self._gene_type)),
                ("counts", pa.list_(self._count_type)),
                *((name, pa.dictionary(pa.int32(), pa.string())) for name in OBS_COLUMNS),
            ],
            metadata={"schema_version": str(SCHEMA_VERSION), "vocab_digest": vocab.digest},
        )

    def batches(self) -> Iterator[pa.RecordBatch]:
        """Yield one record batch a block of cells."""
        for obs, counts in self._cells.blocks():
            if not len(obs):
                continue
            joinids = obs[SOMA_JOINID].to_numpy(np.int64)
            tokens = cells_from_csr(
                counts.indptr,
                counts.indices,
                counts.data,
                token_ids=self._ids_G,
                cell_ids=joinids,
            )
            self.rows += len(obs)
            self.nnz += len(tokens.genes)
            self.counts_G += np.bincount(counts.indices, counts.data, len(self.counts_G))
            self.groups.update(
                zip(obs[DATASET_ID].astype(str), obs[DONOR_ID].astype(str), strict=True)
            )
            offsets = pa.array(tokens.indptr.astype(np.int32))
            lists = [
                pa.ListArray.from_arrays(offsets, pa.array(values.astype(type_.to_pandas_dtype())))
                for values, type_ in (
                    (tokens.genes, self._gene_type),
                    (tokens.counts, self._count_type),
                )
            ]
            columns = [self._encode(name, obs[name].astype(str)) for name in OBS_COLUMNS]
            yield pa.record_batch([pa.array(joinids), *lists, *columns], schema=self.schema)

    def _encode(self, name: str, values: Iterable[str]) -> pa.DictionaryArray:
        # An Arrow file has one dictionary a column, so all batches of a shard share it.
        categories = self._categories[name]
        codes = pc.index_in(pa.array(values), value_set=categories)
        return pa.DictionaryArray.from_arrays(codes, categories)


# ------------------------------------------------------------------------------------------- seal


def seal_shards(
    shards: Sequence[str | Path],
    vocab: str | Path,
    output: str | Path,
    *,
    corpus: str,
    heldout_by: Literal["donor_id", "dataset_id"],
    heldout_share: float,
    seed: int,
) -> dict[str, Any]:
    """Write the manifest that makes a corpus of finished shards.

    Parameters
    ----------
    shards
        Arrow files of `build_shard`, in the order of their rows in the corpus, all in the folder of
        `output`.
    vocab
        The vocabulary that they were built with.
    output
        The manifest.
    corpus
        Name of the corpus.
    heldout_by, heldout_share, seed
        What is kept from training: whole donors (of a data set) or whole data sets, drawn by seed
        and name alone, about this share of the cells.

    Raises
    ------
    ValueError
        Where a shard is not of this vocabulary or nothing is left to train on.
    """
    vocabulary = Vocabulary.load(vocab)
    summaries = {Path(path).name: read_json(Path(path).with_suffix(".json")) for path in shards}
    foreign = [n for n, s in summaries.items() if s["vocab_digest"] != vocabulary.digest]
    if foreign:
        message = (
            f"{', '.join(foreign)}: built with another vocabulary than {vocab}: delete them and "
            "run again"
        )
        raise ValueError(message)
    funnel, groups = _count_cells(summaries.values(), heldout_by)
    if not groups:
        message = f"corpus {corpus}: quality control left no cell of {funnel['cells in']}: {funnel}"
        raise ValueError(message)
    split = _split(groups, heldout_by, heldout_share, seed, corpus)
    manifest: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "corpus": corpus,
        "census": next(summary["origin"] for summary in summaries.values()),
        "vocab_digest": vocabulary.digest,
        "n_cells": groups.total(),
        "nnz": sum(summary["nnz"] for summary in summaries.values()),
        "funnel": dict(funnel),
        "split": split,
        "shards": [
            {"file": name, **{key: summary[key] for key in ("rows", "nnz", "bytes", "sha256")}}
            for name, summary in summaries.items()
        ],
    }
    manifest["digest"] = digest(manifest)
    write_json(output, manifest)
    logger.info(
        "corpus %s: %d cells in %d shards, %d cells of %d groups held out",
        corpus, groups.total(), len(summaries), split["heldout_cells"], len(split["heldout"]),
    )  # fmt: skip
    return manifest


def _count_cells(
    summaries: Iterable[Mapping[str, Any]], heldout_by: str
) -> tuple[Counter[str], Counter[tuple[str, ...]]]:
    """Add up the funnels of quality control, and the cells of each group that may be held out."""
    funnel: Counter[str] = Counter()
    groups: Counter[tuple[str, ...]] = Counter()
    for summary in summaries:
        funnel.update(summary["funnel"])
        for dataset, donor, n_cells in summary["groups"]:
            groups[(dataset, donor) if heldout_by == DONOR_ID else (dataset,)] += n_cells
    funnel["cells out"] = funnel.pop("cells out")  # the last line of the table
    return funnel, groups


def _split(
    groups: Counter[tuple[str, ...]], heldout_by: str, share: float, seed: int, corpus: str
) -> dict[str, Any]:
    """Say which groups are held out, of those that `_count_cells` found."""
    heldout = _draw_groups(groups, share, seed)
    if len(heldout) == len(groups):
        message = (
            f"corpus {corpus}: shards.heldout_share of {share} holds out all "
            f"{groups.total()} cells, and nothing is left to train on: set a smaller share"
        )
        raise ValueError(message)
    return {
        "by": heldout_by,
        "share": share,
        "seed": seed,
        "heldout": sorted(heldout),
        "heldout_cells": sum(groups[group] for group in heldout),
    }


def _draw_groups(
    groups: Mapping[tuple[str, ...], int], share: float, seed: int
) -> list[tuple[str, ...]]:
    """Draw the groups to hold out.

    In an order drawn from the seed, each group that fits what is left of the share; where all are
    larger than the share, the smallest.
    """
    if share == 0:
        return []
    if len(groups) == 1:
        message = (
            f"all cells are of {next(iter(groups))}: if they are held out, nothing is left. Split "
            "by the other of donor_id and dataset_id, or set shards.heldout_share to 0"
        )
        raise ValueError(message)

    def draw(group: tuple[str, ...]) -> bytes:
        return blake2b("\n".join((str(seed), *group)).encode()).digest()

    room = share * sum(groups.values())
    chosen = []
    for group in sorted(groups, key=draw):
        if groups[group] <= room:
            chosen.append(group)
            room -= groups[group]
    return chosen or [min(groups, key=lambda group: (groups[group], draw(group)))]
