"""PSNR and SSIM in the two protocols of the field: on 8-bit images, and (`*_pt`) on raw float tensors.

Everything is computed in float64. `crop_border` pixels are dropped on every side first. With `test_y_channel` only the
luma of ITU-R BT.601 is scored, unrounded: Y = 16 + 65.481 R + 128.553 G + 24.966 B for RGB in [0, 1].
Source of SSIM: Wang et al., "Image quality assessment: from error visibility to structural similarity", 2004.
"""

from collections.abc import Callable
from typing import Any, Literal, TypeVar

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from basicsr.config.ranges import Border
from basicsr.config.registry import METRIC_REGISTRY
from basicsr.engine.device import to_float64
from basicsr.images.channel_order import as_rgb
from basicsr.images.color import rgb_to_y, rgb_to_y_pt

WINDOW = 11  # px: side of SSIM's Gaussian window, whose sigma is 1.5 px
PSNR_FLOOR = 1e-8  # added to the mean squared error of floats in [0, 1]
_GAUSSIAN = cv2.getGaussianKernel(WINDOW, 1.5, cv2.CV_64F)  # (11, 1), sums to 1

Metric = TypeVar("Metric", bound=Callable[..., Any])


def _metric(protocol: Literal["uint8", "float"], better: Literal["higher", "lower"]) -> Callable[[Metric], Metric]:
    """Register a metric with its protocol and its direction, which `evaluate` and `Best` read."""

    def register(function: Metric) -> Metric:
        vars(function).update(protocol=protocol, better=better)
        return METRIC_REGISTRY.register(function)

    return register


@_metric(protocol="uint8", better="higher")
def calculate_psnr(
    img: np.ndarray,
    img2: np.ndarray,
    crop_border: Border,
    input_order: Literal["HWC", "CHW"] = "HWC",
    test_y_channel: bool = False,
) -> float:
    """Return the peak signal-to-noise ratio in dB; inf for equal images.

    Args:
        img: RGB or gray, in [0, 255]: uint8, or floats of that range; a `BGRImage` of old plug-ins is BGR.
        img2: the other image, of the same kind.
        crop_border: px dropped on every side before scoring.
        input_order: layout of the axes; (H, W) is read as one channel in either.
        test_y_channel: score the luma only; of one channel, that channel.

    Raises:
        TypeError: for a tensor, or another dtype.
        ValueError: when the shapes differ, or nothing is left after the crop.
    """
    x, y = _prepare("calculate_psnr", img, img2, crop_border, input_order, test_y_channel)
    mse = float(np.mean((x - y) ** 2))
    return 10 * float(np.log10(255**2 / mse)) if mse else float("inf")


@_metric(protocol="uint8", better="higher")
def calculate_ssim(
    img: np.ndarray,
    img2: np.ndarray,
    crop_border: Border,
    input_order: Literal["HWC", "CHW"] = "HWC",
    test_y_channel: bool = False,
) -> float:
    """Return the structural similarity in [-1, 1], averaged over the positions of the window and over channels.

    Arguments and errors are those of `calculate_psnr`.

    Raises:
        ValueError: also when a side is under 11 px after the crop.
    """
    x, y = _prepare("calculate_ssim", img, img2, crop_border, input_order, test_y_channel)
    _check_window("calculate_ssim", x.shape[:2])
    return float(_ssim_map(x, y, _blur).mean())


@_metric(protocol="float", better="higher")
def calculate_psnr_pt(img: Tensor, img2: Tensor, crop_border: Border, test_y_channel: bool = False) -> Tensor:
    """Return the peak signal-to-noise ratio in dB of each image, neither clamped nor rounded.

    Args:
        img: floats, nominally in [0, 1].
        img2: the other images, of the same kind.
        crop_border: px dropped on every side before scoring.
        test_y_channel: score the luma only; of one channel, that channel.

    Shape:
        img, img2: (N, C, H, W). Output: (N,), float64; 80 for equal images.

    Raises:
        TypeError: unless both are float tensors.
        ValueError: when the shapes differ, or nothing is left after the crop.

    Note:
        As in published numbers, 1e-8 is added to the mean squared error, which costs 0.0001 dB at 33 dB.
    """
    x, y = _prepare_pt("calculate_psnr_pt", img, img2, crop_border, test_y_channel)
    return -10 * torch.log10(((x - y) ** 2).mean(dim=(1, 2, 3)) + PSNR_FLOOR)


@_metric(protocol="float", better="higher")
def calculate_ssim_pt(img: Tensor, img2: Tensor, crop_border: Border, test_y_channel: bool = False) -> Tensor:
    """Return the structural similarity of each image, neither clamped nor rounded.

    Arguments, shapes and errors are those of `calculate_psnr_pt`.

    Raises:
        ValueError: also when a side is under 11 px after the crop.
    """
    x, y = _prepare_pt("calculate_ssim_pt", img, img2, crop_border, test_y_channel)
    _check_window("calculate_ssim_pt", x.shape[2:])
    return _ssim_map(x * 255, y * 255, _blur_pt).mean(dim=(1, 2, 3))


