"""How much memory a network takes for an image, and which tiles fit into what there is.

Why an estimate, when `tiles_when_full` goes on in smaller tiles after an out-of-memory error: on a CPU there is no such
error. Linux hands out more memory than it has (a process on a machine of 24 GB got four tensors of 10 GiB each) and
kills the process that fills it. The error exists on GPUs, and where `ulimit` limits the address space.

The estimate counts the bytes of tensors on two small images. What the process grows by would be a poor measure of such
images: malloc keeps freed memory, Linux alone reports a peak, and it never falls.
"""

import math
import re
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from basicsr.engine.device import memory_limit, resident_bytes
from basicsr.errors import OptionError
from basicsr.inference.settings import TILES

PROBE_SIDES = (48, 96)  # px of the images that a network is measured on
# For what the counted tensors leave out: buffers inside an operation, and freed memory too scattered to be used again.
# With CATANet and ATD the process grew by 1.4 to 1.5 times the counted peak.
PEAK_MARGIN = 1.6
MEMORY_FRACTION = 0.8  # of the free memory, that `tile: auto` plans to use
MAX_BYTES_PER_PIXEL = 100 * 1024  # more than any network takes: with so much room an image needs no estimate
# px that go through the network of a CPU at a time, some ten seconds: progress is seen, and Ctrl-C is heard, in between
MAX_CPU_PIXELS = 2**20
MEGABYTE = 2**20

