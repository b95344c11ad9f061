"""Attention of all queries to the same few keys and values, such as CATANet's token centres.

PyTorch's fused attention is slow at that shape, above all in its backward pass: few keys, and hundreds of thousands of
queries. Here a program takes a block of rows and one head, with the keys in registers. In the backward pass a fixed
number of programs share the rows out, and each leaves its part of the gradient of keys and values: no atomics, so the
sums are the same in every run.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

from basicsr.archs.kernels.launch import (
    check_dtype,
    check_widths,
    dot_precision,
    multiprocessors,
    on_device,
    padded_width,
)
from basicsr.archs.kernels.window_kernels import LOG2_E, dot, put, tile
from basicsr.archs.layers.windows import Heads

# Sizes are chosen by the compiler's report for sm_90 (registers, spills), not by timing.
ROWS = 64  # of a block in the forward pass: one Hopper warpgroup product
KEYS = 64  # of a tile, or fewer where there are fewer or heads are wide
PASSING_ROWS = 32  # of a block in the backward pass, where the keys stay
WARPS = 16  # of all programs on a multiprocessor in the backward pass


def global_attention(qkv: Tensor, global_kv: Tensor, heads: Heads, base: Tensor | None = None) -> Tensor:
    """Return the softmax attention of every row's queries to the same keys, scale 1/sqrt(heads.qk).

    Args:
        qkv: (rows, at least heads.number * heads.qk columns), float32, bfloat16 or float16; the queries come first.
        global_kv: (heads, T, qk + v), T >= 1; cast to the precision of `qkv`.
        base: (rows, heads.number * heads.v), added to the result in the same pass; may need a gradient.

    Returns:
        (rows, heads.number * heads.v), in the precision of `qkv`.

    Raises:
        TypeError: of another precision.
        ValueError: shapes that do not fit.
    """
    check_dtype("global_attention", qkv)
    number, qk, v = heads
    if qkv.ndim != 2 or qkv.shape[1] < number * qk:
        raise ValueError(f"global_attention: qkv is {tuple(qkv.shape)}; the queries need {number * qk} columns")
    check_global_kv("global_attention", global_kv, heads)
    if base is not None and base.shape != (len(qkv), number * v):
        raise ValueError(f"global_attention: base is {tuple(base.shape)}, not {(len(qkv), number * v)}")
    return _GlobalAttention.apply(qkv, global_kv.to(qkv.dtype), base, heads, dot_precision())


def check_global_kv(name: str, global_kv: Tensor, heads: Heads) -> None:
    """Raise a ValueError unless these are keys and values for all heads, which the kernels can hold."""
    number, qk, v = heads
    check_widths(name, qk, v)
    if global_kv.ndim != 3 or global_kv.shape[::2] != (number, qk + v) or global_kv.shape[1] < 1:
        raise ValueError(f"{name}: global_kv is {tuple(global_kv.shape)}, not {(number, 'T', qk + v)}")


class _GlobalAttention(torch.autograd.Function):
    """The attention and its gradients."""

    @staticmethod
    def forward(ctx: Any, qkv: Tensor, global_kv: Tensor, base: Tensor | None, heads: Heads,
                precision: str) -> Tensor:  # fmt: skip
        """Shapes and arguments of `global_attention`."""
        qkv, global_kv = qkv.contiguous(), global_kv.contiguous()
        out, lse = attend_to_all(qkv, global_kv, base, heads, precision)
        ctx.save_for_backward(qkv, global_kv, lse)
        ctx.heads, ctx.precision, ctx.base_dtype = heads, precision, base.dtype if base is not None else None
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of `qkv`, of the global keys and values, and of the base."""
        qkv, global_kv, lse = ctx.saved_tensors
        grad_out, grad_qkv = grads[0].contiguous(), torch.zeros_like(qkv)
        grad_global = add_gradients(qkv, global_kv, lse, grad_out, grad_qkv, ctx.heads, ctx.precision)
        grad_base = grad_out.to(ctx.base_dtype) if ctx.base_dtype is not None else None
        return grad_qkv, grad_global, grad_base, None, None


