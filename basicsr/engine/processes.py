"""Processes of this host: when they started, whether they still run, and what launched this one.

A process is known by its id and the time it started, since ids are used again. Both mean something only on one host,
from one boot to the next, and inside one container (namespace of process ids).
"""

import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path

PARENT_INTERVAL = 0.5  # seconds between looks at the launcher
END_TIMEOUT = 30.0  # seconds that an orphan has to save and end, as torchrun would give it after SIGTERM


def host_name() -> str:
    """Return the name of this host."""
    return socket.gethostname()


def process_space() -> str:
    """Return a text that processes share exactly if they can see each other's ids; "" where that is unknown."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:  # not Linux; Windows has no harmless way to ask for a process
        return f"{host_name()} {os.uname().sysname}" if hasattr(os, "uname") else ""


def start_time(pid: int) -> str:
    """Return when process `pid` of this host started, as a text to compare; "" if it does not run (any more)."""
    if (fields := _stat(pid)) is not None:
        return "" if fields[0] in "ZX" else fields[19]  # a zombie has ended, though nobody has noticed
    if os.name != "posix" or Path("/proc/self/stat").exists():
        return ""
    done = subprocess.run(["ps", "-o", "lstart=", "-p", str(pid)], capture_output=True, text=True, check=False)
    return done.stdout.strip()


def process_age() -> float:
    """Return the seconds since this process was started, imports included; 0.0 on systems without /proc."""
    fields = _stat(os.getpid())
    if fields is None:
        return 0.0
    started = int(fields[19]) / os.sysconf("SC_CLK_TCK")  # seconds after the machine
    return max(0.0, time.clock_gettime(time.CLOCK_BOOTTIME) - started)


def launcher_id() -> int:
    """Return the id of the process that launched this one, or of what has adopted it since.

    torchrun gives each process a session. Between the two may be a wrapper (`torchrun --no-python numactl.sh`), which
    lives on without torchrun, so the parent of the session's first process counts.
    """
    leader = os.getsid(0)
    fields = None if leader in (0, os.getpid()) else _stat(leader)  # 0: in another container
    return os.getppid() if fields is None else int(fields[1])


def is_orphan(launcher: int) -> bool:
    """Return whether what launched this process has ended already: torchrun is Python, what adopts orphans is not."""
    if not Path("/proc/self").exists():
        return launcher == 1
    try:
        return not Path(os.readlink(f"/proc/{launcher}/exe")).name.startswith(("python", "pypy"))
    except FileNotFoundError:
        return True
    except OSError:  # of another user
        return launcher == 1


def watch_launcher(report: Callable[[str], object]) -> None:
    """End this process if torchrun is gone, by a thread: by SIGTERM, which saves, and `END_TIMEOUT` later at once.

    Without torchrun, nothing happens: a shell may end before what it has started. Asking every `PARENT_INTERVAL` is
    portable; PR_SET_PDEATHSIG is not, and follows the thread, not the process, that has launched this one.

    Args:
        report: called with a line for the log.
    """
    if "TORCHELASTIC_RUN_ID" not in os.environ or not hasattr(os, "getsid"):
        return
    arguments = (launcher_id(), report)
    threading.Thread(target=_end_without, args=arguments, name="basicsr-launcher-watch", daemon=True).start()


def _end_without(launcher: int, report: Callable[[str], object]) -> None:
    gone = is_orphan(launcher)
    while not gone:
        time.sleep(PARENT_INTERVAL)
        gone = launcher_id() != launcher
    os.kill(os.getpid(), signal.SIGTERM)  # first: the log may be a closed terminal
    end = threading.Timer(END_TIMEOUT, os._exit, (128 + signal.SIGTERM,))
    end.daemon = True
    end.start()
    report(f"torchrun (process {launcher}) is gone: saving, and ending within {END_TIMEOUT:.0f} s")


def _stat(pid: int) -> list[str] | None:
    """Return the fields of /proc/<pid>/stat from the state on; None where there are none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except OSError:
        return None
