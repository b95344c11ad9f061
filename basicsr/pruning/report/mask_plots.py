"""Plots of masks: the most probable ones, the decisions of several searches, PSNR before and after training.

Each function returns whether it has drawn; without data it writes nothing. Groups are numbered from 0; PSNR is in dB.
"""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.patches import Rectangle

from basicsr.pruning.report.drawing import (
    BLUE,
    FEW_GROUPS,
    GREEN,
    VERMILION,
    blank_if_unknown,
    new_figure,
    save_figure,
    wrapped,
    write_column,
)
from basicsr.pruning.report.read import RankedMask, RunMask, kept_text

TOP_MASKS = 20  # masks in a ranking


def plot_ranking(masks: Sequence[RankedMask], path: Path, chosen: str = "") -> bool:
    """Plot the probabilities of the best 20 masks as bars, with kept groups and, where known, PSNR."""
    best = sorted((mask for mask in masks if math.isfinite(mask.p)), key=lambda mask: -mask.p)[:TOP_MASKS]
    if not best:
        return False
    figure = new_figure("Most probable masks", 1.3 + 0.26 * max(len(best), 3))
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
            write_column(axes, 36 + 62 * column, title, texts)
    axes.grid(axis="x", alpha=0.3)
    figure.legend(loc="outside lower center", ncols=2)
    rows = [[mask.bits, kept_text(mask.bits), *map(blank_if_unknown, mask[1:])] for mask in best]
    return save_figure(figure, path, [["mask", "kept", "p", "zero_shot_psnr", "recovered_psnr"], *rows])


def plot_runs(runs: Sequence[RunMask], path: Path) -> bool:
    """Plot a heat map, runs x groups, of the final probability of staying; kept groups are framed.

    Raises:
        ValueError: when the runs have different numbers of groups.
    """
    if len(runs) < 2:
        return False
    groups = len(runs[0].bits)
    for run in runs:
        if len(run.bits) != groups or len(run.pi) != groups:
            raise ValueError(
                f"runs: {run.name} has {len(run.bits)} groups, {runs[0].name} has {groups}; compare runs of one network"
            )
    figure = new_figure("Groups that the runs keep", 1.7 + 0.42 * len(runs))
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
    axes.set_yticks(range(len(runs)), [wrapped(run.name) for run in runs], fontsize="small")
    axes.set_xlabel(f"group, and how many of the {len(runs)} runs keep it (framed)")
    figure.colorbar(image, ax=axes, label="probability to stay", fraction=0.05, pad=0.02)
    rows = [[run.name, run.bits, *run.pi] for run in runs]
    return save_figure(figure, path, [["run", "mask", *(f"pi_{i}" for i in range(groups))], *rows])


def plot_recovery(masks: Sequence[RankedMask], path: Path, chosen: str = "") -> bool:
    """Plot PSNR after a short training over PSNR right after the removal, a point for each mask."""
    known = [mask for mask in masks if math.isfinite(mask.zero_shot) and math.isfinite(mask.recovered)]
    if len(known) < 2:
        return False
    x, y = np.array([mask.zero_shot for mask in known]), np.array([mask.recovered for mask in known])
    best = known[int(y.argmax())]
    title = f"Does PSNR before training tell PSNR after it? Rank correlation {rank_correlation(x, y):.2f}"
    figure = new_figure(title, 5.2)
    axes = figure.subplots()
    axes.scatter(x, y, s=36, color=BLUE, alpha=0.75, linewidths=0, label="masks")
    axes.scatter(
        best.zero_shot,
        best.recovered,
        s=130,
        facecolors="none",
        edgecolors=GREEN,
        linewidths=2.2,
        marker="s",
        label=f"best: keeps {kept_text(best.bits)}",
    )
    for mask in known:
        if mask.bits == chosen:
            label = f"chosen: keeps {kept_text(chosen)}, {best.recovered - mask.recovered:.2f} dB below the best"
            axes.scatter(mask.zero_shot, mask.recovered, s=90, color=VERMILION, marker="D", label=label)
    axes.set(xlabel="zero-shot PSNR (dB)", ylabel="recovered PSNR (dB)")
    axes.grid(alpha=0.3)
    figure.legend(loc="outside lower center", ncols=3)
    rows = [[mask.bits, kept_text(mask.bits), mask.zero_shot, mask.recovered] for mask in known]
    return save_figure(figure, path, [["mask", "kept", "zero_shot_psnr", "recovered_psnr"], *rows])


def rank_correlation(x: Sequence[float] | np.ndarray, y: Sequence[float] | np.ndarray) -> float:
    """Return Spearman's rho, ties at their mean rank; nan when one side is constant."""

    def ranks(values: Sequence[float] | np.ndarray) -> np.ndarray:
        column = np.asarray(values)[:, None]
        return (column > column.T).sum(1) + (column == column.T).sum(1) / 2

    a, b = ranks(x), ranks(y)
    a, b = a - a.mean(), b - b.mean()
    norm = math.sqrt(float((a * a).sum() * (b * b).sum()))
    return float((a * b).sum()) / norm if norm else math.nan
