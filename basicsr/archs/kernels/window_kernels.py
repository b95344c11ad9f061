"""Device code of `window_attention.py`: softmax attention in windows of gathered rows, forward and backward.

Shapes of tiles: Q queries, K keys, D columns. A matrix `qkv` has the columns of all queries, all keys, all values.
Scores are in units of log2, so that `exp2` serves; so is the log-sum-exp that the forward pass keeps.

What is common to the kernels' arguments: `number` windows an image, `places` of an image in `rows`, HEADS heads of
QK and V columns, padded to DQ and DV; `scale` on the scores, times the number at `factor` with FACTOR; `numbers` are
added to the scores with BIAS, and FAR between different `labels` with LABELS, from window `uniform` on.
"""

from typing import Any

import triton
import triton.language as tl

LOG2_E = tl.constexpr(1.44269504088896)
FAR = tl.constexpr(-100.0 * 1.44269504088896)  # gathered_attention.py has it too


@triton.jit
def dot(a: tl.tensor, b: tl.tensor, PRECISION: tl.constexpr) -> Any:
    """Return the product of two tiles as float32; "ieee" is for the interpreter, which cannot multiply bfloat16."""
    if PRECISION == "ieee":
        return tl.dot(a.to(tl.float32), b.to(tl.float32), input_precision="ieee")
    return tl.dot(a, b, input_precision=PRECISION)


