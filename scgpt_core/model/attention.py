"""Attention behind one function: plain (the reference), torch SDPA, flex attention, flash-attn 2.

A query attends to the keys that everyone may see (padding is never seen; under the generative mask
only known genes and ``<cls>`` are) and, under the generative mask, to itself. Only the plain
backend makes a matrix of queries by keys, and torch's SDPA where weights are dropped on a CPU, for
which it has no fused kernel.

Shapes: B cells, L tokens, Q query tokens (the first of the L), H heads, E width of a head.
"""

import functools
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812
from torch.nn.attention.flex_attention import BlockMask, flex_attention

Backend = Literal["plain", "sdpa", "flex", "flash"]
BackendName = Literal["auto", "plain", "sdpa", "flex", "flash"]

_FLEX_HEAD_WIDTH = 16
"""Of a head, at least, in the GPU kernels of flex attention."""
_BLOCK = 128
"""Tokens in a block of flex attention's sparse mask."""
_EXTRA = 8
"""Dimensions that carry the mask: three are used; GPU kernels want a multiple of eight."""
_NEVER = -30_000.0
"""A logit that no softmax lets through; within float16."""


class Mask(NamedTuple):
    """Who sees whom; made once a forward pass, used by every layer."""

    visible_BL: Tensor
    """bool, keys that all queries of the cell may attend to."""
    own: bool
    """Queries attend to themselves, visible or not (the generative mask)."""
    n_keys: int
    """Keys from here on are visible to nobody."""
    all_visible: bool
    """Every one of the `n_keys` keys is known to be visible: no mask is needed."""
    blocks: BlockMask | None
    """The same for flex attention."""


def choose_backend(
    wanted: BackendName,
    device: torch.device,
    *,
    generative: bool,
    dropout: float,
    head_width: int,
) -> Backend:
    """Backend to use; "auto": flex for the generative mask on GPUs where it can, else SDPA.

    Flex attention drops no weights, and its GPU kernels need heads of 16 or more.

    Raises
    ------
    ValueError
        Where the backend that was asked for cannot do it: never a silent substitute.
    """
    if wanted == "auto":
        flex_fits = device.type == "cuda" and dropout == 0 and head_width >= _FLEX_HEAD_WIDTH
        return "flex" if generative and flex_fits else "sdpa"
    if wanted == "flash" and device.type != "cuda":
        message = f"attention: flash runs on GPUs only, and the model is on {device}: use sdpa"
        raise ValueError(message)
    if wanted == "flex" and dropout > 0:
        message = (
            f"attention: flex cannot drop attention weights (dropout is {dropout}): use sdpa, or "
            "set dropout to 0"
        )
        raise ValueError(message)
    if wanted == "flex" and device.type == "cuda" and head_width < _FLEX_HEAD_WIDTH:
        message = (
            f"attention: flex needs heads of {_FLEX_HEAD_WIDTH} or more on a GPU, and these are "
            f"{head_width} wide: use sdpa, or fewer heads"
        )
        raise ValueError(message)
    return wanted


def make_mask(padding_BL: Tensor, known_BL: Tensor | None, backend: Backend) -> Mask:
    """Mask of a batch; `known_BL` asks for the generative one.

    Where nothing waits for the device (on the CPU), keys behind the last visible one are left out;
    flex attention leaves out blocks of hidden keys. So it pays to have known genes in front.
    """
    visible_BL = ~padding_BL if known_BL is None else known_BL & ~padding_BL
    n_keys, all_visible = visible_BL.shape[1], False
    if visible_BL.device.type == "cpu" and backend == "sdpa":
        n_keys = int(visible_BL.any(0).nonzero().max()) + 1
        all_visible = bool(visible_BL[:, :n_keys].all())
    own = known_BL is not None
    blocks = _make_blocks(visible_BL, own=own) if backend == "flex" else None
    return Mask(visible_BL, own, n_keys, all_visible, blocks)


