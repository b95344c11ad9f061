"""Plots of the course of a search over its iterations: probabilities, drawn masks, costs, certainty.

Each function returns whether it has drawn; without data it writes nothing. Groups are numbered from 0.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby, pairwise
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.patches import Patch

from basicsr.pruning.mask_log import Columns, group_columns
from basicsr.pruning.report.drawing import (
    BLUE,
    COLORS,
    FEW_GROUPS,
    LINES,
    ORANGE,
    RESOURCE_LABELS,
    format_iterations,
    largest_known,
    mean_of_known,
    new_figure,
    save_figure,
)

PHASE_COLORS = {"warmup": "#F6EBD3", "search": "#FFFFFF", "settle": "#CFE5F5", "done": "#E4DDEE"}
BINS = 50  # columns of a heat map over time


def plot_marginals(log: Columns, path: Path, bits: str = "") -> bool:
    """Plot the probability of keeping each group over the iterations; groups that `bits` keeps are drawn thick."""
    pi = group_columns(log, "pi")
    if not pi.size:
        return False
    few = pi.shape[1] <= FEW_GROUPS
    figure = new_figure("Probability of keeping each group", 4.6 if few else 5.4 + 0.05 * pi.shape[1])
    axes = figure.subplots()
    handles: list[Artist] = []
    for i, values in enumerate(pi.T):
        kept = bits[i : i + 1] == "1"
        handles += axes.plot(
            log["iter"],
            values,
            LINES[i // len(COLORS) % len(LINES)],
            color=COLORS[i % len(COLORS)],
            linewidth=2.8 if kept else 1.2,
            marker=_marker(log),
            label=f"group {i}, kept" if kept else f"group {i}",
        )
    axes.set(ylabel="probability", ylim=(-0.03, 1.03))
    format_iterations(axes)
    handles += _shade([axes], log)
    figure.legend(handles=handles, loc="outside right upper" if few else "outside lower center", ncols=1 if few else 5)
    return save_figure(figure, path, _log_table(log, [f"pi_{i}" for i in range(pi.shape[1])]))


def plot_group_maps(log: Columns, path: Path) -> bool:
    """Plot heat maps, groups x time: probability of staying, and share of the drawn masks that keep the group."""
    maps = {"probability to stay": group_columns(log, "pi"), "share of drawn masks": group_columns(log, "drawn")}
    maps = {title: values for title, values in maps.items() if values.size}
    if not maps:
        return False
    edges = np.array([_start(log), *log["iter"]], dtype=float)
    parts = np.array_split(np.arange(len(log["iter"])), min(BINS, len(log["iter"])))
    borders = edges[[0, *(part[-1] + 1 for part in parts)]]
    groups = next(iter(maps.values())).shape[1]
    figure = new_figure("Groups over time", (0.9 + min(max(1.3, 0.2 * groups), 3)) * len(maps) + 0.6)
    grid = figure.subplots(len(maps), 1, sharex=True, squeeze=False)[:, 0]
    table: list[list[Any]] = [["from_iter", "to_iter"], *map(list, pairwise(borders))]
    for axes, (title, values) in zip(grid, maps.items(), strict=True):
        binned = np.stack([mean_of_known(values[part], axis=0) for part in parts])
        mesh = axes.pcolormesh(borders, np.arange(groups + 1) - 0.5, binned.T, cmap="cividis", vmin=0, vmax=1)
        axes.set_title(title, loc="left", fontsize="medium")
        axes.set(ylabel="group", yticks=range(0, groups, 1 + groups // 16))
        axes.invert_yaxis()
        for line, row in zip(table, [[f"{title} {i}" for i in range(groups)], *binned.tolist()], strict=True):
            line += row
    format_iterations(grid[-1])
    figure.colorbar(mesh, ax=list(grid), label="0: always dropped, 1: always kept", aspect=30, pad=0.02)
    return save_figure(figure, path, table)


def plot_costs(log: Columns, path: Path, limits: Mapping[str, float] | None = None) -> bool:
    """Plot expected cost and cost of the most probable mask over the iterations, a panel for each resource."""
    limits = limits or {}
    names = [name for name in (key[2:] for key in log if key.startswith("E_")) if np.isfinite(log[f"E_{name}"]).any()]
    if not names:
        return False
    figure = new_figure("Cost of the network", 1.9 * len(names) + 0.9)
    grid = figure.subplots(len(names), 1, sharex=True, squeeze=False)[:, 0]
    handles: dict[str, Artist] = {}
    for axes, name in zip(grid, names, strict=True):
        mode = log.get(f"mode_{name}", [math.nan] * len(log["iter"]))
        curves = axes.plot(log["iter"], log[f"E_{name}"], color=BLUE, marker=_marker(log), label="expected", zorder=3)
        curves += axes.step(
            log["iter"], mode, where="pre", color=ORANGE, linewidth=4, marker=_marker(log), label="most probable mask"
        )
        values = [*mode, *log[f"E_{name}"]]
        if name in limits:
            curves.append(axes.axhline(limits[name], color="black", linestyle="--", label="budget", zorder=4))
            values.append(limits[name])
        handles |= {str(curve.get_label()): curve for curve in curves}
        axes.set(ylabel=RESOURCE_LABELS.get(name, name), ylim=(0, 1.12 * largest_known(values)))
        axes.yaxis.set_major_formatter("{x:,g}")
        axes.grid(alpha=0.3)
    format_iterations(grid[-1])
    figure.align_ylabels()
    figure.legend(handles=list(handles.values()), loc="outside lower center", ncols=len(handles))
    table = _log_table(log, [f"{kind}_{name}" for name in names for kind in ("E", "mode")])
    for name in (name for name in names if name in limits):
        for line, value in zip(table, [f"budget_{name}", *[limits[name]] * (len(table) - 1)], strict=True):
            line.append(value)
    return save_figure(figure, path, table)


def plot_certainty(log: Columns, path: Path) -> bool:
    """Plot the entropy of the distribution over masks and the probability of the best one over the iterations."""
    panels = {"entropy": "entropy of the masks (nats)", "p_max": "largest probability"}
    panels = {key: label for key, label in panels.items() if np.isfinite(log.get(key, [math.nan])).any()}
    if not panels:
        return False
    figure = new_figure("Certainty of the search", 2.2 * len(panels) + 0.9)
    grid = figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0]
    for axes, (key, label) in zip(grid, panels.items(), strict=True):
        axes.plot(log["iter"], log[key], color=BLUE, linewidth=2, marker=_marker(log))
        axes.set(ylabel=label, ylim=(0, 1.03 if key == "p_max" else 1.08 * largest_known(log[key])))
    format_iterations(grid[-1])
    figure.align_ylabels()
    if phases := _shade(grid, log):
        figure.legend(handles=phases, loc="outside lower center", ncols=len(phases))
    return save_figure(figure, path, _log_table(log, list(panels)))


def _log_table(log: Columns, names: Sequence[str]) -> list[list[Any]]:
    names = ["iter", *(["phase"] if "phase" in log else []), *(name for name in names if name in log)]
    return [names, *map(list, zip(*(log[name] for name in names), strict=True))]


def _start(log: Columns) -> int:
    """Return the iteration at which the first row of the log begins."""
    iters = log["iter"]
    return max(0, iters[0] - (iters[1] - iters[0] if len(iters) > 1 else iters[0]))


def _marker(log: Columns) -> str:
    return "o" if len(log["iter"]) < 3 else ""  # a line needs two points


def _shade(grid: Iterable[Axes], log: Columns) -> list[Artist]:
    """Shade the phases behind the curves; return their entries of the legend."""
    spans, begin = [], _start(log)
    for phase, rows in groupby(zip(log.get("phase", ()), log["iter"], strict=False), key=lambda row: row[0]):
        *_, (_, end) = rows
        spans.append((phase, begin, end))
        begin = end
    for axes in grid:
        for phase, left, right in spans:
            axes.axvspan(left, right, color=PHASE_COLORS.get(phase, "#FFFFFF"), zorder=0, linewidth=0)
        axes.set_xlim(_start(log), max(log["iter"][-1], _start(log) + 1))
        axes.grid(alpha=0.3)
    shown = dict.fromkeys(phase for phase, left, right in spans if phase in PHASE_COLORS and right > left)
    return [
        Patch(facecolor=PHASE_COLORS[phase], edgecolor="#777777", linewidth=0.6, label=f"phase: {phase}")
        for phase in shown
    ]
