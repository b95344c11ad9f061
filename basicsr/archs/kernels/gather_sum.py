"""Weighted sums of gathered rows, as overlapping patches are blended: one gather forward and one backward.

An atomic-free sum: every output row reads what it needs, in the order of its taps, so results are the same in every
run. `PatchGrid.merge` is such a sum over the slots of the patches, and the deterministic gradient of
`window_attention` one over the slots of its windows.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

from basicsr.archs.kernels.launch import check_dtype, on_device, power_of_two

TILE = 2048  # numbers that a program holds: 16 a thread, so that enough loads are in flight
MAX_COLUMNS = 128  # of a tile


def gather_sum(
    x: Tensor, index: Tensor, weight: Tensor | None, pixel: Tensor | None = None, slot_weight: Tensor | None = None
) -> Tensor:
    """Return `out[b, n] = sum over t of weight[n, t] * x[b, index[n, t]]`.

    Args:
        x: (B, M, C), float32, bfloat16 or float16; summed in float32.
        index: (N, taps) int32, below M; negative where there is none.
        weight: (N, taps) float32; None: ones.
        pixel: (M,) int32, the one output row that each row of `x` is part of, negative for none. Needed for a gradient.
        slot_weight: (M,) float32, the weight of each row of `x` there; None: ones.

    Returns:
        (B, N, C), in the precision of `x`.

    Raises:
        ValueError: `x` needs a gradient and there is no `pixel`.
    """
    check_dtype("gather_sum", x)
    if pixel is None and x.requires_grad and torch.is_grad_enabled():
        raise ValueError("gather_sum: the gradient of x is a gather, too; give pixel (and slot_weight)")
    return _GatherSum.apply(x, index, weight, pixel, slot_weight)


class _GatherSum(torch.autograd.Function):
    """The sum with its adjoint as gradient, which is a sum of one tap."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, index: Tensor, weight: Tensor | None, pixel: Tensor | None,
                slot_weight: Tensor | None) -> Tensor:  # fmt: skip
        ctx.save_for_backward(pixel, slot_weight)
        out = x.new_empty(x.shape[0], index.shape[0], x.shape[2])
        gather_into(out.flatten(0, 1), x, index, weight)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        pixel, slot_weight = ctx.saved_tensors
        grad_x = grads[0].new_empty(grads[0].shape[0], pixel.shape[0], grads[0].shape[2])
        gather_into(grad_x.flatten(0, 1), grads[0], pixel[:, None], slot_weight)
        return grad_x, None, None, None, None


def gather_into(
    out: Tensor, x: Tensor, index: Tensor, weight: Tensor | None = None, rows: Tensor | None = None
) -> None:
    """Write the sums of `gather_sum` to rows of the matrix `out`.

    Args:
        out: (rows, C), contiguous along C.
        rows: (B, N) int32, the row of `out` for each sum; None: row `b * N + n`.
    """
    batch, length, columns = x.shape
    number, taps = index.shape
    if batch * number * columns == 0:
        return
    x, index = x.contiguous(), index.contiguous()
    weight = weight.contiguous() if weight is not None else None
    rows = rows.contiguous() if rows is not None else None
    width = min(MAX_COLUMNS, power_of_two(columns))
    height = TILE // width
    grid = (batch * triton.cdiv(number, height), triton.cdiv(columns, width))
    with on_device(x):
        _gather_kernel[grid](
            out, x, index, x if weight is None else weight, index if rows is None else rows, out.stride(0),
            number, length, columns, taps, weight is not None, rows is not None, height, width,
        )  # fmt: skip


@triton.jit(do_not_specialize=["number", "length"])
def _gather_kernel(
    out: tl.tensor, x: tl.tensor, index: tl.tensor, weight: tl.tensor, rows: tl.tensor, stride: tl.tensor,
    number: tl.tensor, length: tl.tensor, columns: tl.tensor, taps: tl.tensor,
    WEIGHTED: tl.constexpr, BY_ROW: tl.constexpr, HEIGHT: tl.constexpr, WIDTH: tl.constexpr,
) -> None:  # fmt: skip
    """Sum HEIGHT output rows of an image, WIDTH columns of them."""
    blocks = tl.cdiv(number, HEIGHT)
    image = (tl.program_id(0) // blocks).to(tl.int64)
    n = tl.program_id(0) % blocks * HEIGHT + tl.arange(0, HEIGHT)
    c = tl.program_id(1) * WIDTH + tl.arange(0, WIDTH)
    real = n < number
    total = tl.zeros([HEIGHT, WIDTH], tl.float32)
    for tap in range(taps):
        at = tl.load(index + n.to(tl.int64) * taps + tap, mask=real, other=-1)
        mask = (at >= 0)[:, None] & (c < columns)[None, :]
        values = tl.load(x + (image * length + at)[:, None] * columns + c[None, :], mask=mask, other=0.0)
        values = values.to(tl.float32)
        if WEIGHTED:
            values *= tl.load(weight + n.to(tl.int64) * taps + tap, mask=real, other=0.0)[:, None]
        total += values
    target = image * number + n
    if BY_ROW:
        target = tl.load(rows + target, mask=real, other=0).to(tl.int64)
    mask = real[:, None] & (c < columns)[None, :]
    tl.store(out + target[:, None] * stride + c[None, :], total.to(out.dtype.element_ty), mask=mask)
