"""Requests to stop, by a signal or the end of a given time: the running iteration is finished and saved.

Schedulers announce the end of a job with SIGTERM or SIGUSR1; a terminal sends SIGINT, and SIGHUP when it is closed. All
processes of a run stop at the same iteration, even if only one of them received the signal.
"""

import math
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from datetime import timedelta
from types import FrameType
from typing import Any

import torch
import torch.distributed as dist

from basicsr.engine.distributed import get_dist_info
from basicsr.engine.logging import drop_closed_stderr
from basicsr.engine.processes import PARENT_INTERVAL
from basicsr.errors import ImageReadError

SIGNALS = tuple(getattr(signal, name) for name in ("SIGHUP", "SIGUSR1", "SIGTERM", "SIGINT") if hasattr(signal, name))
ALWAYS_HANDLED = (signal.SIGTERM, signal.SIGINT)  # the others stay ignored where they are, as by nohup
TIME_IS_UP = -1  # as a request, where others are numbers of signals
NO_DATA = -2
REQUESTS = (0, TIME_IS_UP, *SIGNALS, NO_DATA)  # of several processes, the one that comes last here counts
UNFINISHED_EXIT_CODE = 75  # EX_TEMPFAIL of sysexits.h: no failure, try again
# Further signals within this time count as the same request: a scheduler may signal every process of a job, and the
# launcher, one of them, passes its own on.
SAME_REQUEST_SECONDS = 1.0


class RunStoppedError(Exception):
    """The run was asked to stop, and has saved its state.

    Args:
        request: the number of a signal, or `TIME_IS_UP`.
        saved: what has been saved, for the message.
    """

    def __init__(self, request: int, saved: str):
        self.request = request
        reason = "because its time is up" if request == TIME_IS_UP else f"by {signal.Signals(request).name}"
        super().__init__(f"stopped {reason}; {saved}")

    @property
    def exit_code(self) -> int:
        """128 + the signal, such as 143 for SIGTERM; 75 when the time is up, under torchrun 0.

        torchrun takes any other code for a failure, which it reports as 1 or, with --max-restarts, repairs.
        """
        if self.request == TIME_IS_UP:
            return 0 if dist.is_available() and dist.is_torchelastic_launched() else UNFINISHED_EXIT_CODE
        return 128 + self.request


class StopRequest:
    """A request to stop: one of `SIGNALS` to any of the processes, the time of one is up, or one has no more data.

    Within `with`, a signal does not end the process: `received` holds it, and `agree` exchanges it with the other
    processes. A second signal, over `SAME_REQUEST_SECONDS` after the first, ends the process at once with 128 + the
    signal. SIGHUP and SIGUSR1 stay ignored where they are, as by nohup. Python delivers signals to the main thread
    only; in other threads `with` changes nothing.

    Args:
        timeout: seconds that `agree` waits for the other processes.
        deadline: the `time.monotonic()` at which this process's time is up.

    Attributes:
        agreed: the request that all processes have agreed on at their last `agree`, see `received`; 0: none.
        failure: why this process, after `agree` any of them, cannot read its data, which is a request; "": it can.
    """

    def __init__(self, timeout: float = 1800.0, deadline: float = math.inf):
        self.deadline = deadline
        self.agreed = 0
        self.failure = ""
        self._signal = 0
        self._since = 0.0
        self._owner = os.getpid()
        self._previous: dict[signal.Signals, Any] = {}
        self._group: Any = None
        if get_dist_info()[1] > 1 and dist.get_backend() != "gloo":  # reading a flag from the GPU would wait for it
            self._group = dist.new_group(backend="gloo", timeout=timedelta(seconds=timeout))

    def __enter__(self) -> "StopRequest":
        if threading.current_thread() is threading.main_thread():
            handled = [n for n in SIGNALS if n in ALWAYS_HANDLED or signal.getsignal(n) is not signal.SIG_IGN]
            self._previous = {number: signal.signal(number, self._note) for number in handled}
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    @property
    def received(self) -> int:
        """The request that this process knows of: `NO_DATA`, the number of a signal, or `TIME_IS_UP`; 0: none."""
        if self.failure:
            return NO_DATA
        return self._signal or (TIME_IS_UP if time.monotonic() >= self.deadline else 0)

    def agree(self) -> int:
        """Set `agreed` to the request that any process has received, and return it. All processes must call this."""
        if get_dist_info()[1] == 1:
            self.agreed = self.received
            return self.agreed
        flag = torch.tensor(REQUESTS.index(self.received))
        dist.all_reduce(flag, dist.ReduceOp.MAX, group=self._group)
        self.agreed = REQUESTS[int(flag)]
        if self.agreed in SIGNALS and not self._signal:
            self._signal, self._since = self.agreed, time.monotonic()
        if self.agreed == NO_DATA:
            failures: list[Any] = [""] * get_dist_info()[1]
            dist.all_gather_object(failures, self.failure, group=self._group)
            self.failure = next(filter(None, failures))
        return self.agreed

    def raise_if_agreed(self, saved: str) -> None:
        """End the run if the processes have agreed to stop.

        Args:
            saved: what has been saved, for the message.

        Raises:
            ImageReadError: if it is `NO_DATA`.
            RunStoppedError: if it is another request.
        """
        if self.agreed == NO_DATA:
            raise ImageReadError(f"{self.failure}; {saved}")
        if self.agreed:
            raise RunStoppedError(self.agreed, saved)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._owner:  # a forked process that has not set its own handlers yet
            return
        now = time.monotonic()
        if not self._signal:
            self._signal, self._since = number, now
            if os.environ.get("LOCAL_RANK", "0") == "0":  # not with logging, which the signal may have interrupted
                name = signal.Signals(number).name
                with suppress(OSError):  # the terminal may be gone
                    os.write(2, f"\n{name}: saving after this step; again to end at once\n".encode())
        elif now - self._since > SAME_REQUEST_SECONDS:
            os._exit(128 + number)


class InterruptibleLoader:
    """A loader that ends early when this process has received a stop request; all else is that of the loader."""

    def __init__(self, loader: Any, stop: StopRequest):
        self._loader = loader
        self._stop = stop

    def __iter__(self) -> Iterator[Any]:
        for batch in self._loader:
            if self._stop.received:
                drop_closed_stderr()
                return
            yield batch

    def __len__(self) -> int:
        return len(self._loader)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)


def leave_signals_to_parent() -> None:
    """Ignore signals that ask to stop in a loader process, but end on SIGTERM from the training process, or without it.

    Terminals and launchers signal whole groups of processes. If the loader processes ended then, the training process
    could not finish its iteration.
    """
    for number in SIGNALS:
        if number != signal.SIGTERM:
            signal.signal(number, signal.SIG_IGN)
    if hasattr(signal, "sigtimedwait"):  # Linux
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
        parent = multiprocessing.parent_process()
        pid = os.getppid() if parent is None or parent.pid is None else parent.pid
        threading.Thread(target=_exit_with_parent, args=(pid,), daemon=True).start()


def _exit_with_parent(parent: int) -> None:
    """Exit on SIGTERM from process `parent`, or when that is gone; for a thread, as the signal is blocked."""
    while os.getppid() == parent:
        received = signal.sigtimedwait([signal.SIGTERM], PARENT_INTERVAL)
        if received is not None and received.si_pid == parent:
            break
    os._exit(0)
