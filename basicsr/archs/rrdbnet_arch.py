"""RRDBNet: residual-in-residual dense blocks, the generator of ESRGAN and Real-ESRGAN.

Papers: Wang et al., ESRGAN, ECCVW 2018; scales below 4 by pixel-unshuffle: Wang et al., Real-ESRGAN, ICCVW 2021.
Code:   written from the papers; parameter names follow the published files, which load strictly.
Differs from them: inputs of x2 and x1 may have any size, the border being mirrored to a multiple of 2 or 4.
"""

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from basicsr.archs.layers.residual import default_init_weights, make_layer
from basicsr.archs.layers.setup import check_at_least
from basicsr.archs.layers.tokens import mirrored_to_multiple, pixel_unshuffle
from basicsr.config.ranges import Channels, Layers, Scale
from basicsr.config.registry import ARCH_REGISTRY

SCALES = (2, 4)
TINY = {"num_in_ch": 3, "num_out_ch": 3, "num_feat": 8, "num_block": 2, "num_grow_ch": 4}
BODY_SCALE = 4  # of the layers behind the body
BRANCH_FACTOR = 0.2  # on every residual branch


class ResidualDenseBlock(nn.Module):
    """Five convolutions, each of which sees the outputs of all before it; x + 0.2 * the last one.

    Args:
        num_feat: channels C of the input and the output.
        num_grow_ch: channels that each of the first four adds.

    Shape:
        (B, C, H, W), in and out.

    Source: ESRGAN, section 3.1.
    """

    def __init__(self, num_feat: int = 64, num_grow_ch: int = 32) -> None:
        super().__init__()
        for i in range(5):
            out = num_grow_ch if i < 4 else num_feat
            self.add_module(f"conv{i + 1}", nn.Conv2d(num_feat + i * num_grow_ch, out, 3, padding=1))
        self.lrelu = nn.LeakyReLU(0.2)
        default_init_weights(self, 0.1)

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's output."""
        seen = x
        for i in range(1, 5):
            seen = torch.cat((seen, self.lrelu(getattr(self, f"conv{i}")(seen))), dim=1)
        return x + BRANCH_FACTOR * cast(nn.Module, self.conv5)(seen)


class RRDB(nn.Module):
    """Three dense blocks; x + 0.2 * their output. Arguments and shape: see `ResidualDenseBlock`."""

    def __init__(self, num_feat: int, num_grow_ch: int = 32) -> None:
        super().__init__()
        self.rdb1 = ResidualDenseBlock(num_feat, num_grow_ch)
        self.rdb2 = ResidualDenseBlock(num_feat, num_grow_ch)
        self.rdb3 = ResidualDenseBlock(num_feat, num_grow_ch)

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's output."""
        return x + BRANCH_FACTOR * self.rdb3(self.rdb2(self.rdb1(x)))


@ARCH_REGISTRY.register()
class RRDBNet(nn.Module):
    """Residual-in-residual dense blocks, then two enlargements by 2; 16,697,987 parameters at x4.

    At `scale` 2 and 1 the input is first rearranged to 1/2 and 1/4 of its size, with 4 and 16 times the channels.

    Args:
        num_in_ch: channels of the input.
        num_out_ch: channels of the output.
        scale: s, 1, 2 or 4.
        num_feat: feature channels C.
        num_block: blocks.
        num_grow_ch: channels that each convolution of a dense block adds.

    Shape:
        (B, num_in_ch, H, W) -> (B, num_out_ch, s*H, s*W), any H, W >= 1; around [0, 1], not clamped.

    Raises:
        ValueError: for another scale, or a size below 1.
    """

    min_side = 1
    multiple_of = 1

    def __init__(
        self,
        num_in_ch: Channels,
        num_out_ch: Channels,
        scale: Scale = 4,
        num_feat: Channels = 64,
        num_block: Layers = 23,
        num_grow_ch: Channels = 32,
    ) -> None:
        super().__init__()
        if scale not in (1, 2, 4):
            raise ValueError(f"scale: must be 1, 2 or 4, got {scale}")
        check_at_least(1, num_in_ch=num_in_ch, num_out_ch=num_out_ch, num_feat=num_feat, num_block=num_block)
        check_at_least(1, num_grow_ch=num_grow_ch)
        self.scale = self.upscale = scale
        self.padding_unit = BODY_SCALE // scale
        self.conv_first = nn.Conv2d(num_in_ch * self.padding_unit**2, num_feat, 3, padding=1)
        self.body = make_layer(RRDB, num_block, num_feat=num_feat, num_grow_ch=num_grow_ch)
        self.conv_body = nn.Conv2d(num_feat, num_feat, 3, padding=1)
        self.conv_up1 = nn.Conv2d(num_feat, num_feat, 3, padding=1)
        self.conv_up2 = nn.Conv2d(num_feat, num_feat, 3, padding=1)
        self.conv_hr = nn.Conv2d(num_feat, num_feat, 3, padding=1)
        self.conv_last = nn.Conv2d(num_feat, num_out_ch, 3, padding=1)
        self.lrelu = nn.LeakyReLU(0.2)

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, num_out_ch, s*H, s*W) from (B, num_in_ch, H, W)."""
        height, width = x.shape[2:]
        y = x
        if self.padding_unit > 1:
            y = pixel_unshuffle(mirrored_to_multiple(x, self.padding_unit), self.padding_unit)
        y = self.conv_first(y)
        y = y + self.conv_body(self.body(y))
        for conv in (self.conv_up1, self.conv_up2):
            y = self.lrelu(conv(F.interpolate(y, scale_factor=2, mode="nearest")))
        y = self.conv_last(self.lrelu(self.conv_hr(y)))
        return y[:, :, : height * self.scale, : width * self.scale]
