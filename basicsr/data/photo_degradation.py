"""What happens to a photograph on its way to the web: blur, downscaling, noise, JPEG; all drawn at random."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image

from basicsr.data.crops import Window, downscale_window, matlab_bicubic
from basicsr.data.degraded_image_dataset import eight_bits
from basicsr.images.jpeg import jpeg_copy

# Both are widened by the scale, so they do not alias, as OpenCV's would.
PILLOW_FILTERS = {"bilinear": Image.Resampling.BILINEAR, "lanczos": Image.Resampling.LANCZOS}
KERNELS = ("bicubic", "area", *PILLOW_FILTERS)
KERNEL_REACH = 3  # low-resolution pixels on each side that the widest kernel, Lanczos, covers
JPEG_UNIT = 16  # pixels a side that JPEG codes together: with colour in half the resolution, four blocks of 8x8
MIN_BLUR_SIGMA = 0.1  # pixels; narrower kernels change no 8-bit level


class Degradation(NamedTuple):
    """The choices drawn for one image."""

    blur_sigma: float
    """in ground-truth pixels; 0: no blur"""
    kernel: str
    """one of KERNELS"""
    noise_sigma: float
    """in 8-bit levels; 0: no noise"""
    luma_noise: bool
    """the same noise in the three channels"""
    jpeg_quality: int | None
    """1 to 100; None: not compressed"""
    chroma: str
    """of the JPEG: "4:2:0" or "4:4:4" """

    def downscaled(self, gt: np.ndarray, window: Window, scale: int) -> np.ndarray:
        """Return the part in `window` of `gt` (H, W, 3), in 8 bits, blurred and downscaled; see `downscale_window`."""
        reach = KERNEL_REACH + math.ceil(3 * self.blur_sigma / scale)
        return downscale_window(gt, window, scale, self._blur_and_downscale, reach)

    def with_noise_and_jpeg(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Return a low-resolution `image`, uint8 (H, W, 3), with noise of `rng`, compressed; its grid is at (0, 0)."""
        if self.noise_sigma > 0:
            channels = 1 if self.luma_noise else 3
            noise = rng.standard_normal((*image.shape[:2], channels), np.float32) * np.float32(self.noise_sigma)
            image = np.round(image + noise).clip(0, 255).astype(np.uint8)
        return image if self.jpeg_quality is None else jpeg_copy(image, self.jpeg_quality, self.chroma)

    def _blur_and_downscale(self, image: np.ndarray, scale: int) -> np.ndarray:
        image = np.ascontiguousarray(eight_bits(image))
        if self.blur_sigma >= MIN_BLUR_SIGMA:
            image = cv2.GaussianBlur(image, (0, 0), self.blur_sigma, borderType=cv2.BORDER_REFLECT)
        if self.kernel == "bicubic":
            return matlab_bicubic(image, scale)
        size = image.shape[1] // scale, image.shape[0] // scale
        if self.kernel == "area":  # not of Pillow, which rounds halves up twice: at x2, by half a level in the mean
            return cv2.resize(image, size, interpolation=cv2.INTER_AREA)
        return np.asarray(Image.fromarray(image).resize(size, PILLOW_FILTERS[self.kernel]))


@dataclass(frozen=True, kw_only=True)
class PhotoDegradation:
    """The ranges that `Degradation`s are drawn from; see `PhotoDataset`.

    Raises:
        ValueError: when one of them is not possible.
    """

    blur_sigma: tuple[float, float]
    blur_prob: float
    kernels: Sequence[str]
    noise_sigma: tuple[float, float]
    noise_prob: float
    luma_noise_prob: float
    jpeg_quality: tuple[int, int]
    jpeg_prob: float
    chroma_420_prob: float

    def __post_init__(self) -> None:
        for name, (low, high) in {"blur_sigma": (0, 10), "noise_sigma": (0, 100), "jpeg_quality": (1, 100)}.items():
            ends = getattr(self, name)
            if len(ends) != 2 or not low <= ends[0] <= ends[1] <= high:
                raise ValueError(f"{name}: must be [lowest, highest] within [{low}, {high}], got {list(ends)}")
        for name in ("blur_prob", "noise_prob", "luma_noise_prob", "jpeg_prob", "chroma_420_prob"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name}: must be a probability, 0 to 1, got {getattr(self, name)}")
        if not self.kernels or not set(self.kernels) <= set(KERNELS):
            raise ValueError(f"kernels: must be one or more of {', '.join(KERNELS)}, got {list(self.kernels)}")

    def draw(self, rng: np.random.Generator) -> Degradation:
        """Return random choices; each is uniform in its range."""
        has, value = rng.random((2, 5))  # always ten numbers: an option never shifts the others' draws
        low, high = self.jpeg_quality
        return Degradation(
            blur_sigma=_between(self.blur_sigma, value[0]) if has[0] < self.blur_prob else 0,
            kernel=self.kernels[int(value[1] * len(self.kernels))],
            noise_sigma=_between(self.noise_sigma, value[2]) if has[2] < self.noise_prob else 0,
            luma_noise=bool(has[3] < self.luma_noise_prob),
            jpeg_quality=low + int(value[4] * (high - low + 1)) if has[4] < self.jpeg_prob else None,
            chroma="4:2:0" if has[1] < self.chroma_420_prob else "4:4:4",
        )


def with_jpeg_margin(window: Window, height: int, width: int, rng: np.random.Generator) -> Window:
    """Return `window` with a random margin at the top and left, and one that fills the last JPEG units.

    An image of this window that is compressed has its grid at any of the 16 x 16 offsets to `window`. The margins are
    smaller where the image, of height x width, ends.
    """
    above, before = (int(margin) for margin in rng.integers(JPEG_UNIT, size=2))
    top, left = max(0, window.top - above), max(0, window.left - before)
    bottom = min(height, top + _whole_units(window.top + window.height - top))
    right = min(width, left + _whole_units(window.left + window.width - left))
    return Window(top, left, bottom - top, right - left)


def _whole_units(length: int) -> int:
    return -(-length // JPEG_UNIT) * JPEG_UNIT


def _between(ends: tuple[float, float], share: float) -> float:
    return float(ends[0] + share * (ends[1] - ends[0]))
