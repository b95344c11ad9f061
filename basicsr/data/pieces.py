"""Cutting many large images into squares: where they begin, and writing them in several processes."""

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from basicsr.data.crops import Window
from basicsr.engine.parallel import in_parallel
from basicsr.images.files import read_image, write_image


class Job(NamedTuple):
    """One image, and the files to cut from it."""

    source: Path
    pieces: list[tuple[Path, Window]]
    png_level: int


def starts(length: int, side: int, step: int, thresh: int = 0) -> list[int]:
    """Where squares of `side` pixels begin along an axis of `length` pixels; none when it is shorter than one.

    Args:
        length: of the axis, in pixels.
        side: of a square, in pixels.
        step: from a square to the next, in pixels.
        thresh: when more pixels than this would be left over at the end, one more square ends there.
    """
    found = list(range(0, length - side + 1, step))
    if found and length - (found[-1] + side) > thresh:
        found.append(length - side)
    return found


def squares(height: int, width: int, side: int, step: int, thresh: int = 0) -> list[Window]:
    """Squares that cover an image of height x width, row by row; none when it is smaller than one. See `starts`."""
    tops, lefts = (starts(length, side, step, thresh) for length in (height, width))
    return [Window(top, left, side, side) for top in tops for left in lefts]


def write_missing(jobs: Iterable[Job], workers: int) -> tuple[int, int]:
    """Cut what is not there yet, with a progress bar; returns how many files were written and how many existed."""
    jobs = list(jobs)
    wanted = sum(len(job.pieces) for job in jobs)
    jobs = [job._replace(pieces=[piece for piece in job.pieces if not piece[0].exists()]) for job in jobs]
    jobs = [job for job in jobs if job.pieces]
    for _ in in_parallel(_cut, jobs, workers):
        pass
    written = sum(len(job.pieces) for job in jobs)
    return written, wanted - written


def _cut(job: Job) -> None:
    image = read_image(job.source)
    for path, window in job.pieces:
        write_image(path, window.cut(image), png_level=job.png_level)
