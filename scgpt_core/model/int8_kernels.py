"""The compiled kernels of `scgpt_core.model.int8`, in one file as numba's cache needs it.

Four products of 7 bits fit into 16 bits, so that AVX2's `vpmaddubsw` sums them up without overflow.

Shapes: L tokens of a cell, D width, F hidden width, E width of a head, R rows, K depth of a
product, C its columns, P panels of 16 columns, X bytes or figures of a panel. L is a multiple of
16; rows behind the last token hold anything finite.
"""

from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

ROWS, COLUMNS = 4, 16
"""A tile of a product: its sums fill eight of AVX2's sixteen registers."""
_BLOCK = 64
"""Rows that pass from one product to the next while they are in the cache."""
LARGEST = 63
"""Of a rounded value; activations are stored with ZERO added, as 1 to 127."""
ZERO = 64
_LOG2_E = 1.4426950408889634

_compiled = numba.njit(cache=True, nogil=True, fastmath=True, error_model="numpy")


def _generate_tile(
    typing: Any, a: Any, a_stride: Any, b: Any, depth: Any, rows: Any, columns: Any,
    out: Any, out_stride: Any,
) -> Any:  # fmt: skip
    """Four rows by 16 columns: all arguments are addresses, bytes, or (depth) a multiple of 8.

    `rows` is the address of 4 scales; `columns` of 16 scales, 16 shifts and 16 biases:
    out = (sum x scale_C - shift_C) x scale_R + bias_C.
    """
    i8, i16, i32, i64 = (ir.IntType(bits) for bits in (8, 16, 32, 64))
    bytes_, shorts, longs = ir.VectorType(i8, 32), ir.VectorType(i16, 16), ir.VectorType(i32, 8)
    floats = ir.VectorType(ir.FloatType(), 8)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        a, a_stride, b, depth, rows, columns, out, out_stride = arguments
        declare = builder.module.declare_intrinsic
        multiply_bytes = declare(
            "llvm.x86.avx2.pmadd.ub.sw", (), ir.FunctionType(shorts, [bytes_] * 2)
        )
        multiply_shorts = declare(
            "llvm.x86.avx2.pmadd.wd", (), ir.FunctionType(longs, [shorts] * 2)
        )

        def load(address: Any, kind: Any) -> Any:
            return builder.load(builder.inttoptr(address, kind.as_pointer()), align=1)

        def spread(scalar: Any, kind: Any) -> Any:
            one = builder.insert_element(ir.Constant(kind, ir.Undefined), scalar, i32(0))
            return builder.shuffle_vector(one, one, ir.Constant(ir.VectorType(i32, 8), [0] * 8))

        def after(address: Any, n_bytes: int) -> Any:
            return builder.add(address, i64(n_bytes))

        entry = builder.block
        loop, done = builder.append_basic_block("depth"), builder.append_basic_block("done")
        starts = [a]
        for _ in range(ROWS - 1):
            starts.append(builder.add(starts[-1], a_stride))
        builder.branch(loop)
        builder.position_at_end(loop)
        k = builder.phi(i64)
        k.add_incoming(i64(0), entry)
        sums = [builder.phi(longs) for _ in range(2 * ROWS)]
        at_b = builder.add(b, builder.mul(k, i64(COLUMNS)))
        weights = [load(after(at_b, 32 * i), bytes_) for i in range(4)]
        for row, start in enumerate(starts):
            at_a = builder.add(start, k)
            values = [
                builder.bitcast(spread(load(after(at_a, 4 * i), i32), longs), bytes_)
                for i in range(2)
            ]
            for half in range(2):
                products = [
                    builder.call(multiply_bytes, [values[i], weights[2 * i + half]])
                    for i in range(2)
                ]
                wide = builder.call(
                    multiply_shorts, [builder.add(*products), ir.Constant(shorts, [1] * 16)]
                )
                total = sums[2 * row + half]
                total.add_incoming(ir.Constant(longs, [0] * 8), entry)
                total.add_incoming(builder.add(total, wide), loop)
        next_k = after(k, 8)
        k.add_incoming(next_k, loop)
        builder.cbranch(builder.icmp_signed("<", next_k, depth), loop, done)
        builder.position_at_end(done)
        scale, shift, bias = (
            [load(after(columns, 64 * i + 32 * half), floats) for half in range(2)]
            for i in range(3)
        )
        for row in range(ROWS):
            row_scale = spread(load(after(rows, 4 * row), ir.FloatType()), floats)
            for half in range(2):
                # What left the loop is the last sum, not the one that the phi began with.
                total = builder.sitofp(sums[2 * row + half].incomings[1][0], floats)
                y = builder.fsub(builder.fmul(total, scale[half]), shift[half])
                y = builder.fadd(builder.fmul(y, row_scale), bias[half])
                place = builder.inttoptr(after(out, 32 * half), floats.as_pointer())
                builder.store(y, place, align=1)
            out = builder.add(out, out_stride)
        return context.get_dummy_value()

    return types.void(*[types.int64] * 8), generate


