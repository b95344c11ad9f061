"""Crops, flips and rotations of images: pure functions of images and, where something is random, of a generator.

Images are arrays (H, W, C). Windows are counted in low-resolution pixels, so that both images of a pair are cut alike.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from basicsr.images.matlab_resize import imresize

KERNEL_REACH = 2  # low-resolution pixels that the bicubic kernel looks beyond its own


class Window(NamedTuple):
    """A rectangle of an image, in pixels."""

    top: int
    left: int
    height: int
    width: int

    def times(self, scale: int) -> "Window":
        """Return the same part of an image that is `scale` times as large."""
        return Window(*(scale * value for value in self))

    def cut(self, image: np.ndarray, scale: int = 1) -> np.ndarray:
        """The part of `image` under this window, whose numbers are multiplied by `scale` first."""
        top, left, height, width = self.times(scale)
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


class Orientation(NamedTuple):
    """One of the eight positions of an image: mirrored left and right, then top and bottom, then with swapped axes."""

    mirror_x: bool
    mirror_y: bool
    swap: bool

    def turn(self, image: np.ndarray) -> np.ndarray:
        """Return `image` (H, W, C) in this position, as a view."""
        image = image[:, ::-1] if self.mirror_x else image
        image = image[::-1] if self.mirror_y else image
        return image.swapaxes(0, 1) if self.swap else image


UPRIGHT = Orientation(mirror_x=False, mirror_y=False, swap=False)


def random_orientation(rng: np.random.Generator, *, hflip: bool = True, rot: bool = True) -> Orientation:
    """Draw one of the eight positions, or of those that the options leave.

    Args:
        rng: decides.
        hflip: mirror left and right half of the time.
        rot: mirror top and bottom half of the time, and swap the axes half of the time.
    """
    mirror_x, mirror_y, swap = rng.random(3) < 0.5  # drawn whatever is used: an option never shifts later draws
    return Orientation(bool(hflip and mirror_x), bool(rot and mirror_y), bool(rot and swap))


def flip_and_rotate(
    images: Sequence[np.ndarray], rng: np.random.Generator, *, hflip: bool = True, rot: bool = True
) -> list[np.ndarray]:
    """Return all `images` in the same random position, as views; see `random_orientation`.

    Args:
        images: arrays (H, W, C), square if they are to form a batch.
        rng: decides.
        hflip: mirror left and right half of the time.
        rot: mirror top and bottom half of the time, and swap the axes half of the time.
    """
    orientation = random_orientation(rng, hflip=hflip, rot=rot)
    return [orientation.turn(image) for image in images]
