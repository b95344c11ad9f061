"""Write files whole or not at all: under a temporary name in the same folder, then renamed."""

import errno
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from basicsr.errors import OptionError
from basicsr.text import ERRORS


@contextmanager
def atomic_path(path: str | Path, *, durable: bool = False) -> Iterator[Path]:
    """Yield a temporary path in the folder of `path`; rename it to `path` if the block ends well, delete it otherwise.

    Parent folders are made. The temporary name ends in the suffix of `path`, by which writers choose a format.

    Args:
        durable: flush file and folder to the disk, so that the file survives a loss of power.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp{path.suffix}")
    try:
        yield temporary
        if durable:
            _flush(temporary, os.O_RDWR)
        os.replace(temporary, path)
        if durable and os.name == "posix":  # elsewhere folders cannot be opened
            _flush(path.parent, os.O_RDONLY)
    finally:
        temporary.unlink(missing_ok=True)


def write_atomically(path: str | Path, data: bytes | str, *, durable: bool = False) -> None:
    """Write bytes, or text as UTF-8, so that `path` is whole at any time: the old content or the new.

    Args:
        durable: see `atomic_path`.
    """
    with atomic_path(path, durable=durable) as temporary:
        temporary.write_bytes(data.encode("utf-8", ERRORS) if isinstance(data, str) else data)


def check_folder(folder: str | Path, option: str) -> None:
    """Check that files can be written in a folder, which need not exist, before work is done for them.

    Args:
        folder: the folder.
        option: that names it, for the message.

    Raises:
        OptionError: when it, or the folder in which it would be made, is a file or cannot be written.
    """
    existing = next(path for path in (Path(folder).absolute(), *Path(folder).absolute().parents) if path.exists())
    if not existing.is_dir():
        raise OptionError(f"{option} {folder}: {existing} is a file; name a folder")
    if not os.access(existing, os.W_OK | os.X_OK):
        is_read_only = hasattr(os, "statvfs") and os.statvfs(existing).f_flag & os.ST_RDONLY
        reason = os.strerror(errno.EROFS if is_read_only else errno.EACCES)
        raise OptionError(
            f"{option} {folder}: {existing} cannot be written ({reason}); give write access, or name another folder"
        )


def check_file_target(path: str | Path, option: str) -> None:
    """Check that a file can be written, before work is done for it; its folder need not exist.

    Raises:
        OptionError: when it is a folder, or its folder cannot be written; see `check_folder`.
    """
    if Path(path).is_dir():
        raise OptionError(f"{option} {path}: is a folder; name a file")
    check_folder(Path(path).parent, option)


def remove_leftovers(folder: str | Path) -> None:
    """Delete the temporary files that a crash has left in `folder`."""
    for path in Path(folder).glob(".*.tmp*"):
        path.unlink(missing_ok=True)


def _flush(path: Path, flags: int) -> None:
    descriptor = os.open(path, flags)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
