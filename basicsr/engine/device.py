"""The device of a run: its choice, its numeric precision and its free memory."""

import ctypes
import logging
import os
import platform
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

logger = logging.getLogger("basicsr")
# Messages of PyTorch on CPU (Linux, Windows) and MPS, of C++, and of oneDNN. On CUDA the error has its own type.
OUT_OF_MEMORY = re.compile(
    r"can't allocate memory|not enough memory|out of memory|bad[ _]alloc|could not create a (primitive|memory)",
    re.IGNORECASE,
)
UNKNOWN_MEMORY = 2 * 2**30  # bytes assumed to be available where the system has no number


def pick_device(num_gpu: int | str) -> torch.device:
    """Return the CPU for `num_gpu: 0`; otherwise this process's CUDA device, else MPS, else the CPU."""
    if num_gpu == 0:
        return torch.device("cpu")
    if torch.cuda.is_available():
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    if torch.backends.mps.is_available():
        return torch.device("mps")
    if num_gpu != "auto":
        logger.warning("num_gpu is %s, but there is no GPU here: using the CPU", num_gpu)
    return torch.device("cpu")


def to_float64(x: Tensor) -> Tensor:
    """Return `x` in float64 on its device; on the CPU if that is MPS, which has no float64."""
    return (x.cpu() if x.device.type == "mps" else x).double()


def keep_freed_memory() -> None:
    """Make malloc keep freed memory for the next image or step, instead of returning large buffers to the system.

    A new buffer of over 32 MB costs a page fault for every 4 KB: up to two fifths of the time of a large image. glibc
    only; the process keeps its peak memory. `BASICSR_MALLOC=0` turns this off.
    """
    if os.environ.get("BASICSR_MALLOC") == "0" or platform.libc_ver()[0] != "glibc":
        return
    libc = ctypes.CDLL(None)
    m_trim_threshold, m_mmap_max = -1, -4  # malloc.h
    libc.mallopt(m_mmap_max, 0)
    libc.mallopt(m_trim_threshold, 2**31 - 1)


def repeat_exactly() -> None:
    """Allow only operations that repeat bit for bit on the same hardware; PyTorch raises RuntimeError at others."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when cuBLAS starts
    torch.backends.cudnn.benchmark = False  # it would choose algorithms by their measured time
    torch.backends.cudnn.deterministic = True
    torch.use_deterministic_algorithms(True)


def set_matmul_precision(precision: str) -> None:
    """Set the precision of float32 matrix products and convolutions in this process.

    By default PyTorch rounds the factors of convolutions on a GPU to TF32 (10 bits), but not those of matrix products.
    Here both follow one setting.

    Args:
        precision: highest: float32; high: factors in TF32 if the GPU has it; medium: factors in bfloat16 if PyTorch
            has such a kernel, else as high.
    """
    torch.set_float32_matmul_precision(precision)
    torch.backends.cudnn.allow_tf32 = precision != "highest"


@contextmanager
def matmul_precision(precision: str) -> Iterator[None]:
    """Set the precision in a block, as `set_matmul_precision` does, and restore it afterwards.

    The setting is one of the process. Blocks of one precision run in several threads at a time; another thread that
    wants another precision waits for their end, so a block must not start one of another precision.
    """
    with _PRECISION.held(precision):
        yield


class _SharedPrecision:
    """The precision that threads share while they are in blocks that want the same one."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._users = 0
        self._current = ""
        self._before = ("", False)

    @contextmanager
    def held(self, precision: str) -> Iterator[None]:
        """Hold a precision in a block; wait while other threads hold another one."""
        with self._changed:
            self._changed.wait_for(lambda: self._users == 0 or self._current == precision)
            if self._users == 0:
                self._before = (torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32)
                set_matmul_precision(precision)
            self._users, self._current = self._users + 1, precision
        try:
            yield
        finally:
            with self._changed:
                self._users -= 1
                if self._users == 0:
                    torch.set_float32_matmul_precision(self._before[0])
                    torch.backends.cudnn.allow_tf32 = self._before[1]
                    self._changed.notify_all()


_PRECISION = _SharedPrecision()


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error means that the memory of a GPU or of the machine was insufficient."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and OUT_OF_MEMORY.search(str(error)) is not None


def memory_limit(device: torch.device) -> int:
    """Return the bytes of memory that this process can still take on `device`.

    On a CPU, the least of what the machine has available and what the control groups of the process leave it: in a
    container, a process that takes more is killed without an error that it could catch. Resource limits (`ulimit`) are
    not read, since exceeding them raises an error.
    """
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    if device.type == "mps":
        return int(torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory())
    return max(0, min([_available_memory(), *_control_group_memory()]))


def resident_bytes() -> int:
    """Return the bytes of the machine's memory that this process holds; 0 where the system has no such number."""
    found = re.search(r"^VmRSS:\s+(\d+) kB", _read("/proc/self/status"), re.MULTILINE)
    return int(found[1]) * 1024 if found else 0


def _available_memory() -> int:
    """Return the bytes that the machine has available."""
    if found := re.search(r"^MemAvailable:\s+(\d+) kB", _read("/proc/meminfo"), re.MULTILINE):
        return int(found[1]) * 1024
    try:  # macOS has no such number, so half of its memory
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    except (AttributeError, ValueError, OSError):
        return UNKNOWN_MEMORY


def _control_group_memory(proc: str = "/proc/self/cgroup", root: str = "/sys/fs/cgroup") -> list[int]:
    """Return the bytes that each control group of this process leaves it, parents included; versions 1 and 2."""
    left = []
    for line in _read(proc).splitlines():
        _, controllers, group = line.split(":", 2)
        if controllers == "":  # version 2
            base, limit_name, usage_name = Path(root), "memory.max", "memory.current"
        elif "memory" in controllers.split(","):
            base, limit_name, usage_name = Path(root) / "memory", "memory.limit_in_bytes", "memory.usage_in_bytes"
        else:
            continue
        folder = base / group.lstrip("/")
        for place in (folder, *folder.parents):
            limit, usage = _read(place / limit_name).strip(), _read(place / usage_name).strip()
            if limit.isdigit() and usage.isdigit():  # not "max"; 2**63 or so, which means no limit, does no harm
                cache = re.search(r"^(?:total_)?inactive_file (\d+)$", _read(place / "memory.stat"), re.MULTILINE)
                left.append(int(limit) - int(usage) + (int(cache[1]) if cache else 0))  # caches are given back
    return left


def _read(path: str | Path) -> str:
    """Return the text of a file of the system; "" if there is none."""
    try:
        return Path(path).read_text(encoding="utf-8")
    except OSError:
        return ""
