"""Image files, and the way between their pixels and tensors. Images are RGB everywhere; BGR never leaves this file."""

import os
from pathlib import Path

import cv2
import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".ppm", ".pgm")
DEEP_SUFFIXES = (".png", ".tif", ".tiff")  # formats that keep 16 bits a channel

EXIF_ORIENTATION = 0x0112
END_SEARCH_BYTES = 65536  # cameras append previews and notes after the end marker


def read_image(path: str | Path) -> np.ndarray:
    """The pixels of an image file, (H, W, 3) RGB, uint8 or (files of 16 bits a channel) uint16.

    Gray images get three equal channels, palettes are resolved, alpha is dropped. The EXIF orientation is applied to
    JPEG files (cameras set it) and ignored elsewhere.

    Raises:
        FileNotFoundError: when there is no such file.
        ValueError: when the file is cut off or is no image.
    """
    return decode_image(Path(path).read_bytes(), path)


def decode_image(data: bytes, path: str | Path) -> np.ndarray:
    """The pixels of an encoded image, as `read_image` returns them; `path` names it in messages.

    Raises:
        ValueError: when the data are cut off or no image.
    """
    _check_complete(path, data[:8], data[-END_SEARCH_BYTES:])
    flags = cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH
    if not _is_jpeg(data):
        flags |= cv2.IMREAD_IGNORE_ORIENTATION
    image = cv2.imdecode(np.frombuffer(data, np.uint8), flags) if data else None
    if image is None:
        raise ValueError(f"{path}: cannot be decoded as an image; replace the file")
    if image.dtype not in (np.uint8, np.uint16):
        raise ValueError(f"{path}: expected 8 or 16 bits a channel, got {image.dtype}; convert the file")
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def image_size(path: str | Path) -> tuple[int, int]:
    """(height, width) in pixels as `read_image` would return them, from the header alone.

    Raises:
        FileNotFoundError: when there is no such file.
        ValueError: when the file is cut off or is no image.
    """
    with Path(path).open("rb") as file:
        head = file.read(8)
        file.seek(max(0, os.path.getsize(path) - END_SEARCH_BYTES))
        _check_complete(path, head, file.read())
        try:
            image = Image.open(file)
        except UnidentifiedImageError as error:
            raise ValueError(f"{path}: cannot be decoded as an image; replace the file") from error
        turned = _is_jpeg(head) and image.getexif().get(EXIF_ORIENTATION, 1) >= 5  # 5..8: by a quarter
        return (image.width, image.height) if turned else (image.height, image.width)


def write_image(path: str | Path, image: np.ndarray, *, png_level: int | None = None) -> None:
    """Write `image`, (H, W, 3) RGB or (H, W) gray, uint8 or uint16, in the format that the suffix of `path` names.

    Parent folders are made. The file appears whole or not at all.

    Raises:
        ValueError: for another shape or type, or a format that cannot hold the image.
    """
    path = Path(path)
    data = encode_image(image, path, png_level=png_level)
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        beside.write_bytes(data)
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)


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
        raise ValueError(f"{path}: expected uint8 or uint16 pixels (H, W, 3) or (H, W), got {got}; see tensor2img")
    if suffix.lower() not in IMAGE_SUFFIXES:
        raise ValueError(f"{path}: unknown image suffix {suffix!r}; use one of {' '.join(IMAGE_SUFFIXES)}")
    if image.dtype == np.uint16 and suffix.lower() not in DEEP_SUFFIXES:
        raise ValueError(f"{path}: this format has no 16-bit pixels; use one of {' '.join(DEEP_SUFFIXES)}")
    parameters = [] if png_level is None else [cv2.IMWRITE_PNG_COMPRESSION, png_level]
    pixels = image if is_gray else cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
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
    values = image.astype(np.float32)
    if np.issubdtype(image.dtype, np.integer):
        values /= np.iinfo(image.dtype).max
    values = values[..., None] if values.ndim == 2 else values
    return torch.from_numpy(np.ascontiguousarray(values.transpose(2, 0, 1)))


def tensor2img(tensor: Tensor) -> np.ndarray:
    """A tensor (C, H, W) or (1, C, H, W), C = 3 (RGB) or 1, as uint8 pixels (H, W, 3) or (H, W).

    Values are clamped to [0, 1] and rounded to the nearest of 256 levels.

    Raises:
        ValueError: for another shape.
    """
    values = tensor.detach().squeeze(0) if tensor.ndim == 4 else tensor.detach()
    if values.ndim != 3 or values.shape[0] not in (1, 3):
        raise ValueError(f"tensor2img: expected (3, H, W) or (1, H, W), one image, got {tuple(tensor.shape)}")
    levels = values.float().clamp(0, 1).mul(255).round().to(torch.uint8)
    pixels = np.ascontiguousarray(levels.permute(1, 2, 0).cpu().numpy())
    return pixels if pixels.shape[2] == 3 else pixels[..., 0]


def crop_border(image: np.ndarray, border: int) -> np.ndarray:
    """`image` (H, W) or (H, W, C) without its outer `border` pixels; 0 keeps all.

    Raises:
        ValueError: when nothing would be left.
    """
    height, width = image.shape[:2]
    if border < 0 or 2 * border >= min(height, width):
        raise ValueError(f"crop_border: cannot take {border} pixels off each side of an image of {height}x{width}")
    return image[border : height - border, border : width - border]


def _is_jpeg(head: bytes) -> bool:
    return head[:2] == b"\xff\xd8"


def _check_complete(path: str | Path, head: bytes, tail: bytes) -> None:
    """Decoders fill what is missing from a cut-off file with gray and go on, so look for the end marker first."""
    end = b"IEND" if head == b"\x89PNG\r\n\x1a\n" else b"\xff\xd9" if _is_jpeg(head) else b""
    if end not in tail:
        raise ValueError(f"{path}: the file is cut off (no end marker); copy or download it again")
