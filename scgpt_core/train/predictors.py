"""Simple predictors of unknown genes, which a model has to beat to have learned anything.

The per-gene mean knows nothing of the cell. The ridge regression knows the cell by the principal
components of its known genes, as a linear model can.

Shapes: N cells, T tokens of the vocabulary, K components (C: and a constant), M entries of a sparse
matrix; B cells of a batch, L gene tokens.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Self

import torch
from torch import Tensor

from scgpt_core.batch import Batch
from scgpt_core.train.objectives import is_gene
from scgpt_core.train.subspace import leading_subspace

_COMPONENTS = 32
_ITERATIONS = 6
_PENALTIES = (10.0, 100.0, 1000.0)
"""Of the ridge, relative to components of unit variance; the best on every tenth cell is taken."""


@dataclass(frozen=True)
class GeneMean:
    """Predicts a gene's mean bin over the training cells that express it.

    Parameters
    ----------
    mean_T
        float32; the mean of all genes for a token that no cell had.
    """

    mean_T: Tensor

    @classmethod
    def fit(cls, batches: Iterable[Batch], n_tokens: int) -> Self:
        """Take the mean bins of known and unknown genes."""
        sum_T = torch.zeros(n_tokens, dtype=torch.float64)
        count_T = torch.zeros(n_tokens, dtype=torch.float64)
        for batch in batches:
            assert batch.target_BL is not None
            ids_M, bins_M = batch.ids_BL[is_gene(batch)], batch.target_BL[is_gene(batch)].double()
            sum_T.index_add_(0, ids_M, bins_M)
            count_T.index_add_(0, ids_M, torch.ones_like(bins_M))
        overall = sum_T.sum() / count_T.sum()
        return cls(torch.where(count_T > 0, sum_T / count_T.clamp(min=1), overall).float())

    def deviation(self, batch: Batch) -> Tensor:
        """Bins less the mean of their gene, float32 (B, L)."""
        assert batch.target_BL is not None
        return batch.target_BL - self.mean_T[batch.ids_BL]

    def __call__(self, batch: Batch) -> dict[str, tuple[Tensor, Tensor]]:
        """Predict under the model's names; under the cell-prompted one too, as no cell is known."""
        assert batch.hidden_BL is not None
        bins_BL = self.mean_T[batch.ids_BL]
        hidden = (bins_BL, batch.hidden_BL)
        return {"gep": hidden, "gepc": hidden, "gep_prompt": (bins_BL, is_gene(batch))}


@dataclass(frozen=True)
class RidgeOnPCA:
    """Predicts an unknown gene's bin by ridge regression on principal components of the known.

    Parameters
    ----------
    gene_mean
        What is predicted for a cell at the origin.
    loadings_TK
        float32, from known genes' deviations to components of unit variance.
    weights_TC
        float32, from components and a constant to the deviation of a gene.
    """

    gene_mean: GeneMean
    loadings_TK: Tensor
    weights_TC: Tensor

    @classmethod
    def fit(cls, batches: Sequence[Batch], gene_mean: GeneMean, *, seed: int) -> Self:
        """Fit components, weights and penalty to training cells."""
        n_tokens = len(gene_mean.mean_T)
        known, unknown = _entries(batches, gene_mean)
        loadings_TK = _components(known, n_tokens, seed)
        scores_NK = torch.cat([_scores(batch, gene_mean, loadings_TK) for batch in batches])
        scale_K = scores_NK.std(0).clamp(min=1e-6)
        scores_NC = _with_constant(scores_NK / scale_K)
        spared_M = unknown.cell_M % 10 == 0
        test = _Entries(*(x_M[spared_M] for x_M in unknown))
        fitted = []
        learned = _Entries(*(x_M[~spared_M] for x_M in unknown))
        for weights_TC in _ridge(learned, scores_NC, n_tokens, _PENALTIES):
            guess_M = (scores_NC[test.cell_M] * weights_TC[test.token_M]).sum(1)
            fitted.append(((guess_M - test.value_M).square().mean().item(), weights_TC))
        return cls(gene_mean, loadings_TK / scale_K, min(fitted, key=lambda fit: fit[0])[1])

    def __call__(self, batch: Batch) -> dict[str, tuple[Tensor, Tensor]]:
        """Predict under the name of the gene-prompted objective."""
        assert batch.hidden_BL is not None
        scores_BC = _with_constant(_scores(batch, self.gene_mean, self.loadings_TK))
        deviation_BL = torch.einsum("bc,blc->bl", scores_BC, self.weights_TC[batch.ids_BL])
        return {"gep": (self.gene_mean.mean_T[batch.ids_BL] + deviation_BL, batch.hidden_BL)}


