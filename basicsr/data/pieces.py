"""Cutting many large images into squares, written by several processes."""

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from basicsr.data.crops import Window
from basicsr.engine.parallel import all_in_parallel
from basicsr.images.files import read_image, write_image


class Job(NamedTuple):
    """An image, and the files to cut from it."""

    source: Path
    pieces: list[tuple[Path, Window]]
    png_level: int


def starts(length: int, side: int, step: int, thresh: int = 0) -> list[int]:
    """Return where squares of `side` pixels begin along an axis of `length` pixels; none when it is shorter than one.

    Args:
        length: length of the axis, in pixels.
        side: side of a square, in pixels.
        step: distance from a square to the next, in pixels.
        thresh: when more pixels than this would remain at the end, one more square ends there.
    """
    found = list(range(0, length - side + 1, step))
    if found and length - (found[-1] + side) > thresh:
        found.append(length - side)
    return found


def squares(height: int, width: int, side: int, step: int, thresh: int = 0) -> list[Window]:
    """Return squares that cover an image of height x width, row by row; none when it is smaller than one."""
    tops, lefts = (starts(length, side, step, thresh) for length in (height, width))
    return [Window(top, left, side, side) for top in tops for left in lefts]


def write_missing(jobs: Iterable[Job], workers: int) -> tuple[int, int]:
    """Write the missing pieces, with a progress bar; return how many files were written and how many existed.

    Raises:
        ValueError: after all others are written, when images cannot be read, naming them.
        OSError: when a piece cannot be written.
    """
    jobs = list(jobs)
    wanted = sum(len(job.pieces) for job in jobs)
    jobs = [job._replace(pieces=[piece for piece in job.pieces if not piece[0].exists()]) for job in jobs]
    jobs = [job for job in jobs if job.pieces]
    all_in_parallel(_cut, jobs, workers)
    written = sum(len(job.pieces) for job in jobs)
    return written, wanted - written


def _cut(job: Job) -> None:
    image = read_image(job.source)
    for path, window in job.pieces:
        write_image(path, window.crop(image), png_level=job.png_level)
