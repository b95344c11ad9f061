"""Checks of sizes and initial values that the networks share."""

import torch
from torch import nn


def check_at_least(minimum: int, **sizes: int) -> None:
    """Check that all sizes are at least `minimum`.

    Raises:
        ValueError: naming the first that is smaller.
    """
    for name, value in sizes.items():
        if value < minimum:
            raise ValueError(f"{name}: must be at least {minimum}, got {value}")


def initialise(net: nn.Module) -> None:
    """Give linear layers the published initial values, and convolution kernels the memory format of the maps.

    Linear layers: truncated normal of std 0.02, zero bias. Convolutions and norms keep the framework's default.
    """
    for module in net.modules():
        if isinstance(module, nn.Linear):
            nn.init.trunc_normal_(module.weight, std=0.02)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Conv2d) and module.kernel_size != (1, 1):  # 1x1 kernels have but one layout
            module.to(memory_format=torch.channels_last)
