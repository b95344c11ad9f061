"""Images in the form of BasicSR 1.4: BGR, as OpenCV has them, and tensors made of them."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor

from basicsr.images.channel_order import BGRImage
from basicsr.images.color import rgb2ycbcr, ycbcr2rgb
from basicsr.images.files import to_pixels


def tensor2img(
    tensor: Tensor | Sequence[Tensor],
    rgb2bgr: bool = True,
    out_type: type = np.uint8,
    min_max: tuple[float, float] = (0, 1),
) -> Any:
    """Return tensors as images, BGR unless `rgb2bgr` is False. See `to_pixels` for RGB.

    Args:
        tensor: RGB, (1, C, H, W), (C, H, W) or (H, W); (B, 3 or 1, H, W), which becomes one image in a grid; or a list.
        rgb2bgr: return OpenCV's order of channels.
        out_type: np.uint8 rounds to [0, 255]; a float type keeps [0, 1].
        min_max: the values that become 0 and 1; others are clamped to them.

    Returns:
        (H, W, 3), or (H, W) for one channel; a list of them for a list of several.

    Raises:
        TypeError: for anything but tensors, or a tensor of another number of axes.
    """
    if not isinstance(tensor, Tensor):
        if not isinstance(tensor, (list, tuple)) or not all(isinstance(one, Tensor) for one in tensor):
            raise TypeError(f"tensor or list of tensors expected, got {type(tensor)}")
        images = [tensor2img(one, rgb2bgr, out_type, min_max) for one in tensor]
        return images[0] if len(images) == 1 else images
    low, high = min_max
    values = (tensor.detach().float().cpu().clamp(low, high) - low) / (high - low)
    if values.ndim == 4:
        values = _grid(values)
    elif values.ndim == 2:
        values = values[None]
    elif values.ndim != 3:
        raise TypeError(f"Only support 4D, 3D or 2D tensor. But received with dimension: {values.ndim}")
    if out_type is np.uint8:
        pixels = to_pixels(values)
    else:
        pixels = values.permute(1, 2, 0).numpy().astype(out_type)
        pixels = pixels if pixels.shape[2] > 1 else pixels[..., 0]
    if pixels.ndim == 2 or not rgb2bgr:
        return pixels
    return np.ascontiguousarray(pixels[..., ::-1]).view(BGRImage)


def img2tensor(imgs: Any, bgr2rgb: bool = True, float32: bool = True) -> Any:
    """Return images (H, W, C) as tensors (C, H, W) with the same values; a list gives a list.

    Args:
        imgs: one array or a list of them.
        bgr2rgb: reverse the channels of images that have three.
        float32: convert to float32; False: keep the type.
    """
    if isinstance(imgs, (list, tuple)):
        return [img2tensor(one, bgr2rgb, float32) for one in imgs]
    pixels = np.asarray(imgs)
    if bgr2rgb and pixels.shape[2] == 3:
        pixels = pixels[..., ::-1]
    tensor = torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))
    return tensor.float() if float32 else tensor


def imfrombytes(content: bytes, flag: str = "color", float32: bool = False) -> np.ndarray:
    """Return the pixels of an encoded image, uint8, BGR (H, W, 3) or gray (H, W).

    Args:
        content: bytes of the file.
        flag: "color", "grayscale", or "unchanged" for the channels of the file.
        float32: return floats in [0, 1].

    Raises:
        ValueError: when the data are no image.
    """
    flags = {"color": cv2.IMREAD_COLOR, "grayscale": cv2.IMREAD_GRAYSCALE, "unchanged": cv2.IMREAD_UNCHANGED}
    data = np.frombuffer(content, np.uint8)
    image = cv2.imdecode(data, flags[flag]) if data.size else None
    if image is None:
        raise ValueError(f"imfrombytes: {data.size} bytes cannot be decoded as an image; check the file")
    return image.astype(np.float32) / (65535 if image.dtype == np.uint16 else 255) if float32 else image


def imwrite(img: np.ndarray, file_path: str, params: list[int] | None = None, auto_mkdir: bool = True) -> None:
    """Write an image in OpenCV's order, BGR (H, W, 3) or gray, in the format of the suffix. See `write_image`.

    Args:
        img: BGR or gray.
        file_path: of the file.
        params: as in `cv2.imwrite`.
        auto_mkdir: make parent folders.

    Raises:
        OSError: when the file cannot be written.
    """
    if auto_mkdir:
        Path(file_path).absolute().parent.mkdir(parents=True, exist_ok=True)
    if not cv2.imwrite(str(file_path), img, params or []):
        raise OSError(f"Failed in writing images: {file_path}")


def crop_border(image: Any, border: int) -> Any:
    """Return `image` (H, W) or (H, W, C), or each of a list, without its outer `border` pixels; 0 keeps all.

    Raises:
        ValueError: when no pixel would remain.
    """
    if isinstance(image, (list, tuple)):
        return [crop_border(one, border) for one in image]
    height, width = image.shape[:2]
    if border < 0 or 2 * border >= min(height, width):
        raise ValueError(f"crop_border: cannot take {border} pixels off each side of an image of {height}x{width}")
    return image[border : height - border, border : width - border]


def bgr2ycbcr(img: np.ndarray, y_only: bool = False) -> np.ndarray:
    """Return the YCbCr image, or Y alone, of a BGR image; see `rgb2ycbcr`."""
    return rgb2ycbcr(img[..., ::-1], y_only)


def ycbcr2bgr(img: np.ndarray) -> np.ndarray:
    """Return the BGR image of a YCbCr image; see `ycbcr2rgb`."""
    return np.ascontiguousarray(ycbcr2rgb(img)[..., ::-1])


def _grid(images: Tensor) -> Tensor:
    """Return images (B, C, H, W) as one (C, rows, columns), a square grid with 2 black pixels around each."""
    count, channels, height, width = images.shape
    if count == 1:
        return images[0]
    gap = 2
    columns = min(max(int(math.sqrt(count)), 1), count)
    rows = math.ceil(count / columns)
    grid = images.new_zeros(channels, rows * (height + gap) + gap, columns * (width + gap) + gap)
    for k, image in enumerate(images):
        top, left = (k // columns) * (height + gap) + gap, (k % columns) * (width + gap) + gap
        grid[:, top : top + height, left : left + width] = image
    return grid
