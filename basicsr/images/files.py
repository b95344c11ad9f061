"""Image files, and the way between their pixels and tensors. Images are RGB everywhere.

At the end are the functions of BasicSR's time, whose images are BGR as OpenCV has them: for plug-ins alone.
"""

import io
import math
import os
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, cast

import cv2
import numpy as np
import torch
from PIL import ExifTags, Image
from PIL.TiffImagePlugin import TiffImageFile
from torch import Tensor

from basicsr.engine.atomic import write_atomically

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".ppm", ".pgm")
DEEP_SUFFIXES = (".png", ".tif", ".tiff")  # formats that keep 16 bits a channel

END_SEARCH_BYTES = 65536  # cameras append previews and notes after the end marker
MAX_SEGMENTS = 10_000  # of a JPEG file before its pixels; a colour profile takes a few
FORMATS = ("PNG", "JPEG", "BMP", "TIFF", "WEBP", "PPM", "GIF")  # that Pillow may look at; it knows programs, too
ANIMATED_FORMATS = ("PNG", "WEBP", "TIFF", "GIF")  # a second frame in a JPEG is a camera's preview
TIFF_HEADS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
TIFF_WIDTH, TIFF_HEIGHT, TIFF_BITS = 256, 257, 258  # tags; bits of each channel
# What Pillow raises for headers that make no sense.
PILLOW_FAULTS = (
    OSError, ValueError, SyntaxError, TypeError, LookupError, ArithmeticError, AttributeError, AssertionError, EOFError,
    RuntimeError, struct.error, zlib.error,
)  # fmt: skip


class ImageFacts(NamedTuple):
    """What the header of an image file says."""

    height: int
    width: int
    left_out: tuple[str, ...]
    """what `read_image` does not give back, in words: "its transparency", ..."""


def read_image(path: str | Path) -> np.ndarray:
    """The pixels of an image file, (H, W, 3) RGB, uint8 or (files of 16 bits a channel) uint16.

    Gray images get three equal channels, palettes are resolved, CMYK is converted without regard to colour profiles,
    alpha is dropped and the colours under it stay as they are, and of an animation the first frame counts. The
    orientation that a JPEG or TIFF file asks for is applied (cameras set it); in other formats it is ignored. The
    content counts, not the suffix.

    Raises:
        FileNotFoundError: when there is no such file.
        ValueError: when the file is cut off, is no image, or has more pixels than Pillow takes (2 * MAX_IMAGE_PIXELS).
    """
    size = image_size(path)  # refuses an image that would fill the memory
    return checked_size(decode_image(Path(path).read_bytes(), path), size, path)


