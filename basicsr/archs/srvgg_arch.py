"""SRVGGNetCompact: a plain stack of convolutions, the small generator of Real-ESRGAN.

Source: Wang et al., Real-ESRGAN, ICCVW 2021, and its releases `realesr-general-x4v3` and `realesr-animevideov3`.
Code:   written from a description; parameter names follow the published files, which load strictly.
"""

from typing import Annotated, Literal, get_args

from torch import Tensor, nn
from torch.nn import functional as F

from basicsr.archs.layers.setup import check_at_least
from basicsr.config.ranges import Channels, Range, Scale
from basicsr.config.registry import ARCH_REGISTRY

TINY = {"num_feat": 8, "num_conv": 2}
Activation = Literal["relu", "prelu", "leakyrelu"]


@ARCH_REGISTRY.register()
class SRVGGNetCompact(nn.Module):
    """Convolutions at the size of the input, one pixel shuffle, plus the input enlarged to its nearest pixels.

    621,424 parameters at x4 with 16 convolutions, 1,213,296 with 32.

    Args:
        num_in_ch: channels of the input.
        num_out_ch: channels of the output, as many as of the input, which is added to it.
        num_feat: feature channels C.
        num_conv: convolutions between the first and the last.
        upscale: s, at least 1.
        act_type: activation after each but the last; prelu learns a slope for each channel.

    Shape:
        (B, num_in_ch, H, W) -> (B, num_out_ch, s*H, s*W), any H, W >= 1; around [0, 1], not clamped.

    Raises:
        ValueError: for an unknown activation, or sizes that do not fit.
    """

    min_side = 1
    multiple_of = 1

    def __init__(
        self,
        num_in_ch: Channels = 3,
        num_out_ch: Channels = 3,
        num_feat: Channels = 64,
        num_conv: Annotated[int, Range(0, 1000)] = 16,
        upscale: Scale = 4,
        act_type: Activation = "prelu",
    ) -> None:
        super().__init__()
        check_at_least(1, num_in_ch=num_in_ch, num_feat=num_feat, upscale=upscale)
        check_at_least(0, num_conv=num_conv)
        if num_out_ch != num_in_ch:
            raise ValueError(f"num_out_ch: must be num_in_ch ({num_in_ch}), got {num_out_ch}")
        if act_type not in get_args(Activation):
            raise ValueError(f"act_type: must be one of {', '.join(get_args(Activation))}, got {act_type!r}")
        self.upscale = upscale
        self.act_type = act_type
        self.body = nn.ModuleList([nn.Conv2d(num_in_ch, num_feat, 3, padding=1), self._activation(num_feat)])
        for _ in range(num_conv):
            self.body.extend([nn.Conv2d(num_feat, num_feat, 3, padding=1), self._activation(num_feat)])
        self.body.append(nn.Conv2d(num_feat, num_out_ch * upscale**2, 3, padding=1))
        self.upsampler = nn.PixelShuffle(upscale)

    def _activation(self, num_feat: int) -> nn.Module:
        if self.act_type == "prelu":
            return nn.PReLU(num_feat)
        return nn.ReLU() if self.act_type == "relu" else nn.LeakyReLU(0.1)

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, num_out_ch, s*H, s*W) from (B, num_in_ch, H, W)."""
        y = x
        for layer in self.body:
            y = layer(y)
        return self.upsampler(y) + F.interpolate(x, scale_factor=self.upscale, mode="nearest")
