"""EDSR: enhanced deep residual networks for single image super-resolution.

Paper: Lim et al., EDSR, CVPRW 2017.
Code:  written from the paper; parameter names follow BasicSR's files, which load strictly.
"""

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from basicsr.archs.layers.residual import ResidualBlockNoBN, Upsample, make_layer
from basicsr.archs.layers.setup import check_at_least
from basicsr.config.ranges import Channels, Layers, PixelMean, Positive, Scale, Weight
from basicsr.config.registry import ARCH_REGISTRY

TINY = {"num_in_ch": 3, "num_out_ch": 3, "num_feat": 8, "num_block": 2}


@ARCH_REGISTRY.register()
class EDSR(nn.Module):
    """Residual blocks without batch norm and one long skip, then pixel shuffles.

    The defaults are the baseline, 1,517,571 parameters at x4; `num_feat: 256, num_block: 32, res_scale: 0.1` is the
    large network, 43,089,923.

    Args:
        num_in_ch: channels of the input.
        num_out_ch: channels of the output.
        num_feat: feature channels C.
        num_block: residual blocks.
        upscale: s, 3 or a power of 2.
        res_scale: factor on the branch of each residual block.
        img_range: factor on the input inside.
        rgb_mean: of each channel of the input and the output, subtracted at the beginning and added at the end.

    Shape:
        (B, num_in_ch, H, W) -> (B, num_out_ch, s*H, s*W), any H, W >= 1; around [0, 1], not clamped.

    Raises:
        ValueError: for another scale, or sizes that do not fit.
    """

    min_side = 1
    multiple_of = 1

    def __init__(
        self,
        num_in_ch: Channels,
        num_out_ch: Channels,
        num_feat: Channels = 64,
        num_block: Layers = 16,
        upscale: Scale = 4,
        res_scale: Weight = 1,
        img_range: Positive = 255.0,
        rgb_mean: Sequence[PixelMean] = (0.4488, 0.4371, 0.4040),
    ) -> None:
        super().__init__()
        check_at_least(1, num_in_ch=num_in_ch, num_out_ch=num_out_ch, num_feat=num_feat, num_block=num_block)
        if upscale != 3 and (upscale < 1 or upscale & (upscale - 1)):
            raise ValueError(f"upscale: must be 3 or a power of 2, got {upscale}")
        if img_range <= 0:
            raise ValueError(f"img_range: must be above 0, got {img_range}")
        if {num_in_ch, num_out_ch} - {len(rgb_mean)} and len(rgb_mean) != 1:
            raise ValueError(
                f"rgb_mean: has {len(rgb_mean)} values for {num_in_ch} channels of the input and {num_out_ch} of the "
                "output; give one for each, or one for all"
            )
        self.upscale = upscale
        self.img_range = img_range
        self.register_buffer("mean", torch.tensor(rgb_mean, dtype=torch.float32).view(1, -1, 1, 1), persistent=False)
        self.conv_first = nn.Conv2d(num_in_ch, num_feat, 3, padding=1)
        self.body = make_layer(ResidualBlockNoBN, num_block, num_feat=num_feat, res_scale=res_scale, pytorch_init=True)
        self.conv_after_body = nn.Conv2d(num_feat, num_feat, 3, padding=1)
        self.upsample = Upsample(upscale, num_feat)
        self.conv_last = nn.Conv2d(num_feat, num_out_ch, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, num_out_ch, s*H, s*W) from (B, num_in_ch, H, W)."""
        mean = cast(Tensor, self.mean).to(x.dtype)
        y = self.conv_first((x - mean) * self.img_range)
        y = self.conv_after_body(self.body(y)) + y
        return self.conv_last(self.upsample(y)) / self.img_range + mean
