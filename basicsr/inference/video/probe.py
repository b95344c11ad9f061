"""What a video file holds, found by its header and its first picture; what cannot be done right is refused here."""

import logging
import re
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from basicsr.errors import first_line
from basicsr.inference.video.color import BT709, LUMA_WEIGHTS, RGB, SMPTE170M, UNSPECIFIED, Samples
from basicsr.inference.video.library import load_av

if TYPE_CHECKING:
    import av
    from av.container import InputContainer
    from av.video.frame import VideoFrame

logger = logging.getLogger("basicsr")
FULL_RANGE = 2  # FFmpeg's AVCOL_RANGE_JPEG
TRANSFERS = {16: "PQ", 18: "HLG"}  # of HDR; ITU-T H.273, table 3
MATRICES = {8: "YCgCo", 10: "BT.2020 with constant luminance", 14: "ICtCp", 15: "IPT-C2"}  # not converted here
HD_HEIGHT = 720  # px from which players take untagged pictures for BT.709; below for BT.601
MIN_SHARE = 0.95  # of the frames that a duration has room for; fewer mean that the file is damaged
DEFAULT_RATE = Fraction(25)  # frames a second where a file has none


class Turn(NamedTuple):
    """How stored pictures are made upright: exchange rows and columns, then mirror."""

    transposed: bool = False
    mirrored_x: bool = False
    mirrored_y: bool = False


class HdrMetadata(NamedTuple):
    """The display that HDR was mastered on, and its brightest values."""

    primaries: tuple[float, ...]  # x and y of red, green, blue and white
    luminance: tuple[float, float]  # least and most, cd/m^2
    light: tuple[int, int]  # MaxCLL and MaxFALL, cd/m^2; 0: unknown


@dataclass(frozen=True)
class VideoFacts:
    """The pictures of a video file.

    Args:
        path: the file.
        stream: index of the video stream.
        height, width: of the stored pictures in px, before `turn`.
        samples: of the planes that `reader` gives.
        turn: to make them upright.
        primaries, transfer: tags of the colours, codes of ITU-T H.273.
        aspect: width of a pixel by its height, as stored.
        rate: frames a second, the mean.
        time_base: seconds of a unit of presentation times.
        end: presentation time at which the last picture ends; None: unknown.
        frames: as the file says, for the progress; 0: unknown.
        least_frames: fewer mean that the file is damaged; 0: unknown. Those that an edit list cuts away count.
        hdr: None where the file has none.
    """

    path: Path
    stream: int
    height: int
    width: int
    samples: Samples
    turn: Turn
    primaries: int
    transfer: int
    aspect: Fraction
    rate: Fraction
    time_base: Fraction
    end: int | None
    frames: int
    least_frames: int
    hdr: HdrMetadata | None

    @property
    def is_hdr(self) -> bool:
        """Return whether the pictures are PQ or HLG."""
        return self.transfer in TRANSFERS

    @property
    def upright(self) -> tuple[int, int]:
        """Return (height, width) of the upright pictures."""
        return (self.width, self.height) if self.turn.transposed else (self.height, self.width)


