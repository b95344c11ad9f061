"""The log of a search, `mask_log.csv`: probabilities, drawn masks, costs and losses, a row at each `print_freq`."""

import csv
import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import count, takewhile
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from basicsr.engine.atomic import atomic_path
from basicsr.pruning.csv_file import Row, number_in_cell, read_table
from basicsr.pruning.search import MaskSearch
from basicsr.text import ERRORS

TEXT_COLUMNS = ("phase", "mode", "drawn", "kept")  # masks as bit strings are not numbers
Columns = dict[str, list[Any]]
"""Name of a column -> its values, a row for each `print_freq` iterations."""


class MaskLog:
    """A CSV file that grows row by row, and can be read, resumed and killed at any time.

    Args:
        path: of the file; an existing one is continued, without the incomplete last line that a killed run leaves.
            The keys of the first row are its columns. A key that comes later becomes a new last column, empty in the
            rows before.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self._columns: list[str] = []

    def append(self, row: Mapping[str, float | str]) -> None:
        """Write one row; columns that are missing from it stay empty.

        Raises:
            ValueError: when the row has no `iter`, or the file that is continued is damaged.
        """
        if "iter" not in row:
            raise ValueError(f"iter: is missing from the row for {self.path}, got {list(row)}; add the iteration")
        columns = list(dict.fromkeys([*self._columns, *row]))
        if columns != self._columns:
            old, rows = read_table(self.path, complete=False) if self.path.exists() else ([], [])
            self._columns = list(dict.fromkeys([*old, *columns]))
            self._write(rows)
        with self.path.open("a", newline="", encoding="utf-8", errors=ERRORS) as file:
            csv.writer(file, lineterminator="\n").writerow([_cell(row.get(name, "")) for name in self._columns])

    def truncate(self, after_iter: int) -> None:
        """Drop the rows after an iteration, which a run resumed from there writes again; the file is always whole.

        Raises:
            ValueError: when the file is damaged.
        """
        if self.path.exists():
            columns = read_mask_log(self.path)
            self._columns, rows = read_table(self.path, complete=False)
            self._write([row for row, it in zip(rows, columns.get("iter", ()), strict=True) if it <= after_iter])

    def _write(self, rows: Iterable[Row]) -> None:
        with (
            atomic_path(self.path) as temporary,
            temporary.open("w", newline="", encoding="utf-8", errors=ERRORS) as file,
        ):
            writer = csv.DictWriter(file, self._columns, restval="", lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)


def read_mask_log(path: str | Path) -> Columns:
    """Return the columns of a `MaskLog`: `iter` as int, phase and masks as text, all others as float (empty: nan).

    An incomplete last line, as a killed run leaves it, is ignored.

    Raises:
        FileNotFoundError: when there is no such file.
        ValueError: when a line has too few or too many cells, or text instead of a number.
    """
    names, rows = read_table(path, complete=False)
    if names and "iter" not in names:
        raise ValueError(f"{path}: has no column 'iter', got {names[:5]}; is it the log of a search?")
    columns: Columns = {name: [] for name in names}
    for line, row in enumerate(rows, 2):
        for name, cell in row.items():
            columns[name].append(cell if name in TEXT_COLUMNS else number_in_cell(path, line, name, cell))
        if not math.isfinite(columns["iter"][-1]):
            raise ValueError(f"{path}: line {line}: iter is missing; delete the line")
        columns["iter"][-1] = int(columns["iter"][-1])
    return columns


def group_columns(log: Columns, name: str) -> np.ndarray:
    """Return the (rows, N) values of the columns `name_0`, `name_1`, ...; (rows, 0) when they are missing or empty."""
    names = list(takewhile(log.__contains__, (f"{name}_{i}" for i in count())))
    rows = len(log.get("iter", ()))
    values = np.array([log[column] for column in names], dtype=float).reshape(len(names), rows).T
    return values if np.isfinite(values).any() else np.empty((rows, 0))


def mask_log_row(
    search: MaskSearch,
    iteration: int,
    keep_frequency: Sequence[float],
    losses: Mapping[str, Tensor],
    rates: Sequence[float],
    grad_norms: Sequence[float],
) -> dict[str, float | str]:
    """Return the row of an iteration.

    Args:
        search: after the step of the iteration.
        iteration: 1-based.
        keep_frequency: (N,) fractions of the masks drawn since the last row that kept each group.
        losses: weighted losses by name, scalars.
        rates: learning rates; first that of the weights, last that of the logits.
        grad_norms: of the optimizers in the same order; empty without gradient clipping.
    """
    sampler = search.sampler
    norms = list(grad_norms) or [math.nan]
    return {
        "iter": iteration,
        "phase": search.phase(iteration),
        "tau": search.tau(iteration),
        "eps": search.eps(iteration),
        "lr_g": rates[0],
        "lr_m": rates[-1],
        "l_total": float(sum(losses.values())),
        **{name: float(loss) for name, loss in losses.items()},
        **search.costs(),
        "entropy": sampler.entropy().item(),
        "p_max": sampler.ranking(1)[0][1],
        "mode": search.mode,
        "mode_changes": search.mode_changes,
        "hamming": search.hamming,
        **{f"pi_{i}": p for i, p in enumerate(sampler.marginals().tolist())},
        **{f"drawn_{i}": frequency for i, frequency in enumerate(keep_frequency)},
        "grad_norm_g": norms[0],
        "grad_norm_m": norms[-1],
    }


def _cell(value: float | str) -> str:
    return value if isinstance(value, str) else str(int(value)) if isinstance(value, int) else f"{float(value):.9g}"
