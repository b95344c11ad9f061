"""Crops, flips and the making of network inputs: pure functions of images and, where chance has a say, of a generator.

Images are arrays (H, W, C). Windows are counted in low-resolution pixels, so that both images of a pair are cut alike.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from basicsr.utils.color_util import rgb_to_y_pt
from basicsr.utils.img_util import to_tensor
from basicsr.utils.matlab_functions import imresize

KERNEL_REACH = 2  # low-resolution pixels that the bicubic kernel looks beyond its own


class Window(NamedTuple):
    """A rectangle of an image, in pixels."""

    top: int
    left: int
    height: int
    width: int

    def cut(self, image: np.ndarray, scale: int = 1) -> np.ndarray:
        """The part of `image` under this window, whose numbers are multiplied by `scale` first."""
        top, left, height, width = (scale * value for value in self)
        return image[top : top + height, left : left + width]


def random_window(height: int, width: int, side: int, rng: np.random.Generator) -> Window:
    """A square of `side` pixels somewhere in an image of height x width, all places equally likely."""
    return Window(int(rng.integers(height - side + 1)), int(rng.integers(width - side + 1)), side, side)


def mirror_to(image: np.ndarray, side: int) -> np.ndarray:
    """`image` of at least `side` pixels a side: what is missing is mirrored, edge included, at the bottom and right."""
    missing = [(0, max(0, side - length)) for length in image.shape[:2]]
    return np.pad(image, [*missing, (0, 0)], mode="symmetric") if any(after for _, after in missing) else image


def downscale_window(gt: np.ndarray, window: Window, scale: int) -> np.ndarray:
    """The part under `window` of the low-resolution image of `gt`, by MATLAB's bicubic in the type of `gt`.

    Equal in every pixel to making the whole low-resolution image (of `gt` without the rows and columns at the bottom
    right that `scale` does not divide) and cutting it, but only the surroundings of the window are resized.
    """
    height, width = gt.shape[0] // scale, gt.shape[1] // scale
    top, left = max(0, window.top - KERNEL_REACH), max(0, window.left - KERNEL_REACH)
    bottom = min(height, window.top + window.height + KERNEL_REACH)
    right = min(width, window.left + window.width + KERNEL_REACH)
    around = Window(top, left, bottom - top, right - left)
    small = imresize(around.cut(gt, scale), 1 / scale)
    return window._replace(top=window.top - top, left=window.left - left).cut(small)


def flip_and_rotate(
    images: Sequence[np.ndarray], rng: np.random.Generator, *, hflip: bool = True, rot: bool = True
) -> list[np.ndarray]:
    """All `images` in the same one of eight positions, as views.

    Args:
        images: arrays (H, W, C), square if they are to form a batch.
        rng: decides.
        hflip: mirror left and right half of the time.
        rot: mirror top and bottom half of the time, and swap the axes half of the time.
    """
    mirror_x, mirror_y, swap = rng.random(3) < 0.5  # drawn whatever is used: an option never shifts later draws
    if hflip and mirror_x:
        images = [image[:, ::-1] for image in images]
    if rot and mirror_y:
        images = [image[::-1] for image in images]
    if rot and swap:
        images = [image.swapaxes(0, 1) for image in images]
    return list(images)


@dataclass(frozen=True)
class ToInput:
    """From pixels (H, W, 3) to a network input (C, H, W), float32 in [0, 1] unless normalised.

    Raises:
        ValueError: for an unknown colour, or a `mean` or `std` that does not fit the channels.
    """

    color: Literal["y"] | None = None  # "y": the luma alone, C = 1
    mean: Sequence[float] | None = None  # taken off each channel
    std: Sequence[float] | None = None  # divides each channel, after `mean`

    def __post_init__(self) -> None:
        if self.color not in (None, "y"):
            raise ValueError(f"color: must be 'y' or null, got {self.color!r}; leave it out for RGB")
        channels = 1 if self.color else 3
        for name, values in {"mean": self.mean, "std": self.std}.items():
            if values is not None and len(values) != channels:
                raise ValueError(f"{name}: needs one number for each of {channels} channels, got {list(values)}")
        if self.std is not None and min(self.std) <= 0:
            raise ValueError(f"std: must be positive, got {list(self.std)}")

    def __call__(self, image: np.ndarray) -> Tensor:
        """The input made from one image."""
        values = to_tensor(image)
        if self.color == "y":
            values = rgb_to_y_pt(values[None])[0]
        if self.mean is not None:
            values -= torch.tensor(self.mean).view(-1, 1, 1)
        if self.std is not None:
            values /= torch.tensor(self.std).view(-1, 1, 1)
        return values
