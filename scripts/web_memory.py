"""Watch how much memory a browser takes that a script has started. Linux only: it reads /proc."""

import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

PROC = Path("/proc")
INTERVAL = 1.0  # s


class MemoryWatch:
    """Samples of the memory of all browser processes below this one, taken in a thread while the context lasts.

    Memory is the proportional set size: pages that processes share count once. Without /proc there are no samples.
    """

    def __init__(self) -> None:
        self._samples: list[tuple[float, list[int]]] = []  # when, s since 1970; bytes of every process
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> "MemoryWatch":
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()

    def peaks(self, start: float, end: float) -> tuple[int, int]:
        """Return the largest sum over all processes and the largest process, in bytes.

        Args:
            start, end: when the samples were taken, s since 1970.
        """
        within = [sizes for when, sizes in self._samples if start <= when <= end and sizes]
        return max(map(sum, within), default=0), max(map(max, within), default=0)

    def _watch(self) -> None:
        while PROC.is_dir() and not self._ended.wait(INTERVAL):
            self._samples.append((time.time(), list(_browser_sizes())))


def _browser_sizes() -> Iterator[int]:
    """Yield the proportional set size, in bytes, of every browser process below this one."""
    children: dict[int, list[int]] = {}
    for folder in PROC.glob("[0-9]*"):
        try:
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue  # it has ended
        children.setdefault(parent, []).append(int(folder.name))
    below = [os.getpid()]
    for pid in below:
        below += children.get(pid, [])
    for pid in below[1:]:
        try:
            if "chrom" in (PROC / str(pid) / "cmdline").read_text().split("\0")[0]:
                rows = (PROC / str(pid) / "smaps_rollup").read_text().splitlines()
                yield next(1024 * int(row.split()[1]) for row in rows if row.startswith("Pss:"))
        except (OSError, StopIteration):
            continue
