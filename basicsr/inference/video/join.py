"""The file of an enlarged video: its segments one after another and all else from the source, not encoded again."""

import heapq
import io
import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

from basicsr.engine.atomic import atomic_path
from basicsr.errors import first_line
from basicsr.inference.video.encoder import Encoding, configure
from basicsr.inference.video.formats import CODECS, EVEN_TIMES, ISO
from basicsr.inference.video.library import load_av
from basicsr.inference.video.probe import VideoFacts, opened
from basicsr.inference.video.segments import Parts

if TYPE_CHECKING:
    from av.container import InputContainer, OutputContainer
    from av.packet import Packet
    from av.stream import Stream

logger = logging.getLogger("basicsr")
FORMATS = {".mp4": "mp4", ".m4v": "mp4", ".mov": "mov", ".avi": "avi", ".mkv": "matroska", ".webm": "webm"}
OWN_TAGS = {"major_brand", "minor_version", "compatible_brands", "encoder", "duration", "vendor_id"}  # of the container
LOCATION_TAGS = ("location", "com.apple.quicktime.location")


def carried_streams(facts: VideoFacts, target: Path) -> dict[int, str]:
    """Return the streams that are copied, index and type; those that cannot be are named in the log, with what to do.

    Args:
        facts: of the source.
        target: the output.
    """
    carried: dict[int, str] = {}
    left, unknown = [], []
    with opened(facts.path) as source:
        chapters = source.chapters()
        for stream in source.streams:
            if stream.index == facts.stream:
                continue
            if stream.type == "data":
                if not chapters:  # of which QuickTime files have a data stream
                    unknown.append(_named(stream))
            elif stream.type == "video" and not stream.disposition & load_av().stream.Disposition.attached_pic:
                unknown.append(_named(stream))
            elif _is_held(stream, facts.path, target):
                carried[stream.index] = stream.type
            else:
                left.append(_named(stream))
        if chapters and not _holds_chapters(target):
            left.append(f"{len(chapters)} chapters")
    if left:
        other = "mp4" if target.suffix.lower() == ".mkv" else "mkv"
        logger.warning(
            "%s: not copied, since %s files made here do not hold it: %s; --ext %s may, or copy it by `ffmpeg -map`",
            *(facts.path, target.suffix, ", ".join(left), other),
        )
    if unknown:
        logger.warning("%s: never copied here: %s; `ffmpeg -map` may do so", facts.path, ", ".join(unknown))
    return carried


def join(
    parts: Parts, facts: VideoFacts, target: Path, encoding: Encoding, carried: Iterable[int], keep_location: bool
) -> None:
    """Write the output; it appears when it is whole.

    Args:
        parts: the segments, all of them.
        facts: of the source.
        target: the output.
        encoding: of the segments.
        carried: indices of the streams to copy.
        keep_location: copy the place where it was taken.
    """
    av = load_av()
    suffix = target.suffix.lower()
    with opened(facts.path) as source, atomic_path(target) as temporary, _written(target):
        keys = any(key.startswith("com.") for key in source.metadata)  # of cameras; other files have a fixed set
        options = {"movflags": "use_metadata_tags"} if keys and suffix in ISO else {}
        if suffix == ".avi":
            options["avoid_negative_ts"] = "disabled"
        with av.open(str(temporary), "w", format=FORMATS[suffix], container_options=options) as output:
            output.metadata.update(_tags(source.metadata, keep_location))
            if source.chapters() and _holds_chapters(target):
                output.set_chapters(source.chapters())
            video = _video_stream(output, source.streams[facts.stream], facts, encoding, suffix)
            copies = {index: _copy_of(output, source.streams[index], facts.path, suffix) for index in carried}
            output.start_encoding()
            parts.check_header(bytes(video.codec_context.extradata or b""))
            streams = [_pictures(parts, facts, video, suffix), _copied(source, copies)]
            for packet in heapq.merge(*streams, key=_decoding_time):
                output.mux_one(packet)


@contextmanager
def _written(target: Path) -> Iterator[None]:
    """Name the output in errors of FFmpeg, which may be those of a full disk.

    Raises:
        OSError: for any of them.
    """
    try:
        yield
    except load_av().error.FFmpegError as error:
        raise OSError(f"{target}: cannot be written ({first_line(error)})") from error


def _decoding_time(packet: "Packet") -> Fraction:
    return (packet.dts or 0) * packet.time_base


