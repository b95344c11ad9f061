"""The measurements of all masks: a CSV file that is complete at any time, and the settings they were made with."""

import csv
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from basicsr.engine.atomic import write_atomically
from basicsr.errors import OptionError
from basicsr.pruning.compaction import kept_groups
from mask_ranking.candidates import bits

ZERO_SHOT, RECOVERED, P = "zero_shot_psnr", "recovered_psnr", "p"
FIRST_COLUMNS = ("mask", "kept", ZERO_SHOT, RECOVERED, P)
SCORE_DECIMALS, P_DIGITS = 6, 6  # values are rounded when measured, so that a resumed run sees the same numbers
PARTS = ("zero_shot", "recovered")
SUGGESTION = "name another file by -o, or delete it to measure again"
Row = dict[str, float]
"""Column -> value; unknown values are missing."""


class Table:
    """A row for each mask, with settings that must stay the same.

    Args:
        path: of the CSV file; an existing one is continued.
        masks: all masks, in the order of the file.
        metrics: their names.
        settings: part of the measurements -> settings it depends on, None while the part is not measured.

    Raises:
        OptionError: when the file was made with other settings, or is damaged.
    """

    def __init__(self, path: Path, masks: Sequence[str], metrics: Iterable[str], settings: Mapping[str, Any]):
        self.path = path
        more = [f"{part}_{metric}" for metric in metrics for part in PARTS]
        self.columns = list(dict.fromkeys([*FIRST_COLUMNS, *more]))
        self.rows: dict[str, Row] = {mask: {} for mask in masks}
        settings_file = path.with_suffix(".json")
        if path.exists():
            rows, before = _read(path)
            settings = _merged_settings(path, before, settings)
            if list(rows) != list(masks):
                raise OptionError(f"{path}: has lost or gained masks since it was written; {SUGGESTION}")
            self.rows = rows
        self._settings = settings
        write_atomically(settings_file, json.dumps(settings, indent=2, ensure_ascii=False) + "\n")

    def put(self, mask: str, part: str, scores: Mapping[str, float]) -> None:
        """Enter the scores of a mask and write the file."""
        self.rows[mask] |= {f"{part}_{metric}": round(value, SCORE_DECIMALS) for metric, value in scores.items()}
        self.write()

    def put_p(self, p: Mapping[str, float]) -> None:
        """Replace the probabilities of all masks and write the file."""
        for mask, row in self.rows.items():
            row.pop(P, None)
            if mask in p:
                row[P] = float(f"{p[mask]:.{P_DIGITS}g}")
        self.write()

    def write(self) -> None:
        """Write the whole file."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(self.columns)
        for mask, row in self.rows.items():
            kept = " ".join(map(str, kept_groups(bits(mask))))
            writer.writerow([mask, kept, *(row.get(column, "") for column in self.columns[2:])])
        write_atomically(self.path, text.getvalue())

    @property
    def iterations(self) -> int:
        """Iterations of the recovery; 0: none."""
        return self._settings["recovered"]["iterations"] if self._settings["recovered"] else 0

    def missing(self, masks: Iterable[str], column: str) -> list[str]:
        """Return those of `masks` that have no value in a column."""
        return [mask for mask in masks if column not in self.rows[mask]]

    def values(self, column: str) -> dict[str, float]:
        """Return the masks that have a value in a column, with it, in the order of the file."""
        return {mask: row[column] for mask, row in self.rows.items() if column in row}

    def mean(self, column: str) -> float:
        """Return the mean over the masks that have a value."""
        values = self.values(column).values()
        return sum(values) / len(values)

    def ranking(self, column: str) -> list[str]:
        """Return the masks that have a value, best first; equal ones in the order of the file."""
        values = self.values(column)
        return sorted(values, key=lambda mask: -values[mask])

    def other_seed(self, path: Path) -> dict[str, float]:
        """Return the recovered PSNR of each mask in a file of the same measurements with another seed.

        Raises:
            OptionError: when the file is of other measurements, of the same seed, or damaged.
        """
        if not path.is_file():
            raise OptionError(f"--seeds {path}: no such file; name the CSV files of runs with another --seed")
        rows, other = _read(path)
        mine, theirs = self._settings["recovered"], other["recovered"]
        if not mine or not theirs:
            raise OptionError(f"--seeds {path}: and {self.path.name} do not both have recovered masks; use --recover")
        if mine["manual_seed"] == theirs["manual_seed"]:
            raise OptionError(f"--seeds {path}: has the seed of {self.path}, so it says nothing about noise")
        now = {**self._settings, "recovered": {**mine, "manual_seed": theirs["manual_seed"]}}
        for part in PARTS:
            if other[part] != now[part]:
                text = _first_difference(other[part], now[part], part)
                raise OptionError(f"--seeds {path}: was made with other settings: {text}; compare equal measurements")
        return {mask: row[RECOVERED] for mask, row in rows.items() if RECOVERED in row}


def _read(path: Path) -> tuple[dict[str, Row], dict[str, Any]]:
    """Return the rows of a file, and the settings of those values that it has."""
    rows, settings = _read_rows(path), _read_settings(path, path.with_suffix(".json"))
    if not any(RECOVERED in row for row in rows.values()):
        settings["recovered"] = None
    return rows, settings


def _read_rows(path: Path) -> dict[str, Row]:
    try:
        with path.open(newline="", encoding="utf-8") as file:
            head, *lines = csv.reader(file)
        rows = [dict(zip(head, line, strict=True)) for line in lines]
        return {row["mask"]: {name: float(row[name]) for name in head[2:] if row[name]} for row in rows}
    except (ValueError, KeyError, csv.Error) as error:
        raise OptionError(f"{path}: is damaged, or no file of this script ({error}); {SUGGESTION}") from error


def _read_settings(path: Path, settings_file: Path) -> dict[str, Any]:
    """Return the settings that the file `path` was made with: part of the measurements -> settings."""
    try:
        settings = json.loads(settings_file.read_text(encoding="utf-8"))
        return {part: settings[part] for part in PARTS}
    except FileNotFoundError as error:
        raise OptionError(
            f"{path}: exists, but not {settings_file.name} with the settings it was made with; {SUGGESTION}"
        ) from error
    except (ValueError, KeyError, TypeError) as error:
        raise OptionError(f"{settings_file}: does not hold the settings of {path.name}; {SUGGESTION}") from error


def _merged_settings(path: Path, before: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of the values in a file together with those of values that are added.

    Raises:
        OptionError: when they differ in a part that both have.
    """
    for part in PARTS:
        if before[part] and now[part] and before[part] != now[part]:
            text = _first_difference(before[part], now[part], part)
            raise OptionError(f"{path}: was made with other settings: {text}; {SUGGESTION}")
    return {part: now[part] or before[part] for part in PARTS}


def _first_difference(old: Any, new: Any, key: str) -> str:
    """Return the first difference of two nested values: `recovered.iterations was 300, is 200 now`."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for name in {**old, **new}:
            if old.get(name) != new.get(name):
                return _first_difference(old.get(name), new.get(name), f"{key}.{name}")
    return f"{key} was {old}, is {new} now"
