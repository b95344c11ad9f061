r"""Text that is written: to the console, to log files and to files of results.

File names on Linux may be no UTF-8 (Python holds such bytes as lone surrogates), and a console may lack characters.
Neither must end a run, so all text is written by one error handler, which shows what cannot be encoded as `\udcff` or
`\xe9`. In JSON files, these escapes read back as the same name.
"""

import sys
from pathlib import Path

ERRORS = "backslashreplace"


def tolerate_encoding() -> None:
    """Let stdout and stderr show characters that their encoding lacks as escapes; every command calls this first."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # not where a program has replaced it
            stream.reconfigure(errors=ERRORS)


def write_text(path: str | Path, text: str) -> None:
    """Write text as UTF-8.

    Raises:
        OSError: when the file cannot be written.
    """
    Path(path).write_text(text, encoding="utf-8", errors=ERRORS)


def encodable(text: str) -> str:
    """Return the text with escapes for what UTF-8 cannot encode."""
    return text.encode("utf-8", ERRORS).decode("utf-8")
