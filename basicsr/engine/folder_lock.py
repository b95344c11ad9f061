"""Locks on the folders that a run takes over, so that no other run renames them or writes into them meanwhile.

The lock of `experiments/run` is the file `experiments/.run.lock`: beside the folder, since that may not exist yet, or
be renamed. It names the process that holds it. A lock whose process has ended does not count. Where that cannot be
asked, for a process of another host, the holder shows that it lives: it sets the file's time of change every
`BEAT_INTERVAL`. All times are those of the file system, so that the clocks of hosts may differ. `flock` would not do:
network file systems may keep it on each host for itself.
"""

import json
import logging
import os
import secrets
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from basicsr.engine.processes import host_name, process_space, start_time
from basicsr.errors import OptionError

logger = logging.getLogger("basicsr")
BEAT_INTERVAL = 10.0  # seconds
STALE_AFTER = 120.0  # seconds without a beat after which a holder that cannot be asked counts as dead
LOOK_INTERVAL = 0.5  # seconds between looks at such a holder's lock


@contextmanager
def folders_locked(folders: Iterable[Path]) -> Iterator[None]:
    """Hold the locks of folders, which need not exist yet, for a `with` block.

    A lock left by a process that has ended is taken over. For one of another host this takes up to `STALE_AFTER`.

    Raises:
        OptionError: when another process holds one of them; it names that process.
        OSError: when a lock cannot be written.
    """
    with ExitStack() as stack:
        real = {path for folder in folders for path in (folder.parent.resolve() / folder.name, folder.resolve())}
        for folder in sorted(real):  # a folder that is a link, and the one that it leads to
            stack.enter_context(_FolderLock(folder))
        yield


def check_unlocked(folder: Path) -> None:
    """Check that no other process of this host, and no living one of another, holds the lock of a folder.

    Raises:
        OptionError: when one does.
    """
    lock = lock_path(folder)
    seen = _read(lock)
    if seen is not None and seen.holder.get("token") not in _held and not seen.is_left_over():
        raise OptionError(_refusal(folder, seen))


def lock_path(folder: Path) -> Path:
    """Return the lock file of a folder."""
    return folder.with_name(f".{folder.name}.lock")


_held: set[str] = set()  # tokens of the locks of this process


