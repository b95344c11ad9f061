"""What the files of a data set hold, by which a run that continues knows whether they are the same.

Names relative to the data set, lengths and digests of the content count. Folders and times do not: a copy is the
same, whatever its times, and a replaced file is another one, even with the length and the time of the former.
"""

import hashlib
import zlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import torch

from basicsr.data.storage import StoredImage

SAMPLE_BYTES = 4096  # of a sample: the start (a header), the middle and the end (in PNG, a checksum of all pixels)
WHOLE_SET_BYTES = 1 << 29  # sets of up to this are read in full, which takes about a second
CHUNK = 256  # files of a task
BLOCK_BYTES = 1 << 20
MAX_NAMED = 3


class FileFacts(NamedTuple):
    """One file."""

    name: str
    length: int
    """bytes."""
    samples: str
    """digest of the start, the middle and the end, as hexadecimal."""
    content: str = ""
    """digest of all bytes; "" where it was not asked for."""


@dataclass(frozen=True)
class FilesRecord:
    """The files of a data set, in its order: ground truth, then low-resolution images."""

    files: list[FileFacts]

    def facts(self) -> dict[str, str]:
        """Return lines that change with the files: `files` with names and lengths, `samples`, and `content` if read."""
        names = _digest(f"{file.length} {file.name}\n" for file in self.files)
        found = {"files": f"{len(self.files)} files, {names}", "samples": _digest(file.samples for file in self.files)}
        if self.has_content:
            found["content"] = _digest(file.content for file in self.files)
        return found

    @property
    def has_content(self) -> bool:
        """Whether all bytes of every file were read."""
        return bool(self.files) and all(file.content for file in self.files)

    def to_tensor(self) -> torch.Tensor:
        """Return the record as compressed bytes (uint8), for a training state."""
        fields = (str(field) for file in self.files for field in file)
        data = zlib.compress("\0".join(fields).encode("utf-8", "surrogateescape"))
        return torch.from_numpy(np.frombuffer(data, np.uint8).copy())

    @classmethod
    def from_tensor(cls, data: Any) -> "FilesRecord | None":
        """Return what `to_tensor` was given; None for anything else, as in states of older versions."""
        if not isinstance(data, torch.Tensor):
            return None
        try:
            fields = zlib.decompress(data.numpy().tobytes()).decode("utf-8", "surrogateescape").split("\0")
            rows = [fields[k : k + 4] for k in range(0, len(fields), 4)]
            return cls([FileFacts(name, int(length), *digests) for name, length, *digests in rows])
        except (ValueError, TypeError, zlib.error):
            return None

    def changes_since(self, before: "FilesRecord") -> str:
        """Return which files are others than in `before`, such as "removed: a.png; new: b.png"; "" if none is."""
        names, old_names = [file.name for file in self.files], [file.name for file in before.files]
        both = self.has_content and before.has_content
        old = dict(zip(_numbered(old_names), before.files, strict=True))
        new = dict(zip(_numbered(names), self.files, strict=True))
        common = [key for key in new if key in old]
        lengths = [key for key in common if new[key].length != old[key].length]
        content = []
        if not lengths and len(common) == len(new) == len(old):  # or other parts of the files may have been sampled
            content = [
                key
                for key in common
                if new[key].samples != old[key].samples or (both and new[key].content != old[key].content)
            ]
        groups = {
            "removed": [key for key in old if key not in new],
            "new": [key for key in new if key not in old],
            "of another length": lengths,
            "of other content": content,
        }
        parts = [f"{what}: {_shown([name for name, _ in keys])}" for what, keys in groups.items() if keys]
        return "; ".join(parts) or ("in another order" if names != old_names else "")


def record_files(dataset: Any, content: bool = False) -> FilesRecord | None:
    """Return the record of the files of a data set.

    Args:
        dataset: with `stored_images`; for one without, the result is None.
        content: read all bytes of every file, not only samples where the set is large (`WHOLE_SET_BYTES`).

    Raises:
        OSError: when a file cannot be read.
    """
    images: Sequence[StoredImage] | None = getattr(dataset, "stored_images", None)
    if images is None:
        return None
    lengths = [store.length(name) for store, name in images]
    whole = sum(lengths) <= WHOLE_SET_BYTES

    def read(start: int) -> list[FileFacts]:
        found = []
        for (store, name), length in zip(images[start : start + CHUNK], lengths[start : start + CHUNK], strict=True):
            with store.open(name) as file:
                samples = _content_digest(file) if whole else _samples_digest(file, length)
                all_bytes = "" if not content else samples if whole else _content_digest(file)
            found.append(FileFacts(name, length, samples, all_bytes))
        return found

    with ThreadPoolExecutor() as pool:
        return FilesRecord(list(chain.from_iterable(pool.map(read, range(0, len(images), CHUNK)))))


def _samples_digest(file: BinaryIO, length: int) -> str:
    if length <= 3 * SAMPLE_BYTES:
        return _content_digest(file)
    digest = hashlib.blake2b(digest_size=8)
    for offset in (0, (length - SAMPLE_BYTES) // 2, length - SAMPLE_BYTES):
        file.seek(offset)
        digest.update(file.read(SAMPLE_BYTES))
    return digest.hexdigest()


def _content_digest(file: BinaryIO) -> str:
    digest = hashlib.blake2b(digest_size=8)
    file.seek(0)
    while block := file.read(BLOCK_BYTES):
        digest.update(block)
    return digest.hexdigest()


def _digest(lines: Iterator[str]) -> str:
    digest = hashlib.sha256()
    for line in lines:
        digest.update(line.encode("utf-8", "surrogateescape"))
    return digest.hexdigest()[:16]


def _numbered(names: Sequence[str]) -> Iterator[tuple[str, int]]:
    """Yield (name, how often it came before): ground truth and low-resolution images may have equal names."""
    seen: dict[str, int] = {}
    for name in names:
        yield name, seen.setdefault(name, 0)
        seen[name] += 1


def _shown(names: Sequence[str]) -> str:
    return ", ".join(names[:MAX_NAMED]) + (f" and {len(names) - MAX_NAMED} more" if len(names) > MAX_NAMED else "")