def _options(heads: Heads, keys: int, precision: str) -> dict[str, Any]:
    """Return the compile-time arguments that both kernels share."""
    width = max(padded_width(heads.qk), padded_width(heads.v))
    return {
        "QK": heads.qk, "V": heads.v, "DQ": padded_width(heads.qk), "DV": padded_width(heads.v),
        "PRECISION": precision, "BLOCK_K": min(KEYS * 32 // max(32, width), padded_width(keys)), "num_stages": 1,
    }  # fmt: skip


def attend_to_all(
    qkv: Tensor, global_kv: Tensor, base: Tensor | None, heads: Heads, precision: str
) -> tuple[Tensor, Tensor]:
    """Return what `global_attention` does, without a gradient, and the log-sum-exp of every row and head.

    `qkv` and `global_kv` are contiguous.
    """
    rows, columns = qkv.shape
    out = qkv.new_empty(rows, heads.number * heads.v)
    lse = qkv.new_empty(rows, heads.number, dtype=torch.float32)
    if rows > 0:
        with on_device(qkv):
            _forward_kernel[(triton.cdiv(rows, ROWS) * heads.number,)](
                qkv, global_kv, out if base is None else base.contiguous(), out, lse, rows, columns,
                global_kv.shape[1], heads.number, heads.qk**-0.5, BASE=base is not None, BLOCK_R=ROWS,
                **_options(heads, global_kv.shape[1], precision),
            )  # fmt: skip
    return out, lse


def add_gradients(
    qkv: Tensor, global_kv: Tensor, lse: Tensor, grad_out: Tensor, grad_qkv: Tensor, heads: Heads, precision: str
) -> Tensor:
    """Add the gradient of the queries to `grad_qkv`, and return that of `global_kv`; all inputs are contiguous."""
    (number, qk, v), (rows, columns), keys = heads, qkv.shape, global_kv.shape[1]
    options = _options(heads, keys, precision)
    tiles = triton.cdiv(keys, options["BLOCK_K"])
    warps = options["BLOCK_K"] // 16 if max(options["DQ"], options["DV"]) <= 32 else 4  # wide heads need registers
    programs = triton.cdiv(WARPS // warps * multiprocessors(qkv.device), number * tiles)
    chunks = max(1, min(triton.cdiv(rows, PASSING_ROWS), programs))
    partial = lse.new_empty(chunks, number, keys, qk + v)
    # With several tiles of keys, each has its part of the queries' gradient.
    parts = lse.new_empty(tiles, rows, number * qk) if tiles > 1 else grad_qkv[None]
    with on_device(qkv):
        _backward_kernel[(chunks * number * tiles,)](
            qkv, global_kv, lse, grad_out, parts, partial, rows, columns, parts.stride(1), keys, number, chunks,
            qk**-0.5, TILES=tiles, BLOCK_R=PASSING_ROWS, num_warps=warps, **options,
        )  # fmt: skip
    if tiles > 1:
        grad_qkv[:, : number * qk] += parts.sum(dim=0)
    return partial.sum(dim=0).to(global_kv.dtype)


@triton.jit(do_not_specialize=["rows", "keys"])
def _forward_kernel(
    qkv: tl.tensor, global_kv: tl.tensor, base: tl.tensor, out: tl.tensor, lse: tl.tensor,
    rows: tl.tensor, COLUMNS: tl.constexpr, keys: tl.tensor, HEADS: tl.constexpr, scale: tl.tensor,
    QK: tl.constexpr, V: tl.constexpr, DQ: tl.constexpr, DV: tl.constexpr, BASE: tl.constexpr,
    PRECISION: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_K: tl.constexpr,
) -> None:  # fmt: skip
    """Attend for BLOCK_R rows and a head, with an online softmax over BLOCK_K keys at a time."""
    head = tl.program_id(0) % HEADS
    row = (tl.program_id(0) // HEADS).to(tl.int64) * BLOCK_R + tl.arange(0, BLOCK_R)
    real = row < rows
    q = tile(qkv, row, real, COLUMNS, head * QK, QK, DQ)
    largest = tl.full([BLOCK_R], float("-inf"), tl.float32)
    total = tl.zeros([BLOCK_R], tl.float32)
    values = tl.zeros([BLOCK_R, DV], tl.float32)
    for first in range(0, keys, BLOCK_K):
        j = first + tl.arange(0, BLOCK_K)
        k = tile(global_kv, head * keys + j, j < keys, QK + V, 0, QK, DQ)
        v = tile(global_kv, head * keys + j, j < keys, QK + V, QK, V, DV)
        scores = dot(q, tl.trans(k), PRECISION) * (scale * LOG2_E)
        scores = tl.where((j < keys)[None, :], scores, float("-inf"))
        now_largest = tl.maximum(largest, tl.max(scores, 1))
        weights = tl.exp2(scores - now_largest[:, None])
        shrink = tl.exp2(largest - now_largest)
        total = total * shrink + tl.sum(weights, 1)
        values = values * shrink[:, None] + dot(weights.to(v.dtype), v, PRECISION)
        largest = now_largest
    values = values / total[:, None]
    if BASE:
        values += tile(base, row, real, HEADS * V, head * V, V, DV).to(tl.float32)
    put(out, values, row, real, HEADS * V, head * V, V, DV, False)
    tl.store(lse + row * HEADS + head, largest + tl.log2(total), mask=real)


@triton.jit
def _weights(q: tl.tensor, k: tl.tensor, there: tl.tensor, shift: tl.tensor, log2_scale: tl.tensor,
             PRECISION: tl.constexpr) -> Any:  # fmt: skip
    """Return the softmax weights (keys, rows) from the log-sum-exp of all keys."""
    scores = dot(k, tl.trans(q), PRECISION) * log2_scale
    return tl.exp2(tl.where(there[:, None], scores, float("-inf")) - shift[None, :])


@triton.jit(do_not_specialize=["rows", "keys", "chunks"])
def _backward_kernel(
    qkv: tl.tensor, global_kv: tl.tensor, lse: tl.tensor, grad_out: tl.tensor, grad_q: tl.tensor, partial: tl.tensor,
    rows: tl.tensor, COLUMNS: tl.constexpr, STRIDE: tl.constexpr, keys: tl.tensor, HEADS: tl.constexpr,
    chunks: tl.tensor, scale: tl.tensor,
    QK: tl.constexpr, V: tl.constexpr, DQ: tl.constexpr, DV: tl.constexpr, TILES: tl.constexpr,
    PRECISION: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_K: tl.constexpr,
) -> None:  # fmt: skip
    """Take every `chunks`-th block of rows with one head and one tile of keys.

    Adds these rows' gradient of the queries to `grad_q` (rows, STRIDE), or with several TILES writes each tile's part
    to (TILES, rows, STRIDE); writes the sums for the keys and values to `partial` (chunks, heads, keys, QK + V).
    """
    head = tl.program_id(0) % HEADS
    own = tl.program_id(0) // HEADS % TILES
    chunk = tl.program_id(0) // HEADS // TILES
    j = own * BLOCK_K + tl.arange(0, BLOCK_K)
    there = j < keys
    k = tile(global_kv, head * keys + j, there, QK + V, 0, QK, DQ)
    v = tile(global_kv, head * keys + j, there, QK + V, QK, V, DV)
    dk = tl.zeros([BLOCK_K, DQ], tl.float32)
    dv = tl.zeros([BLOCK_K, DV], tl.float32)
    for block in range(chunk, tl.cdiv(rows, BLOCK_R), chunks):
        row = tl.arange(0, BLOCK_R).to(tl.int64) + block * BLOCK_R
        real = row < rows
        q = tile(qkv, row, real, COLUMNS, head * QK, QK, DQ)
        do = tile(grad_out, row, real, HEADS * V, head * V, V, DV)
        shift = tl.load(lse + row * HEADS + head, mask=real, other=float("inf"))  # weights of no row are 0
        weights = _weights(q, k, there, shift, scale * LOG2_E, PRECISION)
        slopes = dot(v, tl.trans(do), PRECISION)
        both = tl.sum(weights * slopes, 0)
        if TILES > 1:  # the other keys
            for i in range(1, TILES):
                at = (own + i) % TILES * BLOCK_K + tl.arange(0, BLOCK_K)
                others = tile(global_kv, head * keys + at, at < keys, QK + V, 0, QK, DQ)
                other_weights = _weights(q, others, at < keys, shift, scale * LOG2_E, PRECISION)
                other_values = tile(global_kv, head * keys + at, at < keys, QK + V, QK, V, DV)
                both += tl.sum(other_weights * dot(other_values, tl.trans(do), PRECISION), 0)
        slopes = weights * (slopes - both[None, :])
        dv += dot(weights.to(do.dtype), do, PRECISION)
        dk += dot(slopes.to(q.dtype), q, PRECISION)
        dq = dot(tl.trans(slopes).to(k.dtype), k, PRECISION) * scale
        if TILES == 1:
            dq += tile(grad_q, row, real, STRIDE, head * QK, QK, DQ).to(tl.float32)
        put(grad_q, dq, own.to(tl.int64) * rows + row, real, STRIDE, head * QK, QK, DQ, False)
    at = (chunk * HEADS + head).to(tl.int64) * keys + j
    put(partial, dk * scale, at, there, QK + V, 0, QK, DQ, False)
    put(partial, dv, at, there, QK + V, QK, V, DV, False)
