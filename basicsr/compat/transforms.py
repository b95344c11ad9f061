"""Crops and flips as data sets written for BasicSR 1.4 import them; they draw from Python's global generator."""

import random
from typing import Any

import cv2
import numpy as np
from torch import Tensor

from basicsr.data.crops import Orientation


def mod_crop(img: np.ndarray, scale: int) -> np.ndarray:
    """Return a copy of `img`, (H, W) or (H, W, C), cut at the bottom and right to multiples of `scale`.

    Raises:
        ValueError: for another number of axes.
    """
    if img.ndim not in (2, 3):
        raise ValueError(f"Wrong img ndim: {img.ndim}.")
    height, width = (side - side % scale for side in img.shape[:2])
    return img[:height, :width].copy()


def paired_random_crop(img_gts: Any, img_lqs: Any, gt_patch_size: int, scale: int, gt_path: str | None = None) -> Any:
    """Return the same random square of ground truth and inputs.

    Args:
        img_gts: array (H, W, C) or tensor (1, C, H, W), or a list of them, of one size.
        img_lqs: the same, `scale` times smaller.
        gt_patch_size: side of the square in ground-truth pixels.
        scale: ratio of the sides of ground truth and inputs.
        gt_path: for messages.

    Returns:
        Both, each a list where several were given.

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
    """Return all images (H, W, C) flipped and rotated into the same random one of eight positions.

    Args:
        imgs: one array or a list.
        hflip: mirror left and right half of the time.
        rotation: mirror top and bottom half of the time, and swap the axes half of the time.
        flows: optical flows (H, W, 2), x first, to transform in the same way.
        return_status: return the random choices, too.

    Returns:
        Images; (images, flows) with flows; (images, (hflip, vflip, rot90)) with the status and no flows.
    """
    orientation = Orientation(*(is_allowed and random.random() < 0.5 for is_allowed in (hflip, rotation, rotation)))

    def turn(image: np.ndarray) -> np.ndarray:
        return np.ascontiguousarray(orientation.apply(image))

    def turn_flow(flow: np.ndarray) -> np.ndarray:
        signs = np.array([-1 if orientation.mirror_x else 1, -1 if orientation.mirror_y else 1], flow.dtype)
        turned = turn(flow * signs)
        return turned[..., ::-1].copy() if orientation.swap else turned

    done = [turn(image) for image in (imgs if isinstance(imgs, list) else [imgs])]
    result = done[0] if len(done) == 1 else done
    if flows is not None:
        moved = [turn_flow(flow) for flow in (flows if isinstance(flows, list) else [flows])]
        return result, moved[0] if len(moved) == 1 else moved
    return (result, tuple(orientation)) if return_status else result


def img_rotate(
    img: np.ndarray, angle: float, center: tuple[float, float] | None = None, scale: float = 1.0
) -> np.ndarray:
    """Return `img` rotated by `angle` degrees, counter-clockwise, about `center` (x, y; None: the middle), on black."""
    height, width = img.shape[:2]
    matrix = cv2.getRotationMatrix2D(center or (width // 2, height // 2), angle, scale)
    return cv2.warpAffine(img, matrix, (width, height))
