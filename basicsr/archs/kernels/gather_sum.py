"""Sums of gathered rows without atomics: the deterministic gradient of `window_attention`.

Every output row reads what it needs, in the order of its taps, so results are the same in every run.
"""

import triton
import triton.language as tl
from torch import Tensor

from basicsr.archs.kernels.launch import on_device, power_of_two

TILE = 2048  # numbers that a program holds: 16 a thread, so that enough loads are in flight
MAX_COLUMNS = 128  # of a tile


def gather_sum(out: Tensor, x: Tensor, index: Tensor, rows: Tensor) -> None:
    """Write `out[rows[b, n]] = sum over t of x[b, index[n, t]]`, summed in float32.

    Args:
        out: (rows, C), contiguous along C.
        x: (B, M, C).
        index: (N, taps) int32, below M; negative where there is none.
        rows: (B, N) int32, the row of `out` for each sum.
    """
    batch, length, columns = x.shape
    number, taps = index.shape
    if batch * number * columns == 0:
        return
    width = min(MAX_COLUMNS, power_of_two(columns))
    height = TILE // width
    grid = (batch * triton.cdiv(number, height), triton.cdiv(columns, width))
    with on_device(x):
        _gather_kernel[grid](
            out,
            x.contiguous(),
            index.contiguous(),
            rows.contiguous(),
            out.stride(0),
            number,
            length,
            columns,
            taps,
            height,
            width,
        )


@triton.jit(do_not_specialize=["number", "length"])
def _gather_kernel(
    out: tl.tensor,
    x: tl.tensor,
    index: tl.tensor,
    rows: tl.tensor,
    STRIDE: tl.constexpr,
    number: tl.tensor,
    length: tl.tensor,
    COLUMNS: tl.constexpr,
    TAPS: tl.constexpr,
    HEIGHT: tl.constexpr,
    WIDTH: tl.constexpr,
) -> None:
    """Sum HEIGHT output rows of an image, WIDTH columns of them."""
    blocks = tl.cdiv(number, HEIGHT)
    image = (tl.program_id(0) // blocks).to(tl.int64)
    n = tl.program_id(0) % blocks * HEIGHT + tl.arange(0, HEIGHT)
    c = tl.program_id(1) * WIDTH + tl.arange(0, WIDTH)
    real = n < number
    total = tl.zeros([HEIGHT, WIDTH], tl.float32)
    for tap in range(TAPS):
        at = tl.load(index + n.to(tl.int64) * TAPS + tap, mask=real, other=-1)
        mask = (at >= 0)[:, None] & (c < COLUMNS)[None, :]
        values = tl.load(x + (image * length + at)[:, None] * COLUMNS + c[None, :], mask=mask, other=0.0)
        total += values.to(tl.float32)
    target = tl.load(rows + image * number + n, mask=real, other=0).to(tl.int64)
    mask = real[:, None] & (c < COLUMNS)[None, :]
    tl.store(out + target[:, None] * STRIDE + c[None, :], total.to(out.dtype.element_ty), mask=mask)
