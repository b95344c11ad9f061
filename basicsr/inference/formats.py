"""The file formats of inference: what is read, what is written, and what each of them can hold."""

import importlib.util
from pathlib import Path

from PIL import features

from basicsr.images.alpha import ALPHA_SUFFIXES as STILL_ALPHA_SUFFIXES
from basicsr.images.files import IMAGE_SUFFIXES, PILLOW_FORMATS

HEIF_SUFFIXES = (".heic", ".heif", ".hif")  # read through the extra `heic`; outputs are JPEG
OUTPUT_SUFFIXES = (*IMAGE_SUFFIXES, ".avif", ".gif", ".apng")
INPUT_SUFFIXES = (*OUTPUT_SUFFIXES, *HEIF_SUFFIXES)
BY_PILLOW = {".gif": "GIF", ".avif": "AVIF", ".heic": "HEIF"}  # decoded by Pillow, whose name for each comes second

PNG_SUFFIXES = (".png", ".apng")
JPEG_SUFFIXES = (".jpg", ".jpeg")
TIFF_SUFFIXES = (".tif", ".tiff")
ALPHA_SUFFIXES = (*STILL_ALPHA_SUFFIXES, ".avif", ".gif", ".apng")
PROFILE_SUFFIXES = (*PNG_SUFFIXES, *JPEG_SUFFIXES, *TIFF_SUFFIXES, ".webp", ".avif")  # they hold a colour profile
ANIMATION_FORMATS = {".gif": "GIF", ".webp": "WEBP", ".png": "PNG", ".apng": "PNG", ".avif": "AVIF"}
MAX_SIDE = {".jpg": 65500, ".jpeg": 65500, ".webp": 16383, ".gif": 65535, ".avif": 65536}  # px

HEIC_HINT = "pip install pillow-heif"
_SUFFIX_OF_START = (  # first bytes of a file -> suffix
    (b"\x89PNG\r\n\x1a\n", ".png"),
    (b"\xff\xd8", ".jpg"),
    (b"GIF8", ".gif"),
    (b"II*\0", ".tif"),
    (b"MM\0*", ".tif"),
    (b"BM", ".bmp"),
    (b"P5", ".pgm"),
    (b"P6", ".ppm"),
)
AVIF_BRANDS = (b"avif", b"avis")
HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
SNIFF_BYTES = 64  # that `suffix_of_content` looks at


def output_suffix(suffix: str, channels: int, ext: str | None = None) -> str:
    """Return the suffix of an output for the suffix of an image, as written there.

    Args:
        suffix: of the input.
        channels: of the network.
        ext: the suffix that was asked for.
    """
    if ext is not None:
        return ext
    if suffix.lower() in HEIF_SUFFIXES:
        return ".jpg"
    return ".ppm" if channels == 3 and suffix.lower() == ".pgm" else suffix  # .pgm holds no colours


def suffix_of_content(start: bytes) -> str | None:
    """Return the suffix of an image file that begins with these bytes, `SNIFF_BYTES` or more; None: it is unknown."""
    if start[4:8] == b"ftyp":
        brands = [
            start[8:12],
            *(start[i : i + 4] for i in range(16, min(len(start), int.from_bytes(start[:4], "big")), 4)),
        ]
        if any(brand in AVIF_BRANDS for brand in brands):
            return ".avif"
        return ".heic" if any(brand in HEIF_BRANDS for brand in brands) else None
    if start[:4] == b"RIFF" and start[8:12] == b"WEBP":
        return ".webp"
    return next((suffix for signature, suffix in _SUFFIX_OF_START if start.startswith(signature)), None)


def content_suffix(path: str | Path) -> str | None:
    """Return the suffix that the content of a file would have, whatever its name says; see `suffix_of_content`.

    Raises:
        OSError: when the file cannot be read.
    """
    with Path(path).open("rb") as file:
        return suffix_of_content(file.read(SNIFF_BYTES))


def pillow_formats(path: Path) -> tuple[str, ...]:
    """Return Pillow's names of the formats that a file may have by its content, and make them readable.

    Raises:
        OSError: when the file cannot be read.
        ValueError: naming the file and what to install, where a package is missing.
    """
    suffix = content_suffix(path)
    if suffix == ".heic":
        enable_heif(path)
    if suffix == ".avif" and not features.check("avif"):
        raise ValueError(f"{path}: this Pillow was built without AVIF; pip install --upgrade pillow")
    return (BY_PILLOW[suffix],) if suffix in BY_PILLOW else PILLOW_FORMATS


def has_heif() -> bool:
    """Return whether the package that reads HEIC files is installed."""
    return importlib.util.find_spec("pillow_heif") is not None


def enable_heif(path: str | Path) -> None:
    """Let Pillow read HEIC files.

    Raises:
        ValueError: naming the file and what to install, where the package is missing.
    """
    if not has_heif():
        raise ValueError(f"{path}: HEIC files need one more package: {HEIC_HINT}")
    import pillow_heif  # an extra

    pillow_heif.register_heif_opener()
