"""Names of images under which scores are kept and pictures are written: distinct, and the same in all processes."""

from collections.abc import Iterable
from pathlib import Path, PurePath


def distinct_names(paths: Iterable[str | Path], root: str | Path | None) -> dict[str, str]:
    """Return path -> name of the images of a test set, under which scores and pictures are kept.

    Args:
        paths: of all images, in the order of the data set.
        root: folder that names are relative to; see `image_name`.

    Returns:
        Names without suffixes; a second image of one name, such as `a.png` after `a.jpg`, is `a~2`.
    """
    taken: set[str] = set()
    names: dict[str, str] = {}
    for path in map(str, paths):
        if path not in names:
            names[path] = distinct(image_name(path, root), taken)
    return names


def image_name(path: str, root: str | Path | None) -> str:
    """Return a path relative to `root` without its suffix; its stem, where it lies elsewhere or `root` is None."""
    if root is None or not PurePath(path).is_relative_to(root):  # the paths of plug-ins' data sets may be anything
        return PurePath(path).stem
    return PurePath(path).relative_to(root).with_suffix("").as_posix()


def distinct(name: str, taken: set[str]) -> str:
    """Return `name`, or `name~2`, `name~3`, ... when it is in `taken` in upper or lower case; add it to `taken`."""
    found, count = name, 1
    while found.casefold() in taken:
        count += 1
        found = f"{name}~{count}"
    taken.add(found.casefold())
    return found
