"""The log of a run: one logger called `basicsr`, a console, a file, TensorBoard and Weights & Biases.

The text of the log lines is an interface: `basicsr.engine.curves.read_log` and the users' own scripts parse it.
"""

import logging
import logging.handlers
import os
import select
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

from tqdm import tqdm

from basicsr.config.schema import Options
from basicsr.text import ERRORS, encodable

STDERR = 2  # file descriptor
FORMAT = "%(asctime)s %(levelname)s: %(message)s"
logger = logging.getLogger("basicsr")


class _Console(logging.Handler):
    """Writes messages to stderr, above a progress bar that may be there."""

    def emit(self, record: logging.LogRecord) -> None:
        drop_closed_stderr()
        with suppress(OSError):  # closed since
            tqdm.write(self.format(record), file=sys.stderr)


class _Stderr:
    """The stderr of this process, for a progress bar that must not end the run when nobody reads it any more."""

    def write(self, text: str) -> None:
        drop_closed_stderr()
        with suppress(OSError):
            sys.stderr.write(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(sys.stderr, name)


class _File(logging.FileHandler):
    """Writes messages to a file, whose folder is made when the file is opened."""

    def _open(self) -> Any:
        Path(self.baseFilename).parent.mkdir(parents=True, exist_ok=True)
        return super()._open()


def drop_closed_stderr() -> None:
    """Send stderr to nowhere where its reader is gone: a closed terminal, or a `| tee` that Ctrl-C has ended.

    Progress bars and libraries would otherwise end the run by an OSError, before it has saved its state.
    """
    if not hasattr(select, "poll"):
        return
    poll = select.poll()
    poll.register(STDERR, 0)
    if any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0)):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, STDERR)
        os.close(nowhere)


def init_logging(rank: int = 0) -> None:
    """Show messages on the console (rank 0: all; others: errors) and keep them for the file of `log_to_file`."""
    for handler in list(logger.handlers):
        logger.removeHandler(handler)
    logger.setLevel(logging.INFO if rank == 0 else logging.ERROR)
    logger.propagate = False
    memory = logging.handlers.MemoryHandler(capacity=10_000, flushLevel=logging.CRITICAL + 1, flushOnClose=False)
    for handler in (_Console(), memory):
        handler.setFormatter(logging.Formatter(FORMAT))
        logger.addHandler(handler)


def log_to_file(path: str | Path, delay: bool = False) -> None:
    """Write all messages, those since `init_logging` included, to `path` too.

    Args:
        delay: make the file only when there is a message.
    """
    file = _File(path, encoding="utf-8", delay=delay, errors=ERRORS)
    file.setFormatter(logging.Formatter(FORMAT))
    for handler in list(logger.handlers):
        if isinstance(handler, logging.handlers.MemoryHandler):
            handler.setTarget(file)
            handler.flush()
            logger.removeHandler(handler)
    logger.addHandler(file)


class MessageLogger:
    """The line that a training run logs every `print_freq` iterations.

    Args:
        name: of the run; the line shows its first 5 characters.
        start_iter: iterations before this process started; they do not count for the estimate of the time left.
        total_iter: of the whole run.
    """

    def __init__(self, name: str, start_iter: int, total_iter: int):
        self.name = name
        self.start_iter = start_iter
        self.total_iter = total_iter
        self.start_time = time.monotonic()

    def __call__(
        self,
        epoch: int,
        it: int,
        lrs: Sequence[float],
        iter_time: float,
        data_time: float,
        losses: Mapping[str, float],
    ) -> None:
        """Log one line; times are seconds an iteration."""
        elapsed = time.monotonic() - self.start_time
        left = elapsed / max(it - self.start_iter, 1) * (self.total_iter - it)
        rates = "".join(f"{lr:.3e}," for lr in lrs)
        values = " ".join(f"{key}: {value:.4e}" for key, value in losses.items())
        logger.info(
            f"[{self.name[:5]}..][epoch:{epoch:3d}, iter:{it:8,d}, lr:({rates})] "
            f"[eta: {timedelta(seconds=int(left))}, time (data): {iter_time:.3f} ({data_time:.3f})] {values}"
        )


def tensorboard_folder(options: Options) -> Path:
    """Return the folder of a run's TensorBoard files, relative to the current folder."""
    return Path("tb_logger") / options.name


class Trackers:
    """TensorBoard and Weights & Biases, where the options ask for them; rank 0 only."""

    def __init__(self, options: Options):
        self.tensorboard: Any = None
        self.wandb: Any = None
        if options.rank != 0:
            return
        if options.logger.wandb is not None and options.logger.wandb.project is not None:
            import wandb

            resume_id = options.logger.wandb.resume_id
            self.wandb = wandb.init(
                project=options.logger.wandb.project,
                name=options.name,
                id=resume_id,
                resume="allow" if resume_id else None,
                config=options.to_dict(),
            )
        if options.logger.use_tb_logger:
            from torch.utils.tensorboard import SummaryWriter

            self.tensorboard = SummaryWriter(log_dir=str(tensorboard_folder(options)))

    def scalars(self, values: Mapping[str, float], it: int) -> None:
        """Log values under tags such as `losses/l_pix` and `metrics/Set5/psnr`."""
        if self.tensorboard is not None:
            for tag, value in values.items():
                self.tensorboard.add_scalar(encodable(tag), value, it)
        if self.wandb is not None:
            self.wandb.log(dict(values), step=it)

    def close(self) -> None:
        """Close both."""
        if self.tensorboard is not None:
            self.tensorboard.close()
        if self.wandb is not None:
            self.wandb.finish()


class RunLog:
    """All that shows the progress of a training run: the bar, the log and the trackers.

    Args:
        start_iter: iterations before this process started.
        total_iter: of the whole run.
    """

    def __init__(self, options: Options, start_iter: int, total_iter: int):
        self.message = MessageLogger(options.name, start_iter, total_iter)
        self.trackers = Trackers(options)
        self.bar = tqdm(
            total=total_iter,
            initial=start_iter,
            desc=options.name,
            unit="it",
            file=_Stderr(),
            disable=options.rank != 0 or None,  # None: also where nobody watches, in the log file of a scheduler
            mininterval=0.5,
        )

    def iteration(
        self,
        epoch: int,
        it: int,
        lrs: Sequence[float],
        iter_time: float,
        data_time: float,
        losses: Mapping[str, float],
    ) -> None:
        """Log the losses, the learning rates and the times (seconds) of an iteration."""
        self.message(epoch, it, lrs, iter_time, data_time, losses)
        self.trackers.scalars({**{f"losses/{name}": value for name, value in losses.items()}, "lr": lrs[0]}, it)

    def scores(self, dataset: str, mean: Mapping[str, float], it: int, text: str) -> None:
        """Log the mean scores of a test set, and `text` about them."""
        logger.info(text)
        self.trackers.scalars({f"metrics/{dataset}/{metric}": value for metric, value in mean.items()}, it)
