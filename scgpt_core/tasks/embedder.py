"""Embed blocks of cells with one model: sorted by length, collated ahead, resumed block by block.

In a block, cells are sorted by length, so that a mini-batch pads little. A thread reads and
tokenizes the next mini-batches while the model works on the last.

Shapes: B cells in a block or mini-batch, D width.
"""

import hashlib
import logging
import time
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F  # noqa: N812

from scgpt_core.batch import Batch
from scgpt_core.checkpoint import Checkpoint
from scgpt_core.data.cells import Cells, thin_cells
from scgpt_core.data.collate import TokenSettings, to_batch
from scgpt_core.device import EmbedPrecision, autocast, resolve_embed_precision
from scgpt_core.model.int8 import Int8Encoder
from scgpt_core.runs import digest, whole

FloatArray = NDArray[np.float32]
T = TypeVar("T")

_CPU_TOKENS = 4800
"""Tokens in a forward pass on a CPU, at most: more leave its caches, and are slower."""
_BATCHES_AHEAD = 3
_LOG_SECONDS = 15

logger = logging.getLogger(__name__)


def embed_blocks(
    blocks: Iterable[Cells],
    ckpt: Checkpoint,
    *,
    max_tokens: int,
    batch_size: int,
    seed: int,
    max_counts: int | None = None,
    precision: EmbedPrecision = "auto",
    n_cells: int | None = None,
    parts: str | Path | None = None,
) -> Iterator[FloatArray]:
    """Embed blocks of cells one by one: (B, D) unit rows for each, in the order of its cells.

    Parameters
    ----------
    blocks
        Cells by token id; a corpus gives them as ``corpus.cells(rows)``.
    n_cells
        Of all blocks, for the progress that is logged.
    ckpt, max_tokens, batch_size, seed, max_counts, precision
        As in `embed_cells`.
    parts
        Folder in which finished blocks are kept, for a run that is started again.
    """
    embedder = _Embedder(
        ckpt,
        max_tokens=max_tokens,
        batch_size=batch_size,
        seed=seed,
        max_counts=max_counts,
        precision=precision,
        parts=None if parts is None else Path(parts),
    )
    progress = _Progress(n_cells)
    yield from embedder.embed(blocks, progress)
    progress.finish()


def name_precision(ckpt: Checkpoint, wanted: EmbedPrecision) -> str:
    """Give the format that embedding multiplies in: "float32", "bfloat16" or "int8".

    "auto" depends on the device and on the model's width: what is compared was embedded by one.
    """
    if wanted == "int8":
        return wanted
    device = next(ckpt.model.parameters()).device
    return str(resolve_embed_precision(device, wanted, width=ckpt.config.width)).removeprefix(
        "torch."
    )


class _Work(NamedTuple):
    """Some cells of a block, ready for the model, or a block that was embedded before."""

    n_cells: int
    """Of the block."""
    rows: NDArray[np.int64] | None = None
    batch: Batch | None = None
    is_last: bool = False
    """Of the block."""
    part: Path | None = None
    """Where the block is kept."""


