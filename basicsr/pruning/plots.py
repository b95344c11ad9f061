"""Pictures of a search for the groups to keep: what it drew and chose, what that costs and what it is worth.

Each function writes a PNG of 1000 px width and its data as CSV of the same stem beside it, and returns True; without
its data it writes nothing and returns False. Groups are numbered from 0; PSNR is in dB.
"""

import csv
import math
import re
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from itertools import count, groupby, pairwise, takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from basicsr.engine.curves import Series, smooth_data

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Columns = dict[str, list[Any]]
"""Name of a column of `mask_log.csv` -> its values, a row for each `print_freq` iterations."""

# Okabe and Ito, which the colour-blind can tell apart; gray in place of yellow, which is too pale for lines on white.
BLUE, VERMILION, GREEN, PURPLE, ORANGE = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00"
COLORS = (BLUE, VERMILION, GREEN, PURPLE, ORANGE, "#56B4E9", "#000000", "#999999")
LINES = ("-", "--", ":", "-.")
MARKERS = "osD^vPX*"
PHASES = {"warmup": "#F6EBD3", "search": "#FFFFFF", "settle": "#CFE5F5", "done": "#E4DDEE"}
RESOURCES = {
    "blocks": "groups", "params": "parameters", "macs_g": "multiply-adds (G)", "latency_ms": "latency (ms)",
}  # fmt: skip
MEAN_SETS = ("Set5", "Set14", "B100", "Urban100")  # whose mean decides about quality, where all of them are known
WIDTH_IN, DPI, BINS, TOP, FEW_GROUPS = 8.4, 120, 50, 20, 12
NAME_LETTERS, LEGEND_LETTERS = 40, 105  # of a name before it is wrapped, and of all names in a line of a legend
_PSNR = re.compile(r"(?:(.+?)[ _/-]+psnr(?:[ _-]?y)?|psnr(?:[ _-]?y)?[ _/-]+(.+))", re.IGNORECASE)


class RankedMask(NamedTuple):
    """One mask, and what is known of it; nan: unknown."""

    bits: str  # "10010001": 1 for each group that stays
    p: float = math.nan  # probability at the end of the search
    zero_shot: float = math.nan  # PSNR right after the removal
    recovered: float = math.nan  # PSNR after a short training


class RunMask(NamedTuple):
    """What one run decided."""

    name: str
    pi: Sequence[float]  # probability of each group to stay
    bits: str


def kept_text(bits: str) -> str:
    """The groups that a mask keeps: "0, 3, 7" for "10010001"."""
    return ", ".join(str(i) for i, bit in enumerate(bits) if bit == "1")


def group_columns(log: Columns, name: str) -> np.ndarray:
    """(rows, N) values of the columns `name_0`, `name_1`, ...; (rows, 0) when they are not there or empty."""
    names = list(takewhile(log.__contains__, (f"{name}_{i}" for i in count())))
    rows = len(log.get("iter", ()))
    values = np.array([log[column] for column in names], dtype=float).reshape(len(names), rows).T
    return values if np.isfinite(values).any() else np.empty((rows, 0))


def number(text: Any) -> float:
    """The number that a cell of a table holds; nan for nothing, "-" and "?".

    Raises:
        ValueError: for any other text.
    """
    return math.nan if str(text).strip() in ("", "-", "–", "?", "None") else float(text)


