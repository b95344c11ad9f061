"""Cut large images into overlapping squares, which train faster than whole images when these do not fit into memory.

`0001.png` becomes `0001_s001.png`, `0001_s002.png` and so on, row by row. The defaults are the published ones: without
-i DIV2K is cut, with its low-resolution images X2, X3 and X4 if they are there.

With --lr, the low-resolution images in LR/X2, LR/X3, ... are cut at the same positions into LR/X2_sub, LR/X3_sub, ...,
under the same names: `0001x2.png` also becomes `0001_s001.png`, so the data set needs no filename_tmpl. The
high-resolution images are first cut at the bottom right to a multiple of all scales, so every square has its partners.

Existing files are kept, so a stopped run can be started again. An image that cannot be read does not stop the others;
it is named at the end, with exit code 2.
"""

import argparse
import math
import os
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

from basicsr.data.crops import Window
from basicsr.data.listing import partner_names
from basicsr.data.pieces import Job, squares, write_missing
from basicsr.data.storage import FolderImages
from basicsr.text import tolerate_encoding

DIV2K_HR, DIV2K_LR = Path("datasets/DIV2K/DIV2K_train_HR"), Path("datasets/DIV2K/DIV2K_train_LR_bicubic")
SCALES = (2, 3, 4)


def main(argv: list[str] | None = None) -> int:
    """Run the command line; return 0 when all squares exist."""
    tolerate_encoding()
    parser = argparse.ArgumentParser(
        prog="extract_subimages", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("-i", "--input", type=Path, metavar="FOLDER", help=f"images, subfolders included (default: {DIV2K_HR})")
    add("-o", "--output", type=Path, metavar="FOLDER", help="for the squares (default: <input>_sub)")
    add("--crop-size", type=int, default=480, metavar="PX", help="side of a square (default: 480)")
    add("--step", type=int, default=240, metavar="PX", help="from square to square (default: 240)")
    add("--thresh-size", type=int, default=0, metavar="PX", help="a wider border gets squares of its own (default: 0)")
    add("--scale", type=int, nargs="+", default=[], help="make sides multiples of these; see --lr")
    add("--lr", type=Path, metavar="FOLDER", help="holds X2, X3, ... for each --scale, cut in the same way")
    add("--lr-name", default="{}x{scale}", help="stems of LR images (default: {}x{scale})")
    add("--compression", type=int, choices=range(10), default=3, metavar="LEVEL", help="of the PNGs")
    add("--workers", type=int, default=os.cpu_count() or 1, help="processes (default: one a core)")
    args = parser.parse_args(argv)
    if args.input is None:
        args.input = DIV2K_HR
        if args.lr is None and not args.scale and all((DIV2K_LR / f"X{scale}").is_dir() for scale in SCALES):
            args.lr, args.scale = DIV2K_LR, list(SCALES)
    if args.output is None:
        args.output = args.input.with_name(f"{args.input.name}_sub")
    if min([args.crop_size, args.step, args.workers, *args.scale]) < 1 or args.thresh_size < 0:
        parser.error("--crop-size, --step, --workers and --scale must be at least 1, --thresh-size at least 0")
    if args.lr is not None and not args.scale:
        parser.error("--lr needs --scale")
    multiple = math.lcm(*args.scale)
    if args.crop_size % multiple or args.step % multiple:
        parser.error(f"--crop-size and --step must be multiples of {multiple}, as all of --scale must divide them")
    try:
        hr = FolderImages(args.input)
        names = hr.names()
        if not names:
            raise FileNotFoundError(f"{args.input}: no images; check the path")
        sizes = hr.sizes(names)
        windows = [
            cut_up(args.input / name, *size, args.crop_size, args.step, args.thresh_size, multiple)
            for name, size in zip(names, sizes, strict=True)
        ]
        jobs = [*plan(args.input, names, names, args.output, windows, 1, args.compression)]
        for scale in dict.fromkeys(args.scale if args.lr else []):
            lr = FolderImages(args.lr / f"X{scale}")
            partners = partner_names(names, lr, args.lr_name.replace("{scale}", str(scale)))
            check_sizes(lr, partners, sizes, scale)
            output = args.lr / f"X{scale}_sub"
            jobs += plan(lr.root, partners, names, output, windows, scale, args.compression)
        written, existed = write_missing(jobs, args.workers)
    except (ValueError, OSError) as error:
        parser.exit(2, f"{parser.prog}: {error}\n")
    print(f"{written} files written, {existed} existed already")
    return 0


def cut_up(path: Path, height: int, width: int, side: int, step: int, thresh: int, multiple: int) -> list[Window]:
    """Return squares of `side` pixels that cover an image of height x width, row by row.

    Args:
        path: path of the image, for messages.
        height: height of the image, in pixels.
        width: width of the image, in pixels.
        side: side of a square, in pixels.
        step: distance from a square to the next, in pixels.
        thresh: when more pixels than this would remain at the end of an axis, one more square ends there.
        multiple: the image is first cut to a multiple of this.

    Raises:
        ValueError: when the image is smaller than a square.
    """
    found = squares(height // multiple * multiple, width // multiple * multiple, side, step, thresh)
    if not found:
        raise ValueError(f"{path}: {height}x{width} (height x width) is smaller than --crop-size {side}; leave it out")
    return found


def plan(
    folder: Path,
    sources: Sequence[str],
    names: Sequence[str],
    output: Path,
    windows: Sequence[list[Window]],
    scale: int,
    png_level: int,
) -> Iterator[Job]:
    """Yield the jobs that cut the images `sources` of `folder`.

    Args:
        folder: folder of the images.
        sources: their names relative to it.
        names: high-resolution names, from which the names of the squares are made.
        output: folder for the squares.
        windows: squares of each image, in high-resolution pixels.
        scale: high-resolution pixels for each pixel of the images; divides all numbers in `windows`.
        png_level: compression of the squares.

    Raises:
        ValueError: when two images would be written to one file.
    """
    owners: dict[PurePosixPath, str] = {}
    for source, name, cuts in zip(sources, names, windows, strict=True):
        stem = PurePosixPath(name).with_suffix("")
        if owners.setdefault(stem, name) != name:
            raise ValueError(f"{folder}: {owners[stem]} and {name} both become {stem}_s001.png; rename one")
        pieces = [
            (output / f"{stem}_s{number:03d}.png", Window(*(value // scale for value in square)))
            for number, square in enumerate(cuts, 1)
        ]
        yield Job(folder / source, pieces, png_level)


def check_sizes(lr: FolderImages, names: Sequence[str], hr_sizes: Sequence[tuple[int, int]], scale: int) -> None:
    """Check that the sizes of low-resolution images are floor(high resolution / scale).

    Raises:
        ValueError: naming the first other one.
    """
    for name, size, (height, width) in zip(names, lr.sizes(names), hr_sizes, strict=True):
        if size != (height // scale, width // scale):
            raise ValueError(
                f"{lr.root / name}: expected {height // scale}x{width // scale} (height x width), got "
                f"{size[0]}x{size[1]}; make it with scripts/data_preparation/generate_lr.py"
            )


if __name__ == "__main__":
    raise SystemExit(main())
