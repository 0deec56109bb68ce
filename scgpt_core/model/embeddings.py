"""How a token becomes a vector: gene, value, batch, modality, and the norm of their sum.

Shapes: B cells, L gene tokens, D width, K sequencing batches.
"""

import torch
from torch import Tensor, nn

_MAX_VALUE = 512
"""Values above it are clamped; this and the next two as in the published code."""
_EPS = 6.1e-5
"""Added to the variance in batch norm."""
_MOMENTUM = 0.1
"""Step of batch norm's running statistics towards those of a mini-batch."""


class NormedEmbedding(nn.Module):
    """A table of vectors behind a LayerNorm: genes, value bins, sequencing batches, modalities.

    Parameters
    ----------
    n_entries
        Rows of the table.
    width
        D.
    padding_id
        The row that is never trained; None: all are.
    """

    def __init__(self, n_entries: int, width: int, padding_id: int | None = None) -> None:
        super().__init__()
        self.table = nn.Embedding(n_entries, width, padding_idx=padding_id)
        self.norm = nn.LayerNorm(width)

    def forward(self, ids: Tensor) -> Tensor:
        """Vectors of `ids` (int64, any shape), with one more dimension D."""
        normed: Tensor = self.norm(self.table(ids))
        return normed


class ContinuousValues(nn.Module):
    """A number as a vector: a perceptron of one hidden layer, LayerNorm, dropout.

    Parameters
    ----------
    width
        D.
    dropout
        Share of the outputs dropped in training.
    n_bins
        Values that a new model tells apart from the start: -1, which stands at masked positions,
        to ``n_bins - 1``.
    """

    def __init__(self, width: int, dropout: float, n_bins: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(1, width)
        # As torch initialises them, all units bend within a bin of 0, and behind the LayerNorm bins
        # 10 and 50 point the same way. Every second one bends at some greater bin instead, and is
        # silent below it.
        bends = torch.empty(width // 2).uniform_(0, n_bins - 1)
        with torch.no_grad():
            self.hidden.weight[1::2].abs_()
            self.hidden.bias[1::2] = -self.hidden.weight[1::2, 0] * bends
        self.out = nn.Linear(width, width)
        self.out_norm = nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, values_BL: Tensor) -> Tensor:
        """Vectors of the values; without gradients, each distinct one (a bin) is embedded once."""
        if torch.is_grad_enabled() or values_BL.device.type != "cpu":
            return self._embed(values_BL)
        distinct, place_BL = torch.unique(values_BL, return_inverse=True)
        return self._embed(distinct)[place_BL]

    def _embed(self, values: Tensor) -> Tensor:
        hidden = self.hidden(values.unsqueeze(-1).clamp(max=_MAX_VALUE)).relu()
        embedded: Tensor = self.dropout(self.out_norm(self.out(hidden)))
        return embedded


class DomainNorm(nn.Module):
    """Batch norm with statistics of its own for each domain (DSBN), or with one set of them.

    The published code normalises a whole mini-batch by the domain of its first cell; here each cell
    has its own domain's statistics, which is the same on mini-batches of one domain. In training
    the statistics run over all L positions, pads included, as published.

    Parameters
    ----------
    width
        D.
    n_domains
        K, sequencing batches; 1 is plain batch norm.
    affine
        Learn a scale and a shift (plain batch norm does, DSBN does not).
    """

    def __init__(self, width: int, n_domains: int, *, affine: bool) -> None:
        super().__init__()
        # The modules hold buffers and parameters under the usual names; they are never called.
        self.domains = nn.ModuleList(nn.BatchNorm1d(width, affine=affine) for _ in range(n_domains))
        self.affine = affine

    def forward(self, x_BLD: Tensor, domain_B: Tensor) -> Tensor:
        """Normalise `x_BLD`; in training by the mini-batch's statistics, which it also records."""
        if self.training:
            mean_KD, variance_KD = self._observe(x_BLD, domain_B)
        else:
            mean_KD = self._stack("running_mean")
            variance_KD = self._stack("running_var")
        scale_KD = (variance_KD + _EPS).rsqrt()
        x_BLD = (x_BLD - mean_KD[domain_B][:, None]) * scale_KD[domain_B][:, None]
        if self.affine:
            weight_KD, bias_KD = self._stack("weight"), self._stack("bias")
            x_BLD = x_BLD * weight_KD[domain_B][:, None] + bias_KD[domain_B][:, None]
        return x_BLD

    def _stack(self, name: str) -> Tensor:
        return torch.stack([getattr(domain, name) for domain in self.domains])

    def _observe(self, x_BLD: Tensor, domain_B: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and biased variance of each domain's tokens in this mini-batch."""
        n_domains, (_, n_tokens, width) = len(self.domains), x_BLD.shape
        n_K = x_BLD.new_zeros(n_domains).index_add(0, domain_B, x_BLD.new_ones(len(domain_B)))
        n_K = n_K * n_tokens

        def mean(x_BLD: Tensor) -> Tensor:
            total_KD = x_BLD.new_zeros(n_domains, width).index_add(0, domain_B, x_BLD.sum(1))
            return total_KD / n_K.clamp(min=1)[:, None]

        mean_KD = mean(x_BLD)
        variance_KD = mean((x_BLD - mean_KD[domain_B][:, None]) ** 2)
        self._record(mean_KD.detach(), variance_KD.detach(), n_K)
        return mean_KD, variance_KD

    @torch.no_grad()
    def _record(self, mean_KD: Tensor, variance_KD: Tensor, n_K: Tensor) -> None:
        """Move the running statistics of the domains that were seen, as `nn.BatchNorm1d` does."""
        for k, domain in enumerate(self.domains):
            seen = n_K[k] > 0
            unbiased_D = variance_KD[k] * n_K[k] / (n_K[k] - 1).clamp(min=1)
            step = torch.where(seen, _MOMENTUM, 0.0)
            domain.get_buffer("running_mean").lerp_(mean_KD[k], step)
            domain.get_buffer("running_var").lerp_(unbiased_D, step)
            domain.get_buffer("num_batches_tracked").add_(seen)
