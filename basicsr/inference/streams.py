"""Standard input as an input, and standard output as the output: `cat a.jpg | basicsr-infer -i - -o - > b.jpg`."""

import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from basicsr.errors import OptionError
from basicsr.inference.formats import SNIFF_BYTES, suffix_of_content

PIPE = "-"
NAME = "stdin"


@contextmanager
def piped(inputs: Sequence[str], output: str) -> Iterator[tuple[list[str], str]]:
    """Yield the inputs and the folder of outputs, with files of a temporary folder in place of `-`.

    At the end, the one output of `-o -` is written to standard output.

    Args:
        inputs: of the command line; `-` is an image from standard input.
        output: the folder, or `-`.

    Raises:
        OptionError: when standard input holds no image, or standard output is a terminal.
    """
    if PIPE not in inputs and output != PIPE:
        yield list(inputs), output
        return
    if output == PIPE and sys.stdout.isatty():
        raise OptionError("-o -: would write a picture to the terminal; send it on by > or |, or name a folder")
    with tempfile.TemporaryDirectory(prefix="basicsr-") as name:
        folder = Path(name)
        names = list(inputs)
        if PIPE in names:
            path = str(_save_stdin(folder))
            names = list(dict.fromkeys(path if text == PIPE else text for text in names))
        yield names, str(folder / "out") if output == PIPE else output
        for written in (folder / "out").glob("*") if output == PIPE else ():
            with written.open("rb") as file:
                shutil.copyfileobj(file, sys.stdout.buffer)
            sys.stdout.buffer.flush()


def _save_stdin(folder: Path) -> Path:
    """Return the file that standard input was saved to, with the suffix of its content."""
    if sys.stdin.isatty():
        raise OptionError("-i -: reads an image from standard input, which is the terminal; pipe one in: ... < a.jpg")
    start = sys.stdin.buffer.read(SNIFF_BYTES)
    suffix = suffix_of_content(start)
    if suffix is None:
        what = "holds no image of a known format (videos are read from files only)" if start else "is empty"
        raise OptionError(f"-i -: standard input {what}; pipe an image in: basicsr-infer -i - < a.jpg")
    path = folder / f"{NAME}{suffix}"
    with path.open("wb") as file:
        file.write(start)
        shutil.copyfileobj(sys.stdin.buffer, file)
    return path
