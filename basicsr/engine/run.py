"""Start and end of a run: error messages, exit codes, processes, seeds, folders and log files."""

import logging
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from basicsr.config.faults import OptionFaultsError
from basicsr.config.load import copy_options_file, resolve
from basicsr.config.schema import Options
from basicsr.engine.atomic import check_folder, remove_leftovers
from basicsr.engine.device import keep_freed_memory, repeat_exactly, set_matmul_precision
from basicsr.engine.distributed import get_dist_info, init_dist, leave_process_group
from basicsr.engine.folder_lock import check_unlocked, folders_locked
from basicsr.engine.logging import init_logging, log_to_file, tensorboard_folder
from basicsr.engine.processes import watch_launcher
from basicsr.engine.random_state import seed_everything
from basicsr.engine.rank_monitor import start_rank_monitor, stop_rank_monitor
from basicsr.engine.shared_memory import shared_memory_hint
from basicsr.engine.signals import RunStoppedError
from basicsr.errors import CheckpointError, ImageReadError, IncompleteError, OptionError, UnknownNameError, first_line

logger = logging.getLogger("basicsr")
USER_ERRORS = (OptionError, UnknownNameError, CheckpointError, ImageReadError, IncompleteError, OSError)
T = TypeVar("T")


def run_command(prog: str, body: Callable[[], None]) -> int:
    """Run the body of a command and return its exit code.

    Returns:
        0 when it ends well; 1 when numbers are not finite; 2 for an error of the user, which is logged in one line (by
        one process a machine); when a training run has stopped early and saved its state, 128 + the signal (143, 130,
        129 and 138 after SIGTERM, SIGINT, SIGHUP and SIGUSR1), and 75 (under torchrun 0) because its time was up.

    Raises:
        Exception: any other error, with its traceback: it is a bug.
    """
    init_logging(int(os.environ.get("RANK", "0")))
    watch_launcher(logger.critical)  # before joining the process group, which may take half an hour
    keep_freed_memory()
    failure: BaseException | None = None
    try:
        body()
    except USER_ERRORS as error:
        failure = error
        if os.environ.get("LOCAL_RANK", "0") == "0":
            logger.critical("%s: %s", prog, shared_memory_hint(error) or _one_line(error))
        return 2
    except RunStoppedError as error:
        logger.warning("%s: %s", prog, error)
        return error.exit_code
    except KeyboardInterrupt:
        logger.warning("%s: stopped by SIGINT; what it had written is kept", prog)
        return 128 + signal.SIGINT
    except FloatingPointError as error:
        logger.critical("%s: %s", prog, error)
        return 1
    except Exception as error:  # logged as well, so that the log file holds the reason
        failure = error
        if hint := shared_memory_hint(error):
            failure = OSError(hint)
            logger.critical("%s: %s", prog, hint)
            return 2
        logger.critical("%s: %s: %s", prog, type(error).__name__, first_line(error))
        raise
    finally:
        stop_rank_monitor(failure)
        leave_process_group()
    return 0


def join_processes(
    options: Options, launcher: str, *, debug: bool = False, auto_resume: bool = False, force_resume: bool = False
) -> Options:
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
    start_rank_monitor(rank, world_size, timeout)
    seed_everything(options.manual_seed + rank)
    resolved = resolve(
        options,
        launcher=launcher,
        rank=rank,
        world_size=world_size,
        debug=debug,
        auto_resume=auto_resume,
        force_resume=force_resume,
    )
    if resolved.path.log is not None:  # now: data sets and networks may take minutes to be ready
        root = "experiments_root" if options.is_train else "results_root"
        read_on_rank0_and_broadcast(lambda: check_folder(str(resolved.path.log), f"path.{root}:"))
    return resolved


def read_on_rank0_and_broadcast(read: Callable[[], T]) -> T:
    """Call `read` in rank 0 and return its result in every process, which need not have access to the same storage.

    Raises:
        Exception: one of `USER_ERRORS` that `read` raises, in every process.
    """
    rank, world_size = get_dist_info()
    if world_size == 1:
        return read()
    answer: list[Any] = [None]
    if rank == 0:
        try:
            answer = [read()]
        except USER_ERRORS as error:
            answer = [error]
    dist.broadcast_object_list(answer)
    if isinstance(answer[0], Exception):
        raise answer[0]
    return answer[0]


@contextmanager
def run_folders_locked(options: Options) -> Iterator[None]:
    """Hold the locks of the run's folders in rank 0 for a `with` block, which contains all reading and writing there.

    Raises:
        OptionError: in every process, when another run uses one of the folders.
    """
    folders = [] if options.path.log is None else [Path(options.path.log)]
    trackers = tensorboard_folder(options)
    if options.is_train and (options.logger.use_tb_logger or trackers.exists()):  # an existing one is renamed
        folders.append(trackers)
    with ExitStack() as stack:
        read_on_rank0_and_broadcast(lambda: stack.enter_context(folders_locked(folders)))
        yield


def make_folders(options: Options, keep_existing: bool) -> None:
    """Make the run's folders and start its log file, in rank 0 while the others wait.

    Args:
        keep_existing: continue in an existing folder (resume), without the temporary files a crash left there.
            Otherwise the folder and its TensorBoard folder are renamed `<name>_archived_<time>`, never overwritten.
    """
    path = options.path
    if options.rank == 0 and path.log is not None:
        root, source = Path(path.log), Path(options.source) if options.source else None
        if not keep_existing:
            archive = archive_folder(root)
            if source is not None and not source.exists():  # it was in that folder
                source = archive / source.resolve().relative_to(root.resolve())
            if options.is_train:
                archive_folder(tensorboard_folder(options))
        for folder in (path.log, path.models, path.training_states, path.visualization):
            if folder is not None:
                Path(folder).mkdir(parents=True, exist_ok=True)
                remove_leftovers(folder)
        kind = "train" if options.is_train else "test"
        log_to_file(root / f"{kind}_{options.name}_{timestamp()}.log")
        if source is not None:
            copy_options_file(source, root)
    if options.dist:
        dist.barrier()
    if options.rank != 0 and path.log is not None:  # after the barrier, since the folder may have been renamed
        log_to_file(Path(path.log) / f"errors_rank{options.rank}.log", delay=True)


def archive_folder(folder: Path) -> Path:
    """Rename the folder, if it exists, and return its new path.

    Raises:
        OptionError: when another run uses it.
    """
    archive = folder.with_name(f"{folder.name}_archived_{timestamp()}")
    if folder.exists():
        check_unlocked(folder)
        folder.rename(archive)
        logger.warning("%s exists; it is kept as %s", folder, archive)
    return archive


def _one_line(error: Exception) -> str:
    """Return an error's message in one line: a list of faults below its first line is joined to it.

    Those of an option file stay one a line, for each is mended at another place.
    """
    if isinstance(error, OptionFaultsError):
        return str(error)
    first, *faults = (str(error) or repr(error)).splitlines()
    return " ".join([first, "; ".join(fault.strip() for fault in faults)]).strip()


def timestamp() -> str:
    """Return the current time for the name of a file."""
    return time.strftime("%Y%m%d_%H%M%S")
