"""Vectors of genes: of the model's table, of genes in their cells, and of co-expression.

Shapes: B cells in a batch, N cells, G genes, L tokens, T tokens of the vocabulary, D width, K
components.
"""

from collections.abc import Iterator

import anndata as ad
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from scgpt_core.batch import Batch
from scgpt_core.checkpoint import Checkpoint
from scgpt_core.data.cells import Cells
from scgpt_core.data.collate import TokenSettings, to_batch

FloatArray = NDArray[np.float32]

BATCH_TOKENS = 16_384
"""Tokens in a forward pass, at most."""
_COMPONENTS = 50
_LEAST_DEVIATION = 0.1
"""Of a gene's log expression: rarer genes are not blown up to the variance of the others."""


def static_embeddings(ckpt: Checkpoint, token_ids: NDArray[np.int32]) -> FloatArray:
    """Rows of the model's gene embedding, behind its LayerNorm: (G, D)."""
    device = next(ckpt.model.parameters()).device
    with torch.inference_mode():
        emb_GD = ckpt.model.gene_embedding(torch.from_numpy(token_ids.astype(np.int64)).to(device))
    static_GD: FloatArray = emb_GD.float().cpu().numpy()
    return static_GD


def contextual_embeddings(
    cells: Cells, ckpt: Checkpoint, token_ids: NDArray[np.int32], *, max_tokens: int, seed: int
) -> FloatArray:
    """Mean of what the last layer makes of a gene, over the cells that have it: (G, D).

    Genes that no cell has get NaN. Memory does not grow with the cells.

    Parameters
    ----------
    max_tokens
        Longest sequence, <cls> included. Longer cells are sampled: the genes that are asked for
        come first where fewer than this are asked for, and else all genes are drawn alike.
    """
    device = next(ckpt.model.parameters()).device
    keep = tuple(token_ids.tolist()) if len(token_ids) < max_tokens else ()
    tokens = TokenSettings.of_model(ckpt.config, max_tokens=max_tokens, keep_ids=keep)
    sum_TD = torch.zeros(ckpt.config.n_tokens, ckpt.config.width, device=device)
    n_T = torch.zeros(ckpt.config.n_tokens, device=device)
    for batch in batches(cells, tokens, seed=seed, batch_tokens=BATCH_TOKENS):
        token_BLD = _encode(ckpt, batch.to(device))
        ids, real = batch.ids_BL.to(device), ~batch.padding_BL.to(device)
        sum_TD.index_add_(0, ids[real], token_BLD[real].float())
        n_T.index_add_(0, ids[real], torch.ones_like(ids[real], dtype=torch.float32))
    chosen = torch.from_numpy(token_ids.astype(np.int64)).to(device)
    return (sum_TD[chosen] / n_T[chosen, None]).cpu().numpy()


@torch.inference_mode()
def _encode(ckpt: Checkpoint, batch: Batch) -> Tensor:
    """Vectors of all tokens behind the last layer: (B, L, D)."""
    # With GEP the last layer encodes all tokens, not <cls> alone.
    token_BLD: Tensor | None = ckpt.model(batch, heads={"gep"}).token_BLD
    assert token_BLD is not None
    return token_BLD


def batches(
    cells: Cells, tokens: TokenSettings, *, seed: int, batch_tokens: int
) -> Iterator[Batch]:
    """Batches of all cells in order, of no more tokens than `batch_tokens` (but one cell)."""
    n_cells = len(cells.cell_ids)
    longest = int(np.diff(cells.indptr).max(initial=0)) + 1
    length = min(longest, tokens.max_tokens) if tokens.genes is None else len(tokens.genes) + 1
    size = max(batch_tokens // length, 1)
    for first in range(0, n_cells, size):
        rows = np.arange(first, min(first + size, n_cells))
        yield to_batch(cells, tokens, seed=seed, rows=rows)


def coexpression_embeddings(logged: ad.AnnData, *, seed: int) -> FloatArray:
    """Correlations of genes with the principal components of log expression: (G, K).

    Their cosines are those of co-expression, as far as the components explain it: the simple way
    to what a gene embedding says.
    """
    from sklearn.decomposition import PCA  # takes a second, which most jobs need not spend

    x_NG = logged.X.toarray()
    x_NG /= x_NG.std(0).clip(_LEAST_DEVIATION)
    n_components = min(_COMPONENTS, min(x_NG.shape) - 1)
    pca = PCA(n_components, svd_solver="randomized", random_state=seed).fit(x_NG)
    loadings_GK: FloatArray = pca.components_.T * np.sqrt(pca.explained_variance_)
    return loadings_GK.astype(np.float32)