def attend(
    q_BQHE: Tensor, k_BLHE: Tensor, v_BLHE: Tensor, mask: Mask, *, backend: Backend, dropout: float
) -> Tensor:
    """Multi-head attention of the first Q tokens to all L, of the shape of `q_BQHE`.

    Parameters
    ----------
    q_BQHE, k_BLHE, v_BLHE
        Queries, keys and values.
    mask
        From `make_mask` with the same `backend`.
    backend
        From `choose_backend`.
    dropout
        Share of the attention weights that are dropped.
    """
    if backend == "plain":
        weights_BHQL = attention_weights(q_BQHE, k_BLHE, mask)
        out_BQHE: Tensor = torch.einsum("bhql,blhe->bqhe", F.dropout(weights_BHQL, dropout), v_BLHE)
        return out_BQHE
    if backend == "flash":
        return _flash(q_BQHE, k_BLHE, v_BLHE, mask, dropout)
    # One query (the last layer of an embedding) is a product with a vector: SDPA does it as well.
    if backend == "flex" and q_BQHE.shape[1] == k_BLHE.shape[1]:
        return _flex(q_BQHE, k_BLHE, v_BLHE, mask)
    return _sdpa(q_BQHE, k_BLHE, v_BLHE, mask, dropout)


def attention_weights(q_BQHE: Tensor, k_BLHE: Tensor, mask: Mask) -> Tensor:
    """Softmax of the allowed scores, of shape BHQL: the definition, and what gene networks read."""
    scores_BHQL = torch.einsum("bqhe,blhe->bhql", q_BQHE, k_BLHE) * q_BQHE.shape[-1] ** -0.5
    allowed_B1QL = mask.visible_BL[:, None, None, :]
    if mask.own:
        n_queries, n_keys = scores_BHQL.shape[2:]
        allowed_B1QL = allowed_B1QL | torch.eye(
            n_queries, n_keys, dtype=torch.bool, device=scores_BHQL.device
        )
    weights_BHQL: Tensor = scores_BHQL.masked_fill(~allowed_B1QL, -torch.inf).softmax(-1)
    return weights_BHQL


def _sdpa(q_BQHE: Tensor, k_BLHE: Tensor, v_BLHE: Tensor, mask: Mask, dropout: float) -> Tensor:
    def call(q_BQHE: Tensor, k_BLHE: Tensor, v_BLHE: Tensor, visible_BL: Tensor | None) -> Tensor:
        out_BHQE = F.scaled_dot_product_attention(
            q_BQHE.transpose(1, 2),
            k_BLHE.transpose(1, 2),
            v_BLHE.transpose(1, 2),
            attn_mask=None if visible_BL is None else visible_BL[:, None, None, :],
            dropout_p=dropout,
            scale=scale,
        )
        return out_BHQE.transpose(1, 2)

    scale = q_BQHE.shape[-1] ** -0.5
    if mask.own:
        folded = _fold_mask(q_BQHE, k_BLHE, v_BLHE, mask)
        return _unfold(call(*folded, None), v_BLHE)
    visible_BL = None if mask.all_visible else mask.visible_BL[:, : mask.n_keys]
    return call(q_BQHE, k_BLHE[:, : mask.n_keys], v_BLHE[:, : mask.n_keys], visible_BL)


def _flash(q_BQHE: Tensor, k_BLHE: Tensor, v_BLHE: Tensor, mask: Mask, dropout: float) -> Tensor:
    try:
        from flash_attn import flash_attn_func
    except ImportError as error:
        message = "attention: flash needs the package flash-attn, which is not installed: use sdpa"
        raise ValueError(message) from error
    if q_BQHE.dtype == torch.float32:
        message = "attention: flash works in bfloat16 only: set precision to bfloat16, or use sdpa"
        raise ValueError(message)
    folded = _fold_mask(q_BQHE, k_BLHE, v_BLHE, mask)
    scale = q_BQHE.shape[-1] ** -0.5
    out: Tensor = flash_attn_func(*folded, dropout_p=dropout, softmax_scale=scale)
    return _unfold(out, v_BLHE)


