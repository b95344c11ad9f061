"""Several processes that watch each other, so that the log says which of them failed first, and none is left behind.

A rank that dies or hangs shows in the others as a broken connection or a timeout, which name no rank. Here a thread of
each process tells the others twice a second, through the store of the process group, that it is alive and where its
main thread is. A process that fails says so there first; the others log it and end too.
"""

import faulthandler
import json
import logging
import os
import queue
import signal
import socket
import sys
import threading
import time
from datetime import timedelta
from pathlib import Path
from types import FrameType
from typing import Any

import torch.distributed as dist

logger = logging.getLogger("basicsr")
INTERVAL = 0.5  # seconds between two signs of life
SILENCE = 4 * INTERVAL  # after so long without one, a process counts as gone
GRACE = 8.0  # seconds that a process has to end by itself after another one failed
PREFIX = "basicsr/peers"
_LIBRARIES = (os.sep + "site-packages" + os.sep, os.sep + "dist-packages" + os.sep, os.path.dirname(os.__file__),
              __file__)  # fmt: skip


class Peers:
    """This process's part of the watch: a thread with a connection of its own to the store.

    Args:
        rank: of this process.
        world_size: how many processes there are.
        timeout: seconds after which a lost store counts as a failure.
    """

    def __init__(self, rank: int, world_size: int, timeout: float):
        self.rank = rank
        self.world_size = world_size
        self.timeout = timeout
        self._me = f"rank {rank} (process {os.getpid()} on {socket.gethostname()})"
        self._address = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        self._main = threading.main_thread().ident
        self._failures: queue.Queue[tuple[str, bool]] = queue.Queue()  # what to say, whether others may be the cause
        self._told = threading.Event()
        self._ending = False
        self._place, self._since, self._count = "", 0.0, 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="basicsr-peers", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End the watch, the run being over."""
        self._stop.set()
        self._thread.join(2 * INTERVAL)

    def report(self, error: BaseException) -> None:
        """Tell the others that this process ends with `error`, and log who failed first. Takes 5 seconds at most."""
        text = f"{self._me}: {type(error).__name__}: {_first_line(error)}"
        self._failures.put((text, isinstance(error, RuntimeError)))  # which broken connections are
        if not self._told.wait(SILENCE + 3):
            logger.critical("First failure seen: %s; %s does not answer", text, self._store_name)

    @property
    def _store_name(self) -> str:
        keeper = "the launcher" if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True" else "rank 0"
        return f"the store that {keeper} keeps at {self._address[0]}:{self._address[1]}"

    def _watch(self) -> None:
        store: Any = None
        ends_at: float | None = None  # when this process must have ended, another one having failed
        why, lost = "", False
        while not self._stop.is_set():
            if not self._failures.empty() and lost:
                logger.critical("First failure seen: %s; %s", self._failures.get()[0], why)
                self._told.set()
                return
            try:
                if store is None:
                    wait = timedelta(seconds=min(self.timeout, 30))
                    store = dist.TCPStore(*self._address, is_master=False, timeout=wait)
                if not lost:
                    self._beat(store)
                    if not why and store.check([f"{PREFIX}/failed"]):
                        why, ends_at = store.get(f"{PREFIX}/failed").decode(), time.monotonic() + GRACE
                        logger.critical("First failure: %s", why)
                        store.set(f"{PREFIX}/heard/{self.rank}", "1")
                    if not self._failures.empty():
                        self._tell(store, *self._failures.get(), told=bool(why))
                        return
            except (dist.DistError, RuntimeError) as error:
                # No message yet: rank 0 may just have ended before us, and if not, the main thread will know more.
                lost, ends_at = True, ends_at or time.monotonic() + self.timeout
                why = why or f"lost {self._store_name} ({_first_line(error)})"
            if ends_at is not None and time.monotonic() > ends_at:
                logger.critical("%s: still in %s, so it is ended; %s", self._me, self._place, why)
                if sys.__stderr__ is not None:
                    faulthandler.dump_traceback(file=sys.__stderr__)
                os._exit(1)
            self._wait()

    def _beat(self, store: Any) -> None:
        """Give a sign of life."""
        now = time.monotonic()
        if (place := self._current_place()) != self._place:
            self._place, self._since = place, now
        self._count += 1
        sign = {"n": self._count, "who": self._me, "where": self._place, "for": now - self._since}
        store.set(f"{PREFIX}/alive/{self.rank}", json.dumps(sign))

    def _wait(self) -> None:
        """Sleep for an interval, or until there is a failure to report."""
        end = time.monotonic() + INTERVAL
        while time.monotonic() < end and self._failures.empty() and not self._stop.is_set():
            time.sleep(0.02)

    def _tell(self, store: Any, failure: str, may_be_others: bool, told: bool) -> None:
        """Say in the store that this process fails, and, if others may be the cause, log what they are at."""
        self._ending = True
        if not told:
            first = store.compare_set(f"{PREFIX}/failed", "", failure).decode()
            logger.critical("First failure%s: %s", " seen" if first == failure else "", first)
            store.set(f"{PREFIX}/heard/{self.rank}", "1")
            if may_be_others:
                logger.critical("The other processes: %s", self._others(store))
        end = time.monotonic() + 2  # for rank 0, whose log file is the run's: the launcher will soon end all
        while self.rank != 0 and time.monotonic() < end and not store.check([f"{PREFIX}/heard/0"]):
            time.sleep(0.05)
        self._told.set()

    def _others(self, store: Any) -> str:
        """Where the other processes are, those that are gone first; watches them for `SILENCE` seconds."""
        before = self._signs(store)
        for _ in range(round(SILENCE / INTERVAL)):
            self._beat(store)
            time.sleep(INTERVAL)
        after = self._signs(store)
        gone, alive = [], []
        for rank, sign in sorted(after.items()):
            if sign["n"] == before.get(rank, sign)["n"]:
                gone.append(f"{sign['who']} gives no sign of life, and was last in {sign['where']}")
            else:
                alive.append(f"{sign['who']} is alive and has been in {sign['where']} for {sign['for']:.0f} s")
        missing = [f"rank {r} never gave a sign of life" for r in range(self.world_size)
                   if r != self.rank and r not in after]  # fmt: skip
        return "; ".join(gone + missing + alive)

    def _signs(self, store: Any) -> dict[int, dict[str, Any]]:
        keys = {r: f"{PREFIX}/alive/{r}" for r in range(self.world_size) if r != self.rank}
        return {r: json.loads(store.get(key)) for r, key in keys.items() if store.check([key])}

    def _current_place(self) -> str:
        """The function that the main thread is in, the innermost that is not of a library."""
        if self._ending:
            return "its end, after an error of its own"
        frame: FrameType | None = sys._current_frames().get(self._main or 0)
        innermost = frame
        while frame is not None and any(part in frame.f_code.co_filename for part in _LIBRARIES):
            frame = frame.f_back
        frame = frame or innermost
        if frame is None:
            return "its end"
        return f"{frame.f_code.co_name} ({Path(frame.f_code.co_filename).name}:{frame.f_lineno})"


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:250] if lines else repr(error)


_peers: Peers | None = None


def watch_peers(rank: int, world_size: int, timeout: float) -> None:
    """Start the watch of this process, if there are others."""
    global _peers
    if world_size > 1:
        _peers = Peers(rank, world_size, timeout)


def end_watch(error: BaseException | None = None) -> None:
    """End it; with `error`, the failure that ends this process, tell the others first."""
    global _peers
    if _peers is not None:
        if error is not None:
            if threading.current_thread() is threading.main_thread():  # launchers send it when they see one process end
                signal.signal(signal.SIGTERM, signal.SIG_IGN)
            _peers.report(error)
        _peers.close()
        _peers = None
