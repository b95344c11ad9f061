"""A video in pieces: groups of pictures that are encoded by themselves, each in a file that is whole or absent.

The pieces lie in a hidden folder beside the output until that is made of them without encoding again. Every run,
resumed or not, encodes the same groups by themselves, so the encoder of a resumed run gets what that of a run that was
never interrupted gets.
"""

import itertools
import json
import shutil
import struct
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from basicsr.engine.atomic import atomic_path, remove_leftovers, write_atomically
from basicsr.errors import first_line
from basicsr.inference.video.encoder import Encoding, frame_of, open_encoder
from basicsr.inference.video.library import load_av
from basicsr.inference.video.reader import Batch

if TYPE_CHECKING:
    from av.packet import Packet

SEGMENT_FRAMES = 96  # pictures of a segment; a crash loses at most that many
MAGIC = b"basicsr segment 1\n"
HEADER = struct.Struct("<II")  # pictures, bytes of the encoder's header
RECORD = struct.Struct("<q?I")  # presentation time, is a key frame, bytes


@dataclass(frozen=True)
class EncodedPicture:
    """A picture as the encoder gave it, in decoding order; `time` of presentation in units of the source."""

    time: int
    is_key: bool
    data: bytes


class Parts:
    """The folder of the segments of one output.

    Args:
        target: the output.
    """

    def __init__(self, target: Path):
        self.folder = target.with_name(f".{target.name}.parts")
        self._settings = self.folder / "settings.json"

    def exist(self) -> bool:
        """Return whether there is a finished segment."""
        return self._settings.is_file() and self._path(0).is_file()

    def start(self, settings: Mapping[str, Any]) -> None:
        """Make the folder anew, for a run with these settings."""
        self.remove()
        self.folder.mkdir(parents=True)
        write_atomically(self._settings, json.dumps(settings, indent=1), durable=True)

    def resume(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """Return the settings of the run that is continued.

        Args:
            settings: of this run; all of them must be as they were, but `tile`, which may depend on free memory.

        Raises:
            ValueError: when they differ, naming what does.
        """
        try:
            stored = json.loads(self._settings.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(f"{self._settings}: is damaged; delete its folder, and start anew") from error
        differing = [key for key in settings if key != "tile" and stored.get(key) != settings[key]]
        if differing:
            changes = ", ".join(f"{key} ({stored.get(key)!r}, now {settings[key]!r})" for key in differing)
            raise ValueError(
                f"{self.folder}: holds parts made with other settings: {changes}; give those again, or take "
                "--overwrite without --resume to start anew"
            )
        remove_leftovers(self.folder)
        return stored

    def count(self) -> int:
        """Return the finished segments from the first on without a gap."""
        return next(k for k in itertools.count() if not self._path(k).is_file())

    def pictures(self) -> int:
        """Return the pictures in them."""
        return sum(self._header(k)[0] for k in range(self.count()))

    def remove(self) -> None:
        """Delete the folder."""
        shutil.rmtree(self.folder, ignore_errors=True)

    @contextmanager
    def writing(self, number: int, encoding: Encoding) -> "Iterator[SegmentWriter]":
        """Yield the writer of a segment, to be finished; it is there, whole, when the block ends well."""
        with atomic_path(self._path(number), durable=True) as temporary, temporary.open("wb") as file:
            try:
                yield SegmentWriter(file, encoding)
            except load_av().error.FFmpegError as error:
                raise ValueError(f"{encoding} failed ({first_line(error)}); take another --codec") from error

    def times(self) -> list[int]:
        """Return the presentation times of all pictures, in decoding order."""
        times = []
        for file in self._files():
            while record := file.read(RECORD.size):
                time, _, size = RECORD.unpack(record)
                times.append(time)
                file.seek(size, 1)
        return times

    def read(self) -> Iterator[EncodedPicture]:
        """Yield all pictures, in decoding order."""
        for file in self._files():
            while record := file.read(RECORD.size):
                time, is_key, size = RECORD.unpack(record)
                yield EncodedPicture(time, is_key, file.read(size))

    def check_header(self, header: bytes) -> None:
        """Check that an encoder's header is that of all segments.

        Raises:
            ValueError: when it is not.
        """
        for number in range(self.count()):
            if self._header(number)[1] != header:
                raise ValueError(f"{self._path(number)}: was written by another encoder; --overwrite starts anew")

    def _path(self, number: int) -> Path:
        return self.folder / f"{number:06}.segment"

    def _header(self, number: int) -> tuple[int, bytes]:
        with self._path(number).open("rb") as file:
            return _read_header(file, self._path(number))

    def _files(self) -> Iterator[IO[bytes]]:
        """Yield the segments, open behind their headers."""
        for number in range(self.count()):
            with self._path(number).open("rb") as file:
                _read_header(file, self._path(number))
                yield file


def _read_header(file: IO[bytes], path: Path) -> tuple[int, bytes]:
    if file.read(len(MAGIC)) != MAGIC:
        raise ValueError(f"{path}: is no segment of this version; --overwrite starts anew")
    pictures, size = HEADER.unpack(file.read(HEADER.size))
    return pictures, file.read(size)


class SegmentWriter:
    """Encodes the pictures of one segment into a file.

    The encoder counts pictures at an even rate, which every encoder takes; the file has their true times.
    """

    def __init__(self, file: IO[bytes], encoding: Encoding):
        self._file = file
        self._encoding = encoding
        self._encoder = open_encoder(encoding)
        self._times: list[int] = []
        header = bytes(self._encoder.extradata or b"")
        self._file.write(MAGIC + HEADER.pack(0, len(header)) + header)

    def write(self, batch: Batch) -> None:
        """Encode pictures."""
        for k, time in enumerate(batch.times):
            frame = frame_of([kind[k] for kind in batch.planes], self._encoding)
            frame.pts, frame.time_base = len(self._times), 1 / self._encoding.rate
            self._times.append(time)
            self._store(self._encoder.encode(frame))

    def finish(self) -> None:
        """Write what the encoder still holds, and the number of pictures."""
        self._store(self._encoder.encode(None))
        self._file.seek(len(MAGIC))
        self._file.write(struct.pack("<I", len(self._times)))

    def _store(self, packets: "list[Packet]") -> None:
        for packet in packets:
            if packet.pts is None:
                raise ValueError(f"{self._encoding} gives pictures without times; take another --codec")
            data = bytes(packet)
            self._file.write(RECORD.pack(self._times[packet.pts], packet.is_keyframe, len(data)) + data)
