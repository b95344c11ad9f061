"""LayerNorm over a few channels, for which PyTorch's kernel is an order of magnitude above the cost of the memory.

A program takes many rows at once. The gradients of weight and bias are summed by a fixed number of programs, then over
these, so that they are the same in every run.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

from basicsr.archs.kernels.launch import check_dtype, multiprocessors, on_device, power_of_two

TILE = 2048  # numbers that a program holds at a time: 16 a thread
PROGRAMS = 4  # for each multiprocessor, in the backward pass
MAX_CHANNELS = 4096


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float = 1e-5) -> Tensor:
    """Return `(x - mean) / sqrt(variance + eps) * weight + bias` over the last dimension, statistics in float32.

    Args:
        x: (..., C), float32, bfloat16 or float16, C at most 4096; best where C is at most 512.
        weight: (C,), of any of these precisions; so is `bias`.

    Returns:
        The shape and precision of `x`.

    Raises:
        TypeError: of another precision.
        ValueError: shapes that do not fit.
    """
    for name, tensor in (("x", x), ("weight", weight), ("bias", bias)):
        check_dtype(f"layer_norm: {name}", tensor)
    channels = x.shape[-1]
    if weight.shape != (channels,) or bias.shape != (channels,) or not 1 <= channels <= MAX_CHANNELS:
        raise ValueError(
            f"layer_norm: {channels} channels with weight {tuple(weight.shape)} and bias {tuple(bias.shape)}; "
            f"both must be (channels,), at most {MAX_CHANNELS}"
        )
    return _LayerNorm.apply(x, weight, bias, eps)


def _tile(channels: int) -> tuple[int, int]:
    """Return rows and padded columns of a tile."""
    width = power_of_two(channels)
    return max(1, TILE // width), width


class _LayerNorm(torch.autograd.Function):
    """The normalisation and its gradients."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
        """Shapes and arguments of `layer_norm`."""
        flat = x.reshape(-1, x.shape[-1]).contiguous()
        weight, bias = weight.contiguous(), bias.contiguous()
        rows, channels = flat.shape
        out = torch.empty_like(flat)
        stats = flat.new_empty(2, rows, dtype=torch.float32)  # means, inverse deviations
        height, width = _tile(channels)
        if rows > 0:
            with on_device(flat):
                _forward_kernel[(triton.cdiv(rows, height),)](
                    flat, weight, bias, out, stats, rows, channels, eps, HEIGHT=height, WIDTH=width
                )
        ctx.save_for_backward(flat, weight, stats)
        return out.view(x.shape)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of `x`, weight and bias; the bias's has the precision of the weight's."""
        flat, weight, stats = ctx.saved_tensors
        rows, channels = flat.shape
        grad_out = grads[0].reshape(rows, channels).contiguous()
        grad_x = torch.empty_like(flat)
        height, width = _tile(channels)
        programs = max(1, min(triton.cdiv(rows, height), PROGRAMS * multiprocessors(flat.device)))
        partial = flat.new_empty(2, programs, channels, dtype=torch.float32)
        with on_device(flat):
            _backward_kernel[(programs,)](
                flat, weight, stats, grad_out, grad_x, partial, rows, channels, programs, HEIGHT=height, WIDTH=width
            )
        grad_weight, grad_bias = partial.sum(dim=1).to(weight.dtype)
        return grad_x.view(grads[0].shape), grad_weight, grad_bias, None


@triton.jit(do_not_specialize=["rows"])
def _forward_kernel(
    x: tl.tensor,
    weight: tl.tensor,
    bias: tl.tensor,
    out: tl.tensor,
    stats: tl.tensor,
    rows: tl.tensor,
    CHANNELS: tl.constexpr,
    eps: tl.tensor,
    HEIGHT: tl.constexpr,
    WIDTH: tl.constexpr,
) -> None:
    """Normalise HEIGHT rows."""
    row = tl.program_id(0).to(tl.int64) * HEIGHT + tl.arange(0, HEIGHT)
    c = tl.arange(0, WIDTH)
    mask = (row < rows)[:, None] & (c < CHANNELS)[None, :]
    at = row[:, None] * CHANNELS + c[None, :]
    values = tl.load(x + at, mask=mask, other=0.0).to(tl.float32)
    mean = tl.sum(values, 1) / CHANNELS
    centred = tl.where(mask, values - mean[:, None], 0.0)
    inverse = 1 / tl.sqrt(tl.sum(centred * centred, 1) / CHANNELS + eps)
    w = tl.load(weight + c, mask=c < CHANNELS, other=0.0).to(tl.float32)
    b = tl.load(bias + c, mask=c < CHANNELS, other=0.0).to(tl.float32)
    y = centred * inverse[:, None] * w[None, :] + b[None, :]
    tl.store(out + at, y.to(out.dtype.element_ty), mask=mask)
    tl.store(stats + row, mean, mask=row < rows)
    tl.store(stats + rows + row, inverse, mask=row < rows)


@triton.jit(do_not_specialize=["rows", "programs"])
def _backward_kernel(
    x: tl.tensor,
    weight: tl.tensor,
    stats: tl.tensor,
    grad_out: tl.tensor,
    grad_x: tl.tensor,
    partial: tl.tensor,
    rows: tl.tensor,
    CHANNELS: tl.constexpr,
    programs: tl.tensor,
    HEIGHT: tl.constexpr,
    WIDTH: tl.constexpr,
) -> None:
    """Take every `programs`-th block of HEIGHT rows, and leave its sums for weight and bias in `partial`."""
    pid = tl.program_id(0)
    c = tl.arange(0, WIDTH)
    w = tl.load(weight + c, mask=c < CHANNELS, other=0.0).to(tl.float32)
    grad_weight = tl.zeros([WIDTH], tl.float32)
    grad_bias = tl.zeros([WIDTH], tl.float32)
    for block in range(pid, tl.cdiv(rows, HEIGHT), programs):
        row = tl.arange(0, HEIGHT).to(tl.int64) + block * HEIGHT
        mask = (row < rows)[:, None] & (c < CHANNELS)[None, :]
        at = row[:, None] * CHANNELS + c[None, :]
        mean = tl.load(stats + row, mask=row < rows, other=0.0)
        inverse = tl.load(stats + rows + row, mask=row < rows, other=0.0)
        values = tl.load(x + at, mask=mask, other=0.0).to(tl.float32)
        grad = tl.load(grad_out + at, mask=mask, other=0.0).to(tl.float32)
        normal = tl.where(mask, (values - mean[:, None]) * inverse[:, None], 0.0)
        slope = grad * w[None, :]
        along = tl.sum(slope * normal, 1) / CHANNELS
        result = (slope - tl.sum(slope, 1)[:, None] / CHANNELS - normal * along[:, None]) * inverse[:, None]
        tl.store(grad_x + at, result.to(grad_x.dtype.element_ty), mask=mask)
        grad_weight += tl.sum(grad * normal, 0)
        grad_bias += tl.sum(grad, 0)
    tl.store(partial + pid * CHANNELS + c, grad_weight, mask=c < CHANNELS)
    tl.store(partial + (programs + pid) * CHANNELS + c, grad_bias, mask=c < CHANNELS)
