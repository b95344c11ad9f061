"""MSRResNet: SRResNet without batch norm, on top of a bilinear enlargement.

Papers: Ledig et al., SRGAN, CVPR 2017; without batch norm and with the enlargement added: Wang et al., ESRGAN, ECCVW
        2018.
Code:   written from the papers; parameter names follow BasicSR's files, which load strictly.
"""

from torch import Tensor, nn
from torch.nn import functional as F

from basicsr.archs.layers.residual import ResidualBlockNoBN, default_init_weights, make_layer
from basicsr.archs.layers.setup import check_at_least
from basicsr.config.ranges import Channels, Layers, Scale
from basicsr.config.registry import ARCH_REGISTRY

TINY = {"num_feat": 8, "num_block": 2}


@ARCH_REGISTRY.register()
class MSRResNet(nn.Module):
    """Residual blocks, pixel shuffles, two convolutions; 1,517,571 parameters at x4.

    Args:
        num_in_ch: channels of the input.
        num_out_ch: channels of the output, as many as of the input, to which its enlargement is added.
        num_feat: feature channels C.
        num_block: residual blocks.
        upscale: s, 2, 3 or 4.

    Shape:
        (B, num_in_ch, H, W) -> (B, num_out_ch, s*H, s*W), any H, W >= 1; around [0, 1], not clamped.

    Raises:
        ValueError: for another scale, or sizes that do not fit.
    """

    min_side = 1
    multiple_of = 1

    def __init__(
        self,
        num_in_ch: Channels = 3,
        num_out_ch: Channels = 3,
        num_feat: Channels = 64,
        num_block: Layers = 16,
        upscale: Scale = 4,
    ) -> None:
        super().__init__()
        if upscale not in (2, 3, 4):
            raise ValueError(f"upscale: must be 2, 3 or 4, got {upscale}")
        check_at_least(1, num_in_ch=num_in_ch, num_feat=num_feat, num_block=num_block)
        if num_out_ch != num_in_ch:
            raise ValueError(f"num_out_ch: must be num_in_ch ({num_in_ch}), got {num_out_ch}")
        self.upscale = upscale
        step = 3 if upscale == 3 else 2
        self.conv_first = nn.Conv2d(num_in_ch, num_feat, 3, padding=1)
        self.body = make_layer(ResidualBlockNoBN, num_block, num_feat=num_feat)
        self.upconv1 = nn.Conv2d(num_feat, num_feat * step**2, 3, padding=1)
        if upscale == 4:
            self.upconv2 = nn.Conv2d(num_feat, num_feat * step**2, 3, padding=1)
        self.pixel_shuffle = nn.PixelShuffle(step)
        self.conv_hr = nn.Conv2d(num_feat, num_feat, 3, padding=1)
        self.conv_last = nn.Conv2d(num_feat, num_out_ch, 3, padding=1)
        self.lrelu = nn.LeakyReLU(0.1)
        default_init_weights([self.conv_first, self.upconv1, self.conv_hr, self.conv_last], 0.1)
        if upscale == 4:
            default_init_weights(self.upconv2, 0.1)

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, num_out_ch, s*H, s*W) from (B, num_in_ch, H, W)."""
        y = self.body(self.lrelu(self.conv_first(x)))
        y = self.lrelu(self.pixel_shuffle(self.upconv1(y)))
        if self.upscale == 4:
            y = self.lrelu(self.pixel_shuffle(self.upconv2(y)))
        y = self.conv_last(self.lrelu(self.conv_hr(y)))
        return y + F.interpolate(x, scale_factor=self.upscale, mode="bilinear", align_corners=False)
