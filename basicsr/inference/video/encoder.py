"""How the pictures of an output are encoded, and the encoder itself."""

import logging
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from basicsr.errors import OptionError, first_line
from basicsr.inference.video.color import BT470BG, BT709, CHROMAS, RGB, Samples
from basicsr.inference.video.formats import CODECS, check_codec_options, codec_for
from basicsr.inference.video.library import load_av
from basicsr.inference.video.probe import TRANSFERS, HdrMetadata, VideoFacts, guessed_matrix
from basicsr.inference.video.reader import Planes

if TYPE_CHECKING:
    from av.video.codeccontext import VideoCodecContext
    from av.video.frame import VideoFrame

logger = logging.getLogger("basicsr")
LIMITED, FULL = 1, 2  # FFmpeg's AVCOL_RANGE_MPEG and AVCOL_RANGE_JPEG
DEEP = (10, 12, 16)  # bits of a sample that formats over 8 bits have here
QP_TO_LAMBDA = 118  # a quantiser of 1 in FFmpeg's units of quality
GLOBAL_HEADER = 1 << 22  # headers stand in front of the stream, not in each segment


@dataclass(frozen=True)
class Encoding:
    """All that decides the bytes of a segment besides the pictures.

    Args:
        codec: a key of `CODECS`.
        crf, preset: of the codec; None where it has none.
        height, width: of the encoded pictures in px, with what an odd side was filled up by.
        samples: of the planes that are encoded.
        pixel_format: that the encoder takes, FFmpeg's name.
        primaries, transfer: tags of the colours, codes of ITU-T H.273.
        aspect: width of a pixel by its height.
        rate: frames a second, the mean; the encoder works with it, the file has the true times.
        hdr: None where there is none, or the codec cannot hold it.
    """

    codec: str
    crf: int | None
    preset: str | None
    height: int
    width: int
    samples: Samples
    pixel_format: str
    primaries: int
    transfer: int
    aspect: Fraction
    rate: Fraction
    hdr: HdrMetadata | None

    def __str__(self) -> str:
        quality = f", crf {self.crf}" if self.crf is not None else ""
        preset = f", preset {self.preset}" if self.preset else ""
        codec = CODECS[self.codec]
        return f"{codec.title} ({codec.encoder}{quality}{preset}, {self.pixel_format})"


def plan_encoding(
    facts: VideoFacts, scale: int, target: Path, codec: str | None, crf: int | None, preset: str | None
) -> Encoding:
    """Return how the enlarged pictures of a video are encoded; what cannot be kept is said in the log.

    Raises:
        OptionError: when the file does not hold the codec, or the codec does not take a value.
        ValueError: when the codec cannot take pictures of this size, or HDR; naming the file.
    """
    name = codec_for(target, codec, is_deep=facts.samples.bits > 8)
    check_codec_options(name, crf, preset)
    has = CODECS[name]
    samples, pixel_format = _pixels(name, facts, scale)
    if facts.is_hdr and samples.bits < 10:
        raise ValueError(
            f"{facts.path}: is HDR ({TRANSFERS[facts.transfer]}), for which 8 bits are too few, and {has.title} has no "
            "more; take --codec hevc, with --ext mp4 or mkv"
        )
    if samples.bits < facts.samples.bits:
        logger.warning("%s: has %d bits, %s has %d", facts.path, facts.samples.bits, has.title, samples.bits)
    hdr = facts.hdr if name in ("hevc", "av1") else None
    if facts.hdr is not None and hdr is None:
        logger.warning("%s: the metadata of its mastering display is left out; --codec hevc keeps it", facts.path)
    height, width = (scale * side for side in facts.upright)
    if has.is_even:
        down, across = (height % 2, width % 2) if samples.chroma == "420" else (0, width % 2)
        height, width = height + down, width + (across if samples.chroma != "444" else 0)
    if not (has.sides[0] <= min(height, width) and max(height, width) <= has.sides[1]):
        raise ValueError(
            f"{target}: {width}x{height} px; {has.title} has sides of {has.sides[0]} to {has.sides[1]} px; take "
            "another --codec, for example ffv1 with --ext mkv"
        )
    aspect = 1 / facts.aspect if facts.turn.transposed else facts.aspect
    crf = crf if crf is not None or has.crf is None else has.crf[2]
    colors = (facts.primaries, facts.transfer)
    encoding = Encoding(
        name, crf, preset or has.preset, height, width, samples, pixel_format, *colors, aspect, facts.rate, hdr
    )
    try:
        open_encoder(encoding)
    except Exception as error:  # encoders of other makers report in ways of their own
        hint = "it needs an NVIDIA card that has NVENC" if "nvenc" in name else "take another --codec"
        raise ValueError(f"{target}: {encoding} does not work here ({first_line(error)}); {hint}") from error
    return encoding