def checked_size(image: np.ndarray, size: tuple[int, int], path: str | Path) -> np.ndarray:
    """`image`, if it has the (height, width) that the header of its file said.

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
    """The pixels of an encoded image, as `read_image` returns them; `path` names it in messages.

    Raises:
        ValueError: when the data are cut off or no image.
    """
    if data.startswith(TIFF_HEADS):
        return _decode_tiff(data, path)
    return cv2.cvtColor(_decode(data, path, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)


def decode_gray(data: bytes, path: str | Path) -> np.ndarray:
    """The pixels of an encoded image, (H, W, 1), uint8 or uint16, as OpenCV decodes it into gray.

    The decoder of each format makes the gray (that of JPEG leaves out the colours, that of PNG weighs them), so it can
    differ by a level or two from the gray of decoded colours.

    Raises:
        ValueError: when the data are cut off or no image, naming `path`.
    """
    if data.startswith(TIFF_HEADS):
        return cv2.cvtColor(_decode_tiff(data, path), cv2.COLOR_RGB2GRAY)[..., None]
    return _decode(data, path, cv2.IMREAD_GRAYSCALE)[..., None]


def image_size(path: str | Path) -> tuple[int, int]:
    """(height, width) in pixels as `read_image` would return them, from the header alone; raises as `image_facts`."""
    return image_facts(path)[:2]


def image_facts(path: str | Path) -> ImageFacts:
    """Size and shape as `read_image` would return them, and what it would leave out, from the header alone.

    Raises:
        FileNotFoundError: when there is no such file.
        ValueError: when the file is cut off, is no image, or has too many pixels.
    """
    with Path(path).open("rb") as file:
        _check_complete(path, file)
        try:
            image = Image.open(file, formats=FORMATS)
            orientation = _orientation(image)
            is_applied = image.format in ("JPEG", "MPO", "TIFF")
            width, height = image.size
            if isinstance(image, TiffImageFile):  # some versions of Pillow have turned `size` by now
                width, height = image.tag_v2[TIFF_WIDTH], image.tag_v2[TIFF_HEIGHT]
            if is_applied and orientation in (5, 6, 7, 8):  # turned by a quarter
                width, height = height, width
            left_out = _left_out(image, not is_applied and orientation in range(2, 9))
        except (Image.DecompressionBombError, MemoryError) as error:
            raise ValueError(f"{path}: has too many pixels ({error}); cut it into tiles") from error
        except PILLOW_FAULTS as error:
            raise ValueError(f"{path}: cannot be decoded as an image; replace the file") from error
    return ImageFacts(height, width, left_out)


def write_image(path: str | Path, image: np.ndarray, *, png_level: int | None = None) -> None:
    """Write `image`, (H, W, 3) RGB or (H, W) gray, uint8 or uint16, in the format that the suffix of `path` names.

    Parent folders are made. The file appears whole or not at all.

    Raises:
        ValueError: for another shape or type, or a format that cannot hold the image.
    """
    write_atomically(path, encode_image(image, path, png_level=png_level))


def encode_image(image: np.ndarray, path: str | Path, *, png_level: int | None = None) -> bytes:
    """`image` as a file's content in the format that the suffix of `path` names; see `write_image`.

    Args:
        image: (H, W, 3) RGB or (H, W) gray, uint8 or uint16.
        path: names the format, and the image in messages.
        png_level: of PNG files: 0, fast and large, to 9, slow and small; None: OpenCV's default.

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
    pixels = image if is_gray or isinstance(image, BGRImage) else cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    done, encoded = cv2.imencode(suffix.lower(), pixels, parameters)
    if not done:
        raise ValueError(f"{path}: OpenCV cannot write {image.dtype} {image.shape} in this format; use .png")
    return encoded.tobytes()


def list_images(folder: str | Path) -> list[str]:
    """Paths of all images in `folder` and its subfolders, relative to it, with forward slashes, sorted.

    Hidden files (as macOS leaves beside each image) do not count.

    Raises:
        FileNotFoundError: when there is no such folder.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder")
    found = (path for path in folder.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES)
    return sorted(path.relative_to(folder).as_posix() for path in found if not path.name.startswith("."))


def to_tensor(image: np.ndarray) -> Tensor:
    """Pixels (H, W, C) or (H, W) as a float32 tensor (C, H, W): integers scaled to [0, 1], floats with their values."""
    pixels = image[..., None] if image.ndim == 2 else image
    # The axes are moved before the conversion: integers have fewer bytes, and views that are flipped cost no more.
    values = np.ascontiguousarray(pixels.transpose(2, 0, 1)).astype(np.float32)
    if np.issubdtype(image.dtype, np.integer):
        values /= np.iinfo(image.dtype).max
    return torch.from_numpy(values)


def to_pixels(tensor: Tensor) -> np.ndarray:
    """A tensor (C, H, W) or (1, C, H, W), C = 3 (RGB) or 1, as uint8 pixels (H, W, 3) or (H, W).

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


def crop_border(image: Any, border: int) -> Any:
    """`image` (H, W) or (H, W, C), or each of a list of them, without its outer `border` pixels; 0 keeps all.

    Raises:
        ValueError: when nothing would be left.
    """
    if isinstance(image, (list, tuple)):
        return [crop_border(one, border) for one in image]
    height, width = image.shape[:2]
    if border < 0 or 2 * border >= min(height, width):
        raise ValueError(f"crop_border: cannot take {border} pixels off each side of an image of {height}x{width}")
    return image[border : height - border, border : width - border]


