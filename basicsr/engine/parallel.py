"""Work on many images in several processes, with a progress bar."""

from collections import deque
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from typing import TypeVar

import cv2
from tqdm import tqdm

Job = TypeVar("Job")
Result = TypeVar("Result")

WAITING_PER_WORKER = 4  # results that may wait for the caller; more would only take memory


def in_parallel(
    function: Callable[[Job], Result], jobs: Collection[Job], workers: int, unit: str = "image"
) -> Iterator[Result]:
    """The results of `function` for each of `jobs`, in their order; the first failure stops the others.

    Args:
        function: at the top of a module, so that other processes find it.
        jobs: its arguments.
        workers: processes, >= 1.
        unit: what the progress bar counts.
    """
    waiting: deque[Future[Result]] = deque()
    # The processes are the parallelism. Not setNumThreads(1): in a forked process OpenCV hangs shrinking its pool.
    with (
        ProcessPoolExecutor(workers, initializer=cv2.setNumThreads, initargs=(0,)) as pool,
        tqdm(total=len(jobs), unit=unit) as bar,
    ):
        try:
            for job in jobs:
                waiting.append(pool.submit(function, job))
                if len(waiting) == WAITING_PER_WORKER * workers:
                    yield waiting.popleft().result()
                    bar.update()
            while waiting:
                yield waiting.popleft().result()
                bar.update()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
