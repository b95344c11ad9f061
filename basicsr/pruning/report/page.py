"""The page of a search, `prune_report.html`: tables and plots in one file that needs no other."""

import base64
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

from basicsr.engine.atomic import write_atomically
from basicsr.engine.curves import Series
from basicsr.pruning.csv_file import to_number
from basicsr.pruning.report import mask_plots, result_plots, search_plots
from basicsr.pruning.report.drawing import RESOURCE_LABELS
from basicsr.pruning.report.read import RunMask, SearchRun, kept_text, read_curves, read_run

PAGE = "prune_report.html"
CAPTIONS = {
    "marginals": "Probability of keeping each group, over the iterations of the search.",
    "groups_over_time": "The same as a map, and below it the share of drawn masks that kept each group.",
    "costs": "Cost expected over all masks and cost of the most probable mask, against the budget.",
    "certainty": "Entropy of all masks, and probability of the best one: low and high after a decision.",
    "ranking": "The most probable masks at the end of the search, with their PSNR where it was measured.",
    "runs": "Groups that searches with other seeds or samplers keep: agreement shows as full columns.",
    "tradeoff": "Quality against size and time for the rows of the table of results; bars span the seeds.",
    "finetune_losses": "Losses while the compact network is fine-tuned; one steps up or down where its weight does.",
    "recovery": "PSNR of each mask right after the removal and after a short training; the latter decides.",
}
"""Name of each plot -> caption, in the order of the page."""
Plot = Callable[[Path], bool]
"""Draws to a path; returns False, without a file, if there is no data."""
STYLE = """
:root { color-scheme: light dark; --back: #fff; --text: #1b1f24; --soft: #59636e; --line: #d1d9e0; --card: #f6f8fa;
  --accent: #0072b2; }
@media (prefers-color-scheme: dark) { :root { --back: #14181d; --text: #e6e9ec; --soft: #a3adb8; --line: #39424c;
  --card: #1d2329; --accent: #3d9bd6; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 66rem; padding: 1rem; background: var(--back); color: var(--text);
  font: 1rem/1.5 system-ui, sans-serif; overflow-wrap: anywhere; }
h1 { font-size: 1.5rem; margin: .5rem 0; } h2 { font-size: 1.15rem; margin: 2rem 0 .5rem; }
.soft, figcaption { color: var(--soft); } .scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; overflow-wrap: normal; }
th, td { padding: .3rem .7rem; border-bottom: 1px solid var(--line); text-align: left; vertical-align: top; }
th { white-space: nowrap; } td.number, th.number { text-align: right; white-space: nowrap; }
tr.chosen td { background: var(--card); font-weight: 600; }
.mask { display: flex; flex-wrap: wrap; gap: .4rem; list-style: none; margin: 1rem 0 .5rem; padding: 0; }
.mask li { min-width: 2.8rem; padding: .6rem .4rem; border: 2px dashed var(--line); border-radius: .4rem;
  text-align: center; color: var(--soft); }
.mask li.kept { border: 2px solid var(--accent); background: var(--accent); color: var(--back); font-weight: 700; }
figure { margin: 1.5rem 0; } img { max-width: 100%; height: auto; background: #fff; border-radius: .4rem; }
details { margin: .5rem 0; } pre { overflow-x: auto; padding: .7rem; background: var(--card); font-size: .8rem; }
"""


class Picture(NamedTuple):
    """A plot on the page."""

    path: Path
    caption: str


def build_report(
    folder: str | Path,
    runs: Sequence[str | Path] = (),
    finetune: Sequence[str | Path] = (),
    results: str | Path | None = None,
    output: str | Path | None = None,
) -> Path:
    """Write plots/*.png, their data as CSV and `prune_report.html` for a search run; return the path of the page.

    Args:
        folder: of the search run.
        runs: folders of further searches to compare it with.
        finetune: folders of fine-tuning runs, whose text logs give the loss curves.
        results: table of results; None: `results.csv` in `folder`, if it exists.
        output: folder to write to; None: `folder`.

    Raises:
        FileNotFoundError: when an input is missing.
        ValueError: when an input is malformed.
    """
    run = read_run(folder, results)
    others = [read_run(other).decision for other in runs if Path(other).resolve() != Path(folder).resolve()]
    curves = {Path(tuned).resolve().name: read_curves(Path(tuned)) for tuned in finetune}
    output = Path(folder if output is None else output)
    plots = _plots(run, [run.decision, *others], curves)
    paths = {name: output / "plots" / f"{name}.png" for name in CAPTIONS}
    drawn = [name for name in CAPTIONS if plots[name](paths[name])]
    return write_html(output, run, [Picture(paths[name], CAPTIONS[name]) for name in drawn])


