"""What all Triton kernels share on the host: precision, block sizes, and the device that a launch goes to."""

import functools
import os
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

from basicsr.archs.kernels import MAX_HEAD_WIDTH

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
MULTIPROCESSORS = 132  # of an H100; assumed where there is no GPU, in the interpreter


def dot_precision() -> str:
    """Return how `tl.dot` multiplies float32: three TF32 products that give float32 results, or one where allowed.

    In Triton's interpreter, which tests use, "ieee".
    """
    if os.environ.get("TRITON_INTERPRET") == "1":
        return "ieee"
    return "tf32x3" if torch.get_float32_matmul_precision() == "highest" else "tf32"


def on_device(x: Tensor) -> AbstractContextManager[Any]:
    """Return a context in which launches go to the device of `x`, whichever the current one is."""
    return torch.cuda.device(x.device) if x.is_cuda else nullcontext()


def check_dtype(name: str, x: Tensor) -> None:
    """Raise a TypeError unless the kernels know the precision of `x`."""
    if x.dtype not in DTYPES:
        raise TypeError(f"{name}: {x.dtype} is not supported; use float32, bfloat16 or float16")


def check_widths(name: str, *widths: int) -> None:
    """Raise a ValueError for heads that are too wide."""
    if not 1 <= min(widths) <= max(widths) <= MAX_HEAD_WIDTH:
        raise ValueError(f"{name}: heads of {widths} columns; the kernels take 1 to {MAX_HEAD_WIDTH}")


def padded_width(width: int) -> int:
    """Return the power of two >= 16 that holds `width` columns, as `tl.dot` wants them."""
    return max(16, power_of_two(width))


def power_of_two(number: int) -> int:
    """Return the smallest power of two >= `number`, for `number` >= 1."""
    return 1 << (number - 1).bit_length()


def multiprocessors(device: torch.device) -> int:
    """Return how many multiprocessors a device has, without waiting for it."""
    return _multiprocessors(device.index) if device.type == "cuda" else MULTIPROCESSORS


@functools.cache
def _multiprocessors(index: int | None) -> int:
    return torch.cuda.get_device_properties(index).multi_processor_count
