"""Planes of YUV into RGB and back, in floats, on the device of the network.

FFmpeg's scaler would convert on the CPU, in integers, and tags alone would say by which matrix. Here the matrix, the
range and the depth are arguments, and both directions are one another's inverse up to rounding.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

RGB, BT709, UNSPECIFIED, FCC, BT470BG, SMPTE170M, SMPTE240M, BT2020 = 0, 1, 2, 4, 5, 6, 7, 9  # ITU-T H.273, table 4
LUMA_WEIGHTS = {  # of red and of blue in luma
    BT709: (0.2126, 0.0722),
    FCC: (0.30, 0.11),
    BT470BG: (0.299, 0.114),
    SMPTE170M: (0.299, 0.114),
    SMPTE240M: (0.212, 0.087),
    BT2020: (0.2627, 0.0593),
}
CHROMAS = {"420": (2, 2), "422": (2, 1), "444": (1, 1)}  # luma samples a chroma sample, across and down
GRAY_WEIGHTS = (0.299, 0.587, 0.114)  # as OpenCV makes gray of RGB


@dataclass(frozen=True)
class Samples:
    """What the numbers in the planes of a picture mean.

    Args:
        chroma: 420, 422 or 444: Y, U, V; "gray": Y; "rgb": G, B, R, as in FFmpeg's gbrp.
        bits: of a sample; up to 8 in uint8, more in uint16.
        matrix: a key of `LUMA_WEIGHTS`; of no meaning for gray and RGB.
        is_full: always so for RGB: values from 0 to the largest; otherwise 16 to 235 (chroma 240) of 255, and so on.
        is_centered: chroma lies in the middle of its luma samples, as in JPEG; otherwise at the left ones, as in MPEG.
    """

    chroma: str
    bits: int
    matrix: int = BT709
    is_full: bool = False
    is_centered: bool = False

    @property
    def format(self) -> str:
        """Return FFmpeg's name of planes like these."""
        name = {"gray": "gray", "rgb": "gbrp"}.get(self.chroma, f"yuv{self.chroma}p")
        return name if self.bits == 8 else f"{name}{self.bits}le"

    @property
    def luma_range(self) -> tuple[float, float]:
        """Return the values of black and of white."""
        step = 2 ** (self.bits - 8)
        return (0.0, 2.0**self.bits - 1) if self.is_full else (16.0 * step, 235.0 * step)

    @property
    def chroma_range(self) -> tuple[float, float]:
        """Return the value of no colour, and the width of the range."""
        step = 2 ** (self.bits - 8)
        return 128.0 * step, 2.0**self.bits - 1 if self.is_full else 224.0 * step


def to_rgb(planes: Sequence[Tensor], samples: Samples) -> Tensor:
    """Return RGB in [0, 1], (B, 3, H, W) float32, of planes (B, h, w) of numbers; values out of range are clamped."""
    black, white = samples.luma_range
    first = (planes[0].float() - black) / (white - black)
    if samples.chroma == "gray":
        return first.clamp_(0, 1)[:, None].expand(-1, 3, -1, -1)
    if samples.chroma == "rgb":
        green, blue, red = (plane.float() / (2**samples.bits - 1) for plane in planes)
        return torch.stack([red, green, blue], 1)
    zero, width = samples.chroma_range
    size = (first.shape[1], first.shape[2])
    cb, cr = (_upsampled((plane.float() - zero) / width, size, samples) for plane in planes[1:])
    of_red, of_blue = LUMA_WEIGHTS[samples.matrix]
    red = first + 2 * (1 - of_red) * cr
    blue = first + 2 * (1 - of_blue) * cb
    green = (first - of_red * red - of_blue * blue) / (1 - of_red - of_blue)
    return torch.stack([red, green, blue], 1).clamp_(0, 1)


def from_rgb(rgb: Tensor, samples: Samples) -> list[Tensor]:
    """Return planes (B, h, w), uint8 or, over 8 bits, int16 with the bits of uint16, rounded, of RGB (B, 3, H, W).

    Odd sides leave a last chroma sample of one luma sample. Values are clamped to [0, 1] first.
    """
    rgb = rgb.clamp(0, 1)
    red, green, blue = rgb.unbind(1)
    black, white = samples.luma_range
    if samples.chroma == "rgb":
        return [_rounded(plane * (2**samples.bits - 1), samples.bits) for plane in (green, blue, red)]
    of_red, of_blue = LUMA_WEIGHTS[samples.matrix]
    luma = of_red * red + (1 - of_red - of_blue) * green + of_blue * blue
    zero, width = samples.chroma_range
    cb = _downsampled((blue - luma) / (2 * (1 - of_blue)), samples)
    cr = _downsampled((red - luma) / (2 * (1 - of_red)), samples)
    values = (luma * (white - black) + black, cb * width + zero, cr * width + zero)
    return [_rounded(value, samples.bits) for value in values]


def to_gray(rgb: Tensor) -> Tensor:
    """Return (B, 1, H, W) of RGB (B, 3, H, W)."""
    return (rgb * rgb.new_tensor(GRAY_WEIGHTS)[:, None, None]).sum(1, keepdim=True)


def _rounded(values: Tensor, bits: int) -> Tensor:
    rounded = values.round_().clamp_(0, 2**bits - 1)
    return rounded.to(torch.uint8) if bits == 8 else rounded.to(torch.int32).to(torch.int16)


def _upsampled(plane: Tensor, size: tuple[int, int], samples: Samples) -> Tensor:
    """Return chroma (B, h, w) at every luma sample, (B, H, W), interpolated linearly."""
    across, down = CHROMAS[samples.chroma]
    if across == 2 and not samples.is_centered:
        following = torch.cat([plane[..., 1:], plane[..., -1:]], -1)
        plane = torch.stack([plane, (plane + following) / 2], -1).flatten(-2)
        across = 1
    if across * down > 1:
        scale = (float(down), float(across))
        plane = F.interpolate(plane[:, None], scale_factor=scale, mode="bilinear", align_corners=False)[:, 0]
    return plane[:, : size[0], : size[1]]


def _downsampled(plane: Tensor, samples: Samples) -> Tensor:
    """Return the chroma samples (B, h, w) of a plane (B, H, W): means of the luma samples around them."""
    across, down = CHROMAS[samples.chroma]
    if across * down == 1:
        return plane
    height, width = plane.shape[1:]
    plane = F.pad(plane[:, None], (0, width % across, 0, height % down), mode="replicate")
    if down == 2:
        plane = (plane[..., 0::2, :] + plane[..., 1::2, :]) / 2
    if samples.is_centered:
        plane = (plane[..., 0::2] + plane[..., 1::2]) / 2
    else:
        before = torch.cat([plane[..., :1], plane[..., 1:-1:2]], -1)
        plane = (before + 2 * plane[..., 0::2] + plane[..., 1::2]) / 4
    return plane[:, 0]
