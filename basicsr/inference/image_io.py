"""Pixels of inference: arrays, tensors and PIL images, gray, alpha, 8 and 16 bits."""

from typing import Any

import cv2
import numpy as np
import torch
from PIL import Image
from torch import Tensor

from basicsr.images.channel_order import as_rgb
from basicsr.images.matlab_resize import imresize

Pixels = np.ndarray  # (H, W, C), or with alpha (H, W, C + 1); C is that of the network

OUTPUT_DTYPES: dict[int, np.dtype[Any]] = {  # by bits
    8: np.dtype(np.uint8),
    16: np.dtype(np.uint16),
    32: np.dtype(np.float32),
}
BICUBIC_MARGIN = 4  # px of the input; the bicubic kernel reaches 2


def pixels_of_pil(image: Image.Image) -> np.ndarray:
    """Return the pixels of a PIL image, uint8 or, of 16-bit gray, uint16; with alpha where it has some.

    Raises:
        ValueError: for modes without a range.
    """
    if image.mode.startswith("I;16"):
        return np.array(image, dtype=np.uint16)
    if image.mode in ("I", "F"):
        raise ValueError(f"PIL images of mode {image.mode} have no range; pass an array of uint16, or floats in [0, 1]")
    if image.mode in ("LA", "La"):
        return np.array(image.convert("LA"))
    if image.mode in ("RGBA", "RGBa", "PA") or "transparency" in image.info:
        return np.array(image.convert("RGBA"))
    return np.array(image.convert("L" if image.mode in ("1", "L") else "RGB"))


def match_channels(image: Any, channels: int) -> Pixels:
    """Return an array as (H, W, C) or, with alpha, (H, W, C + 1): gray repeated for RGB, RGB turned into gray.

    Args:
        image: (H, W), (H, W, 1 or 3) or, with alpha, (H, W, 2 or 4); uint8, uint16 or floats in [0, 1].
        channels: C.

    Raises:
        ValueError: for anything else.
    """
    if not isinstance(image, np.ndarray):
        raise ValueError(f"expected an array, a PIL image or a path, got {type(image).__name__}")
    image = as_rgb(image)
    image = image[..., None] if image.ndim == 2 else image
    is_float = np.issubdtype(image.dtype, np.floating)
    if image.ndim != 3 or image.shape[2] not in (1, 2, 3, 4) or 0 in image.shape:
        raise ValueError(f"expected an image (H, W), (H, W, 3) or, with alpha, (H, W, 4), got {image.shape}")
    if image.dtype not in (np.uint8, np.uint16) and not is_float:
        raise ValueError(f"expected an image of uint8, uint16 or floats in [0, 1], got {image.dtype}")
    if is_float and not (np.isfinite(image).all() and np.abs(image).max() <= 2):
        raise ValueError("expected floats in [0, 1]; divide pixels of 8 bits by 255")
    has_alpha = image.shape[2] in (2, 4)
    colours = image[..., :-1] if has_alpha else image
    if colours.shape[2] == 1 and channels == 3:
        colours = np.repeat(colours, 3, axis=2)
    elif colours.shape[2] == 3 and channels == 1:
        colours = np.ascontiguousarray(colours, np.float32 if is_float else image.dtype)
        colours = cv2.cvtColor(colours, cv2.COLOR_RGB2GRAY)[..., None]
    if colours.shape[2] != channels:
        raise ValueError(f"the network takes {channels} channels, got an image {image.shape}")
    return np.dstack([colours, image[..., -1]]) if has_alpha else colours


def output_dtype(bits: int) -> np.dtype[Any]:
    """Return uint8, uint16 or float32 for 8, 16 or 32 bits.

    Raises:
        ValueError: for other bits.
    """
    if bits not in OUTPUT_DTYPES:
        raise ValueError(f"bits: must be one of {', '.join(map(str, OUTPUT_DTYPES))}, got {bits!r}")
    return OUTPUT_DTYPES[bits]


def output_values(sr: Tensor) -> np.ndarray:
    """Return (B, C, h, w) as an array (B, h, w, C).

    Raises:
        ValueError: when a value is nan or inf.
    """
    if not torch.stack(torch.aminmax(sr)).isfinite().all():  # nan passes through aminmax
        raise ValueError("the network gives values that are no numbers (nan or inf); its weights are damaged")
    return sr.permute(0, 2, 3, 1).numpy()


def quantize(values: np.ndarray, bits: int) -> np.ndarray:
    """Return floats clamped to [0, 1], and for 8 and 16 bits rounded to the nearest level."""
    clamped = values.clip(0, 1)
    if bits == 32:
        return clamped
    dtype = OUTPUT_DTYPES[bits]
    clamped *= np.iinfo(dtype).max
    return np.rint(clamped, out=clamped).astype(dtype)


def enlarge_alpha(image: Pixels, top: int, bottom: int, upscale: int) -> np.ndarray:
    """Return rows [top, bottom) of the last channel, enlarged bicubically: floats, (rows, s*W, 1)."""
    first = max(0, top // upscale - BICUBIC_MARGIN)
    alpha = image[first : -(-bottom // upscale) + BICUBIC_MARGIN, :, -1].astype(np.float32)
    alpha /= np.iinfo(image.dtype).max if np.issubdtype(image.dtype, np.integer) else 1
    return imresize(alpha, upscale)[top - upscale * first : bottom - upscale * first, :, None]
