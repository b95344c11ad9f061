"""Logging of a run: one logger called `basicsr`, a console, a file, TensorBoard and Weights & Biases.

The text of the log lines is an interface: plot scripts (and `plot_util.read_log`) read it.
"""

import logging
import logging.handlers
import sys
import time
from collections import deque
from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

from tqdm import tqdm

from basicsr.config.schema import Options
from basicsr.engine.distributed import get_dist_info

FORMAT = "%(asctime)s %(levelname)s: %(message)s"


class _Console(logging.Handler):
    """Messages on stderr, above a progress bar that may be showing there."""

    def emit(self, record: logging.LogRecord) -> None:
        tqdm.write(self.format(record), file=sys.stderr)


class _File(logging.FileHandler):
    """Messages in a file, whose folder is made when it is opened."""

    def _open(self) -> Any:
        Path(self.baseFilename).parent.mkdir(parents=True, exist_ok=True)
        return super()._open()


def get_root_logger(
    logger_name: str = "basicsr", log_level: int = logging.INFO, log_file: str | None = None
) -> logging.Logger:
    """The logger of everything here, or another one.

    Args:
        logger_name: another one has no handlers of its own before this asks for a file.
        log_level: of that file.
        log_file: also written to, from now on; rank 0 only.
    """
    found = logging.getLogger(logger_name)
    if log_file is not None and get_dist_info()[0] == 0:
        handler = logging.FileHandler(log_file, "w", encoding="utf-8")
        handler.setFormatter(logging.Formatter(FORMAT))
        handler.setLevel(log_level)
        found.setLevel(min(log_level, found.level or log_level))
        found.addHandler(handler)
    return found


def init_logging(rank: int = 0) -> None:
    """Show messages on the console (rank 0: all; others: errors); remember them until `log_to_file` knows the file."""
    logger = get_root_logger()
    for handler in list(logger.handlers):
        logger.removeHandler(handler)
    logger.setLevel(logging.INFO if rank == 0 else logging.ERROR)
    logger.propagate = False
    console = _Console()
    memory = logging.handlers.MemoryHandler(capacity=10_000, flushLevel=logging.CRITICAL + 1, flushOnClose=False)
    for handler in (console, memory):
        handler.setFormatter(logging.Formatter(FORMAT))
        logger.addHandler(handler)


def log_to_file(path: str | Path, delay: bool = False) -> None:
    """Write all messages, those since `init_logging` included, to `path` too; with `delay`, only once there is one."""
    logger = get_root_logger()
    file = _File(path, encoding="utf-8", delay=delay)
    file.setFormatter(logging.Formatter(FORMAT))
    for handler in list(logger.handlers):
        if isinstance(handler, logging.handlers.MemoryHandler):
            handler.setTarget(file)
            handler.flush()
            logger.removeHandler(handler)
    logger.addHandler(file)


