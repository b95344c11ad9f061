"""NIQE, the Natural Image Quality Evaluator: how far the statistics of an image are from those of natural ones.

Source: Mittal, Soundararajan and Bovik, "Making a completely blind image quality analyzer", IEEE Signal Processing
Letters, 2013, with the authors' model of natural images (`niqe_parameters.npz`; its terms: `NIQE_LICENSE.txt`).
"""

import functools
import math
from pathlib import Path
from typing import Literal

import cv2
import numpy as np

from basicsr.config.ranges import Border
from basicsr.config.registry import METRIC_REGISTRY
from basicsr.images.channel_order import as_rgb
from basicsr.images.color import rgb_to_y
from basicsr.images.matlab_resize import imresize

BLOCK = 96  # px, at full resolution
SCALES = (1, 2)  # factors by which the image is reduced
PARAMETERS = Path(__file__).parent / "niqe_parameters.npz"
_WINDOW = cv2.getGaussianKernel(7, 7 / 6, cv2.CV_64F)  # (7, 1), sums to 1
_NEIGHBOURS = ((0, 1), (1, 0), (1, 1), (1, -1))  # right, below, and the two diagonals

_SHAPES = np.arange(200, 10001) / 1000  # of a generalized Gaussian; 2 is the Gaussian
_GAMMA_1, _GAMMA_2, _GAMMA_3 = (np.array([math.gamma(k / shape) for shape in _SHAPES]) for k in (1, 2, 3))
_RATIO = _GAMMA_2**2 / (_GAMMA_1 * _GAMMA_3)  # of (mean |x|)^2 to the mean x^2; rises with the shape


@METRIC_REGISTRY.register()
def calculate_niqe(
    img: np.ndarray,
    img2: np.ndarray | None = None,
    crop_border: Border = 0,
    input_order: Literal["HWC", "CHW"] = "HWC",
    convert_to: Literal["y", "gray"] = "y",
) -> float:
    """Return NIQE of an image, >= 0, where lower is better; natural images have about 2 to 6.

    Args:
        img: RGB or gray, in [0, 255]: uint8, or floats of that range; a `BGRImage` of old plug-ins is BGR.
        img2: not used: there is no reference.
        crop_border: px dropped on every side before scoring.
        input_order: layout of the axes; (H, W) is read as one channel in either.
        convert_to: what is scored: "y", the luma in [16, 235], as in BasicSR; "gray", the weighted mean in [0, 255].

    Returns:
        The score; nan where the image has fewer than two blocks of 96 x 96 px, or is flat nearly everywhere.
    """
    if input_order not in ("HWC", "CHW") or convert_to not in ("y", "gray"):
        raise ValueError(f"input_order: HWC or CHW; convert_to: y or gray; got {input_order!r} and {convert_to!r}")
    image = as_rgb(img)
    image = image.transpose(1, 2, 0) if image.ndim == 3 and input_order == "CHW" else image
    image = image[crop_border : image.shape[0] - crop_border, crop_border : image.shape[1] - crop_border]
    return niqe(_luma(image, convert_to))


vars(calculate_niqe).update(protocol="uint8", better="lower", needs_reference=False, channel="Y")


def niqe(image: np.ndarray) -> float:
    """Return NIQE of a gray image (H, W) in [0, 255]; nan where it has too few blocks with structure."""
    height, width = (side // BLOCK * BLOCK for side in image.shape)
    if height * width < 2 * BLOCK**2:
        return math.nan
    image = image[:height, :width]
    features = np.concatenate([_features_at(image, scale) for scale in SCALES], 1)
    features = features[~np.isnan(features).any(1)]  # of a flat block
    if len(features) < 2:
        return math.nan
    mean, covariance = _natural_model()
    difference = features.mean(0) - mean
    pooled = (np.cov(features, rowvar=False) + covariance) / 2
    return math.sqrt(difference @ np.linalg.pinv(pooled) @ difference)


@functools.cache
def _natural_model() -> tuple[np.ndarray, np.ndarray]:
    """Return mean (36,) and covariance (36, 36) of the features of natural images."""
    with np.load(PARAMETERS) as stored:
        return stored["mean"], stored["covariance"]


def _luma(image: np.ndarray, convert_to: str) -> np.ndarray:
    """Return one channel (H, W) of an image (H, W), (H, W, 1) or RGB (H, W, 3), rounded as 8 bits would be."""
    values = np.asarray(image, np.float64)
    if values.ndim == 3 and values.shape[2] == 1:
        values = values[..., 0]
    if values.ndim == 3:
        y = convert_to == "y"
        values = rgb_to_y(values / 255)[..., 0] * 255 if y else values @ np.array([0.299, 0.587, 0.114])
    return values.round()


def _features_at(image: np.ndarray, scale: int) -> np.ndarray:
    """Return the 18 features (blocks, 18) of an image (H, W), reduced by `scale`."""
    if scale > 1:
        image = imresize(image / 255, 1 / scale) * 255
    side = BLOCK // scale
    rows, columns = image.shape[0] // side, image.shape[1] // side
    blocks = _normalised(image).reshape(rows, side, columns, side).swapaxes(1, 2).reshape(-1, side, side)
    shape, left, right = _fit(blocks)
    features = [_SHAPES[shape], (left + right) / 2]
    for shift in _NEIGHBOURS:
        shape, left, right = _fit(blocks * np.roll(blocks, shift, (1, 2)))
        mean = (right - left) * _GAMMA_2[shape] / _GAMMA_1[shape]
        features += [_SHAPES[shape], mean, left, right]
    return np.stack(features, 1)


def _normalised(image: np.ndarray) -> np.ndarray:
    """Return (x - mean) / (deviation + 1) of an image (H, W), both over a Gaussian window."""

    def blur(x: np.ndarray) -> np.ndarray:
        return cv2.sepFilter2D(x, cv2.CV_64F, _WINDOW, _WINDOW, borderType=cv2.BORDER_REPLICATE)

    mean = blur(image)
    deviation = np.sqrt(np.abs(blur(image * image) - mean * mean))
    return (image - mean) / (deviation + 1)


def _fit(blocks: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Fit an asymmetric generalized Gaussian to each block by its moments.

    Args:
        blocks: (n, h, w).

    Returns:
        Index of the shape in `_SHAPES`, and the scales left and right of 0, each (n,); nan scales of a block without
        values on one side.

    Source: Lasmar, Stitou and Berthoumieu, "Multiscale skewed heavy tailed model for texture analysis", ICIP 2009.
    """
    x = blocks.reshape(len(blocks), -1)
    left, right = _deviation(x, x < 0), _deviation(x, x > 0)
    with np.errstate(invalid="ignore", divide="ignore"):
        skew = left / right
        ratio = np.abs(x).mean(1) ** 2 / (x * x).mean(1)
        ratio = ratio * (skew**3 + 1) * (skew + 1) / (skew**2 + 1) ** 2
    shape = np.abs(_RATIO - np.nan_to_num(ratio)[:, None]).argmin(1)
    scale = np.sqrt(_GAMMA_1[shape] / _GAMMA_3[shape])
    return shape, left * scale, right * scale


def _deviation(x: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """Return the root of the mean square of the chosen entries of each row; nan where there are none."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.sqrt((x * x * chosen).sum(1) / chosen.sum(1))
