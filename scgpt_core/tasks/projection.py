"""Cells that come after an integration: embedded by its model, beside the cells that it learned.

Shapes: M cells, B of a mini-batch, L tokens, D width.
"""

import logging
from pathlib import Path

import anndata as ad
import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_matrix
from torch import nn

from scgpt_core.checkpoint import TRAINING, load_checkpoint
from scgpt_core.config import IntegrationSettings
from scgpt_core.data.cells import Cells, read_cells
from scgpt_core.data.genes import match_var
from scgpt_core.data.loader import ShardLoader
from scgpt_core.data.multimodal import ModalityTokens
from scgpt_core.data.qc import check_counts
from scgpt_core.data.sources import ArraySource
from scgpt_core.data.vocab import Vocabulary
from scgpt_core.device import DeviceName, resolve_precision
from scgpt_core.keys import MODALITIES, RNA
from scgpt_core.model import ScGPT
from scgpt_core.runs import read_json
from scgpt_core.tasks.fitting import embed_batches, loader_of_all

logger = logging.getLogger(__name__)


def embed_later_cells(
    adata: ad.AnnData,
    model_folder: str | Path,
    *,
    batch_key: str | None = None,
    device: DeviceName | str = "auto",
    seed: int = 0,
) -> NDArray[np.float32]:
    """Embed cells with a model that was fine-tuned for integration: (M, D), rows of length one.

    Cells of a batch that the model learned are normalised (DSBN) as there. For a batch that it does
    not know the statistics are taken from its cells, all of them; no weight changes. A gene of the
    model that the cells were not measured for gets no token.

    Parameters
    ----------
    adata
        Raw counts in X: sparse, dense or backed.
    model_folder
        The `model/` of `integrate_dataset`.
    batch_key
        obs column of the batch; None: all cells are of one that is new.
    device
        See `load_checkpoint`.
    seed
        Of ties between bins; that of the integration gives its cells their embeddings again.

    Raises
    ------
    ValueError
        Where the model was not fine-tuned for integration, or the cells are not what it can read,
        or have no such column.
    """
    if batch_key is not None and batch_key not in adata.obs:
        there = ", ".join(adata.obs.columns) or "none"
        message = f"batch_key {batch_key!r} is no column of adata.obs; there are: {there}"
        raise ValueError(message)
    if adata.isbacked:
        adata = adata.to_memory()
    ckpt = load_checkpoint(model_folder, device)
    training = read_json(Path(model_folder) / TRAINING)
    if not {"genes", "batches", "settings"} <= training.keys():
        message = (
            f"{model_folder} was not fine-tuned for integration: take the model/ that it wrote"
        )
        raise ValueError(message)
    known = IntegrationSettings.model_fields.keys() & training["settings"].keys()
    settings = IntegrationSettings.model_validate({k: training["settings"][k] for k in known})
    genes = training["genes"]
    cells, ids_G = read_later(adata, ckpt.vocab, genes, settings.min_matched)
    measured = set(genes).intersection(ids_G.tolist())
    names = [""] * adata.n_obs if batch_key is None else adata.obs[batch_key].astype(str).tolist()
    codes = {name: code for code, name in enumerate(training["batches"])}
    new = sorted(set(names) - codes.keys())
    codes |= {name: len(codes) + i for i, name in enumerate(new)}
    tokens = ModalityTokens.of_model(
        ckpt.config,
        max_tokens=len(genes) + 1,
        cls_value=0,
        genes=tuple(genes),
        modalities=(MODALITIES.index(RNA),) * len(genes),
        unmeasured=(tuple(sorted(set(genes) - measured)),),
    )
    batch_M = np.array([codes[name] for name in names])
    source = ArraySource(cells, batch=batch_M, panel=np.zeros(len(batch_M), int))
    precision = resolve_precision(next(ckpt.model.parameters()).device, settings.trainer.precision)
    loader = loader_of_all(source, tokens, seed)
    if new and ckpt.model.domain_norm is not None:
        logger.info("batches that the model does not know: %s", ", ".join(map(repr, new)))
        _add_domains(ckpt.model, loader, len(new))
    return embed_batches(ckpt.model, loader.batches(), precision)


def read_later(
    adata: ad.AnnData, vocab: Vocabulary, genes: list[int], min_matched: float
) -> tuple[Cells, NDArray[np.int32]]:
    """Cells on the genes that a model was fine-tuned on, and token ids (G,) of all of theirs.

    Raises
    ------
    ValueError
        Where X has no counts, or too few of them are of genes that have a token.
    """
    counts = csr_matrix(adata.X, dtype=np.float32)
    check_counts(counts, source="adata.X")
    match = match_var(adata.var, vocab)
    match.require(min_matched, np.asarray(counts.sum(axis=0)).ravel(), source="adata")
    token_ids = np.where(np.isin(match.ids, genes), match.ids, -1)
    return read_cells(adata, token_ids, counts_BG=counts), match.ids


@torch.inference_mode()
def _add_domains(model: ScGPT, loader: ShardLoader, n_new: int) -> None:
    """Give the batch norm statistics of batches that it does not know: those of their tokens."""
    norm, model.domain_norm = model.domain_norm, None
    assert norm is not None
    device = next(model.parameters()).device
    first, width = len(norm.domains), model.config.width
    n_K = torch.zeros(n_new, dtype=torch.float64, device=device)
    sums_KD, squares_KD = (n_K.new_zeros(n_new, width) for _ in range(2))
    for cells in loader.batches():
        batch = cells.to(device)
        x_BLD = model.embed_tokens(model.gene_embedding(batch.ids_BL), batch).double()
        assert batch.batch_B is not None
        rows = (batch.batch_B >= first).nonzero()[:, 0]
        code = batch.batch_B[rows] - first
        n_K.index_add_(0, code, torch.full_like(code, x_BLD.shape[1], dtype=torch.float64))
        sums_KD.index_add_(0, code, x_BLD[rows].sum(1))
        squares_KD.index_add_(0, code, (x_BLD[rows] ** 2).sum(1))
    for n, sum_D, square_D in zip(n_K, sums_KD, squares_KD, strict=True):
        domain = nn.BatchNorm1d(width, affine=False).to(device)
        domain.get_buffer("running_mean").copy_(sum_D / n)
        domain.get_buffer("running_var").copy_(square_D / n - (sum_D / n) ** 2)
        norm.domains.append(domain.eval())
    model.domain_norm = norm
