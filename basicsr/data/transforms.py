"""Crops, flips and the making of network inputs: pure functions of images and, where chance has a say, of a generator.

Images are arrays (H, W, C). Windows are counted in low-resolution pixels, so that both images of a pair are cut alike.
At the end are the functions that data sets written for BasicSR import from here; they draw from Python's own generator.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import cv2
import numpy as np
import torch
from torch import Tensor

from basicsr.images.color import rgb_to_y_pt
from basicsr.images.files import to_tensor
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


def mod_crop(img: np.ndarray, scale: int) -> np.ndarray:
    """A copy of `img`, (H, W) or (H, W, C), without the rows and columns at the end that `scale` does not divide.

    Raises:
        ValueError: for another number of axes.
    """
    if img.ndim not in (2, 3):
        raise ValueError(f"Wrong img ndim: {img.ndim}.")
    height, width = (side - side % scale for side in img.shape[:2])
    return img[:height, :width].copy()


def paired_random_crop(img_gts: Any, img_lqs: Any, gt_patch_size: int, scale: int, gt_path: str | None = None) -> Any:
    """The same random square of ground truth and inputs.

    Args:
        img_gts: array (H, W, C) or tensor (1, C, H, W), or a list of such of one size.
        img_lqs: alike, `scale` times smaller.
        gt_patch_size: side of the square in ground-truth pixels.
        scale: ground-truth pixels for each input pixel.
        gt_path: named in messages.

    Returns:
        both, each a list where several came in.

    Raises:
        ValueError: when the sizes do not fit each other, or are smaller than the square.
    """
    gts, lqs = (list(images) if isinstance(images, (list, tuple)) else [images] for images in (img_gts, img_lqs))
    first_axis = -2 if isinstance(gts[0], Tensor) else 0
    (gt_height, gt_width), (height, width) = (
        images[0].shape[first_axis : (first_axis + 2) or None] for images in (gts, lqs)
    )
    side = gt_patch_size // scale
    if (gt_height, gt_width) != (height * scale, width * scale):
        raise ValueError(
            f"Scale mismatches. GT ({gt_height}, {gt_width}) is not {scale}x multiplication of LQ ({height}, {width})."
        )
    if height < side or width < side:
        raise ValueError(
            f"LQ ({height}, {width}) is smaller than patch size ({side}, {side}). Please remove {gt_path}."
        )
    top, left = random.randint(0, height - side), random.randint(0, width - side)

    def cut(image: Any, factor: int) -> Any:
        rows = slice(top * factor, (top + side) * factor)
        columns = slice(left * factor, (left + side) * factor)
        return image[..., rows, columns] if isinstance(image, Tensor) else image[rows, columns]

    gts, lqs = [cut(image, scale) for image in gts], [cut(image, 1) for image in lqs]
    return gts[0] if len(gts) == 1 else gts, lqs[0] if len(lqs) == 1 else lqs


def augment(
    imgs: Any, hflip: bool = True, rotation: bool = True, flows: Any = None, return_status: bool = False
) -> Any:
    """All images (H, W, C) in the same one of eight positions, drawn from Python's generator.

    Args:
        imgs: one array or a list.
        hflip: mirror left and right half of the time.
        rotation: mirror top and bottom half of the time, and swap the axes half of the time.
        flows: optical flows (H, W, 2) to turn alike, x first.
        return_status: return what was drawn, too.

    Returns:
        images; (images, flows) with flows; (images, (hflip, vflip, rot90)) with the status and no flows.
    """
    flipped = hflip and random.random() < 0.5
    upended = rotation and random.random() < 0.5
    swapped = rotation and random.random() < 0.5

    def turn(image: np.ndarray) -> np.ndarray:
        image = image[:, ::-1] if flipped else image
        image = image[::-1] if upended else image
        return np.ascontiguousarray(image.swapaxes(0, 1) if swapped else image)

    def turn_flow(flow: np.ndarray) -> np.ndarray:
        signs = np.array([-1 if flipped else 1, -1 if upended else 1], flow.dtype)
        turned = turn(flow * signs)
        return turned[..., ::-1].copy() if swapped else turned

    done = [turn(image) for image in (imgs if isinstance(imgs, list) else [imgs])]
    result = done[0] if len(done) == 1 else done
    if flows is not None:
        moved = [turn_flow(flow) for flow in (flows if isinstance(flows, list) else [flows])]
        return result, moved[0] if len(moved) == 1 else moved
    return (result, (flipped, upended, swapped)) if return_status else result


def img_rotate(
    img: np.ndarray, angle: float, center: tuple[float, float] | None = None, scale: float = 1.0
) -> np.ndarray:
    """`img` turned by `angle` degrees, counter-clockwise, about `center` (x, y; None: the middle), black beyond it."""
    height, width = img.shape[:2]
    matrix = cv2.getRotationMatrix2D(center or (width // 2, height // 2), angle, scale)
    return cv2.warpAffine(img, matrix, (width, height))
