"""Read the text log of a training run and plot its curves."""

import logging
import re
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Series = dict[int, float]
"""iteration -> value."""

LOSS, RATE = "loss", "learning rate"

_STEP = re.compile(r"\[epoch: *\d+, *iter: *([\d,]+), *lr:\(([^)]*)\)\].*\] (.*)$")
_START = re.compile(r"Start training from epoch: *\d+, iter: *(\d+)")
_LOSS = re.compile(r"(\S+): ([-+]?(?:\d\S*|nan|inf))")
_VALIDATION = re.compile(r"\bValidation (.+?)\s*$")
_SCORE = re.compile(r"^\s*# (\S+): (\S+)(?:\s+Best: \S+ @ ([\d,]+) iter)?")


def read_log(path: str | Path) -> dict[str, Series]:
    """Return the series of a log by TensorBoard tag: `losses/l_pix`, `lr` (more groups: `lr/1`), `metrics/Set5/psnr`.

    Lines of scores have no iteration: they get that of the last training line before them (where a resumed run begins
    with a validation, that of its start), or of their `Best` if that is later. If a resumed run has logged an iteration
    twice, the later value counts.
    """
    series: dict[str, Series] = {}
    it, dataset = 0, ""
    for line in Path(path).read_text(encoding="utf-8").splitlines():
        if step := _STEP.search(line):
            it = _integer(step[1])
            values = {f"losses/{name}": value for name, value in _LOSS.findall(step[3])}
            rates = [rate for rate in step[2].split(",") if rate.strip()]
            values |= {f"lr/{group}" if group else "lr": rate for group, rate in enumerate(rates)}
        elif start := _START.search(line):
            it, dataset, values = int(start[1]), "", {}
        elif validation := _VALIDATION.search(line):
            dataset, values = validation[1], {}
        elif dataset and (score := _SCORE.match(line)):
            it = max(it, _integer(score[3] or "0"))
            values = {f"metrics/{dataset}/{score[1]}": score[2]}
        else:
            dataset, values = "", {}
        for tag, value in values.items():
            series.setdefault(tag, {})[it] = float(value)
    return {tag: dict(sorted(values.items())) for tag, values in series.items()}


def read_logs(paths: Iterable[str | Path]) -> dict[str, Series]:
    """Return the series of several logs of one run (`read_log`), in the order of their names; later values count."""
    series: dict[str, Series] = {}
    for path in sorted(map(str, paths)):
        for tag, values in read_log(path).items():
            series[tag] = dict(sorted((series.get(tag, {}) | values).items()))
    return series


def plot_curves(series: dict[str, Series], path: str | Path, title: str = "") -> None:
    """Plot the series of `read_log`: a panel for the losses, one for the learning rate and one for each metric.

    Losses are drawn pale, under their running mean. Without any series, only a warning is logged.
    """
    from matplotlib.figure import Figure  # unlike pyplot, without windows and global state

    panels: dict[str, dict[str, Series]] = {}
    for tag, values in series.items():
        panel, label = _place(tag)
        panels.setdefault(panel, {})[label] = values
    if not panels:
        logging.getLogger("basicsr").warning("%s: not drawn, for there are no values yet", path)
        return
    figure = Figure(figsize=(8, 2.6 * len(panels)), layout="constrained")
    grid = figure.subplots(len(panels), 1, sharex=True, squeeze=False)
    for axes, (name, curves) in zip(grid[:, 0], panels.items(), strict=True):
        _draw(axes, name, curves)
    grid[-1, 0].set_xlabel("iteration")
    figure.align_ylabels()
    if title:
        figure.suptitle(title)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)


def smooth_data(values: list[float], smooth_weight: float) -> list[float]:
    """Return the exponential running mean: a weight of 0 keeps the values, towards 1 is smoother."""
    smoothed: list[float] = []
    for value in values:
        last = smoothed[-1] if smoothed else value
        smoothed.append(smooth_weight * last + (1 - smooth_weight) * value)
    return smoothed


def _integer(text: str) -> int:
    return int(text.replace(",", ""))


def _place(tag: str) -> tuple[str, str]:
    """Return the title of the panel and the label of the curve of a series."""
    kind, _, name = tag.partition("/")
    if kind == "metrics":
        dataset, _, metric = name.rpartition("/")
        return metric, dataset
    return (LOSS, name) if kind == "losses" else (RATE, tag)


def _draw(axes: "Axes", name: str, curves: dict[str, Series]) -> None:
    for label, values in curves.items():
        iterations, numbers = list(values), list(values.values())
        if name == LOSS:
            (pale,) = axes.plot(iterations, numbers, linewidth=0.8, alpha=0.3)
            axes.plot(iterations, smooth_data(numbers, 0.8), color=pale.get_color(), label=label)
        elif name == RATE:
            axes.plot(iterations, numbers, label=label)
        else:
            axes.plot(iterations, numbers, marker="o", markersize=3, label=label)
    axes.set_ylabel(name)
    if name == LOSS and all(value > 0 for values in curves.values() for value in values.values()):
        axes.set_yscale("log")
    if name == RATE:
        axes.ticklabel_format(axis="y", style="sci", scilimits=(0, 0))
    axes.grid(alpha=0.3)
    if name != RATE or len(curves) > 1:
        axes.legend()
