"""Steps whose losses or gradients are not finite: who had them, a line in `non_finite.jsonl`, and the error."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from torch import Tensor

from basicsr.config.schema import Options
from basicsr.engine.checkpoint import newest_state
from basicsr.engine.distributed import gather_objects
from basicsr.text import ERRORS

NON_FINITE_LOSS = "the loss is not finite"


@dataclass(frozen=True)
class LastStep:
    """The facts about the last step that an error message names."""

    iteration: int
    losses: dict[str, Tensor]
    finite: Tensor
    """bool (), whether losses and gradients were finite, the same in all processes."""
    files: list[str]
    """of the batch."""

    @property
    def is_finite(self) -> bool:
        """`finite` as a Python value; reading it makes the CPU wait for the GPU."""
        return bool(self.finite)


def files_of(batch: Mapping[str, Any]) -> list[str]:
    """Return the names of a batch's files: those of the ground truth, else of the input."""
    return [str(path) for path in batch.get("gt_path", batch.get("lq_path", []))]


def are_finite(losses: Mapping[str, Any]) -> bool:
    """Return whether all losses are finite; reads them from the device."""
    return bool(np.isfinite([float(value) for value in losses.values()]).all())


def record_non_finite(step: LastStep, action: Literal["skip", "stop"], opt: Options) -> tuple[str, list[str]]:
    """Add a step that was not finite to `non_finite.jsonl`, next to the log; all processes call it.

    Returns:
        a description of the values that were not finite, and the files of all processes.
    """
    values = {name: float(value) for name, value in step.losses.items()}
    shares = gather_objects((values, step.files))
    files = [file for _, share in shares for file in share]
    if opt.rank == 0 and opt.path.log is not None:
        losses = [{name: str(value) for name, value in share.items()} for share, _ in shares]
        line = {"iter": step.iteration, "action": action, "files": files, "losses": losses}
        path = Path(opt.path.log) / "non_finite.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8", errors=ERRORS) as file:
            file.write(json.dumps(line, ensure_ascii=False) + "\n")
    culprit = "the gradient is not finite, the loss is" if all(are_finite(s) for s, _ in shares) else NON_FINITE_LOSS
    by_rank = [f"rank {rank}: {format_losses(share)}" for rank, (share, _) in enumerate(shares)]
    return f"{culprit} ({'; '.join(by_rank) if len(shares) > 1 else format_losses(values)})", files


def non_finite_error(
    current_iter: int, problem: str, opt: Options, files: list[str] | None = None
) -> FloatingPointError:
    """Return the error that ends a run: iteration, values, files, remedies and the newest checkpoint.

    Args:
        current_iter: iterations done, with this one.
        problem: what is not finite.
        opt: of the run.
        files: of the batch; None: a plug-in took the step by itself, so that it could be neither clipped nor skipped.
    """
    newest = newest_state(str(opt.path.training_states)) if opt.path.training_states else None
    if files is None:
        own = f"{opt.model_type}.optimize_parameters"
        remedy = f"clip gradients in {own}, where train.grad_clip and train.nan have no effect"
    elif opt.train is not None and opt.train.nan == "skip":
        remedy = "add gradient clipping (train.grad_clip), or allow more skipped steps (train.nan_limit)"
    else:
        remedy = "add gradient clipping (train.grad_clip), or leave such batches out (train.nan: skip)"
    return FloatingPointError(
        f"iteration {current_iter}: {problem}; lower the learning rate, add warm-up (train.warmup_iter), {remedy}, and "
        f"continue from the last checkpoint ({newest or 'there is none yet'}); the batch's files are "
        f"{', '.join(files or ()) or 'not known'}"
    )


def format_losses(losses: Mapping[str, Any]) -> str:
    """Return losses as `name=value, ...`."""
    return ", ".join(f"{name}={float(value)}" for name, value in losses.items())
