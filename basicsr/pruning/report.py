"""What a search for the groups to keep leaves behind: its log as CSV, and pictures and a page made from it.

Files of a search run, experiments/<name>/: `mask_log.csv` and `prune_report.json`, and where somebody made them
`rank_masks.csv` (PSNR of every mask) and `results.csv` (rows of the table of results).
"""

import base64
import csv
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

from basicsr.engine.atomic import atomic_path
from basicsr.engine.curves import read_logs
from basicsr.pruning import plots as plots
from basicsr.pruning.plots import Columns, RankedMask, RunMask, kept_text, number

LOG, REPORT, RANKS, RESULTS, PAGE = (
    "mask_log.csv", "prune_report.json", "rank_masks.csv", "results.csv", "prune_report.html",
)  # fmt: skip
TEXT_COLUMNS = ("phase", "mode", "drawn", "kept")  # bit strings are no numbers
CRITERIA = {
    "C1": "parameters of the compact network at x2",
    "C2": "quality, comparable: mean PSNR of Set5, Set14, B100, Urban100 against CATANet-S",
    "C2+": "quality, better: the same mean, Urban100 and Manga109 against CATANet-S",
    "C3": "speed: median latency over that of CATANet-S",
    "C4": "real time: median latency at the stated operating point (ms)",
    "C5": "compaction: largest difference between masked and compact network",
    "C6": "mobile: largest difference of the exported model's output",
    "C7": "generality: ATD-light goes through the same steps",
}
STYLE = """
:root { color-scheme: light dark; --back: #fff; --text: #1b1f24; --soft: #59636e; --line: #d1d9e0; --card: #f6f8fa;
  --accent: #0072b2; --good: #006f51; --bad: #b34700; }
@media (prefers-color-scheme: dark) { :root { --back: #14181d; --text: #e6e9ec; --soft: #a3adb8; --line: #39424c;
  --card: #1d2329; --accent: #3d9bd6; --good: #3cc79d; --bad: #ff9a52; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 66rem; padding: 1rem; background: var(--back); color: var(--text);
  font: 1rem/1.5 system-ui, sans-serif; overflow-wrap: anywhere; }
h1 { font-size: 1.5rem; margin: .5rem 0; } h2 { font-size: 1.15rem; margin: 2rem 0 .5rem; }
.soft, figcaption { color: var(--soft); } .scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; overflow-wrap: normal; }
th, td { padding: .3rem .7rem; border-bottom: 1px solid var(--line); text-align: left; vertical-align: top; }
th { white-space: nowrap; } td.number, th.number { text-align: right; white-space: nowrap; }
tr.chosen td { background: var(--card); font-weight: 600; }
.pass { color: var(--good); font-weight: 600; } .fail { color: var(--bad); font-weight: 600; }
.mask { display: flex; flex-wrap: wrap; gap: .4rem; list-style: none; margin: 1rem 0 .5rem; padding: 0; }
.mask li { min-width: 2.8rem; padding: .6rem .4rem; border: 2px dashed var(--line); border-radius: .4rem;
  text-align: center; color: var(--soft); }
.mask li.kept { border: 2px solid var(--accent); background: var(--accent); color: var(--back); font-weight: 700; }
figure { margin: 1.5rem 0; } img { max-width: 100%; height: auto; background: #fff; border-radius: .4rem; }
details { margin: .5rem 0; } pre { overflow-x: auto; padding: .7rem; background: var(--card); font-size: .8rem; }
"""


class Markup(NamedTuple):
    """A cell that is HTML already."""

    html: str


VERDICTS = {
    True: Markup('<span class="pass">✓ pass</span>'),
    False: Markup('<span class="fail">✗ fail</span>'),
    None: Markup("not measured"),
}


