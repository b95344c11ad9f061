"""A monitor in each process of a run: the log names the rank that failed first, and no process is left behind.

A rank that dies or hangs shows in the other ranks as a broken connection or a timeout, which names an address but no
rank. Here a thread of each process writes a heartbeat into the store of the process group: its name, and the function
that its main thread is in. A process that fails writes that there before it ends; the others log it and end too.

Measured without it, two gloo processes: under torchrun all ended in time, 3 to 41 s, but the run's log named no rank;
without a launcher, as under SLURM, a rank that hung in Python was still there after 120 s.
"""

import faulthandler
import json
import logging
import math
import os
import signal
import socket
import sys
import threading
import time
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from types import FrameType
from typing import Any

import torch.distributed as dist

from basicsr.errors import first_line

logger = logging.getLogger("basicsr")
HEARTBEAT_INTERVAL = 0.5  # seconds
HEARTBEAT_TIMEOUT = 2.0  # seconds without a heartbeat after which a process counts as dead
GRACE_PERIOD = 8.0  # seconds that a process has to end by itself after another one has failed
STORE_TIMEOUT = 30.0  # seconds after which a call of the store fails
REPORT_TIMEOUT = 2.0  # seconds that a failing process waits for the store, and for rank 0 to log the failure
HEARTBEAT, FAILURE, LOGGED = (f"basicsr/{key}" for key in ("heartbeat", "failure", "logged"))  # keys of the store
LIBRARIES = (
    f"{os.sep}site-packages{os.sep}",
    f"{os.sep}dist-packages{os.sep}",
    os.path.dirname(os.__file__),
    __file__,
)


