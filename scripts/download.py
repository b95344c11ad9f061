"""Download files whole, with resume and retries; compute checksums; unpack archives. Used by download_datasets.py."""

import hashlib
import http.client
import os
import shutil
import ssl
import tarfile
import time
import urllib.error
import urllib.request
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO, NoReturn

from tqdm import tqdm

from basicsr.engine.atomic import atomic_path

CHUNK_BYTES = 1 << 20
TIMEOUT_SECONDS = 60
MAX_FAILURES = 5  # attempts in a row that receive nothing
MAX_PAUSE_SECONDS = 10


class DownloadError(RuntimeError):
    """A file could not be fetched, or is not what it should be."""


def fetch(address: str, target: Path, *, resume: bool = True) -> None:
    """Download `address` to `target`, which appears when it is complete.

    Until then `target` + ".part" holds the bytes received; a later call continues from there if the server allows it.

    Args:
        address: http or https.
        target: file to write; its folder is made.
        resume: False: start again, because without a checksum a change of the file would not be noticed.

    Raises:
        DownloadError: when the server denies the request, or the connection fails several times in a row.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    part = part_of(target)
    if not resume:
        part.unlink(missing_ok=True)
    failures = 0
    while failures < MAX_FAILURES:
        before = _size(part)
        try:
            if _receive(address, part):
                os.replace(part, target)
                return
            problem = "the connection was cut"
        except urllib.error.HTTPError as error:
            problem = f"the server answers {error.code} {error.reason}"
            if error.code < http.HTTPStatus.INTERNAL_SERVER_ERROR:
                raise DownloadError(f"{address}: {problem}; look for the file in a browser") from error
        except (http.client.HTTPException, urllib.error.URLError, ssl.SSLError, ConnectionError, TimeoutError) as error:
            problem = str(getattr(error, "reason", error))
        failures = 0 if _size(part) > before else failures + 1
        time.sleep(min(2**failures - 1, MAX_PAUSE_SECONDS))
    raise DownloadError(f"{address}: {problem}; {readable(_size(part))} is kept, run again to go on")


def checksum_of(path: Path, kind: str) -> str:
    """Return the checksum of a file as `kind:digits`; `kind` is a name of hashlib, such as sha256 or md5."""
    digest = hashlib.new(kind, usedforsecurity=False)
    with path.open("rb") as file, _progress(path.stat().st_size, f"{kind} of {path.name}") as bar:
        while chunk := file.read(CHUNK_BYTES):
            digest.update(chunk)
            bar.update(len(chunk))
    return f"{kind}:{digest.hexdigest()}"


def unpack(archive: Path, target: Path, strip: str = "") -> None:
    """Write the files of a zip or tar archive to `target`, each whole or not at all. Links are skipped.

    Args:
        archive: a zip or tar file.
        target: folder.
        strip: top folder of the archive to remove from the paths.

    Raises:
        DownloadError: when it is no such archive, or a member would be written outside `target`; nothing is written.
    """
    try:
        with _members(archive) as members:
            places = [_safe_place(archive, name, target, strip) for name, _ in members]
            bar = tqdm(places, f"unpack {archive.name}", unit="file", leave=False, disable=None)
            for place, (_, open_member) in zip(bar, members, strict=True):
                with open_member() as source, atomic_path(place) as temporary, temporary.open("wb") as file:
                    shutil.copyfileobj(source, file, CHUNK_BYTES)
    except (zipfile.BadZipFile, tarfile.TarError, EOFError) as error:
        raise DownloadError(f"{archive}: no zip or tar archive, or cut off; remove it and run again") from error


def part_of(path: Path) -> Path:
    """Return the path of a file while it is incomplete."""
    return path.with_name(f"{path.name}.part")


def readable(size: int) -> str:
    """Return a number of bytes with a unit: "3.53 GB"."""
    amount = float(size)
    for unit in ("B", "kB", "MB"):
        if amount < 1000:
            return f"{amount:.3g} {unit}"
        amount /= 1000
    return f"{amount:.3g} GB"


def _receive(address: str, part: Path) -> bool:
    """Append the missing bytes of the file at `address` to `part`; return False if the connection ended early."""
    start = _size(part)
    headers = {"User-Agent": "basicsr", **({"Range": f"bytes={start}-"} if start else {})}
    try:
        response = urllib.request.urlopen(urllib.request.Request(address, headers=headers), timeout=TIMEOUT_SECONDS)
    except urllib.error.HTTPError as error:
        if error.code != http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            raise
        if error.headers.get("Content-Range") == f"bytes */{start}":
            return True  # it was complete already
        part.unlink()  # longer than the file, so of another version
        return False
    with response:
        if response.status != http.HTTPStatus.PARTIAL_CONTENT:
            start = 0  # the server ignores the range and sends the whole file
        length = response.headers.get("Content-Length")
        total = None if length is None else start + int(length)
        with part.open("ab" if start else "wb") as file, _progress(total, part.stem, start) as bar:
            while chunk := response.read(CHUNK_BYTES):
                file.write(chunk)
                bar.update(len(chunk))
    return total in (None, _size(part))


@contextmanager
def _members(archive: Path) -> Iterator[list[tuple[str, Callable[[], IO[bytes]]]]]:
    """Yield (path in the archive, function that opens it) of each regular file."""
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as zipped:
            yield [(info.filename, partial(zipped.open, info)) for info in zipped.infolist() if not info.is_dir()]
    else:
        with tarfile.open(archive) as tar:
            yield [(info.name, partial(tar.extractfile, info)) for info in tar if info.isreg()]  # type: ignore[misc]


def _safe_place(archive: Path, name: str, target: Path, strip: str) -> Path:
    path = PurePosixPath(name.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or ":" in name:
        raise DownloadError(f"{archive}: its member {name!r} would be written outside {target}; do not trust this file")
    return target / (path.relative_to(strip) if strip and path.is_relative_to(strip) else path)


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _progress(total: int | None, label: str, initial: int = 0) -> "tqdm[NoReturn]":
    return tqdm(total=total, desc=label, initial=initial, unit="B", unit_scale=True, leave=False, disable=None)
