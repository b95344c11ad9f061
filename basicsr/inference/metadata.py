"""What an output keeps of its picture besides the pixels: the colour profile, EXIF (camera, date) and XMP."""

import logging
import struct
import zlib
from dataclasses import dataclass
from typing import Any

from PIL import ExifTags, Image
from PIL.TiffImagePlugin import ImageFileDirectory_v2, TiffImageFile

from basicsr.images.files import PILLOW_ERRORS
from basicsr.inference.xmp import clean_xmp

logger = logging.getLogger("basicsr")
Base, IFD = ExifTags.Base, ExifTags.IFD
# Of a picture as such. Others of the first directory say how a TIFF file stores its pixels.
KEPT_TAGS = (
    Base.ImageDescription, Base.Make, Base.Model, Base.XResolution, Base.YResolution, Base.ResolutionUnit,
    Base.Software, Base.DateTime, Base.Artist, Base.HostComputer, Base.Rating, Base.RatingPercent, Base.Copyright,
    Base.XPTitle, Base.XPComment, Base.XPAuthor, Base.XPKeywords, Base.XPSubject,
)  # fmt: skip
SUBJECT_AREA = 0x9214
# Notes of makers hold positions in the old file, and some of them places; the others are in px of the input.
DROPPED_DETAILS = (
    Base.MakerNote, Base.RelatedSoundFile, SUBJECT_AREA, Base.SubjectLocation, Base.FocalPlaneXResolution,
    Base.FocalPlaneYResolution, Base.FocalPlaneResolutionUnit, Base.ExifInteroperabilityOffset,
)  # fmt: skip
SRGB, UPRIGHT = 1, 1  # values of the tags ColorSpace and Orientation
EXIF_START = b"Exif\0\0"
TIFF_XMP, TIFF_PROFILE, TIFF_EXTRA_SAMPLES, UNASSOCIATED_ALPHA = 700, 34675, 338, 2
MAX_SEGMENT = 65533  # bytes of a JPEG segment, without its length
JPEG_XMP, JPEG_PROFILE = b"http://ns.adobe.com/xap/1.0/\0", b"ICC_PROFILE\0"


@dataclass(frozen=True)
class Metadata:
    """What is written beside the pixels; None: nothing."""

    profile: bytes | None = None
    """ICC"""
    exif: Image.Exif | None = None
    """with its directories as dictionaries"""
    xmp: bytes | None = None

    @property
    def exif_block(self) -> bytes | None:
        """Return EXIF as it stands in a JPEG file, beginning with `EXIF_START`."""
        return None if self.exif is None else self.exif.tobytes()

    def for_pillow(self) -> dict[str, bytes]:
        """Return the arguments of `PIL.Image.Image.save`."""
        given = {"icc_profile": self.profile, "exif": self.exif_block, "xmp": self.xmp}
        return {name: value for name, value in given.items() if value is not None}


def read_metadata(
    image: Image.Image, size: tuple[int, int], *, profile: bytes | None, is_srgb: bool, keep_location: bool
) -> Metadata:
    """Return what the upright copy of a picture keeps; what is damaged is left out, with a warning.

    Args:
        image: opened by Pillow, not closed.
        size: (H, W) of the copy in px.
        profile: of the copy.
        is_srgb: its colours were converted to sRGB.
        keep_location: keep GPS positions and names of places.
    """
    name = getattr(image, "filename", "") or "picture"
    exif = None
    try:
        exif = _exif(image, size, is_srgb, keep_location)
    except PILLOW_ERRORS:
        logger.warning("%s: its EXIF block is damaged and is left out", name)
    packet = image.info.get("xmp") or image.info.get("XML:com.adobe.xmp")
    xmp = None
    if packet:
        xmp = clean_xmp(packet.encode() if isinstance(packet, str) else bytes(packet), size, keep_location)
        if xmp is None:
            logger.warning("%s: its XMP block cannot be read and is left out", name)
    return Metadata(profile, exif, xmp)


