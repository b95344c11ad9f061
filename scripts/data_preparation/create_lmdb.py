"""Pack the images of a folder into an LMDB, for `io_backend: {type: lmdb}`.

Every image is decoded once and stored as a PNG that decodes fast. The LMDB has BasicSR's layout: `data.mdb`,
`lock.mdb`, and `meta_info.txt` with a line `name.png (height,width,channels) level` for each image, whose key is its
name without the suffix. It appears when it is complete. A stopped run continues when it is started again with the
same names, sizes and --compression. Images that cannot be read are named at the end, with exit code 2; all others are
encoded by then, and are not encoded again.
"""

import argparse
import os
import shutil
from collections.abc import Iterable, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from basicsr.data.storage import META_INFO, FolderImages, lmdb_key
from basicsr.engine.parallel import Fault, in_parallel, raise_if_any_failed, result_or_fault
from basicsr.images.files import encode_image, read_image
from basicsr.text import tolerate_encoding

COMMIT_EVERY = 256  # images, the most that a stopped run has to repeat
PIXEL_BYTES = 6  # at most: three channels of 16 bits
PAGE_SLACK_BYTES = 1 << 16  # for each image: headers, and pages that are partly empty
MAX_KEY_BYTES = 511  # LMDB's limit


class Job(NamedTuple):
    """An image to encode."""

    source: Path
    level: int


def main(argv: list[str] | None = None) -> int:
    """Run the command line; return 0 when the LMDB exists."""
    tolerate_encoding()
    parser = argparse.ArgumentParser(prog="create_lmdb", description=__doc__)
    parser.add_argument("-i", "--input", type=Path, required=True, help="folder of images, subfolders included")
    parser.add_argument("-o", "--output", type=Path, required=True, help="LMDB to make, *.lmdb")
    levels = "of the PNGs: 0, fast and large, to 9, slow and small (default: 1)"
    parser.add_argument("--compression", type=int, choices=range(10), default=1, metavar="LEVEL", help=levels)
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes (default: one a core)")
    parser.add_argument("--overwrite", action="store_true", help="replace an existing LMDB")
    args = parser.parse_args(argv)
    if args.workers < 1:
        parser.error("--workers must be at least 1")
    try:
        count, is_new = pack(args.input, args.output, args.compression, args.workers, args.overwrite)
    except (ValueError, OSError) as error:
        parser.exit(2, f"{parser.prog}: {error}\n")
    print(f"{args.output}: {count} images{'' if is_new else ', made before'}")
    return 0


def pack(source: Path, target: Path, level: int, workers: int, overwrite: bool) -> tuple[int, bool]:
    """Return the number of images in the LMDB `target`, and whether it is new.

    Raises:
        FileNotFoundError: when the folder `source` is missing or holds no images.
        ValueError: when images are damaged or share a key, or another LMDB is in the way.
    """
    if target.suffix != ".lmdb":
        raise ValueError(f"{target}: the name must end in .lmdb, by which data sets recognise it")
    folder = FolderImages(source)
    names = folder.names()
    if not names:
        raise FileNotFoundError(f"{source}: no images; check the path")
    check_keys(source, names)
    sizes = folder.sizes(names)
    listing = [f"{name} ({height},{width},3) {level}\n" for name, (height, width) in zip(names, sizes, strict=True)]
    if target.exists() and not overwrite:
        if meta_info(target) == "".join(listing):
            return len(names), False
        raise ValueError(f"{target}: holds something else; remove it, or replace it with --overwrite")

    part = target.with_name(f"{target.name}.part")
    if meta_info(part) != "".join(listing):
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        (part / META_INFO).write_text("".join(listing), encoding="utf-8", errors="surrogateescape")
    room = sum(PIXEL_BYTES * height * width + PAGE_SLACK_BYTES for height, width in sizes)
    fill(part, source, names, level, workers, room)
    if target.exists():
        shutil.rmtree(target)
    os.replace(part, target)
    return len(names), True


def fill(part: Path, source: Path, names: Sequence[str], level: int, workers: int, room: int) -> None:
    """Store the images `names` that are missing in the LMDB `part`, which can grow to `room` bytes.

    Raises:
        ValueError: at the end, when images are damaged, or without the package `lmdb`.
    """
    try:
        import lmdb
    except ImportError as error:
        raise ValueError("the package lmdb is missing; run `pip install lmdb`") from error
    with lmdb.open(str(part), map_size=room) as environment:
        with environment.begin(buffers=True) as transaction:
            names = [name for name in names if transaction.get(lmdb_key(name)) is None]
        encoded = in_parallel(partial(result_or_fault, encode), [Job(source / name, level) for name in names], workers)
        pairs, faults = zip(names, encoded, strict=True), []
        while batch := list(islice(pairs, COMMIT_EVERY)):
            put(environment, [(name, data) for name, data in batch if not isinstance(data, Fault)])
            faults += [fault.text for _, fault in batch if isinstance(fault, Fault)]
    raise_if_any_failed(faults, len(names))


def put(environment: Any, images: Iterable[tuple[str, bytes]]) -> None:
    """Store encoded images, all or none of them."""
    with environment.begin(write=True) as transaction:
        for name, data in images:
            transaction.put(lmdb_key(name), data)


def encode(job: Job) -> bytes:
    """Return an image as the content of a PNG file."""
    return encode_image(read_image(job.source), job.source.with_suffix(".png"), png_level=job.level)


def meta_info(folder: Path) -> str | None:
    """Return the list of images in an LMDB; None when there is none."""
    path = folder / META_INFO
    return path.read_text(encoding="utf-8", errors="surrogateescape") if path.is_file() else None


def check_keys(source: Path, names: Iterable[str]) -> None:
    """Check that the keys of all names are short enough and distinct.

    Raises:
        ValueError: naming the images.
    """
    owners: dict[bytes, str] = {}
    for name in names:
        key = lmdb_key(name)
        if len(key) > MAX_KEY_BYTES:
            raise ValueError(f"{source}: {name}: longer than the {MAX_KEY_BYTES} bytes that LMDB allows; rename it")
        if owners.setdefault(key, name) != name:
            raise ValueError(f"{source}: {owners[key]} and {name} have the same key {key.decode()!r}; rename one")


if __name__ == "__main__":
    raise SystemExit(main())