class MaskLog:
    """Appends rows to a CSV file that can be read, resumed and killed at any time.

    Args:
        path: of the file; an existing one is continued, without the half line that a killed run left.
        fields: first columns of a new file. Without them, and after them, the first row decides. A key that comes
            later becomes a new last column, empty in the rows before.
    """

    def __init__(self, path: str | Path, fields: Sequence[str] = ()):
        self.path = Path(path)
        self._fields, self._columns = list(fields), list[str]()

    def append(self, row: Mapping[str, float | str]) -> None:
        """Write one row; columns that it lacks stay empty.

        Raises:
            ValueError: when the row has no `iter`, or the file that is continued is damaged.
        """
        if "iter" not in row:
            raise ValueError(f"iter: is missing from the row for {self.path}, got {list(row)}; add the iteration")
        columns = list(dict.fromkeys([*self._columns, *self._fields, *row]))
        if columns != self._columns:
            old, rows = _table_of(self.path, whole=False) if self.path.exists() else ([], [])
            self._columns = list(dict.fromkeys([*old, *columns]))
            self._write(rows)
        with self.path.open("a", newline="", encoding="utf-8") as file:
            csv.writer(file, lineterminator="\n").writerow([_cell(row.get(name, "")) for name in self._columns])

    def truncate(self, after_iter: int) -> None:
        """Drop the rows after an iteration, which a run resumed from there writes again; the file is whole throughout.

        Raises:
            ValueError: when the file is damaged.
        """
        if self.path.exists():
            columns = read_mask_log(self.path)
            self._columns, rows = _table_of(self.path, whole=False)
            self._write([row for row, it in zip(rows, columns.get("iter", ()), strict=True) if it <= after_iter])

    def _write(self, rows: Iterable[Mapping[str, str]]) -> None:
        with atomic_path(self.path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, self._columns, restval="", lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)


def read_mask_log(path: str | Path) -> Columns:
    """The columns of a `MaskLog`: `iter` as int, phase and masks as text, all else as float (empty: nan).

    A last line without its end, as a killed run leaves it, is not read.

    Raises:
        FileNotFoundError: when there is no such file.
        ValueError: when a line has too few or too many cells, or no number where one belongs.
    """
    names, rows = _table_of(path, whole=False)
    if names and "iter" not in names:
        raise ValueError(f"{path}: has no column 'iter', got {names[:5]}; is it the log of a search?")
    columns: Columns = {name: [] for name in names}
    for line, row in enumerate(rows, 2):
        for name, cell in row.items():
            columns[name].append(cell if name in TEXT_COLUMNS else _number(path, line, name, cell))
        if not math.isfinite(columns["iter"][-1]):
            raise ValueError(f"{path}: line {line}: iter is missing; delete the line")
        columns["iter"][-1] = int(columns["iter"][-1])
    return columns


@dataclass(frozen=True)
class SearchRun:
    """What is known of a search."""

    name: str
    bits: str  # the chosen mask, or while the search is under way the most probable one
    log: Columns = field(default_factory=dict)
    report: Mapping[str, Any] = field(default_factory=dict)
    masks: Sequence[RankedMask] = ()
    results: Sequence[Mapping[str, str]] = ()

    @property
    def limits(self) -> dict[str, float]:
        """Budgets by resource."""
        resources = self.report.get("resources", {}).items()
        return {name: cost["limit"] for name, cost in resources if cost.get("limit") is not None}

    @property
    def decision(self) -> RunMask:
        """The mask, and the probability of each group to stay (without any: the mask itself)."""
        pi = self.report.get("pi") or plots.group_columns(self.log, "pi")[-1:].ravel().tolist()
        return RunMask(self.name, pi or [float(bit) for bit in self.bits], self.bits)


class Picture(NamedTuple):
    """A plot on the page."""

    path: Path
    caption: str


