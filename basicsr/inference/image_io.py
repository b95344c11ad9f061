"""Reading and writing of images for inference: files, arrays and PIL images, gray, alpha, 8 and 16 bits."""

import contextlib
import logging
import tempfile
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from PIL import Image
from torch import Tensor

from basicsr.engine.atomic import atomic_path, write_atomically
from basicsr.images.alpha import ALPHA_SUFFIXES, decode_alpha, encode_with_alpha
from basicsr.images.channel_order import as_rgb
from basicsr.images.files import (
    DEEP_SUFFIXES,
    IMAGE_SUFFIXES,
    checked_size,
    decode_gray,
    decode_image,
    encode_image,
    image_facts,
)
from basicsr.images.matlab_resize import imresize
from basicsr.images.png_stream import PngStream

logger = logging.getLogger("basicsr")
Pixels = np.ndarray  # (H, W, C), or with alpha (H, W, C + 1); C is that of the network

OUTPUT_DTYPES: dict[int, np.dtype[Any]] = {  # by bits
    8: np.dtype(np.uint8),
    16: np.dtype(np.uint16),
    32: np.dtype(np.float32),
}
MAX_SIDE = {".jpg": 65500, ".jpeg": 65500, ".webp": 16383}  # px, of an image in that format
STRIP_ROWS = 64  # of the output that are rounded and written at a time
CANVAS_BYTES = 512 * 2**20  # larger outputs lie in a file, which the system may write out, where they must be held
BICUBIC_MARGIN = 4  # px of the input; the bicubic kernel reaches 2


def read_pixels(path: str | Path, channels: int) -> Pixels:
    """Return the pixels of a file, RGB (H, W, 3) or gray (H, W, 1), uint8 or uint16; alpha is one channel more.

    Gray is what OpenCV decodes. Frames after the first and (but in JPEG and TIFF) the EXIF orientation are left out,
    with a warning.

    Args:
        channels: 3 for RGB, 1 for gray.

    Raises:
        OSError: when the file cannot be read.
        ValueError: when it is cut off, is no image, or has too many pixels.
    """
    path = Path(path)
    facts = image_facts(path)
    data = path.read_bytes()
    image = checked_size((decode_gray if channels == 1 else decode_image)(data, path), facts[:2], path)
    for feature in facts.left_out:
        if feature == "its transparency":
            alpha = checked_size(decode_alpha(data, path, image.dtype), facts[:2], path)
            image = np.dstack([image, alpha])
        else:
            logger.warning("%s: %s is left out", path, feature)
    return image


def read_pixels_for(source: Path, target: Path, channels: int, upscale: int, bits: int) -> Pixels:
    """Return the pixels of `source`, without alpha where the format of `target` has none.

    Raises:
        OSError: as `read_pixels`.
        ValueError: as `read_pixels`, and when the format of `target` cannot hold the output.
    """
    image = read_pixels(source, channels)
    if image.shape[2] > channels and target.suffix.lower() not in ALPHA_SUFFIXES:
        logger.warning("%s: its transparency is left out, for %s files have none", source, target.suffix)
        image = image[..., :channels]
    check_target(target, (upscale * image.shape[0], upscale * image.shape[1]), bits)
    return image


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


def check_target(path: str | Path, size: tuple[int, int], bits: int) -> None:
    """Check that the format of a file can hold the output, before the network runs.

    Args:
        path: of the file; its suffix names the format.
        size: (H, W) of the output in px.
        bits: of a channel.

    Raises:
        ValueError: naming the file and a format that can.
    """
    suffix = Path(path).suffix.lower()
    if suffix not in IMAGE_SUFFIXES:
        raise ValueError(f"{path}: unknown image suffix {suffix!r}; use one of {' '.join(IMAGE_SUFFIXES)}")
    if output_dtype(bits) == np.float32 or (bits == 16 and suffix not in DEEP_SUFFIXES):
        raise ValueError(f"{path}: this format has no {bits}-bit pixels; use one of {' '.join(DEEP_SUFFIXES)}")
    limit = MAX_SIDE.get(suffix)
    if limit is not None and max(size) > limit:
        raise ValueError(f"{path}: {size[1]}x{size[0]} px are more than {suffix} files have ({limit} a side); use .png")


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


@contextlib.contextmanager
def canvas(shape: tuple[int, ...], dtype: np.dtype, folder: Path) -> Iterator[Pixels]:
    """Yield an array to be filled; a large one lies in a nameless file in `folder`."""
    if np.prod(shape, dtype=np.int64) * dtype.itemsize <= CANVAS_BYTES:
        yield np.empty(shape, dtype)
        return
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder) as file:
        yield np.memmap(file, dtype, "w+", shape=shape)


def fill(output: np.ndarray, strips: Iterator[Pixels]) -> None:
    """Copy strips of rows into an array from top to bottom."""
    top = 0
    for strip in strips:
        output[top : top + len(strip)] = strip
        top += len(strip)


def write_pixels(pixels: Pixels, target: Path, channels: int, bits: int) -> None:
    """Write an output (H, W, C), or with alpha (H, W, C + 1), in the format of its suffix; the file is whole or absent.

    Args:
        pixels: uint8 or uint16, as `bits` says.
        target: the file.
        channels: C.
        bits: of a channel, 8 or 16.
    """
    if target.suffix.lower() == ".png":
        strips = (pixels[top : top + STRIP_ROWS] for top in range(0, len(pixels), STRIP_ROWS))
        write_png(strips, target, pixels.shape, bits)
        return
    if pixels.shape[2] > channels:
        data = encode_with_alpha(pixels, target)
    else:
        data = encode_image(pixels if channels == 3 else pixels[..., 0], target)
    write_atomically(target, data)


def write_png(strips: Iterator[Pixels], target: Path, shape: tuple[int, ...], bits: int) -> None:
    """Write a PNG file of shape (H, W, C) from strips of rows; the file is whole or absent."""
    first = next(strips)  # where the first strip fails, not even a folder is made
    with atomic_path(target) as temporary, temporary.open("wb") as file:
        stream = PngStream(file, (shape[0], shape[1]), shape[2], bits)
        for strip in chain([first], strips):
            stream.write(strip)
        stream.close()
