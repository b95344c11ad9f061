"""Bicubic enlargement as a network, so that the baseline of every table is tested by the same code as the networks."""

from torch import Tensor, nn

from basicsr.config.ranges import Scale
from basicsr.config.registry import ARCH_REGISTRY
from basicsr.images.matlab_resize import imresize

TINY: dict[str, int] = {}


@ARCH_REGISTRY.register()
class Bicubic(nn.Module):
    """MATLAB's bicubic `imresize`. It has no parameters.

    Args:
        upscale: enlargement factor, at least 1.

    Shape:
        (B, C, H, W) -> (B, C, s*H, s*W)
    """

    min_side = 1
    multiple_of = 1

    def __init__(self, *, upscale: Scale = 4):
        super().__init__()
        if upscale < 1:
            raise ValueError(f"upscale: must be at least 1, got {upscale}")
        self.upscale = upscale

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, C, s*H, s*W) from (B, C, H, W)."""
        return imresize(x, self.upscale)
