r"""Text that is written: to the console, to log files and to files of results.

File names on Linux may be no UTF-8 (Python holds such bytes as lone surrogates), and a console may lack characters.
Neither must end a run, so all text is written by one error handler, which shows what cannot be encoded as `\udcff` or
`\xe9`. In JSON files, these escapes read back as the same name.
"""

import re
import sys
import unicodedata
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


def folded(name: str) -> str:
    """Return what tells a name apart everywhere: without case, Unicode forms and the characters that are replaced.

    Two names with an equal result may become one file or one TensorBoard tag: `Set5` and `set5` where file names have
    no case, `Set 5` and `Set_5` where spaces are replaced.
    """
    return re.sub(r"[^\w.-]", "_", unicodedata.normalize("NFKC", name).casefold()).rstrip(".")
