"""Process many images in parallel, with a progress bar."""

import errno
from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from functools import partial
from typing import NamedTuple, TypeVar

import cv2
from tqdm import tqdm

Job = TypeVar("Job")
Result = TypeVar("Result")

MAX_PENDING_PER_WORKER = 4  # jobs submitted ahead of the caller; more would only take memory
MAX_REPORTED = 20  # failures in a message
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)  # no other job can write either


class Fault(NamedTuple):
    """Why a job has no result."""

    text: str


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


def result_or_fault(function: Callable[[Job], Result], job: Job) -> Result | Fault:
    """Return `function(job)`, or why it fails for this job, so that the others go on.

    Raises:
        OSError: when the disk is full or may not be written.
    """
    try:
        return function(job)
    except (ValueError, OSError) as error:
        if isinstance(error, OSError) and error.errno in NO_ROOM:
            raise
        return Fault(str(error))


def all_in_parallel(function: Callable[[Job], object], jobs: Collection[Job], workers: int) -> None:
    """Call `function` for each of `jobs`, as `in_parallel` does, and for all others where it fails for some.

    Raises:
        ValueError: at the end, naming the failures.
        OSError: at once, when the disk is full or may not be written.
    """
    results = in_parallel(partial(result_or_fault, function), jobs, workers)
    raise_if_any_failed([result.text for result in results if isinstance(result, Fault)], len(jobs))


def raise_if_any_failed(faults: Sequence[str], total: int) -> None:
    """Raise a ValueError that lists the failures among `total` images, if there are any."""
    if faults:
        more = [f"and {len(faults) - MAX_REPORTED} more"] if len(faults) > MAX_REPORTED else []
        shown = "; ".join([*faults[:MAX_REPORTED], *more])
        raise ValueError(
            f"{len(faults)} of {total} images failed, the others are done; mend these and start again: {shown}"
        )
