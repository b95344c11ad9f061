"""Transparency of image files, read and written."""

import io
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from basicsr.images.files import PILLOW_ERRORS, PILLOW_FORMATS

ALPHA_SUFFIXES = (".png", ".tif", ".tiff", ".webp")


def decode_alpha(data: bytes, path: str | Path, dtype: np.dtype | type) -> np.ndarray:
    """Return the alpha of an encoded image, (H, W) of `dtype`: 0 is transparent; also of palettes and single colours.

    Args:
        data: content of the file.
        path: for messages.
        dtype: uint8 or uint16, that of the colours. A single transparent colour is matched in 8 bits only.

    Raises:
        ValueError: when it cannot be decoded, naming `path`.
    """
    if dtype == np.uint16:
        try:
            deep = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
        except cv2.error as error:
            raise ValueError(f"{path}: cannot be decoded as an image ({error.err}); replace the file") from error
        if deep is not None and deep.dtype == np.uint16 and deep.ndim == 3 and deep.shape[2] == 4:
            return np.ascontiguousarray(deep[..., 3])
    try:
        with Image.open(io.BytesIO(data), formats=PILLOW_FORMATS) as image:
            alpha = np.array(image.convert("RGBA").getchannel("A"))
    except (*PILLOW_ERRORS, Image.DecompressionBombError, MemoryError) as error:
        raise ValueError(f"{path}: its transparency cannot be decoded; replace the file") from error
    return alpha.astype(np.uint16) * 257 if dtype == np.uint16 else alpha


def encode_with_alpha(image: np.ndarray, path: str | Path) -> bytes:
    """Return `image`, (H, W, 4) RGBA or (H, W, 2), uint8 or, in TIFF, uint16, as the content of a TIFF or WebP file.

    WebP is lossless here, except that colours of fully transparent pixels are lost.

    Raises:
        ValueError: when the format of the suffix of `path` has no transparency, or cannot hold the image.
    """
    suffix = Path(path).suffix.lower()
    if suffix not in ALPHA_SUFFIXES:
        raise ValueError(f"{path}: {suffix} files have no transparency; use one of {' '.join(ALPHA_SUFFIXES)}")
    rgba = image if image.shape[2] == 4 else image[..., [0, 0, 0, 1]]
    if suffix in (".tif", ".tiff") and image.dtype == np.uint8:
        buffer = io.BytesIO()  # by Pillow: OpenCV does not mark the channel as alpha
        Image.fromarray(image).save(buffer, "TIFF", compression="tiff_lzw")
        return buffer.getvalue()
    is_encoded, data = cv2.imencode(suffix, cv2.cvtColor(rgba, cv2.COLOR_RGBA2BGRA))
    if not is_encoded:
        raise ValueError(f"{path}: OpenCV cannot write {image.dtype} {image.shape} in this format; use .png")
    return data.tobytes()
