"""Colour profiles (ICC): which kind a profile is, and pixels converted to sRGB.

Pixels of 8 bits go through LittleCMS (`PIL.ImageCms`), which takes no RGB of 16 bits there. For these, profiles of a
matrix and three curves (Display P3, Adobe RGB, ProPhoto, those of cameras and screens) and of a gray curve are worked
out here, by ICC.1:2022: curveType and parametricCurveType.
"""

import functools
import io
import logging
import struct

import numpy as np
from PIL import Image, ImageCms

logger = logging.getLogger("basicsr")
RGB, GRAY, CMYK = "RGB ", "GRAY", "CMYK"  # data colour spaces of profiles
# Linear sRGB of CIE XYZ under D50, where profiles connect: the inverse of the columns of an sRGB profile.
SRGB_FROM_XYZ = np.array(
    [
        [3.1338561, -1.6168667, -0.4906146],
        [-0.9787684, 1.9161415, 0.0334540],
        [0.0719453, -0.2289914, 1.4052427],
    ]
)
PARAMETERS = (1, 3, 4, 5, 7)  # numbers of the five kinds of parametric curves
ROWS = 256  # of an image that are converted at a time, in floats


def profile_space(profile: bytes) -> str | None:
    """Return the colour space of a profile, "RGB ", "GRAY", "CMYK", ...; None when it is damaged."""
    is_whole = len(profile) >= 132 and profile[36:40] == b"acsp"
    return profile[16:20].decode("ascii", "replace") if is_whole else None


@functools.cache
def srgb_profile() -> bytes:
    """Return an sRGB profile, 588 bytes."""
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def image_to_srgb(image: Image.Image, profile: bytes) -> Image.Image:
    """Return a PIL image of mode RGB, L or CMYK, converted from its profile to sRGB, mode RGB.

    The intent is relative colorimetric with black point compensation, as in most programs for photographs.

    Raises:
        ValueError: when the profile is damaged or does not fit the mode.
    """
    try:
        transform = ImageCms.buildTransform(
            ImageCms.ImageCmsProfile(io.BytesIO(profile)),
            ImageCms.ImageCmsProfile(io.BytesIO(srgb_profile())),
            image.mode,
            "RGB",
            renderingIntent=ImageCms.Intent.RELATIVE_COLORIMETRIC,
            flags=ImageCms.Flags.BLACKPOINTCOMPENSATION,
        )
        return transform.apply(image)
    except (ImageCms.PyCMSError, OSError, ValueError) as error:
        raise ValueError(f"its colour profile cannot be used ({error})") from error


def pixels_to_srgb(pixels: np.ndarray, profile: bytes, name: str) -> np.ndarray:
    """Return RGB pixels converted from a profile to sRGB.

    Args:
        pixels: (H, W, 3), of a gray profile with three equal channels; uint8 or uint16.
        profile: of RGB or gray.
        name: of the picture, for messages.

    Returns:
        (H, W, 3), of the same type.

    Raises:
        ValueError: when the profile is damaged or of another kind.
    """
    if profile_space(profile) not in (RGB, GRAY):
        raise ValueError("its colour profile is damaged or of another kind than its pixels")
    is_gray = profile_space(profile) == GRAY
    if pixels.dtype == np.uint16:
        try:
            return _deep_to_srgb(pixels, *_matrix_and_curves(profile))
        except (KeyError, struct.error, IndexError) as error:
            logger.warning("%s: its colour profile has tables (%s), so its 16 bits become 8", name, error)
            pixels = np.round(pixels / 257).astype(np.uint8)
            return pixels_to_srgb(pixels, profile, name).astype(np.uint16) * 257
    image = Image.fromarray(np.ascontiguousarray(pixels[..., 0] if is_gray else pixels))
    return np.array(image_to_srgb(image, profile))


def _deep_to_srgb(pixels: np.ndarray, matrix: np.ndarray, curves: list[np.ndarray]) -> np.ndarray:
    """Return uint16 pixels (H, W, 3) as sRGB.

    Args:
        pixels: encoded.
        matrix: XYZ under D50 of linear channels.
        curves: linear values of all 65536 levels, one curve a channel.
    """
    to_linear_srgb = (SRGB_FROM_XYZ @ matrix).T.astype(np.float32)
    output = np.empty_like(pixels)
    for top in range(0, len(pixels), ROWS):
        part = pixels[top : top + ROWS]
        linear = np.dstack([curve[part[..., k]] for k, curve in enumerate(curves)]) @ to_linear_srgb
        linear = linear.clip(0, 1)
        encoded = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
        output[top : top + ROWS] = np.rint(encoded * 65535)
    return output


def _matrix_and_curves(profile: bytes) -> tuple[np.ndarray, list[np.ndarray]]:
    """Return the XYZ matrix of a profile, (3, 3), and its three curves, each (65536,) float32.

    Raises:
        KeyError: when it has tables, which count more than the matrix.
        struct.error, IndexError: when it is damaged.
    """
    tags = _tags(profile)
    if b"A2B0" in tags or b"A2B1" in tags:
        raise KeyError("A2B")
    if profile_space(profile) == GRAY:
        white = np.linalg.inv(SRGB_FROM_XYZ).sum(axis=1)  # of sRGB: gray stays gray
        return np.outer(white, [1 / 3] * 3), [_curve(tags[b"kTRC"])] * 3
    columns = [struct.unpack(">3i", tags[name][8:20]) for name in (b"rXYZ", b"gXYZ", b"bXYZ")]
    return np.array(columns).T / 65536, [_curve(tags[name]) for name in (b"rTRC", b"gTRC", b"bTRC")]


def _tags(profile: bytes) -> dict[bytes, bytes]:
    """Return the tags of a profile by their signatures."""
    (count,) = struct.unpack(">I", profile[128:132])
    entries = [struct.unpack(">4sII", profile[132 + 12 * i : 144 + 12 * i]) for i in range(min(count, 100))]
    return {name: profile[offset : offset + size] for name, offset, size in entries}


def _curve(tag: bytes) -> np.ndarray:
    """Return the linear values in [0, 1] of the levels 0 to 65535 by a curve of a profile."""
    x = np.arange(65536) / 65535
    if tag[:4] == b"para":
        (kind,) = struct.unpack(">H", tag[8:10])
        count = PARAMETERS[kind]
        y = _parametric(x, kind, [value / 65536 for value in struct.unpack(f">{count}i", tag[12 : 12 + 4 * count])])
    else:
        (count,) = struct.unpack(">I", tag[8:12])
        values = struct.unpack(f">{count}H", tag[12 : 12 + 2 * count])
        if count <= 1:  # the identity, or a power in 256ths
            y = x ** (values[0] / 256 if values else 1)
        else:
            y = np.interp(x, np.linspace(0, 1, count), np.array(values) / 65535)
    return y.clip(0, 1).astype(np.float32)


def _parametric(x: np.ndarray, kind: int, values: list[float]) -> np.ndarray:
    """Return a parametric curve at x: a power of a * x + b, and of kinds 1 to 4 another piece below a bound."""
    g, a, b, c, d, e, f = (*values, *[0.0] * (7 - len(values)))
    if kind == 0:
        return x**g
    power = np.maximum(a * x + b, 0) ** g
    if kind == 1:
        return np.where(x >= -b / a, power, 0)
    if kind == 2:
        return np.where(x >= -b / a, power + c, c)
    return np.where(x >= d, power + e, c * x + f)