class MessageLogger:
    """The line that a training run writes every `print_freq` iterations.

    Args:
        name: of the run; its first 5 characters stand in the line. Or the options of the run, as in BasicSR.
        start_iter: iterations done before this process started; they do not count for the time that is left.
        total_iter: of the whole run; None: as the options say.
        tb_logger: a `SummaryWriter` for what a mapping logs (see `__call__`), if the options want TensorBoard.
    """

    def __init__(self, name: str | Mapping[str, Any], start_iter: int = 1, total_iter: int | None = None,
                 tb_logger: Any = None):  # fmt: skip
        options: Mapping[str, Any] = {} if isinstance(name, str) else name
        self.name = name if isinstance(name, str) else str(name["name"])
        self.start_iter = start_iter
        self.total_iter = int(options["train"]["total_iter"]) if total_iter is None else total_iter
        self.tb_logger = tb_logger if options and options["logger"].get("use_tb_logger") else None
        self.start_time = time.monotonic()

    def reset_start_time(self) -> None:
        """Let the time that is left count from now."""
        self.start_time = time.monotonic()

    def __call__(self, epoch: int | Mapping[str, Any], it: int = 0, lrs: Sequence[float] = (), iter_time: float = 0.0,
                 data_time: float = 0.0, losses: Mapping[str, float] | None = None) -> None:  # fmt: skip
        """Log one line; times are seconds an iteration.

        As in BasicSR, one mapping may hold everything: `{"epoch", "iter", "lrs", "time", "data_time"}` and the losses.
        """
        losses = losses or {}
        if not isinstance(epoch, int):
            given = dict(epoch)
            epoch, it, lrs = int(given.pop("epoch")), int(given.pop("iter")), given.pop("lrs")
            iter_time, data_time = given.pop("time", 0.0), given.pop("data_time", 0.0)
            losses = given
            if self.tb_logger is not None and "debug" not in self.name:
                for key, value in losses.items():
                    self.tb_logger.add_scalar(f"losses/{key}" if key.startswith("l_") else key, value, it)
        elapsed = time.monotonic() - self.start_time
        left = elapsed / max(it - self.start_iter, 1) * (self.total_iter - it)
        rates = "".join(f"{lr:.3e}," for lr in lrs)
        values = " ".join(f"{key}: {value:.4e}" for key, value in losses.items())
        get_root_logger().info(
            f"[{self.name[:5]}..][epoch:{epoch:3d}, iter:{it:8,d}, lr:({rates})] "
            f"[eta: {timedelta(seconds=int(left))}, time (data): {iter_time:.3f} ({data_time:.3f})] {values}"
        )


def tensorboard_folder(options: Options) -> Path:
    """Where the TensorBoard files of a run are, below the current folder."""
    return Path("tb_logger") / options.name


class Trackers:
    """TensorBoard and Weights & Biases, where the options ask for them; rank 0 only."""

    def __init__(self, options: Options):
        self.tensorboard: Any = None
        self.wandb: Any = None
        if options.rank != 0:
            return
        wandb_options = options.logger.wandb
        if wandb_options is not None and wandb_options.project is not None:
            self.wandb = _init_wandb(options)
        if options.logger.use_tb_logger:
            from torch.utils.tensorboard import SummaryWriter

            self.tensorboard = SummaryWriter(log_dir=str(tensorboard_folder(options)))

    def scalars(self, values: Mapping[str, float], it: int) -> None:
        """Log values under tags such as `losses/l_pix` and `metrics/Set5/psnr`."""
        if self.tensorboard is not None:
            for tag, value in values.items():
                self.tensorboard.add_scalar(tag, value, it)
        if self.wandb is not None:
            self.wandb.log(dict(values), step=it)

    def close(self) -> None:
        """End both."""
        if self.tensorboard is not None:
            self.tensorboard.close()
        if self.wandb is not None:
            self.wandb.finish()


def _init_wandb(options: Options) -> Any:
    import wandb

    wandb_options = options.logger.wandb
    if wandb_options is None:
        return None
    resume = "allow" if wandb_options.resume_id else None
    return wandb.init(project=wandb_options.project, name=options.name, id=wandb_options.resume_id, resume=resume,
                      config=options.to_dict())  # fmt: skip


class AvgTimer:
    """Seconds between calls of `record`, and their mean over the last `window` of them."""

    def __init__(self, window: int = 200):
        self.window = window
        self.start()

    def start(self) -> None:
        """Begin now, with no past."""
        self.last = time.perf_counter()
        self.times: deque[float] = deque(maxlen=self.window)

    def record(self) -> None:
        """Take the time since the last call, or since the start."""
        now = time.perf_counter()
        self.times.append(now - self.last)
        self.last = now

    def get_current_time(self) -> float:
        """Of the last call."""
        return self.times[-1]

    def get_avg_time(self) -> float:
        """Mean over the window."""
        return sum(self.times) / len(self.times)


def init_tb_logger(log_dir: str) -> Any:
    """A TensorBoard writer in rank 0; None elsewhere."""
    if get_dist_info()[0] != 0:
        return None
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(log_dir=log_dir)


def get_env_info() -> str:
    """The versions of what the results depend on."""
    import torch
    import torchvision

    from basicsr.version import __version__

    return (
        f"Version Information:\n\tBasicSR: {__version__}\n\tPyTorch: {torch.__version__}"
        f"\n\tTorchVision: {torchvision.__version__}"
    )
