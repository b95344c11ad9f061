"""MATLAB's `imresize(..., 'bicubic')`, the resampling that defines the low-resolution images of the field."""

import math
from functools import lru_cache
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

Image = TypeVar("Image", np.ndarray, Tensor)

SUPPORT = 4  # width of the cubic kernel, in samples of the coarser of the two grids


def imresize(img: Image, scale: float, antialiasing: bool = True) -> Image:
    """Return `img` resampled to ceil(scale * side) pixels a side, as by MATLAB.

    Integer arrays are rounded half up and clipped after the rows and again after the columns, as in MATLAB. Floats are
    neither rounded nor clipped. Tensors keep their device and their gradient.

    Args:
        img: array (H, W) or (H, W, C) of integers or floats, or float tensor (..., H, W).
        scale: output / input ratio, > 0; 1/4 makes a low-resolution image for upscale 4.
        antialiasing: widen the kernel when shrinking (MATLAB's default).

    Raises:
        ValueError: for a scale that is not positive, or an image of another shape.
        TypeError: for an integer tensor.
    """
    if not scale > 0:
        raise ValueError(f"imresize: scale must be positive, got {scale}")
    if isinstance(img, Tensor):
        return _resize_tensor(img, scale, antialiasing)
    if img.ndim not in (2, 3):
        raise ValueError(f"imresize: expected an array (H, W) or (H, W, C), got shape {img.shape}")
    rows_done = _resize_first_axis(img, scale, antialiasing)
    columns_done = _resize_first_axis(rows_done.swapaxes(0, 1), scale, antialiasing)
    return np.ascontiguousarray(columns_done.swapaxes(0, 1))


def _resize_first_axis(img: np.ndarray, scale: float, antialiasing: bool) -> np.ndarray:
    weights, taps = _contributions(img.shape[0], scale, antialiasing)
    flat = np.ascontiguousarray(img).reshape(img.shape[0], -1)
    total = np.zeros((len(taps), flat.shape[1]))
    for weight, tap in zip(weights.T, taps.T, strict=True):  # a dozen taps; each step handles a whole image
        total += weight[:, None] * flat[tap]
    if np.issubdtype(img.dtype, np.integer):
        limits = np.iinfo(img.dtype)
        # An exact half must round up everywhere; float noise would push some halves down.
        total = np.floor(total + (0.5 + 1e-6)).clip(limits.min, limits.max)
    return total.astype(img.dtype).reshape(-1, *img.shape[1:])


def _resize_tensor(img: Tensor, scale: float, antialiasing: bool) -> Tensor:
    if not img.is_floating_point():
        raise TypeError(f"imresize: expected a float tensor, got {img.dtype}; integers go through NumPy")
    if img.ndim < 2:
        raise ValueError(f"imresize: expected a tensor (..., H, W), got shape {tuple(img.shape)}")
    rows, columns = (torch.from_numpy(_matrix(side, scale, antialiasing)).to(img) for side in img.shape[-2:])
    return rows @ img @ columns.T


def _matrix(side: int, scale: float, antialiasing: bool) -> np.ndarray:
    """Return the resampling of one axis as a matrix (output side, side)."""
    weights, taps = _contributions(side, scale, antialiasing)
    matrix = np.zeros((len(taps), side))
    np.add.at(matrix, (np.arange(len(taps))[:, None], taps), weights)  # mirrored taps may meet in one pixel
    return matrix


@lru_cache(maxsize=64)
def _contributions(side: int, scale: float, antialiasing: bool) -> tuple[np.ndarray, np.ndarray]:
    """Return weights and source positions, each (output side, taps), of every output pixel along one axis."""
    stretch = max(1.0, 1.0 / scale) if antialiasing else 1.0
    count = math.ceil(side * scale - 1e-9)  # 1e-9: 49 * (1/49) must not become 2
    centre = (np.arange(count) + 0.5) / scale - 0.5  # pixel centres of the output on the input's axis
    first = np.floor(centre - SUPPORT * stretch / 2).astype(np.int64)
    taps = first[:, None] + np.arange(math.ceil(SUPPORT * stretch) + 2)
    weights = _cubic((centre[:, None] - taps) / stretch)
    weights /= weights.sum(axis=1, keepdims=True)
    taps = taps % (2 * side)  # edges are mirrored, the edge pixel itself included
    taps = np.minimum(taps, 2 * side - 1 - taps)
    used = np.abs(weights).max(axis=0) > 0
    return weights[:, used], taps[:, used]


def _cubic(x: np.ndarray) -> np.ndarray:
    """Return the cubic convolution kernel, a = -0.5, at `x`.

    Source: Keys, "Cubic convolution interpolation for digital image processing", 1981, eq. 15.
    """
    x = np.abs(x)
    near = 1.5 * x**3 - 2.5 * x**2 + 1
    far = -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2
    return np.where(x <= 1, near, np.where(x < 2, far, 0.0))
