"""Threads that hand work on through queues of bounded length, and end together."""

import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from types import TracebackType
from typing import Any, Generic, TypeVar

T = TypeVar("T")
WAKE = 0.1  # seconds between looks at whether the others have stopped


class StoppedError(Exception):
    """Another thread has failed, or the work was stopped."""


class Channel(Generic[T]):
    """A queue from one thread to another. `put` and iteration end by `StoppedError` once `stop` is set."""

    def __init__(self, size: int, stop: threading.Event):
        self._queue: queue.Queue[tuple[T] | None] = queue.Queue(size)
        self._stop = stop

    def put(self, item: T) -> None:
        """Add an item; waits while the queue is full."""
        self._put((item,))

    def close(self) -> None:
        """Say that no item follows."""
        self._put(None)

    def _put(self, item: tuple[T] | None) -> None:
        while not self._stop.is_set():
            try:
                return self._queue.put(item, timeout=WAKE)
            except queue.Full:
                pass
        raise StoppedError

    def __iter__(self) -> Iterator[T]:
        while not self._stop.is_set():
            try:
                item = self._queue.get(timeout=WAKE)
            except queue.Empty:
                continue
            if item is None:
                return
            yield item[0]
        raise StoppedError


class Team:
    """Threads that work together. Use it in `with`: leaving waits for all; an error of one, or of the block, stops all.

    The error that came first is raised.
    """

    def __init__(self) -> None:
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []
        self._errors: list[BaseException] = []

    def channel(self, size: int) -> Channel[Any]:
        """Return a queue of at most `size` items for two of the threads."""
        return Channel(size, self._stop)

    def start(self, function: Callable[..., None], *arguments: Any) -> None:
        """Call a function in a thread."""
        thread = threading.Thread(target=self._call, args=(function, arguments), name=function.__name__, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _call(self, function: Callable[..., None], arguments: tuple[Any, ...]) -> None:
        try:
            function(*arguments)
        except StoppedError:
            pass
        except BaseException as error:  # noqa: BLE001  # raised again in the thread that waits
            self._errors.append(error)
            self._stop.set()

    def __enter__(self) -> "Team":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            self._stop.set()
        for thread in self._threads:
            thread.join()
        if self._errors and (error is None or isinstance(error, StoppedError)):
            raise self._errors[0]


class Stopwatch:
    """Adds up the seconds of `with` blocks."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._since = 0.0

    def __enter__(self) -> None:
        self._since = time.perf_counter()

    def __exit__(self, *error: object) -> None:
        self.seconds += time.perf_counter() - self._since

    def during(self, items: Iterable[T]) -> Iterator[T]:
        """Yield items, and count the time in which they are made."""
        iterator = iter(items)
        while True:
            with self:
                try:
                    item = next(iterator)
                except StopIteration:
                    return
            yield item
