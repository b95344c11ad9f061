"""Comparison of an exported network with PyTorch, on inputs that it was not made with.

Networks here choose a group for every token. Where a token lies as near to two groups, up to rounding, either choice is
right, and runtimes differ: one token then moves, and the windows behind it with it. So every input is compared twice:
as it is, and with PyTorch forced to the groups that the runtime chose. With equal groups all numbers must be equal up
to rounding; and where the groups differ, their scores must.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from basicsr.archs.layers.group_hook import group_choices
from basicsr.errors import CheckpointError
from basicsr.images.files import to_tensor
from basicsr.images.matlab_resize import imresize

# Limits on absolute errors of values in [0, 1].
MAX_MEAN_ERROR = 1e-5
MAX_MEAN_ERROR_WITH_TIES = 2e-4  # where tokens at ties went another way
MAX_ERROR = 2 / 255
MAX_ERROR_SAME_GROUPS = 1e-5  # of any value, given the same groups
MAX_PSNR_DIFFERENCE = 1e-3  # dB
MAX_TIE = 1e-4  # scores of two groups that differ by less are equal up to rounding
NOISE = 25 / 255  # standard deviation, on the input of networks that do not enlarge

Run = Callable[[np.ndarray], Sequence[np.ndarray]]


class ParityError(FloatingPointError):
    """The output of an exported network differs from PyTorch's."""


@dataclass(frozen=True)
class Sample:
    """An input and, if there is one, its ground truth."""

    name: str
    lq: np.ndarray
    """(1, C, h, w) float32 in [0, 1]"""
    gt: np.ndarray | None = None
    """(1, C, s*h, s*w)"""


@dataclass(frozen=True)
class Agreement:
    """Errors between the outputs for one input: absolute, of values in [0, 1]."""

    input: str
    height: int
    width: int
    mean: float
    max: float
    psnr: float | None
    """of PyTorch's output against the ground truth, dB"""
    psnr_difference: float | None
    """PSNR of the other output minus that of PyTorch's, dB"""
    tokens: int = 0
    """choices of a group that were compared"""
    moved: int = 0
    """choices that differ"""
    widest_tie: float = 0.0
    """largest difference of the scores of two groups where the choice differs"""
    max_same_groups: float | None = None
    mean_same_groups: float | None = None

    def faults(self) -> list[str]:
        """Return a sentence for each value that breaks its limit."""
        checks = [
            ("mean error", self.mean, MAX_MEAN_ERROR_WITH_TIES if self.moved else MAX_MEAN_ERROR),
            ("largest error", self.max, MAX_ERROR),
            ("PSNR difference in dB", abs(self.psnr_difference or 0), MAX_PSNR_DIFFERENCE),
            ("score by which groups differ", self.widest_tie, MAX_TIE),
            ("largest error with the same groups", self.max_same_groups or 0, MAX_ERROR_SAME_GROUPS),
        ]
        # `not value < limit` is true for nan.
        return [f"{name} {value:.3g}, must be below {limit:.3g}" for name, value, limit in checks if not value < limit]

    @property
    def is_explained(self) -> bool:
        """Whether the outputs differ only by tokens at ties."""
        same = self.max_same_groups
        return same is not None and same < MAX_ERROR_SAME_GROUPS and self.widest_tie < MAX_TIE

    def facts(self) -> dict[str, Any]:
        """Return the entry of a manifest."""
        return {name: value for name, value in asdict(self).items() if value is not None}


def compare(net: nn.Module, run: Run, sample: Sample, run_with_groups: Run | None = None) -> Agreement:
    """Compare a runtime with PyTorch on one input.

    Args:
        net: in evaluation.
        run: the runtime; its first output is the image.
        run_with_groups: the same graph, with the chosen groups as further outputs.

    Raises:
        ParityError: when the outputs differ in shape, or the groups in number.
    """
    lq = torch.from_numpy(sample.lq)
    with torch.inference_mode():
        expected = net(lq).float().numpy()
    found = np.asarray(run(sample.lq)[0])
    if found.shape != expected.shape:
        raise ParityError(f"{sample.name}: the output has the shape {found.shape}, PyTorch's {expected.shape}")
    error = np.abs(found.astype(np.float64) - expected)
    scores = [psnr(output, sample.gt) for output in (expected, found)] if sample.gt is not None else None
    groups = _compare_with_same_groups(net, run_with_groups, sample) if run_with_groups is not None else {}
    return Agreement(
        input=sample.name,
        height=lq.shape[2],
        width=lq.shape[3],
        mean=float(error.mean()),
        max=float(error.max()),
        psnr=scores[0] if scores else None,
        psnr_difference=scores[1] - scores[0] if scores else None,
        **groups,
    )