_multiply_tile: Any = intrinsic(_generate_tile)


@_compiled
def multiply(
    a_RK: Any, scale_R: Any, panels_PX: Any, columns_PX: Any, first: int, out_RC: Any
) -> None:
    """Rows by panels, from panel `first` on; R is a multiple of 4."""
    depth = a_RK.shape[1]
    for panel in range(first, panels_PX.shape[0]):
        for row in range(0, a_RK.shape[0], ROWS):
            _multiply_tile(
                a_RK[row:].ctypes.data,
                a_RK.strides[0],
                panels_PX[panel].ctypes.data,
                depth,
                scale_R[row:].ctypes.data,
                columns_PX[panel].ctypes.data,
                out_RC[row:, panel * COLUMNS :].ctypes.data,
                out_RC.strides[0],
            )


@_compiled
def _round_rows(x_RK: Any, factor: float, out_RK: Any, scale_R: Any) -> None:
    """Rows as whole numbers around ZERO, and what to multiply them by, with `factor`."""
    for r in range(x_RK.shape[0]):
        largest = np.float32(1e-30)
        for k in range(x_RK.shape[1]):
            largest = max(largest, abs(x_RK[r, k]))
        scale_R[r] = largest / np.float32(LARGEST) * np.float32(factor)
        inverse = np.float32(LARGEST) / largest
        for k in range(x_RK.shape[1]):
            out_RK[r, k] = np.uint8(np.int32(x_RK[r, k] * inverse + np.float32(ZERO + 0.5)))