def _exif(image: Image.Image, size: tuple[int, int], is_srgb: bool, keep_location: bool) -> Image.Exif | None:
    """Return the EXIF block of the copy; None when the picture has nothing to keep."""
    found = image.getexif()
    kept = Image.Exif()
    for tag in KEPT_TAGS:
        if tag in found:
            kept[tag] = found[tag]
    details: dict[int, Any] = {t: v for t, v in found.get_ifd(IFD.Exif).items() if t not in DROPPED_DETAILS}
    if interop := found.get_ifd(IFD.Interop):  # says "Adobe RGB" in files of cameras
        details[IFD.Interop] = dict(interop)
    if not details and all(tag in (Base.XResolution, Base.YResolution, Base.ResolutionUnit) for tag in kept):
        kept = Image.Exif()  # a TIFF file without EXIF has these
    elif details:
        details[Base.ExifImageHeight], details[Base.ExifImageWidth] = size
    if is_srgb and details:
        details[Base.ColorSpace] = SRGB
        details.pop(IFD.Interop, None)
    if details:
        kept[IFD.Exif] = details
    if keep_location and (position := found.get_ifd(IFD.GPSInfo)):
        kept[IFD.GPSInfo] = dict(position)
    if not len(kept):
        return None
    kept[Base.Orientation] = UPRIGHT
    kept.tobytes()  # now, because values of unknown types fail here
    return kept


def png_chunks(metadata: Metadata) -> list[tuple[bytes, bytes]]:
    """Return the chunks of a PNG file, names and contents, that stand in front of its pixels."""
    chunks = []
    if metadata.profile is not None:
        chunks.append((b"iCCP", b"ICC profile\0\0" + zlib.compress(metadata.profile)))
    if (block := metadata.exif_block) is not None:
        chunks.append((b"eXIf", block.removeprefix(EXIF_START)))
    if metadata.xmp is not None:
        chunks.append((b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + metadata.xmp))
    return chunks


def jpeg_with(data: bytes, metadata: Metadata, name: str) -> bytes:
    """Return a JPEG file with metadata; blocks too long for the format are left out, with a warning.

    Args:
        data: of a file that begins with a JFIF segment.
        metadata: to be added.
        name: of the file, for messages.
    """
    segments = []
    for kind, block in (
        ("EXIF", metadata.exif_block),
        ("XMP", None if metadata.xmp is None else JPEG_XMP + metadata.xmp),
    ):
        if block is not None and len(block) > MAX_SEGMENT:
            logger.warning("%s: its %s block of %d bytes is too long for JPEG and is left out", name, kind, len(block))
        elif block is not None:
            segments.append((0xE1, block))
    step = MAX_SEGMENT - len(JPEG_PROFILE) - 2
    profile = metadata.profile or b""
    parts = [profile[i : i + step] for i in range(0, len(profile), step)]
    segments += [(0xE2, JPEG_PROFILE + bytes([i, len(parts)]) + part) for i, part in enumerate(parts, 1)]
    start = 4 + int.from_bytes(data[4:6], "big") if data[2:4] == b"\xff\xe0" else 2  # behind the JFIF segment
    added = b"".join(struct.pack(">BBH", 0xFF, mark, len(block) + 2) + block for mark, block in segments)
    return data[:start] + added + data[start:]


def tiff_with(image: TiffImageFile, data: bytes, metadata: Metadata, has_alpha: bool) -> bytes:
    """Return a TIFF file with metadata: its directory is written again, in front of the old file.

    Args:
        image: the file, opened by Pillow.
        data: of the file.
        metadata: to be added.
        has_alpha: the last channel is alpha.
    """
    directory = ImageFileDirectory_v2(data[:8])
    for tag, value in image.tag_v2.items():
        directory.tagtype[tag] = image.tag_v2.tagtype[tag]
        directory[tag] = value
    if has_alpha:
        directory[TIFF_EXTRA_SAMPLES] = (UNASSOCIATED_ALPHA,)
    if metadata.exif is not None:
        for tag, value in metadata.exif.items():
            directory[tag] = value
    for tag, block in ((TIFF_XMP, metadata.xmp), (TIFF_PROFILE, metadata.profile)):
        if block is not None:
            directory.tagtype[tag] = 1 if tag == TIFF_XMP else 7  # bytes; "undefined"
            directory[tag] = block
    head = data[:4] + struct.pack("<I" if data[:2] == b"II" else ">I", 8)
    return head + directory.tobytes(8) + data  # which moves the positions of strips by what stands in front of `data`
