"""Initial values, residual blocks and upsampling of the convolutional networks of BasicSR 1.4."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn


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
