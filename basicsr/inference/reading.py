"""Pictures read from files for inference: their pixels, upright, and what their outputs keep besides.

The common formats are decoded as everywhere in this project (`basicsr.images.files`); HEIC, AVIF and GIF, and CMYK with
a profile, by Pillow.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from basicsr.images.alpha import decode_alpha
from basicsr.images.files import (
    PILLOW_ERRORS,
    checked_size,
    decode_gray,
    decode_image,
    exif_orientation,
    image_facts,
)
from basicsr.inference import color
from basicsr.inference.formats import ALPHA_SUFFIXES, BY_PILLOW, PROFILE_SUFFIXES, content_suffix, pillow_formats
from basicsr.inference.image_io import Pixels, match_channels, pixels_of_pil
from basicsr.inference.metadata import Metadata, read_metadata
from basicsr.inference.settings import OutputSettings

logger = logging.getLogger("basicsr")
TURNED_BY_DECODERS = ("JPEG", "MPO", "TIFF")
# EXIF orientation -> what makes pixels upright: quarter turns against the clock, then whether to mirror left and right
TURNS = {2: (0, True), 3: (2, False), 4: (2, True), 5: (3, True), 6: (3, False), 7: (1, True), 8: (1, False)}
GRAY_MODES = ("1", "L", "LA", "La")


@dataclass(frozen=True)
class Picture:
    """An upright picture, and what its output keeps besides the pixels."""

    pixels: Pixels
    metadata: Metadata


def read_picture(
    path: str | Path,
    channels: int,
    settings: OutputSettings | None = None,
    *,
    upscale: int = 1,
    target: Path | None = None,
) -> Picture:
    """Return a picture for a network, with what an output of the format of `target` keeps.

    Gray is what OpenCV decodes. The orientation of EXIF is applied. A profile that the output cannot carry (of CMYK; of
    gray, where the output is RGB, and the other way round; in formats without profiles) is used to convert the colours
    to sRGB. Frames after the first are left out, with a warning, and so is transparency where `target` has none.

    Args:
        path: of the file; its content counts, not its suffix.
        channels: 3 for RGB, 1 for gray.
        settings: `color` and `keep_location` count; None: the defaults.
        upscale: enlargement of the output, whose size is entered into EXIF.
        target: file of the output; None: an array.

    Raises:
        OSError: when the file cannot be read.
        ValueError: when it is cut off, is no image, or has too many pixels; naming it.
    """
    path, settings = Path(path), settings or OutputSettings()
    with opened(path) as image:
        converter = ProfileConverter(image, path, channels, settings.color, target)
        if content_suffix(path) in BY_PILLOW or converter.is_cmyk:
            if getattr(image, "n_frames", 1) > 1:
                logger.warning("%s: its frames after the first is left out", path)
            pixels = upright(converter.pixels_of(image), exif_orientation(image))
        else:
            pixels = _by_opencv(path, image, converter)
        if pixels.shape[2] > channels and target is not None and target.suffix.lower() not in ALPHA_SUFFIXES:
            logger.warning("%s: its transparency is left out, for %s files have none", path, target.suffix)
            pixels = pixels[..., :channels]
        size = (upscale * pixels.shape[0], upscale * pixels.shape[1])
        return Picture(pixels, converter.metadata(image, size, settings.keep_location))


@contextmanager
def opened(path: Path) -> Iterator[Image.Image]:
    """Yield a picture opened by Pillow, after a check of its header.

    Raises:
        OSError: when the file cannot be read.
        ValueError: also from the body, when it is damaged, is no image, or has too many pixels; naming it.
    """
    formats = pillow_formats(path)
    if content_suffix(path) not in BY_PILLOW:
        image_facts(path)
    try:
        with Image.open(path, formats=formats) as image:
            yield image
    except (Image.DecompressionBombError, MemoryError) as error:
        raise ValueError(f"{path}: has too many pixels ({error}); cut it into tiles") from error
    except PILLOW_ERRORS as error:
        if str(error).startswith(f"{path}: "):
            raise
        raise ValueError(f"{path}: cannot be decoded as an image ({error}); replace the file") from error


def is_animation(path: str | Path) -> bool:
    """Return whether a file is an animated GIF, WebP, PNG or AVIF; of a damaged one, False.

    Raises:
        OSError: when the file cannot be read.
    """
    if content_suffix(path) not in (".gif", ".webp", ".png", ".avif"):
        return False
    try:
        with Image.open(path, formats=pillow_formats(Path(path))) as image:
            return getattr(image, "n_frames", 1) > 1
    except (*PILLOW_ERRORS, Image.DecompressionBombError, MemoryError):
        return False


class ProfileConverter:
    """The way of a picture's colours: kept with their profile, or converted by it to sRGB.

    Args:
        image: the picture, opened by Pillow.
        path: of its file, for messages.
        channels: of the network, 3 or 1.
        color: keep or srgb; see `OutputSettings`.
        target: file of the output; None: an array.
    """

    def __init__(self, image: Image.Image, path: Path, channels: int, color: str, target: Path | None):
        self.path = path
        self.channels = channels
        self.profile = self._usable_profile(image)
        self.is_cmyk = image.mode == "CMYK" and self.profile is not None
        self._can_hold = target is None or target.suffix.lower() in PROFILE_SUFFIXES
        self.converts = self.profile is not None and (color == "srgb" or self._reason_to_convert(target) is not None)
        if self.converts and color != "srgb":
            logger.info("%s: its colours are converted to sRGB, for %s", path, self._reason_to_convert(target))

    @property
    def decoded_channels(self) -> int:
        """Return the channels in which the picture has to be decoded."""
        return 3 if self.converts else self.channels

    def metadata(self, image: Image.Image, size: tuple[int, int], keep_location: bool) -> Metadata:
        """Return what the output of a size, (H, W) in px, keeps."""
        profile = self.profile
        if self.converts:
            profile = color.srgb_profile() if self._can_hold and self.channels == 3 else None
        is_srgb = self.converts and self.channels == 3
        return read_metadata(image, size, profile=profile, is_srgb=is_srgb, keep_location=keep_location)

    def pixels_of(self, image: Image.Image) -> Pixels:
        """Return the pixels of an image that Pillow decodes, converted where they have to be."""
        if not self.is_cmyk or self.profile is None:
            return self.convert(match_channels(pixels_of_pil(image), self.decoded_channels))
        try:
            image = color.image_to_srgb(image, self.profile)
        except ValueError as error:
            self._leave_out(error)
        return match_channels(pixels_of_pil(image), self.channels)

    def convert(self, pixels: Pixels) -> Pixels:
        """Return pixels of `decoded_channels`, or with alpha one more, in the colours and channels of the output."""
        if not self.converts or self.profile is None:
            return pixels
        colours, alpha = pixels[..., :3], pixels[..., 3:]
        try:
            colours = color.pixels_to_srgb(colours, self.profile, str(self.path))
        except ValueError as error:
            self._leave_out(error)
        return match_channels(np.dstack([colours, alpha]), self.channels)

    def _leave_out(self, error: ValueError) -> None:
        """Go on without the profile."""
        logger.warning("%s: %s and is left out", self.path, error)
        self.profile, self.converts = None, False

    def _usable_profile(self, image: Image.Image) -> bytes | None:
        profile = image.info.get("icc_profile")
        if not profile:
            return None
        if image.mode == "CMYK":
            fitting: tuple[str, ...] = (color.CMYK,)
        else:
            fitting = (color.RGB, color.GRAY) if image.mode in GRAY_MODES or "I;16" in image.mode else (color.RGB,)
        if color.profile_space(profile) in fitting:
            return profile
        logger.warning("%s: its colour profile is damaged or does not fit its pixels, and is left out", self.path)
        return None

    def _reason_to_convert(self, target: Path | None) -> str | None:
        """Return why the output cannot carry the profile; None when it can."""
        space = color.profile_space(self.profile or b"")
        if space != (color.RGB if self.channels == 3 else color.GRAY):
            return f"the output is {'RGB' if self.channels == 3 else 'gray'}, its profile is not"
        if not self._can_hold and target is not None:
            return f"{target.suffix} files hold no colour profile"
        return None


def upright(pixels: Pixels, orientation: int) -> Pixels:
    """Return pixels turned as an EXIF orientation, 1 to 8, asks for; others count as 1."""
    turns, is_mirrored = TURNS.get(orientation, (0, False))
    turned = np.rot90(pixels, turns)
    return np.ascontiguousarray(turned[:, ::-1] if is_mirrored else turned)


def _by_opencv(path: Path, image: Image.Image, converter: ProfileConverter) -> Pixels:
    """Return the pixels of a file in one of the formats of `basicsr.images.files`, with alpha, upright, converted."""
    facts = image_facts(path)
    data = path.read_bytes()
    decode = decode_gray if converter.decoded_channels == 1 else decode_image
    pixels = checked_size(decode(data, path), facts[:2], path)
    for feature in facts.left_out:
        if feature == "its transparency":
            pixels = np.dstack([pixels, checked_size(decode_alpha(data, path, pixels.dtype), facts[:2], path)])
        elif feature != "its orientation":
            logger.warning("%s: %s is left out", path, feature)
    orientation = 1 if image.format in TURNED_BY_DECODERS else exif_orientation(image)
    return upright(converter.convert(pixels), orientation)
