"""SIGTERM and SIGINT as requests to stop: the iteration is finished and saved, the exit code is 128 + the signal.

Schedulers announce the end of a job with SIGTERM; a terminal sends SIGINT. All processes of a run stop at the same
iteration, even if only one of them received the signal.
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
# Further signals within this time count as the same request: a scheduler may signal every process of a job, and the
# launcher, one of them, passes its own on.
SAME_REQUEST_SECONDS = 1.0


class RunStoppedError(Exception):
    """The run was asked to stop, and has saved its state.

    Args:
        signal_number: of the request.
        saved: what has been saved, for the message.
    """

    def __init__(self, signal_number: int, saved: str):
        self.signal_number = signal_number
        super().__init__(f"stopped by {signal.Signals(signal_number).name}; {saved}")

    @property
    def exit_code(self) -> int:
        """128 + the signal: 143 for SIGTERM, 130 for SIGINT."""
        return 128 + self.signal_number


class StopRequest:
    """A request to stop, by SIGTERM or SIGINT to any of the processes.

    Within `with`, a signal does not end the process: `received` holds it, and `agree` exchanges it with the other
    processes. A second signal, over `SAME_REQUEST_SECONDS` after the first, ends the process at once with 128 + the
    signal. Python delivers signals to the main thread only; in other threads `with` changes nothing.

    Args:
        timeout: seconds that `agree` waits for the other processes.

    Attributes:
        received: the signal that this process has received; 0: none.
        agreed: the signal that all processes have agreed on at their last `agree`; 0: none.
    """

    def __init__(self, timeout: float = 1800.0):
        self.received = 0
        self.agreed = 0
        self._since = 0.0
        self._owner = os.getpid()
        self._previous: dict[signal.Signals, Any] = {}
        self._group: Any = None
        if get_dist_info()[1] > 1 and dist.get_backend() != "gloo":  # reading a flag from the GPU would wait for it
            self._group = dist.new_group(backend="gloo", timeout=timedelta(seconds=timeout))

    def __enter__(self) -> "StopRequest":
        if threading.current_thread() is threading.main_thread():
            self._previous = {number: signal.signal(number, self._note) for number in SIGNALS}
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def agree(self) -> int:
        """Set `agreed` to the signal that any process has received, and return it. All processes must call this."""
        if get_dist_info()[1] == 1:
            self.agreed = self.received
            return self.agreed
        flag = torch.tensor(self.received)
        dist.all_reduce(flag, dist.ReduceOp.MAX, group=self._group)
        self.agreed = int(flag)
        if self.agreed and not self.received:
            self.received, self._since = self.agreed, time.monotonic()
        return self.agreed

    def raise_if_agreed(self, saved: str) -> None:
        """End the run if the processes have agreed to stop.

        Args:
            saved: what has been saved, for the message.

        Raises:
            RunStoppedError: if `agreed` is a signal.
        """
        if self.agreed:
            raise RunStoppedError(self.agreed, saved)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._owner:  # a forked process that has not set its own handlers yet
            return
        now = time.monotonic()
        if not self.received:
            self.received, self._since = number, now
            if os.environ.get("LOCAL_RANK", "0") == "0":  # not with logging, which the signal may have interrupted
                name = signal.Signals(number).name
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
                return
            yield batch

    def __len__(self) -> int:
        return len(self._loader)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)


def leave_signals_to_parent() -> None:
    """Ignore SIGINT in a loader process, and SIGTERM unless the training process sends it.

    Terminals and launchers signal whole groups of processes. If the loader processes ended then, the training process
    could not finish its iteration.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "sigwaitinfo"):  # Linux
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
        threading.Thread(target=_exit_on_parent_sigterm, args=(os.getppid(),), daemon=True).start()


def _exit_on_parent_sigterm(parent: int) -> None:
    """Wait for SIGTERM from process `parent`, then exit; for a thread, as the signal is blocked."""
    while signal.sigwaitinfo([signal.SIGTERM]).si_pid != parent:
        pass
    os._exit(0)