def _compare_with_same_groups(net: nn.Module, run_with_groups: Run, sample: Sample) -> dict[str, Any]:
    """Return the fields of an `Agreement` that need the groups, with PyTorch forced to those of the runtime."""
    found, *groups = run_with_groups(sample.lq)
    forced = [torch.from_numpy(np.asarray(chosen)) for chosen in groups]
    with torch.inference_mode(), group_choices(forced) as choices:
        expected = net(torch.from_numpy(sample.lq)).float().numpy()
    if len(choices.chosen) != len(groups):
        raise ParityError(f"{sample.name}: PyTorch chooses groups {len(choices.chosen)} times, not {len(groups)}")
    gaps_of_moved = [
        gap[own.view(gap.shape) != other.to(own).view(gap.shape)]
        for gap, own, other in zip(choices.gaps, choices.chosen, forced, strict=True)
    ]
    error = np.abs(np.asarray(found).astype(np.float64) - expected)
    return {
        "tokens": sum(gap.numel() for gap in choices.gaps),
        "moved": sum(len(gaps) for gaps in gaps_of_moved),
        "widest_tie": max((float(gaps.max()) for gaps in gaps_of_moved if len(gaps)), default=0.0),
        "max_same_groups": float(error.max()),
        "mean_same_groups": float(error.mean()),
    }


def psnr(output: np.ndarray, gt: np.ndarray) -> float:
    """Return the PSNR in dB of values clamped to [0, 1] but not rounded, over all channels."""
    error = float(np.mean((np.clip(output, 0, 1).astype(np.float64) - gt) ** 2))
    return math.inf if error == 0 else -10 * math.log10(error)


def samples_of(
    photo: np.ndarray,
    name: str,
    scale: int,
    sizes: Sequence[tuple[int, int]],
    photo_size: tuple[int, int],
    photo_is_fixed: bool,
    rule: tuple[int, int] = (1, 1),
) -> list[Sample]:
    """Return inputs cut from a photograph at these sizes, and a last one with its ground truth.

    Args:
        photo: pixels (H, W, C).
        name: of the photograph.
        scale: of the network. Where it is 1, the last input is the photograph with noise.
        sizes: (h, w) of inputs without ground truth.
        photo_size: (h, w) of the last input, or the largest that it may have.
        photo_is_fixed: it must have that size.
        rule: else its smallest side, and the number that its sides are multiples of.

    Raises:
        CheckpointError: when the photograph is too small.
    """
    height, width = photo.shape[:2]
    least, multiple = rule
    last = list(photo_size)
    if not photo_is_fixed:
        most = [min(side, length // scale) for side, length in zip(photo_size, (height, width), strict=True)]
        last = [max(least, side // multiple * multiple) for side in most]
    needed = [max([*(size[i] for size in sizes), scale * last[i]]) for i in range(2)]
    if height < needed[0] or width < needed[1]:
        raise CheckpointError(
            f"{name}: has {width}x{height} px, the comparison needs {needed[1]}x{needed[0]} or more; take a larger one"
        )
    values = to_tensor(photo)
    samples = []
    for i, (h, w) in enumerate(sizes):
        top, left = (height - h) * (i + 1) // (len(sizes) + 1), (width - w) * (i + 1) // (len(sizes) + 1)
        window = values[:, top : top + h, left : left + w]
        samples.append(Sample(f"window {i + 1}", np.ascontiguousarray(window[None].numpy())))
    h, w = (side * scale for side in last)
    top, left = (height - h) // 2, (width - w) // 2
    gt = values[:, top : top + h, left : left + w].double()
    if scale > 1:
        lq = imresize(gt, 1 / scale).clamp(0, 1)
    else:
        lq = (gt + NOISE * torch.randn(gt.shape, generator=torch.Generator().manual_seed(0))).clamp(0, 1)
    samples.append(Sample(name, lq[None].float().numpy(), gt[None].numpy()))
    return samples


def drawn_picture(height: int, width: int, channels: int) -> np.ndarray:
    """Return a picture of slopes, stripes, discs and grain, (H, W, C) uint8, always the same."""
    y, x = np.mgrid[0:height, 0:width].astype(np.float64)
    random = np.random.default_rng(0)
    planes = []
    for c in range(channels):
        plane = 0.5 + 0.2 * np.sin(x / (9 + 4 * c)) * np.cos(y / 17) + 0.2 * (x / width - y / height)
        plane += 0.15 * np.sign(np.sin((x + 2 * y) / (5 + c)))
        planes.append(plane)
    for _ in range(12):
        centre, radius = random.uniform(0, 1, 2) * (height, width), random.uniform(0.03, 0.15) * min(height, width)
        disc = (y - centre[0]) ** 2 + (x - centre[1]) ** 2 < radius**2
        for plane in planes:
            plane[disc] = random.uniform(0, 1)
    image = np.stack(planes, axis=2) + random.normal(0, 0.02, (height, width, channels))
    return (image.clip(0, 1) * 255).round().astype(np.uint8)


def table(rows: Mapping[str, Sequence[Agreement]]) -> str:
    """Return agreements by file as text in columns."""
    head = ("file", "input", "size", "mean", "max", "dB", "moved", "same groups: max")
    lines = [head]
    for file, agreements in rows.items():
        for a in agreements:
            size = f"{a.height}x{a.width}"
            decibels = "" if a.psnr_difference is None else f"{a.psnr_difference:+.5f}"
            same = "" if a.max_same_groups is None else f"{a.max_same_groups:.1e}"
            moved = f"{a.moved} of {a.tokens}" if a.tokens else ""
            lines.append((file, a.input, size, f"{a.mean:.1e}", f"{a.max:.1e}", decibels, moved, same))
    widths = [max(len(line[i]) for line in lines) for i in range(len(head))]
    return "\n".join("  ".join(cell.ljust(n) for cell, n in zip(line, widths, strict=True)).rstrip() for line in lines)
