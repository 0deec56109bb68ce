"""Gene vectors from co-expression, against a plain PCA of the same cells."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from scipy.sparse import csr_matrix

from scgpt_core.data.cells import Cells
from scgpt_core.data.corpus import Corpus, open_corpus
from scgpt_core.train.coexpression import gene_loadings, start_from_coexpression


@pytest.fixture(scope="module")
def corpus(corpus_folder: Path) -> Corpus:
    return open_corpus(corpus_folder, split="train")


def test_loadings_of_all_components_make_up_the_correlations_of_genes(corpus: Corpus) -> None:
    cells = corpus.cells(slice(None))
    shape = (corpus.n_cells, corpus.vocab.n_tokens)
    counts_NT = csr_matrix((cells.counts, cells.genes, cells.indptr), shape=shape).toarray()
    x_NT = np.log1p(1e4 * counts_NT / counts_NT.sum(1, keepdims=True, dtype=np.float64))
    x_NT = (x_NT - x_NT.mean(0)) / x_NT.std(0).clip(0.1)
    loadings_TK = gene_loadings(corpus, corpus.n_cells, seed=0).double().numpy()
    some = np.flatnonzero(x_NT.any(0))[::40]
    expected_GG = x_NT[:, some].T @ x_NT[:, some] / corpus.n_cells
    np.testing.assert_allclose(loadings_TK[some] @ loadings_TK[some].T, expected_GG, atol=1e-3)
    variances_K = np.linalg.svd(x_NT, compute_uv=False)[:8] ** 2 / corpus.n_cells
    few_TK = gene_loadings(corpus, 32, seed=0).numpy()
    np.testing.assert_allclose((few_TK[:, :8] ** 2).sum(0), variances_K, rtol=0.05)


def test_an_embedding_starts_from_them_the_same_again(corpus: Corpus) -> None:
    drawn_TD = torch.empty(corpus.vocab.n_tokens, 16).uniform_(-0.1, 0.1)
    first_TD, second_TD = drawn_TD.clone(), drawn_TD.clone()
    start_from_coexpression(first_TD, corpus, seed=3)
    start_from_coexpression(second_TD, corpus, seed=3)
    torch.testing.assert_close(first_TD, second_TD, rtol=0, atol=0)
    added_T = (first_TD - drawn_TD).norm(dim=1)
    expressed_T = np.bincount(corpus.cells(slice(None)).genes, minlength=corpus.vocab.n_tokens) > 0
    assert added_T[corpus.vocab.cls_id] == 0  # which is no gene
    assert added_T[torch.from_numpy(expressed_T)].min() > 0
    genes_like = torch.cosine_similarity(first_TD, drawn_TD)
    assert 0.3 < genes_like.median() < 0.99  # neither part drowns the other


def test_signs_do_not_follow_from_how_threads_round(corpus: Corpus) -> None:
    """A component's sign is arbitrary: its largest entry is positive."""
    loadings_TK = gene_loadings(corpus, 16, seed=0)
    assert (loadings_TK.max(0).values >= -loadings_TK.min(0).values).all()


def test_cells_of_no_gene_that_has_a_token_add_nothing() -> None:
    """The last cell too, behind whose counts there are none."""

    class Tiny(NamedTuple):
        n_cells: int
        vocab: Any
        cells: Any

    full = np.arange(20).repeat(4)
    genes = np.tile([3, 4, 5, 6], 20).astype(np.int32)
    counts = np.random.default_rng(0).integers(1, 9, 80).astype(np.uint16)
    found = []
    for n_empty in (0, 1):
        n_cells = 20 + n_empty
        indptr = np.searchsorted(full, np.arange(n_cells + 1))
        cells = Cells(indptr, genes, counts, np.arange(n_cells))
        corpus = Tiny(n_cells, SimpleNamespace(n_tokens=7), lambda rows, cells=cells: cells)
        found.append(gene_loadings(corpus, 2, seed=0))
    assert torch.isfinite(found[1]).all()
    assert found[0].shape == found[1].shape
