"""The layers in 8-bit integers, for cell embeddings on CPUs with AVX2: faster, and less exact.

Activations are rounded to 7 bits by row, weights to 7 bits by output channel (in attention keys by
token, values by channel, weights to 127 of the largest). Sums are exact; softmax, norms and
residuals are float32. A cell is encoded by itself, on one thread, without pads: equal bytes in any
mini-batch.

Shapes: B cells, L tokens, D width, C output channels, K inputs, P panels of 16 channels.
"""

from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import llvmlite.binding
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from scgpt_core.batch import Batch
from scgpt_core.model.int8_kernels import COLUMNS, LARGEST, ROWS, ZERO, encode_layer
from scgpt_core.model.scgpt import ScGPT

FloatArray = NDArray[np.float32]


def multiplies_int8() -> bool:
    """Whether this CPU has the instructions."""
    return bool(llvmlite.binding.get_host_cpu_features().get("avx2", False))


class Matrix(NamedTuple):
    """A linear layer, rounded."""

    panels: NDArray[np.int8]
    """(P, 16 K): four rows of 16 columns are neighbours, as `vpmaddubsw` reads them."""
    columns: FloatArray
    """(P, 48): scale, shift (what `ZERO` adds to the sums) and bias of each column."""


class Weights(NamedTuple):
    """A layer."""

    qkv: Matrix
    out: Matrix
    hidden: Matrix
    back: Matrix
    norm1: FloatArray
    """(2, D): weight and bias."""
    norm2: FloatArray
    eps: float


class Int8Encoder:
    """Cell embeddings of a model whose layers are rounded once.

    Parameters
    ----------
    model
        On the CPU; its cell embedding is that of ``<cls>``.

    Raises
    ------
    ValueError
        Where the CPU lacks AVX2, or the model does not fit.
    """

    def __init__(self, model: ScGPT) -> None:
        config = model.config
        widths = (config.width // config.n_heads, config.width, config.ffn_width)
        on_cpu = next(model.parameters()).device.type == "cpu"
        if not on_cpu or not multiplies_int8():
            message = "precision: int8 runs on CPUs with AVX2 only: use auto"
            raise ValueError(message)
        if config.cell_style != "cls" or any(width % COLUMNS for width in widths):
            message = (
                f"precision: int8 is for models whose cell embedding is <cls> (this one: "
                f"{config.cell_style}) and whose widths are multiples of {COLUMNS} (a head's, the "
                f"model's and its feed-forward's here: {widths}): use float32"
            )
            raise ValueError(message)
        self.model = model
        self.layers = [_round_layer(layer) for layer in model.layers]

    def encode(self, batch: Batch) -> Tensor:
        """Encode cells, as many at a time as torch has threads: BD."""
        x_BLD = self.model.embed_tokens(self.model.gene_embedding(batch.ids_BL), batch).numpy()
        lengths_B = (~batch.padding_BL).sum(1).tolist()
        with ThreadPoolExecutor(torch.get_num_threads()) as pool:
            cells = list(pool.map(self._encode_cell, x_BLD, lengths_B))
        return torch.from_numpy(np.stack(cells))

    def _encode_cell(self, tokens_LD: FloatArray, n_tokens: int) -> FloatArray:
        n_padded = -(-n_tokens // COLUMNS) * COLUMNS
        x_LD = np.zeros((n_padded, tokens_LD.shape[1]), np.float32)
        x_LD[:n_tokens] = tokens_LD[:n_tokens]
        for layer in self.layers[:-1]:
            encode_layer(x_LD, n_tokens, self.model.config.n_heads, n_padded, layer)
        encode_layer(x_LD, n_tokens, self.model.config.n_heads, ROWS, self.layers[-1])
        cls_D: FloatArray = x_LD[0]
        return cls_D


def _round_layer(layer: Any) -> Weights:
    def stack(norm: nn.LayerNorm) -> FloatArray:
        return torch.stack([norm.weight, norm.bias]).detach().numpy()

    return Weights(
        qkv=_round_linear(layer.attention.qkv),
        out=_round_linear(layer.attention.out),
        hidden=_round_linear(layer.ffn[0]),
        back=_round_linear(layer.ffn[3]),
        norm1=stack(layer.norm1),
        norm2=stack(layer.norm2),
        eps=layer.norm1.eps,
    )


def _round_linear(linear: nn.Linear) -> Matrix:
    weight_CK = linear.weight.detach().numpy()
    scale_C = np.maximum(abs(weight_CK).max(axis=1), 1e-30) / LARGEST
    rounded_CK = np.rint(weight_CK / scale_C[:, None]).astype(np.int8)
    shift_C = ZERO * rounded_CK.sum(axis=1, dtype=np.int64) * scale_C
    columns_3C = np.stack([scale_C, shift_C, linear.bias.detach().numpy()])
    columns_PX = columns_3C.reshape(3, -1, COLUMNS).transpose(1, 0, 2)
    panels = rounded_CK.reshape(-1, COLUMNS, weight_CK.shape[1] // 4, 4).transpose(0, 2, 1, 3)
    return Matrix(
        np.ascontiguousarray(panels).reshape(len(panels), -1),
        np.ascontiguousarray(columns_PX, np.float32).reshape(len(panels), -1),
    )