@triton.jit
def _program(blocks: tl.tensor, number: tl.tensor, HEADS: tl.constexpr) -> Any:
    """Return this program's image, window, head and block. Heads are neighbours because they read the same rows."""
    pid = tl.program_id(0)
    window = pid // HEADS // blocks
    return (window // number).to(tl.int64), window % number, pid % HEADS, pid // HEADS % blocks


@triton.jit
def tile(matrix: tl.tensor, row: tl.tensor, there: tl.tensor, stride: tl.tensor, first: tl.tensor,
          WIDTH: tl.constexpr, PADDED: tl.constexpr) -> Any:  # fmt: skip
    """Return WIDTH columns from `first` on of some rows, and zeros up to PADDED columns."""
    d = tl.arange(0, PADDED)
    mask = there[:, None] & (d < WIDTH)[None, :]
    return tl.load(matrix + row[:, None] * stride + first + d[None, :], mask=mask, other=0.0)


@triton.jit
def put(matrix: tl.tensor, values: tl.tensor, row: tl.tensor, there: tl.tensor, stride: tl.tensor, first: tl.tensor,
         WIDTH: tl.constexpr, PADDED: tl.constexpr, ADD: tl.constexpr) -> Any:  # fmt: skip
    """Write a tile where `tile` reads it, or add it to the values there."""
    d = tl.arange(0, PADDED)
    mask = there[:, None] & (d < WIDTH)[None, :]
    target = matrix + row[:, None] * stride + first + d[None, :]
    if ADD:
        tl.atomic_add(target, values, mask=mask, sem="relaxed")
    else:
        tl.store(target, values.to(matrix.dtype.element_ty), mask=mask)


@triton.jit
def _biased(scores: tl.tensor, numbers: tl.tensor, labels: tl.tensor, window: tl.tensor, head: tl.tensor,
            i: tl.tensor, j: tl.tensor, queries: tl.tensor, keys: tl.tensor, uniform: tl.tensor,
            BIAS: tl.constexpr, LABELS: tl.constexpr) -> Any:  # fmt: skip
    """Return scores plus their bias; queries `i` and keys `j` are shaped to broadcast to the scores."""
    if BIAS:
        at = numbers + (head * queries + i).to(tl.int64) * keys + j
        scores += tl.load(at, mask=(i < queries) & (j < keys), other=0.0).to(tl.float32) * LOG2_E
    if LABELS:
        of_window = labels + window.to(tl.int64) * keys
        own = tl.load(of_window + i, mask=(i < queries) & (window >= uniform), other=0)
        other = tl.load(of_window + j, mask=(j < keys) & (window >= uniform), other=0)
        scores += tl.where(own != other, FAR, 0.0)
    return scores


@triton.jit
def _target(row: tl.tensor, image: tl.tensor, window: tl.tensor, i: tl.tensor, number: tl.tensor, count: tl.tensor,
            BY_ROW: tl.constexpr) -> Any:  # fmt: skip
    """Return where something of a place is kept: at its row, or window after window, `count` to a window."""
    return row if BY_ROW else (image * number + window) * count + i


@triton.jit(do_not_specialize=["number", "places", "valid", "uniform"])
def forward(
    qkv: tl.tensor, rows: tl.tensor, numbers: tl.tensor, labels: tl.tensor, factor: tl.tensor,
    out: tl.tensor, lse: tl.tensor,
    number: tl.tensor, places: tl.tensor, step: tl.tensor, queries: tl.tensor, keys: tl.tensor, valid: tl.tensor,
    uniform: tl.tensor, scale: tl.tensor, HEADS: tl.constexpr,
    QK: tl.constexpr, V: tl.constexpr, DQ: tl.constexpr, DV: tl.constexpr,
    SCATTER: tl.constexpr, BIAS: tl.constexpr, LABELS: tl.constexpr, FACTOR: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_Q: tl.constexpr, BLOCK_K: tl.constexpr,
) -> None:  # fmt: skip
    """Attend for BLOCK_Q queries of a window and head, with an online softmax over BLOCK_K keys at a time."""
    image, window, head, block = _program(tl.cdiv(queries, BLOCK_Q), number, HEADS)
    columns = HEADS * (2 * QK + V)
    base = rows + image * places + window * step
    i = block * BLOCK_Q + tl.arange(0, BLOCK_Q)
    real = (i < queries) & (window * step + i < valid)
    row = tl.load(base + i, mask=real, other=0).to(tl.int64)
    q = tile(qkv, row, real, columns, head * QK, QK, DQ)
    log2_scale = scale * LOG2_E
    if FACTOR:
        log2_scale *= tl.load(factor).to(tl.float32)
    largest = tl.full([BLOCK_Q], float("-inf"), tl.float32)
    total = tl.zeros([BLOCK_Q], tl.float32)
    values = tl.zeros([BLOCK_Q, DV], tl.float32)
    for first in range(0, keys, BLOCK_K):
        j = first + tl.arange(0, BLOCK_K)
        there = j < keys
        key_row = tl.load(base + j, mask=there, other=0).to(tl.int64)
        k = tile(qkv, key_row, there, columns, HEADS * QK + head * QK, QK, DQ)
        v = tile(qkv, key_row, there, columns, 2 * HEADS * QK + head * V, V, DV)
        scores = dot(q, tl.trans(k), PRECISION) * log2_scale
        scores = _biased(
            scores, numbers, labels, window, head, i[:, None], j[None, :], queries, keys, uniform, BIAS, LABELS
        )
        scores = tl.where(there[None, :], scores, float("-inf"))
        now_largest = tl.maximum(largest, tl.max(scores, 1))
        weights = tl.exp2(scores - now_largest[:, None])
        shrink = tl.exp2(largest - now_largest)
        total = total * shrink + tl.sum(weights, 1)
        values = values * shrink[:, None] + dot(weights.to(v.dtype), v, PRECISION)
        largest = now_largest
    target = _target(row, image, window, i, number, queries, SCATTER)
    put(out, values / total[:, None], target, real, HEADS * V, head * V, V, DV, False)
    tl.store(lse + target * HEADS + head, largest + tl.log2(total), mask=real)


@triton.jit(do_not_specialize=["number", "places", "valid", "uniform"])
def backward_queries(
    qkv: tl.tensor, rows: tl.tensor, numbers: tl.tensor, labels: tl.tensor, factor: tl.tensor,
    out: tl.tensor, lse: tl.tensor, grad_out: tl.tensor, delta: tl.tensor, grad: tl.tensor, grad_factor: tl.tensor,
    number: tl.tensor, places: tl.tensor, step: tl.tensor, queries: tl.tensor, keys: tl.tensor, valid: tl.tensor,
    uniform: tl.tensor, scale: tl.tensor, HEADS: tl.constexpr,
    QK: tl.constexpr, V: tl.constexpr, DQ: tl.constexpr, DV: tl.constexpr,
    SCATTER: tl.constexpr, BIAS: tl.constexpr, LABELS: tl.constexpr, FACTOR: tl.constexpr, PRECISION: tl.constexpr,
    SLOTS: tl.constexpr, ADD: tl.constexpr, BLOCK_Q: tl.constexpr, BLOCK_K: tl.constexpr,
) -> None:  # fmt: skip
    """Write the gradient of BLOCK_Q queries, and `delta`, the product of output and its gradient, for the keys' kernel.

    The gradient goes to the row of a query, or with SLOTS to its slot among the keys' places; with ADD it is added.
    Every program leaves its part of the factor's gradient.
    """
    image, window, head, block = _program(tl.cdiv(queries, BLOCK_Q), number, HEADS)
    columns = HEADS * (2 * QK + V)
    base = rows + image * places + window * step
    i = block * BLOCK_Q + tl.arange(0, BLOCK_Q)
    real = (i < queries) & (window * step + i < valid)
    row = tl.load(base + i, mask=real, other=0).to(tl.int64)
    target = _target(row, image, window, i, number, queries, SCATTER)
    q = tile(qkv, row, real, columns, head * QK, QK, DQ)
    o = tile(out, target, real, HEADS * V, head * V, V, DV)
    do = tile(grad_out, target, real, HEADS * V, head * V, V, DV)
    shift = tl.load(lse + target * HEADS + head, mask=real, other=float("inf"))
    both = tl.sum(o.to(tl.float32) * do.to(tl.float32), 1)
    tl.store(delta + target * HEADS + head, both, mask=real)
    full_scale = scale
    if FACTOR:
        full_scale *= tl.load(factor).to(tl.float32)
    dq = tl.zeros([BLOCK_Q, DQ], tl.float32)
    for first in range(0, keys, BLOCK_K):
        j = first + tl.arange(0, BLOCK_K)
        there = j < keys
        key_row = tl.load(base + j, mask=there, other=0).to(tl.int64)
        k = tile(qkv, key_row, there, columns, HEADS * QK + head * QK, QK, DQ)
        v = tile(qkv, key_row, there, columns, 2 * HEADS * QK + head * V, V, DV)
        scores = dot(q, tl.trans(k), PRECISION) * (full_scale * LOG2_E)
        scores = _biased(
            scores, numbers, labels, window, head, i[:, None], j[None, :], queries, keys, uniform, BIAS, LABELS
        )
        weights = tl.exp2(tl.where(there[None, :], scores, float("-inf")) - shift[:, None])
        slopes = weights * (dot(do, tl.trans(v), PRECISION) - both[:, None])
        dq += dot(slopes.to(k.dtype), k, PRECISION)
    if FACTOR:
        part = tl.sum(tl.where(real, tl.sum(q.to(tl.float32) * dq, 1), 0.0))
        tl.store(grad_factor + tl.program_id(0), part * scale)
    slot = _target(row, image, window, i, number, keys, not SLOTS)
    put(grad, dq * full_scale, slot, real, columns, head * QK, QK, DQ, ADD)


@triton.jit(do_not_specialize=["number", "places", "valid", "uniform"])
def backward_keys(
    qkv: tl.tensor, rows: tl.tensor, numbers: tl.tensor, labels: tl.tensor, factor: tl.tensor,
    lse: tl.tensor, grad_out: tl.tensor, delta: tl.tensor, grad: tl.tensor, STRIDE: tl.constexpr, AHEAD: tl.constexpr,
    number: tl.tensor, places: tl.tensor, step: tl.tensor, queries: tl.tensor, keys: tl.tensor, valid: tl.tensor,
    uniform: tl.tensor, scale: tl.tensor, HEADS: tl.constexpr,
    QK: tl.constexpr, V: tl.constexpr, DQ: tl.constexpr, DV: tl.constexpr,
    SCATTER: tl.constexpr, BIAS: tl.constexpr, LABELS: tl.constexpr, FACTOR: tl.constexpr, PRECISION: tl.constexpr,
    SLOTS: tl.constexpr, ADD: tl.constexpr, BLOCK_Q: tl.constexpr, BLOCK_K: tl.constexpr,
) -> None:  # fmt: skip
    """Write the gradients of BLOCK_K keys and values; `grad` has STRIDE columns, AHEAD of them before the keys'.

    They go to the row of a key, or with SLOTS to the slot of its place; with ADD they are added.
    """
    image, window, head, block = _program(tl.cdiv(keys, BLOCK_K), number, HEADS)
    columns = HEADS * (2 * QK + V)
    base = rows + image * places + window * step
    j = block * BLOCK_K + tl.arange(0, BLOCK_K)
    there = j < keys
    key_row = tl.load(base + j, mask=there, other=0).to(tl.int64)
    k = tile(qkv, key_row, there, columns, HEADS * QK + head * QK, QK, DQ)
    v = tile(qkv, key_row, there, columns, 2 * HEADS * QK + head * V, V, DV)
    if FACTOR:
        scale *= tl.load(factor).to(tl.float32)
    dk = tl.zeros([BLOCK_K, DQ], tl.float32)
    dv = tl.zeros([BLOCK_K, DV], tl.float32)
    for first in range(0, tl.minimum(queries, valid - window * step), BLOCK_Q):
        i = first + tl.arange(0, BLOCK_Q)
        real = (i < queries) & (window * step + i < valid)
        row = tl.load(base + i, mask=real, other=0).to(tl.int64)
        target = _target(row, image, window, i, number, queries, SCATTER)
        q = tile(qkv, row, real, columns, head * QK, QK, DQ)
        do = tile(grad_out, target, real, HEADS * V, head * V, V, DV)
        shift = tl.load(lse + target * HEADS + head, mask=real, other=float("inf"))  # weights of no query are 0
        both = tl.load(delta + target * HEADS + head, mask=real, other=0.0)
        scores = dot(k, tl.trans(q), PRECISION) * (scale * LOG2_E)
        scores = _biased(
            scores, numbers, labels, window, head, i[None, :], j[:, None], queries, keys, uniform, BIAS, LABELS
        )
        weights = tl.exp2(scores - shift[None, :])
        dv += dot(weights.to(do.dtype), do, PRECISION)
        slopes = weights * (dot(v, tl.trans(do), PRECISION) - both[None, :])
        dk += dot(slopes.to(q.dtype), q, PRECISION)
    slot = _target(key_row, image, window, j, number, keys, not SLOTS)
    put(grad, dk * scale, slot, there, STRIDE, AHEAD + head * QK, QK, DQ, ADD)
    put(grad, dv, slot, there, STRIDE, AHEAD + HEADS * QK + head * V, V, DV, ADD)


@triton.jit(do_not_specialize=["number", "places", "valid", "uniform", "windows"])
def backward_bias(
    qkv: tl.tensor, rows: tl.tensor, numbers: tl.tensor, labels: tl.tensor, factor: tl.tensor,
    lse: tl.tensor, grad_out: tl.tensor, delta: tl.tensor, grad: tl.tensor, windows: tl.tensor, chunks: tl.tensor,
    number: tl.tensor, places: tl.tensor, step: tl.tensor, queries: tl.tensor, keys: tl.tensor, valid: tl.tensor,
    uniform: tl.tensor, scale: tl.tensor, HEADS: tl.constexpr,
    QK: tl.constexpr, V: tl.constexpr, DQ: tl.constexpr, DV: tl.constexpr,
    SCATTER: tl.constexpr, BIAS: tl.constexpr, LABELS: tl.constexpr, FACTOR: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_Q: tl.constexpr, BLOCK_K: tl.constexpr,
) -> None:  # fmt: skip
    """Write one tile of the gradient of `numbers`, summed over every `chunks`-th of all `windows`.

    `grad` is (chunks, heads, queries, keys). Summing in registers takes the scores a third time, but no atomics.
    """
    pid = tl.program_id(0)
    chunk = pid % chunks
    head = pid // chunks % HEADS
    block = pid // chunks // HEADS
    i = block % tl.cdiv(queries, BLOCK_Q) * BLOCK_Q + tl.arange(0, BLOCK_Q)
    j = block // tl.cdiv(queries, BLOCK_Q) * BLOCK_K + tl.arange(0, BLOCK_K)
    there = j < keys
    columns = HEADS * (2 * QK + V)
    if FACTOR:
        scale *= tl.load(factor).to(tl.float32)
    total = tl.zeros([BLOCK_Q, BLOCK_K], tl.float32)
    for at in range(chunk, windows, chunks):
        image, window = (at // number).to(tl.int64), at % number
        base = rows + image * places + window * step
        real = (i < queries) & (window * step + i < valid)
        row = tl.load(base + i, mask=real, other=0).to(tl.int64)
        key_row = tl.load(base + j, mask=there, other=0).to(tl.int64)
        target = _target(row, image, window, i, number, queries, SCATTER)
        q = tile(qkv, row, real, columns, head * QK, QK, DQ)
        k = tile(qkv, key_row, there, columns, HEADS * QK + head * QK, QK, DQ)
        v = tile(qkv, key_row, there, columns, 2 * HEADS * QK + head * V, V, DV)
        do = tile(grad_out, target, real, HEADS * V, head * V, V, DV)
        shift = tl.load(lse + target * HEADS + head, mask=real, other=float("inf"))
        both = tl.load(delta + target * HEADS + head, mask=real, other=0.0)
        scores = dot(q, tl.trans(k), PRECISION) * (scale * LOG2_E)
        scores = _biased(
            scores, numbers, labels, window, head, i[:, None], j[None, :], queries, keys, uniform, BIAS, LABELS
        )
        weights = tl.exp2(scores - shift[:, None])
        total += weights * (dot(do, tl.trans(v), PRECISION) - both[:, None])
    at = grad + ((chunk * HEADS + head) * queries + i[:, None]).to(tl.int64) * keys + j[None, :]
    tl.store(at, total, mask=(i < queries)[:, None] & there[None, :])
