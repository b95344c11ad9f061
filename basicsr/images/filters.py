"""Filters on images and on batches of them, as plug-ins written for BasicSR 1.4 import them."""

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from torch import Tensor, nn


def filter2D(img: Tensor, kernel: Tensor) -> Tensor:  # noqa: N802 - the name that is imported
    """Return `img` (B, C, H, W) filtered as by `cv2.filter2D` with mirrored borders.

    Args:
        img: its sides are larger than K / 2.
        kernel: (B, K, K), one for each image, or (1, K, K) or (K, K) for all; K is odd.

    Raises:
        ValueError: for an even K.
    """
    side = kernel.shape[-1]
    if side % 2 == 0:
        raise ValueError(f"filter2D: wrong kernel size, must be odd, got {side}")
    batch, channels = img.shape[:2]
    weights = kernel.reshape(-1, side, side).to(img)
    padded = F.pad(img, [side // 2] * 4, mode="reflect")
    if len(weights) == 1:
        planes = rearrange(padded, "b c h w -> (b c) 1 h w")
        return rearrange(F.conv2d(planes, weights[:, None]), "(b c) 1 h w -> b c h w", b=batch)
    planes = rearrange(padded, "b c h w -> 1 (b c) h w")
    filters = repeat(weights, "b h w -> (b c) 1 h w", c=channels)
    return rearrange(F.conv2d(planes, filters, groups=batch * channels), "1 (b c) h w -> b c h w", b=batch)


def usm_sharp(img: np.ndarray, weight: float = 0.5, radius: int = 50, threshold: float = 10) -> np.ndarray:
    """Return an image (H, W, C) of floats in [0, 1] with its edges sharpened by unsharp masking.

    Args:
        img: the image to sharpen.
        weight: factor on the difference from the blurred image.
        radius: side of the Gaussian in pixels, made odd.
        threshold: difference from the blurred image, in units of 1/255, above which a pixel is an edge.
    """
    side = radius + 1 - radius % 2
    blurred = cv2.GaussianBlur(img, (side, side), 0)
    residual = img - blurred
    mask = (np.abs(residual) * 255 > threshold).astype(np.float32)
    soft = cv2.GaussianBlur(mask, (side, side), 0)
    return soft * np.clip(img + weight * residual, 0, 1) + (1 - soft) * img


class USMSharp(nn.Module):
    """`usm_sharp` for batches (B, C, H, W) in [0, 1].

    Args:
        radius: side of the Gaussian in pixels, made odd.
        sigma: of the Gaussian in pixels; 0: from the side, as in `cv2.getGaussianKernel`.
    """

    kernel: Tensor

    def __init__(self, radius: int = 50, sigma: float = 0) -> None:
        super().__init__()
        self.radius = radius + 1 - radius % 2
        self.register_buffer("kernel", torch.from_numpy(cv2.getGaussianKernel(self.radius, sigma)).float().flatten())

    def forward(self, img: Tensor, weight: float = 0.5, threshold: float = 10) -> Tensor:
        """Return the sharpened images; see `usm_sharp`."""
        residual = img - self._blurred(img)
        soft = self._blurred((residual.abs() * 255 > threshold).to(img))
        return soft * (img + weight * residual).clamp(0, 1) + (1 - soft) * img

    def _blurred(self, img: Tensor) -> Tensor:
        """Return the images under the Gaussian, by rows, then by columns: 2 K products a pixel instead of K^2."""
        channels = img.shape[1]
        rows = self.kernel.to(img).expand(channels, 1, 1, -1)
        padded = F.pad(img, [self.radius // 2] * 4, mode="reflect")
        return F.conv2d(F.conv2d(padded, rows, groups=channels), rows.mT, groups=channels)