def probe(path: str | Path) -> VideoFacts:
    """Return what a video file holds.

    Raises:
        FileNotFoundError: when there is no such file.
        OptionError: when PyAV is not installed.
        ValueError: when it cannot be read as a video, or not rightly: interlaced, matrices of colour that are not
            known here; naming the file.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    with opened(path) as container:
        stream = video_stream(container, path)
        try:
            frame = next(container.decode(stream))
        except (StopIteration, EOFError):
            raise ValueError(f"{path}: cannot be read as a video; no picture could be decoded") from None
        return _facts(path, stream, frame)


def picture_facts(path: Path, height: int, width: int, rate: Fraction) -> VideoFacts:
    """Return the facts of 8-bit RGB pictures that come one by one, for a file that is not there yet."""
    unknown = (UNSPECIFIED, UNSPECIFIED)
    samples = Samples("rgb", 8, BT709, True)
    return VideoFacts(path, 0, height, width, samples, Turn(), *unknown, Fraction(1), rate, 1 / rate, None, 0, 0, None)


@contextmanager
def opened(path: Path) -> "Iterator[InputContainer]":
    """Open a video file for reading; errors of FFmpeg name the file.

    Raises:
        ValueError: when it cannot be read as a video.
    """
    av = load_av()
    try:
        with av.open(str(path), metadata_errors="replace") as container:
            yield container
    except av.error.FFmpegError as error:
        raise ValueError(
            f"{path}: cannot be read as a video ({first_line(error)}); it is damaged, or its codec is not in PyAV's "
            "FFmpeg; convert it, for example by `ffmpeg -i in -c:v libx264 -crf 16 out.mp4`"
        ) from error


def video_stream(container: "InputContainer", path: Path) -> "av.VideoStream":
    """Return the stream of pictures, not one of a cover.

    Raises:
        ValueError: when there is none that can be decoded.
    """
    covers = load_av().stream.Disposition.attached_pic
    streams = [s for s in container.streams.video if not s.disposition & covers and s.codec_context is not None]
    if not streams:
        raise ValueError(f"{path}: cannot be read as a video; it holds no pictures that FFmpeg can decode")
    stream = next((s for s in streams if s.disposition & load_av().stream.Disposition.default), streams[0])
    stream.thread_type = "AUTO"
    return stream


def _facts(path: Path, stream: "av.VideoStream", frame: "VideoFrame") -> VideoFacts:
    context = stream.codec_context
    check_progressive(path, frame.interlaced_frame or context.field_order > 1)
    transfer = _tag(frame.color_trc, context.color_trc)
    side_data = _side_data(frame)
    if "DOVI_METADATA" in side_data and transfer == UNSPECIFIED:
        raise ValueError(f"{path}: is Dolby Vision of profile 5, whose colours need Dolby's own conversion; convert it")
    for name, title in (("DOVI_METADATA", "Dolby Vision"), ("DYNAMIC_HDR_PLUS", "HDR10+")):
        if name in side_data:
            logger.warning("%s: the metadata of %s is left out, which an enlargement does not keep true", path, title)
    rate = stream.average_rate or stream.guessed_rate or DEFAULT_RATE
    time_base = stream.time_base or 1 / rate
    end = None if stream.duration is None else (stream.start_time or 0) + stream.duration
    return VideoFacts(
        path,
        stream.index,
        frame.height,
        frame.width,
        _samples(path, frame, context),
        _turn(path, side_data.get("DISPLAYMATRIX"), frame.rotation),
        _tag(frame.color_primaries, context.color_primaries),
        transfer,
        stream.sample_aspect_ratio or Fraction(1),
        rate if 0 < rate < 1000 else DEFAULT_RATE,
        time_base,
        end,
        stream.frames or round(rate * _seconds(stream)),
        int(MIN_SHARE * (stream.frames or rate * _seconds(stream, of_stream=True))),
        _hdr_metadata(side_data),
    )


def check_progressive(path: Path, is_interlaced: bool) -> None:
    """Refuse interlaced pictures.

    Raises:
        ValueError: when they are, saying what to do.
    """
    if is_interlaced:
        raise ValueError(
            f"{path}: is interlaced, two moments in each picture, which enlarging would mix; deinterlace it first, for "
            "example by `ffmpeg -i in -vf bwdif=send_frame -c:v libx264 -crf 16 -c:a copy out.mp4`"
        )


def _seconds(stream: "av.VideoStream", *, of_stream: bool = False) -> Fraction:
    """Return the duration of a stream that counts no frames, as in Matroska; 0: unknown.

    Args:
        of_stream: not that of the whole file where the stream has none.
    """
    tag = re.fullmatch(r"(\d+):(\d+):(\d+(?:\.\d+)?)", stream.metadata.get("DURATION", ""))
    if tag is not None:
        return Fraction(tag[1]) * 3600 + Fraction(tag[2]) * 60 + Fraction(tag[3])
    container: Any = stream.container
    return Fraction(0) if of_stream else Fraction(container.duration or 0, 1_000_000)


def _tag(of_frame: int, of_stream: int) -> int:
    return of_frame if of_frame != UNSPECIFIED else of_stream


def _samples(path: Path, frame: "VideoFrame", context: Any) -> Samples:
    """Return the planes that pictures of this format are read as; nothing is lost but transparency."""
    pixels = frame.format
    parts = pixels.components
    if pixels.name.startswith(("yuva", "gbrap", "rgba", "bgra", "argb", "abgr", "ya")):
        logger.warning("%s: has transparency, which is left out", path)
    bits = max(8, *(part.bits for part in parts))
    bits = bits if bits in (8, 10, 12) else 16 if bits > 12 else 10
    is_full = _tag_of_range(frame, context) == FULL_RANGE or pixels.name.startswith("yuvj")
    if pixels.is_rgb or pixels.has_palette:
        return Samples("rgb", bits, BT709, True)
    if len(parts) < 3:
        return Samples("gray", bits, BT709, is_full or _tag_of_range(frame, context) == 0)
    steps = (64 // pixels.chroma_width(64), 64 // pixels.chroma_height(64))
    chroma = {(2, 2): "420", (2, 1): "422"}.get(steps, "444")
    matrix = _tag(frame.colorspace, context.colorspace)
    if matrix == RGB:  # in a YUV format: X'Y'Z' or RGB in planes of another name
        matrix = UNSPECIFIED
    if matrix == UNSPECIFIED or matrix not in (*LUMA_WEIGHTS, *MATRICES):
        matrix = guessed_matrix(frame.height, frame.width)
    if matrix not in LUMA_WEIGHTS:
        raise ValueError(
            f"{path}: its colours are {MATRICES[matrix]}, which is not converted here; convert it, for example by "
            "`ffmpeg -i in -vf zscale=m=2020_ncl out.mkv`"
        )
    return Samples(chroma, bits, matrix, is_full, is_centered=context.name == "mjpeg")


def guessed_matrix(height: int, width: int) -> int:
    """Return the matrix that players take for untagged pictures of this size."""
    return BT709 if max(height, width * 9 // 16) >= HD_HEIGHT else SMPTE170M


def _tag_of_range(frame: "VideoFrame", context: Any) -> int:
    return frame.color_range or context.color_range


def _side_data(frame: Any) -> dict[str, bytes]:
    return {data.type.name: bytes(data) for data in frame.side_data}


def _turn(path: Path, matrix: bytes | None, degrees: int) -> Turn:
    """Return the turn that the display matrix of a picture asks for.

    The matrix holds a and b, c and d: a stored point (x, y) is shown at (a x + c y, b x + d y).
    """
    if matrix is None:
        return Turn()
    a, b, _, c, d = struct.unpack("5i", matrix[:20])
    if not (a or d):
        return Turn(True, c < 0, b < 0)
    if b or c:
        logger.warning("%s: is shown turned by %d degrees, which is left out", path, degrees)
        return Turn()
    return Turn(False, a < 0, d < 0)


def _hdr_metadata(side_data: dict[str, bytes]) -> HdrMetadata | None:
    """Return the mastering display and the light level (AVMasteringDisplayMetadata, AVContentLightMetadata)."""
    display, light = side_data.get("MASTERING_DISPLAY_METADATA"), side_data.get("CONTENT_LIGHT_LEVEL")
    if display is None:
        return None
    numbers = struct.unpack("22i", display[:88])
    values = [num / den if den else 0.0 for num, den in zip(numbers[:20:2], numbers[1:20:2], strict=True)]
    levels = struct.unpack("2I", light[:8]) if light else (0, 0)
    return HdrMetadata(tuple(values[:8]), (values[8], values[9]), (levels[0], levels[1]))
