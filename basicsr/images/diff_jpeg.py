"""JPEG compression of arrays, and in PyTorch: on any device, with a gradient.

Source of the differentiable rounding: Shin and Song, "JPEG-resistant", 2017.
"""

import math
from typing import Any

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from basicsr.images.blur_kernels import Range, draw_uniform

BLOCK = 8  # px
LUMA_STEPS = (
    (16, 11, 10, 16, 24, 40, 51, 61),
    (12, 12, 14, 19, 26, 58, 60, 55),
    (14, 13, 16, 24, 40, 57, 69, 56),
    (14, 17, 22, 29, 51, 87, 80, 62),
    (18, 22, 37, 56, 68, 109, 103, 77),
    (24, 35, 55, 64, 81, 104, 113, 92),
    (49, 64, 78, 87, 103, 121, 120, 101),
    (72, 92, 95, 98, 112, 100, 103, 99),
)
CHROMA_STEPS = ((17, 18, 24, 47), (18, 21, 26, 66), (24, 26, 56, 99), (47, 66, 99, 99))  # 99 everywhere else
# JFIF: the full range [0, 255], unlike in `basicsr.images.color`.
YCBCR_FROM_RGB = ((0.299, 0.587, 0.114), (-0.168736, -0.331264, 0.5), (0.5, -0.418688, -0.081312))


class DiffJPEG(nn.Module):
    """Compresses images as JPEG and decompresses them: quarter-size colour, 8x8 cosine blocks, quantised by quality.

    Args:
        differentiable: round by a function whose gradient is not 0, x -> round(x) + (x - round(x))^3.

    Shape:
        (B, 3, H, W), RGB in [0, 1], in and out. Sides are padded with black to multiples of 16.
    """

    cosines: Tensor
    to_ycbcr: Tensor
    from_ycbcr: Tensor
    luma: Tensor
    chroma: Tensor

    def __init__(self, differentiable: bool = True) -> None:
        super().__init__()
        self.differentiable = differentiable
        k = torch.arange(BLOCK, dtype=torch.float64)
        cosines = torch.cos((2 * k + 1) * k[:, None] * math.pi / (2 * BLOCK)) / 2
        cosines[0] /= math.sqrt(2)
        matrix = torch.tensor(YCBCR_FROM_RGB, dtype=torch.float64)
        chroma = torch.full((BLOCK, BLOCK), 99.0)
        chroma[:4, :4] = torch.tensor(CHROMA_STEPS)
        tables = {
            "cosines": cosines,  # orthonormal: row k is the k-th cosine
            "to_ycbcr": matrix,
            "from_ycbcr": torch.linalg.inv(matrix),
            "luma": torch.tensor(LUMA_STEPS),
            "chroma": chroma,
        }
        for name, table in tables.items():
            self.register_buffer(name, table.float(), persistent=False)

    def forward(self, x: Tensor, quality: Any) -> Tensor:
        """Return the compressed images.

        Args:
            x: the images.
            quality: 1 to 100, one for all or a tensor (B,).
        """
        quality = torch.as_tensor(quality, dtype=x.dtype, device=x.device).expand(len(x))
        percent = torch.where(quality < 50, 5000 / quality, 200 - 2 * quality)
        factor = (percent / 100).clamp_min(1e-3).view(-1, 1, 1, 1, 1)  # at 100 it would be 0
        height, width = x.shape[2:]
        padded = F.pad(x, (0, -width % (2 * BLOCK), 0, -height % (2 * BLOCK)))
        ycbcr = torch.einsum("oc,bchw->bohw", self.to_ycbcr, padded * 255)
        y = self._quantised(ycbcr[:, :1] - 128, self.luma * factor)
        colour = self._quantised(F.avg_pool2d(ycbcr[:, 1:], 2), self.chroma * factor)
        ycbcr = torch.cat([y + 128, F.interpolate(colour, scale_factor=2, mode="nearest")], dim=1)
        rgb = torch.einsum("oc,bchw->bohw", self.from_ycbcr, ycbcr)
        return (rgb.clamp(0, 255) / 255)[..., :height, :width]

    def _quantised(self, planes: Tensor, steps: Tensor) -> Tensor:
        """Return planes (B, C, H, W) with cosine coefficients rounded to multiples of `steps` (B, 1, 1, 8, 8)."""
        blocks = rearrange(planes, "b c (rows h) (columns w) -> b c (rows columns) h w", h=BLOCK, w=BLOCK)
        coefficients = self.cosines @ blocks @ self.cosines.T / steps
        whole = coefficients.round()
        if self.differentiable:
            whole = whole.detach() + (coefficients - whole.detach()) ** 3
        blocks = self.cosines.T @ (whole * steps) @ self.cosines
        return rearrange(blocks, "b c (rows columns) h w -> b c (rows h) (columns w)", rows=planes.shape[2] // BLOCK)


def add_jpg_compression(img: np.ndarray, quality: float = 90) -> np.ndarray:
    """Return `img` after JPEG compression of this quality (0 to 100), float32 in [0, 1].

    Raises:
        ValueError: when OpenCV cannot encode it.
    """
    pixels = (np.clip(img, 0, 1) * 255.0).round().astype(np.uint8)
    done, encoded = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, int(quality)])
    if not done:
        raise ValueError(f"add_jpg_compression: cannot encode an image of {img.shape}")
    flag = cv2.IMREAD_COLOR if img.ndim == 3 and img.shape[2] == 3 else cv2.IMREAD_GRAYSCALE
    return np.asarray(cv2.imdecode(encoded, flag)).astype(np.float32).reshape(img.shape) / 255


def random_add_jpg_compression(img: np.ndarray, quality_range: Range = (90, 100)) -> np.ndarray:
    """Return `img` after JPEG compression of random quality."""
    return add_jpg_compression(img, draw_uniform(quality_range))
