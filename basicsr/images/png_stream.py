"""PNG files written row by row, so that pictures may be larger than memory."""

import struct
import zlib
from collections.abc import Iterable
from typing import BinaryIO

import numpy as np

COLOUR_TYPES = {1: 0, 2: 4, 3: 2, 4: 6}  # channels -> gray, gray + alpha, RGB, RGBA
MAX_SIDE = 2**31 - 1
ZLIB_LEVEL = 4  # 6 takes nearly three times as long and saves 2 %
CHUNK_BYTES = 1 << 20
_SUB, _UP, _AVERAGE = 1, 2, 3  # filter types


class PngStream:
    """A PNG file to which rows are added; `close` ends it.

    Args:
        file: to write to.
        size: (H, W) in px.
        channels: 1 gray, 2 gray and alpha, 3 RGB, 4 RGBA.
        bits: a channel: 8 or 16.
        chunks: names and contents of further chunks, such as a colour profile, in front of the pixels.

    Raises:
        ValueError: for another number of channels or bits, or a side that the format does not have.
    """

    def __init__(
        self,
        file: BinaryIO,
        size: tuple[int, int],
        channels: int,
        bits: int = 8,
        chunks: Iterable[tuple[bytes, bytes]] = (),
    ):
        height, width = size
        if channels not in COLOUR_TYPES or bits not in (8, 16) or not 0 < min(size) <= max(size) <= MAX_SIDE:
            raise ValueError(f"PNG: no {channels} channels of {bits} bits in {width}x{height} px")
        self._file = file
        self._shape = (height, width, channels)
        self._dtype = np.dtype(np.uint8 if bits == 8 else np.uint16)
        self._offset = channels * bits // 8  # bytes of a pixel
        self._last_line = np.zeros(width * self._offset, np.uint8)
        self._rows = 0
        self._compress = zlib.compressobj(ZLIB_LEVEL, zlib.DEFLATED, 15, 9, zlib.Z_FILTERED)
        self._compressed = bytearray()
        file.write(b"\x89PNG\r\n\x1a\n")
        self._chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, COLOUR_TYPES[channels], 0, 0, 0))
        for name, data in chunks:
            self._chunk(name, data)

    def write(self, rows: np.ndarray) -> None:
        """Add rows, (h, W, channels) or, of one channel, (h, W).

        Raises:
            ValueError: for another shape or type, or more rows than the picture has.
        """
        rows = rows[..., None] if rows.ndim == 2 else rows
        height, width, channels = self._shape
        if rows.dtype != self._dtype or rows.shape[1:] != (width, channels) or self._rows + len(rows) > height:
            raise ValueError(f"PNG: {rows.dtype} {rows.shape} are no rows of {self._shape} after {self._rows} of them")
        stored = rows if rows.dtype == np.uint8 else rows.astype(">u2")
        lines = np.ascontiguousarray(stored).view(np.uint8).reshape(len(rows), -1)
        step = max(1, CHUNK_BYTES // max(1, lines.shape[1]))
        for top in range(0, len(lines), step):
            self._compressed += self._compress.compress(self._filtered(lines[top : top + step]))
            if len(self._compressed) >= CHUNK_BYTES:
                self._flush()
        self._rows += len(rows)

    def close(self) -> None:
        """End the file.

        Raises:
            ValueError: when rows are missing.
        """
        if self._rows != self._shape[0]:
            raise ValueError(f"PNG: {self._rows} of {self._shape[0]} rows were written")
        self._compressed += self._compress.flush()
        self._flush()
        self._chunk(b"IEND", b"")

    def _filtered(self, lines: np.ndarray) -> bytes:
        """Return each line after its filter type: the one of three with the least sum of absolute differences."""
        above = np.concatenate([self._last_line[None], lines[:-1]])
        left = np.zeros_like(lines)
        left[:, self._offset :] = lines[:, : -self._offset]
        mean = (left & above) + ((left ^ above) >> 1)  # without overflow
        filtered = {_SUB: lines - left, _UP: lines - above, _AVERAGE: lines - mean}
        # Differences are modulo 256: 255 counts as 1.
        costs = [np.minimum(difference, 0 - difference).sum(axis=1, dtype=np.int64) for difference in filtered.values()]
        best = np.argmin(costs, axis=0)
        out = np.empty((len(lines), lines.shape[1] + 1), np.uint8)
        for i, (number, difference) in enumerate(filtered.items()):
            out[best == i, 0] = number
            out[best == i, 1:] = difference[best == i]
        self._last_line = lines[-1].copy()
        return out.tobytes()

    def _flush(self) -> None:
        if self._compressed:
            self._chunk(b"IDAT", bytes(self._compressed))
            self._compressed.clear()

    def _chunk(self, name: bytes, data: bytes) -> None:
        self._file.write(struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)))
