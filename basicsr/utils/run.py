"""What surrounds a run: its processes, device, seeds and folders."""

import ctypes
import logging
import os
import platform
import random
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from basicsr.utils.dist_util import get_dist_info, init_dist
from basicsr.utils.errors import CheckpointError, OptionError, UnknownNameError
from basicsr.utils.logger import get_root_logger, init_logging, log_to_file, tensorboard_folder
from basicsr.utils.options import Options, copy_options_file, resolve

logger = logging.getLogger("basicsr")
MISTAKES = (OptionError, UnknownNameError, CheckpointError, OSError)


def run_command(prog: str, body: Callable[[], None]) -> int:
    """Run the body of a command: 0 when it ends well, 2 with one line on stderr for the user's mistakes.

    Our own bugs keep their traceback. Of several processes on one machine, one speaks.
    """
    init_logging(int(os.environ.get("RANK", "0")))
    keep_freed_memory()
    try:
        body()
    except MISTAKES as error:
        if os.environ.get("LOCAL_RANK", "0") == "0":
            get_root_logger().critical("%s: %s", prog, _one_line(error))
        return 2
    except FloatingPointError as error:
        get_root_logger().critical("%s: %s", prog, error)
        return 1
    finally:
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
    return 0


def join_processes(options: Options, launcher: str, *, debug: bool = False, auto_resume: bool = False) -> Options:
    """Join the process group if there is one, seed everything, and return the options resolved for this process."""
    backend = options.dist_params.backend
    if backend == "nccl" and (options.num_gpu == 0 or not torch.cuda.is_available()):
        backend = "gloo"
    init_dist(launcher, backend, options.dist_params.port)  # type: ignore[arg-type]
    rank, world_size = get_dist_info()
    seed_everything(options.manual_seed + rank)
    return resolve(options, launcher=launcher, rank=rank, world_size=world_size, debug=debug, auto_resume=auto_resume)


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


def seed_everything(seed: int) -> None:
    """Seed Python, NumPy and PyTorch, all devices."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


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


def make_folders(options: Options, keep_existing: bool) -> None:
    """Make the run's folders and start its log file; rank 0 does it, the others wait.

    Args:
        keep_existing: the run goes on in its folder (resume). Otherwise an existing folder is renamed
            `<name>_archived_<time>`, never overwritten, and so is its TensorBoard folder.
    """
    path = options.path
    if options.rank == 0 and path.log is not None:
        root, source = Path(path.log), Path(options.source) if options.source else None
        if not keep_existing:
            archive = _archive(root)
            if source is not None and not source.exists():  # it lay in that folder
                source = archive / source.resolve().relative_to(root.resolve())
            if options.is_train:
                _archive(tensorboard_folder(options))
        for folder in (path.log, path.models, path.training_states, path.visualization):
            if folder is not None:
                Path(folder).mkdir(parents=True, exist_ok=True)
        kind = "train" if options.is_train else "test"
        log_to_file(root / f"{kind}_{options.name}_{_timestamp()}.log")
        if source is not None:
            copy_options_file(source, root)
    if options.dist:
        torch.distributed.barrier()


def _archive(folder: Path) -> Path:
    """Rename the folder, if there is one; returns its new name."""
    archive = folder.with_name(f"{folder.name}_archived_{_timestamp()}")
    if folder.exists():
        folder.rename(archive)
        logger.warning("%s exists; it is kept as %s", folder, archive)
    return archive


def _one_line(error: Exception) -> str:
    """A message with a list of faults below its first line, as a sentence."""
    first, *faults = (str(error) or repr(error)).splitlines()
    return " ".join([first, "; ".join(fault.strip() for fault in faults)]).strip()


def _timestamp() -> str:
    return time.strftime("%Y%m%d_%H%M%S")
