"""The inputs that a command line names: files, folders, patterns, and what is no input."""

import glob
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from basicsr.errors import OptionError
from basicsr.images.walk import log_passed_over, walk
from basicsr.inference.formats import INPUT_SUFFIXES, OUTPUT_SUFFIXES
from basicsr.inference.video.formats import VIDEO_SUFFIXES

MEDIA_SUFFIXES = (*INPUT_SUFFIXES, *VIDEO_SUFFIXES)
OUTPUT_MEDIA_SUFFIXES = (*OUTPUT_SUFFIXES, *VIDEO_SUFFIXES)
KINDS = f"images: {' '.join(INPUT_SUFFIXES)}; videos: {' '.join(VIDEO_SUFFIXES)}"
ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")
PATTERN = re.compile(r"[*?\[]")


class Source(NamedTuple):
    """An input file."""

    path: Path
    name: str
    """of its output in the folder -o, but for ending and suffix; with the subfolder that the output goes to."""


def find_inputs(inputs: Sequence[str]) -> tuple[list[Source], list[str]]:
    """Return the inputs, all images and then all videos, and files of unknown type in the folders.

    A folder stands for the images and videos in it, by the rule of `basicsr.images.walk`, whose line in the log says
    what was passed over. A pattern (`*.jpg`, `**/*.png`) stands for the files and folders that match it. A file that is
    named twice counts once.

    Names of outputs: that of the file, and for files of folders their path below the folder. Where several inputs are
    given, the name of the folder comes in front.

    Raises:
        OptionError: when a file is neither, a folder has none, a pattern matches nothing, or an address is given.
        FileNotFoundError: when there is nothing.
    """
    paths = [path for text in inputs for path in _expand(text)]
    sources: dict[Path, Source] = {}
    unknown: list[str] = []
    for path in paths:
        if not path.is_dir():
            sources.setdefault(path.resolve(), Source(path, path.name))
            continue
        found = walk(path, lambda name: name.endswith(MEDIA_SUFFIXES))
        log_passed_over(path, found)
        if not found.names:
            passed_over = f"; passed over: {found}" if str(found) else ""
            raise OptionError(f"{path}: holds no images and no videos ({KINDS}); check the path{passed_over}")
        prefix = f"{path.resolve().name}/" if len(paths) > 1 else ""
        for name in found.names:
            sources.setdefault((path / name).resolve(), Source(path / name, prefix + name))
        unknown += [prefix + name for name in found.unknown]
    return sorted(sources.values(), key=lambda source: source.name.lower().endswith(VIDEO_SUFFIXES)), unknown


def _expand(text: str) -> list[Path]:
    """Return the paths that an argument means, in the order of their names for a pattern."""
    if ADDRESS.match(text):
        raise OptionError(
            f"-i {text}: is an address, and nothing is downloaded; save the picture and name the file, or pipe it: "
            f"curl -L '{text}' | basicsr-infer -i -"
        )
    path = Path(text)
    if path.exists():
        paths = [path]
    elif PATTERN.search(text):
        paths = [Path(match) for match in sorted(glob.glob(text, recursive=True))]
        if not paths:
            raise OptionError(f"-i {text}: no file matches this pattern; check the path")
    else:
        raise FileNotFoundError(f"{text}: no such file or folder; check the path")
    for path in paths:
        if not path.is_dir() and path.suffix.lower() not in MEDIA_SUFFIXES:
            raise OptionError(f"{path}: unknown suffix {path.suffix!r}; take one of these, {KINDS}")
    return paths
