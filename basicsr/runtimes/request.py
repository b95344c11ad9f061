"""What `basicsr-export` is asked for: a checked command line, and the files that it means.

Imports no torch, so that `basicsr-export --help` answers at once.
"""

import argparse
import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from basicsr.engine.atomic import check_folder
from basicsr.errors import OptionError

TARGETS = {  # formats, sides of tiles, whether there is a file for any size
    "web": (("onnx",), (64,), True),
    "desktop": (("onnx",), (), True),
    "phone": (("pte",), (64,), False),
}
EXTRAS = {"onnx": ("export", ("onnx", "onnxscript", "onnxruntime")), "pte": ("executorch", ("executorch",))}
ENDINGS = {"float32": "", "float16": "_fp16", "int8": "_int8"}  # of file names, by type of numbers


class Request(NamedTuple):
    """A checked command line."""

    model: Path
    output: Path
    formats: tuple[str, ...]
    tiles: tuple[int, ...]
    is_dynamic: bool
    dtypes: tuple[str, ...]
    opset: int
    calibrate: Path | None
    photo: Path | None
    overwrite: bool


class FileSpec(NamedTuple):
    """A file to make."""

    name: str
    kind: str
    """onnx or pte"""
    size: tuple[int, int] | None
    """(height, width) of its inputs; None: any"""
    dtype: str
    """float32, float16 or int8"""


def check_request(args: argparse.Namespace) -> Request:
    """Return what a command line asks for.

    Raises:
        OptionError: naming an option that is wrong, names a folder that cannot be written, or needs something to be
            installed.
    """
    check_folder(args.output, "-o")
    formats, tiles, is_dynamic = TARGETS[args.target]
    formats = tuple(dict.fromkeys(args.format or formats))
    tiles = tuple(dict.fromkeys(tiles if args.tile is None else args.tile))
    is_dynamic = is_dynamic if args.dynamic is None else args.dynamic
    if min(tiles, default=1) < 1:
        raise OptionError(f"--tile: must be at least 1 px, got {min(tiles)}")
    if "pte" in formats and not tiles:
        raise OptionError("--format pte: a program is for tiles of one size; give their sides to --tile, such as 64")
    if "onnx" in formats and not tiles and not is_dynamic:
        raise OptionError("--no-dynamic: leaves no file to write; give sides of tiles to --tile, such as 64")
    if args.int8 and args.calibrate is None:
        raise OptionError("--int8: needs photographs to find the ranges of values; name their folder by --calibrate")
    if args.int8 and "onnx" not in formats:
        raise OptionError("--int8: is for --format onnx")
    for kind in formats:
        extra, modules = EXTRAS[kind]
        missing = [name for name in modules if importlib.util.find_spec(name) is None]
        if missing:
            raise OptionError(f"--format {kind}: needs {', '.join(missing)}; pip install 'basicsr[{extra}]'")
    return Request(
        model=Path(args.model),
        output=Path(args.output),
        formats=formats,
        tiles=tiles,
        is_dynamic=is_dynamic,
        dtypes=tuple(dict.fromkeys(args.dtype)),
        opset=args.opset,
        calibrate=Path(args.calibrate) if args.int8 else None,
        photo=Path(args.photo) if args.photo else None,
        overwrite=args.overwrite,
    )


def planned_files(request: Request) -> Iterator[FileSpec]:
    """Yield the files that a request means, float32 first."""
    sizes = [(side, side) for side in request.tiles]
    for dtype in (*request.dtypes, *(["int8"] if request.calibrate else [])):
        for kind in request.formats:
            if kind == "pte" and dtype == "int8":
                continue
            for size in (*([None] if request.is_dynamic and kind == "onnx" else []), *sizes):
                label = "dynamic" if size is None else f"{size[0]}x{size[1]}"
                yield FileSpec(f"{request.model.stem}_{label}{ENDINGS[dtype]}.{kind}", kind, size, dtype)
