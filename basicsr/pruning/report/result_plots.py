"""Plots of results: quality against cost, and the losses of fine-tuning.

Each function returns whether it has drawn; without data it writes nothing. PSNR is in dB.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from matplotlib.artist import Artist
from matplotlib.axes import Axes

from basicsr.engine.curves import Series, smooth_data
from basicsr.pruning.csv_file import to_number
from basicsr.pruning.report.drawing import (
    COLORS,
    LINES,
    MARKERS,
    RESOURCE_LABELS,
    blank_if_unknown,
    format_iterations,
    label_points,
    legend_columns,
    mean_of_known,
    new_figure,
    save_figure,
    wrapped,
)
from basicsr.pruning.report.read import psnr_columns

MEAN_SETS = ("Set5", "Set14", "B100", "Urban100")  # averaged for the quality of a row where all of them are known


class _Point(NamedTuple):
    """The runs of one row of the table with different seeds."""

    network: str
    row: str
    costs: Mapping[str, float]
    """Mean of each cost over the seeds; nan: unknown."""
    psnr: Sequence[float]
    """Mean over the data sets, for each seed."""


def plot_tradeoff(rows: Sequence[Mapping[str, str]], path: Path, limits: Mapping[str, float] | None = None) -> bool:
    """Plot mean PSNR over parameters and over latency: a point for each row, seeds averaged (bar: their range).

    The mean is that of Set5, Set14, B100 and Urban100 where every row has them, else of the sets that every row has.
    """
    limits = limits or {}
    points, sets = _averaged(rows)
    panels = [name for name in ("params", "latency_ms") if any(math.isfinite(p.costs[name]) for p in points)]
    if not panels:
        return False
    figure = new_figure("Quality and cost", 4.9)
    grid = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    handles: dict[str, Artist] = {}
    for axes, name in zip(grid, panels, strict=True):
        handles |= _draw_points(axes, points, name)
        if name in limits:
            handles["budget"] = axes.axvline(limits[name], color="black", linestyle="--", linewidth=1.2, label="budget")
        axes.set_xlabel(RESOURCE_LABELS[name])
        axes.xaxis.set_major_formatter("{x:,g}")
        axes.locator_params(axis="x", nbins=4, steps=[1, 2, 5, 10])
        axes.margins(0.15)
        axes.grid(alpha=0.3)
    grid[0].set_ylabel(f"PSNR (dB), {'mean of ' if len(sets) > 1 else ''}{', '.join(sets)}")
    figure.legend(handles=list(handles.values()), loc="outside lower center", ncols=legend_columns(handles))
    figure.draw_without_rendering()  # sets the positions of the points, which the labels must avoid
    for axes, name in zip(grid, panels, strict=True):
        label_points(axes, {point.row: (point.costs[name], mean_of_known(point.psnr)) for point in points})
    head = ["network", "row", "seeds", *panels, "psnr_mean", "psnr_min", "psnr_max", "sets"]
    table: list[list[Any]] = [head]
    for network, row, costs, psnr in points:
        cells = [blank_if_unknown(costs[name]) for name in panels]
        table.append([network, row, len(psnr), *cells, mean_of_known(psnr), min(psnr), max(psnr), " ".join(sets)])
    return save_figure(figure, path, table)


def _averaged(rows: Sequence[Mapping[str, str]]) -> tuple[list[_Point], list[str]]:
    """Return a point for each network and row, and the data sets of their PSNR; no points without PSNR."""
    columns = psnr_columns(rows)
    scored = [row for row in rows if any(math.isfinite(to_number(row[key])) for key in columns.values())]
    common = [name for name, key in columns.items() if all(math.isfinite(to_number(row[key])) for row in scored)]
    sets = [name for name in MEAN_SETS if name in common] if set(MEAN_SETS) <= set(common) else common
    seeds: dict[tuple[str, str], list[Mapping[str, str]]] = {}
    for row in scored if sets else ():
        seeds.setdefault((row.get("network", ""), row.get("row", "")), []).append(row)
    points = []
    for (network, name), same in seeds.items():
        costs = {
            cost: mean_of_known([to_number(row.get(cost, "")) for row in same]) for cost in ("params", "latency_ms")
        }
        psnr = [mean_of_known([to_number(row[columns[data_set]]) for data_set in sets]) for row in same]
        points.append(_Point(network, name, costs, psnr))
    return points, sets


def _draw_points(axes: Axes, points: Sequence[_Point], cost: str) -> dict[str, Artist]:
    """Draw the points whose cost is known, a style for each network; return the entries of the legend."""
    networks = list(dict.fromkeys(point.network for point in points))
    handles: dict[str, Any] = {}
    for network, _, costs, psnr in points:
        if math.isfinite(x := costs[cost]):
            mean, style = mean_of_known(psnr), networks.index(network)
            handles[network or "network"] = axes.errorbar(
                x,
                mean,
                [[mean - min(psnr)], [max(psnr) - mean]] if len(psnr) > 1 else None,
                color=COLORS[style % len(COLORS)],
                capsize=3,
                marker=MARKERS[style % len(MARKERS)],
                markersize=8,
                linestyle="none",
                label=network or "network",
            )
    return handles


def plot_losses(runs: Mapping[str, Mapping[str, Series]], path: Path) -> bool:
    """Plot the losses of fine-tuning runs, a panel for each loss, pale under their running means.

    Args:
        runs: name of a run -> its series from `read_logs`.
        path: of the PNG.
    """
    names = dict.fromkeys(tag for series in runs.values() for tag in series if tag.startswith("losses/"))
    if not names:
        return False
    figure = new_figure("Losses of the fine-tuning", 2.1 * len(names) + 0.9)
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
            (handles[run],) = axes.plot(steps, smooth_data(values, 0.8), label=wrapped(run), linewidth=1.8, **style)
            drawn += values
            table += [
                [run, tag.removeprefix("losses/"), step, value] for step, value in zip(steps, values, strict=True)
            ]
        if min(drawn) > 0:
            axes.set_yscale("log")
        axes.set_ylabel(tag.removeprefix("losses/"))
        axes.grid(alpha=0.3)
    format_iterations(grid[-1])
    figure.align_ylabels()
    figure.legend(handles=list(handles.values()), loc="outside lower center", ncols=legend_columns(handles))
    return save_figure(figure, path, table)