def _video_stream(
    output: "OutputContainer", template: "Stream", facts: VideoFacts, encoding: Encoding, suffix: str
) -> Any:
    """Return the stream of the enlarged pictures, with the header that an encoder like that of the segments writes."""
    stream: Any = output.add_stream(CODECS[encoding.codec].encoder, rate=encoding.rate)
    configure(stream.codec_context, encoding)
    stream.time_base = 1 / encoding.rate if suffix in EVEN_TIMES else facts.time_base
    if encoding.codec.startswith("hevc") and suffix in ISO:
        stream.codec_context.codec_tag = "hvc1"  # players of Apple take no other
    stream.metadata.update(_tags(template.metadata, keep_location=True))
    stream.disposition = template.disposition
    return stream


def _pictures(parts: Parts, facts: VideoFacts, stream: Any, suffix: str) -> "Iterator[Packet]":
    """Yield the encoded pictures with their times, and decoding times that increase and are never after them."""
    av = load_av()
    decoded = parts.times()
    shown = sorted(decoded)
    rank = {time: k for k, time in enumerate(shown)}
    delay = max((k - rank[time] for k, time in enumerate(decoded)), default=0)  # pictures, by which decoding is ahead
    step = max(1, round(1 / (facts.rate * facts.time_base)))
    ends = [*shown[1:], facts.end if facts.end is not None and facts.end > shown[-1] else shown[-1] + step]
    for k, picture in enumerate(parts.read()):
        packet = av.Packet(picture.data)
        packet.stream = stream
        packet.is_keyframe = picture.is_key
        if suffix in EVEN_TIMES:
            packet.time_base = 1 / facts.rate
            packet.pts = packet.dts = k
            packet.duration = 1
        else:
            packet.time_base = facts.time_base
            packet.pts = picture.time
            packet.dts = shown[k - delay] if k >= delay else shown[0] - (delay - k) * step
            packet.duration = ends[rank[picture.time]] - picture.time
        yield packet


def _copy_of(output: "OutputContainer", template: "Stream", path: Path, suffix: str) -> Any:
    """Return the copy of a stream; in Matroska a cover is an attachment."""
    if template.type == "video" and FORMATS[suffix] == "matroska":
        with opened(path) as source:
            data = bytes(next(source.demux(source.streams[template.index])))
        codec = template.codec_context.name.replace("mjpeg", "jpeg")
        name = template.metadata.get("filename", f"cover.{codec}")
        return output.add_attachment(name, template.metadata.get("mimetype", f"image/{codec}"), data)
    stream: Any = output.add_stream_from_template(template, opaque=True)
    stream.metadata.update(_tags(template.metadata, keep_location=True))
    stream.disposition = template.disposition
    return stream


def _copied(source: "InputContainer", copies: dict[int, Any]) -> "Iterator[Packet]":
    """Yield the packets of the streams to copy."""
    moving = [source.streams[index] for index, copy in copies.items() if copy.type != "attachment"]
    if not moving:
        return
    last: dict[int, int] = {}
    for packet in source.demux(*moving):
        if packet.size == 0:
            continue  # the end of a stream
        if packet.dts is None:
            packet.dts = packet.pts or 0  # covers have no times
            packet.pts = packet.dts
        index = packet.stream_index
        packet.dts = max(packet.dts, last.get(index, packet.dts - 1) + 1) if index in last else packet.dts
        last[index] = packet.dts
        packet.stream = copies[index]
        yield packet


def _is_held(stream: "Stream", path: Path, target: Path) -> bool:
    """Return whether a file of this kind holds a copy of a stream: a file in memory is begun with it."""
    av = load_av()
    kind = FORMATS[target.suffix.lower()]
    if stream.type == "attachment":
        return kind == "matroska"
    try:
        with av.open(io.BytesIO(), "w", format=kind) as output:
            _copy_of(output, stream, path, target.suffix.lower())
            output.start_encoding()
    except (ValueError, av.error.FFmpegError):
        return False
    return True


def _holds_chapters(target: Path) -> bool:
    return target.suffix.lower() != ".avi"


def _named(stream: "Stream") -> str:
    """Return a stream in words: `subtitle 2 (mov_text, deu)`."""
    codec = stream.metadata.get("filename", "unknown codec")
    codec = codec if stream.codec_context is None else stream.codec_context.name
    language = stream.metadata.get("language", "und")
    return f"{stream.type} {stream.index} ({codec}{'' if language == 'und' else f', {language}'})"


def _tags(metadata: dict[str, str], keep_location: bool) -> dict[str, str]:
    """Return the tags to copy: not those that a container writes about itself."""
    return {
        key: value
        for key, value in metadata.items()
        if key.lower() not in OWN_TAGS
        and not key.startswith(("_STATISTICS", "NUMBER_OF_", "BPS"))
        and (keep_location or not key.lower().startswith(LOCATION_TAGS))
    }
