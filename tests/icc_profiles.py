"""Colour profiles for tests, written tag by tag: Pillow makes none but sRGB, Lab and XYZ."""

import struct

import numpy as np
from PIL import Image, ImageCms

D50 = (0.9642, 1.0, 0.8249)
# Columns: XYZ under D50 of the primaries.
DISPLAY_P3 = np.array([[0.51512, 0.29198, 0.15710], [0.24120, 0.69225, 0.06657], [-0.00105, 0.04189, 0.78407]])
ADOBE_RGB = np.array([[0.60974, 0.20528, 0.14919], [0.31111, 0.62567, 0.06322], [0.01947, 0.06087, 0.74457]])
SRGB = np.array([[0.43607, 0.38515, 0.14307], [0.22249, 0.71687, 0.06061], [0.01392, 0.09708, 0.71410]])
SRGB_CURVE = b"para" + struct.pack(
    ">I2H5i", 0, 3, 0, *(round(65536 * v) for v in (2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045))
)
ADOBE_GAMMA = b"curv" + struct.pack(">2IH", 0, 1, 563)  # 2 + 51/256


def profile(space, tags, pcs=b"XYZ ", kind=b"mntr"):
    """Return a profile of version 4.3 with a description, a copyright, a white point and `tags`."""
    text = "made by a test".encode("utf-16-be")
    words = b"mluc" + struct.pack(">3I2s2s2I", 0, 1, 12, b"en", b"US", len(text), 28) + text
    tags = {b"desc": words, b"cprt": words, b"wtpt": xyz(D50), **tags}
    offset, table, data = 132 + 12 * len(tags), b"", b""
    for name, content in tags.items():
        table += struct.pack(">4s2I", name, offset + len(data), len(content))
        data += content + b"\0" * (-len(content) % 4)
    header = struct.pack(">I4sI4s4s4s12s4s", offset + len(data), b"", 0x04300000, kind, space, pcs, b"", b"acsp")
    header = header.ljust(68, b"\0") + struct.pack(">3i", *(round(65536 * v) for v in D50))
    return header.ljust(128, b"\0") + struct.pack(">I", len(tags)) + table + data


def xyz(values):
    return b"XYZ " + struct.pack(">I3i", 0, *(round(65536 * v) for v in values))


def rgb_profile(matrix, curve):
    columns = {name: xyz(column) for name, column in zip((b"rXYZ", b"gXYZ", b"bXYZ"), matrix.T, strict=True)}
    return profile(b"RGB ", {**columns, **dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), curve)})


def display_p3():
    return rgb_profile(DISPLAY_P3, SRGB_CURVE)


def adobe_rgb():
    return rgb_profile(ADOBE_RGB, ADOBE_GAMMA)


def gray_gamma(gamma=1.8):
    return profile(b"GRAY", {b"kTRC": b"curv" + struct.pack(">2IH", 0, 1, round(256 * gamma))})


def rgb_tables():
    """A profile of RGB by a table (A2B0): a cube of two points a side whose corners are those of sRGB."""
    corners = np.array([[r, g, b] for r in (0, 255) for g in (0, 255) for b in (0, 255)], np.uint8)
    return profile(b"RGB ", {b"A2B0": _table(corners, 3)}, b"Lab ", b"scnr")


def cmyk():
    """A profile of printing inks: colours between those of the 16 corners, each a product of its inks."""
    grid = np.array([[c, m, y, k] for c in (0, 1) for m in (0, 1) for y in (0, 1) for k in (0, 1)])
    inks = np.array([[0, 150, 220], [220, 0, 130], [250, 235, 0], [30, 30, 30]]) / 255
    corners = np.prod(np.where(grid[:, :, None] == 1, inks, 1), axis=1) * 255
    return profile(b"CMYK", {b"A2B0": _table(corners.round().astype(np.uint8), 4)}, b"Lab ", b"prtr")


def _table(corners, inputs):
    """Return a table of 8 bits with two points a side, from sRGB colours."""
    srgb, lab = (ImageCms.createProfile(name) for name in ("sRGB", "LAB"))
    colours = Image.fromarray(corners[None])
    lab_values = np.array(ImageCms.profileToProfile(colours, srgb, lab, outputMode="LAB"))[0].astype(np.int16)
    lab_values[:, 1:] = np.array(lab_values[:, 1:], np.uint8).view(np.int8).astype(np.int16) + 128
    identity = bytes(range(256))
    matrix = struct.pack(">9i", *(65536 * np.eye(3, dtype=int)).ravel())
    head = b"mft1" + struct.pack(">I4B", 0, inputs, 3, 2, 0) + matrix
    return head + identity * inputs + lab_values.astype(np.uint8).tobytes() + identity * 3


def decode_srgb(values):
    """Return linear values of encoded ones in [0, 1]."""
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def encode_srgb(values):
    values = values.clip(0, 1)
    return np.where(values <= 0.0031308, 12.92 * values, 1.055 * values ** (1 / 2.4) - 0.055)


def srgb_of(pixels, matrix, gamma=None):
    """Return floats in [0, 1]: sRGB of pixels under a profile of a matrix, in double precision.

    Args:
        pixels: uint8 or uint16, (..., 3).
        matrix: of the profile.
        gamma: of its curves; None: the curve of sRGB.
    """
    values = pixels / np.iinfo(pixels.dtype).max
    linear = decode_srgb(values) if gamma is None else values**gamma
    return encode_srgb(linear @ (np.linalg.inv(SRGB) @ matrix).T)
