"""Make DFWB, the training images of ATD-U, from DIV2K, Flickr2K, WED and BSDS500.

Images with both sides longer than 1200 pixels are cut into overlapping squares, `0001_s001.png`, `0001_s002.png` and so
on, row by row, the last ones ending at the border. Other images are stored whole, as `0001.png`. The defaults are the
published ones.

The published set holds test images: BSD68 and CBSD68 are from BSDS500's validation part. --exclude-bsds500-val leaves
that part out, by name. --exclude leaves out every copy of an image of the given folders, in colour or gray, in another
format, compressed or resized, but not crops of it.

Existing files are kept, so a stopped run can be started again. An image that cannot be read does not stop the others;
it is named at the end, with exit code 2.
"""

import argparse
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from basicsr.data.crops import Window
from basicsr.data.pieces import Job, squares, write_missing
from basicsr.data.storage import FolderImages
from basicsr.engine.parallel import in_parallel
from basicsr.images.files import read_image
from basicsr.text import tolerate_encoding

FOLDERS = ("datasets/DIV2K/DIV2K_train_HR", "datasets/Flickr2K/Flickr2K_HR", "datasets/WED", "datasets/BSD500")
THUMBNAIL_SIDE = 16  # pixels of the gray thumbnails by which two files are compared
# Correlation of two thumbnails above which they are copies. No two of 329 different photographs reach 0.94, while gray
# copies of quality 30 and half the size stay above 0.998 (measured).
COPY_CORRELATION = 0.985
COPY_RATIO_TOLERANCE = 0.02  # relative difference of the ratios of height to width
# The numbers of BSDS500's validation images, which are the test images of BSDS300.
BSDS500_VAL = frozenset(map(str, (
        101085, 101087, 102061, 103070, 105025, 106024, 108005, 108070, 108082, 109053, 119082, 12084, 123074, 126007,
        130026, 134035, 14037, 143090, 145086, 147091, 148026, 148089, 156065, 157055, 159008, 160068, 16077, 163085,
        167062, 167083, 170057, 175032, 175043, 182053, 189080, 19021, 196073, 197017, 208001, 210088, 21077, 216081,
        219090, 220075, 223061, 227092, 229036, 236037, 24077, 241004, 241048, 253027, 253055, 260058, 271035, 285079,
        291000, 295087, 296007, 296059, 299086, 300091, 302008, 304034, 304074, 306005, 3096, 33039, 351093, 361010,
        37073, 376043, 38082, 38092, 385039, 41033, 41069, 42012, 42049, 43074, 45096, 54082, 55073, 58060, 62096,
        65033, 66053, 69015, 69020, 69040, 76053, 78004, 8023, 85048, 86000, 86016, 86068, 87046, 89072, 97033,
)))  # fmt: skip
BSDS500_SIDES = [321, 481]


class Image(NamedTuple):
    """An image to cut or to store."""

    folder: Path
    name: str  # relative to the folder
    height: int
    width: int

    @property
    def path(self) -> Path:
        """Its path."""
        return self.folder / self.name


def main(argv: list[str] | None = None) -> int:
    """Run the command line; return 0 when all files exist."""
    tolerate_encoding()
    parser = argparse.ArgumentParser(
        prog="generate_patches_dfwb", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "-i",
        "--input",
        type=Path,
        nargs="+",
        default=[Path(folder) for folder in FOLDERS],
        metavar="FOLDER",
        help=f"folders of images, subfolders included (default: {' '.join(FOLDERS)})",
    )
    parser.add_argument("-o", "--output", type=Path, default=Path("datasets/DFWB"), help="default: datasets/DFWB")
    parser.add_argument("--patch-size", type=int, default=768, metavar="PX", help="side of a square (default: 768)")
    parser.add_argument("--overlap", type=int, default=128, metavar="PX", help="of two squares (default: 128)")
    parser.add_argument(
        "--longer-than", type=int, default=1200, metavar="PX", help="cut images with both sides longer (default: 1200)"
    )
    parser.add_argument("--exclude", type=Path, nargs="+", default=[], metavar="FOLDER", help="of test images")
    parser.add_argument("--exclude-bsds500-val", action="store_true", help="leave out BSDS500's validation images")
    parser.add_argument("--compression", type=int, choices=range(10), default=3, metavar="LEVEL", help="of the PNGs")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes (default: one a core)")
    args = parser.parse_args(argv)
    if not 0 <= args.overlap < args.patch_size or args.workers < 1:
        parser.error("--overlap must be at least 0 and less than --patch-size, --workers at least 1")
    if args.longer_than < args.patch_size - 1:
        parser.error(f"--longer-than must be at least {args.patch_size - 1}, or no square fits (--patch-size)")
    try:
        images = [image for folder in dict.fromkeys(args.input) for image in images_of(folder)]
        cutting = (args.output, args.patch_size, args.overlap, args.longer_than)
        jobs = [Job(image.path, pieces(image, *cutting), args.compression) for image in images]
        check_distinct_outputs(jobs)
        left_out = of_bsds500_val(images) if args.exclude_bsds500_val else {}
        if args.exclude:
            left_out |= copies_of(images, args.exclude, args.workers)
        report(images, left_out)
        check_no_leftovers(job for job in jobs if job.source in left_out)
        written, existed = write_missing((job for job in jobs if job.source not in left_out), args.workers)
    except (ValueError, OSError) as error:
        parser.exit(2, f"{parser.prog}: {error}\n")
    print(f"{written} files written, {existed} existed already")
    return 0


