"""The one rule by which folders are searched for files: by data sets, scripts, inference and `scandir`.

- A file counts by its suffix, in upper or lower case.
- Hidden files and folders are passed over: names with a leading dot (`.ipynb_checkpoints`, macOS's `._x.png`),
  and what systems put beside pictures (`SYSTEM_NAMES`). The folder itself, and those above it, may have any name.
- Subfolders are searched, also through symbolic links, except links to a folder that contains them.
- The order is that of the paths, whatever the file system says.
"""

import logging
import os
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

logger = logging.getLogger("basicsr")
SYSTEM_NAMES = ("__macosx", "thumbs.db", "ehthumbs.db", "desktop.ini", "@eadir", "$recycle.bin")  # in lower case
# Of files that belong beside images and are none: lists, notes, options, archives' checksums, cameras' notes.
COMPANION_SUFFIXES = (
    ".txt", ".md", ".rst", ".pdf", ".html", ".csv", ".tsv", ".json", ".jsonl", ".yml", ".yaml", ".toml", ".xml", ".log",
    ".py", ".m", ".mat", ".sh", ".md5", ".sha256", ".xmp", ".aae", ".ini", ".db", ".mdb", ".pth", ".safetensors",
)  # fmt: skip
MAX_SUFFIXES = 8  # named in a line


@dataclass
class Found:
    """The files in a folder, and what was passed over."""

    names: list[str]
    """paths relative to the folder, with forward slashes, sorted."""
    unknown: list[str]
    """visible files of another kind, which may be images or videos in formats that are not read."""
    passed_over: Counter[str] = field(default_factory=Counter)
    """reason -> number of files or folders, for those that need no attention."""

    def __str__(self) -> str:
        """Return what was passed over, such as "3 .heic, 1 .gif (unknown type), 2 hidden"; "" for nothing."""
        kinds = Counter(PurePosixPath(name).suffix.lower() or "without suffix" for name in self.unknown)
        shown = [f"{count} {kind}" for kind, count in sorted(kinds.items(), key=lambda item: (-item[1], item[0]))]
        if len(shown) > MAX_SUFFIXES:
            shown = [*shown[:MAX_SUFFIXES], f"{sum(kinds.values())} in all"]
        parts = [f"{', '.join(shown)} (unknown type)"] if shown else []
        return ", ".join([*parts, *(f"{count} {reason}" for reason, count in sorted(self.passed_over.items()))])


def walk(folder: str | Path, accepts: Callable[[str], bool], recursive: bool = True) -> Found:
    """Return the files in `folder` whose names `accepts` takes, and what was passed over, by the rule of this module.

    Args:
        folder: to be searched.
        accepts: gets the name of a file, without folders, in lower case.
        recursive: search subfolders too.

    Raises:
        FileNotFoundError: when there is no such folder.
        OSError: when a folder cannot be read.
    """
    if not Path(folder).is_dir():
        raise FileNotFoundError(f"{folder}: no such folder")
    found = Found([], [])
    _walk(str(folder), "", (), accepts, recursive, found)
    found.names.sort()
    found.unknown.sort()
    return found


def log_passed_over(folder: str | Path, found: Found) -> None:
    """Log in one line what was passed over in a folder: a warning if images may be among it."""
    if text := str(found):
        level = logging.WARNING if found.unknown else logging.INFO
        logger.log(level, "%s: %d files are taken; passed over: %s", folder, len(found.names), text)


def _walk(
    folder: str,
    prefix: str,
    above: tuple[tuple[int, int], ...],
    accepts: Callable[[str], bool],
    recursive: bool,
    found: Found,
) -> None:
    """Add the files of one folder to `found`; `above` identifies the folders that contain it."""
    status = os.stat(folder)
    here = (status.st_dev, status.st_ino)
    if here in above:
        found.passed_over["links to a folder above them"] += 1
        return
    with os.scandir(folder) as entries:
        for entry in entries:
            name = entry.name.lower()
            is_folder = entry.is_dir()
            if name.startswith(".") or name in SYSTEM_NAMES:
                found.passed_over["hidden"] += 1
            elif is_folder and recursive:
                _walk(entry.path, f"{prefix}{entry.name}/", (*above, here), accepts, recursive, found)
            elif not is_folder and accepts(name):
                found.names.append(prefix + entry.name)
            elif not is_folder and name.endswith(COMPANION_SUFFIXES):
                found.passed_over["text and data"] += 1
            elif not is_folder:
                found.unknown.append(prefix + entry.name)
