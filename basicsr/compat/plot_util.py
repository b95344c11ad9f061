"""BasicSR 1.4's readers of logs, for plug-ins; our own code uses `basicsr.engine.curves.read_log`."""

import re
from collections.abc import Iterator
from pathlib import Path


def read_data_from_txt_1v(path: str | Path, pattern: str) -> list[float]:
    """Return the only group of `pattern` as a number, for each line that it matches from the start."""
    return [_number(match[1]) for match in _matches(path, pattern)]


def read_data_from_txt_2v(path: str | Path, pattern: str, step_one: bool = False) -> tuple[list[int], list[float]]:
    """Return iterations (plus 1 with `step_one`) and values: the two groups of `pattern`, for each line it matches."""
    matches = list(_matches(path, pattern))
    return [int(_number(match[1])) + step_one for match in matches], [_number(match[2]) for match in matches]


def _matches(path: str | Path, pattern: str) -> Iterator[re.Match[str]]:
    lines = Path(path).read_text(encoding="utf-8").splitlines()
    return (match for line in lines if (match := re.match(pattern, line.strip())))


def _number(text: str) -> float:
    return float(text.replace(",", ""))