def images_of(folder: Path) -> list[Image]:
    """Return all images of a folder and its subfolders.

    Raises:
        FileNotFoundError: when there is no such folder, or no image in it.
        ValueError: when images are damaged.
    """
    store = FolderImages(folder)
    if not store.names():
        raise FileNotFoundError(f"{folder}: no images; check the path")
    sizes = store.sizes(store.names())
    return [Image(folder, name, *size) for name, size in zip(store.names(), sizes, strict=True)]


def pieces(image: Image, output: Path, side: int, overlap: int, longer_than: int) -> list[tuple[Path, Window]]:
    """Return the files of one image with their windows: squares, or the whole image.

    Args:
        image: the image.
        output: folder for the files, without subfolders.
        side: side of a square, in pixels.
        overlap: overlap of neighbouring squares, in pixels.
        longer_than: only images with both sides longer than this are cut, in pixels.
    """
    stem = Path(image.name).stem
    if min(image.height, image.width) <= longer_than:
        return [(output / f"{stem}.png", Window(0, 0, image.height, image.width))]
    windows = squares(image.height, image.width, side, side - overlap)
    return [(output / f"{stem}_s{number:03d}.png", window) for number, window in enumerate(windows, 1)]


def of_bsds500_val(images: Sequence[Image]) -> dict[Path, str]:
    """Return the images of BSDS500's validation part, each with the reason to leave it out."""
    return {
        image.path: "of BSDS500's validation part"
        for image in images
        if Path(image.name).stem in BSDS500_VAL and sorted((image.height, image.width)) == BSDS500_SIDES
    }


def copies_of(images: Sequence[Image], test_folders: Sequence[Path], workers: int) -> dict[Path, str]:
    """Return the copies of images of the test folders, each with the reason to leave it out."""
    tests = [image for folder in test_folders for image in images_of(folder)]
    thumbnails = np.stack(list(in_parallel(thumbnail, [image.path for image in (*images, *tests)], workers)))
    correlation = thumbnails[: len(images)] @ thumbnails[len(images) :].T
    ratios, test_ratios = (np.array([image.height / image.width for image in some]) for some in (images, tests))
    correlation[np.abs(ratios[:, None] / test_ratios - 1) > COPY_RATIO_TOLERANCE] = 0
    return {
        image.path: f"copy of {tests[row.argmax()].path}"
        for image, row in zip(images, correlation, strict=True)
        if row.max() > COPY_CORRELATION
    }


def thumbnail(path: Path) -> np.ndarray:
    """Return the gray values of an image at THUMBNAIL_SIDE x THUMBNAIL_SIDE, flat, with mean 0 and norm 1.

    The product of two thumbnails is their correlation; it is 0 for an image of one level.
    """
    gray = cv2.cvtColor(read_image(path), cv2.COLOR_RGB2GRAY).astype(np.float32)
    small = cv2.resize(gray, (THUMBNAIL_SIDE, THUMBNAIL_SIDE), interpolation=cv2.INTER_AREA).ravel()
    small -= small.mean()
    return small / max(float(np.linalg.norm(small)), 1.0)


def report(images: Sequence[Image], left_out: Mapping[Path, str]) -> None:
    """Print which images are left out, and a warning about test images that are not."""
    if left_out:
        print(f"left out {len(left_out)} of {len(images)} images:")
        print("\n".join(f"  {path}: {why}" for path, why in left_out.items()))
    kept = [path for path in of_bsds500_val(images) if path not in left_out]
    if kept:
        print(
            f"{len(kept)} images are of BSDS500's validation part, as those of BSD68 and CBSD68 are: scores on these "
            "will be too good; --exclude-bsds500-val leaves them out"
        )


def check_distinct_outputs(jobs: Sequence[Job]) -> None:
    """Check that no two images would be written to one file.

    Raises:
        ValueError: naming the first two.
    """
    owners: dict[Path, Path] = {}
    for source, path in ((job.source, path) for job in jobs for path, _ in job.pieces):
        if owners.setdefault(path, source) != source:
            raise ValueError(f"{owners[path]} and {source} both become {path.name}; rename one")


def check_no_leftovers(jobs: Iterable[Job]) -> None:
    """Check that the output has no pieces of images that are left out.

    Raises:
        ValueError: naming the first piece.
    """
    found = [path for job in jobs for path, _ in job.pieces if path.exists()]
    if found:
        raise ValueError(
            f"{found[0]}: is of an image that is left out now, as are {len(found) - 1} more; "
            "delete them, or choose another --output"
        )


if __name__ == "__main__":
    raise SystemExit(main())
