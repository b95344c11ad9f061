"""What all plots share: figures of one width, colours, number formats, and labels that do not overlap.

Every plot is written as PNG, with its data as CSV of the same stem.
"""

import csv
import math
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke

from basicsr.text import ERRORS

# Okabe and Ito, distinguishable for the colour-blind; gray in place of yellow, which is too pale for lines on white.
BLUE, VERMILION, GREEN, PURPLE, ORANGE = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00"
COLORS = (BLUE, VERMILION, GREEN, PURPLE, ORANGE, "#56B4E9", "#000000", "#999999")
LINES = ("-", "--", ":", "-.")
MARKERS = "osD^vPX*"
RESOURCE_LABELS = {
    "blocks": "groups",
    "params": "parameters",
    "macs_g": "multiply-adds (G)",
    "latency_ms": "latency (ms)",
}
WIDTH_IN, DPI = 8.4, 120
FEW_GROUPS = 12  # up to here the plot has room for a legend and numbers of each group
MAX_NAME_LETTERS = 40  # of a name before it is wrapped
MAX_LEGEND_LETTERS = 105  # of all names in a line of a legend


def new_figure(title: str, height_in: float) -> Figure:
    """Return an empty figure of the common width; not from pyplot, which would keep global state."""
    figure = Figure(figsize=(WIDTH_IN, height_in), dpi=DPI, layout="constrained")
    figure.suptitle(title, x=0.01, ha="left", fontsize="large")
    return figure


def save_figure(figure: Figure, path: Path, table: Iterable[Sequence[Any]]) -> bool:
    """Write a figure as PNG and its data, header first, as CSV of the same stem; return True."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
    with path.with_suffix(".csv").open("w", newline="", encoding="utf-8", errors=ERRORS) as file:
        csv.writer(file, lineterminator="\n").writerows(table)
    return True


def format_iterations(axes: Axes) -> None:
    """Label the x axis as iterations."""
    axes.set_xlabel("iteration")
    axes.locator_params(axis="x", nbins=7)
    axes.xaxis.set_major_formatter("{x:,.0f}")


def write_column(axes: Axes, right_pt: float, title: str, texts: Sequence[str]) -> None:
    """Write a text next to each of the bars 0, 1, ..., ending `right_pt` points to the right of the axes."""
    style: dict[str, Any] = {
        "textcoords": "offset points",
        "ha": "right",
        "fontsize": "small",
        "annotation_clip": False,
    }
    axes.annotate(title, (1, 1), (right_pt, 4), xycoords="axes fraction", va="bottom", **style)
    for place, text in enumerate(texts):
        axes.annotate(text, (1, place), (right_pt, 0), xycoords=axes.get_yaxis_transform(), va="center", **style)


def label_points(axes: Axes, places: Mapping[str, tuple[float, float]], line_pt: float = 11) -> None:
    """Write names next to points, moved up where they would overlap each other or another point."""
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
            name,
            known[name],
            (8, height - y),
            textcoords="offset points",
            va="center",
            fontsize="small",
            arrowprops=line,
            path_effects=[withStroke(linewidth=3, foreground="white")],
        )


def mean_of_known(values: Any, axis: int | None = None) -> Any:
    """Return the mean of the finite values; nan, without a warning, when there are none."""
    values = np.asarray(values, dtype=float)
    known = np.isfinite(values)
    total, counted = np.where(known, values, 0).sum(axis), known.sum(axis)
    mean = np.where(counted > 0, total / np.maximum(counted, 1), math.nan)
    return mean if axis is not None else float(mean)


def largest_known(values: Iterable[float]) -> float:
    """Return the largest finite positive value, or 1: the upper end of an axis that begins at 0."""
    return max((value for value in values if math.isfinite(value) and value > 0), default=1)


def blank_if_unknown(value: float) -> float | str:
    """Return the value, or an empty cell for nan."""
    return value if math.isfinite(value) else ""


def wrapped(name: str) -> str:
    """Return a long name in several lines."""
    return "\n".join(textwrap.wrap(name, MAX_NAME_LETTERS))


def legend_columns(names: Iterable[str]) -> int:
    """Return the number of legend columns that fit below the axes with the longest of these names."""
    longest = max((min(len(name), MAX_NAME_LETTERS) for name in names), default=1)
    return max(1, min(5, MAX_LEGEND_LETTERS // (longest + 7)))  # 7: marker and gaps
