"""BasicSR 1.4's helpers for logs that only plug-ins use."""

import logging
import time
from collections import deque
from collections.abc import Mapping
from typing import Any

import torch
import torchvision

from basicsr.engine import logging as engine_logging
from basicsr.engine.distributed import get_dist_info
from basicsr.text import ERRORS
from basicsr.version import __version__


def get_root_logger(
    logger_name: str = "basicsr", log_level: int = logging.INFO, log_file: str | None = None
) -> logging.Logger:
    """Return the logger of this package, or another one.

    Args:
        logger_name: another one has no handler until a call names a file.
        log_level: of that file.
        log_file: file to write to as well from now on; rank 0 only.
    """
    found = logging.getLogger(logger_name)
    if log_file is not None:
        log_to_terminal()
    if log_file is not None and get_dist_info()[0] == 0:
        handler = logging.FileHandler(log_file, "w", encoding="utf-8", errors=ERRORS)
        handler.setFormatter(logging.Formatter(engine_logging.FORMAT))
        handler.setLevel(log_level)
        found.setLevel(min(log_level, found.level or log_level))
        found.addHandler(handler)
    return found


def log_to_terminal() -> None:
    """Show the log of this package in the terminal, in a script of a plug-in's own, as the commands do."""
    if not logging.getLogger("basicsr").handlers:
        engine_logging.init_logging(get_dist_info()[0])


class MessageLogger:
    """The line that a training run logs, from one mapping of values.

    Args:
        opt: the options of the run.
        start_iter: iterations before this process started.
        tb_logger: a `SummaryWriter` for the values, if the options ask for TensorBoard.
    """

    def __init__(self, opt: Mapping[str, Any], start_iter: int = 1, tb_logger: Any = None):
        self.name = str(opt["name"])
        self.tb_logger = tb_logger if opt["logger"].get("use_tb_logger") and "debug" not in self.name else None
        self._log = engine_logging.MessageLogger(self.name, start_iter, int(opt["train"]["total_iter"]))

    def reset_start_time(self) -> None:
        """Let the estimate of the time left count from now."""
        self._log.start_time = time.monotonic()

    def __call__(self, log_vars: Mapping[str, Any]) -> None:
        """Log one line of `{"epoch", "iter", "lrs", "time", "data_time"}` (times in seconds) and the losses."""
        losses = dict(log_vars)
        epoch, it, lrs = int(losses.pop("epoch")), int(losses.pop("iter")), losses.pop("lrs")
        iter_time, data_time = losses.pop("time", 0.0), losses.pop("data_time", 0.0)
        self._log(epoch, it, lrs, iter_time, data_time, losses)
        if self.tb_logger is not None:
            for key, value in losses.items():
                self.tb_logger.add_scalar(f"losses/{key}" if key.startswith("l_") else key, value, it)


class AvgTimer:
    """Time between calls of `record` in seconds, and its mean over the last `window` calls."""

    def __init__(self, window: int = 200):
        self.window = window
        self.start()

    def start(self) -> None:
        """Forget all times and start now."""
        self.last = time.perf_counter()
        self.times: deque[float] = deque(maxlen=self.window)

    def record(self) -> None:
        """Take the time since the last call, or since the start."""
        now = time.perf_counter()
        self.times.append(now - self.last)
        self.last = now

    def get_current_time(self) -> float:
        """Return the last time."""
        return self.times[-1]

    def get_avg_time(self) -> float:
        """Return the mean of the times in the window."""
        return sum(self.times) / len(self.times)


def init_tb_logger(log_dir: str) -> Any:
    """Return a TensorBoard writer in rank 0, None elsewhere."""
    if get_dist_info()[0] != 0:
        return None
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(log_dir=log_dir)


def init_wandb_logger(opt: Mapping[str, Any]) -> None:
    """Begin a run of Weights & Biases that follows TensorBoard, as `logger.wandb` of the options says; rank 0 only."""
    settings = opt["logger"].get("wandb") or {}
    if get_dist_info()[0] != 0 or not settings.get("project"):
        return
    import wandb

    resume_id = settings.get("resume_id")
    wandb.init(
        id=resume_id or wandb.util.generate_id(),
        resume="allow" if resume_id else None,
        name=opt["name"],
        config=dict(opt),
        project=settings["project"],
        sync_tensorboard=True,
    )


def get_env_info() -> str:
    """Return the versions of this package, PyTorch and TorchVision, one a line."""
    return (
        f"Version Information:\n\tBasicSR: {__version__}\n\tPyTorch: {torch.__version__}"
        f"\n\tTorchVision: {torchvision.__version__}"
    )