def _pixels(name: str, facts: VideoFacts, scale: int) -> tuple[Samples, str]:
    """Return the samples to encode, as near to those of the source as the codec has them, and the encoder's format."""
    codec, source = CODECS[name], facts.samples
    formats = [one.name for one in load_av().Codec(codec.encoder, "w").video_formats or ()]
    if codec.stores == "rgb":
        bits = source.bits if source.bits in DEEP else 8
        return Samples("rgb", bits, BT709, True), "bgr0" if bits == 8 else f"gbrp{bits}le"
    chroma = source.chroma if source.chroma in CHROMAS else "420"  # of RGB, too: few players take 4:4:4
    depths = [bits for bits in (*reversed(DEEP), 8) if bits <= source.bits] + [10]
    is_yuv = source.chroma in CHROMAS
    matrix, is_full = (source.matrix, source.is_full) if is_yuv else (BT709, False)
    if codec.stores == "untagged":
        matrix = guessed_matrix(*(scale * side for side in facts.upright))
    if codec.stores == "jpeg":
        matrix = BT470BG
    is_full = codec.stores == "jpeg" or (is_full and codec.stores == "yuv")
    for one in (chroma, "420", "422"):
        for bits in depths:
            samples = Samples(one, bits, matrix, is_full, is_centered=codec.stores == "jpeg")
            if samples.format in formats:
                return samples, samples.format
            if (one, bits) == ("420", 10) and "p010le" in formats:
                return samples, "p010le"
    raise OptionError(f"--codec {name}: this build of PyAV gives it no format that is known here ({formats})")


def open_encoder(encoding: Encoding) -> "VideoCodecContext":
    """Return an encoder, open.

    Raises:
        av.error.FFmpegError: when it does not open.
    """
    context: Any = load_av().CodecContext.create(CODECS[encoding.codec].encoder, "w")
    configure(context, encoding)
    context.open()
    return context


def configure(context: Any, encoding: Encoding) -> None:
    """Set the fields of an encoder that is not open yet."""
    codec = CODECS[encoding.codec]
    context.width, context.height = encoding.width, encoding.height
    context.pix_fmt = encoding.pixel_format
    context.framerate, context.time_base = encoding.rate, 1 / encoding.rate
    context.sample_aspect_ratio = encoding.aspect
    context.color_range = FULL if encoding.samples.is_full else LIMITED
    context.colorspace = RGB if encoding.samples.chroma == "rgb" else encoding.samples.matrix
    context.color_primaries, context.color_trc = encoding.primaries, encoding.transfer
    context.flags |= GLOBAL_HEADER
    options = dict(codec.options)
    if codec.crf_option == "q" and encoding.crf is not None:
        context.qscale = True
        context.global_quality = encoding.crf * QP_TO_LAMBDA
    elif encoding.crf is not None:
        options[codec.crf_option] = str(encoding.crf)
    if codec.preset_option and encoding.preset:
        options[codec.preset_option] = encoding.preset
    context.options = {**options, **_private_options(encoding)}


def _private_options(encoding: Encoding) -> dict[str, str]:
    """Return the options of x265 and SVT-AV1 that FFmpeg passes on: quiet, and the metadata of HDR."""
    hdr = encoding.hdr
    if encoding.codec == "hevc":
        values = ["log-level=error", "open-gop=0"]
        if hdr is not None:
            red, green, blue, white = (
                f"({hdr.primaries[k] * 50000:.0f},{hdr.primaries[k + 1] * 50000:.0f})" for k in range(0, 8, 2)
            )
            light = f"({hdr.luminance[1] * 10000:.0f},{hdr.luminance[0] * 10000:.0f})"
            values += [f"master-display=G{green}B{blue}R{red}WP{white}L{light}", "hdr10=1"]
            values += [f"max-cll={hdr.light[0]},{hdr.light[1]}"] if any(hdr.light) else []
        return {"x265-params": ":".join(values)}
    if encoding.codec == "av1" and hdr is not None:
        red, green, blue, white = (f"({hdr.primaries[k]:.5f},{hdr.primaries[k + 1]:.5f})" for k in range(0, 8, 2))
        light = f"({hdr.luminance[1]:.4f},{hdr.luminance[0]:.4f})"
        values = [f"mastering-display=G{green}B{blue}R{red}WP{white}L{light}"]
        values += [f"content-light={hdr.light[0]},{hdr.light[1]}"] if any(hdr.light) else []
        return {"svtav1-params": ":".join(values)}
    return {}


def frame_of(planes: Planes, encoding: Encoding) -> "VideoFrame":
    """Return planes (h, w) as a frame for the encoder; the last row and column fill up what it has more."""
    samples = encoding.samples
    frame = load_av().VideoFrame(encoding.width, encoding.height, samples.format)
    dtype = np.uint8 if samples.bits == 8 else np.uint16
    for plane, values in zip(frame.planes, planes, strict=True):
        rows = np.frombuffer(plane, dtype).reshape(plane.height, -1)
        height, width = values.shape
        rows[:height, :width] = values.view(dtype)
        rows[:height, width : plane.width] = values.view(dtype)[:, -1:]
        rows[height : plane.height] = rows[height - 1]
    if samples.format != encoding.pixel_format:
        same = FULL if samples.is_full else LIMITED
        frame = frame.reformat(format=encoding.pixel_format, src_color_range=same, dst_color_range=same)
    frame.color_range = FULL if samples.is_full else LIMITED  # ProRes takes the tags from frames
    frame.colorspace = RGB if samples.chroma == "rgb" else samples.matrix
    frame.color_primaries, frame.color_trc = encoding.primaries, encoding.transfer
    return frame