class _FolderLock:
    """The lock of one folder, and the thread that keeps it fresh."""

    def __init__(self, folder: Path):
        self._folder = folder
        self._path = lock_path(folder)
        self._token = secrets.token_hex(8)
        self._made = [parent for parent in self._path.parents if not parent.exists()]  # deepest first
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="basicsr-folder-lock", daemon=True)

    def __enter__(self) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        while not self._create():
            self._remove_left_over()
        _held.add(self._token)
        self._thread.start()

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        self._thread.join(LOOK_INTERVAL)  # no longer, for the file system may hang; Python can exit during its calls
        _held.discard(self._token)
        with suppress(OSError):  # what is left of a lock does not hinder once this process has ended
            if self._is_mine():
                self._path.unlink(missing_ok=True)
            for parent in self._made:
                parent.rmdir()  # fails, and ends the loop, where the run has written something

    def _create(self) -> bool:
        """Create the lock; False if there is one."""
        holder = {
            "host": host_name(), "pid": os.getpid(), "start": start_time(os.getpid()), "space": process_space(),
            "token": self._token, "command": Path(sys.argv[0]).name, "since": time.strftime("%Y-%m-%d %H:%M:%S"),
        }  # fmt: skip
        try:
            descriptor = os.open(self._path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
        except FileExistsError:
            return False
        try:
            with open(descriptor, "w", encoding="utf-8") as file:
                file.write(json.dumps(holder) + "\n")
        except OSError as error:
            self._path.unlink(missing_ok=True)
            raise OSError(f"{self._path}: cannot be written ({error.strerror or error}); make room") from error
        return True

    def _remove_left_over(self) -> None:
        """Remove the lock of a process that has ended.

        Raises:
            OptionError: when its process lives.
        """
        seen = _read(self._path)
        if seen is None or not _wait_for_end(self._folder, self._path, seen):
            return
        # One process at a time removes: otherwise a slow one could remove the lock that a fast one has made meanwhile.
        guard = self._path.with_name(f"{self._path.name}.removal")
        try:
            os.close(os.open(guard, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
        except FileExistsError:
            if (age := _age(guard)) is not None and age > STALE_AFTER:  # a crash in the lines below left it
                guard.unlink(missing_ok=True)
            time.sleep(LOOK_INTERVAL)
            return
        try:
            again = _read(self._path)
            if again is not None and again.holder == seen.holder:
                self._path.unlink(missing_ok=True)
                logger.info("%s: the lock of a run that has ended (%s) is taken over", self._folder, _name(seen.holder))
        finally:
            guard.unlink(missing_ok=True)

    def _beat(self) -> None:
        """Set the lock's time of change to now, by the clock of its file system; end the process if it was lost.

        It can only be lost if this process was stopped for longer than `STALE_AFTER` and has lost the folder too.
        """
        while not self._stop.wait(BEAT_INTERVAL):
            with suppress(OSError):
                seen = _read(self._path)
                if seen is None and not self._stop.is_set():
                    self._create()  # somebody has deleted it
                elif self._is_mine():
                    os.utime(self._path)
                elif seen is not None and seen.holder and not self._stop.is_set():
                    logger.critical("%s: was taken over by %s; ending at once", self._folder, _name(seen.holder))
                    os._exit(2)

    def _is_mine(self) -> bool:
        seen = _read(self._path)
        return seen is not None and seen.holder.get("token") == self._token


class _Seen:
    """A lock file as it was when it was read.

    Attributes:
        holder: its content; empty if it cannot be read, as just after its creation.
        changed: its time of change, by the clock of the file system.
    """

    def __init__(self, path: Path, holder: dict[str, Any], changed: int):
        self.path = path
        self.holder = holder
        self.changed = changed

    def can_be_asked(self) -> bool:
        """Return whether the holder is a process that this one could see."""
        space = self.holder.get("space")
        return bool(space) and space == process_space() and isinstance(self.holder.get("pid"), int)

    def is_left_over(self) -> bool:
        """Return whether the holder has ended."""
        if self.can_be_asked():
            return start_time(self.holder["pid"]) != self.holder.get("start")
        age = _age(self.path)
        return age is None or age > STALE_AFTER


def _wait_for_end(folder: Path, path: Path, seen: _Seen) -> bool:
    """Return whether the holder of a lock has ended; False if the lock has changed hands meanwhile.

    Raises:
        OptionError: as soon as it is clear that the holder lives.
    """
    is_announced = False
    while not seen.is_left_over():
        now = _read(path)
        if now is None or now.holder != seen.holder:
            return False
        if seen.can_be_asked() or (now.changed != seen.changed and seen.holder):
            raise OptionError(_refusal(folder, seen))
        if not is_announced and seen.holder:
            text = "%s: locked by %s; waiting at most %.0f s to see whether it still runs"
            logger.info(text, folder, _name(seen.holder), STALE_AFTER)
            is_announced = True
        time.sleep(LOOK_INTERVAL)
    return True


def _read(path: Path) -> _Seen | None:
    """Return the lock as it is; None if there is none."""
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            changed = os.fstat(file.fileno()).st_mtime_ns  # after opening, so that NFS asks the server
            text = file.read(4096)
    except FileNotFoundError:
        return None
    try:
        holder = json.loads(text)
    except ValueError:
        holder = {}
    return _Seen(path, holder if isinstance(holder, dict) else {}, changed)


def _age(path: Path) -> float | None:
    """Return the seconds since a file has changed, by the clock of its file system; None if there is none."""
    fresh = path.with_name(f"{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        fresh.touch()
        return fresh.stat().st_mtime - path.stat().st_mtime
    except FileNotFoundError:
        return None
    finally:
        fresh.unlink(missing_ok=True)


def _name(holder: dict[str, Any]) -> str:
    if not holder:
        return "an unknown process"
    known = {key: str(holder.get(key, "?"))[:80] for key in ("pid", "host", "command", "since")}
    return "process {pid} on {host} ({command}, since {since})".format(**known)


def _refusal(folder: Path, seen: _Seen) -> str:
    return (
        f"{folder}: is in use by {_name(seen.holder)}; two runs of one name would mix their files: wait for it, end "
        "it, or choose another name"
    )
