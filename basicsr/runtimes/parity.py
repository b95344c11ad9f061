"""Whether an exported network gives what PyTorch gives, on inputs it was not made with.

Networks here choose a group for every token. Where a token lies as near to two groups, up to rounding, either choice is
right, and runtimes differ: one token then moves, and the windows behind it with it. So every input is compared twice:
as it is, and with the groups that the runtime chose given to PyTorch. With equal groups all numbers must be equal to
rounding; and where the groups differ, it must have been by rounding.
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

MEAN, WORST, PSNR = 1e-5, 2 / 255, 1e-3  # limits on the error of inputs in [0, 1], and on the difference in dB
SAME_GROUPS = 1e-5  # limit on the error of any value, given the same groups
TIE = 1e-4  # scores of two groups that differ by less are equal up to rounding
TIED_MEAN = 2e-4  # limit on the mean error where tokens at ties went another way
NOISE = 25 / 255  # on the input of networks that do not enlarge

Run = Callable[[np.ndarray], Sequence[np.ndarray]]


class ParityError(FloatingPointError):
    """An exported network does not give what PyTorch gives."""


@dataclass(frozen=True)
class Sample:
    """An input, and where it has one its ground truth."""

    name: str
    lq: np.ndarray
    """(1, C, h, w) float32 in [0, 1]"""
    gt: np.ndarray | None = None
    """(1, C, s*h, s*w)"""


@dataclass(frozen=True)
class Agreement:
    """How far the outputs for one input lie apart. Errors are absolute, of values in [0, 1]."""

    input: str
    height: int
    width: int
    mean: float
    max: float
    psnr: float | None
    """of PyTorch's output against the ground truth, dB"""
    psnr_difference: float | None
    """the other's PSNR minus PyTorch's, dB"""
    tokens: int = 0
    """choices of a group that were compared"""
    moved: int = 0
    """of them differ"""
    widest_tie: float = 0.0
    """the most by which the scores of two groups differed where the choice did"""
    max_same_groups: float | None = None
    mean_same_groups: float | None = None

    def faults(self) -> list[str]:
        """What breaks a limit, in words."""
        checks = [
            ("mean error", self.mean, TIED_MEAN if self.moved else MEAN),
            ("largest error", self.max, WORST),
            ("PSNR difference in dB", abs(self.psnr_difference or 0), PSNR),
            ("score by which groups differ", self.widest_tie, TIE),
            ("largest error with the same groups", self.max_same_groups or 0, SAME_GROUPS),
        ]
        # What is not a number is no match.
        return [f"{name} {value:.3g}, must be below {limit:.3g}" for name, value, limit in checks if not value < limit]

    @property
    def is_explained(self) -> bool:
        """Whether tokens at ties are all that the outputs differ by."""
        same = self.max_same_groups
        return same is not None and same < SAME_GROUPS and self.widest_tie < TIE

    def facts(self) -> dict[str, Any]:
        """What a manifest says of it."""
        return {name: value for name, value in asdict(self).items() if value is not None}


def compare(net: nn.Module, run: Run, sample: Sample, run_with_groups: Run | None = None) -> Agreement:
    """Compare a runtime with PyTorch on one input.

    Args:
        net: in evaluation.
        run: the runtime; the image comes first.
        run_with_groups: the same graph with the groups behind the image.
    """
    lq = torch.from_numpy(sample.lq)
    with torch.inference_mode():
        expected = net(lq).float().numpy()
    found = np.asarray(run(sample.lq)[0])
    if found.shape != expected.shape:
        raise ParityError(f"{sample.name}: the output has the shape {found.shape}, PyTorch's {expected.shape}")
    error = np.abs(found.astype(np.float64) - expected)
    scores = [psnr(output, sample.gt) for output in (expected, found)] if sample.gt is not None else None
    more: dict[str, Any] = {}
    if run_with_groups is not None:
        tapped, *groups = run_with_groups(sample.lq)
        forced = [torch.from_numpy(np.asarray(chosen)) for chosen in groups]
        with torch.inference_mode(), group_choices(forced) as choices:
            given = net(lq).float().numpy()
        if len(choices.chosen) != len(groups):
            raise ParityError(f"{sample.name}: PyTorch chooses groups {len(choices.chosen)} times, not {len(groups)}")
        moved = [gap[own.view(gap.shape) != other.to(own).view(gap.shape)] for gap, own, other in zip(
            choices.gaps, choices.chosen, forced, strict=True)]  # fmt: skip
        same = np.abs(np.asarray(tapped).astype(np.float64) - given)
        more = {
            "tokens": sum(gap.numel() for gap in choices.gaps),
            "moved": sum(len(gaps) for gaps in moved),
            "widest_tie": max((float(gaps.max()) for gaps in moved if len(gaps)), default=0.0),
            "max_same_groups": float(same.max()),
            "mean_same_groups": float(same.mean()),
        }
    return Agreement(
        input=sample.name, height=lq.shape[2], width=lq.shape[3], mean=float(error.mean()), max=float(error.max()),
        psnr=scores[0] if scores else None, psnr_difference=scores[1] - scores[0] if scores else None, **more,
    )  # fmt: skip


def psnr(output: np.ndarray, gt: np.ndarray) -> float:
    """dB, of values clamped to [0, 1] but not rounded, over all channels."""
    error = float(np.mean((np.clip(output, 0, 1).astype(np.float64) - gt) ** 2))
    return math.inf if error == 0 else -10 * math.log10(error)


def samples_of(
    photo: np.ndarray, name: str, scale: int, sizes: Sequence[tuple[int, int]], photo_size: tuple[int, int],
    photo_is_fixed: bool, rule: tuple[int, int] = (1, 1),
) -> list[Sample]:  # fmt: skip
    """Windows of a photograph at these sizes, and one with its ground truth.

    Args:
        photo: pixels (H, W, C).
        sizes: (h, w) of inputs without ground truth.
        photo_size: (h, w) of the last input, or the most that it may have.
        photo_is_fixed: it must have that size.
        rule: else its smallest side, and what its sides are multiples of.

    Raises:
        CheckpointError: when the photograph is too small.
    """
    height, width = photo.shape[:2]
    least, multiple = rule
    most = [max(least, min(side, length // scale) // multiple * multiple)
            for side, length in zip(photo_size, (height, width), strict=True)]  # fmt: skip
    if photo_is_fixed:
        most = list(photo_size)
    needed = [max(*(size[i] for size in sizes), scale * most[i]) if sizes else scale * most[i] for i in range(2)]
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
    h, w = (side * scale for side in most)
    top, left = (height - h) // 2, (width - w) // 2
    gt = values[:, top : top + h, left : left + w].double()
    if scale > 1:
        lq = imresize(gt, 1 / scale).clamp(0, 1)
    else:
        lq = (gt + NOISE * torch.randn(gt.shape, generator=torch.Generator().manual_seed(0))).clamp(0, 1)
    samples.append(Sample(name, lq[None].float().numpy(), gt[None].numpy()))
    return samples


def drawn_picture(height: int, width: int, channels: int) -> np.ndarray:
    """A picture of slopes, stripes, discs and grain, (H, W, C) uint8, the same every time: where no photograph is."""
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
    """Agreements by file, as text in columns."""
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
