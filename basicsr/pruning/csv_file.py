"""CSV files of a search: whole tables and numbers in cells, with errors that name file, line and column."""

import csv
import math
from pathlib import Path
from typing import Any

Row = dict[str, str]


def read_text(path: str | Path) -> str:
    """Return the content of a UTF-8 file.

    Raises:
        FileNotFoundError: when there is no such file.
        ValueError: when it is not UTF-8.
    """
    try:
        return Path(path).read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{path}: no such file; check the path") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: is no UTF-8 text; check that it is the right file") from error


def read_table(path: str | Path, complete: bool = True) -> tuple[list[str], list[Row]]:
    """Return header and rows of a CSV file.

    Args:
        path: of the file.
        complete: False: ignore text after the last line end, which a killed run may leave.

    Raises:
        FileNotFoundError: when there is no such file.
        ValueError: when it is no CSV file, or a line has too few or too many cells.
    """
    text = read_text(path)
    lines = (text if complete else text[: text.rfind("\n") + 1]).splitlines()
    try:
        head, *rows = list(csv.reader(lines)) or [[]]
    except csv.Error as error:
        raise ValueError(f"{path}: is no CSV file ({error}); mend the file") from error
    for line, row in enumerate(rows, 2):
        if row and len(row) != len(head):
            raise ValueError(
                f"{path}: line {line}: expected {len(head)} cells, got {len(row)}; mend or delete the line"
            )
    return head, [dict(zip(head, row, strict=True)) for row in rows if row]


def to_number(text: Any) -> float:
    """Return the number in a cell; nan for an empty cell, "-" and "?".

    Raises:
        ValueError: for any other text.
    """
    return math.nan if str(text).strip() in ("", "-", "–", "?", "None") else float(text)


def number_in_cell(path: str | Path, line: int, name: str, cell: str) -> float:
    """Return the number in a cell.

    Raises:
        ValueError: naming file, line and column.
    """
    try:
        return to_number(cell)
    except ValueError as error:
        raise ValueError(f"{path}: line {line}: {name}: expected a number, got {cell!r}; mend the file") from error
