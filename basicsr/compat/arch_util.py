"""Building blocks under the names that architectures written for BasicSR import."""

import collections.abc
from collections.abc import Callable
from itertools import repeat
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.init import trunc_normal_  # noqa: F401 - architectures import it from here

from basicsr.archs.layers.residual import (  # noqa: F401 - likewise
    ResidualBlockNoBN,
    Upsample,
    default_init_weights,
    make_layer,
)


def to_ntuple(n: int) -> Callable[[Any], Any]:
    """Return a function that repeats a single value `n` times as a tuple and returns an iterable unchanged."""

    def parse(x: Any) -> Any:
        return x if isinstance(x, collections.abc.Iterable) else tuple(repeat(x, n))

    return parse


to_1tuple = to_ntuple(1)
to_2tuple = to_ntuple(2)
to_3tuple = to_ntuple(3)
to_4tuple = to_ntuple(4)


def pixel_unshuffle(x: Tensor, scale: int) -> Tensor:
    """Return (B, C, scale * h, scale * w) as (B, C * scale^2, h, w): the inverse of a pixel shuffle."""
    return F.pixel_unshuffle(x, scale)


def flow_warp(
    x: Tensor,
    flow: Tensor,
    interp_mode: Literal["bilinear", "nearest", "bicubic"] = "bilinear",
    padding_mode: Literal["zeros", "border", "reflection"] = "zeros",
    align_corners: bool = True,
) -> Tensor:
    """Return `x` sampled at the position of each pixel plus `flow`.

    Args:
        x: (B, C, H, W).
        flow: (B, H, W, 2), in pixels: to the right, then down.
        interp_mode: interpolation between pixels.
        padding_mode: values outside the image.
        align_corners: as in `F.grid_sample`.

    Raises:
        ValueError: when sizes differ.
    """
    if x.shape[-2:] != flow.shape[1:3]:
        raise ValueError(f"flow_warp: image {tuple(x.shape)} and flow {tuple(flow.shape)} differ in size")
    height, width = x.shape[-2:]
    axes = (torch.arange(side, dtype=x.dtype, device=x.device) for side in (height, width))
    rows, columns = torch.meshgrid(*axes, indexing="ij")
    position = torch.stack((columns, rows), dim=2) + flow
    last = torch.tensor([max(width - 1, 1), max(height - 1, 1)], dtype=x.dtype, device=x.device)
    return F.grid_sample(
        x, 2 * position / last - 1, mode=interp_mode, padding_mode=padding_mode, align_corners=align_corners
    )


def resize_flow(
    flow: Tensor,
    size_type: Literal["ratio", "shape"],
    sizes: tuple[float, float],
    interp_mode: Literal["bilinear", "nearest"] = "bilinear",
    align_corners: bool = False,
) -> Tensor:
    """Return a flow (B, 2, H, W), in pixels, for another image size: resampled, and its values scaled.

    Args:
        flow: to the right, then down.
        size_type: unit of `sizes`.
        sizes: (height, width): factors for "ratio", pixels for "shape".
        interp_mode: interpolation between pixels.
        align_corners: as in `F.interpolate`.

    Raises:
        ValueError: for another `size_type`.
    """
    height, width = flow.shape[-2:]
    if size_type == "ratio":
        new = int(height * sizes[0]), int(width * sizes[1])
    elif size_type == "shape":
        new = int(sizes[0]), int(sizes[1])
    else:
        raise ValueError(f"Size type should be ratio or shape, but got type {size_type}.")
    factors = torch.tensor([new[1] / width, new[0] / height], dtype=flow.dtype, device=flow.device).view(1, 2, 1, 1)
    corners = align_corners if interp_mode == "bilinear" else None
    return F.interpolate(flow * factors, size=new, mode=interp_mode, align_corners=corners)