def read_run(folder: str | Path, results: str | Path | None = None) -> SearchRun:
    """Read a search run, finished or not.

    Args:
        folder: of the run.
        results: table of results; None: `results.csv` in the folder, if there is one.

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
    bits = "".join(map(str, report["mask"])) if report else modes[-1]
    return SearchRun(
        name=folder.resolve().name, bits=bits, log=log, report=report, masks=_merged(report.get("ranking", []), ranks),
        results=_read_results(Path(found)) if found else (),
    )  # fmt: skip


def build_report(
    folder: str | Path,
    runs: Sequence[str | Path] = (),
    finetune: Sequence[str | Path] = (),
    results: str | Path | None = None,
    output: str | Path | None = None,
) -> Path:
    """Write plots/*.png, their data as CSV and `prune_report.html` for a search run; returns the page's path.

    Args:
        folder: of the search run.
        runs: folders of further searches to compare it with.
        finetune: folders of fine-tuning runs, whose text logs give the loss curves.
        results: table of results; None: `results.csv` in `folder`, if there is one.
        output: folder to write to; None: `folder`.

    Raises:
        FileNotFoundError: when an input is missing.
        ValueError: when an input is malformed.
    """
    run = read_run(folder, results)
    others = [read_run(other).decision for other in runs if Path(other).resolve() != Path(folder).resolve()]
    curves = {Path(tuned).resolve().name: _read_curves(Path(tuned)) for tuned in finetune}
    output = Path(folder if output is None else output)
    drawn: list[tuple[str, Callable[[Path], bool], str]] = [
        ("marginals", partial(plots.plot_marginals, run.log, bits=run.bits),
         "Probability of each group to stay, over the iterations of the search."),
        ("groups_over_time", partial(plots.plot_group_maps, run.log),
         "The same as a map, and below it how often the masks that were drawn kept each group."),
        ("costs", partial(plots.plot_costs, run.log, limits=run.limits),
         "Cost expected over all masks and cost of the most probable mask, against the budget."),
        ("certainty", partial(plots.plot_certainty, run.log),
         "Entropy of the distribution over masks and probability of the best: a search that decides ends low, high."),
        ("ranking", partial(plots.plot_ranking, run.masks, chosen=run.bits),
         "The most probable masks at the end of the search, with the PSNR measured for them where it is known."),
        ("runs", partial(plots.plot_runs, [run.decision, *others]),
         "Groups that searches with other seeds or samplers keep: agreement shows as full columns."),
        ("tradeoff", partial(plots.plot_tradeoff, run.results, limits=run.limits),
         "Quality against size and time for the rows of the table of results; bars span the seeds."),
        ("finetune_losses", partial(plots.plot_losses, curves),
         "Losses while the compact network is fine-tuned; one steps up or down where its weight does."),
        ("recovery", partial(plots.plot_recovery, run.masks, chosen=run.bits),
         "PSNR of each mask right after the removal and after a short training, which is what counts."),
    ]  # fmt: skip
    paths = {name: output / "plots" / f"{name}.png" for name, _, _ in drawn}
    return write_html(
        output, run, [Picture(paths[name], caption) for name, draw, caption in drawn if draw(paths[name])]
    )


def write_html(folder: str | Path, run: SearchRun, pictures: Sequence[Picture] = ()) -> Path:
    """Write `prune_report.html` into `folder`, one file that needs no other; returns its path."""
    report, words = run.report, ["kept" if bit == "1" else "dropped" for bit in run.bits]
    state = "" if report else f"The search is under way: this is its state at iteration {run.log['iter'][-1]:,}. "
    groups = (f'<li class="{word}" title="group {i}: {word}">{i}</li>' for i, word in enumerate(words))
    parts = [
        f"<h1>Pruning report: {escape(run.name)}</h1>",
        f"<p>{state}The mask keeps {words.count('kept')} of {len(words)} groups: {kept_text(run.bits) or 'none'}.</p>",
        f'<ol class="mask" aria-label="groups of the network">{"".join(groups)}</ol>',
        '<p class="soft">Filled: kept. Dashed: dropped. Groups are numbered from 0, from input to output.</p>',
        *_tables(run),
        "<h2>Plots</h2>" if pictures else "",
        *map(_figure, pictures),
        *(_folded(name, report[name]) for name in ("teacher", "seeds", "versions", "options") if report.get(name)),
    ]
    page = Path(folder) / PAGE
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text(
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>Pruning report: {escape(run.name)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n"
        + "\n".join(part for part in parts if part) + "\n</body>\n</html>\n",
        encoding="utf-8",
    )  # fmt: skip
    return page


def _tables(run: SearchRun) -> Iterator[str]:
    """The tables of the page; one without rows is empty text."""
    criteria = [
        [key, CRITERIA.get(key), c.get("value"), c.get("threshold"), VERDICTS.get(c.get("passed")), c.get("note")]
        for key, c in run.report.get("criteria", {}).items()
    ]
    yield _table("Criteria", ["id", "criterion", "value", "threshold", "verdict", "note"], criteria)
    costs = [
        [
            plots.RESOURCES.get(key, key),
            *map(c.get, ("full", "kept")),
            _percent(c.get("kept"), c.get("full")),
            c.get("limit"),
        ]
        for key, c in run.report.get("resources", {}).items()
    ]
    yield _table("Cost", ["resource", "full network", "compact network", "share (%)", "budget"], costs)
    ranking = [
        [
            place,
            mask.bits,
            kept_text(mask.bits),
            _fixed(mask.p, 4),
            _fixed(mask.zero_shot, 2),
            _fixed(mask.recovered, 2),
        ]
        for place, mask in enumerate(run.masks, 1)
        if place <= plots.TOP or mask.bits == run.bits
    ]
    head = ["place", "mask", "kept groups", "p", "zero-shot PSNR (dB)", "recovered PSNR (dB)"]
    yield _table("Best masks", head, ranking, run.bits)
    yield _table("Results", list(run.results[0]) if run.results else [], [[*row.values()] for row in run.results])
    equality = [[*pair] for pair in run.report.get("equality", {}).items()]
    yield _table("Masked against compact network", ["input shape", "largest difference"], equality)


def _table(title: str, head: Sequence[str], rows: Sequence[Sequence[Any]], chosen: str = "") -> str:
    """A heading and a table, numbers to the right, the row that holds `chosen` marked; nothing without rows."""
    if not rows:
        return ""
    sides = [' class="number"' if all(map(_is_number, column)) else "" for column in zip(*rows, strict=True)]
    lines = ["".join(f"<th{side}>{escape(name)}</th>" for side, name in zip(sides, head, strict=True))]
    lines += ["".join(f"<td{side}>{_text(value)}</td>" for side, value in zip(sides, row, strict=True)) for row in rows]
    marks = ["", *(' class="chosen"' if chosen and chosen in row else "" for row in rows)]
    body = "\n".join(f"<tr{mark}>{line}</tr>" for mark, line in zip(marks, lines, strict=True))
    return f'<h2>{escape(title)}</h2>\n<div class="scroll"><table>\n{body}\n</table></div>'


def _folded(name: str, content: Any) -> str:
    text = json.dumps(content, indent=2, ensure_ascii=False)
    return f"<details><summary>{escape(name.capitalize())}</summary><pre>{escape(text)}</pre></details>"


def _percent(part: float | None, whole: float | None) -> float | None:
    return 100 * part / whole if part is not None and whole else None


def _fixed(value: float, digits: int) -> str:
    return f"{value:.{digits}f}" if math.isfinite(value) else ""


def _is_number(value: Any) -> bool:
    try:
        number(value)
    except (TypeError, ValueError):
        return False
    return True


def _text(value: Any) -> str:
    """A value as HTML: 216,515 and 27.1 and 1e-07; – for what is not known."""
    if isinstance(value, Markup):
        return value.html
    if value in (None, "") or (isinstance(value, float) and math.isnan(value)):
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int | float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    return escape(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))


def _figure(picture: Picture) -> str:
    data = base64.b64encode(picture.path.read_bytes()).decode()
    caption = escape(picture.caption)
    return (
        f'<figure><img alt="{caption}" src="data:image/png;base64,{data}">\n<figcaption>{caption}</figcaption></figure>'
    )


def _cell(value: float | str) -> str:
    return value if isinstance(value, str) else str(int(value)) if isinstance(value, int) else f"{float(value):.9g}"


def _number(path: str | Path, line: int, name: str, cell: str) -> float:
    try:
        return number(cell)
    except ValueError as error:
        raise ValueError(f"{path}: line {line}: {name}: expected a number, got {cell!r}; mend the file") from error


def _read(path: str | Path) -> str:
    try:
        return Path(path).read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{path}: no such file; check the path") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: is no UTF-8 text; check that it is the right file") from error


def _table_of(path: str | Path, whole: bool = True) -> tuple[list[str], list[dict[str, str]]]:
    """Header and rows of a CSV file; not `whole`: without what follows the last line end."""
    text = _read(path)
    lines = (text if whole else text[: text.rfind("\n") + 1]).splitlines()
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


def _read_ranks(path: Path) -> list[RankedMask]:
    names, rows = _table_of(path)
    if "mask" not in names:
        raise ValueError(f"{path}: has no column 'mask', got {names[:5]}; the first line names the columns")
    fields = ("p", "zero_shot_psnr", "recovered_psnr")
    return [RankedMask(row["mask"], *(_number(path, line, name, row.get(name, "")) for name in fields))
            for line, row in enumerate(rows, 2)]  # fmt: skip


def _read_results(path: Path) -> list[dict[str, str]]:
    _, rows = _table_of(path)
    for line, row in enumerate(rows, 2):
        for name in ("params", "latency_ms", *plots.psnr_columns(rows).values()):
            _number(path, line, name, row.get(name, ""))
    return rows


def _read_curves(folder: Path) -> dict[str, plots.Series]:
    logs = list(folder.glob("train_*.log"))
    if not logs:
        raise FileNotFoundError(f"{folder}: has no train_*.log; name the folder of a training run")
    return read_logs(logs)


def _read_report(path: Path) -> dict[str, Any]:
    """The report as a dict whose parts have the types that plots and page rely on."""
    try:
        report = json.loads(_read(path))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}: is no JSON ({error}); mend the file") from error
    if not isinstance(report, dict):
        raise ValueError(f"{path}: expected an object, got {type(report).__name__}; is it the report of a search?")
    mask = report.get("mask")
    if not isinstance(mask, list) or not mask or any(bit not in (0, 1) for bit in mask):
        raise ValueError(f"{path}: mask: expected a list of 0 and 1, got {mask!r}; is it the report of a search?")
    for key in ("resources", "criteria", "equality"):
        entries = report.get(key) or {}
        if not isinstance(entries, dict) or (
            key != "equality" and not all(isinstance(v, dict) for v in entries.values())
        ):
            raise ValueError(f"{path}: {key}: expected an object of objects, got {entries!r}; mend the file")
        report[key] = entries
    report["mask"] = [int(bit) for bit in mask]
    report["ranking"] = report.get("ranking") or []
    for entry in report["ranking"]:
        if not isinstance(entry, dict) or not isinstance(entry.get("mask"), str) or "p" not in entry:
            raise ValueError(f"{path}: ranking: expected {{mask: bits, p: number}}, got {entry!r}; mend the file")
    return report


def _merged(ranking: Sequence[Mapping[str, Any]], measured: Sequence[RankedMask]) -> list[RankedMask]:
    """Masks of the report and of rank_masks.csv, best first; the report's probabilities count."""
    masks = {mask.bits: mask for mask in measured}
    for entry in ranking:
        masks[entry["mask"]] = masks.get(entry["mask"], RankedMask(entry["mask"]))._replace(p=float(entry["p"]))
    return sorted(masks.values(), key=lambda mask: -mask.p if math.isfinite(mask.p) else math.inf)
