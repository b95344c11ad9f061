"""One step of a training run: mixed precision, accumulated gradients, clipping, optimizers, CUDA graphs."""

import logging
from collections.abc import Hashable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from basicsr.config.schema import Options
from basicsr.engine.cuda_graphs import CudaBackend, Keep
from basicsr.engine.distributed import all_reduce_sum
from basicsr.engine.non_finite import (
    NON_FINITE_LOSS,
    LastStep,
    are_finite,
    files_of,
    format_losses,
    non_finite_error,
    record_non_finite,
)
from basicsr.engine.optimizer_groups import parameters_of
from basicsr.engine.step_graphs import GraphedStep, Outcome
from basicsr.engine.wrapper import bare_network

logger = logging.getLogger("basicsr")


class Trainable(Protocol):
    """The part of a model that a step uses."""

    opt: Options
    device: torch.device
    net_g: nn.Module
    optimizers: list[torch.optim.Optimizer]

    @property
    def trained_networks(self) -> Sequence[nn.Module]:
        """The networks whose buffers a step may change."""
        ...

    def compute_losses(self, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        """Return the weighted losses of a batch by name, each a scalar; their sum is minimised."""
        ...

    def after_backward(self, current_iter: int) -> None:
        """Change the gradients of a step before they are clipped and applied."""
        ...

    def update_ema(self) -> None:
        """Take the network into the moving average."""
        ...

    def check_finite(self, current_iter: int) -> None:
        """Raise FloatingPointError where the last step was not finite."""
        ...

    def graph_key(self, current_iter: int) -> Hashable:
        """Return a key that is equal for steps that do the same on the device."""
        ...

    def graph_obstacle(self) -> str:
        """Return why steps cannot be repeated by a CUDA graph; "" where they can."""
        ...

    def graph_doubt(self) -> str:
        """Return why graphs might change the results; "" where nothing is known."""
        ...


class TrainingStep:
    """Takes the optimizer steps of a model.

    Args:
        model: its losses, optimizers and moving average.
        keep: a context that collects the cached tensors which CUDA graphs must keep; see `CudaBackend`.
    """

    def __init__(self, model: Trainable, keep: Keep = nullcontext) -> None:
        self._model = model
        self._keep = keep
        self._train = train = model.opt.train
        is_fp16 = train is not None and train.mixed_precision == "fp16"
        device_type = model.device.type
        self.scaler = torch.amp.GradScaler(device_type, enabled=is_fp16 and device_type == "cuda")
        """of float16 gradients; only on CUDA."""
        if model.opt.is_train and is_fp16 and not self.scaler.is_enabled():
            logger.info("float16 training needs CUDA; on %s it is bfloat16, without a scaler", device_type)
        self.grad_norms: list[Tensor] = []
        """before clipping, of each optimizer's parameters; empty where gradients are not clipped."""
        self.graphs: GraphedStep | None = None
        """takes the steps as CUDA graphs, where they may be used."""
        self._last: LastStep | None = None
        self._skipped = 0  # steps, since this process began

    def __call__(self, batch: Mapping[str, Any], current_iter: int) -> dict[str, Tensor] | None:
        """Take one optimizer step on a batch, cut into `accum_iter` parts whose gradients are averaged.

        A step whose losses or gradients are not finite in one of the processes is taken in none of them. With
        `train.nan: skip` it is left out, `train.nan_limit` times: parameters, buffers, moving average and optimizers
        stay as they were. Otherwise the run ends. On a GPU without `skip` the check waits until the losses are read,
        because it would stall every step.

        Returns:
            the losses by name, or None where the step was skipped.

        Raises:
            FloatingPointError: see `check_finite`.
        """
        model, train = self._model, self._train
        if train is None:
            raise ValueError("train: a training step needs the train options")
        if self.graphs is not None:
            key = model.graph_key(current_iter)
            outcome = self.graphs(lambda fed: self._without_checks(fed, current_iter), batch, key)
            self._last = LastStep(current_iter, outcome.losses, outcome.finite, files_of(batch))
            self.grad_norms = outcome.grad_norms
            return outcome.losses
        skips = train.nan == "skip"
        buffers = [_copied_buffers(bare_network(net)) for net in model.trained_networks] if skips else []
        losses, finite = self._compute_gradients(batch)
        self._last = LastStep(current_iter, losses, finite, files_of(batch))
        if skips and not self._last.is_finite:
            self._skip(self._last, buffers)
            return None
        if model.device.type == "cpu":
            model.check_finite(current_iter)
        self._apply_gradients(current_iter)
        return losses

    def setup_graphs(self) -> None:
        """Let CUDA graphs take the steps, where `train.cuda_graph` and the model allow it.

        Raises:
            OptionError: when `train.cuda_graph: true` meets an obstacle.
        """
        model, train = self._model, self._train
        if not model.opt.is_train or train is None or train.cuda_graph is False:
            return
        if model.device.type != "cuda":
            if train.cuda_graph:
                logger.info("train.cuda_graph: there are none on %s; the run goes on without", model.device.type)
            return
        obstacle = model.graph_obstacle()
        if obstacle and train.cuda_graph:
            raise (train.where / "cuda_graph").error(
                f"cannot be used, because {obstacle}; leave it out, or change that"
            )
        if problem := obstacle or ("" if train.cuda_graph else model.graph_doubt()):
            logger.info("Without CUDA graphs in training: %s", problem)
            return
        self.graphs = GraphedStep(CudaBackend(model.device, self._keep), lambda: parameters_of(model.optimizers))

    def check_finite(self, current_iter: int, losses: Mapping[str, Tensor]) -> None:
        """Stop where the last step was not finite in some process, or one of `losses` is not.

        Names the files of the batch in the log and in `non_finite.jsonl`, next to the log. Checkpoints are not touched,
        so the newest is the last good state.

        Args:
            current_iter: for the message.
            losses: of a model that takes its steps by itself.

        Raises:
            FloatingPointError: naming the iteration, the values, the files and the newest checkpoint.
        """
        if self._last is not None and not self._last.is_finite:
            problem, files = record_non_finite(self._last, "stop", self._model.opt)
            raise non_finite_error(current_iter, problem, self._model.opt, files)
        if not are_finite(losses):
            problem = f"{NON_FINITE_LOSS} ({format_losses(losses)})"
            raise non_finite_error(current_iter, problem, self._model.opt)

    def _without_checks(self, batch: Mapping[str, Any], current_iter: int) -> Outcome:
        """Do all that a step does on the device without reading its numbers: the part that a CUDA graph repeats."""
        losses, finite = self._compute_gradients(batch)
        self._apply_gradients(current_iter)
        return Outcome(losses, finite, self.grad_norms)

    def _compute_gradients(self, batch: Mapping[str, Any]) -> tuple[dict[str, Tensor], Tensor]:
        """Compute the gradients of a batch, part by part.

        Returns:
            the losses by name, and bool (), whether they and the gradients are finite in all processes.
        """
        model = self._model
        for optimizer in model.optimizers:
            optimizer.zero_grad()
        parts = split_batch(batch, self._train.accum_iter if self._train else 1)
        totals: dict[str, Tensor] = {}
        for i, part in enumerate(parts):
            is_last = i == len(parts) - 1
            is_local = isinstance(model.net_g, DistributedDataParallel) and not is_last
            with model.net_g.no_sync() if is_local else nullcontext():  # type: ignore[operator]
                with self._autocast():
                    losses = model.compute_losses(part)
                total = sum(losses.values(), torch.zeros((), device=model.device)) / len(parts)
                self.scaler.scale(total).backward()
            for name, loss in losses.items():
                totals[name] = totals.get(name, 0) + loss.detach() / len(parts)
        return totals, self._all_finite(totals)

    def _apply_gradients(self, current_iter: int) -> None:
        """Clip the gradients and update parameters and moving average."""
        model, limit = self._model, self._train.max_grad_norm if self._train else None
        learning = [o for o in model.optimizers if any(p.grad is not None for p in parameters_of([o]))]
        for optimizer in learning:
            self.scaler.unscale_(optimizer)
        model.after_backward(current_iter)
        if limit is not None:
            self.grad_norms = [nn.utils.clip_grad_norm_(parameters_of([o]), limit) for o in model.optimizers]
        for optimizer in learning:  # the scaler takes no step without gradients
            self.scaler.step(optimizer)
        self.scaler.update()
        model.update_ema()

    def _autocast(self) -> AbstractContextManager[Any]:
        """Return mixed precision where `train.amp` asks for it; float16 only with the scaler."""
        if self._train is None or self._train.mixed_precision is None:
            return nullcontext()
        dtype = torch.float16 if self.scaler.is_enabled() else torch.bfloat16
        return torch.autocast(self._model.device.type, dtype=dtype)

    def _all_finite(self, losses: Mapping[str, Tensor]) -> Tensor:
        """Return bool (), whether losses and gradients are finite in all processes; reading it would stall a GPU."""
        values = [loss.detach().float() for loss in losses.values()]
        if not self.scaler.is_enabled():  # float16 overflows now and then; the scaler leaves such steps out
            gradients = [p.grad for p in parameters_of(self._model.optimizers) if p.grad is not None]
            values.append(nn.utils.get_total_norm(gradients).to(self._model.device, torch.float32))
        wrong = (~torch.stack(values).isfinite()).any().float()
        return all_reduce_sum(wrong) == 0

    def _skip(self, last: LastStep, buffers: Sequence[Mapping[str, Tensor]]) -> None:
        """Undo the changes that the forward pass of the last step made to buffers, and log that it is skipped.

        Raises:
            FloatingPointError: when `train.nan_limit` steps have been skipped before.
        """
        model, limit = self._model, self._train.nan_limit if self._train else 0
        for optimizer in model.optimizers:
            optimizer.zero_grad()
        for net, before in zip(model.trained_networks, buffers, strict=True):
            bare_network(net).load_state_dict(before, strict=False)
        if self._skipped >= limit:
            logger.error("train.nan_limit: %d steps have been skipped already", self._skipped)
            model.check_finite(last.iteration)
        self._skipped += 1
        problem, files = record_non_finite(last, "skip", model.opt)
        count = f"{self._skipped} of at most {limit}"
        logger.warning(
            "iteration %d: %s; skipped (%s), the files are %s", last.iteration, problem, count, ", ".join(files)
        )
        self._last = None


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


def _copied_buffers(net: nn.Module) -> dict[str, Tensor]:
    """Return copies of the buffers in the network's state dict, which a forward pass may write to."""
    learned = {name for name, _ in net.named_parameters()}
    return {
        name: value.clone()
        for name, value in net.state_dict().items()
        if name not in learned and isinstance(value, Tensor)
    }
