"""Gene vectors from co-expression, for gene embeddings to start from.

scBERT (Yang et al., Nature Machine Intelligence 2022) starts from gene2vec, which others trained on
co-expression; here it is that of the corpus itself, by principal components, in seconds.

Shapes: N cells, T tokens of the vocabulary, K components.
"""

import warnings

import numpy as np
import torch
from torch import Tensor

from scgpt_core.data.corpus import Corpus
from scgpt_core.train.subspace import leading_subspace

_CELLS = 20_000
"""Cells that are looked at, at most."""
_TOTAL = 1e4
"""Counts that each cell is scaled to before the logarithm, as usual."""
_LEAST_DEVIATION = 0.1
"""Of a gene: rarer ones are not blown up to the variance of the others."""
_ITERATIONS = 5
_STRENGTH = 4.0
"""Length of the vector of a gene that components explain whole, relative to the random part."""


def start_from_coexpression(table_TD: Tensor, corpus: Corpus, *, seed: int) -> None:
    """Add to a freshly drawn gene embedding what the corpus says of the genes, in place.

    What was drawn stays as the part of a gene that co-expression does not tell.

    Parameters
    ----------
    table_TD
        Weights of the embedding, with a row for each token.
    corpus
        Cells to learn from; a sample is taken of more than 20,000.
    seed
        Of the sample and of the search.
    """
    loadings_TK = gene_loadings(corpus, min(table_TD.shape[1], corpus.n_cells), seed=seed)
    drawn = float(table_TD.detach().std()) * table_TD.shape[1] ** 0.5
    with torch.no_grad():
        table_TD[:, : loadings_TK.shape[1]] += _STRENGTH * drawn * loadings_TK


def gene_loadings(corpus: Corpus, n_components: int, *, seed: int) -> Tensor:
    """Correlations of genes with the leading principal components of log-normalised expression.

    Parameters
    ----------
    n_components
        K, at most the number of cells.

    Returns
    -------
    float32 (T, K); the rows of tokens that no cell has are 0.
    """
    x_NT, mean_T = _standardise(corpus, seed)
    x_TN = x_NT.t().to_sparse_csr()
    basis_TK = leading_subspace(
        x_NT, x_TN, n_components, iterations=_ITERATIONS, seed=seed, mean_T=mean_T
    )
    components_NK = torch.linalg.svd(x_NT @ basis_TK - mean_T @ basis_TK, full_matrices=False).U
    loadings_TK = x_TN @ components_NK - mean_T[:, None] * components_NK.sum(0)
    # A component's sign is arbitrary, and would follow from how threads round.
    largest_K = loadings_TK.gather(0, loadings_TK.abs().argmax(0, keepdim=True))[0]
    correlations_TK: Tensor = loadings_TK * largest_K.sign() / x_NT.shape[0] ** 0.5
    return correlations_TK


def _standardise(corpus: Corpus, seed: int) -> tuple[Tensor, Tensor]:
    """Log-normalised expression over each gene's deviation, sparse (N, T), and its means (T,)."""
    rows = np.random.default_rng(seed).permutation(corpus.n_cells)[:_CELLS]
    cells = corpus.cells(np.sort(rows))
    n_cells, n_tokens = len(cells.cell_ids), corpus.vocab.n_tokens
    length_N, counts_M = np.diff(cells.indptr), cells.counts.astype(np.float64)
    total_N = np.diff(np.concatenate([[0], np.cumsum(counts_M)])[cells.indptr])
    values_M = np.log1p(counts_M * _TOTAL / np.repeat(total_N, length_N))
    mean_T, square_T = (
        np.bincount(cells.genes, weights_M, n_tokens) / n_cells
        for weights_M in (values_M, values_M**2)
    )
    deviation_T = np.sqrt(np.maximum(square_T - mean_T**2, 0)).clip(_LEAST_DEVIATION)
    with warnings.catch_warnings():  # three times as fast as the older format
        warnings.filterwarnings("ignore", "Sparse CSR tensor support is in beta")
        x_NT = torch.sparse_csr_tensor(
            torch.from_numpy(cells.indptr),
            torch.from_numpy(cells.genes.astype(np.int64)),
            torch.from_numpy((values_M / deviation_T[cells.genes]).astype(np.float32)),
            (n_cells, n_tokens),
            check_invariants=True,
        )
    return x_NT, torch.from_numpy((mean_T / deviation_T).astype(np.float32))
