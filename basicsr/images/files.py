"""Image files as pixels, and pixels as tensors. Images are RGB everywhere."""

import io
import os
import struct
import zlib
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import torch
from PIL import ExifTags, Image
from PIL.TiffImagePlugin import TiffImageFile
from torch import Tensor

from basicsr.engine.atomic import write_atomically
from basicsr.images.channel_order import as_rgb
from basicsr.images.completeness import check_complete, is_jpeg, pixels_end
from basicsr.images.walk import log_passed_over, walk

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".ppm", ".pgm")
DEEP_SUFFIXES = (".png", ".tif", ".tiff")  # formats that keep 16 bits a channel

PILLOW_FORMATS = ("PNG", "JPEG", "BMP", "TIFF", "WEBP", "PPM", "GIF")  # others run programs such as Ghostscript
ANIMATED_FORMATS = ("PNG", "WEBP", "TIFF", "GIF")  # a second frame in a JPEG is a camera's preview
TIFF_SIGNATURES = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
TIFF_WIDTH, TIFF_HEIGHT, TIFF_BITS, TIFF_SAMPLES, TIFF_SAMPLE_FORMAT = 256, 257, 258, 277, 339  # numbers of tags
TIFF_UNSIGNED = 1  # sample format
PILLOW_ERRORS = (  # raised by Pillow for damaged headers
    OSError,
    ValueError,
    SyntaxError,
    TypeError,
    LookupError,
    ArithmeticError,
    AttributeError,
    AssertionError,
    EOFError,
    RuntimeError,
    struct.error,
    zlib.error,
)


class ImageFacts(NamedTuple):
    """Facts from the header of an image file."""

    height: int
    width: int
    left_out: tuple[str, ...]
    """parts that `read_image` leaves out, in words: "its transparency", ..."""


class TiffSamples(NamedTuple):
    """How a TIFF stores its pixels."""

    bits: int
    """of a channel"""
    sample_format: int
    """1: unsigned integers, 2: signed ones, 3: floats"""
    channels: int


def read_image(path: str | Path) -> np.ndarray:
    """Return the pixels of an image file, (H, W, 3) RGB, uint8 or (files of 16 bits a channel) uint16.

    Gray images get three equal channels, palettes are resolved, CMYK is converted without regard to colour profiles,
    alpha is dropped and the colours under it stay as they are, and of an animation the first frame counts. The
    orientation that a JPEG or TIFF file asks for is applied (cameras set it); in other formats it is ignored. The
    content counts, not the suffix.

    Raises:
        FileNotFoundError: when there is no such file.
        ValueError: when the file is cut off, is no image, or has more pixels than Pillow takes (2 * MAX_IMAGE_PIXELS).
    """
    size = image_size(path)  # before decoding: an image that would fill the memory is an error
    return checked_size(decode_image(Path(path).read_bytes(), path), size, path)


def checked_size(image: np.ndarray, size: tuple[int, int], path: str | Path) -> np.ndarray:
    """Return `image`, after a check that it has the (height, width) from the header of its file.

    Raises:
        ValueError: when it has not. Decoders read a damaged orientation differently, and files change.
    """
    if image.shape[:2] != size:
        raise ValueError(
            f"{path}: its header said {size}, the image is {image.shape[:2]} (height, width); the file changed or is "
            "damaged, replace it"
        )
    return image