class BGRImage(np.ndarray):
    """Pixels (H, W, 3) that know that their channels are BGR, as OpenCV has them, so that metrics read them right.

    Plug-ins hand images around without saying their order, and the luma of swapped channels is another one. Whatever
    picks or reorders channels gives a plain array: who does that knows the order.
    """

    def __getitem__(self, key: Any) -> Any:
        item = super().__getitem__(key)
        keeps = isinstance(item, BGRImage) and item.ndim == 3 and item.shape[2] == 3 and not _picks_channels(key)
        return item if keeps or not isinstance(item, BGRImage) else item.view(np.ndarray)


def as_rgb(image: np.ndarray) -> np.ndarray:
    """The same pixels with their channels in the order RGB, as a plain array."""
    return np.ascontiguousarray(image[..., ::-1]) if isinstance(image, BGRImage) else image


def tensor2img(
    tensor: Tensor | Sequence[Tensor],
    rgb2bgr: bool = True,
    out_type: type = np.uint8,
    min_max: tuple[float, float] = (0, 1),
) -> Any:
    """Tensors as images the way BasicSR's plug-ins expect them: BGR unless told otherwise. See `to_pixels` for RGB.

    Args:
        tensor: (B, 3 or 1, H, W), whose images are laid side by side in a grid; (1, C, H, W), (C, H, W) or (H, W); RGB.
            Or a list of such.
        rgb2bgr: channels in OpenCV's order; otherwise RGB.
        out_type: np.uint8 rounds to [0, 255]; a float type keeps [0, 1].
        min_max: the values that become 0 and 1; what is beyond is clamped.

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
    """Images (H, W, C) as tensors (C, H, W) with the same values; a list gives a list.

    Args:
        imgs: one array or a list of them.
        bgr2rgb: swap the channels of images that have three.
        float32: convert; otherwise the type stays.
    """
    if isinstance(imgs, (list, tuple)):
        return [img2tensor(one, bgr2rgb, float32) for one in imgs]
    pixels = np.asarray(imgs)
    if bgr2rgb and pixels.shape[2] == 3:
        pixels = pixels[..., ::-1]
    tensor = torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))
    return tensor.float() if float32 else tensor


def imfrombytes(content: bytes, flag: str = "color", float32: bool = False) -> np.ndarray:
    """The pixels of an encoded image, uint8, BGR (H, W, 3) or gray (H, W).

    Args:
        content: of the file.
        flag: "color", "grayscale", or "unchanged" for the channels that the file has.
        float32: floats in [0, 1] instead.

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
    """Write an image as OpenCV has it, BGR (H, W, 3) or gray, in the format that the suffix names. See `write_image`.

    Args:
        img: as OpenCV has it.
        file_path: parent folders are made.
        params: as in `cv2.imwrite`.
        auto_mkdir: make the folders.

    Raises:
        OSError: when the file cannot be written.
    """
    if auto_mkdir:
        Path(file_path).absolute().parent.mkdir(parents=True, exist_ok=True)
    if not cv2.imwrite(str(file_path), img, params or []):
        raise OSError(f"Failed in writing images: {file_path}")


def _picks_channels(key: Any) -> bool:
    """Whether an index of an (H, W, 3) array says something about its last axis."""
    if not isinstance(key, tuple):
        return isinstance(key, np.ndarray) and key.ndim == 3
    given = [part for part in key if part is not None and part is not Ellipsis]
    if any(part is Ellipsis for part in key):
        return key[-1] is not Ellipsis and key[-1] != slice(None)
    return len(given) > 2 and given[2] != slice(None)


def _grid(images: Tensor) -> Tensor:
    """(B, C, H, W) as one image (C, rows, columns), about as many rows as columns, 2 pixels of black around each."""
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


