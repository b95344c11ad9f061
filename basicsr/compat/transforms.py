"""Crops and flips as data sets written for BasicSR 1.4 import them; they draw from Python's own generator."""

import random
from typing import Any

import cv2
import numpy as np
from torch import Tensor


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