def decode_image(data: bytes, path: str | Path) -> np.ndarray:
    """Return the pixels of an encoded image in the form of `read_image`; `path` names it in messages.

    Raises:
        ValueError: when the data are cut off or no image.
    """
    if data.startswith(TIFF_SIGNATURES):
        return _decode_tiff(data, path)
    return cv2.cvtColor(_decode(data, path, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)


def decode_gray(data: bytes, path: str | Path) -> np.ndarray:
    """Return the pixels of an encoded image, (H, W, 1), uint8 or uint16, decoded into gray by OpenCV.

    The decoder of each format makes the gray (that of JPEG leaves out the colours, that of PNG weighs them), so it can
    differ by a level or two from the gray of decoded colours.

    Raises:
        ValueError: when the data are cut off or no image, naming `path`.
    """
    if data.startswith(TIFF_SIGNATURES):
        return cv2.cvtColor(_decode_tiff(data, path), cv2.COLOR_RGB2GRAY)[..., None]
    return _decode(data, path, cv2.IMREAD_GRAYSCALE)[..., None]


def image_size(path: str | Path) -> tuple[int, int]:
    """Return the (height, width) in pixels of `read_image(path)` from the header alone; raises as `image_facts`."""
    return image_facts(path)[:2]


def image_facts(path: str | Path) -> ImageFacts:
    """Return the size of `read_image(path)`, and the parts that it would leave out, from the header alone.

    Raises:
        FileNotFoundError: when there is no such file.
        ValueError: when the file is cut off, is no image, or has too many pixels.
    """
    with Path(path).open("rb") as file:
        check_complete(path, file)
        try:
            image = Image.open(file, formats=PILLOW_FORMATS)
            orientation = exif_orientation(image)
            is_applied = image.format in ("JPEG", "MPO", "TIFF")
            width, height = image.size
            if isinstance(image, TiffImageFile):  # some versions of Pillow have turned `size` by now
                width, height = image.tag_v2[TIFF_WIDTH], image.tag_v2[TIFF_HEIGHT]
            if is_applied and orientation in (5, 6, 7, 8):  # turned by a quarter
                width, height = height, width
            left_out = _left_out(image, not is_applied and orientation in range(2, 9))
            bits, sample_format, samples = _tiff_samples(image)
            end = pixels_end(image)
        except (Image.DecompressionBombError, MemoryError) as error:
            raise ValueError(f"{path}: has too many pixels ({error}); cut it into tiles") from error
        except PILLOW_ERRORS as error:
            raise ValueError(f"{path}: cannot be decoded as an image; replace the file") from error
        if bits > 16 or (bits > 8 and sample_format != TIFF_UNSIGNED):
            raise ValueError(f"{path}: expected 8 or 16 bits a channel, without sign; convert the file")
        if bits > 8 and samples > 4:
            raise ValueError(f"{path}: expected at most 4 channels of 16 bits, got {samples}; convert the file")
        if bits > 8 and orientation != 1:
            raise ValueError(f"{path}: 16-bit TIFF files with an orientation are not read; save it upright")
        if end > (size := file.seek(0, os.SEEK_END)):
            raise ValueError(f"{path}: the file is cut off ({size} of {end} bytes); copy or download it again")
    return ImageFacts(height, width, left_out)


def write_image(path: str | Path, image: np.ndarray, *, png_level: int | None = None) -> None:
    """Write `image`, (H, W, 3) RGB or (H, W) gray, uint8 or uint16, in the format of the suffix of `path`.

    Parent folders are made. The file appears whole or not at all.

    Raises:
        ValueError: for another shape or type, or a format that cannot hold the image.
    """
    write_atomically(path, encode_image(image, path, png_level=png_level))


def encode_image(image: np.ndarray, path: str | Path, *, png_level: int | None = None) -> bytes:
    """Return the content of an image file in the format of the suffix of `path`; see `write_image`.

    Args:
        image: (H, W, 3) RGB or (H, W) gray, uint8 or uint16.
        path: names the format, and the image in messages.
        png_level: compression of PNG files: 0, fast and large, to 9, slow and small; None: OpenCV's default.

    Raises:
        ValueError: for another shape or type, or a format that cannot hold the image.
    """
    suffix = Path(path).suffix
    is_gray = image.ndim == 2
    if image.dtype not in (np.uint8, np.uint16) or not (is_gray or (image.ndim == 3 and image.shape[2] == 3)):
        got = f"{image.dtype} {image.shape}"
        raise ValueError(f"{path}: expected uint8 or uint16 pixels (H, W, 3) or (H, W), got {got}; see to_pixels")
    if suffix.lower() not in IMAGE_SUFFIXES:
        raise ValueError(f"{path}: unknown image suffix {suffix!r}; use one of {' '.join(IMAGE_SUFFIXES)}")
    if image.dtype == np.uint16 and suffix.lower() not in DEEP_SUFFIXES:
        raise ValueError(f"{path}: this format has no 16-bit pixels; use one of {' '.join(DEEP_SUFFIXES)}")
    parameters = [] if png_level is None else [cv2.IMWRITE_PNG_COMPRESSION, png_level]
    pixels = image if is_gray else cv2.cvtColor(as_rgb(image), cv2.COLOR_RGB2BGR)
    is_encoded, data = cv2.imencode(suffix.lower(), pixels, parameters)
    if not is_encoded:
        raise ValueError(f"{path}: OpenCV cannot write {image.dtype} {image.shape} in this format; use .png")
    return data.tobytes()


def list_images(folder: str | Path) -> list[str]:
    """Return the paths of all images in `folder`, relative to it, by the rule of `basicsr.images.walk`, sorted.

    One line in the log says what was passed over.

    Raises:
        FileNotFoundError: when there is no such folder.
        OSError: when a folder in it cannot be read.
    """
    found = walk(folder, lambda name: name.endswith(IMAGE_SUFFIXES))
    log_passed_over(folder, found)
    return found.names


def to_tensor(image: np.ndarray) -> Tensor:
    """Return pixels (H, W, C) or (H, W) as a float32 tensor (C, H, W): integers scaled to [0, 1], floats unchanged."""
    pixels = image[..., None] if image.ndim == 2 else image
    # The axes are moved before the conversion: integers have fewer bytes, and flipped views cost no more.
    values = np.ascontiguousarray(pixels.transpose(2, 0, 1)).astype(np.float32)
    if np.issubdtype(image.dtype, np.integer):
        values /= np.iinfo(image.dtype).max
    return torch.from_numpy(values)


def to_pixels(tensor: Tensor) -> np.ndarray:
    """Return a tensor (C, H, W) or (1, C, H, W), C = 3 (RGB) or 1, as uint8 pixels (H, W, 3) or (H, W).

    Values are clamped to [0, 1] and rounded to the nearest of 256 levels.

    Raises:
        ValueError: for another shape.
    """
    values = tensor.detach().squeeze(0) if tensor.ndim == 4 else tensor.detach()
    if values.ndim != 3 or values.shape[0] not in (1, 3):
        raise ValueError(f"to_pixels: expected (3, H, W) or (1, H, W), one image, got {tuple(tensor.shape)}")
    levels = values.float().clamp(0, 1).mul(255).round().to(torch.uint8)
    pixels = np.ascontiguousarray(levels.permute(1, 2, 0).cpu().numpy())
    return pixels if pixels.shape[2] == 3 else pixels[..., 0]


def _decode(data: bytes, path: str | Path, flags: int) -> np.ndarray:
    """Return an image decoded by OpenCV, BGR or gray, of 8 or 16 bits."""
    check_complete(path, io.BytesIO(data))
    flags |= cv2.IMREAD_ANYDEPTH
    if not is_jpeg(data):
        flags |= cv2.IMREAD_IGNORE_ORIENTATION
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), flags) if data else None
    except cv2.error as error:  # too many pixels, or an assertion that a damaged file ran into
        raise ValueError(f"{path}: cannot be decoded as an image ({error.err}); replace the file") from error
    if image is None:
        raise ValueError(f"{path}: cannot be decoded as an image; replace the file")
    if image.dtype not in (np.uint8, np.uint16):
        raise ValueError(f"{path}: expected 8 or 16 bits a channel, got {image.dtype}; convert the file")
    return image


