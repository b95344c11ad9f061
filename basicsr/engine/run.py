"""What surrounds a run: its processes, device, seeds and folders."""

import logging
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from basicsr.config.schema import Options, copy_options_file, resolve
from basicsr.engine.device import keep_freed_memory, repeat_exactly, set_matmul_precision
from basicsr.engine.distributed import get_dist_info, init_dist
from basicsr.engine.logging import get_root_logger, init_logging, log_to_file, tensorboard_folder
from basicsr.engine.peers import end_watch, watch_peers
from basicsr.engine.random_state import seed_everything
from basicsr.engine.signals import RunStoppedError
from basicsr.errors import CheckpointError, OptionError, UnknownNameError, first_line

logger = logging.getLogger("basicsr")
MISTAKES = (OptionError, UnknownNameError, CheckpointError, OSError)
T = TypeVar("T")


def run_command(prog: str, body: Callable[[], None]) -> int:
    """Run the body of a command: 0 when it ends well, 2 with one line on stderr for the user's mistakes.

    1 when the numbers went wrong; 143 and 130 when SIGTERM or SIGINT stopped it (a training run has then saved its
    state). Our own bugs keep their traceback. Of several processes on one machine, one speaks.
    """
    init_logging(int(os.environ.get("RANK", "0")))
    keep_freed_memory()
    failure: BaseException | None = None
    try:
        body()
    except MISTAKES as error:
        failure = error
        if os.environ.get("LOCAL_RANK", "0") == "0":
            get_root_logger().critical("%s: %s", prog, _one_line(error))
        return 2
    except RunStoppedError as error:
        get_root_logger().warning("%s: %s", prog, error)
        return error.exit_code
    except KeyboardInterrupt:
        get_root_logger().warning("%s: stopped by SIGINT; nothing new was saved", prog)
        return 128 + signal.SIGINT
    except FloatingPointError as error:
        get_root_logger().critical("%s: %s", prog, error)
        return 1
    except Exception as error:  # the log, too, should say why it ends here
        failure = error
        get_root_logger().critical("%s: %s: %s", prog, type(error).__name__, first_line(error))
        raise
    finally:
        end_watch(failure)
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
    return 0


def join_processes(options: Options, launcher: str, *, debug: bool = False, auto_resume: bool = False,
                   force_resume: bool = False) -> Options:  # fmt: skip
    """Join the process group if there is one, seed everything, and return the options resolved for this process."""
    backend = options.dist_params.backend
    if backend == "nccl" and (options.num_gpu == 0 or not torch.cuda.is_available()):
        backend = "gloo"
    if options.deterministic:
        repeat_exactly()
    set_matmul_precision(options.matmul_precision)
    timeout = options.dist_params.timeout
    init_dist(launcher, backend, options.dist_params.port, timeout)  # type: ignore[arg-type]
    rank, world_size = get_dist_info()
    watch_peers(rank, world_size, timeout)
    seed_everything(options.manual_seed + rank)
    return resolve(options, launcher=launcher, rank=rank, world_size=world_size, debug=debug, auto_resume=auto_resume,
                   force_resume=force_resume)  # fmt: skip


def read_once(read: Callable[[], T]) -> T:
    """What `read` returns in rank 0, in every process, so that they need not see the same storage; its errors too."""
    rank, world_size = get_dist_info()
    if world_size == 1:
        return read()
    answer: list[Any] = [None]
    if rank == 0:
        try:
            answer = [read()]
        except MISTAKES as error:
            answer = [error]
    dist.broadcast_object_list(answer)
    if isinstance(answer[0], Exception):
        raise answer[0]
    return answer[0]


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
            archive = archive_folder(root)
            if source is not None and not source.exists():  # it lay in that folder
                source = archive / source.resolve().relative_to(root.resolve())
            if options.is_train:
                archive_folder(tensorboard_folder(options))
        for folder in (path.log, path.models, path.training_states, path.visualization):
            if folder is not None:
                Path(folder).mkdir(parents=True, exist_ok=True)
        kind = "train" if options.is_train else "test"
        log_to_file(root / f"{kind}_{options.name}_{timestamp()}.log")
        if source is not None:
            copy_options_file(source, root)
    if options.dist:
        torch.distributed.barrier()
    if options.rank != 0 and path.log is not None:  # only now, for the folder may just have been renamed
        log_to_file(Path(path.log) / f"errors_rank{options.rank}.log", delay=True)


def archive_folder(folder: Path) -> Path:
    """Rename the folder, if there is one; returns its new name."""
    archive = folder.with_name(f"{folder.name}_archived_{timestamp()}")
    if folder.exists():
        folder.rename(archive)
        logger.warning("%s exists; it is kept as %s", folder, archive)
    return archive


def _one_line(error: Exception) -> str:
    """A message with a list of faults below its first line, as a sentence."""
    first, *faults = (str(error) or repr(error)).splitlines()
    return " ".join([first, "; ".join(fault.strip() for fault in faults)]).strip()


def timestamp() -> str:
    """Now, for the name of a file."""
    return time.strftime("%Y%m%d_%H%M%S")