def plot_marginals(log: Columns, path: Path, bits: str = "") -> bool:
    """Probability of each group to stay over the iterations; the groups that `bits` keeps are drawn thick."""
    pi = group_columns(log, "pi")
    if not pi.size:
        return False
    few = pi.shape[1] <= FEW_GROUPS
    figure = _figure("Probability of each group to stay", 4.6 if few else 5.4 + 0.05 * pi.shape[1])
    axes = figure.subplots()
    handles: list[Artist] = []
    for i, values in enumerate(pi.T):
        kept = bits[i : i + 1] == "1"
        handles += axes.plot(
            log["iter"], values, LINES[i // len(COLORS) % len(LINES)], color=COLORS[i % len(COLORS)],
            linewidth=2.8 if kept else 1.2, marker=_marker(log), label=f"group {i}, kept" if kept else f"group {i}",
        )  # fmt: skip
    axes.set(ylabel="probability", ylim=(-0.03, 1.03))
    _iterations(axes)
    handles += _shade([axes], log)
    figure.legend(handles=handles, loc="outside right upper" if few else "outside lower center", ncols=1 if few else 5)
    return _save(figure, path, _log_table(log, [f"pi_{i}" for i in range(pi.shape[1])]))


def plot_group_maps(log: Columns, path: Path) -> bool:
    """Heat maps, groups x time: probability to stay, and share of the drawn masks that keep the group, in bins."""
    maps = {"probability to stay": group_columns(log, "pi"), "share of drawn masks": group_columns(log, "drawn")}
    maps = {title: values for title, values in maps.items() if values.size}
    if not maps:
        return False
    edges = np.array([_start(log), *log["iter"]], dtype=float)
    parts = np.array_split(np.arange(len(log["iter"])), min(BINS, len(log["iter"])))
    borders = edges[[0, *(part[-1] + 1 for part in parts)]]
    groups = next(iter(maps.values())).shape[1]
    figure = _figure("Groups over time", (0.9 + min(max(1.3, 0.2 * groups), 3)) * len(maps) + 0.6)
    grid = figure.subplots(len(maps), 1, sharex=True, squeeze=False)[:, 0]
    table: list[list[Any]] = [["from_iter", "to_iter"], *map(list, pairwise(borders))]
    for axes, (title, values) in zip(grid, maps.items(), strict=True):
        binned = np.stack([_mean(values[part], axis=0) for part in parts])
        mesh = axes.pcolormesh(borders, np.arange(groups + 1) - 0.5, binned.T, cmap="cividis", vmin=0, vmax=1)
        axes.set_title(title, loc="left", fontsize="medium")
        axes.set(ylabel="group", yticks=range(0, groups, 1 + groups // 16))
        axes.invert_yaxis()
        for line, row in zip(table, [[f"{title} {i}" for i in range(groups)], *binned.tolist()], strict=True):
            line += row
    _iterations(grid[-1])
    figure.colorbar(mesh, ax=list(grid), label="0: always dropped, 1: always kept", aspect=30, pad=0.02)
    return _save(figure, path, table)


def plot_costs(log: Columns, path: Path, limits: Mapping[str, float] | None = None) -> bool:
    """Expected cost and that of the most probable mask over the iterations, a panel for each resource, with budget."""
    limits = limits or {}
    names = [name for name in (key[2:] for key in log if key.startswith("E_")) if np.isfinite(log[f"E_{name}"]).any()]
    if not names:
        return False
    figure = _figure("Cost of the network", 1.9 * len(names) + 0.9)
    grid = figure.subplots(len(names), 1, sharex=True, squeeze=False)[:, 0]
    handles: dict[str, Artist] = {}
    for axes, name in zip(grid, names, strict=True):
        mode = log.get(f"mode_{name}", [math.nan] * len(log["iter"]))
        curves = axes.plot(log["iter"], log[f"E_{name}"], color=BLUE, marker=_marker(log), label="expected", zorder=3)
        curves += axes.step(
            log["iter"], mode, where="pre", color=ORANGE, linewidth=4, marker=_marker(log), label="most probable mask"
        )  # fmt: skip
        values = [*mode, *log[f"E_{name}"]]
        if name in limits:
            curves.append(axes.axhline(limits[name], color="black", linestyle="--", label="budget", zorder=4))
            values.append(limits[name])
        handles |= {str(curve.get_label()): curve for curve in curves}
        axes.set(ylabel=RESOURCES.get(name, name), ylim=(0, 1.12 * _largest(values)))
        axes.yaxis.set_major_formatter("{x:,g}")
        axes.grid(alpha=0.3)
    _iterations(grid[-1])
    figure.align_ylabels()
    figure.legend(handles=list(handles.values()), loc="outside lower center", ncols=len(handles))
    table = _log_table(log, [f"{kind}_{name}" for name in names for kind in ("E", "mode")])
    for name in (name for name in names if name in limits):
        for line, value in zip(table, [f"budget_{name}", *[limits[name]] * (len(table) - 1)], strict=True):
            line.append(value)
    return _save(figure, path, table)


def plot_certainty(log: Columns, path: Path) -> bool:
    """Entropy of the distribution over masks, and the probability of the best one, over the iterations."""
    panels = {"entropy": "entropy of the masks (nats)", "p_max": "largest probability"}
    panels = {key: label for key, label in panels.items() if np.isfinite(log.get(key, [math.nan])).any()}
    if not panels:
        return False
    figure = _figure("How sure the search is", 2.2 * len(panels) + 0.9)
    grid = figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0]
    for axes, (key, label) in zip(grid, panels.items(), strict=True):
        axes.plot(log["iter"], log[key], color=BLUE, linewidth=2, marker=_marker(log))
        axes.set(ylabel=label, ylim=(0, 1.03 if key == "p_max" else 1.08 * _largest(log[key])))
    _iterations(grid[-1])
    figure.align_ylabels()
    if phases := _shade(grid, log):
        figure.legend(handles=phases, loc="outside lower center", ncols=len(phases))
    return _save(figure, path, _log_table(log, list(panels)))


def plot_ranking(masks: Sequence[RankedMask], path: Path, chosen: str = "") -> bool:
    """Bars of the probabilities of the best 20 masks, with kept groups and, where known, PSNR."""
    best = sorted((mask for mask in masks if math.isfinite(mask.p)), key=lambda mask: -mask.p)[:TOP]
    if not best:
        return False
    figure = _figure("Most probable masks", 1.3 + 0.26 * max(len(best), 3))
    axes = figure.subplots()
    for mine, color, label in ((True, VERMILION, "chosen mask"), (False, BLUE, "other masks")):
        bars = [(place, mask.p) for place, mask in enumerate(best) if (mask.bits == chosen) == mine]
        if bars:
            places, probabilities = zip(*bars, strict=True)
            axes.barh(places, probabilities, height=0.7, color=color, label=label)
    axes.set(xlabel="probability", ylim=(len(best) - 0.4, -0.6))
    axes.set_ylabel("kept groups", labelpad=8)
    axes.set_yticks(range(len(best)), [kept_text(mask.bits) or "none" for mask in best], fontsize="small")
    titles = {"p": "p", "zero_shot": "zero-shot\nPSNR (dB)", "recovered": "recovered\nPSNR (dB)"}
    for column, (name, title) in enumerate(titles.items()):
        values = [getattr(mask, name) for mask in best]
        if np.isfinite(values).any():
            texts = ["–" if math.isnan(value) else f"{value:.{2 if column else 3}f}" for value in values]
            _write_column(axes, 36 + 62 * column, title, texts)
    axes.grid(axis="x", alpha=0.3)
    figure.legend(loc="outside lower center", ncols=2)
    rows = [[mask.bits, kept_text(mask.bits), *map(_blank, mask[1:])] for mask in best]
    return _save(figure, path, [["mask", "kept", "p", "zero_shot_psnr", "recovered_psnr"], *rows])


def plot_runs(runs: Sequence[RunMask], path: Path) -> bool:
    """Heat map, runs x groups, of the probability to stay at the end; what a run keeps is framed.

    Raises:
        ValueError: when the runs are about different numbers of groups.
    """
    if len(runs) < 2:
        return False
    groups = len(runs[0].bits)
    for run in runs:
        if len(run.bits) != groups or len(run.pi) != groups:
            raise ValueError(
                f"runs: {run.name} has {len(run.bits)} groups, {runs[0].name} has {groups}; compare runs of one network"
            )
    from matplotlib.patches import Rectangle

    figure = _figure("Groups that the runs keep", 1.7 + 0.42 * len(runs))
    axes, frame = figure.subplots(), 3 if groups <= FEW_GROUPS else 1.5
    image = axes.imshow([run.pi for run in runs], cmap="cividis", vmin=0, vmax=1, aspect="auto")
    for y, run in enumerate(runs):
        for x, (pi, bit) in enumerate(zip(run.pi, run.bits, strict=True)):
            if bit == "1":
                axes.add_patch(
                    Rectangle((x - 0.45, y - 0.42), 0.9, 0.84, fill=False, edgecolor=VERMILION, linewidth=frame)
                )
            if groups <= FEW_GROUPS:
                axes.text(x, y, f"{pi:.2f}", ha="center", va="center", color="black" if pi > 0.55 else "white")
    times = [sum(run.bits[i] == "1" for run in runs) for i in range(groups)]
    axes.set_xticks(range(groups), [f"{i}\n{kept}" for i, kept in enumerate(times)])
    axes.set_yticks(range(len(runs)), [_wrapped(run.name) for run in runs], fontsize="small")
    axes.set_xlabel(f"group, and how many of the {len(runs)} runs keep it (framed)")
    figure.colorbar(image, ax=axes, label="probability to stay", fraction=0.05, pad=0.02)
    rows = [[run.name, run.bits, *run.pi] for run in runs]
    return _save(figure, path, [["run", "mask", *(f"pi_{i}" for i in range(groups))], *rows])


def psnr_columns(rows: Iterable[Mapping[str, str]]) -> dict[str, str]:
    """Data set -> the column of a table of results that holds its PSNR: `Set5_psnr`, `PSNR Set5` and the like."""
    found = {key: _PSNR.fullmatch(key.strip()) for row in rows for key in row}
    sets = {key: match[1] or match[2] for key, match in found.items() if match}
    return {name: key for key, name in sets.items() if name.lower() not in ("mean", "average", "avg")}


def plot_tradeoff(rows: Sequence[Mapping[str, str]], path: Path, limits: Mapping[str, float] | None = None) -> bool:
    """Mean PSNR over parameters and over latency: a point for each row of the table, seeds averaged (bar: from, to).

    The mean is that of Set5, Set14, B100 and Urban100 where every row has them, else of the sets that every row has.
    """
    limits = limits or {}
    columns = psnr_columns(rows)
    scored = [row for row in rows if any(math.isfinite(number(row[key])) for key in columns.values())]
    common = [name for name, key in columns.items() if all(math.isfinite(number(row[key])) for row in scored)]
    sets = [name for name in MEAN_SETS if name in common] if set(MEAN_SETS) <= set(common) else common
    if not scored or not sets:
        return False
    points: dict[tuple[str, str], list[Mapping[str, str]]] = {}
    for row in scored:
        points.setdefault((row.get("network", ""), row.get("row", "")), []).append(row)
    quality = {
        key: [_mean([number(row[columns[name]]) for name in sets]) for row in same] for key, same in points.items()
    }
    costs = {
        name: {key: _mean([number(row.get(name, "")) for row in same]) for key, same in points.items()}
        for name in ("params", "latency_ms")
    }
    panels = [name for name, values in costs.items() if np.isfinite(list(values.values())).any()]
    if not panels:
        return False
    networks = list(dict.fromkeys(network for network, _ in points))
    figure = _figure("Quality and cost", 4.9)
    grid = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    handles: dict[str, Artist] = {}
    for axes, name in zip(grid, panels, strict=True):
        for key, y in quality.items():
            style = networks.index(key[0])
            if math.isfinite(x := costs[name][key]):
                spread = [[_mean(y) - min(y)], [max(y) - _mean(y)]]
                handles[key[0] or "network"] = axes.errorbar(
                    x, _mean(y), spread if len(y) > 1 else None, color=COLORS[style % len(COLORS)], capsize=3,
                    marker=MARKERS[style % len(MARKERS)], markersize=8, linestyle="none", label=key[0] or "network",
                )  # fmt: skip
        if name in limits:
            handles["budget"] = axes.axvline(limits[name], color="black", linestyle="--", linewidth=1.2, label="budget")
        axes.set_xlabel(RESOURCES[name])
        axes.xaxis.set_major_formatter("{x:,g}")
        axes.locator_params(axis="x", nbins=4, steps=[1, 2, 5, 10])
        axes.margins(0.15)
        axes.grid(alpha=0.3)
    grid[0].set_ylabel(f"PSNR (dB), {'mean of ' if len(sets) > 1 else ''}{', '.join(sets)}")
    figure.legend(handles=list(handles.values()), loc="outside lower center", ncols=_legend_columns(handles))
    figure.draw_without_rendering()  # now it is known where the points are, and so where labels would meet
    for axes, name in zip(grid, panels, strict=True):
        _label(axes, {key[1]: (costs[name][key], _mean(y)) for key, y in quality.items()})
    head = ["network", "row", "seeds", *panels, "psnr_mean", "psnr_min", "psnr_max", "sets"]
    table = [
        [*key, len(y), *(_blank(costs[name][key]) for name in panels), _mean(y), min(y), max(y), " ".join(sets)]
        for key, y in quality.items()
    ]
    return _save(figure, path, [head, *table])


def plot_losses(runs: Mapping[str, Mapping[str, Series]], path: Path) -> bool:
    """Losses of fine-tuning runs, a panel for each loss, pale under their running means.

    Args:
        runs: name of a run -> what `read_logs` returns for it.
        path: of the PNG.
    """
    names = dict.fromkeys(tag for series in runs.values() for tag in series if tag.startswith("losses/"))
    if not names:
        return False
    figure = _figure("Losses of the fine-tuning", 2.1 * len(names) + 0.9)
    grid = figure.subplots(len(names), 1, sharex=True, squeeze=False)[:, 0]
    handles: dict[str, Artist] = {}
    table: list[list[Any]] = [["run", "loss", "iter", "value"]]
    for axes, tag in zip(grid, names, strict=True):
        drawn: list[float] = []
        for place, (run, series) in enumerate(runs.items()):
            steps, values = list(series.get(tag, {})), list(series.get(tag, {}).values())
            if not steps:
                continue
            style = {"color": COLORS[place % len(COLORS)], "linestyle": LINES[place // len(COLORS) % len(LINES)]}
            axes.plot(steps, values, linewidth=0.8, alpha=0.3, **style)
            (handles[run],) = axes.plot(steps, smooth_data(values, 0.8), label=_wrapped(run), linewidth=1.8, **style)
            drawn += values
            table += [
                [run, tag.removeprefix("losses/"), step, value] for step, value in zip(steps, values, strict=True)
            ]
        if min(drawn) > 0:
            axes.set_yscale("log")
        axes.set_ylabel(tag.removeprefix("losses/"))
        axes.grid(alpha=0.3)
    _iterations(grid[-1])
    figure.align_ylabels()
    figure.legend(handles=list(handles.values()), loc="outside lower center", ncols=_legend_columns(handles))
    return _save(figure, path, table)


def plot_recovery(masks: Sequence[RankedMask], path: Path, chosen: str = "") -> bool:
    """PSNR after a short training over PSNR right after the removal, a point for each mask, with rank correlation."""
    known = [mask for mask in masks if math.isfinite(mask.zero_shot) and math.isfinite(mask.recovered)]
    if len(known) < 2:
        return False
    x, y = np.array([mask.zero_shot for mask in known]), np.array([mask.recovered for mask in known])
    best = known[int(y.argmax())]
    title = f"Does PSNR before training tell PSNR after it? Rank correlation {rank_correlation(x, y):.2f}"
    figure = _figure(title, 5.2)
    axes = figure.subplots()
    axes.scatter(x, y, s=36, color=BLUE, alpha=0.75, linewidths=0, label="masks")
    axes.scatter(
        best.zero_shot, best.recovered, s=130, facecolors="none", edgecolors=GREEN, linewidths=2.2, marker="s",
        label=f"best: keeps {kept_text(best.bits)}",
    )  # fmt: skip
    for mask in known:
        if mask.bits == chosen:
            label = f"chosen: keeps {kept_text(chosen)}, {best.recovered - mask.recovered:.2f} dB below the best"
            axes.scatter(mask.zero_shot, mask.recovered, s=90, color=VERMILION, marker="D", label=label)
    axes.set(xlabel="zero-shot PSNR (dB)", ylabel="recovered PSNR (dB)")
    axes.grid(alpha=0.3)
    figure.legend(loc="outside lower center", ncols=3)
    rows = [[mask.bits, kept_text(mask.bits), mask.zero_shot, mask.recovered] for mask in known]
    return _save(figure, path, [["mask", "kept", "zero_shot_psnr", "recovered_psnr"], *rows])


def rank_correlation(x: Sequence[float] | np.ndarray, y: Sequence[float] | np.ndarray) -> float:
    """Spearman's rho, ties at their mean rank; nan when one side is constant."""

    def ranks(values: Sequence[float] | np.ndarray) -> np.ndarray:
        column = np.asarray(values)[:, None]
        return (column > column.T).sum(1) + (column == column.T).sum(1) / 2

    a, b = ranks(x), ranks(y)
    a, b = a - a.mean(), b - b.mean()
    norm = math.sqrt(float((a * a).sum() * (b * b).sum()))
    return float((a * b).sum()) / norm if norm else math.nan


def _figure(title: str, height_in: float) -> "Figure":
    from matplotlib.figure import Figure  # not pyplot: no window, no global state, and Agg is the canvas of savefig

    figure = Figure(figsize=(WIDTH_IN, height_in), dpi=DPI, layout="constrained")
    figure.suptitle(title, x=0.01, ha="left", fontsize="large")
    return figure


def _save(figure: "Figure", path: Path, table: Iterable[Sequence[Any]]) -> bool:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
    with path.with_suffix(".csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows(table)
    return True


def _log_table(log: Columns, names: Sequence[str]) -> list[list[Any]]:
    names = ["iter", *(["phase"] if "phase" in log else []), *(name for name in names if name in log)]
    return [names, *map(list, zip(*(log[name] for name in names), strict=True))]


def _start(log: Columns) -> int:
    """Iteration at which the first row of the log begins."""
    iters = log["iter"]
    return max(0, iters[0] - (iters[1] - iters[0] if len(iters) > 1 else iters[0]))


def _marker(log: Columns) -> str:
    return "o" if len(log["iter"]) < 3 else ""  # a line of one point is none


def _shade(grid: Iterable["Axes"], log: Columns) -> list["Artist"]:
    """Shade the phases behind the curves; the legend's entries for them."""
    from matplotlib.patches import Patch

    spans, begin = [], _start(log)
    for phase, rows in groupby(zip(log.get("phase", ()), log["iter"], strict=False), key=lambda row: row[0]):
        *_, (_, end) = rows
        spans.append((phase, begin, end))
        begin = end
    for axes in grid:
        for phase, left, right in spans:
            axes.axvspan(left, right, color=PHASES.get(phase, "#FFFFFF"), zorder=0, linewidth=0)
        axes.set_xlim(_start(log), max(log["iter"][-1], _start(log) + 1))
        axes.grid(alpha=0.3)
    shown = dict.fromkeys(phase for phase, left, right in spans if phase in PHASES and right > left)
    return [
        Patch(facecolor=PHASES[phase], edgecolor="#777777", linewidth=0.6, label=f"phase: {phase}") for phase in shown
    ]


def _iterations(axes: "Axes") -> None:
    axes.set_xlabel("iteration")
    axes.locator_params(axis="x", nbins=7)
    axes.xaxis.set_major_formatter("{x:,.0f}")


def _write_column(axes: "Axes", right_pt: float, title: str, texts: Sequence[str]) -> None:
    """Texts beside the bars 0, 1, ..., ending `right_pt` points to the right of the axes."""
    style: dict[str, Any] = {
        "textcoords": "offset points",
        "ha": "right",
        "fontsize": "small",
        "annotation_clip": False,
    }
    axes.annotate(title, (1, 1), (right_pt, 4), xycoords="axes fraction", va="bottom", **style)
    for place, text in enumerate(texts):
        axes.annotate(text, (1, place), (right_pt, 0), xycoords=axes.get_yaxis_transform(), va="center", **style)


def _label(axes: "Axes", places: Mapping[str, tuple[float, float]], line_pt: float = 11) -> None:
    """Write names beside points, moved up where they would cover each other or another point."""
    from matplotlib.patheffects import withStroke

    known = {name: xy for name, xy in places.items() if np.isfinite(xy).all()}
    points = {name: axes.transData.transform(xy) * 72 / DPI for name, xy in known.items()}
    taken = [(x - 6, x + 6, y) for x, y in points.values()]  # from x to x, at height y
    for name, (x, y) in sorted(points.items(), key=lambda point: point[1][1]):
        left, right, height = x + 8, x + 8 + 6 * len(name), y
        for other_left, other_right, other_height in sorted(taken, key=lambda place: place[2]):
            if left < other_right and other_left < right and abs(height - other_height) < line_pt:
                height = other_height + line_pt
        taken.append((left, right, height))
        line = {"arrowstyle": "-", "color": "#777777", "linewidth": 0.7} if height > y else None
        axes.annotate(
            name, known[name], (8, height - y), textcoords="offset points", va="center", fontsize="small",
            arrowprops=line, path_effects=[withStroke(linewidth=3, foreground="white")],
        )  # fmt: skip


def _mean(values: Any, axis: int | None = None) -> Any:
    """Mean of what is known; nan, without a warning, when nothing is."""
    values = np.asarray(values, dtype=float)
    known = np.isfinite(values)
    total, counted = np.where(known, values, 0).sum(axis), known.sum(axis)
    mean = np.where(counted > 0, total / np.maximum(counted, 1), math.nan)
    return mean if axis is not None else float(mean)


def _largest(values: Iterable[float]) -> float:
    """The largest of what is known, as the upper end of an axis that begins at 0."""
    return max((value for value in values if math.isfinite(value) and value > 0), default=1)


def _blank(value: float) -> float | str:
    return value if math.isfinite(value) else ""


def _wrapped(name: str) -> str:
    return "\n".join(textwrap.wrap(name, NAME_LETTERS))


def _legend_columns(names: Iterable[str]) -> int:
    """As many columns as fit below the axes with the longest of these names."""
    longest = max((min(len(name), NAME_LETTERS) for name in names), default=1)
    return max(1, min(5, LEGEND_LETTERS // (longest + 7)))  # 7: marker and gaps
