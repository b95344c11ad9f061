"""Outputs written to picture files, with the colour profile and the metadata of their inputs.

PNG files are written row by row; others are encoded as a whole.
"""

import contextlib
import io
import tempfile
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image
from PIL.TiffImagePlugin import TiffImageFile

from basicsr.engine.atomic import atomic_path, write_atomically
from basicsr.images.alpha import encode_with_alpha
from basicsr.images.files import DEEP_SUFFIXES, encode_image
from basicsr.images.png_stream import PngStream
from basicsr.inference.formats import (
    HEIF_SUFFIXES,
    JPEG_SUFFIXES,
    MAX_SIDE,
    OUTPUT_SUFFIXES,
    PNG_SUFFIXES,
    TIFF_SUFFIXES,
)
from basicsr.inference.image_io import Pixels, output_dtype
from basicsr.inference.metadata import Metadata, jpeg_with, png_chunks, tiff_with
from basicsr.inference.settings import OutputSettings

STRIP_ROWS = 64  # of the output that are written at a time
CANVAS_BYTES = 512 * 2**20  # larger outputs lie in a file, which the system may write out, where they must be held
JPEG_QUALITY, AVIF_QUALITY = 95, 90  # where none is asked for
FULL_COLOUR_QUALITY = 90  # from here on JPEG and AVIF have colours in full resolution (4:4:4)
OPAQUE_FROM = 128  # alpha of a pixel that GIF, which has no half-transparent ones, shows


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
    if suffix in HEIF_SUFFIXES:
        raise ValueError(f"{path}: HEIC files are read, not written; use .jpg, .avif or .png")
    if suffix not in OUTPUT_SUFFIXES:
        raise ValueError(f"{path}: unknown image suffix {suffix!r}; use one of {' '.join(OUTPUT_SUFFIXES)}")
    if output_dtype(bits) == np.float32 or (bits == 16 and suffix not in DEEP_SUFFIXES):
        raise ValueError(f"{path}: this format has no {bits}-bit pixels; use one of {' '.join(DEEP_SUFFIXES)}")
    limit = MAX_SIDE.get(suffix)
    if limit is not None and max(size) > limit:
        raise ValueError(f"{path}: {size[1]}x{size[0]} px are more than {suffix} files have ({limit} a side); use .png")


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


def write_pixels(pixels: Pixels, target: Path, channels: int, settings: OutputSettings, metadata: Metadata) -> None:
    """Write an output (H, W, C), or with alpha (H, W, C + 1), in the format of its suffix; the file is whole or absent.

    Args:
        pixels: uint8 or uint16, as `settings.bits` says.
        target: the file.
        channels: C.
        settings: bits and quality count.
        metadata: written where the format has a place for it.
    """
    if target.suffix.lower() in PNG_SUFFIXES:
        strips = (pixels[top : top + STRIP_ROWS] for top in range(0, len(pixels), STRIP_ROWS))
        write_png(strips, target, pixels.shape, settings.bits, metadata)
    else:
        write_atomically(target, _encoded(pixels, target, channels, settings.quality, metadata))


def write_png(
    strips: Iterator[Pixels], target: Path, shape: tuple[int, ...], bits: int, metadata: Metadata | None = None
) -> None:
    """Write a PNG file of shape (H, W, C) from strips of rows; the file is whole or absent."""
    first = next(strips)  # where the first strip fails, not even a folder is made
    chunks = png_chunks(metadata or Metadata())
    with atomic_path(target) as temporary, temporary.open("wb") as file:
        stream = PngStream(file, (shape[0], shape[1]), shape[2], bits, chunks)
        for strip in chain([first], strips):
            stream.write(strip)
        stream.close()


def as_pil(pixels: Pixels) -> Image.Image:
    """Return pixels (H, W, C), uint8, C from 1 to 4, as a PIL image: gray, gray and alpha, RGB or RGBA."""
    return Image.fromarray(pixels if pixels.shape[2] > 1 else pixels[..., 0])


def lossy_arguments(suffix: str, quality: int | None) -> dict[str, Any]:
    """Return Pillow's arguments of WebP and AVIF files for a quality; None: the default of the format."""
    if suffix == ".webp":
        return {"lossless": True} if quality is None else {"quality": quality}
    if suffix == ".avif":
        quality = quality or AVIF_QUALITY
        return {"quality": quality, **({"subsampling": "4:4:4"} if quality >= FULL_COLOUR_QUALITY else {})}
    return {}


def hard_edged(pixels: Pixels, channels: int) -> Pixels:
    """Return pixels for GIF files: alpha, where there is some, is 0 or 255."""
    if pixels.shape[2] == channels:
        return pixels
    alpha = np.where(pixels[..., -1:] < OPAQUE_FROM, 0, 255).astype(np.uint8)
    return np.concatenate([pixels[..., :-1], alpha], axis=2)


def _encoded(pixels: Pixels, target: Path, channels: int, quality: int | None, metadata: Metadata) -> bytes:
    """Return the content of a file in another format than PNG."""
    suffix, has_alpha = target.suffix.lower(), pixels.shape[2] > channels
    if suffix in (".webp", ".avif", ".gif"):
        buffer = io.BytesIO()
        if suffix == ".gif":
            as_pil(hard_edged(pixels, channels)).save(buffer, "GIF")
        else:
            options = {**lossy_arguments(suffix, quality), **metadata.for_pillow()}
            as_pil(pixels).save(buffer, suffix[1:].upper(), **options)
        return buffer.getvalue()
    if suffix in JPEG_SUFFIXES:
        return jpeg_with(_encode_jpeg(pixels, target, quality or JPEG_QUALITY), metadata, str(target))
    if has_alpha:
        data = encode_with_alpha(pixels, target)
    else:
        data = encode_image(pixels if channels == 3 else pixels[..., 0], target)
    if suffix in TIFF_SUFFIXES and (has_alpha or metadata != Metadata()):
        with Image.open(io.BytesIO(data), formats=("TIFF",)) as image:
            if isinstance(image, TiffImageFile):
                return tiff_with(image, data, metadata, has_alpha)
    return data


def _encode_jpeg(pixels: Pixels, target: Path, quality: int) -> bytes:
    is_full = quality >= FULL_COLOUR_QUALITY
    sampling = cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444 if is_full else cv2.IMWRITE_JPEG_SAMPLING_FACTOR_420
    parameters = [cv2.IMWRITE_JPEG_QUALITY, quality, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, sampling]
    stored = cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR) if pixels.shape[2] == 3 else pixels
    is_encoded, data = cv2.imencode(".jpg", stored, parameters)
    if not is_encoded:
        raise ValueError(f"{target}: OpenCV cannot write {pixels.shape} in this format; use .png")
    return data.tobytes()