@_compiled
def _pack_keys(k_LE: Any, panels_PX: Any, columns_PX: Any) -> None:
    """Keys as the columns of a product of depth E, rounded by token."""
    for j in range(k_LE.shape[0]):
        panel, column = j // COLUMNS, j % COLUMNS
        largest = np.float32(1e-30)
        for e in range(k_LE.shape[1]):
            largest = max(largest, abs(k_LE[j, e]))
        inverse, total = np.float32(LARGEST) / largest, np.int32(0)
        for e in range(k_LE.shape[1]):
            value = np.int32(k_LE[j, e] * inverse + np.float32(ZERO + 0.5)) - ZERO
            panels_PX[panel, (e // 4 * COLUMNS + column) * 4 + e % 4] = np.int8(value)
            total += value
        scale = largest / np.float32(LARGEST)
        columns_PX[panel, column] = scale
        columns_PX[panel, COLUMNS + column] = scale * np.float32(ZERO * total)


@_compiled
def _pack_values(v_LE: Any, panels_PX: Any, columns_PX: Any) -> None:
    """Values as the columns of a product of depth L, rounded by channel."""
    n_channels = v_LE.shape[1]
    largest_E = np.full(n_channels, np.float32(1e-30))
    for j in range(v_LE.shape[0]):
        for e in range(n_channels):
            largest_E[e] = max(largest_E[e], abs(v_LE[j, e]))
    for e in range(n_channels):
        columns_PX[e // COLUMNS, e % COLUMNS] = largest_E[e] / np.float32(LARGEST)
        largest_E[e] = np.float32(LARGEST) / largest_E[e]
    for j in range(v_LE.shape[0]):
        for e in range(n_channels):
            value = np.int32(v_LE[j, e] * largest_E[e] + np.float32(ZERO + 0.5)) - ZERO
            place = (j // 4 * COLUMNS + e % COLUMNS) * 4 + j % 4
            panels_PX[e // COLUMNS, place] = np.int8(value)


@_compiled
def _softmax(scores_L: Any, n_keys: int, bits_L: Any, weights_L: Any) -> Any:
    """Weights of the keys as whole numbers, 127 for the largest; gives one over their sum."""
    largest = scores_L[0]
    for j in range(n_keys):
        largest = max(largest, scores_L[j])
    floats_L = bits_L.view(np.float32)
    for j in range(n_keys):
        # 2 to the power of x: its whole part goes into the exponent, a polynomial gives the rest.
        x = max(scores_L[j] - largest, np.float32(-100.0)) + np.float32(127.0)
        whole = np.int32(x)
        scores_L[j] = x - np.float32(whole)
        bits_L[j] = whole << 23
    total = np.int32(0)
    for j in range(n_keys):
        f = scores_L[j]
        power = np.float32(0.0796) * f + np.float32(0.2242)
        power = (power * f + np.float32(0.6962)) * f + np.float32(0.99993)
        weight = np.int32(floats_L[j] * power * np.float32(127.0) + np.float32(0.5))
        weight = min(weight, np.int32(127))
        weights_L[j] = np.uint8(weight)
        total += weight
    return np.float32(1.0) / np.float32(total)


@_compiled
def _attend(qkv_LX: Any, n_tokens: int, n_heads: int, n_queries: int, out_LD: Any) -> None:
    """Attention of the first `n_queries` tokens (a multiple of 4) to the first `n_tokens`."""
    n_padded, width = qkv_LX.shape[0], qkv_LX.shape[1] // 3
    e = width // n_heads
    q_LE, q_scale_L = np.empty((n_queries, e), np.uint8), np.empty(n_queries, np.float32)
    key_panels = np.zeros((n_padded // COLUMNS, e * COLUMNS), np.int8)
    key_columns = np.zeros((n_padded // COLUMNS, 3 * COLUMNS), np.float32)
    value_panels = np.zeros((e // COLUMNS, n_padded * COLUMNS), np.int8)
    value_columns = np.zeros((e // COLUMNS, 3 * COLUMNS), np.float32)
    scores_RL = np.empty((ROWS, n_padded), np.float32)
    weights_RL = np.zeros((ROWS, n_padded), np.uint8)
    bits_L, weight_scale_R = np.empty(n_padded, np.int32), np.empty(ROWS, np.float32)
    for head in range(n_heads):
        first = head * e
        q, k, v = first, width + first, 2 * width + first
        _round_rows(qkv_LX[:n_queries, q : q + e], _LOG2_E / np.sqrt(e), q_LE, q_scale_L)
        _pack_keys(qkv_LX[:n_tokens, k : k + e], key_panels, key_columns)
        _pack_values(qkv_LX[:n_tokens, v : v + e], value_panels, value_columns)
        for row in range(0, n_queries, ROWS):
            end = row + ROWS
            multiply(q_LE[row:end], q_scale_L[row:end], key_panels, key_columns, 0, scores_RL)
            for r in range(ROWS):
                weight_scale_R[r] = _softmax(scores_RL[r], n_tokens, bits_L, weights_RL[r])
            out_RE = out_LD[row:end, first : first + e]
            multiply(weights_RL, weight_scale_R, value_panels, value_columns, 0, out_RE)


@_compiled
def _add_and_norm(x_RD: Any, y_RD: Any, weight_D: Any, bias_D: Any, eps: float) -> None:
    """LayerNorm of the sum, into `x_RD`."""
    width = np.float32(x_RD.shape[1])
    for r in range(x_RD.shape[0]):
        total = np.float32(0.0)
        for d in range(x_RD.shape[1]):
            x_RD[r, d] += y_RD[r, d]
            total += x_RD[r, d]
        mean = total / width
        square = np.float32(0.0)
        for d in range(x_RD.shape[1]):
            x_RD[r, d] -= mean
            square += x_RD[r, d] * x_RD[r, d]
        inverse = np.float32(1.0) / np.sqrt(square / width + np.float32(eps))
        for d in range(x_RD.shape[1]):
            x_RD[r, d] = x_RD[r, d] * inverse * weight_D[d] + bias_D[d]


@_compiled
def encode_layer(x_LD: Any, n_tokens: int, n_heads: int, n_queries: int, layer: Any) -> None:
    """Encode the first `n_queries` tokens in place; all read the first `n_tokens`."""
    n_padded, width = x_LD.shape
    n_hidden = layer.hidden.panels.shape[0] * COLUMNS
    rounded_RD = np.empty((_BLOCK, width), np.uint8)
    rounded_RF = np.empty((_BLOCK, n_hidden), np.uint8)
    scale_R = np.empty(_BLOCK, np.float32)
    y_RD, y_RF = np.empty((_BLOCK, width), np.float32), np.empty((_BLOCK, n_hidden), np.float32)
    qkv_LX = np.empty((n_padded, 3 * width), np.float32)
    read_LD = np.empty((n_queries, width), np.float32)
    for row in range(0, n_padded, _BLOCK):
        end = min(row + _BLOCK, n_padded)
        n = end - row
        first = 0 if row < n_queries else width // COLUMNS  # behind the queries: keys and values
        _round_rows(x_LD[row:end], 1.0, rounded_RD[:n], scale_R[:n])
        multiply(
            rounded_RD[:n], scale_R[:n], layer.qkv.panels, layer.qkv.columns, first, qkv_LX[row:end]
        )
    _attend(qkv_LX, n_tokens, n_heads, n_queries, read_LD)
    for row in range(0, n_queries, _BLOCK):
        end = min(row + _BLOCK, n_queries)
        n = end - row
        x_RD, scale = x_LD[row:end], scale_R[:n]
        _round_rows(read_LD[row:end], 1.0, rounded_RD[:n], scale)
        multiply(rounded_RD[:n], scale, layer.out.panels, layer.out.columns, 0, y_RD[:n])
        _add_and_norm(x_RD, y_RD[:n], layer.norm1[0], layer.norm1[1], layer.eps)
        _round_rows(x_RD, 1.0, rounded_RD[:n], scale)
        multiply(rounded_RD[:n], scale, layer.hidden.panels, layer.hidden.columns, 0, y_RF[:n])
        y_RF[:n] = np.maximum(y_RF[:n], np.float32(0.0))
        _round_rows(y_RF[:n], 1.0, rounded_RF[:n], scale)
        multiply(rounded_RF[:n], scale, layer.back.panels, layer.back.columns, 0, y_RD[:n])
        _add_and_norm(x_RD, y_RD[:n], layer.norm2[0], layer.norm2[1], layer.eps)