def _fold_mask(
    q_BQHE: Tensor, k_BLHE: Tensor, v_BLHE: Tensor, mask: Mask
) -> tuple[Tensor, Tensor, Tensor]:
    """Carry the mask in extra dimensions, for kernels that take none: exact, gradients included.

    To each score q·k the first extra dimension adds 0 (key visible) or a logit that no softmax lets
    through. Under the generative mask one extra key stands for "myself": the next dimensions give
    it the query's score with its own key, in two parts so that bfloat16 does not round it. Its
    value is 1 in the first extra dimension and 0 elsewhere, so what comes back there is the weight
    of the own key, and `_unfold` adds the own value by that weight.
    """
    n, width = mask.n_keys, q_BQHE.shape[-1]
    k_own_BQHE = k_BLHE[:, : q_BQHE.shape[1]]
    sizes = (0, _EXTRA, 0, 0, 0, int(mask.own))  # of E, H and L, from the last dimension on
    q = F.pad(q_BQHE, (0, _EXTRA))
    k, v = F.pad(k_BLHE[:, :n], sizes), F.pad(v_BLHE[:, :n], sizes)
    q[..., width] = 1
    k[:, :n, :, width] = torch.where(mask.visible_BL[:, :n], 0.0, _NEVER)[..., None].to(k)
    if mask.own:
        own_BQH = (q_BQHE.float() * k_own_BQHE.float()).sum(-1)
        # Visible queries find themselves among the other keys.
        own_BQH = own_BQH.masked_fill(mask.visible_BL[:, : q.shape[1], None], _NEVER)
        high_BQH = own_BQH.to(q)
        q[..., width + 1] = high_BQH
        q[..., width + 2] = (own_BQH - high_BQH.float()).to(q)
        k[:, n, :, width + 1 : width + 3] = 1
        v[:, n, :, width] = 1
    return q, k, v


def _unfold(out_BQHX: Tensor, v_BLHE: Tensor) -> Tensor:
    """Output of a kernel on what `_fold_mask` gave: the own value joins by its weight."""
    width = v_BLHE.shape[-1]
    own_BQH1 = out_BQHX[..., width : width + 1]
    return out_BQHX[..., :width] + own_BQH1 * v_BLHE[:, : out_BQHX.shape[1]]


@functools.cache
def _compiled_flex() -> Callable[..., Any]:
    return torch.compile(flex_attention)


def _flex(q_BLHE: Tensor, k_BLHE: Tensor, v_BLHE: Tensor, mask: Mask) -> Tensor:
    q, k, v = (x.transpose(1, 2) for x in (q_BLHE, k_BLHE, v_BLHE))
    out_BHLE: Tensor = _compiled_flex()(q, k, v, block_mask=mask.blocks)
    return out_BHLE.transpose(1, 2)


def _make_blocks(visible_BL: Tensor, *, own: bool) -> BlockMask:
    """Sparse mask of flex attention, from L entries a cell: hidden blocks are never touched."""
    n_tokens = visible_BL.shape[1]
    whole_BL = F.pad(visible_BL, (0, -n_tokens % _BLOCK))
    blocks_BKT = whole_BL.view(len(whole_BL), -1, _BLOCK)
    n_blocks = blocks_BKT.shape[1]
    some_BQK = blocks_BKT.any(2)[:, None].expand(-1, n_blocks, -1)
    full_BQK = blocks_BKT.all(2)[:, None].expand(-1, n_blocks, -1)
    if own:
        some_BQK = some_BQK | torch.eye(n_blocks, dtype=torch.bool, device=visible_BL.device)

    def allows(b: Tensor, h: Tensor, query: Tensor, key: Tensor) -> Tensor:
        visible = visible_BL[b, key]
        return visible | (query == key) if own else visible

    def list_blocks(chosen_BQK: Tensor) -> tuple[Tensor, Tensor]:
        """Count the chosen blocks, and put their indices in front."""
        order_BQK = chosen_BQK.int().argsort(dim=-1, descending=True, stable=True)
        return chosen_BQK.sum(-1, dtype=torch.int32)[:, None], order_BQK.int()[:, None]

    return BlockMask.from_kv_blocks(
        *list_blocks(some_BQK & ~full_BQK),
        *list_blocks(full_BQK),
        BLOCK_SIZE=_BLOCK,
        mask_mod=allows,
        seq_lengths=(n_tokens, n_tokens),
    )