class RankMonitor:
    """A thread that writes this process's heartbeat and watches for the failure of another process.

    Args:
        rank: of this process.
        world_size: number of processes.
        timeout: seconds after which a process that cannot reach the store is ended.
    """

    def __init__(self, rank: int, world_size: int, timeout: float):
        self.rank = rank
        self.world_size = world_size
        self.timeout = timeout
        self._name = f"rank {rank} (process {os.getpid()} on {socket.gethostname()})"
        self._location, self._since = "", 0.0  # function of the main thread, and the time it was first seen there
        self._first_failure = ""  # of any process, once this one has read it in the store
        self._store_error = ""  # why the store cannot be reached
        self._is_failing = False  # set by `report`
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="basicsr-rank-monitor", daemon=True)
        self._thread.start()

    def close(self, seconds: float) -> None:
        """End the thread; wait for it at most that long.

        If Python exits while the thread is in a call of the store, which is C++, the process is aborted.
        """
        self._stop.set()
        self._thread.join(seconds)

    def report(self, error: BaseException) -> None:
        """Write to the store that this process fails with `error`, and log which process failed first.

        Takes at most 6 seconds: less than `GRACE_PERIOD`, after which the thread ends the process.
        """
        self._is_failing = True
        failure = f"{self._name}: {type(error).__name__}: {first_line(error)[:250]}"
        if self._store_error:
            logger.critical("First failure seen: %s; lost the store (%s)", failure, self._store_error)
            return
        try:
            store = connect(REPORT_TIMEOUT)
            if not self._first_failure:
                first = store.compare_set(FAILURE, "", failure).decode()
                logger.critical("First failure%s: %s", " seen" if first == failure else "", first)
                if isinstance(error, RuntimeError):  # such as a broken connection, for which others may be the cause
                    logger.critical("The other processes: %s", self._describe_others(store))
            if self.rank == 0:
                store.set(LOGGED, "1")
            else:  # the log of rank 0 is that of the run, and launchers end all processes when the first one has ended
                with suppress(RuntimeError):  # rank 0 may be dead
                    store.wait([LOGGED], timedelta(seconds=REPORT_TIMEOUT))
        except RuntimeError as store_error:
            logger.critical("Failure: %s; lost the store (%s)", failure, first_line(store_error))

    def _watch(self) -> None:
        """Write heartbeats; end the process if it still runs `GRACE_PERIOD` after a failure, or without a store."""
        store, ends_at = None, math.inf
        while not self._stop.is_set() and time.monotonic() < ends_at:
            try:
                if not self._store_error:
                    store = store or connect(min(self.timeout, STORE_TIMEOUT))
                    store.set(f"{HEARTBEAT}/{self.rank}", self._heartbeat())
                    if not self._first_failure and store.check([FAILURE]):
                        self._first_failure, ends_at = store.get(FAILURE).decode(), time.monotonic() + GRACE_PERIOD
                        if not self._is_failing:  # else `report` logs it
                            logger.critical("First failure: %s", self._first_failure)
                        if self.rank == 0:
                            store.set(LOGGED, "1")
            except RuntimeError as error:
                # Not logged yet: rank 0 may have ended normally. If it has not, the main thread gets an error too.
                self._store_error = first_line(error)
                ends_at = min(ends_at, time.monotonic() + self.timeout)
            self._stop.wait(HEARTBEAT_INTERVAL)
        if not self._stop.is_set():
            reason = self._first_failure or f"lost the store ({self._store_error})"
            logger.critical("%s: still in %s, so it is ended; %s", self._name, self._location, reason)
            if sys.__stderr__ is not None:
                faulthandler.dump_traceback(file=sys.__stderr__)
            os._exit(1)

    def _heartbeat(self) -> str:
        """Return the name of this process, the location of its main thread and the seconds there, as JSON."""
        location, now = "its end, after an error" if self._is_failing else current_location(), time.monotonic()
        if location != self._location:
            self._location, self._since = location, now
        return json.dumps({"name": self._name, "location": location, "seconds": now - self._since, "time": now})

    def _describe_others(self, store: Any) -> str:
        """Return which other processes are dead, and where those alive are. Takes `HEARTBEAT_TIMEOUT` seconds."""
        keys = [f"{HEARTBEAT}/{rank}" for rank in range(self.world_size) if rank != self.rank]
        before = {key: store.get(key) for key in keys if store.check([key])}
        time.sleep(HEARTBEAT_TIMEOUT)
        dead, alive = [], []
        for key in before:
            heartbeat = json.loads(now := store.get(key))
            name, location = heartbeat["name"], heartbeat["location"]
            if now == before[key]:
                dead.append(f"{name} gives no sign of life, and was last in {location}")
            else:
                alive.append(f"{name} is alive and has been in {location} for {heartbeat['seconds']:.0f} s")
        return "; ".join(dead + alive)


def connect(seconds: float) -> Any:
    """Return a connection to the store of the process group.

    Raises:
        DistError: a RuntimeError, if there is none within `seconds`.
    """
    address = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    return dist.TCPStore(*address, is_master=False, timeout=timedelta(seconds=seconds))


def current_location() -> str:
    """Return the innermost function of the main thread that is not in a library, with file and line."""
    frame: FrameType | None = sys._current_frames().get(threading.main_thread().ident or 0)
    innermost = frame
    while frame is not None and any(part in frame.f_code.co_filename for part in LIBRARIES):
        frame = frame.f_back
    frame = frame or innermost
    if frame is None:
        return "its end"
    return f"{frame.f_code.co_name} ({Path(frame.f_code.co_filename).name}:{frame.f_lineno})"


_monitor: RankMonitor | None = None


def start_rank_monitor(rank: int, world_size: int, timeout: float) -> None:
    """Start the monitor of this process, if there are other processes."""
    global _monitor
    if world_size > 1:
        _monitor = RankMonitor(rank, world_size, timeout)


def stop_rank_monitor(error: BaseException | None = None) -> None:
    """Stop the monitor; first tell the other processes about `error`, if it ends this process."""
    global _monitor
    if _monitor is None:
        return
    if error is not None:
        if threading.current_thread() is threading.main_thread():  # launchers send it when they see one process end
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        _monitor.report(error)
    _monitor.close(STORE_TIMEOUT if error is None else 2 * HEARTBEAT_INTERVAL)
    _monitor = None
