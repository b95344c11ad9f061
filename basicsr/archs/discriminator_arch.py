"""Discriminators of ESRGAN and Real-ESRGAN, which tell enlarged pictures from photographs.

Papers: Wang et al., ESRGAN, ECCVW 2018; Wang et al., Real-ESRGAN, ICCVW 2021; spectral norm: Miyato et al., ICLR 2018.
Code:   written from the papers; parameter names follow the published files, which load strictly.
"""

import warnings

from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import spectral_norm

from basicsr.archs.layers.setup import check_at_least
from basicsr.config.ranges import Channels, Pixels
from basicsr.config.registry import ARCH_REGISTRY

STAGE_WIDTHS = (1, 2, 4, 8, 8)  # channels of the stages over `num_feat`; each halves the size
LAST_SIDE = 4  # px
HIDDEN = 100  # units before the score


@ARCH_REGISTRY.register()
class VGGStyleDiscriminator(nn.Module):
    """Pairs of convolutions that halve the size down to 4x4, then two linear layers: one score for an image.

    Args:
        num_in_ch: channels of the image.
        num_feat: channels of the first stage; the last has 8 times as many.
        input_size: side of the images in pixels, 128 or 256.

    Shape:
        (B, num_in_ch, input_size, input_size) -> (B, 1), not limited to [0, 1].

    Raises:
        ValueError: for another `input_size`, or an image of another size.
    """

    def __init__(self, num_in_ch: Channels, num_feat: Channels, input_size: Pixels = 128) -> None:
        super().__init__()
        if input_size not in (128, 256):
            raise ValueError(f"input_size: must be 128 or 256, got {input_size}")
        check_at_least(1, num_in_ch=num_in_ch, num_feat=num_feat)
        self.input_size = input_size
        widths = STAGE_WIDTHS if input_size == 128 else (*STAGE_WIDTHS, STAGE_WIDTHS[-1])
        self.stages = len(widths)
        channels = num_in_ch
        for stage, width in enumerate(width * num_feat for width in widths):
            self.add_module(f"conv{stage}_0", nn.Conv2d(channels, width, 3, padding=1, bias=stage == 0))
            if stage > 0:
                self.add_module(f"bn{stage}_0", nn.BatchNorm2d(width))
            self.add_module(f"conv{stage}_1", nn.Conv2d(width, width, 4, stride=2, padding=1, bias=False))
            self.add_module(f"bn{stage}_1", nn.BatchNorm2d(width))
            channels = width
        self.linear1 = nn.Linear(channels * LAST_SIDE**2, HIDDEN)
        self.linear2 = nn.Linear(HIDDEN, 1)
        self.lrelu = nn.LeakyReLU(0.2)

    def forward(self, x: Tensor) -> Tensor:
        """Return the score of each image, (B, 1)."""
        if x.shape[2:] != (self.input_size, self.input_size):
            raise ValueError(
                f"VGGStyleDiscriminator: needs images of {self.input_size}x{self.input_size} px (input_size), got "
                f"{x.shape[2]}x{x.shape[3]}; set gt_size to it"
            )
        for stage in range(self.stages):
            for place in (f"{stage}_0", f"{stage}_1"):
                x = getattr(self, f"conv{place}")(x)
                x = self.lrelu(getattr(self, f"bn{place}", nn.Identity())(x))
        return self.linear2(self.lrelu(self.linear1(x.flatten(1))))


@ARCH_REGISTRY.register()
class UNetDiscriminatorSN(nn.Module):
    """A U-Net with spectral norm: one score for every pixel; 4,376,897 parameters with 64 channels.

    Args:
        num_in_ch: channels of the image.
        num_feat: channels at full size; at an eighth of it there are 8 times as many.
        skip_connection: add the maps of the way down to those of the same size on the way up.

    Shape:
        (B, num_in_ch, H, W) -> (B, 1, H, W), H, W >= 8, not limited to [0, 1]. Published networks saw multiples of 8.
    """

    def __init__(self, num_in_ch: Channels, num_feat: Channels = 64, skip_connection: bool = True) -> None:
        super().__init__()
        check_at_least(1, num_in_ch=num_in_ch, num_feat=num_feat)
        self.skip_connection = skip_connection
        nf = num_feat
        self.conv0 = nn.Conv2d(num_in_ch, nf, 3, padding=1)
        self.conv1, self.conv2, self.conv3 = (_normed(nf << i, nf << (i + 1), 4, stride=2) for i in range(3))
        self.conv4, self.conv5, self.conv6 = (_normed(nf << i, nf << (i - 1), 3) for i in (3, 2, 1))
        self.conv7, self.conv8 = _normed(nf, nf, 3), _normed(nf, nf, 3)
        self.conv9 = nn.Conv2d(nf, 1, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Return the score of each pixel, (B, 1, H, W)."""
        maps = [F.leaky_relu(self.conv0(x), 0.2)]
        for conv in (self.conv1, self.conv2, self.conv3):
            maps.append(F.leaky_relu(conv(maps[-1]), 0.2))
        y = maps.pop()
        for conv in (self.conv4, self.conv5, self.conv6):
            skip = maps.pop()
            y = F.interpolate(y, size=skip.shape[2:], mode="bilinear", align_corners=False)
            y = F.leaky_relu(conv(y), 0.2)
            y = y + skip if self.skip_connection else y
        for conv in (self.conv7, self.conv8):
            y = F.leaky_relu(conv(y), 0.2)
        return self.conv9(y)


def _normed(channels: int, out: int, kernel_size: int, stride: int = 1) -> nn.Module:
    """Return a convolution without bias under spectral norm.

    The older form of the norm, because its names (`weight_orig`, `weight_u`) are those of the published files.
    """
    conv = nn.Conv2d(channels, out, kernel_size, stride=stride, padding=1, bias=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        return spectral_norm(conv)
