"""Process many images in parallel, with a progress bar."""

from collections import deque
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from typing import TypeVar

import cv2
from tqdm import tqdm

Job = TypeVar("Job")
Result = TypeVar("Result")

MAX_PENDING_PER_WORKER = 4  # jobs submitted ahead of the caller; more would only take memory


def in_parallel(
    function: Callable[[Job], Result], jobs: Collection[Job], workers: int, unit: str = "image"
) -> Iterator[Result]:
    """Yield the result of `function` for each of `jobs`, in their order; the first error ends the work.

    Args:
        function: a function at the top level of a module, so that it can be pickled.
        jobs: its arguments.
        workers: number of processes, >= 1.
        unit: name of a job in the progress bar.
    """
    pending: deque[Future[Result]] = deque()
    # One thread a process. Not setNumThreads(1): in a forked process OpenCV hangs when it reduces its thread pool.
    with (
        ProcessPoolExecutor(workers, initializer=cv2.setNumThreads, initargs=(0,)) as pool,
        tqdm(total=len(jobs), unit=unit, disable=None) as bar,
    ):
        try:
            for job in jobs:
                pending.append(pool.submit(function, job))
                if len(pending) == MAX_PENDING_PER_WORKER * workers:
                    yield pending.popleft().result()
                    bar.update()
            while pending:
                yield pending.popleft().result()
                bar.update()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
