"""Which codecs there are, which files hold them, and the settings that they take. Imports neither torch nor PyAV."""

from dataclasses import dataclass
from pathlib import Path

from basicsr.errors import OptionError

X26_PRESETS = ["ultrafast", "superfast", "veryfast", "faster", "fast", "medium", "slow", "slower", "veryslow"]
NVENC_PRESETS = [f"p{k}" for k in range(1, 8)]


@dataclass(frozen=True)
class Codec:
    """An encoder and what it takes.

    Args:
        encoder: its name in FFmpeg.
        title: its name for people.
        suffixes: of the files that hold it.
        crf: lowest, highest and usual value of --crf; the lower, the better; None: it is lossless.
        crf_option: FFmpeg's name of that value; "q": the fixed quantiser, which is a field of the encoder.
        preset_option: FFmpeg's name of --preset; None: it has none.
        presets: from fast to thorough.
        preset: the usual one.
        options: other options of the encoder.
        is_even: it takes even sides alone where chroma is subsampled.
        sides: smallest and largest side in px.
        stores: how it keeps colours. "yuv": any matrix and range, with tags; "limited": limited range alone;
            "untagged": that, with the matrix that players take for the size; "jpeg": full range, the matrix of BT.601;
            "rgb".
    """

    encoder: str
    title: str
    suffixes: tuple[str, ...]
    crf: tuple[int, int, int] | None = None
    crf_option: str = "crf"
    preset_option: str | None = None
    presets: tuple[str, ...] = ()
    preset: str | None = None
    options: tuple[tuple[str, str], ...] = ()
    is_even: bool = False
    sides: tuple[int, int] = (1, 65535)
    stores: str = "yuv"


def _x26(encoder: str, title: str, crf: tuple[int, int, int], smallest: int, largest: int) -> Codec:
    return Codec(
        encoder,
        title,
        (".mp4", ".m4v", ".mov", ".mkv"),
        crf,
        preset_option="preset",
        presets=tuple(X26_PRESETS),
        preset="medium",
        is_even=True,
        sides=(smallest, largest),
    )


def _nvenc(encoder: str, title: str, suffixes: tuple[str, ...]) -> Codec:
    options = (("rc", "vbr"), ("b", "0"))  # no rate: the quality decides
    presets = tuple(NVENC_PRESETS)
    return Codec(encoder, title, suffixes, (0, 51, 22), "cq", "preset", presets, "p5", options, True, (160, 8192))


ISO = (".mp4", ".m4v", ".mov")
CODECS = {
    "h264": _x26("libx264", "H.264", (0, 51, 18), 2, 16384),
    # x265 writes beyond its memory where a side is shorter than its blocks of 64 px.
    "hevc": _x26("libx265", "HEVC", (0, 51, 20), 64, 16384),
    "av1": Codec(
        "libsvtav1",
        "AV1",
        (".mp4", ".m4v", ".mkv", ".webm"),
        (1, 63, 28),
        preset_option="preset",
        presets=tuple(str(k) for k in range(13, -1, -1)),
        preset="8",
        sides=(16, 16384),
    ),
    "vp9": Codec(
        "libvpx-vp9",
        "VP9",
        (".webm", ".mkv", ".mp4"),
        (0, 63, 24),
        preset_option="cpu-used",
        presets=tuple(str(k) for k in range(8, -1, -1)),
        preset="4",
        options=(("b", "0"), ("row-mt", "1"), ("deadline", "good")),
    ),
    "ffv1": Codec("ffv1", "FFV1, lossless", (".mkv", ".avi"), options=(("level", "3"), ("g", "1")), stores="rgb"),
    "prores": Codec(
        "prores_ks", "ProRes", (".mov", ".mkv"), options=(("profile", "hq"),), is_even=True, stores="limited"
    ),
    "mpeg4": Codec(
        "mpeg4",
        "MPEG-4 Part 2",
        (*ISO, ".avi", ".mkv"),
        (1, 31, 3),
        "q",
        is_even=True,
        sides=(1, 8191),
        stores="untagged",
    ),
    "mjpeg": Codec("mjpeg", "Motion JPEG", (".avi", ".mov", ".mkv"), (1, 31, 3), "q", stores="jpeg"),
    "h264_nvenc": _nvenc("h264_nvenc", "H.264 by NVENC", (*ISO, ".mkv")),
    "hevc_nvenc": _nvenc("hevc_nvenc", "HEVC by NVENC", (*ISO, ".mkv")),
    "av1_nvenc": _nvenc("av1_nvenc", "AV1 by NVENC", (".mp4", ".m4v", ".mkv", ".webm")),
}
# Suffix -> the codec that is taken without --codec. FFV1 in .mkv is to be edited or encoded further.
DEFAULT_CODECS = {".mp4": "h264", ".m4v": "h264", ".mov": "h264", ".avi": "mjpeg", ".mkv": "ffv1", ".webm": "vp9"}
VIDEO_SUFFIXES = tuple(DEFAULT_CODECS)
EVEN_TIMES = (".avi",)  # files that hold a rate instead of the time of each picture


def check_codec_options(codec: str | None, crf: int | None, preset: str | None) -> None:
    """Check what can be checked without a file.

    Raises:
        OptionError: when there is no such codec, or it does not take the value.
    """
    if codec is not None and codec not in CODECS:
        raise OptionError(f"--codec: must be one of {', '.join(CODECS)}, got {codec!r}")
    if codec is None:
        return
    has = CODECS[codec]
    if crf is not None and (has.crf is None or not has.crf[0] <= crf <= has.crf[1]):
        reason = f"must be in [{has.crf[0]}, {has.crf[1]}] for {codec}" if has.crf else f"{codec} has no quality to set"
        raise OptionError(f"--crf: {reason}, got {crf}")
    if preset is not None and preset not in has.presets:
        reason = f"must be one of {', '.join(has.presets)} for {codec}" if has.presets else f"{codec} has none"
        raise OptionError(f"--preset: {reason}, got {preset!r}")


def codec_for(target: str | Path, codec: str | None, *, is_deep: bool = False) -> str:
    """Return the codec of a file with this name.

    Args:
        target: the file.
        codec: a key of `CODECS`; None: the usual one of the suffix.
        is_deep: the pictures have more than 8 bits, for which HEVC is usual instead of H.264: few players take that.

    Raises:
        OptionError: when no video has this suffix, or such files do not hold the codec.
    """
    suffix = Path(target).suffix.lower()
    if suffix not in DEFAULT_CODECS:
        raise OptionError(f"{target}: unknown video suffix {suffix!r}; use one of {' '.join(VIDEO_SUFFIXES)}")
    if codec is None:
        usual = DEFAULT_CODECS[suffix]
        return "hevc" if is_deep and usual == "h264" else usual
    if suffix not in CODECS[codec].suffixes:
        good = CODECS[codec].suffixes[0]
        held = ", ".join(name for name, one in CODECS.items() if suffix in one.suffixes)
        raise OptionError(
            f"--codec {codec}: {suffix} files do not hold it ({target}); add --ext {good[1:]}, or take one of {held}"
        )
    return codec
