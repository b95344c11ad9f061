"""Building blocks under the names that architectures written for BasicSR import."""

import collections.abc
from collections.abc import Callable, Iterable
from itertools import repeat
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.init import trunc_normal_  # noqa: F401 - architectures import it from here


def to_ntuple(n: int) -> Callable[[Any], Any]:
    """Return a function that repeats a single value `n` times as a tuple and returns an iterable unchanged."""

    def parse(x: Any) -> Any:
        return x if isinstance(x, collections.abc.Iterable) else tuple(repeat(x, n))

    return parse


to_1tuple = to_ntuple(1)
to_2tuple = to_ntuple(2)
to_3tuple = to_ntuple(3)
to_4tuple = to_ntuple(4)


@torch.no_grad()
def default_init_weights(
    module_list: nn.Module | Iterable[nn.Module], scale: float = 1, bias_fill: float = 0, **kwargs: Any
) -> None:
    """Initialise every convolution, linear layer and batch norm in the modules, in place.

    Args:
        module_list: one module or several, with the layers inside them.
        scale: factor on the Kaiming-normal weights of convolutions and linear layers, such as 0.1 in residual blocks.
        bias_fill: value of every bias; batch norms get weights of 1.
        kwargs: for `nn.init.kaiming_normal_`.
    """
    modules = [module_list] if isinstance(module_list, nn.Module) else module_list
    for layer in (layer for module in modules for layer in module.modules()):
        if isinstance(layer, (nn.Conv2d, nn.Linear)):
            nn.init.kaiming_normal_(layer.weight, **kwargs)
            layer.weight *= scale
        elif isinstance(layer, nn.modules.batchnorm._BatchNorm) and layer.weight is not None:
            nn.init.ones_(layer.weight)
        else:
            continue
        if layer.bias is not None:
            nn.init.constant_(layer.bias, bias_fill)


def make_layer(basic_block: Callable[..., nn.Module], num_basic_block: int, **kwarg: Any) -> nn.Sequential:
    """Return a sequence of `num_basic_block` blocks, each made by `basic_block(**kwarg)`."""
    return nn.Sequential(*(basic_block(**kwarg) for _ in range(num_basic_block)))


class ResidualBlockNoBN(nn.Module):
    """x + res_scale * conv(relu(conv(x))), 3x3, without normalisation.

    Args:
        num_feat: channels.
        res_scale: factor on the branch.
        pytorch_init: keep PyTorch's initial weights; False: 0.1 times Kaiming's.

    Shape:
        (B, num_feat, H, W), in and out.

    Source: Lim et al., EDSR, CVPRW 2017.
    """

    def __init__(self, num_feat: int = 64, res_scale: float = 1, pytorch_init: bool = False) -> None:
        super().__init__()
        self.res_scale = res_scale
        self.conv1 = nn.Conv2d(num_feat, num_feat, 3, 1, 1, bias=True)
        self.conv2 = nn.Conv2d(num_feat, num_feat, 3, 1, 1, bias=True)
        self.relu = nn.ReLU(inplace=True)
        if not pytorch_init:
            default_init_weights([self.conv1, self.conv2], 0.1)

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's output."""
        return x + self.res_scale * self.conv2(self.relu(self.conv1(x)))


class Upsample(nn.Sequential):
    """Upsampling by convolutions and pixel shuffles: one by 3, or several by 2.

    Args:
        scale: a power of two, or 3.
        num_feat: channels.

    Shape:
        (B, num_feat, H, W) to (B, num_feat, scale * H, scale * W).

    Raises:
        ValueError: for another scale.
    """

    def __init__(self, scale: int, num_feat: int) -> None:
        if scale == 3:
            factors = [3]
        elif scale > 0 and scale & (scale - 1) == 0:
            factors = [2] * (scale.bit_length() - 1)
        else:
            raise ValueError(f"scale {scale} is not supported. Supported scales: 2^n and 3.")
        layers: list[nn.Module] = []
        for factor in factors:
            layers += [nn.Conv2d(num_feat, factor**2 * num_feat, 3, 1, 1), nn.PixelShuffle(factor)]
        super().__init__(*layers)


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
