"""Nearest centres of tokens and one step of k-means, without the matrix of similarities in memory.

Similarities always have float32 results, whatever `torch.get_float32_matmul_precision()` says, because rounding would
move tokens to another centre. Sums come from a fixed number of programs: they are the same in every run.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

from basicsr.archs.kernels.launch import check_dtype, dot_precision, multiprocessors, on_device, padded_width
from basicsr.archs.kernels.window_kernels import dot

ROWS = 64  # of a block: one Hopper warpgroup product
CENTRES = 32  # of a tile: more would leave too few registers
COLUMNS = 64  # of a tile
PROGRAMS = 2  # for each multiprocessor, in the sums
LEADING_BITS = tl.constexpr(-(1 << 13))  # of a float32: those that TF32 keeps


def nearest_centre(z: Tensor, unit_centres: Tensor) -> Tensor:
    """Return the index of the centre with the largest dot product, the lowest one on a tie.

    Args:
        z: (M, C), float32, bfloat16 or float16; no gradient flows.
        unit_centres: (T, C), float32.

    Returns:
        (M,) int32, in [0, T); 0 for rows that hold a NaN.
    """
    _check("nearest_centre", z, unit_centres)
    return _nearest(z.detach(), unit_centres.detach())


def kmeans_sums(z: Tensor, unit_centres: Tensor) -> Tensor:
    """Return sums and counts of the rows that each centre is the nearest to.

    Args:
        z: (M, C), float32, bfloat16 or float16.
        unit_centres: (T, C), float32; no gradient flows to them.

    Returns:
        (T, C + 1) float32: the sums, differentiable in `z`, and in the last column the counts.
    """
    _check("kmeans_sums", z, unit_centres)
    return _Sums.apply(z, unit_centres)


def _check(name: str, z: Tensor, centres: Tensor) -> None:
    check_dtype(name, z)
    if centres.dtype != torch.float32:
        raise TypeError(f"{name}: the centres are {centres.dtype}, not float32")
    if z.ndim != 2 or centres.ndim != 2 or z.shape[1] != centres.shape[1] or len(centres) == 0:
        raise ValueError(f"{name}: rows {tuple(z.shape)} and centres {tuple(centres.shape)} do not fit")


def _precision(on_card: str) -> str:
    return "ieee" if dot_precision() == "ieee" else on_card


def _nearest(z: Tensor, centres: Tensor) -> Tensor:
    z, centres = z.contiguous(), centres.contiguous()
    chosen = z.new_empty(len(z), dtype=torch.int32)
    if len(z) > 0:
        with on_device(z):
            _nearest_kernel[(triton.cdiv(len(z), ROWS),)](
                z,
                centres,
                chosen,
                len(z),
                z.shape[1],
                len(centres),
                ROWS,
                min(CENTRES, padded_width(len(centres))),
                min(COLUMNS, padded_width(z.shape[1])),
                _precision("tf32x3"),
                num_stages=1,
            )
    return chosen


class _Sums(torch.autograd.Function):
    """The sums; each row has the gradient of the sum that it is part of."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, centres: Tensor) -> Tensor:
        """Shapes of `kmeans_sums`."""
        z = z.contiguous()
        (rows, columns), number = z.shape, len(centres)
        chosen = _nearest(z, centres)
        height, width = min(CENTRES, padded_width(number)), min(COLUMNS, padded_width(columns + 1))
        tiles = triton.cdiv(number, height) * triton.cdiv(columns + 1, width)
        chunks = max(1, min(triton.cdiv(rows, ROWS), triton.cdiv(PROGRAMS * multiprocessors(z.device), tiles)))
        partial = centres.new_empty(chunks, number, columns + 1)
        with on_device(z):
            _sums_kernel[(chunks * tiles,)](
                z, chosen, partial, rows, columns, number, chunks, ROWS, height, width, _precision("tf32"), num_stages=1
            )
        ctx.save_for_backward(chosen)
        ctx.dtype = z.dtype
        return partial.sum(dim=0)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        """Gradient of `z`."""
        (chosen,) = ctx.saved_tensors
        return grads[0][:, :-1].to(ctx.dtype).index_select(0, chosen), None


