"""Zero-shot cell embeddings: the same for a cell whatever stands beside it, and as fast as it goes.

AnnData of any size and storage is read in chunks; `scgpt_core.tasks.embedder` embeds them.

Shapes: N cells of a data set, B cells in a chunk, D width, G genes.
"""

import logging
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import anndata as ad
import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_matrix, issparse

from scgpt_core.checkpoint import Checkpoint, load_checkpoint, model_digest
from scgpt_core.config import EmbedSettings
from scgpt_core.data.cells import Cells, cells_from_csr
from scgpt_core.data.genes import GeneMatch, match_var
from scgpt_core.data.identity import cell_identity
from scgpt_core.data.qc import check_counts
from scgpt_core.device import EmbedPrecision
from scgpt_core.keys import SOMA_JOINID
from scgpt_core.model import ScGPT
from scgpt_core.runs import run_record
from scgpt_core.tasks.datasets import write_embedding
from scgpt_core.tasks.embedder import FloatArray, embed_blocks, name_precision
from scgpt_core.tasks.variants import Init

CHUNK_CELLS = 2048
"""Cells that are read, sorted by length and, with `parts`, saved together."""

logger = logging.getLogger(__name__)


def embed_cells(
    adata: ad.AnnData,
    ckpt: Checkpoint,
    max_tokens: int = 1200,
    batch_size: int = 64,
    seed: int = 0,
    precision: EmbedPrecision = "auto",
    *,
    max_counts: int | None = None,
    min_matched: float = 0.5,
    parts: str | Path | None = None,
) -> FloatArray:
    """Embed cells: float32 (N, D), each row of length one.

    What is sampled of a cell, and how its ties are binned, is drawn from `seed` and the cell's name
    (or its ``soma_joinid``, where obs has it): its embedding does not depend on
    order, mini-batch, chunk, subset or storage, but for the order of sums: within 1e-5 in float32,
    and to about two digits in bfloat16.

    Parameters
    ----------
    adata
        Raw counts in X: sparse, dense or backed. Genes are found by ``var["feature_id"]`` where it
        is, and by ``var_names``; see `match_genes`.
    ckpt
        From `load_checkpoint`, whose device is used.
    max_tokens
        Longest sequence, ``<cls>`` included; of longer cells a sample of genes is taken.
    batch_size
        Cells in a forward pass, at most.
    seed
        Of the samples and ties.
    precision
        Of matrix products: see `resolve_embed_precision`, and `scgpt_core.model.int8` for "int8".
    max_counts
        Cells with more counts (of genes that have a token) are sampled down to about so many; None:
        none is.
    min_matched
        Share of the counts (of the first chunk) whose genes must be in the vocabulary.
    parts
        Folder in which finished chunks are kept: a run that was killed goes on from there.

    Raises
    ------
    ValueError
        Where values are negative or not finite (with `max_counts`, no raw counts), cells share a
        name, too few genes match, or `batch_size` is below one.
    """
    blocks = _read_blocks(adata, match_var(adata.var, ckpt.vocab), min_matched)
    embedded = embed_blocks(
        blocks,
        ckpt,
        max_tokens=max_tokens,
        batch_size=batch_size,
        seed=seed,
        max_counts=max_counts,
        precision=precision,
        n_cells=adata.n_obs,
        parts=parts,
    )
    emb_ND = np.empty((adata.n_obs, ckpt.config.width), np.float32)
    first = 0
    for emb_BD in embedded:
        emb_ND[first : first + len(emb_BD)] = emb_BD
        first += len(emb_BD)
    return emb_ND


def embed_dataset(
    dataset: str | Path,
    model_folder: str | Path,
    output: str | Path,
    run_json: str | Path,
    *,
    settings: EmbedSettings,
    init: Init,
    seed: int,
) -> None:
    """Write the zero-shot embedding of a prepared data set as h5ad, and the record of the run.

    Parameters
    ----------
    dataset
        h5ad of `prepare_dataset`, read chunk by chunk.
    output
        h5ad with obs ``batch`` and ``label`` and obsm ``X_emb``. Finished chunks are kept beside
        it until it is whole.
    run_json
        Settings, digests, seconds and memory.
    init
        "random": the model's architecture with new weights, drawn from `seed`: what the weights
        add is what is better than this.
    """
    parts = Path(output).with_suffix(".parts")
    described = {**settings.model_dump(mode="json"), "init": init, "seed": seed}
    with run_record(run_json, described) as run:
        ckpt = load_checkpoint(model_folder, settings.device)
        if init == "random":
            ckpt = with_random_weights(ckpt, seed)
        adata = ad.read_h5ad(dataset, backed="r")
        try:
            embedding = embed_cells(
                adata,
                ckpt,
                max_tokens=settings.max_tokens,
                batch_size=settings.batch_size,
                seed=seed,
                precision=settings.precision,
                max_counts=settings.max_counts,
                min_matched=settings.min_matched,
                parts=parts,
            )
            write_embedding(embedding, adata, output)
        finally:
            adata.file.close()
        run |= {
            "model": ckpt.digest,
            "device": str(next(ckpt.model.parameters()).device),
            "multiplied_in": name_precision(ckpt, settings.precision),
        }
    shutil.rmtree(parts, ignore_errors=True)


def with_random_weights(ckpt: Checkpoint, seed: int) -> Checkpoint:
    """Give a model of the same size and vocabulary whose weights are drawn from `seed`."""
    device = next(ckpt.model.parameters()).device
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = ScGPT(ckpt.config, ckpt.model.attention).to(device).eval()
    return replace(ckpt, model=model, digest=model_digest(model, ckpt.vocab))


def _read_blocks(adata: ad.AnnData, match: GeneMatch, min_matched: float) -> Iterator[Cells]:
    """Read chunks of cells, checked, by token id."""
    source = str(adata.filename or "adata.X")
    names = adata.obs.get(SOMA_JOINID, adata.obs_names)
    cell_ids = cell_identity(names.to_numpy())
    counts = adata.X.tocsr() if issparse(adata.X) else adata.X
    warned = False
    for first in range(0, adata.n_obs, CHUNK_CELLS):
        chunk = slice(first, first + CHUNK_CELLS)
        counts_BG = csr_matrix(counts[chunk])
        if not warned:
            rows_B = np.arange(first, first + counts_BG.shape[0])
            warned = not _are_counts(counts_BG, source, rows_B)
        if first == 0:
            logger.info("%s: %s", source, match.report())
            match.require(min_matched, np.asarray(counts_BG.sum(axis=0)).ravel(), source=source)
        yield cells_from_csr(
            counts_BG.indptr,
            counts_BG.indices,
            counts_BG.data,
            token_ids=match.ids,
            cell_ids=cell_ids[chunk],
        )


def _are_counts(counts_BG: csr_matrix, source: str, rows_B: NDArray[np.int64]) -> bool:
    """Say whether these are raw counts; warn if not, stop if they are negative or not finite."""
    try:
        check_counts(counts_BG, source=source, rows_N=rows_B)
    except ValueError as error:
        if not (np.isfinite(counts_BG.data).all() and counts_BG.data.min(initial=0) >= 0):
            raise
        # Bins are quantiles within a cell: scaling it or taking logarithms moves few of them.
        logger.warning("embedding what are no raw counts, for bins keep their order: %s", error)
        return False
    return True