def _decode_tiff(data: bytes, path: str | Path) -> np.ndarray:
    """Return the RGB pixels of a TIFF file.

    Pillow checks every strip: OpenCV multiplies colours by the alpha of 8-bit files, and returns the rest of the image
    when a strip is damaged. But Pillow keeps only 8 bits.
    """
    try:
        with Image.open(io.BytesIO(data), formats=("TIFF",)) as image:
            image.load()
            if _tiff_samples(image).bits <= 8:
                return np.array(image.convert("RGB"))
            is_turned = exif_orientation(image) != 1
    except (Image.DecompressionBombError, MemoryError) as error:
        raise ValueError(f"{path}: has too many pixels ({error}); cut it into tiles") from error
    except PILLOW_ERRORS as error:
        raise ValueError(f"{path}: cannot be decoded as an image; replace the file") from error
    if is_turned:
        raise ValueError(f"{path}: 16-bit TIFF files with an orientation are not read; save it upright")
    return cv2.cvtColor(_decode(data, path, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)


def exif_orientation(image: Image.Image) -> int:
    """Return the EXIF orientation, 1 (upright) to 8. `Image.getexif` reads XMP's too, which no decoder applies."""
    if image.format == "TIFF":
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    exif = Image.Exif()
    try:
        exif.load(image.info.get("exif", b""))
        return int(exif.get(ExifTags.Base.Orientation, 1))
    except PILLOW_ERRORS:  # decoders ignore a damaged block
        return 1


def _tiff_samples(image: Image.Image) -> TiffSamples:
    """Return the facts of a TIFF's pixels; of other formats, 8 bits."""
    if not isinstance(image, TiffImageFile):
        return TiffSamples(8, TIFF_UNSIGNED, len(image.getbands()))
    bits, kinds, count = (image.tag_v2.get(tag, 1) for tag in (TIFF_BITS, TIFF_SAMPLE_FORMAT, TIFF_SAMPLES))
    return TiffSamples(int(np.max(bits)), int(np.max(kinds)), int(np.max(count)))


def _left_out(image: Image.Image, is_turned: bool) -> tuple[str, ...]:
    facts = {
        "its transparency": image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info,
        "its frames after the first": image.format in ANIMATED_FORMATS and getattr(image, "n_frames", 1) > 1,
        "its orientation": is_turned,
    }
    return tuple(words for words, is_so in facts.items() if is_so)
