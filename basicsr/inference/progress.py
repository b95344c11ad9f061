"""The progress of one picture: a bar on a terminal, elsewhere some lines of the log."""

import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tqdm import tqdm

logger = logging.getLogger("basicsr")
BAR_DELAY = 2  # seconds of a picture before a bar appears
LINE_DELAY = 10  # seconds before the first line, and between two
MAX_LINES = 10  # of a picture, but for the first


@contextmanager
def shown_progress(
    name: str, unit: str = "tile", clock: Callable[[], float] = time.monotonic
) -> Iterator[Callable[[int, int], None]]:
    """Yield a function of the steps that are done and all there are, which shows them and the time left.

    Args:
        name: of the picture.
        unit: of the steps, in the singular.
        clock: seconds.
    """
    if not sys.stderr.isatty():
        yield _lines(name, unit, clock)
        return
    with tqdm(desc=name, unit=unit, leave=False, delay=BAR_DELAY) as bar:

        def update(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        yield update


def _lines(name: str, unit: str, clock: Callable[[], float]) -> Callable[[int, int], None]:
    """Return the function that logs a line at times: after `LINE_DELAY`, then for every tenth that is done."""
    start = clock()
    last_time, last_part = start, -1.0

    def update(done: int, total: int) -> None:
        nonlocal last_time, last_part
        now, part = clock(), done / total
        if done == total or now - last_time < LINE_DELAY or part - last_part < 1 / MAX_LINES:
            return
        last_time, last_part = now, part
        left = (now - start) * (total - done) / done
        logger.info("%s: %d of %d %ss, about %s left", name, done, total, unit, duration(left))

    return update


def duration(seconds: float) -> str:
    """Return a time in words: `45 s`, `12 min`, `3 h 20 min`."""
    if seconds < 90:
        return f"{round(seconds)} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"