class _Embedder:
    """Embeds blocks of cells with one model and one set of settings."""

    def __init__(
        self,
        ckpt: Checkpoint,
        *,
        max_tokens: int,
        batch_size: int,
        seed: int,
        max_counts: int | None,
        precision: EmbedPrecision,
        parts: Path | None,
    ) -> None:
        config = ckpt.config
        self.model = ckpt.model.eval()
        self.device = next(ckpt.model.parameters()).device
        name = name_precision(ckpt, precision)
        self.int8 = Int8Encoder(self.model) if name == "int8" else None
        self.precision = torch.bfloat16 if name == "bfloat16" else torch.float32
        if batch_size < 1:
            message = f"batch_size is {batch_size}: a forward pass takes at least one cell"
            raise ValueError(message)
        self.batch_size = batch_size
        self.seed = seed
        self.max_counts = max_counts
        self.parts = parts
        self.tokens = TokenSettings.of_model(config, max_tokens=max_tokens)
        self.identity = digest([ckpt.digest, asdict(self.tokens), seed, max_counts, name])

    def embed(self, blocks: Iterable[Cells], progress: "_Progress") -> Iterator[FloatArray]:
        emb_BD = np.empty((0, 0), np.float32)
        for work in _ahead(self._plan(blocks)):
            if work.batch is None or work.rows is None:
                assert work.part is not None
                progress.add(work.n_cells, done_before=True)
                yield np.load(work.part)
                continue
            if len(emb_BD) == 0:
                emb_BD = np.empty((work.n_cells, self.model.config.width), np.float32)
            emb_BD[work.rows] = self._run(work.batch)
            progress.add(len(work.rows))
            if work.is_last:
                if work.part is not None:
                    with whole(work.part) as temporary:
                        np.save(temporary, emb_BD)
                yield emb_BD
                emb_BD = np.empty((0, 0), np.float32)

    def _plan(self, blocks: Iterable[Cells]) -> Iterator[_Work]:
        for cells in blocks:
            n_cells, part = len(cells.cell_ids), self._part(cells)
            if part is not None and part.is_file():
                yield _Work(n_cells, part=part)
                continue
            if self.max_counts is not None:
                cells = thin_cells(cells, self.max_counts, seed=self.seed)
            pieces = self._pieces(cells)
            for i, rows in enumerate(pieces):
                pin = self.device.type == "cuda"
                batch = to_batch(cells, self.tokens, seed=self.seed, rows=rows, pin=pin)
                yield _Work(n_cells, rows, batch, i == len(pieces) - 1, part)

    def _part(self, cells: Cells) -> Path | None:
        """File of a block's embedding, named after all that it depends on."""
        if self.parts is None:
            return None
        content = hashlib.sha256(self.identity.encode())
        for array in cells:
            content.update(np.ascontiguousarray(array).data)
        return self.parts / f"{content.hexdigest()}.npy"

    def _pieces(self, cells: Cells) -> list[NDArray[np.int64]]:
        """Mini-batches of cells of about one length, the longest first."""
        lengths_B = np.minimum(np.diff(cells.indptr) + 1, self.tokens.max_tokens)
        order = np.lexsort((cells.cell_ids, -lengths_B))
        pieces, first = [], 0
        while first < len(order):
            size = self.batch_size
            if self.device.type == "cpu" and self.int8 is None:
                size = min(size, max(_CPU_TOKENS // int(lengths_B[order[first]]), 1))
            pieces.append(order[first : first + size])
            first += size
        return pieces

    @torch.inference_mode()
    def _run(self, batch: Batch) -> FloatArray:
        if self.int8 is not None:
            cell_BD = self.int8.encode(batch)
        else:
            with autocast(self.device, self.precision):
                cell_BD = self.model(batch.to(self.device), heads=()).cell_BD
        emb_BD: FloatArray = F.normalize(cell_BD.float(), dim=1).cpu().numpy()
        return emb_BD


class _Progress:
    """Logs how far it is, how fast, and how long it will take."""

    def __init__(self, n_cells: int | None) -> None:
        self.n_cells = n_cells
        self.done = self.embedded = 0
        self.start = self.logged = time.perf_counter()

    def add(self, n_cells: int, *, done_before: bool = False) -> None:
        self.done += n_cells
        self.embedded += 0 if done_before else n_cells
        now = time.perf_counter()
        if now - self.logged > _LOG_SECONDS:
            self.logged = now
            self._log()

    def finish(self) -> None:
        self._log()

    def _log(self) -> None:
        rate = self.embedded / max(time.perf_counter() - self.start, 1e-9)
        text = f"embedded {self.done:,}"
        if self.n_cells:
            text += f" of {self.n_cells:,}"
        text += f" cells, {rate:.1f} a second"
        if self.n_cells and rate and self.done < self.n_cells:
            text += f", {(self.n_cells - self.done) / rate / 60:.1f} minutes to go"
        logger.info(text)


def _ahead(items: Iterator[T]) -> Iterator[T]:
    """Yield the items, of which a thread prepares the next few."""
    end: Any = object()
    with ThreadPoolExecutor(1) as pool:
        waiting: deque[Future[T]] = deque(
            pool.submit(next, items, end) for _ in range(_BATCHES_AHEAD)
        )
        while (item := waiting.popleft().result()) is not end:
            waiting.append(pool.submit(next, items, end))
            yield item