def _decode(data: bytes, path: str | Path, flags: int) -> np.ndarray:
    """What OpenCV decodes, BGR or gray, of 8 or 16 bits."""
    _check_complete(path, io.BytesIO(data))
    flags |= cv2.IMREAD_ANYDEPTH
    if not _is_jpeg(data):
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
    """RGB pixels of a TIFF file.

    Pillow looks at every strip: OpenCV multiplies colours by the alpha of 8-bit files, and returns what it has when a
    strip is damaged. But Pillow keeps only 8 bits.
    """
    try:
        with Image.open(io.BytesIO(data), formats=("TIFF",)) as image:
            bits = max(np.atleast_1d(cast(TiffImageFile, image).tag_v2.get(TIFF_BITS, 1)))
            image.load()
            if bits <= 8:
                return np.array(image.convert("RGB"))
            is_turned = _orientation(image) != 1
    except (Image.DecompressionBombError, MemoryError) as error:
        raise ValueError(f"{path}: has too many pixels ({error}); cut it into tiles") from error
    except PILLOW_FAULTS as error:
        raise ValueError(f"{path}: cannot be decoded as an image; replace the file") from error
    if is_turned:
        raise ValueError(f"{path}: 16-bit TIFF files with an orientation are not read; save it upright")
    return cv2.cvtColor(_decode(data, path, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1 (upright) to 8. That of XMP, which `Image.getexif` takes too, no decoder applies."""
    if image.format == "TIFF":
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    exif = Image.Exif()
    try:
        exif.load(image.info.get("exif", b""))
        return int(exif.get(ExifTags.Base.Orientation, 1))
    except PILLOW_FAULTS:  # decoders pass over a damaged block
        return 1


def _left_out(image: Image.Image, is_turned: bool) -> tuple[str, ...]:
    facts = {
        "its transparency": image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info,
        "its frames after the first": image.format in ANIMATED_FORMATS and getattr(image, "n_frames", 1) > 1,
        "its orientation": is_turned,
    }
    return tuple(words for words, is_so in facts.items() if is_so)


def _is_jpeg(head: bytes) -> bool:
    return head[:2] == b"\xff\xd8"


def _check_complete(path: str | Path, file: BinaryIO) -> None:
    """Decoders fill what is missing from a cut-off file with gray and go on, so look for the end marker first."""
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    head = file.read(8)
    end = b"IEND" if head == b"\x89PNG\r\n\x1a\n" else b"\xff\xd9" if _is_jpeg(head) else b""
    start = _jpeg_scan(file) if _is_jpeg(head) else 0  # what comes before may hold a preview, with an end of its own
    file.seek(max(start, size - END_SEARCH_BYTES))
    if end not in file.read():
        raise ValueError(f"{path}: the file is cut off (no end marker); copy or download it again")
    if end == b"IEND" and not _chunks_fit(file, size):
        raise ValueError(f"{path}: cannot be decoded as an image (a chunk is longer than the file); replace the file")
    file.seek(0)


def _chunks_fit(file: BinaryIO, size: int) -> bool:
    """Whether all chunks of a PNG file lie within its `size` bytes; OpenCV takes memory for what a chunk claims."""
    position = 8
    while True:
        file.seek(position)
        chunk = file.read(8)
        if len(chunk) < 8:
            return True  # no end; for the decoder to refuse
        position += 12 + int.from_bytes(chunk[:4], "big")
        if position > size or chunk[4:] == b"IEND":
            return position <= size


def _jpeg_scan(file: BinaryIO) -> int:
    """Where the first scan of a JPEG file begins: behind its segments, each with its length."""
    position = 2
    for _ in range(MAX_SEGMENTS):
        file.seek(position)
        mark = file.read(4)
        if len(mark) < 4 or mark[0] != 0xFF or mark[1] == 0xDA:
            break
        position += 1 if mark[1] == 0xFF else 2 + int.from_bytes(mark[2:], "big")  # 0xFF: filling
    return position
