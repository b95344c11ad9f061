"""Logging of a run: one logger called `basicsr`, a console, a file, TensorBoard and Weights & Biases.

The text of the log lines is an interface: plot scripts (and `plot_util.read_log`) read it.
"""

import logging
import logging.handlers
import sys
import time
from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

from tqdm import tqdm

from basicsr.utils.options import Options

FORMAT = "%(asctime)s %(levelname)s: %(message)s"


class _Console(logging.Handler):
    """Messages on stderr, above a progress bar that may be showing there."""

    def emit(self, record: logging.LogRecord) -> None:
        tqdm.write(self.format(record), file=sys.stderr)


def get_root_logger() -> logging.Logger:
    """The logger of everything here."""
    return logging.getLogger("basicsr")


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


def log_to_file(path: str | Path) -> None:
    """Write all messages, those since `init_logging` included, to `path` too."""
    logger = get_root_logger()
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    file = logging.FileHandler(path, encoding="utf-8")
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
        name: of the run; its first 5 characters stand in the line.
        start_iter: iterations done before this process started; they do not count for the time that is left.
        total_iter: of the whole run.
    """

    def __init__(self, name: str, start_iter: int, total_iter: int):
        self.name = name
        self.start_iter = start_iter
        self.total_iter = total_iter
        self.start_time = time.monotonic()

    def __call__(self, epoch: int, it: int, lrs: Sequence[float], iter_time: float, data_time: float,
                 losses: Mapping[str, float]) -> None:  # fmt: skip
        """Log one line; times are seconds an iteration."""
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