@triton.jit(do_not_specialize=["rows", "number"])
def _nearest_kernel(
    z: tl.tensor,
    centres: tl.tensor,
    chosen: tl.tensor,
    rows: tl.tensor,
    COLUMNS: tl.constexpr,
    number: tl.tensor,
    BLOCK_R: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_C: tl.constexpr,
    PRECISION: tl.constexpr,
) -> None:
    """Choose for BLOCK_R rows among BLOCK_T centres at a time."""
    row = tl.program_id(0).to(tl.int64) * BLOCK_R + tl.arange(0, BLOCK_R)
    largest = tl.full([BLOCK_R], float("-inf"), tl.float32)
    best = tl.zeros([BLOCK_R], tl.int32)
    for first in range(0, number, BLOCK_T):
        t = first + tl.arange(0, BLOCK_T)
        similarity = tl.zeros([BLOCK_R, BLOCK_T], tl.float32)
        for column in range(0, COLUMNS, BLOCK_C):
            c = column + tl.arange(0, BLOCK_C)
            mask = (row < rows)[:, None] & (c < COLUMNS)[None, :]
            x = tl.load(z + row[:, None] * COLUMNS + c[None, :], mask=mask, other=0.0).to(tl.float32)
            mask = (t < number)[:, None] & (c < COLUMNS)[None, :]
            y = tl.load(centres + t[:, None] * COLUMNS + c[None, :], mask=mask, other=0.0)
            similarity += dot(x, tl.trans(y), PRECISION)
        similarity = tl.where((t < number)[None, :], similarity, float("-inf"))
        here = tl.max(similarity, 1)
        at = tl.min(tl.where(similarity == here[:, None], t[None, :], number), 1)  # of equals the first
        best = tl.where(here > largest, at, best)
        largest = tl.maximum(here, largest)
    tl.store(chosen + row, best, mask=row < rows)


@triton.jit(do_not_specialize=["rows", "number", "chunks"])
def _sums_kernel(
    z: tl.tensor,
    chosen: tl.tensor,
    partial: tl.tensor,
    rows: tl.tensor,
    COLUMNS: tl.constexpr,
    number: tl.tensor,
    chunks: tl.tensor,
    BLOCK_R: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_C: tl.constexpr,
    PRECISION: tl.constexpr,
) -> None:
    """Sum a tile of centres and columns over every `chunks`-th block of rows; column `COLUMNS` is one in every row."""
    chunk = tl.program_id(0) % chunks
    centre_tiles = tl.cdiv(number, BLOCK_T)
    t = tl.program_id(0) // chunks % centre_tiles * BLOCK_T + tl.arange(0, BLOCK_T)
    c = tl.program_id(0) // chunks // centre_tiles * BLOCK_C + tl.arange(0, BLOCK_C)
    total = tl.zeros([BLOCK_T, BLOCK_C], tl.float32)
    for block in range(chunk, tl.cdiv(rows, BLOCK_R), chunks):
        row = tl.arange(0, BLOCK_R).to(tl.int64) + block * BLOCK_R
        of_row = tl.load(chosen + row, mask=row < rows, other=-1)
        mask = (row < rows)[:, None] & (c < COLUMNS)[None, :]
        x = tl.load(z + row[:, None] * COLUMNS + c[None, :], mask=mask, other=0.0).to(tl.float32)
        x = tl.where((c == COLUMNS)[None, :], 1.0, x)
        member = tl.where(of_row[:, None] == t[None, :], 1.0, 0.0)
        # TF32 holds zeros and ones exactly, so two products suffice: of the leading bits, and of the rest.
        leading = (x.to(tl.int32, bitcast=True) & LEADING_BITS).to(tl.float32, bitcast=True)
        total += dot(tl.trans(member), leading, PRECISION) + dot(tl.trans(member), x - leading, PRECISION)
    at = partial + (chunk.to(tl.int64) * number + t)[:, None] * (COLUMNS + 1) + c[None, :]
    tl.store(at, total, mask=(t < number)[:, None] & (c <= COLUMNS)[None, :])
