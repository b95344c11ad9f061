"""The step of a training run: gradients of a batch, whether they are finite, what the optimizers make of them."""

import json
import logging
from collections.abc import Hashable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from basicsr.compat.hooks import PluginHooks
from basicsr.engine.checkpoint import newest_state
from basicsr.engine.cuda_graphs import CudaBackend
from basicsr.engine.distributed import all_reduce_sum, gather_objects
from basicsr.engine.optimizer_groups import parameters_of
from basicsr.engine.plan_cache import PLANS
from basicsr.engine.step_graphs import GraphedStep, Outcome, doubt, obstacle

logger = logging.getLogger("basicsr")


@dataclass(frozen=True)
class LastStep:
    """What is known of the step that was made last, to say what was wrong with it."""

    iteration: int
    losses: dict[str, Tensor]
    finite: Tensor
    """bool (), whether losses and gradients were finite, the same in all processes."""
    files: list[str]

    @property
    def is_finite(self) -> bool:
        """Reads `finite`, for which a GPU must end its work."""
        return bool(self.finite)


class TrainingStep(PluginHooks):
    """The part of `BaseModel` that takes a step."""

    scaler: torch.amp.GradScaler
    grad_norms: list[Tensor]
    """of each optimizer's parameters, before clipping, if they are clipped."""
    graphs: GraphedStep | None = None
    """what takes the steps on CUDA, where it can."""
    _last: LastStep | None = None
    _skipped = 0  # steps, since this process began

    def compute_losses(self, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        """The weighted losses of a batch by name, each a scalar; their sum is minimised."""
        raise NotImplementedError

    def after_backward(self, current_iter: int) -> None:
        """Between the gradients of a step and the step itself; nothing here."""

    def autocast(self) -> Any:
        """Mixed precision where `train.amp` asks for it: float16 with the scaler, which is there on CUDA alone."""
        if self.opt.train is None or self.opt.train.mixed_precision is None:
            return nullcontext()
        dtype = torch.float16 if self.scaler.is_enabled() else torch.bfloat16
        return torch.autocast(self.device.type, dtype=dtype)

    def minimise(self, batch: Mapping[str, Any], current_iter: int) -> None:
        """One optimizer step on a batch, cut into `accum_iter` parts whose gradients are averaged.

        A step whose losses or gradient are not finite in one of the processes is taken in none of them. With
        `train.nan: skip` it is left out, `train.nan_limit` times: parameters, buffers, moving average and optimizers
        stay as they were. Otherwise the run ends. On a GPU without `skip` the check waits until the losses are read,
        for it would stall every step.

        Raises:
            FloatingPointError: see `check_finite`.
        """
        train = self.opt.train
        if train is None:
            raise ValueError("train: a training step needs the train options")
        if self.graphs is not None:
            key = self.graph_key(current_iter)
            outcome = self.graphs(lambda fed: self.whole_step(fed, current_iter), batch, key)
            self._last = LastStep(current_iter, outcome.losses, outcome.finite, _files_of(batch))
            self.log, self.grad_norms = outcome.losses, outcome.grad_norms
            return
        skips = train.nan == "skip"
        buffers = _kept_buffers(self.get_bare_model(self.net_g)) if skips else {}
        losses, finite = self.compute_gradients(batch)
        self._last = LastStep(current_iter, losses, finite, _files_of(batch))
        if skips and not self._last.is_finite:
            self._skip(current_iter, buffers)
            return
        self.log = losses
        if self.device.type == "cpu":
            self.check_finite(current_iter)
        self.apply_gradients(current_iter)

    def setup_graphs(self) -> None:
        """Let CUDA graphs take the steps, where `train.cuda_graph` and the model allow it.

        Raises:
            OptionError: when they are asked for and cannot be had.
        """
        train = self.opt.train
        if not self.is_train or train is None or train.cuda_graph is False:
            return
        if self.device.type != "cuda":
            if train.cuda_graph:
                logger.info("train.cuda_graph: there are none on %s; the run goes on without", self.device.type)
            return
        problem = self.graph_obstacle()
        if problem and train.cuda_graph:
            raise (train.where / "cuda_graph").error(f"cannot be had, for {problem}; leave it out, or change that")
        if problem := problem or ("" if train.cuda_graph else self.graph_doubt()):
            logger.info("Without CUDA graphs in training: %s", problem)
            return
        self.graphs = GraphedStep(CudaBackend(self.device, PLANS.recorded), lambda: parameters_of(self.optimizers))

    def graph_obstacle(self) -> str:
        """Why steps cannot be repeated by a CUDA graph, in words; "" where they can."""
        return obstacle(self)

    def graph_doubt(self) -> str:
        """Why they should not be without being asked for, in words; "" where they may."""
        return doubt(self)

    def whole_step(self, batch: Mapping[str, Any], current_iter: int) -> Outcome:
        """All of a step that happens on the device, without a look at its numbers: what a CUDA graph repeats."""
        losses, finite = self.compute_gradients(batch)
        self.apply_gradients(current_iter)
        return Outcome(losses, finite, self.grad_norms)

    def graph_key(self, current_iter: int) -> Hashable:
        """What iteration `current_iter` does by Python's decision; steps of equal keys are the same on the device.

        Shapes of batches count by themselves.
        """
        return ()

    def compute_gradients(self, batch: Mapping[str, Any]) -> tuple[dict[str, Tensor], Tensor]:
        """The gradients of a batch, in its parts.

        Returns:
            the losses by name, and bool (), whether they and the gradients are finite in all processes.
        """
        for optimizer in self.optimizers:
            optimizer.zero_grad()
        parts = split_batch(batch, self.opt.train.accum_iter if self.opt.train else 1)
        totals: dict[str, Tensor] = {}
        for i, part in enumerate(parts):
            last = i == len(parts) - 1
            wait = isinstance(self.net_g, DistributedDataParallel) and not last
            with self.net_g.no_sync() if wait else nullcontext():  # type: ignore[operator]
                with self.autocast():
                    losses = self.compute_losses(part)
                total = sum(losses.values(), torch.zeros((), device=self.device)) / len(parts)
                self.scaler.scale(total).backward()
            for name, loss in losses.items():
                totals[name] = totals.get(name, 0) + loss.detach() / len(parts)
        return totals, self._all_finite(totals)

    def apply_gradients(self, current_iter: int) -> None:
        """Clip the gradients and let optimizers and moving average take them in."""
        train = self.opt.train
        learning = [o for o in self.optimizers if any(p.grad is not None for p in parameters_of([o]))]
        for optimizer in learning:
            self.scaler.unscale_(optimizer)
        self.after_backward(current_iter)
        if train is not None and train.largest_norm is not None:
            limit = train.largest_norm
            self.grad_norms = [nn.utils.clip_grad_norm_(parameters_of([o]), limit) for o in self.optimizers]
        for optimizer in learning:  # the scaler takes no step without gradients
            self.scaler.step(optimizer)
        self.scaler.update()
        self.model_ema(train.ema_decay if train else 0.0)

    def check_finite(self, current_iter: int) -> None:
        """Stop where the last step was not finite in some process, or a loss in `self.log` is not.

        Names the files of the batch in the log and in `non_finite.jsonl`, beside the log. Checkpoints are not touched,
        so the newest is the last good state.

        Raises:
            FloatingPointError: naming the iteration, the values, the files and the newest checkpoint.
        """
        last = self._last
        files: list[str] = []
        if last is not None and not last.is_finite:
            found, files = self._record(last, "stop")
        elif not all(np.isfinite([float(value) for value in self.log.values()])):
            found = f"the loss is not finite ({_spoken(self.log)})"
        else:
            return
        newest = newest_state(str(self.opt.path.training_states)) if self.opt.path.training_states else None
        raise FloatingPointError(
            f"iteration {current_iter}: {found}; lower the learning rate, add warm-up (train.warmup_iter) or gradient "
            "clipping (train.grad_clip), or leave such batches out (train.nan: skip), and continue from the last "
            f"checkpoint ({newest or 'there is none yet'}); the batch's files are {', '.join(files) or 'not known'}"
        )

    def _all_finite(self, losses: Mapping[str, Tensor]) -> Tensor:
        """Whether all losses and gradients are finite in every process; a tensor, for reading it stalls a GPU."""
        values = [loss.detach().float() for loss in losses.values()]
        if not self.scaler.is_enabled():  # float16 overflows now and then; the scaler leaves such steps out
            grads = [p.grad for p in parameters_of(self.optimizers) if p.grad is not None]
            values.append(nn.utils.get_total_norm(grads).to(self.device, torch.float32))
        wrong = (~torch.stack(values).isfinite()).any().float()
        return all_reduce_sum(wrong) == 0

    def _skip(self, current_iter: int, buffers: Mapping[str, Tensor]) -> None:
        """Undo what the forward pass of the last step has changed, and say so.

        Raises:
            FloatingPointError: when `train.nan_limit` steps have been skipped before.
        """
        limit = self.opt.train.nan_limit if self.opt.train else 0
        for optimizer in self.optimizers:
            optimizer.zero_grad()
        self.get_bare_model(self.net_g).load_state_dict(buffers, strict=False)
        if self._skipped >= limit:
            logger.error("train.nan_limit: %d steps have been skipped already", self._skipped)
            self.check_finite(current_iter)
        self._skipped += 1
        if self._last is not None:
            found, files = self._record(self._last, "skip")
            logger.warning("iteration %d: %s; skipped (%d of at most %d), the files are %s", current_iter, found,
                           self._skipped, limit, ", ".join(files))  # fmt: skip
        self._last = None

    def _record(self, last: "LastStep", action: Literal["skip", "stop"]) -> tuple[str, list[str]]:
        """Add a step that was not finite to `non_finite.jsonl`; all processes call it.

        Returns:
            what was not finite, in words, and the files of all processes.
        """
        values = {name: float(value) for name, value in last.losses.items()}
        shares = gather_objects((values, last.files))
        files = [file for _, share in shares for file in share]
        if self.opt.rank == 0 and self.opt.path.log is not None:
            line = {"iter": last.iteration, "action": action, "files": files,
                    "losses": [{name: str(value) for name, value in share.items()} for share, _ in shares]}  # fmt: skip
            path = Path(self.opt.path.log) / "non_finite.jsonl"
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line, ensure_ascii=False) + "\n")
        everything = [value for share, _ in shares for value in share.values()]
        what = "the gradient is not finite, the loss is" if all(np.isfinite(everything)) else "the loss is not finite"
        by_rank = [f"rank {k}: {_spoken(share)}" for k, (share, _) in enumerate(shares)]
        return f"{what} ({'; '.join(by_rank) if len(shares) > 1 else _spoken(values)})", files


def split_batch(batch: Mapping[str, Any], parts: int) -> list[dict[str, Any]]:
    """Cut a batch into `parts` equal ones along the first axis of its tensors and lists.

    Raises:
        ValueError: when the batch does not divide.
    """
    size = len(next(iter(batch.values())))
    if size % parts:
        raise ValueError(f"accum_iter: a batch of {size} does not divide into {parts} parts")
    step = size // parts
    return [{key: value[i : i + step] for key, value in batch.items()} for i in range(0, size, step)]


def _kept_buffers(net: nn.Module) -> dict[str, Tensor]:
    """Copies of the buffers in the network's state dict, which a forward pass may write to."""
    learned = {name for name, _ in net.named_parameters()}
    return {
        name: value.clone()
        for name, value in net.state_dict().items()
        if name not in learned and isinstance(value, Tensor)
    }


def _files_of(batch: Mapping[str, Any]) -> list[str]:
    """The names of a batch's files: those of the ground truth, else of the input."""
    return [str(path) for path in batch.get("gt_path", batch.get("lq_path", []))]


def _spoken(losses: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={float(value)}" for name, value in losses.items())