class _Entries(NamedTuple):
    """Non-zero entries of a sparse cells x tokens matrix."""

    cell_M: Tensor
    token_M: Tensor
    value_M: Tensor


def _entries(batches: Sequence[Batch], gene_mean: GeneMean) -> tuple[_Entries, _Entries]:
    """Deviations of the known genes, weighted as in `_scores`, and of the unknown."""
    parts: dict[bool, list[_Entries]] = {True: [], False: []}
    first = 0
    for batch in batches:
        weighted_BL, deviation_BL = _weighted(batch, gene_mean), gene_mean.deviation(batch)
        assert batch.hidden_BL is not None
        for hidden, value_BL in ((False, weighted_BL), (True, deviation_BL)):
            row_M, at_M = (is_gene(batch) & (batch.hidden_BL == hidden)).nonzero(as_tuple=True)
            parts[hidden].append(
                _Entries(first + row_M, batch.ids_BL[row_M, at_M], value_BL[row_M, at_M])
            )
        first += len(batch.ids_BL)
    known, unknown = (
        _Entries(*map(torch.cat, zip(*parts[hidden], strict=True))) for hidden in (False, True)
    )
    return known, unknown


def _weighted(batch: Batch, gene_mean: GeneMean) -> Tensor:
    """Deviations of the known genes, 0 elsewhere, times all genes over known genes of the cell.

    So that components are as great whatever the share of unknown genes.
    """
    assert batch.hidden_BL is not None
    is_gene_BL = is_gene(batch)
    is_known_BL = is_gene_BL & ~batch.hidden_BL
    weight_B = is_gene_BL.sum(1) / is_known_BL.sum(1).clamp(min=1)
    return torch.where(is_known_BL, gene_mean.deviation(batch), 0.0) * weight_B[:, None]


def _scores(batch: Batch, gene_mean: GeneMean, loadings_TK: Tensor) -> Tensor:
    return torch.einsum("bl,blk->bk", _weighted(batch, gene_mean), loadings_TK[batch.ids_BL])


def _with_constant(scores_NK: Tensor) -> Tensor:
    return torch.cat([scores_NK, torch.ones(len(scores_NK), 1)], dim=1)


def _components(known: _Entries, n_tokens: int, seed: int) -> Tensor:
    """Leading right singular vectors of the cells x tokens matrix, about."""
    n_cells = int(known.cell_M.max()) + 1
    index = torch.stack([known.cell_M, known.token_M])
    shape = (n_cells, n_tokens)
    x_NT = torch.sparse_coo_tensor(index, known.value_M, shape, check_invariants=True).coalesce()
    return leading_subspace(
        x_NT, x_NT.t().coalesce(), min(_COMPONENTS, n_cells), iterations=_ITERATIONS, seed=seed
    )


def _ridge(
    unknown: _Entries, scores_NC: Tensor, n_tokens: int, penalties: Iterable[float]
) -> Iterator[Tensor]:
    """Yield, by penalty, ridge weights of every token that was unknown in a cell; else 0."""
    n_constant = scores_NC.shape[1]
    used_U, at_M = torch.unique(unknown.token_M, return_inverse=True)
    gram_UCC = torch.zeros(len(used_U), n_constant, n_constant)
    moment_UC = torch.zeros(len(used_U), n_constant)
    for part in torch.split(
        torch.arange(len(at_M)), 100_000
    ):  # products of all entries would fill memory
        scores_MC = scores_NC[unknown.cell_M[part]]
        gram_UCC.index_add_(0, at_M[part], scores_MC[:, :, None] * scores_MC[:, None, :])
        moment_UC.index_add_(0, at_M[part], scores_MC * unknown.value_M[part][:, None])
    for penalty in penalties:
        weights_TC = torch.zeros(n_tokens, n_constant)
        penalised_UCC = gram_UCC + penalty * torch.eye(n_constant)
        weights_TC[used_U] = torch.linalg.solve(penalised_UCC, moment_UC)
        yield weights_TC
