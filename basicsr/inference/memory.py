"""How much memory there is, and how much a network takes for an image: what tiles are chosen by."""

import re
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

PROBES = (48, 96)  # px: sides of the images that a network is measured on
# For what the measured tensors do not hold: buffers inside an operation, and freed memory that cannot be used again.
# With CATANet and ATD the process grew by 1.4 to 1.5 times the measured peak.
MARGIN = 1.6

_UNITS = {"": 2**30, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


def parse_bytes(text: str) -> int:
    """Bytes of `2`, `2G`, `1.5 GB`, `800M`; a bare number counts GiB.

    Raises:
        ValueError: for anything else.
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?)(?:i?B)?\s*", text, re.IGNORECASE)
    if found is None or float(found[1]) <= 0:
        raise ValueError(f"expected an amount of memory such as 2G or 800M, got {text!r}")
    return int(float(found[1]) * _UNITS[found[2].upper()])


def peak_of(function: Callable[[Tensor], Any], x: Tensor) -> int:
    """The most bytes of tensors that were alive at a time while `function(x)` ran, without those from before it."""
    with torch.inference_mode(), _LiveBytes() as live:
        function(x)
    return live.peak


class Appetite:
    """The memory that a network takes for an image, judged by two small ones that it is tried on.

    Args:
        function: maps (1, C, h, w) to (1, D, s*h, s*w).
        channels: C.
        device: of its input.
    """

    def __init__(self, function: Callable[[Tensor], Tensor], channels: int, device: torch.device):
        self._function = function
        self._channels = channels
        self._device = device
        self._peaks: tuple[int, int] | None = None

    def __call__(self, height: int, width: int) -> int:
        """Bytes for an image of (height, width). They grow with its area, or faster where the two images say so."""
        if self._peaks is None:
            images = (torch.rand(1, self._channels, side, side, device=self._device) for side in PROBES)
            small, large = (max(1, peak_of(self._function, image)) for image in images)
            self._peaks = (small, large)
        small, large = self._peaks
        areas = [side**2 for side in PROBES]
        area = height * width
        power = 1.0
        while area > areas[1] and power < 2 and large / small > 1.15 * (areas[1] / areas[0]) ** power:
            power += 0.25
        return int(MARGIN * large * (area / areas[1]) ** power)


class _LiveBytes(TorchDispatchMode):
    """Counts the bytes of the tensors that operations made and that are still alive."""

    def __init__(self) -> None:
        super().__init__()
        self.peak = 0
        self._alive: dict[StorageWeakRef, int] = {}
        self._before: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        given = {leaf.untyped_storage()._cdata for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)}
        out = func(*args, **kwargs)
        for leaf in tree_leaves(out):
            if isinstance(leaf, Tensor):
                storage = leaf.untyped_storage()
                if storage._cdata not in given:
                    self._alive[StorageWeakRef(storage)] = storage.nbytes()
        self._alive = {ref: size for ref, size in self._alive.items() if not ref.expired()}
        self.peak = max(self.peak, sum(self._alive.values()))
        return out
