"""The second-order degradation of Real-ESRGAN, on batches and on their device, and the pool that mixes its results.

Random numbers come from the global generators of Python, NumPy and PyTorch, whose states a training state holds.

Source: Wang et al., Real-ESRGAN, ICCVW 2021, section 3 and appendix; the pool: "training pair pool" there.
"""

import random
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from basicsr.config.degradation import DegradationOptions
from basicsr.images.blur_kernels import draw_uniform
from basicsr.images.diff_jpeg import DiffJPEG
from basicsr.images.filters import filter2D
from basicsr.images.noise import random_add_gaussian_noise_pt, random_add_poisson_noise_pt

MODES = ("area", "bilinear", "bicubic")
SINC_BEFORE_JPEG = 0.5  # probability that the last resizing and the sinc filter come before the last JPEG
Ends = tuple[float, float]


class Round(NamedTuple):
    """The options of one round."""

    resize_prob: Sequence[float]
    resize_range: Ends
    gaussian_noise_prob: float
    noise_range: Ends
    poisson_scale_range: Ends
    gray_noise_prob: float
    jpeg_range: Ends

    def draw_factor(self) -> float:
        """Return a random factor of resizing: above 1, below 1, or 1."""
        kind = random.choices(("up", "down", "keep"), self.resize_prob)[0]
        low, high = self.resize_range
        return draw_uniform((1, high)) if kind == "up" else draw_uniform((low, 1)) if kind == "down" else 1.0

    def with_noise(self, x: Tensor) -> Tensor:
        """Return the images with Gaussian or Poisson noise, in [0, 1]."""
        if np.random.uniform() < self.gaussian_noise_prob:
            return random_add_gaussian_noise_pt(x, self.noise_range, self.gray_noise_prob)
        return random_add_poisson_noise_pt(x, self.poisson_scale_range, self.gray_noise_prob)


class SecondOrderDegradation(nn.Module):
    """Degrades batches by two rounds of blur, resizing, noise and JPEG, the second one with a sinc filter.

    Args:
        options: the ranges and probabilities.
        scale: ground-truth pixels for each pixel of the output.
    """

    def __init__(self, options: DegradationOptions, scale: int) -> None:
        super().__init__()
        self.scale = scale
        self.second_blur_prob = options.second_blur_prob
        names = Round._fields
        self.first = Round(*(getattr(options, name) for name in names))
        self.second = Round(*(getattr(options, f"{name}2") for name in names))
        self.jpeg = DiffJPEG(differentiable=False)

    @torch.no_grad()
    def forward(self, gt: Tensor, kernel1: Tensor, kernel2: Tensor, sinc_kernel: Tensor) -> Tensor:
        """Return the low-resolution images, whole multiples of 1/255 in [0, 1], (B, C, H / scale, W / scale).

        Args:
            gt: (B, C, H, W) in [0, 1]. At every stage its sides must exceed half of those of the kernels.
            kernel1: (B, K, K), blur of the first round.
            kernel2: (B, K, K), of the second.
            sinc_kernel: (B, K, K), the last filter.
        """
        height, width = gt.shape[2:]
        size = height // self.scale, width // self.scale
        x = filter2D(gt, kernel1)
        x = _resized(x, scale_factor=self.first.draw_factor())
        x = self._compressed(self.first.with_noise(x), self.first)

        if np.random.uniform() < self.second_blur_prob:
            x = filter2D(x, kernel2)
        factor = self.second.draw_factor()
        x = _resized(x, size=(max(1, int(size[0] * factor)), max(1, int(size[1] * factor))))
        x = self.second.with_noise(x)
        if np.random.uniform() < SINC_BEFORE_JPEG:
            x = self._compressed(filter2D(_resized(x, size=size), sinc_kernel), self.second)
        else:
            x = filter2D(_resized(self._compressed(x, self.second), size=size), sinc_kernel)
        return (x.clamp(0, 1) * 255).round() / 255

    def _compressed(self, x: Tensor, options: Round) -> Tensor:
        """Return the images after JPEG, each of a random quality."""
        low, high = options.jpeg_range
        quality = torch.rand(len(x), device=x.device, dtype=x.dtype) * (high - low) + low
        return self.jpeg(x.clamp(0, 1), quality)


class PairPool:
    """A pool of pairs: a full one gives a random batch for each one that it takes.

    Until it is full, batches come back as they are. All pairs are on the device and of one size.

    Args:
        size: pairs in it.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self.filled = 0
        self.lq: Tensor | None = None
        self.gt: Tensor | None = None

    def exchange(self, lq: Tensor, gt: Tensor) -> tuple[Tensor, Tensor]:
        """Return a batch of as many pairs, and keep the given ones.

        Raises:
            ValueError: when the size is no multiple of the batch.
        """
        batch = len(lq)
        if self.size % batch:
            raise ValueError(f"queue_size: must be a multiple of the batch ({batch}), got {self.size}")
        if self.lq is None or self.gt is None:
            self.lq, self.gt = lq.new_zeros(self.size, *lq.shape[1:]), gt.new_zeros(self.size, *gt.shape[1:])
        if self.filled < self.size:
            self.lq[self.filled : self.filled + batch], self.gt[self.filled : self.filled + batch] = lq, gt
            self.filled += batch
            return lq, gt
        chosen = torch.randperm(self.size)[:batch].to(lq.device)
        drawn = self.lq[chosen], self.gt[chosen]
        self.lq[chosen], self.gt[chosen] = lq, gt
        return drawn

    def state_dict(self) -> dict[str, Any]:
        """Return the pairs that it holds, for a training state; whole multiples of 1/255 as bytes."""
        if self.lq is None or self.gt is None:
            return {}
        return {"lq": _packed(self.lq[: self.filled]), "gt": _packed(self.gt[: self.filled])}

    def load_state_dict(self, state: Mapping[str, Any], device: torch.device) -> None:
        """Hold the pairs of a training state; one of another size empties the pool."""
        self.filled, self.lq, self.gt = 0, None, None
        if state and len(state["lq"]) <= self.size:
            lq, gt = (_unpacked(state[key]).to(device) for key in ("lq", "gt"))
            self.filled = len(lq)
            self.lq, self.gt = (x.new_zeros(self.size, *x.shape[1:]) for x in (lq, gt))
            self.lq[: self.filled], self.gt[: self.filled] = lq, gt


def _resized(x: Tensor, **target: Any) -> Tensor:
    return F.interpolate(x, mode=random.choice(MODES), **target)


def _packed(x: Tensor) -> Tensor:
    """Return images as bytes where these give the same numbers, else as they are; on the CPU."""
    levels = (x * 255).round().clamp(0, 255).to(torch.uint8)
    return (levels if torch.equal(_unpacked(levels), x) else x.clone()).cpu()


def _unpacked(x: Tensor) -> Tensor:
    return x.float() / 255 if x.dtype == torch.uint8 else x
