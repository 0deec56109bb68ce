"""What is read from tokens and cells: GEP, GEPC, CLS and DAR.

Shapes: B cells, L gene tokens, D width, C classes.
"""

from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

QueryStyle = Literal["inner product", "concat query", "sum query"]
QUERY_HIDDEN = 64
"""Hidden width of the "concat query" and "sum query" styles, as published."""


class Expression(NamedTuple):
    """Predicted values and, where the model has it, the probability that they are not zero."""

    value_BL: Tensor
    nonzero_BL: Tensor | None


def _perceptron(in_width: int, width: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(in_width, width), nn.LeakyReLU(), nn.Linear(width, width), nn.LeakyReLU(),
        nn.Linear(width, 1),
    )  # fmt: skip


class GEPHead(nn.Module):
    """Gene expression prediction from each token (published: ExprDecoder, MLM).

    Parameters
    ----------
    in_width
        Width of its input: D, or 2D where a batch or modality embedding is concatenated.
    width
        D.
    explicit_zero_prob
        Predict the probability of a non-zero value by a second perceptron.
    """

    def __init__(self, in_width: int, width: int, *, explicit_zero_prob: bool) -> None:
        super().__init__()
        self.value = _perceptron(in_width, width)
        self.nonzero = _perceptron(in_width, width) if explicit_zero_prob else None

    def forward(self, x_BLD: Tensor, values_BL: Tensor) -> Expression:
        """Predict each token's value; its input value is not looked at (see `AffineGEPHead`)."""
        nonzero_BL = None if self.nonzero is None else self.nonzero(x_BLD).squeeze(-1).sigmoid()
        return Expression(self.value(x_BLD).squeeze(-1), nonzero_BL)


class AffineGEPHead(nn.Module):
    """GEP of the perturbation model: coefficient x input value + bias (AffineExprDecoder).

    Parameters
    ----------
    in_width, width, explicit_zero_prob
        As in `GEPHead`.
    activation
        Applied to coefficient and bias, by its torch name; None: none.
    adaptive_bias
        Scale the bias by the mean of the cell's positive input values.
    """

    def __init__(
        self,
        in_width: int,
        width: int,
        *,
        explicit_zero_prob: bool,
        activation: str | None,
        adaptive_bias: bool,
    ) -> None:
        super().__init__()
        self.coefficient = GEPHead(in_width, width, explicit_zero_prob=explicit_zero_prob)
        self.bias = GEPHead(in_width, width, explicit_zero_prob=False)
        self.activation = nn.Identity() if activation is None else getattr(nn, activation)()
        self.adaptive_bias = adaptive_bias

    def forward(self, x_BLD: Tensor, values_BL: Tensor) -> Expression:
        """Predict each token's value after the perturbation from its value before."""
        coefficient_BL, nonzero_BL = self.coefficient(x_BLD, values_BL)
        bias_BL = self.activation(self.bias(x_BLD, values_BL).value_BL)
        if self.adaptive_bias:
            positive_BL = values_BL > 0
            total_B1 = torch.where(positive_BL, values_BL, 0.0).sum(1, keepdim=True)
            bias_BL = bias_BL * total_B1 / positive_BL.sum(1, keepdim=True).clamp(min=1)
        return Expression(self.activation(coefficient_BL) * values_BL + bias_BL, nonzero_BL)


class GEPCHead(nn.Module):
    """Gene expression prediction from the cell embedding (published: MVCDecoder).

    Parameters
    ----------
    cell_width
        Width of the cell embedding and what is concatenated to it.
    query_width
        Width of the gene embedding and what is concatenated to it.
    style
        How cell and query meet. "inner product" is the published models' one.
    explicit_zero_prob
        Predict the probability of a non-zero value too ("inner product" only).
    """

    def __init__(
        self, cell_width: int, query_width: int, *, style: QueryStyle, explicit_zero_prob: bool
    ) -> None:
        super().__init__()
        self.style = style
        self.query = nn.Linear(
            query_width, QUERY_HIDDEN if style == "concat query" else query_width
        )
        self.nonzero: nn.Linear | None = None
        if style == "inner product":
            self.value = nn.Linear(query_width, cell_width, bias=False)
            if explicit_zero_prob:
                self.nonzero = nn.Linear(query_width, cell_width)
        else:
            width = cell_width + QUERY_HIDDEN if style == "concat query" else query_width
            self.hidden = nn.Linear(width, QUERY_HIDDEN)
            self.activation = nn.PReLU()
            self.out = nn.Linear(QUERY_HIDDEN, 1)

    def forward(self, cell_BD: Tensor, gene_BLD: Tensor) -> Expression:
        """Predict the value of each gene in the cell."""
        query_BLD = self.query(gene_BLD).sigmoid()
        if self.style == "inner product":
            return self._inner_product(cell_BD, query_BLD)
        cell_B1D = cell_BD[:, None]
        if self.style == "concat query":
            meeting_BLD = torch.cat([cell_B1D.expand(-1, gene_BLD.shape[1], -1), query_BLD], dim=2)
        else:
            meeting_BLD = cell_B1D + query_BLD
        value_BL1 = self.out(self.activation(self.hidden(meeting_BLD)))
        return Expression(value_BL1.squeeze(-1), None)

    def _inner_product(self, cell_BD: Tensor, query_BLD: Tensor) -> Expression:
        # c·(Wq) = (Wᵀc)·q: the matrix meets B cells instead of B x L genes.
        def meet(matrix_DD: Tensor) -> Tensor:
            return torch.einsum("bld,bd->bl", query_BLD, cell_BD @ matrix_DD)

        value_BL = meet(self.value.weight)
        if self.nonzero is None:
            return Expression(value_BL, None)
        offset_B1 = (cell_BD @ self.nonzero.bias)[:, None]
        return Expression(value_BL, (meet(self.nonzero.weight) + offset_B1).sigmoid())


class Classifier(nn.Module):
    """CLS and DAR: (n_layers - 1) x [Linear, activation, LayerNorm] on the cell, then Linear.

    Parameters
    ----------
    width
        D.
    n_classes
        C.
    n_layers
        Linear layers, the last included.
    activation
        Class of the activation.
    """

    def __init__(
        self, width: int, n_classes: int, *, n_layers: int, activation: type[nn.Module]
    ) -> None:
        super().__init__()
        self.hidden = nn.Sequential()
        for _ in range(n_layers - 1):
            self.hidden.extend([nn.Linear(width, width), activation(), nn.LayerNorm(width)])
        self.out = nn.Linear(width, n_classes)

    def forward(self, cell_BD: Tensor) -> Tensor:
        """Logits, of shape BC."""
        logits_BC: Tensor = self.out(self.hidden(cell_BD))
        return logits_BC


class _GradientReversal(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        return -gradients[0]


def reverse_gradient(x: Tensor) -> Tensor:
    """`x` itself, whose gradient changes sign: what trains the head untrains the encoder (DAR)."""
    reversed_x: Tensor = _GradientReversal.apply(x)  # type: ignore[no-untyped-call]
    return reversed_x
