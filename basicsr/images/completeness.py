"""Checks that image files are whole. Decoders fill missing parts with gray and go on, or find them too late."""

import os
from pathlib import Path
from typing import BinaryIO

from PIL.ImageFile import ImageFile
from PIL.TiffImagePlugin import TiffImageFile

END_SEARCH_BYTES = 65536  # cameras append previews and notes after the end marker
MAX_JPEG_SEGMENTS = 10_000  # in front of the pixels; a colour profile takes a few
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
PNG_END = b"IEND"
JPEG_END = b"\xff\xd9"
TIFF_STRIPS, TIFF_TILES = (273, 279), (324, 325)  # numbers of the tags of positions and lengths
RAW_BITS = {"1": 1, "1;I": 1, "I;16B": 16}  # of a pixel; others have 8 for each channel


def is_jpeg(head: bytes) -> bool:
    """Return whether the first bytes of a file are those of a JPEG file."""
    return head[:2] == b"\xff\xd8"


def check_complete(path: str | Path, file: BinaryIO) -> None:
    """Check that a PNG or JPEG file has its end marker, and that its chunks lie inside it; rewind it.

    Raises:
        ValueError: when it is cut off or damaged, naming `path`.
    """
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    head = file.read(8)
    end = PNG_END if head == PNG_SIGNATURE else JPEG_END if is_jpeg(head) else b""
    start = _jpeg_scan_start(file) if is_jpeg(head) else 0  # a preview in front of it has an end marker of its own
    file.seek(max(start, size - END_SEARCH_BYTES))
    if end not in file.read():
        raise ValueError(f"{path}: the file is cut off (no end marker); copy or download it again")
    if end == PNG_END and not _png_chunks_fit(file, size):
        raise ValueError(f"{path}: cannot be decoded as an image (a chunk is longer than the file); replace the file")
    file.seek(0)


def _png_chunks_fit(file: BinaryIO, size: int) -> bool:
    """Return whether all chunks lie within the `size` bytes of a PNG file; OpenCV allocates what a chunk claims."""
    position = 8
    while True:
        file.seek(position)
        chunk = file.read(8)
        if len(chunk) < 8:
            return True  # no end chunk: the decoder reports it
        position += 12 + int.from_bytes(chunk[:4], "big")
        if position > size or chunk[4:] == PNG_END:
            return position <= size


def _jpeg_scan_start(file: BinaryIO) -> int:
    """Return the position of the first scan of a JPEG file, behind the segments, each of which gives its length."""
    position = 2
    for _ in range(MAX_JPEG_SEGMENTS):
        file.seek(position)
        mark = file.read(4)
        if len(mark) < 4 or mark[0] != 0xFF or mark[1] == 0xDA:
            break
        position += 1 if mark[1] == 0xFF else 2 + int.from_bytes(mark[2:], "big")  # 0xFF: padding
    return position


def pixels_end(image: ImageFile) -> int:
    """Return the position behind the last pixel of a TIFF, BMP or PPM file, by its header; 0 where that is not known.

    Args:
        image: opened, not decoded.

    Raises:
        Exception: any, for a damaged header.
    """
    if isinstance(image, TiffImageFile):
        ends = [0]
        for offsets, lengths in (TIFF_STRIPS, TIFF_TILES):
            ends += map(sum, zip(image.tag_v2.get(offsets, ()), image.tag_v2.get(lengths, ()), strict=False))
        return max(ends)
    if image.format not in ("BMP", "PPM") or not image.tile or image.tile[0][0] != "raw":
        return 0
    _, extents, offset, arguments = image.tile[0]
    raw_mode, stride, *_ = arguments if isinstance(arguments, tuple) else (arguments, 0)
    bits = RAW_BITS.get(str(raw_mode), 8 * len(image.getbands()))
    rows = extents[3] - extents[1] if extents else 0
    return offset + rows * (stride or (image.width * bits + 7) // 8)
