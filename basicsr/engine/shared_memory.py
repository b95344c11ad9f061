"""What to do where shared memory is full: containers often have 64 MB, and loader processes hand over batches in it."""

import errno
import re
import shutil
import traceback
from pathlib import Path

FOLDER = "/dev/shm"
_FULL = re.compile(
    r"killed by signal: Bus error"  # by writing to a page that there is no memory for
    r"|</?torch_[^>]*>.*(No space left on device|Cannot allocate memory|Bus error)"
    r"|(unable to (allocate|write|resize|mmap)|insufficient|out of).{0,40}shared memory"
    r"|unable to write to file </?torch_"
    rf"|No space left on device: '?{FOLDER}/"
    rf"|shared memory segment {FOLDER}/",  # NCCL
    re.DOTALL,
)


def shared_memory_hint(error: BaseException) -> str:
    """Return what to do about an error that a full /dev/shm has caused, in one line; "" for other errors."""
    text = f"{error}\n{error.__cause__ or ''}\n{error.__context__ or ''}"
    if not (_FULL.search(text) or _is_of_a_semaphore(error)):
        return ""
    free = ""
    if Path(FOLDER).is_dir():
        usage = shutil.disk_usage(FOLDER)
        free = f" ({FOLDER}: {usage.total / 2**20:.0f} MiB, {usage.free / 2**20:.0f} of them free now)"
    return (
        f"shared memory is full, through which loader processes hand over their batches{free}; give the container more "
        "(docker run --shm-size=8g, or --ipc=host), use fewer loader processes (num_worker_per_gpu) or shorter queues "
        "(num_prefetch_queue), or none (num_worker_per_gpu: 0)"
    )


def _is_of_a_semaphore(error: BaseException) -> bool:
    """Return whether `multiprocessing` found no room for a semaphore, which is a file in /dev/shm without a name."""
    if not isinstance(error, OSError) or error.errno != errno.ENOSPC or error.filename is not None:
        return False
    return any(Path(frame.filename).name == "synchronize.py" for frame in traceback.extract_tb(error.__traceback__))
