"""Seeded mutations of option files and image files, and limits on the time and memory that one takes."""

import io
import logging
import os
import random
import resource
import signal
import struct
import zlib
from collections import Counter
from contextlib import contextmanager

import numpy as np
import pytest
import yaml
from PIL import Image

FULL = os.environ.get("BASICSR_FULL") == "1"


def cases(short, full):
    """Return the numbers of the cases to try: `short` of them, or all `full`; case N is the same in every run."""
    count = full if FULL else short
    return range(0, full, full // count)


def campaign(short, full):
    """Return the cases as two parameters of a test: a fifth, and the others, which are slow."""
    numbers = cases(short, full)
    others = [number for k, number in enumerate(numbers) if k % 5]
    return [pytest.param(numbers[::5], id="fifth"), pytest.param(others, id="others", marks=pytest.mark.slow)]


@contextmanager
def bounded(seconds, what):
    """Raise TimeoutError where the body takes more CPU time, also where it hangs in Python code."""

    def expire(*_):
        raise TimeoutError(f"{what}: over {seconds} s")

    before = signal.signal(signal.SIGPROF, expire)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def peak_mb():
    """Return the peak memory of this process so far, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


@contextmanager
def quiet():
    """Suppress log lines: a campaign has thousands of expected warnings."""
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)


# Option files.

HOSTILE = [
    None, True, False, 0, -1, 1, 2, 3, 7, 10**6, 10**9, 2**31, 2**63 - 1, 2**63, 10**30, -(10**18), 0.5, -0.0, 1e-300,
    1e308, float("inf"), float("-inf"), float("nan"), "", " ", "x", "four", "1e-4", "~", "null", "a\nb", "\t", "a\0b",
    "x" * 300, "é😀", "\u202e\u200b", "../../etc/passwd", "/", ".", "%s %d {} {0.__class__}", "__import__('os')",
    "${HOME}", "CATANet", "Adam", "SRModel", [], {}, [[]], [{}], {"": {}}, [None], [1, "a", None], list(range(1000)),
    [[[[[[1]]]]]], {"type": "CATANet"}, {"type": None}, {"type": "L1Loss", "self": 1}, {"type": ["a"]}, {1: 2},
    {"a": {"b": {"c": {}}}}, b"\xff\x00",
]  # fmt: skip
KEYS = [7, True, None, 1.5, "extra", "where", "self", "is_train", "k" * 2000, "a\nb", "\u00e9", "__class__", "rank"]
HUGE = [10**4, 10**5, 10**6, 10**9, 10**12, 2**62, 1e15, 1e300]
BITS_OF_TEXT = [
    "!!python/object/apply:os.system ['true']", "!!python/name:os.system", "!!int ''", "!!int x", "!!bool maybe",
    "!!float ''", "!!binary 'é'", "!!binary AAAA", "!!set {a, b}", "!!omap [a: 1]", "!!timestamp 2001-01-01", "!x y",
    "&a [*a]", "*missing", "<<: *missing", "<<: 3", "<<: [1]", "=", "? [a, b]", "? {a: b}\n: c", "'", '"', '"\\0"',
    '"\\ud800"', '"\\x"', "|", ">-2", "- ", ": ", "---", "...", "%YAML 9.9", "%TAG ! x", "{", "}", "[", "]", "@", "`",
    "\t", "\r", "\u2028", "\ufeff", "\x07", "\x85", "0x" + "f" * 5000, "9" * 5000, "1:59:59:59", ".inf", ".NaN",
    "1" + "e" * 10, "1e999999999", "#" * 100, "yes: no", "1: 2", "~: 1", "2001-01-01: x", "!!str : 1", "<<: {}",
]  # fmt: skip


def _bomb(rng):
    """Return nested YAML aliases that stand for billions of values, as lists, mappings or merges."""
    levels, width = rng.choice([(9, 9), (30, 2), (5, 40), (100, 1), (200, 2)]), rng.random()
    depth, each = levels
    kind = "list" if width < 0.4 else "merge" if width < 0.8 else "map"
    start = {"list": "&b0 [x, x]", "merge": "&b0 {x: 1}", "map": "&b0 {x: 1}"}[kind]
    lines = [f"b0: {start}"]
    for k in range(1, depth):
        uses = ", ".join([f"*b{k - 1}"] * each)
        inside = {"list": f"[{uses}]", "merge": f"{{<<: [{uses}], y{k}: 1}}", "map": f"{{p: *b{k - 1}, q: *b{k - 1}}}"}
        lines.append(f"b{k}: &b{k} {inside[kind]}")
    return "\n".join(lines) + "\n"


def _deep(rng):
    depth = rng.choice([5, 25, 300, 2000, 20000])
    return rng.choice([
        "deep: " + "[" * depth + "]" * depth, "deep: " + "{a: " * depth + "1" + "}" * depth, "deep: " + "[" * depth,
        "\n".join(" " * k + "a:" for k in range(min(depth, 400))), "deep:\n  " + "- " * depth + "1",
    ]) + "\n"  # fmt: skip


def _places(node, path=()):
    """Yield the paths of all keys and entries."""
    children = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, value in children:
        yield (*path, key)
        yield from _places(value, (*path, key))


def _mutate_values(values, rng):
    places = list(_places(values))
    *parents, key = rng.choice(places)
    node = values
    for parent in parents:
        node = node[parent]
    kind = rng.randrange(8)
    if kind <= 2:
        node[key] = rng.choice(HOSTILE)
    elif kind == 3:
        old = node[key]
        node[key] = rng.choice([[old], {"a": old}, [old] * 3, str(old), {str(old): old}, f"{old} "])
    elif kind == 4 and isinstance(node, dict):
        old = node.pop(key)
        if rng.random() < 0.7:
            name = str(key)
            at = rng.randrange(len(name) + 1)
            misspelt = [name[:at] + rng.choice("abz_-.:0 ") + name[at:], name[:at] + name[at + 1 :], name.upper()]
            node[rng.choice([*misspelt, *KEYS])] = old
    elif kind == 5 and isinstance(node[key], (int, float)) and not isinstance(node[key], bool):
        node[key] = rng.choice([node[key] * f for f in (-1, 0, 0.5, 1e9)] + HUGE)
    elif kind == 6 and isinstance(node, list):
        node.extend([node[key]] * rng.choice([1, 5, 300]))
    else:
        *others, other = rng.choice(places)
        node[key] = rng.choice([other, key, *others])


def _mutate_text(text, rng):
    lines = text.split("\n")
    at = rng.randrange(len(lines))
    kind = rng.randrange(13)
    if kind == 0:
        del lines[at]
    elif kind == 1:
        lines.insert(at, lines[rng.randrange(len(lines))])
    elif kind == 2:
        lines[at] = rng.choice([" ", "\t", "   "]) + lines[at]
    elif kind == 3:
        lines[at] = lines[at].lstrip()
    elif kind == 4:
        return text[: rng.randrange(len(text) + 1)]
    elif kind == 5:
        lines[at] = lines[at] + rng.choice(BITS_OF_TEXT)
    elif kind == 6:
        head, colon, _ = lines[at].partition(":")
        lines[at] = head + colon + " " + rng.choice(BITS_OF_TEXT)
    elif kind == 7:
        lines.insert(at, rng.choice(BITS_OF_TEXT))
    elif kind == 8:
        lines[at:at] = _bomb(rng).split("\n") if rng.random() < 0.5 else [_bomb(rng)]
    elif kind == 9:
        lines.insert(rng.choice([0, at]), _deep(rng))
    elif kind == 10:
        position = rng.randrange(len(text) + 1)
        return text[:position] + rng.choice("\0\x01\x7f\"'{}[]&*!|>%@`#,?:-\n\t é😀") + text[position:]
    elif kind == 11:
        return text + f"\nlong: {'x' * rng.choice([10**4, 10**5, 10**6])}\n"
    else:
        return text + "\n" + "\n".join(f"unknown{k}: {k}" for k in range(rng.choice([50, 2000, 9000])))
    return "\n".join(lines)


def _mutate_bytes(data, rng):
    kind = rng.randrange(8)
    if kind == 0:
        return data.decode("utf-8").encode(
            rng.choice(["utf-16", "utf-32", "utf-16-le", "utf-8-sig", "cp037"]), "replace"
        )
    if kind == 1:
        return b"\xff\xfe" + data
    if kind == 2:
        return data.replace(b"\n", rng.choice([b"\r\n", b"\r", b"\0\n", b"\x0b"]))
    if kind == 3:
        return rng.choice([b"", b"\0" * 1000, rng.randbytes(500), b"\x89PNG\r\n\x1a\n", b"PK\x03\x04", b"null", b"[]"])
    flipped = bytearray(data)
    for _ in range(rng.choice([1, 3, 30])):
        flipped[rng.randrange(len(flipped))] ^= 1 << rng.randrange(8)
    return bytes(flipped)


def option_file(number, seeds):
    """Mutated option file `number`, from one of the texts `seeds`."""
    rng = random.Random(f"options {number}")
    text = rng.choice(seeds)
    if rng.random() < 0.55:
        values = yaml.safe_load(text)
        for _ in range(rng.choice([1, 1, 2, 4])):
            _mutate_values(values, rng)
        text = yaml.safe_dump(values, sort_keys=False, allow_unicode=True, default_flow_style=rng.choice([False, None]))
    else:
        for _ in range(rng.choice([1, 1, 2])):
            text = _mutate_text(text, rng) or "\n"
    data = text.encode("utf-8", "surrogatepass")
    return _mutate_bytes(data, rng) if data and rng.random() < 0.1 else data


def override(number):
    """A value of --force_yml."""
    rng = random.Random(f"override {number}")
    keys = ["scale", "train:optim_g:lr", "train.total_iter", "network_g:type", "a:b:c", "", ":", "name:x", "a" * 3000]
    key = rng.choice([*keys, "datasets:train:gt_size", ":".join("a" * 2000), "path:é", "val:metrics:p:type"])
    value = rng.choice([repr(v) for v in HOSTILE] + BITS_OF_TEXT + [_bomb(rng), _deep(rng), "1=2", "[1, 2]", "{a: 1}"])
    return rng.choice([f"{key}={value}", f"{key} {value}", key])


# Image files.

SUFFIX = {"PNG": ".png", "JPEG": ".jpg", "BMP": ".bmp", "TIFF": ".tif", "WEBP": ".webp", "PPM": ".ppm", "GIF": ".png"}


def encoded(image, kind, **options):
    """The bytes of a Pillow image, or of its pixels."""
    file = io.BytesIO()
    (Image.fromarray(image) if isinstance(image, np.ndarray) else image).save(file, kind, **options)
    return file.getvalue()


def png_chunk(name, data):
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png(width, height, data, *, depth=8, colour=2, before=b""):
    """A PNG file of any claim: `data` is what its only IDAT chunk holds, before compression."""
    head = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    chunks = png_chunk(b"IHDR", head) + before + png_chunk(b"IDAT", zlib.compress(data, 9)) + png_chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


def image_file(number, pixels):
    """Mutated image file `number` from RGB `pixels` (uint8): its suffix, its bytes, and whether they are untouched.

    An untouched file is odd (16 bits, palette, turned, animated, ...) but sound, so it must be read.
    """
    rng = random.Random(f"images {number}")
    height, width = rng.choice([(1, 1), (1, 5000), (5000, 1), (3, 257), (40, 33), (40, 33), (40, 33), (17, 64)])
    pixels = np.resize(pixels, (height, width, 3)) if height > 64 or width > 64 else pixels[:height, :width]
    image = Image.fromarray(np.ascontiguousarray(pixels))
    kind = rng.choice(list(SUFFIX))
    modes = {"PNG": ["RGB", "L", "LA", "RGBA", "P", "1", "I;16", "RGB;16"], "JPEG": ["RGB", "L", "CMYK", "YCbCr"],
             "BMP": ["RGB", "L", "P", "1", "RGBA"], "WEBP": ["RGB", "RGBA", "L"],
             "TIFF": ["RGB", "L", "LA", "RGBA", "P", "1", "CMYK", "I;16", "RGB;16", "F"],
             "PPM": ["RGB", "L"], "GIF": ["P", "L"]}  # fmt: skip
    mode = rng.choice(modes[kind])
    options = {}
    if rng.random() < 0.2 and kind in ("PNG", "JPEG", "WEBP", "TIFF") and ";" not in mode:
        exif = Image.Exif()
        exif[0x0112] = rng.choice([*range(1, 9), 0, 9, 60000])
        options["exif"] = exif
    if kind == "TIFF" and ";" not in mode and "exif" not in options:  # libtiff writes no odd orientation
        options["compression"] = rng.choice([None, "tiff_lzw", "tiff_adobe_deflate", "packbits"])
    if rng.random() < 0.15 and kind in ("PNG", "WEBP", "TIFF", "GIF") and ";" not in mode and mode != "F":
        options.update(save_all=True, append_images=[image.convert(mode), image.rotate(180).convert(mode)])
    if mode in ("I;16", "RGB;16"):
        import cv2

        deep = pixels.astype(np.uint16) * 257
        data = cv2.imencode(SUFFIX[kind], deep if mode == "RGB;16" else deep[..., 0])[1].tobytes()
    else:
        data = encoded(image.convert(mode), kind, **options)
    suffix = SUFFIX[kind]
    if rng.random() < 0.2:
        suffix = rng.choice(list(SUFFIX.values()))
    damage = rng.randrange(10)
    if damage < 3:
        return suffix, data, mode != "F"
    if damage == 3:
        data = data[: rng.randrange(len(data))]
    elif damage == 4:
        data = data[: rng.randrange(40)]
    elif damage == 5:
        at, size = rng.randrange(len(data)), rng.choice([1, 16, 4096])
        data = data[:at] + bytes(size) + data[at + size :]
    elif damage == 6:
        data = data[:30] + rng.randbytes(len(data)) if rng.random() < 0.5 else rng.randbytes(rng.randrange(2000))
    elif damage == 7:
        at = rng.randrange(len(data))
        data = data[:at] + data[rng.randrange(len(data)) :]
    else:
        flipped = bytearray(data)
        for _ in range(rng.choice([1, 4, 50])):
            flipped[rng.randrange(min(len(flipped), rng.choice([60, 10**9])))] ^= 1 << rng.randrange(8)
        data = bytes(flipped)
    return suffix, data, False


def report(title, counts, **more):
    """Print the figures of a campaign in one line, which `pytest -s` shows."""
    figures = ", ".join(f"{outcome} {n}" for outcome, n in sorted(Counter(counts).items()))
    print(f"\n{title}: {figures}; " + ", ".join(f"{k} {v}" for k, v in more.items()))
