"""Crops, flips and rotations of images: pure functions of images and, where something is random, of a generator.

Images are arrays (H, W, C). Windows are in low-resolution pixels, so that both images of a pair are cropped alike.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from basicsr.images.matlab_resize import imresize

KERNEL_REACH = 2  # low-resolution pixels on each side that the bicubic kernel covers


class Window(NamedTuple):
    """A rectangle of an image, in pixels."""

    top: int
    left: int
    height: int
    width: int

    def scaled(self, scale: int) -> "Window":
        """Return the window of the same part of an image that is `scale` times as large."""
        return Window(*(scale * value for value in self))

    def crop(self, image: np.ndarray, scale: int = 1) -> np.ndarray:
        """Return the part of `image` in this window, scaled by `scale`."""
        top, left, height, width = self.scaled(scale)
        return image[top : top + height, left : left + width]


def random_window(height: int, width: int, side: int, rng: np.random.Generator) -> Window:
    """Return a square of `side` pixels in an image of height x width, all positions equally likely."""
    return Window(int(rng.integers(height - side + 1)), int(rng.integers(width - side + 1)), side, side)


def pad_to_side(image: np.ndarray, side: int) -> np.ndarray:
    """Return `image` mirrored, edge pixels included, at the bottom and right up to at least `side` pixels a side."""
    missing = [(0, max(0, side - length)) for length in image.shape[:2]]
    return np.pad(image, [*missing, (0, 0)], mode="symmetric") if any(after for _, after in missing) else image


def matlab_bicubic(image: np.ndarray, scale: int) -> np.ndarray:
    """Return `image` downscaled by MATLAB's bicubic, in its own type."""
    return imresize(image, 1 / scale)


def downscale_window(
    gt: np.ndarray,
    window: Window,
    scale: int,
    downscale: Callable[[np.ndarray, int], np.ndarray] = matlab_bicubic,
    reach: int = KERNEL_REACH,
) -> np.ndarray:
    """Return the part in `window` of the low-resolution image of `gt`, by MATLAB's bicubic in the type of `gt`.

    Equal in every pixel to a crop of the whole low-resolution image (of `gt` cut at the bottom and right to a multiple
    of `scale`), but only the surroundings of the window are resized.

    Args:
        gt: (H, W, C) pixels.
        window: in low-resolution pixels.
        scale: ground-truth pixels for each low-resolution pixel.
        downscale: another way to downscale, called with an image and `scale`.
        reach: low-resolution pixels on each side of a pixel that `downscale` looks at.
    """
    height, width = gt.shape[0] // scale, gt.shape[1] // scale
    top, left = max(0, window.top - reach), max(0, window.left - reach)
    bottom = min(height, window.top + window.height + reach)
    right = min(width, window.left + window.width + reach)
    around = Window(top, left, bottom - top, right - left)
    small = downscale(around.crop(gt, scale), scale)
    return window._replace(top=window.top - top, left=window.left - left).crop(small)


class Orientation(NamedTuple):
    """One of the eight positions of an image: mirrored left to right, then top to bottom, then with swapped axes."""

    mirror_x: bool
    mirror_y: bool
    swap: bool

    def apply(self, image: np.ndarray) -> np.ndarray:
        """Return `image` (H, W, C) in this position, as a view."""
        image = image[:, ::-1] if self.mirror_x else image
        image = image[::-1] if self.mirror_y else image
        return image.swapaxes(0, 1) if self.swap else image

    def moved(self, window: Window, height: int, width: int) -> Window:
        """Return where a window of an image of height x width is after `apply`."""
        top, left, rows, columns = window
        left = width - left - columns if self.mirror_x else left
        top = height - top - rows if self.mirror_y else top
        return Window(left, top, columns, rows) if self.swap else Window(top, left, rows, columns)


UPRIGHT = Orientation(mirror_x=False, mirror_y=False, swap=False)


def random_orientation(rng: np.random.Generator, *, hflip: bool = True, rot: bool = True) -> Orientation:
    """Draw one of the eight positions, or of those that the options allow.

    Args:
        rng: the generator.
        hflip: mirror left to right half of the time.
        rot: mirror top to bottom half of the time, and swap the axes half of the time.
    """
    mirror_x, mirror_y, swap = rng.random(3) < 0.5  # always three draws: an option never shifts later ones
    return Orientation(bool(hflip and mirror_x), bool(rot and mirror_y), bool(rot and swap))


def flip_and_rotate(
    images: Sequence[np.ndarray], rng: np.random.Generator, *, hflip: bool = True, rot: bool = True
) -> list[np.ndarray]:
    """Return all `images` in the same random position, as views; see `random_orientation`.

    Args:
        images: arrays (H, W, C), square if they are to form a batch.
        rng: the generator.
        hflip: see `random_orientation`.
        rot: see `random_orientation`.
    """
    orientation = random_orientation(rng, hflip=hflip, rot=rot)
    return [orientation.apply(image) for image in images]
