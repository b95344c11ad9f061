"""Video files frame by frame, by the FFmpeg that OpenCV's wheels hold. Sound is neither read nor written."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from basicsr.engine.atomic import atomic_path

# Suffix -> codec to write: MPEG-4 Part 2, Motion JPEG, FFV1 (lossless), VP9. OpenCV's wheels have no H.264 encoder.
CODECS = {".mp4": "mp4v", ".m4v": "mp4v", ".mov": "mp4v", ".avi": "MJPG", ".mkv": "FFV1", ".webm": "VP90"}
VIDEO_SUFFIXES = tuple(CODECS)
MAX_SIDE = {"mp4v": 8191, "MJPG": 65500, "FFV1": 65535, "VP90": 65535}  # px; MPEG-4 has 13 bits for a side
DEFAULT_FPS = 25.0  # where a file has none


class VideoFacts(NamedTuple):
    """The header of a video file."""

    height: int
    width: int
    fps: float
    frames: int
    """may be wrong; 0: unknown."""


class VideoReader:
    """The frames of a video file, RGB uint8 (H, W, 3), upright, in their order. Use it in `with`.

    Raises:
        FileNotFoundError: when there is no such file.
        ValueError: when it cannot be read as a video, naming it.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        if not self.path.is_file():
            raise FileNotFoundError(f"{path}: no such file")
        self._first: np.ndarray | None
        with _quiet():
            self._capture = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG)
            is_read, self._first = self._capture.read() if self._capture.isOpened() else (False, None)
        if not is_read or self._first is None:
            self._capture.release()
            raise ValueError(
                f"{path}: cannot be read as a video; it is damaged, or its codec is not in OpenCV's FFmpeg; "
                "convert it, for example by `ffmpeg -i in -c:v mpeg4 -q:v 2 out.mp4`"
            )
        fps = self._capture.get(cv2.CAP_PROP_FPS)
        frames = self._capture.get(cv2.CAP_PROP_FRAME_COUNT)
        height, width = self._first.shape[:2]
        self.facts = VideoFacts(
            height,
            width,
            float(fps) if math.isfinite(fps) and 0 < fps < 1000 else DEFAULT_FPS,
            int(frames) if math.isfinite(frames) and 0 < frames < 2**31 else 0,
        )

    def __enter__(self) -> "VideoReader":
        return self

    def __exit__(self, *error: object) -> None:
        self._capture.release()

    def __iter__(self) -> Iterator[np.ndarray]:
        """Yield all frames, once.

        Raises:
            ValueError: when a frame has another size than the first.
        """
        frame, self._first = self._first, None
        while frame is not None:
            if frame.shape[:2] != self.facts[:2]:
                raise ValueError(f"{self.path}: its frames change in size; cut it where they do")
            yield cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)
            is_read, frame = self._capture.read()
            frame = frame if is_read else None


class VideoWriter:
    """Writes frames into a video file, in the codec of its suffix (`CODECS`). Use it in `with`.

    The file appears, whole, only when the block ends well. OpenCV writes even sides alone, so the last row or column of
    an odd side is repeated.

    Args:
        path: parent folders are made; an existing file is replaced.
        fps: frames a second.

    Raises:
        ValueError: when the suffix is unknown, or the codec cannot write frames of this size.
    """

    def __init__(self, path: str | Path, fps: float):
        self.path = Path(path)
        self.fps = fps
        self.frames = 0
        self._size: tuple[int, int] | None = None
        self._writer: cv2.VideoWriter | None = None
        self._file = atomic_path(self.path)

    def __enter__(self) -> "VideoWriter":
        codec_for(self.path)
        self._temporary = self._file.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if self._writer is not None:
            self._writer.release()
        if error is None and not (self._temporary.is_file() and self._temporary.stat().st_size):
            error = ValueError(f"{self.path}: no frame was written")
            self._file.__exit__(ValueError, error, None)
            raise error
        self._file.__exit__(kind, error, trace)  # type: ignore[arg-type]

    def write(self, frame: np.ndarray) -> None:
        """Add a frame, RGB (H, W, 3) or gray (H, W), uint8.

        Raises:
            ValueError: when it has another size than the first, or the codec does not take it.
        """
        height, width = frame.shape[:2]
        if height % 2 or width % 2:
            frame = cv2.copyMakeBorder(frame, 0, height % 2, 0, width % 2, cv2.BORDER_REPLICATE)
        size = frame.shape[:2]
        if self._writer is None:
            codec = codec_for(self.path, size)
            with _quiet():
                self._writer = cv2.VideoWriter(
                    str(self._temporary), cv2.CAP_FFMPEG, cv2.VideoWriter.fourcc(*codec), self.fps, (size[1], size[0])
                )
            if not self._writer.isOpened():
                raise ValueError(
                    f"{self.path}: OpenCV cannot write {size[1]}x{size[0]} px with codec {codec}; take another suffix "
                    f"({' '.join(CODECS)})"
                )
            self._size = size
        if size != self._size:
            raise ValueError(f"{self.path}: a frame of {size} after frames of {self._size} (height, width)")
        self._writer.write(cv2.cvtColor(frame, cv2.COLOR_GRAY2BGR if frame.ndim == 2 else cv2.COLOR_RGB2BGR))
        self.frames += 1


def codec_for(path: str | Path, size: tuple[int, int] | None = None) -> str:
    """Return the codec of a file with this name.

    Args:
        size: (H, W) of its frames, to be checked.

    Raises:
        ValueError: when the suffix has none, or the codec has no frames so large.
    """
    suffix = Path(path).suffix.lower()
    if suffix not in CODECS:
        raise ValueError(f"{path}: unknown video suffix {suffix!r}; use one of {' '.join(CODECS)}")
    codec = CODECS[suffix]
    if size is not None and max(size) > MAX_SIDE[codec]:
        raise ValueError(
            f"{path}: {size[1]}x{size[0]} px are more than codec {codec} has ({MAX_SIDE[codec]} a side); use .mkv"
        )
    return codec


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence OpenCV's own lines about a file, which our message replaces. FFmpeg's cannot be silenced."""
    level = cv2.utils.logging.getLogLevel()
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    try:
        yield
    finally:
        cv2.utils.logging.setLogLevel(level)