def _prepare(
    where: str, img: np.ndarray, img2: np.ndarray, crop: int, input_order: str, luma: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Return both images as (H, W, C) float64 in [0, 255], cropped, as luma with `luma`."""
    if input_order not in ("HWC", "CHW"):
        raise ValueError(f"{where}: input_order must be 'HWC' or 'CHW', got {input_order!r}")
    for image in (img, img2):
        if not isinstance(image, np.ndarray) or (image.dtype != np.uint8 and image.dtype.kind != "f"):
            found = getattr(image, "dtype", type(image).__name__)
            raise TypeError(f"{where}: needs uint8 or float arrays in [0, 255], got {found}; tensors: {where}_pt")
    _check_shapes(where, img.shape, img2.shape, ndims=(2, 3))

    def prepare(image: np.ndarray) -> np.ndarray:
        image = as_rgb(image).astype(np.float64)
        if image.ndim == 2:
            image = image[..., None]
        elif input_order == "CHW":
            image = image.transpose(1, 2, 0)
        height, width, channels = image.shape
        _check_crop(where, crop, height, width)
        image = image[crop : height - crop, crop : width - crop]
        if luma and channels > 1:
            image = 255 * rgb_to_y(image / 255).reshape(*image.shape[:2], 1)
        return np.ascontiguousarray(image)

    return prepare(img), prepare(img2)


def _prepare_pt(where: str, img: Tensor, img2: Tensor, crop: int, luma: bool) -> tuple[Tensor, Tensor]:
    """Return both batches in float64, cropped, as luma with `luma`."""
    for image in (img, img2):
        if not isinstance(image, Tensor) or not image.is_floating_point():
            found = getattr(image, "dtype", type(image).__name__)
            raise TypeError(f"{where}: needs float tensors in [0, 1], got {found}; uint8 arrays: {where[:-3]}")
    _check_shapes(where, img.shape, img2.shape, ndims=(4,))
    height, width = img.shape[2:]
    _check_crop(where, crop, height, width)

    def prepare(image: Tensor) -> Tensor:
        image = to_float64(image[:, :, crop : height - crop, crop : width - crop])
        return rgb_to_y_pt(image) if luma and image.shape[1] > 1 else image

    return prepare(img), prepare(img2)


def _check_shapes(where: str, shape: tuple[int, ...], shape2: tuple[int, ...], ndims: tuple[int, ...]) -> None:
    if shape != shape2:
        raise ValueError(f"{where}: the images differ in shape, got {tuple(shape)} and {tuple(shape2)}")
    if len(shape) not in ndims:
        raise ValueError(f"{where}: needs images of {' or '.join(map(str, ndims))} axes, got shape {tuple(shape)}")


def _check_crop(where: str, crop: int, height: int, width: int) -> None:
    if not 0 <= 2 * crop < min(height, width):
        raise ValueError(f"{where}: crop_border must be >= 0 and leave pixels of a {height}x{width} image, got {crop}")


def _check_window(where: str, size: tuple[int, ...]) -> None:
    if min(size) < WINDOW:
        raise ValueError(
            f"{where}: needs at least {WINDOW}x{WINDOW} px after the crop, got {size[0]}x{size[1]}; "
            "use larger images or a smaller crop_border"
        )


def _ssim_map(x: Any, y: Any, blur: Callable[[Any], Any]) -> Any:
    """Return SSIM at every position of arrays or tensors in [0, 255]; `blur` takes the weighted mean of a window."""
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    mean_x, mean_y = blur(x), blur(y)
    variance_x, variance_y = blur(x * x) - mean_x**2, blur(y * y) - mean_y**2
    covariance = blur(x * y) - mean_x * mean_y
    luminance = (2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1)
    return luminance * (2 * covariance + c2) / (variance_x + variance_y + c2)


def _blur(image: np.ndarray) -> np.ndarray:
    """Return the window's weighted means, (H-10, W-10[, C]), of an image (H, W, C)."""
    margin = WINDOW // 2
    return cv2.sepFilter2D(image, cv2.CV_64F, _GAUSSIAN, _GAUSSIAN)[margin:-margin, margin:-margin]


def _blur_pt(images: Tensor) -> Tensor:
    """Return the window's weighted means, (N, C, H-10, W-10), of images (N, C, H, W)."""
    kernel = torch.from_numpy(_GAUSSIAN).to(images)
    planes = rearrange(images, "n c h w -> (n c) 1 h w")
    blurred = F.conv2d(F.conv2d(planes, kernel.view(1, 1, WINDOW, 1)), kernel.view(1, 1, 1, WINDOW))
    return rearrange(blurred, "(n c) 1 h w -> n c h w", c=images.shape[1])
