"""What the scripts of the phone demo share: commands, checksums, names of files, and their error."""

import hashlib
import os
import shlex
import subprocess
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]


class WebError(RuntimeError):
    """A step of the preparation could not be done."""


def run(command: list[str]) -> None:
    """Run a command in the repository, with its output on our standard error.

    Raises:
        WebError: when it fails, with the command and its exit code.
    """
    print(f"$ {shlex.join(command)}", flush=True)
    code = subprocess.run(command, cwd=REPOSITORY, stdout=2).returncode
    if code:
        raise WebError(f"`{shlex.join(command)}` failed with exit code {code}; its own message stands above")


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file as hexadecimal."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def shown(path: Path) -> str:
    """Return the path as the user would type it here."""
    return os.path.relpath(path) if path.resolve().is_relative_to(Path.cwd()) else str(path)
