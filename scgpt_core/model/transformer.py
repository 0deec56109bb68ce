"""A post-norm Transformer layer.

Shapes: B cells, L tokens, Q query tokens (the first of the L), D width, H heads, E width of a head.
"""

from typing import NamedTuple

from torch import Tensor, nn

from scgpt_core.model.attention import Backend, Mask, attend, attention_weights


class Attention(nn.Module):
    """Multi-head self-attention with one matrix for queries, keys and values.

    Parameters
    ----------
    width
        D.
    n_heads
        H.
    dropout
        Share of the attention weights dropped in training.
    """

    def __init__(self, width: int, n_heads: int, dropout: float) -> None:
        super().__init__()
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.n_heads = n_heads
        self.dropout = dropout
        # As torch's own multi-head attention, which the published models start from.
        nn.init.xavier_uniform_(self.qkv.weight)
        nn.init.zeros_(self.qkv.bias)
        nn.init.zeros_(self.out.bias)

    def forward(
        self, x_BLD: Tensor, mask: Mask, *, backend: Backend, n_queries: int | None, maps: bool
    ) -> tuple[Tensor, Tensor | None]:
        """Return what the first `n_queries` tokens read, and their attention maps if asked for."""
        qkv_BL3HE = self.qkv(x_BLD).unflatten(-1, (3, self.n_heads, -1))
        q_BLHE, k_BLHE, v_BLHE = qkv_BL3HE.unbind(2)
        q_BQHE = q_BLHE[:, :n_queries]
        dropout = self.dropout if self.training else 0.0
        out_BQHE = attend(q_BQHE, k_BLHE, v_BLHE, mask, backend=backend, dropout=dropout)
        maps_BHQL = attention_weights(q_BQHE, k_BLHE, mask) if maps else None
        return self.out(out_BQHE.flatten(2)), maps_BHQL


class LayerOutput(NamedTuple):
    """What a layer gives back."""

    x_BQD: Tensor
    maps_BHQL: Tensor | None


class Layer(nn.Module):
    """Attention and feed-forward, each with dropout, residual and LayerNorm after it.

    Parameters
    ----------
    width
        D.
    n_heads
        H.
    ffn_width
        Hidden width of the feed-forward block.
    dropout
        Share dropped in training: attention weights, hidden units, and both branches.
    """

    def __init__(self, width: int, n_heads: int, ffn_width: int, dropout: float) -> None:
        super().__init__()
        self.attention = Attention(width, n_heads, dropout)
        self.norm1 = nn.LayerNorm(width)
        self.ffn = nn.Sequential(
            nn.Linear(width, ffn_width), nn.ReLU(), nn.Dropout(dropout), nn.Linear(ffn_width, width)
        )
        self.norm2 = nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self,
        x_BLD: Tensor,
        mask: Mask,
        *,
        backend: Backend,
        n_queries: int | None = None,
        maps: bool = False,
    ) -> LayerOutput:
        """Encode the first `n_queries` tokens (None: all), which read all L."""
        read_BQD, maps_BHQL = self.attention(
            x_BLD, mask, backend=backend, n_queries=n_queries, maps=maps
        )
        x_BQD = self.norm1(x_BLD[:, :n_queries] + self.dropout(read_BQD))
        x_BQD = self.norm2(x_BQD + self.dropout(self.ffn(x_BQD)))
        return LayerOutput(x_BQD, maps_BHQL)
