"""Stores of the images of a data set: a folder, or an LMDB in BasicSR's layout."""

import io
import logging
import os
import re
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, NamedTuple, Protocol

import numpy as np

from basicsr.images.files import ImageFacts, checked_size, decode_gray, decode_image, image_facts, list_images

logger = logging.getLogger("basicsr")
MAX_REPORTED = 5
META_INFO = "meta_info.txt"
META_LINE = re.compile(r"(?P<name>.+) \((?P<height>\d+),(?P<width>\d+),\d+\) \d+")
LMDB_HINT = "make it with scripts/data_preparation/create_lmdb.py"


class ImageStore(Protocol):
    """Images by their names relative to `root`, with forward slashes."""

    @property
    def root(self) -> Path:
        """The folder or the LMDB."""

    def names(self) -> list[str]:
        """Return the names of all images."""

    def sizes(self, names: Sequence[str]) -> list[tuple[int, int]]:
        """Return the (height, width) of each image in pixels, without decoding any.

        Raises:
            ValueError: when images are damaged, naming them.
        """

    def length(self, name: str) -> int:
        """Return the bytes of one encoded image."""

    def open(self, name: str) -> BinaryIO:
        """Return the bytes of one encoded image, as a file to read."""

    def read(self, name: str, gray: bool = False) -> np.ndarray:
        """Return the pixels of one image as `read_image` does, or with `gray` as `decode_gray` does."""


class StoredImage(NamedTuple):
    """An image of a store."""

    store: ImageStore
    name: str

    @property
    def path(self) -> Path:
        """Its file; for an LMDB, the path it would have in a folder."""
        return self.store.root / self.name

    def read(self) -> np.ndarray:
        """Return its pixels as `read_image` does."""
        return self.store.read(self.name)


class GrayImage(StoredImage):
    """An image of a store, read as gray."""

    __slots__ = ()

    def read(self) -> np.ndarray:
        """Return its pixels as `decode_gray` does."""
        return self.store.read(self.name, gray=True)


def open_store(root: str, io_backend: Mapping[str, Any] | None = None) -> ImageStore:
    """Open the images at `root`.

    Args:
        root: a folder, searched with its subfolders, or an LMDB.
        io_backend: {type: disk} (also None) or {type: lmdb}.

    Raises:
        ValueError: for another back end, or a `root` of the other kind.
        FileNotFoundError: when there is no such folder or LMDB.
    """
    kind = (io_backend or {}).get("type", "disk")
    if kind not in ("disk", "lmdb"):
        hint = "memcached is not supported" if kind == "memcached" else "choose one"
        raise ValueError(f"io_backend.type: must be 'disk' or 'lmdb', got {kind!r}; {hint}")
    is_lmdb = root.rstrip("/\\").endswith(".lmdb")
    if is_lmdb != (kind == "lmdb"):
        hint = "set io_backend: {type: lmdb}" if is_lmdb else f"{LMDB_HINT}, or set io_backend: {{type: disk}}"
        raise ValueError(f"{root}: {'is' if is_lmdb else 'is no'} LMDB (*.lmdb), but io_backend is {kind}; {hint}")
    return LmdbImages(Path(root)) if is_lmdb else FolderImages(Path(root))


