"""Softmax attention in windows of gathered rows on a GPU, forward and backward. The device code: `window_kernels.py`.

A program takes one window, one head and one block of queries, gathers rows by index and keeps its scores in registers.
The backward pass computes the weights again: once by blocks of queries, once by blocks of keys, and for the gradient of
a bias once by tiles of it, so that nothing within a window is summed atomically. Rows that lie in several windows get
the sum of these windows' gradients, by one of two forms:

- atomic additions into float32, the fast form, whose rounding differs from run to run;
- where `torch.are_deterministic_algorithms_enabled()`, gradients written for every place, then gathered and summed.

Where every row lies in one window, gradients are written directly, in both.
"""

from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor
from torch.autograd.function import once_differentiable

from basicsr.archs.kernels import window_kernels as kernels
from basicsr.archs.kernels.gather_sum import gather_sum
from basicsr.archs.kernels.global_attention import add_gradients, attend_to_all, check_global_kv
from basicsr.archs.kernels.launch import (
    check_dtype,
    check_widths,
    dot_precision,
    multiprocessors,
    on_device,
    padded_width,
)
from basicsr.archs.layers.windows import Heads, Inverse


def window_attention(
    qkv: Tensor, rows: Tensor, *, number: int, step: int, queries: int, keys: int, valid: int, heads: Heads,
    scatter: bool = False, numbers: Tensor | None = None, labels: Tensor | None = None, uniform: int = 0,
    factor: Tensor | None = None, inverse: Inverse | None = None, global_kv: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """Return softmax attention in every window, scale 1/sqrt(heads.qk), as `gathered_attention` does.

    Args:
        qkv: (rows, heads.columns) float32, bfloat16 or float16; sums and softmax are float32.
        rows: (images, places) int32. Window `w` has the queries at places `w*step .. w*step + queries - 1` and the keys
            at `w*step .. w*step + keys - 1`, queries <= keys. Images share no rows.
        valid: places from here on are no queries: nothing is written for them with `scatter`, zeros without.
        scatter: the output of a query goes to the row it came from; every row must be the query of one window.
        numbers: (heads, queries, keys), added to the scores; may need a gradient.
        labels: (windows, keys) int32: between places with different labels -100 is added as well.
        uniform: windows at the beginning whose labels are all the same.
        factor: one number on the scores, besides the scale; may need a gradient. It is read on the device only.
        inverse: of the rows, for gradients that repeat bit for bit.
        global_kv: (heads, T, qk + v), keys and values that every query attends to as well, with `scatter` only: as if
            `global_attention` were added, but the gradients of the queries are summed in place.

    Returns:
        (images * windows * queries, heads * v), window after window; with `scatter` (rows, heads * v).

    Raises:
        TypeError: of another precision.
        ValueError: shapes that do not fit, or no `inverse` where the gradient needs it.
    """
    check_dtype("window_attention", qkv)
    _check_shapes(qkv, rows, heads, (number, step, queries, keys), numbers, labels, factor)
    if global_kv is not None:
        check_global_kv("window_attention", global_kv, heads)
        if not scatter or factor is not None:
            raise ValueError("window_attention: global_kv needs scatter=True and no factor")
        global_kv = global_kv.to(qkv.dtype)
    places = rows.shape[1]
    each_row_once = scatter and step == keys and valid == places == number * step
    deterministic = torch.are_deterministic_algorithms_enabled()
    if deterministic and not each_row_once and inverse is None and qkv.requires_grad and torch.is_grad_enabled():
        raise ValueError(
            "window_attention: rows lie in several windows, and deterministic algorithms are on: "
            "the gradient needs inverse=(order, key_slots)"
        )
    sizes = _Sizes(number, places, step, queries, keys, valid, uniform)
    form = "direct" if each_row_once else "slots" if deterministic else "atomic"
    call = _Call(len(rows), sizes, heads, scatter, labels is not None, dot_precision(), form)
    order, key_slots = inverse if inverse is not None and form == "slots" else (None, None)
    return _WindowAttention.apply(qkv, global_kv, numbers, factor, rows, labels, order, key_slots, call)


def _check_shapes(
    qkv: Tensor, rows: Tensor, heads: Heads, windows: tuple[int, int, int, int], numbers: Tensor | None,
    labels: Tensor | None, factor: Tensor | None,
) -> None:  # fmt: skip
    number, step, queries, keys = windows
    check_widths("window_attention", heads.qk, heads.v)
    if qkv.ndim != 2 or qkv.shape[1] != heads.columns:
        raise ValueError(f"window_attention: qkv is {tuple(qkv.shape)}; {heads} need {heads.columns} columns")
    if rows.ndim != 2 or rows.dtype != torch.int32 or rows.device != qkv.device:
        raise ValueError("window_attention: rows must be (images, places) int32 on the device of qkv")
    if not 1 <= queries <= keys or (number - 1) * step + keys > rows.shape[1]:
        raise ValueError(
            f"window_attention: {number} windows of {queries} queries and {keys} keys every {step} places "
            f"do not fit {rows.shape[1]} places"
        )
    if numbers is not None and numbers.shape != (heads.number, queries, keys):
        raise ValueError(f"window_attention: numbers are {tuple(numbers.shape)}, not {(heads.number, queries, keys)}")
    if labels is not None and (labels.shape != (number, keys) or labels.dtype != torch.int32):
        raise ValueError(f"window_attention: labels must be {(number, keys)} int32, not {tuple(labels.shape)}")
    if factor is not None and factor.numel() != 1:
        raise ValueError(f"window_attention: factor must be one number, not {tuple(factor.shape)}")


class _Sizes(NamedTuple):
    """The integers that every kernel takes, in its order."""

    number: int
    places: int
    step: int
    queries: int
    keys: int
    valid: int
    uniform: int

    @property
    def all_valid(self) -> bool:
        """Return whether no query is padding."""
        return self.valid >= (self.number - 1) * self.step + self.queries


class _Call(NamedTuple):
    """The arguments of a call besides its tensors."""

    images: int
    sizes: _Sizes
    heads: Heads
    scatter: bool
    labelled: bool
    precision: str
    form: str  # of the gradient of keys and values: direct, slots or atomic

    @property
    def windows(self) -> int:
        return self.images * self.sizes.number

    @property
    def scale(self) -> float:
        return self.heads.qk**-0.5

    def output_rows(self, qkv: Tensor) -> int:
        return len(qkv) if self.scatter else self.windows * self.sizes.queries

    def flags(self, numbers: Tensor | None, factor: Tensor | None) -> dict[str, Any]:
        """Return the compile-time arguments that all kernels share."""
        number, qk, v = self.heads
        return {
            "HEADS": number, "QK": qk, "V": v, "DQ": padded_width(qk), "DV": padded_width(v), "SCATTER": self.scatter,
            "BIAS": numbers is not None, "LABELS": self.labelled, "FACTOR": factor is not None,
            "PRECISION": self.precision,
        }  # fmt: skip


class _Tiles(NamedTuple):
    """Block sizes of a program, chosen by the compiler's report for sm_90 (registers, spills), not by timing.

    `own` rows stay with the program and `other` rows pass by. 64 own rows are one Hopper warpgroup product; passing 32
    keeps the backward pass in float32, with its three TF32 products, at 168 registers a thread, so that three programs
    of 4 warps share a multiprocessor. Wide heads leave no registers to load the next rows ahead (`num_stages` 1).
    """

    own: int
    other: int
    num_stages: int

    @classmethod
    def of(cls, call: _Call) -> "_Tiles":
        width = max(padded_width(call.heads.qk), padded_width(call.heads.v))
        if width <= 32:
            return cls(64, 32, 2)
        return cls(64, 16 if call.precision == "tf32x3" else 32, 1) if width <= 64 else cls(32, 16, 1)

    def launch(self, call: _Call, device: torch.device, rows: int, others: int) -> tuple[int, int, dict[str, int]]:
        """Return rows of a program's own, rows that pass, and launch options, for windows of `rows` by `others`.

        Programs take fewer rows where there would not be two for each multiprocessor, as with a single small image. 16
        rows are one warp's product: programs of small windows have few warps, so that many share a multiprocessor.
        """
        own = min(self.own, padded_width(rows))
        wanted = 2 * multiprocessors(device)
        while own > 32 and call.windows * call.heads.number * triton.cdiv(rows, own) < wanted:
            own //= 2
        warps = min(4, own // 16) if self.own > 32 else 8
        return own, min(self.other, padded_width(others)), {"num_warps": warps, "num_stages": self.num_stages}


class _WindowAttention(torch.autograd.Function):
    """The attention and its gradients."""

    @staticmethod
    def forward(ctx: Any, qkv: Tensor, global_kv: Tensor | None, numbers: Tensor | None, factor: Tensor | None,
                rows: Tensor, labels: Tensor | None, order: Tensor | None, key_slots: Tensor | None,
                call: _Call) -> Tensor:  # fmt: skip
        """Shapes and arguments of `window_attention`."""
        qkv, rows = qkv.contiguous(), rows.contiguous()
        global_kv, numbers, labels = (x.contiguous() if x is not None else None for x in (global_kv, numbers, labels))
        length, (heads, _, v) = call.output_rows(qkv), call.heads
        out = (qkv.new_empty if call.scatter or call.sizes.all_valid else qkv.new_zeros)(length, heads * v)
        lse = qkv.new_empty(length, heads, dtype=torch.float32)
        tiles = _Tiles.of(call)
        if tiles.num_stages > 1 and numbers is None:
            tiles = tiles._replace(own=128)  # there is room, and keys are gathered half as often
        block_q, block_k, options = tiles.launch(call, qkv.device, call.sizes.queries, call.sizes.keys)
        grid = (call.windows * heads * triton.cdiv(call.sizes.queries, block_q),)
        if grid[0] > 0:
            with on_device(qkv):
                kernels.forward[grid](
                    *_inputs(qkv, rows, numbers, labels, factor), out, lse, *call.sizes, call.scale,
                    **call.flags(numbers, factor), BLOCK_Q=block_q, BLOCK_K=block_k, **options,
                )  # fmt: skip
        result, global_lse = out, None
        if global_kv is not None:
            result, global_lse = attend_to_all(qkv, global_kv, out, call.heads, call.precision)
        ctx.save_for_backward(qkv, global_kv, numbers, factor, rows, labels, order, key_slots, out, lse, global_lse)
        ctx.call = call
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of `qkv`, the global keys and values, the numbers and the factor."""
        qkv, global_kv, numbers, factor, rows, labels, order, key_slots, out, lse, global_lse = ctx.saved_tensors
        call: _Call = ctx.call
        inputs = _inputs(qkv, rows, numbers, labels, factor)
        flags = call.flags(numbers, factor)
        grad_out = grads[0].contiguous()
        if call.windows == 0:
            zeros = (torch.zeros_like(x) if x is not None else None for x in (qkv, global_kv, numbers, factor))
            return *zeros, None, None, None, None, None
        delta = torch.empty_like(lse)
        with on_device(qkv):
            grad_qkv, parts = _grad_qkv(call, inputs, flags, out, (lse, grad_out, delta), order, key_slots)
            grad_global = grad_numbers = None
            if global_kv is not None:
                of_all = global_kv, global_lse, grad_out, grad_qkv, call.heads, call.precision
                grad_global = add_gradients(qkv, *of_all)
            if ctx.needs_input_grad[2]:
                grad_numbers = _grad_numbers(call, inputs, flags, (lse, grad_out, delta)).to(numbers.dtype)
        grad_factor = parts.sum().to(factor.dtype).view_as(factor) if factor is not None else None
        return grad_qkv.to(qkv.dtype), grad_global, grad_numbers, grad_factor, None, None, None, None, None


def _inputs(qkv: Tensor, rows: Tensor, numbers: Tensor | None, labels: Tensor | None, factor: Tensor | None) -> list:
    """Return the tensors that every kernel takes; a missing one is replaced by another, which is not read."""
    return [qkv, rows, *(x if x is not None else other for x, other in ((numbers, qkv), (labels, rows), (factor, qkv)))]


def _grad_qkv(
    call: _Call, inputs: list[Tensor], flags: dict[str, Any], out: Tensor, saved: tuple[Tensor, Tensor, Tensor],
    order: Tensor | None, key_slots: Tensor | None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Return the gradient of `qkv`, perhaps as float32, and the parts of the factor's; fill `delta` in `saved`.

    With slots, a query's gradient has a slot, too, unless `scatter` says that its row has just this one.
    """
    qkv, (lse, grad_out, delta), sizes = inputs[0], saved, call.sizes
    heads, qk, _ = call.heads
    slots, atomic = call.form == "slots", call.form == "atomic"
    grad = torch.zeros_like(qkv, dtype=torch.float32) if atomic else torch.empty_like(qkv)
    for_keys, ahead = grad, heads * qk
    if slots:
        ahead = 0 if call.scatter else heads * qk
        shape = call.images, sizes.number * sizes.keys, qkv.shape[1] - (heads * qk - ahead)
        every_slot_written = call.scatter or (sizes.queries == sizes.keys and sizes.all_valid)
        for_keys = (qkv.new_empty if every_slot_written else qkv.new_zeros)(shape)
    tiles = _Tiles.of(call)
    block_q, block_k, options = tiles.launch(call, qkv.device, sizes.queries, sizes.keys)
    programs = call.windows * heads * triton.cdiv(sizes.queries, block_q)
    grad_factor = lse.new_empty(programs if flags["FACTOR"] else 1)
    by_slot = slots and not call.scatter
    kernels.backward_queries[(programs,)](
        *inputs, out, lse, grad_out, delta, for_keys if by_slot else grad, grad_factor, *sizes, call.scale, **flags,
        SLOTS=by_slot, ADD=atomic and not call.scatter, BLOCK_Q=block_q, BLOCK_K=block_k, **options,
    )  # fmt: skip
    block_k, block_q, options = tiles.launch(call, qkv.device, sizes.keys, sizes.queries)
    kernels.backward_keys[(call.windows * heads * triton.cdiv(sizes.keys, block_k),)](
        *inputs, lse, grad_out, delta, for_keys, for_keys.shape[-1], ahead, *sizes, call.scale, **flags,
        SLOTS=slots, ADD=atomic, BLOCK_Q=block_q, BLOCK_K=block_k, **options,
    )  # fmt: skip
    if slots and order is not None and key_slots is not None:
        gather_sum(grad[:, grad.shape[1] - for_keys.shape[-1] :], for_keys, key_slots, order)
    return grad, grad_factor


def _grad_numbers(
    call: _Call, inputs: list[Tensor], flags: dict[str, Any], saved: tuple[Tensor, Tensor, Tensor]
) -> Tensor:
    """Return the gradient of `numbers`, float32: a few partial sums over the windows, then theirs."""
    (lse, grad_out, delta), sizes, heads = saved, call.sizes, call.heads.number
    block_q, block_k, options = _Tiles.of(call).launch(call, lse.device, sizes.queries, sizes.keys)
    tiles = triton.cdiv(sizes.queries, block_q) * triton.cdiv(sizes.keys, block_k) * heads
    chunks = min(call.windows, triton.cdiv(4 * multiprocessors(lse.device), tiles))
    partial = lse.new_empty(chunks, heads, sizes.queries, sizes.keys)
    kernels.backward_bias[(tiles * chunks,)](
        *inputs, lse, grad_out, delta, partial, call.windows, chunks, *sizes, call.scale, **flags,
        BLOCK_Q=block_q, BLOCK_K=block_k, **options,
    )  # fmt: skip
    return partial.sum(dim=0)
