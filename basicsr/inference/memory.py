"""How much memory there is, and how much a network takes for an image: what tiles are chosen by."""

import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

UNKNOWN = 2 * 2**30  # bytes taken for free where the system says nothing
NO_LIMIT = 2**60  # what lies above is a way to say that there is no limit
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


def memory_limit(device: torch.device) -> int:
    """Bytes that this process can still take on `device`, as far as the system says.

    On a CPU the least of what the machine has available, what the control groups of the process leave it, and what
    its resource limits do.
    """
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    if device.type == "mps":
        return int(torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory())
    known = [*_machine(), *_control_groups(), *_resource_limits()]
    return max(0, min(known)) if known else UNKNOWN


def resident_bytes() -> int:
    """What this process holds of the machine's memory; 0 where the system does not say."""
    return _status("VmRSS") or 0


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


def _machine() -> list[int]:
    """What the machine has available."""
    meminfo = _read("/proc/meminfo")
    found = re.search(r"^MemAvailable:\s+(\d+) kB", meminfo, re.MULTILINE)
    if found:
        return [int(found[1]) * 1024]
    try:  # macOS: nothing says what is in use, so half of all
        return [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2]
    except (AttributeError, ValueError, OSError):
        return []


def _control_groups(proc: str = "/proc/self/cgroup", root: str = "/sys/fs/cgroup") -> list[int]:
    """What the control groups of this process leave it, each of them and those around it; versions 1 and 2."""
    left = []
    for line in _read(proc).splitlines():
        _, controllers, path = [*line.split(":", 2), "", ""][:3]
        if controllers not in ("", "memory") and "memory" not in controllers.split(","):
            continue
        base = Path(root) / "memory" if controllers else Path(root)
        names = ("memory.limit_in_bytes", "memory.usage_in_bytes") if controllers else ("memory.max", "memory.current")
        inside = Path(path.lstrip("/"))
        for folder in dict.fromkeys((base / inside, *(base / parent for parent in inside.parents), base)):
            limit, used = (_read(folder / name).strip() for name in names)
            if limit.isdigit() and used.isdigit() and int(limit) < NO_LIMIT:
                cached = re.search(r"^(?:total_)?inactive_file (\d+)$", _read(folder / "memory.stat"), re.MULTILINE)
                left.append(int(limit) - int(used) + (int(cached[1]) if cached else 0))  # caches are given back
    return left


def _resource_limits() -> list[int]:
    """What `ulimit -v` and `ulimit -d` leave."""
    if sys.platform == "win32":
        return []
    import resource

    left = []
    for limit, field in ((resource.RLIMIT_AS, "VmSize"), (resource.RLIMIT_DATA, "VmData")):
        soft, used = resource.getrlimit(limit)[0], _status(field)
        if soft != resource.RLIM_INFINITY and soft < NO_LIMIT and used is not None:
            left.append(soft - used)
    return left


def _status(field: str) -> int | None:
    found = re.search(rf"^{field}:\s+(\d+) kB", _read("/proc/self/status"), re.MULTILINE)
    return int(found[1]) * 1024 if found else None


def _read(path: str | Path) -> str:
    """The text of a file of the system; "" where there is none."""
    try:
        return Path(path).read_text(encoding="utf-8")
    except OSError:
        return ""
