"""Images of a data set that cannot be read: what is kept of them, and how it is said."""

import traceback
from pathlib import Path
from typing import NamedTuple

from basicsr.errors import first_line

PACKAGE = Path(__file__).parents[1]
READ_ERRORS = (OSError, ValueError, MemoryError)  # of the file or its content; all others are mistakes in a program


class Unreadable(NamedTuple):
    """Stands in the place of an image that cannot be read, so that the others go on."""

    position: int
    """of the image among those that its process reads, from 0."""
    path: str
    reason: str
    """what is wrong and what to do, in one line that names the file."""


def reason_of(error: Exception, path: object) -> str:
    """Return why an image fails, in one line that names its file.

    Args:
        error: one of `READ_ERRORS`.
        path: of the image, where the error does not name the file itself.
    """
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename or path}: cannot be read ({error.strerror}); check the file and its disk"
    if isinstance(error, MemoryError):
        return f"{path}: does not fit into memory ({first_line(error)}); cut it into tiles"
    text = " ".join(line.strip() for line in str(error).splitlines())
    if str(path) in text:
        return text
    frames = traceback.extract_tb(error.__traceback__)
    if not frames or Path(frames[-1].filename).is_relative_to(PACKAGE):
        return f"{path}: {text}"
    place = f"{Path(frames[-1].filename).name}:{frames[-1].lineno}"  # it may be a mistake in a plug-in
    return f"{path}: {text} ({type(error).__name__} in {place})"