class FolderImages:
    """Image files in a folder and its subfolders.

    Raises:
        FileNotFoundError: when there is no such folder.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._names = list_images(root)
        self._sizes: dict[str, tuple[int, int]] = {}

    def names(self) -> list[str]:
        """Return the paths of all image files, relative to the folder, sorted."""
        return self._names

    def sizes(self, names: Sequence[str]) -> list[tuple[int, int]]:
        """Return the (height, width) of each image from its header, after a check that its file is whole.

        A warning counts the images with parts that are not read (transparency, frames, orientation).
        """

        def facts_or_fault(name: str) -> ImageFacts | str:
            try:
                return image_facts(self.root / name)
            except ValueError as error:
                return str(error)

        with ThreadPoolExecutor() as pool:
            found = dict(zip(names, pool.map(facts_or_fault, names), strict=True))
        raise_for_faults(self.root, [fault for fault in found.values() if isinstance(fault, str)], len(found))
        facts = {name: fact for name, fact in found.items() if isinstance(fact, ImageFacts)}
        self._sizes.update({name: fact[:2] for name, fact in facts.items()})
        self._warn(facts)
        return [self._sizes[name] for name in names]

    def length(self, name: str) -> int:
        """Return the bytes of one file."""
        return os.stat(f"{self.root}/{name}").st_size

    def open(self, name: str) -> BinaryIO:
        """Return one file."""
        return open(f"{self.root}/{name}", "rb", buffering=0)

    def read(self, name: str, gray: bool = False) -> np.ndarray:
        """Return the pixels of one file.

        Raises:
            OSError: when it cannot be read.
            ValueError: when it is damaged, or its size has changed since `sizes`.
        """
        path = self.root / name
        if name not in self._sizes:
            self._sizes[name] = image_facts(path)[:2]
        try:
            data = path.read_bytes()
        except OSError as error:  # only those of opening a file name it
            raise OSError(error.errno, error.strerror, str(path)) from error
        image = (decode_gray if gray else decode_image)(data, path)
        return checked_size(image, self._sizes[name], path)  # the cache has room for this size only

    def _warn(self, facts: Mapping[str, ImageFacts]) -> None:
        for part in dict.fromkeys(part for fact in facts.values() for part in fact.left_out):
            names = [name for name, fact in facts.items() if part in fact.left_out]
            shown = ", ".join(names[:MAX_REPORTED]) + (", ..." if len(names) > MAX_REPORTED else "")
            counts = f"in {len(names)} of {len(facts)} images"
            logger.warning(
                "%s: %s of an image is left out, %s: %s", self.root, part.removeprefix("its "), counts, shown
            )


class LmdbImages:
    """Encoded images in an LMDB, listed in its `meta_info.txt`: `name.png (height,width,channels) level`.

    The key of an image is its name without the suffix. The sizes come from the list, so nothing is decoded here.

    Raises:
        FileNotFoundError: when there is no such LMDB, or no list in it.
        ValueError: without the package `lmdb`, or when the list cannot be read or has images that are missing.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        meta_info = root / META_INFO
        for path in (root / "data.mdb", meta_info):
            if not path.is_file():
                raise FileNotFoundError(f"{path}: no such file, so {root} is no LMDB of images; {LMDB_HINT}")
        self._sizes: dict[str, tuple[int, int]] = {}
        owners: dict[bytes, str] = {}
        for number, line in enumerate(
            meta_info.read_text(encoding="utf-8-sig", errors="surrogateescape").splitlines(), 1
        ):
            match = META_LINE.fullmatch(line.strip())
            if match is None:
                raise ValueError(
                    f"{meta_info}:{number}: expected `name.png (height,width,channels) level`, got {line!r}"
                )
            owner = owners.setdefault(lmdb_key(match["name"]), match["name"])
            if match["name"] in self._sizes or owner != match["name"]:
                raise ValueError(f"{meta_info}:{number}: {match['name']} has the key of {owner}; {LMDB_HINT}")
            self._sizes[match["name"]] = int(match["height"]), int(match["width"])
        with _environment(root).begin(buffers=True) as transaction:
            missing = [name for name in self._sizes if transaction.get(lmdb_key(name)) is None]
        raise_for_faults(
            root, [f"{name}: listed in {META_INFO}, not in the data; {LMDB_HINT}" for name in missing], len(self._sizes)
        )

    def names(self) -> list[str]:
        """Return the names of all images, in the order of the list."""
        return list(self._sizes)

    def sizes(self, names: Sequence[str]) -> list[tuple[int, int]]:
        """Return the (height, width) of each image from the list."""
        return [self._sizes[name] for name in names]

    def length(self, name: str) -> int:
        """Return the bytes of one encoded image."""
        with _environment(self.root).begin(buffers=True) as transaction:
            return len(transaction.get(lmdb_key(name)))

    def open(self, name: str) -> BinaryIO:
        """Return the bytes of one encoded image, as a file to read."""
        with _environment(self.root).begin() as transaction:
            return io.BytesIO(transaction.get(lmdb_key(name)))

    def read(self, name: str, gray: bool = False) -> np.ndarray:
        """Return the pixels of one image.

        Raises:
            ValueError: when it is damaged, or its size is not that of the list.
        """
        path = self.root / name
        environment = _environment(self.root)
        import lmdb  # there, as it is open

        try:
            with environment.begin() as transaction:
                data = transaction.get(lmdb_key(name))
        except lmdb.Error as error:
            raise ValueError(f"{path}: cannot be read from the LMDB ({error}); {LMDB_HINT}") from error
        if data is None:
            raise ValueError(f"{path}: is no longer in the LMDB; {LMDB_HINT}")
        image = (decode_gray if gray else decode_image)(data, path)
        if image.shape[:2] != self._sizes[name]:  # the cache has room for this size only
            raise ValueError(
                f"{self.root / name}: {META_INFO} lists {self._sizes[name]}, the image is {image.shape[:2]} "
                f"(height, width); {LMDB_HINT}"
            )
        return image


def lmdb_key(name: str) -> bytes:
    """Return the LMDB key of the image `name`: the name without the suffix."""
    return str(PurePosixPath(name).with_suffix("")).encode("utf-8", "surrogateescape")


def raise_for_faults(root: Path, faults: Sequence[str], total: int, error: type[Exception] = ValueError) -> None:
    """Raise one `error` that counts the faulty images and shows the first few, if there are any."""
    if faults:
        more = [f"and {len(faults) - MAX_REPORTED} more"] if len(faults) > MAX_REPORTED else []
        shown = "\n  ".join(["", *faults[:MAX_REPORTED], *more])
        raise error(f"{root}: {len(faults)} of {total} images cannot be used:{shown}")


_environments: dict[Path, tuple[int, Any]] = {}  # path of an LMDB -> process that opened it, environment


def _environment(root: Path) -> Any:
    """Return the environment of an LMDB, one per process: LMDB allows no more, and none must be used across a fork."""
    try:
        import lmdb
    except ImportError as error:
        raise ValueError("io_backend.type: lmdb needs a package that is missing; run `pip install lmdb`") from error
    path = root.resolve()
    process, environment = _environments.get(path, (0, None))
    if process != os.getpid():
        if environment is not None:
            environment.close()  # the parent's; closing it here leaves the parent's own open
        try:
            environment = lmdb.open(str(path), readonly=True, lock=False, readahead=False, create=False)
        except lmdb.Error as error:
            raise ValueError(f"{root}: cannot be opened as an LMDB ({error}); {LMDB_HINT}") from error
        _environments[path] = os.getpid(), environment
    return environment
