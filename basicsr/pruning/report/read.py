"""The files of a search run, experiments/<name>/, as data for plots and page.

`mask_log.csv` and `prune_report.json` are written by the search; `rank_masks.csv` (PSNR of every mask, by
scripts/rank_masks.py) and `results.csv` (rows of a table of results) are optional.
"""

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from basicsr.engine.curves import Series, read_logs
from basicsr.pruning.csv_file import Row, number_in_cell, read_table, read_text
from basicsr.pruning.mask_log import Columns, group_columns, read_mask_log

LOG, REPORT, RANKS, RESULTS = "mask_log.csv", "prune_report.json", "rank_masks.csv", "results.csv"
_PSNR = re.compile(r"(?:(.+?)[ _/-]+psnr(?:[ _-]?y)?|psnr(?:[ _-]?y)?[ _/-]+(.+))", re.IGNORECASE)


class RankedMask(NamedTuple):
    """One mask with its measurements; nan: unknown."""

    bits: str
    """Such as "10010001": 1 for each kept group."""
    p: float = math.nan
    """Probability at the end of the search."""
    zero_shot: float = math.nan
    """PSNR in dB right after the removal."""
    recovered: float = math.nan
    """PSNR in dB after a short training."""


class RunMask(NamedTuple):
    """The decision of one search."""

    name: str
    pi: Sequence[float]
    """Probability of keeping each group."""
    bits: str


@dataclass(frozen=True)
class SearchRun:
    """The data of a search, finished or under way."""

    name: str
    bits: str
    """The chosen mask; while the search is under way the most probable one."""
    log: Columns = field(default_factory=dict)
    report: Mapping[str, Any] = field(default_factory=dict)
    masks: Sequence[RankedMask] = ()
    results: Sequence[Mapping[str, str]] = ()

    @property
    def limits(self) -> dict[str, float]:
        """Limits of the budget by resource."""
        resources = self.report.get("resources", {}).items()
        return {name: cost["limit"] for name, cost in resources if cost.get("limit") is not None}

    @property
    def decision(self) -> RunMask:
        """The mask, and the probability of keeping each group (if unknown: the mask itself)."""
        pi = self.report.get("pi") or group_columns(self.log, "pi")[-1:].ravel().tolist()
        return RunMask(self.name, pi or [float(bit) for bit in self.bits], self.bits)


def kept_text(bits: str) -> str:
    """Return the groups that a mask keeps: "0, 3, 7" for "10010001"."""
    return ", ".join(str(i) for i, bit in enumerate(bits) if bit == "1")


def read_run(folder: str | Path, results: str | Path | None = None) -> SearchRun:
    """Return the data of a search run, finished or not.

    Args:
        folder: of the run.
        results: table of results; None: `results.csv` in the folder, if it exists.

    Raises:
        FileNotFoundError: when the folder holds neither log nor report, or `results` does not exist.
        ValueError: when a file is malformed.
    """
    folder = Path(folder)
    log = read_mask_log(folder / LOG) if (folder / LOG).is_file() else {}
    report = _read_report(folder / REPORT) if (folder / REPORT).is_file() else {}
    modes = [bits for bits in log.get("mode", ()) if bits]
    if not report and not modes:
        raise FileNotFoundError(f"{folder}: has no {REPORT} and no rows in {LOG}; name the folder of a search run")
    ranks = _read_ranks(folder / RANKS) if (folder / RANKS).is_file() else []
    found = folder / RESULTS if results is None and (folder / RESULTS).is_file() else results
    return SearchRun(
        name=folder.resolve().name,
        bits="".join(map(str, report["mask"])) if report else modes[-1],
        log=log,
        report=report,
        masks=_merged(report.get("ranking", []), ranks),
        results=_read_results(Path(found)) if found else (),
    )


def read_curves(folder: Path) -> dict[str, Series]:
    """Return the curves in the text logs of a training run.

    Raises:
        FileNotFoundError: when the folder has no log.
    """
    logs = list(folder.glob("train_*.log"))
    if not logs:
        raise FileNotFoundError(f"{folder}: has no train_*.log; name the folder of a training run")
    return read_logs(logs)


def psnr_columns(rows: Iterable[Mapping[str, str]]) -> dict[str, str]:
    """Return data set -> its PSNR column in a table of results, such as `Set5_psnr` or `PSNR Set5`."""
    found = {key: _PSNR.fullmatch(key.strip()) for row in rows for key in row}
    sets = {key: match[1] or match[2] for key, match in found.items() if match}
    return {name: key for key, name in sets.items() if name.lower() not in ("mean", "average", "avg")}


def _read_ranks(path: Path) -> list[RankedMask]:
    names, rows = read_table(path)
    if "mask" not in names:
        raise ValueError(f"{path}: has no column 'mask', got {names[:5]}; the first line names the columns")
    fields = ("p", "zero_shot_psnr", "recovered_psnr")
    return [
        RankedMask(row["mask"], *(number_in_cell(path, line, name, row.get(name, "")) for name in fields))
        for line, row in enumerate(rows, 2)
    ]


def _read_results(path: Path) -> list[Row]:
    _, rows = read_table(path)
    for line, row in enumerate(rows, 2):
        for name in ("params", "latency_ms", *psnr_columns(rows).values()):
            number_in_cell(path, line, name, row.get(name, ""))
    return rows


def _read_report(path: Path) -> dict[str, Any]:
    """Return the report as a dict, after checking the types that plots and page rely on."""
    try:
        report = json.loads(read_text(path))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}: is no JSON ({error}); mend the file") from error
    if not isinstance(report, dict):
        raise ValueError(f"{path}: expected an object, got {type(report).__name__}; is it the report of a search?")
    mask = report.get("mask")
    if not isinstance(mask, list) or not mask or any(bit not in (0, 1) for bit in mask):
        raise ValueError(f"{path}: mask: expected a list of 0 and 1, got {mask!r}; is it the report of a search?")
    resources = report["resources"] = report.get("resources") or {}
    if not isinstance(resources, dict) or not all(isinstance(value, dict) for value in resources.values()):
        raise ValueError(f"{path}: resources: expected an object of objects, got {resources!r}; mend the file")
    equality = report["equality"] = report.get("equality") or {}
    if not isinstance(equality, dict):
        raise ValueError(f"{path}: equality: expected an object, got {equality!r}; mend the file")
    report["mask"] = [int(bit) for bit in mask]
    report["ranking"] = report.get("ranking") or []
    for entry in report["ranking"]:
        if not isinstance(entry, dict) or not isinstance(entry.get("mask"), str) or "p" not in entry:
            raise ValueError(f"{path}: ranking: expected {{mask: bits, p: number}}, got {entry!r}; mend the file")
    return report


def _merged(ranking: Sequence[Mapping[str, Any]], measured: Sequence[RankedMask]) -> list[RankedMask]:
    """Return the masks of the report and of rank_masks.csv, best first; the probabilities of the report count."""
    masks = {mask.bits: mask for mask in measured}
    for entry in ranking:
        masks[entry["mask"]] = masks.get(entry["mask"], RankedMask(entry["mask"]))._replace(p=float(entry["p"]))
    return sorted(masks.values(), key=lambda mask: -mask.p if math.isfinite(mask.p) else math.inf)
