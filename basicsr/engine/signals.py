"""SIGTERM and SIGINT as requests: the running step ends and is saved, and the command leaves with 128 + the signal.

Schedulers announce the end of a job with SIGTERM; a terminal sends SIGINT. All processes of a run stop at the same
iteration, even if one of them alone was asked.
"""

import os
import signal
import threading
import time
from collections.abc import Iterator
from datetime import timedelta
from types import FrameType
from typing import Any

import torch
import torch.distributed as dist

from basicsr.engine.distributed import get_dist_info

SIGNALS = (signal.SIGTERM, signal.SIGINT)
# Seconds in which further signals count as the same request: a scheduler may signal every process of a job, and the
# launcher among them passes its own on.
ONE_REQUEST = 1.0


class RunStoppedError(Exception):
    """The run was asked to stop, and has saved its state.

    Args:
        signal_number: of the request.
        what: has been saved, in words.
    """

    def __init__(self, signal_number: int, what: str):
        self.signal_number = signal_number
        super().__init__(f"stopped by {signal.Signals(signal_number).name}; {what}")

    @property
    def exit_code(self) -> int:
        """128 + the signal: 143 for SIGTERM, 130 for SIGINT."""
        return 128 + self.signal_number


class StopRequest:
    """Within `with`, SIGTERM and SIGINT are noted in `number` instead of ending the process.

    A second signal, over `ONE_REQUEST` seconds after the first, ends it at once with 128 + the signal. Python delivers
    signals to the main thread only; elsewhere they keep their meaning.

    Args:
        timeout: seconds that `agreed` waits for the other processes.
    """

    def __init__(self, timeout: float = 1800.0):
        self.number = 0
        self._since = 0.0
        self._owner = os.getpid()
        self._previous: dict[signal.Signals, Any] = {}
        self._group: Any = None
        if get_dist_info()[1] > 1 and dist.get_backend() != "gloo":  # reading a flag from a GPU would stall it
            self._group = dist.new_group(backend="gloo", timeout=timedelta(seconds=timeout))

    def __enter__(self) -> "StopRequest":
        if threading.current_thread() is threading.main_thread():
            self._previous = {number: signal.signal(number, self._note) for number in SIGNALS}
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def agreed(self) -> int:
        """The signal, or 0, the same in all processes, which must all call it: that of any process counts for all."""
        if get_dist_info()[1] == 1:
            return self.number
        flag = torch.tensor(self.number)
        dist.all_reduce(flag, dist.ReduceOp.MAX, group=self._group)
        agreed = int(flag)
        if agreed:  # else a signal may have come meanwhile, for the next time
            if not self.number:
                self._since = time.monotonic()
            self.number = agreed
        return agreed

    def _note(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._owner:  # in a forked process, until it has its own handlers
            return
        now = time.monotonic()
        if not self.number:
            self.number, self._since = number, now
            if os.environ.get("LOCAL_RANK", "0") == "0":  # not by logging, which may be what was interrupted
                name = signal.Signals(number).name
                os.write(2, f"\n{name}: saving after this step; again to end at once\n".encode())
        elif now - self._since > ONE_REQUEST:
            os._exit(128 + number)


class CutShort:
    """A loader that ends early when a stop is requested; in all else the loader itself."""

    def __init__(self, loader: Any, stop: StopRequest):
        self._loader = loader
        self._stop = stop

    def __iter__(self) -> Iterator[Any]:
        for batch in self._loader:
            if self._stop.number:
                return
            yield batch

    def __len__(self) -> int:
        return len(self._loader)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)


def leave_signals_to_parent() -> None:
    """In a loader process: ignore SIGINT, and SIGTERM unless it comes from the process that loads.

    Terminals and launchers signal whole groups of processes. A loader process that ended then would break the step
    that the training process is about to finish.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "sigwaitinfo"):  # Linux
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
        threading.Thread(target=_obey, args=(os.getppid(),), daemon=True).start()


def _obey(parent: int) -> None:
    while signal.sigwaitinfo([signal.SIGTERM]).si_pid != parent:
        pass
    os._exit(0)