_UNITS = {"": 2**30, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


def parse_bytes(text: str) -> int:
    """Return the bytes of `2`, `2G`, `1.5 GB`, `800M`; a bare number counts GiB.

    Raises:
        ValueError: for anything else.
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?)(?:i?B)?\s*", text, re.IGNORECASE)
    if found is None or float(found[1]) <= 0:
        raise ValueError(f"expected an amount of memory such as 2G or 800M, got {text!r}")
    return int(float(found[1]) * _UNITS[found[2].upper()])


class TilePlanner:
    """Chooses tiles by memory.

    Args:
        forward: maps (1, C, h, w) to (1, C, s*h, s*w) on `device`, and never runs as a CUDA graph.
        channels: C.
        upscale: s.
        device: of the network.
        limit: bytes that this process should stay below; None: all that is free.
    """

    def __init__(
        self,
        forward: Callable[[Tensor], Tensor],
        channels: int,
        upscale: int,
        device: torch.device,
        limit: int | None = None,
    ):
        self.estimate_peak = PeakMemoryEstimator(torch.inference_mode()(forward), channels, device)
        self._band_bytes_per_pixel = 4 * channels * upscale**2  # float32
        self._device = device
        self._limit = limit
        self._free: int | None = None

    def check_limit(self) -> None:
        """Check that the limit suffices for a tile of the smallest side.

        Raises:
            OptionError: naming the least that does.
        """
        if self._limit is None:
            return
        least = self._least_limit(self._needed(TILES[-1], TILES[-1], TILES[-1], 1))
        if self._limit < least:
            raise OptionError(
                f"--memory: must be at least {_in_megabytes(least)} with this network, got "
                f"{_in_megabytes(self._limit)}; the program itself takes {_in_megabytes(resident_bytes())}"
            )

    def tile_for(self, height: int, width: int, count: int, held: int) -> int:
        """Return the side in px of the largest tiles that fit, at least the longer side of the image: no tiles.

        A band of tiles of the output in float32 comes on top of the network's peak. The free memory is asked for once,
        because what this process frees later stays its own.

        Args:
            height, width: of the image in px.
            count: images that go through the network together.
            held: bytes that the caller keeps besides.

        Raises:
            MemoryError: when the smallest tiles take more than the limit, naming the least that they need.
        """
        if self._free is None:
            self._free = memory_limit(self._device)
            if self._limit is not None:
                self._free = min(self._free, self._limit - resident_bytes())
        budget = MEMORY_FRACTION * self._free - held
        whole = max(height, width)
        is_quick = self._device.type != "cpu" or height * width * count <= MAX_CPU_PIXELS
        if is_quick and height * width * count * MAX_BYTES_PER_PIXEL <= budget:
            return whole
        for tile in (whole, *TILES) if is_quick else TILES:
            if self._needed(tile, height, width, count) <= budget:
                return tile
        needed = self._least_limit(self._needed(TILES[-1], height, width, count) + held)
        if self._limit is not None and self._limit < needed:
            raise MemoryError(
                f"an image of {width}x{height} px needs --memory {_in_megabytes(needed)} or more, "
                f"got {_in_megabytes(self._limit)}; a large output takes less of it with --ext png"
            )
        return TILES[-1]  # where that is still too much, `tiles_when_full` reports it

    def _needed(self, tile: int, height: int, width: int, count: int) -> float:
        """Return the bytes that `count` images of (height, width) take in tiles of a side."""
        h, w = min(tile, height), min(tile, width)
        band = 0 if tile >= max(height, width) else self._band_bytes_per_pixel * min(1.5 * tile, height) * width
        return self.estimate_peak(h * count, w) + band * count

    def _least_limit(self, needed: float) -> int:
        """Return the least limit that leaves so many bytes to plan with."""
        return resident_bytes() + int(needed / MEMORY_FRACTION)


class PeakMemoryEstimator:
    """Estimates the peak memory of a network for an image from its peaks on two small ones.

    Args:
        forward: maps (1, C, h, w) to (1, D, s*h, s*w).
        channels: C.
        device: of its input.
    """

    def __init__(self, forward: Callable[[Tensor], Tensor], channels: int, device: torch.device):
        self._forward = forward
        self._channels = channels
        self._device = device
        self._peaks: tuple[int, int] | None = None

    def __call__(self, height: int, width: int) -> int:
        """Return the bytes for an image of (height, width).

        They grow with the area, or with a power of it (up to 2) where they did so between the two small images.
        """
        if self._peaks is None:
            images = (torch.rand(1, self._channels, side, side, device=self._device) for side in PROBE_SIDES)
            small, large = (max(1, peak_tensor_bytes(self._forward, image)) for image in images)
            self._peaks = (small, large)
        small, large = self._peaks
        areas = [side**2 for side in PROBE_SIDES]
        area = height * width
        power = 1.0
        while area > areas[1] and power < 2 and large / small > 1.15 * (areas[1] / areas[0]) ** power:
            power += 0.25
        return int(PEAK_MARGIN * large * (area / areas[1]) ** power)


def peak_tensor_bytes(function: Callable[[Tensor], Any], x: Tensor) -> int:
    """Return the peak bytes of the tensors that `function(x)` made and that were alive at the same time."""
    with torch.inference_mode(), _LiveBytes() as live:
        function(x)
    return live.peak


class _LiveBytes(TorchDispatchMode):
    """Counts the bytes of tensors that operations made and that are still alive."""

    def __init__(self) -> None:
        super().__init__()
        self.peak = 0
        self._alive: dict[StorageWeakRef, int] = {}

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Return False: nothing is compiled here, and PyTorch would import its compiler, 160 MB and some seconds."""
        return False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        inputs = {leaf.untyped_storage()._cdata for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)}
        out = func(*args, **kwargs)
        for leaf in tree_leaves(out):
            if isinstance(leaf, Tensor) and (storage := leaf.untyped_storage())._cdata not in inputs:
                self._alive[StorageWeakRef(storage)] = storage.nbytes()
        self._alive = {ref: size for ref, size in self._alive.items() if not ref.expired()}
        self.peak = max(self.peak, sum(self._alive.values()))
        return out


def _in_megabytes(count: float) -> str:
    """Return bytes as the option takes them, rounded up: `812M`."""
    return f"{math.ceil(count / MEGABYTE)}M"
