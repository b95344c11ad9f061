"""Make low-resolution images from high-resolution ones, equal in every pixel to MATLAB's `imresize(image, 1/scale)`.

`name.png` becomes `OUT/X2/namex2.png` and so on. Images are first cut at the bottom right to a multiple of the
scale. Subfolders are kept. Existing files are kept, so a stopped run can be started again. An image that cannot be read
does not stop the others; it is named at the end, with exit code 2.
"""

import argparse
import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from basicsr.engine.parallel import all_in_parallel
from basicsr.images.files import list_images, read_image, write_image
from basicsr.images.matlab_resize import imresize
from basicsr.text import tolerate_encoding


class Target(NamedTuple):
    """A file to write."""

    path: Path
    scale: int
    is_crop: bool  # write the high-resolution image, cut to a multiple of `scale`, not the low-resolution one


class Job(NamedTuple):
    """A high-resolution file and the files to make from it."""

    source: Path
    targets: list[Target]


def main(argv: list[str] | None = None) -> int:
    """Run the command line; return 0 when all files exist."""
    tolerate_encoding()
    parser = argparse.ArgumentParser(prog="generate_lr", description=__doc__)
    parser.add_argument("-i", "--input", type=Path, required=True, help="folder of high-resolution images")
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder for X2, X3, ...")
    parser.add_argument("--scale", type=int, nargs="+", default=[2, 3, 4], help="one or more (default: 2 3 4)")
    parser.add_argument("--suffix", default="x{scale}", help="appended to the names (default: x{scale})")
    parser.add_argument("--crop-hr", type=Path, metavar="FOLDER", help="write the cropped HR images to FOLDER/X2, ...")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes (default: one a core)")
    parser.add_argument("--overwrite", action="store_true", help="replace existing files")
    args = parser.parse_args(argv)
    if min(args.scale) < 1 or args.workers < 1:
        parser.error("--scale and --workers must be at least 1")
    try:
        jobs = list(plan(args.input, args.output, args.scale, args.suffix, args.crop_hr))
        wanted = sum(len(job.targets) for job in jobs)
        if not args.overwrite:
            jobs = [job._replace(targets=[t for t in job.targets if not t.path.exists()]) for job in jobs]
        jobs = [job for job in jobs if job.targets]
        all_in_parallel(make, jobs, args.workers)
    except (ValueError, OSError) as error:
        parser.exit(2, f"{parser.prog}: {error}\n")
    made = sum(len(job.targets) for job in jobs)
    print(f"{made} files written, {wanted - made} existed already")
    return 0


def plan(source: Path, output: Path, scales: list[int], suffix: str, crop_folder: Path | None) -> Iterator[Job]:
    """Yield the job of every image in the folder `source`.

    Raises:
        FileNotFoundError: when the folder is missing or holds no images.
        ValueError: when two images would be written to one file.
    """
    names = [PurePosixPath(name) for name in list_images(source)]
    if not names:
        raise FileNotFoundError(f"{source}: no images; check the path")
    owners: dict[Path, PurePosixPath] = {}
    for name in names:
        targets = []
        for scale in dict.fromkeys(scales):
            stem = f"{name.stem}{suffix.replace('{scale}', str(scale))}"
            targets.append(Target(output / f"X{scale}" / name.with_name(f"{stem}.png"), scale, is_crop=False))
            if crop_folder is not None:
                targets.append(Target(crop_folder / f"X{scale}" / name.with_suffix(".png"), scale, is_crop=True))
        for target in targets:
            if owners.setdefault(target.path, name) != name:
                raise ValueError(f"{source}: {owners[target.path]} and {name} both become {target.path}; rename one")
        yield Job(source / name, targets)


def make(job: Job) -> None:
    """Write all targets of one image.

    Raises:
        ValueError: when it is damaged or smaller than a scale, naming it.
    """
    image = read_image(job.source)
    for path, scale, is_crop in job.targets:
        height, width = image.shape[0] // scale, image.shape[1] // scale
        if min(height, width) < 1:
            raise ValueError(f"{job.source}: {image.shape[0]}x{image.shape[1]} pixels are too few for scale {scale}")
        cropped = image[: height * scale, : width * scale]
        write_image(path, cropped if is_crop else imresize(cropped, 1 / scale))


if __name__ == "__main__":
    raise SystemExit(main())
