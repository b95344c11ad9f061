"""The device of a run: which one, how exactly it computes, and how much memory it has left."""

import ctypes
import logging
import os
import platform
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

logger = logging.getLogger("basicsr")
# As PyTorch says it on CPU (Linux, Windows) and MPS, C++ itself, and oneDNN. On CUDA the error has a type of its own.
_FULL = re.compile(
    r"can't allocate memory|not enough memory|out of memory|bad[ _]alloc|could not create a (primitive|memory)",
    re.IGNORECASE,
)
UNKNOWN = 2 * 2**30  # bytes taken for free where the system says nothing
NO_LIMIT = 2**60  # what lies above is a way to say that there is no limit


def pick_device(num_gpu: int | str) -> torch.device:
    """The CPU for `num_gpu: 0`; otherwise this process's CUDA device, else MPS, else the CPU."""
    if num_gpu == 0:
        return torch.device("cpu")
    if torch.cuda.is_available():
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    if torch.backends.mps.is_available():
        return torch.device("mps")
    if num_gpu != "auto":
        logger.warning("num_gpu is %s, but there is no GPU here: using the CPU", num_gpu)
    return torch.device("cpu")


def keep_freed_memory() -> None:
    """Let malloc keep what is freed for the next image or step, instead of giving large buffers back each time.

    A buffer of over 32 MB got anew costs a page fault for every 4 KB: up to two fifths of the time of a large image.
    glibc only; the process keeps its peak. `BASICSR_MALLOC=0` leaves malloc alone.
    """
    if os.environ.get("BASICSR_MALLOC") == "0" or platform.libc_ver()[0] != "glibc":
        return
    libc = ctypes.CDLL(None)
    m_trim_threshold, m_mmap_max = -1, -4  # malloc.h
    libc.mallopt(m_mmap_max, 0)
    libc.mallopt(m_trim_threshold, 2**31 - 1)


def repeat_exactly() -> None:
    """Use only operations that repeat bit for bit on the same hardware; one without such a form raises RuntimeError."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when cuBLAS starts
    torch.backends.cudnn.benchmark = False  # which would choose algorithms by their time
    torch.backends.cudnn.deterministic = True
    torch.use_deterministic_algorithms(True)


def set_matmul_precision(precision: str) -> None:
    """Let float32 products of matrices and convolutions run with this precision, from here on, in the whole process.

    PyTorch by itself has convolutions on a GPU round their factors to TF32, 10 bits, but not products of matrices. Here
    both follow one setting.

    Args:
        precision: highest, float32 results; high, factors in TF32 where the GPU has it; medium, in bfloat16 where
            PyTorch has that, else as high.
    """
    torch.set_float32_matmul_precision(precision)
    torch.backends.cudnn.allow_tf32 = precision != "highest"


@contextmanager
def matmul_precision(precision: str) -> Iterator[None]:
    """`set_matmul_precision` for the block; afterwards both settings are as they were."""
    products, convolutions = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    set_matmul_precision(precision)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(products)
        torch.backends.cudnn.allow_tf32 = convolutions


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error means that memory did not suffice, of a GPU or of the machine."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and _FULL.search(str(error)) is not None


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