def _plots(run: SearchRun, runs: Sequence[RunMask], curves: Mapping[str, Mapping[str, Series]]) -> dict[str, Plot]:
    """Return the functions that draw the plots of the page, by the keys of `CAPTIONS`."""
    return {
        "marginals": partial(search_plots.plot_marginals, run.log, bits=run.bits),
        "groups_over_time": partial(search_plots.plot_group_maps, run.log),
        "costs": partial(search_plots.plot_costs, run.log, limits=run.limits),
        "certainty": partial(search_plots.plot_certainty, run.log),
        "ranking": partial(mask_plots.plot_ranking, run.masks, chosen=run.bits),
        "runs": partial(mask_plots.plot_runs, runs),
        "tradeoff": partial(result_plots.plot_tradeoff, run.results, limits=run.limits),
        "finetune_losses": partial(result_plots.plot_losses, curves),
        "recovery": partial(mask_plots.plot_recovery, run.masks, chosen=run.bits),
    }


def write_html(folder: str | Path, run: SearchRun, pictures: Sequence[Picture] = ()) -> Path:
    """Write `prune_report.html` into `folder`, one file that needs no other; return its path."""
    report, words = run.report, ["kept" if bit == "1" else "dropped" for bit in run.bits]
    state = "" if report else f"The search is under way: this is its state at iteration {run.log['iter'][-1]:,}. "
    original = report.get("kept_original", report.get("kept"))
    source = "" if original == report.get("kept") else f" They are groups {original} of the network that was cut first."
    groups = (f'<li class="{word}" title="group {i}: {word}">{i}</li>' for i, word in enumerate(words))
    parts = [
        f"<h1>Pruning report: {escape(run.name)}</h1>",
        f"<p>{state}The mask keeps {words.count('kept')} of {len(words)} groups: {kept_text(run.bits) or 'none'}."
        f"{source}</p>",
        f'<ol class="mask" aria-label="groups of the network">{"".join(groups)}</ol>',
        '<p class="soft">Filled: kept. Dashed: dropped. Groups are numbered from 0, from input to output.</p>',
        *_tables(run),
        "<h2>Plots</h2>" if pictures else "",
        *map(_figure, pictures),
        *(_folded(name, report[name]) for name in ("teacher", "seeds", "versions", "options") if report.get(name)),
    ]
    page = Path(folder) / PAGE
    write_atomically(
        page,
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>Pruning report: {escape(run.name)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n"
        + "\n".join(part for part in parts if part)
        + "\n</body>\n</html>\n",
    )
    return page


def _tables(run: SearchRun) -> Iterator[str]:
    """Yield the tables of the page; empty text for a table without rows."""
    costs = [
        [
            RESOURCE_LABELS.get(key, key),
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
        if place <= mask_plots.TOP_MASKS or mask.bits == run.bits
    ]
    head = ["place", "mask", "kept groups", "p", "zero-shot PSNR (dB)", "recovered PSNR (dB)"]
    yield _table("Best masks", head, ranking, run.bits)
    tried = [
        [
            one["mask"],
            kept_text(one["mask"]),
            _fixed(one["p"], 4),
            _fixed(one["psnr_before"], 3),
            _fixed(one["psnr_after"], 3),
        ]
        for one in run.report.get("tried", ())
    ]
    head = ["mask", "kept groups", "p", "PSNR before (dB)", "PSNR after (dB)"]
    yield _table("Masks tried by a short fine-tuning", head, tried, run.bits)
    yield _table("Results", list(run.results[0]) if run.results else [], [[*row.values()] for row in run.results])
    equality = [[*pair] for pair in run.report.get("equality", {}).items()]
    dtype = run.report.get("equality_dtype")
    title = f"Masked against compact network{f', {dtype}' if dtype else ''}"
    yield _table(title, ["input shape", "largest difference"], equality)


def _table(title: str, head: Sequence[str], rows: Sequence[Sequence[Any]], chosen: str = "") -> str:
    """Return a heading and a table, numbers right-aligned, the row of `chosen` marked; "" without rows."""
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
        to_number(value)
    except (TypeError, ValueError):
        return False
    return True


def _text(value: Any) -> str:
    """Return a value as HTML: 216,515 and 27.1 and 1e-07; – if unknown."""
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
