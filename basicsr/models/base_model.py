"""What every model has: device, networks, optimizer step, EMA, checkpoints. A new model overrides `compute_losses`."""

import json
import logging
import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from basicsr.metrics.evaluate import Scores
from basicsr.models.lr_scheduler import build_schedule, learning_rate
from basicsr.models.optimizer_groups import (
    arguments_on,
    load_state,
    misfit,
    parameters_of,
    plain_state,
    put_rates_on_device,
    rate_of,
    set_rate,
)
from basicsr.models.plugin_hooks import PluginHooks
from basicsr.utils.checkpoint import load_weights, mismatch, newest_state, save_atomically, select_weights
from basicsr.utils.dist_util import all_reduce_sum, gather_objects, master_only, reduce_mean_dict
from basicsr.utils.errors import CheckpointError
from basicsr.utils.options import Options
from basicsr.utils.registry import OPTIMIZER_REGISTRY
from basicsr.utils.run import pick_device
from basicsr.version import __version__

logger = logging.getLogger("basicsr")


class EMA(AveragedModel):
    """Exponential moving average of a network's parameters; its buffers follow the network's.

    CATANet keeps its token centres in buffers, so a copy with stale buffers would be another network.
    """

    def __init__(self, net: nn.Module, decay: float):
        super().__init__(net)
        self._average = get_ema_multi_avg_fn(decay)
        self.n_averaged.fill_(1)  # the average starts at the network's initial weights
        self.requires_grad_(False)

    @torch.no_grad()
    def update_parameters(self, model: nn.Module) -> None:
        """Take in the network after a step; all of it on the device, so that it can be part of a CUDA graph.

        `n_averaged` stays as it is, for nothing depends on it.
        """
        pairs = [(p.detach(), q.detach()) for p, q in zip(self.module.parameters(), model.parameters(), strict=True)]
        for is_float in (True, False):  # PyTorch's function looks at the first of a list alone
            alike = [pair for pair in pairs if pair[0].is_floating_point() is is_float]
            if alike:
                self._average([mine for mine, _ in alike], [theirs for _, theirs in alike], self.n_averaged)
        for own, buffer in zip(self.module.buffers(), model.buffers(), strict=True):
            own.copy_(buffer)
        for own_module, module in zip(self.module.modules(), model.modules(), strict=True):
            follow = getattr(own_module, "follow", None)
            if callable(follow):
                follow(module)  # Python state that mirrors buffers


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


class Wrapper(nn.Module):
    """What a model puts around the network it trains, such as a mask. `get_bare_model` looks through it."""

    module: nn.Module


class BaseModel(PluginHooks):
    """A network `net_g`, what trains it and what keeps it.

    Args:
        opt: the resolved options of the run.
    """

    net_g_ema: EMA | nn.Module

    def __init__(self, opt: Options):
        self.opt = self.options_of(opt)
        self.is_train = opt.is_train
        self.device = pick_device(opt.num_gpu)
        self.net_g: nn.Module
        self.optimizers: list[torch.optim.Optimizer] = []
        self.log: dict[str, Tensor] = {}
        self._last: LastStep | None = None
        self._skipped = 0  # steps, since this process began
        self.grad_norms: list[Tensor] = []  # of each optimizer's parameters, before clipping, if they are clipped
        fp16 = opt.train is not None and opt.train.mixed_precision == "fp16"
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=fp16 and self.device.type == "cuda")
        if self.is_train and fp16 and not self.scaler.is_enabled():
            logger.info("float16 training needs CUDA; on %s it is bfloat16, without a scaler", self.device.type)
        self._schedule = build_schedule(opt.train.scheduler if opt.train else None)

    # Hooks of a concrete model.

    def feed_data(self, data: Mapping[str, Any]) -> None:
        """Take a batch to the device."""
        raise NotImplementedError

    def optimize_parameters(self, current_iter: int) -> None:
        """One optimizer step on the batch that was fed."""
        raise NotImplementedError

    def compute_losses(self, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        """The weighted losses of a batch by name, each a scalar; their sum is minimised."""
        raise NotImplementedError

    def after_backward(self, current_iter: int) -> None:
        """Between the gradients of a step and the step itself; nothing here."""

    @property
    def unfinished(self) -> bool:
        """Whether a run whose iterations are all done still needs `finish`, having been stopped within it."""
        return False

    def finish(self, batches: Iterator[tuple[int, Mapping[str, Any]]]) -> None:
        """What is left to do after the last iteration, with more (epoch, batch) if needed; nothing here."""

    def extra_state(self) -> dict[str, Any]:
        """What the training state keeps beside weights, optimizers and random state; plain values and tensors."""
        return {}

    def load_extra_state(self, state: Mapping[str, Any], current_iter: int) -> None:
        """Take back `extra_state()`, saved after iteration `current_iter`."""

    def validation(self, loader: Iterable[Mapping[str, Any]], current_iter: int | None, save_img: bool) -> Scores:
        """Score a data set."""
        raise NotImplementedError

    # Networks.

    def model_to_device(self, net: nn.Module) -> nn.Module:
        """Move a network to the device; with several processes, wrap it in DDP."""
        net = net.to(self.device)
        if not self.opt.dist or not self.is_train:
            return net
        return DistributedDataParallel(
            net,
            device_ids=[self.device.index] if self.device.type == "cuda" else None,
            find_unused_parameters=self.opt.find_unused_parameters,
        )

    @staticmethod
    def get_bare_model(net: nn.Module) -> nn.Module:
        """The network inside DDP, EMA or a wrapper of the model."""
        while isinstance(net, (DistributedDataParallel, EMA, Wrapper)):
            net = net.module
        return net

    def load_network(
        self, net: nn.Module, path: str | Path, strict: bool = True, param_key: str | None = "params"
    ) -> None:
        """Load a weight file into a network."""
        load_weights(self.get_bare_model(net), path, param_key, strict)

    # Optimisation.

    def setup_optimizer(self, parameters: Iterable[Tensor], spec: Mapping[str, Any], scheduled: bool = True) -> None:
        """Make an optimizer over the trainable ones of `parameters`.

        Args:
            spec: such as `train.optim_g`.
            scheduled: whether `train.scheduler` and the warm-up apply to it; otherwise its rate stays as it is.
        """
        trainable: list[Any] = [p for p in parameters if p.requires_grad]
        if getattr(OPTIMIZER_REGISTRY.get(spec["type"]), "takes_names", False):  # such as MUON
            names = {p: name for name, p in self.net_g.named_parameters()}
            trainable = [(names.get(p, ""), p) for p in trainable]
        optimizer = OPTIMIZER_REGISTRY.build(spec, trainable, **arguments_on(self.device, spec))
        for group in optimizer.param_groups:
            group["initial_lr"] = group["lr"]
            group["scheduled"] = scheduled
        if not self.is_plugin:  # which may read and write rates as numbers
            put_rates_on_device(optimizer)
        self.optimizers.append(optimizer)

    def update_learning_rate(self, current_iter: int, warmup_iter: int = -1) -> None:
        """Set the rate of iteration `current_iter` (from 1), a pure function of it."""
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                if group.get("scheduled", True):
                    set_rate(group, learning_rate(current_iter, group["initial_lr"], self._schedule, warmup_iter))

    def get_current_learning_rate(self) -> list[float]:
        """The rate of each parameter group."""
        return [rate_of(group) for optimizer in self.optimizers for group in optimizer.param_groups]

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
        skips = train.nan == "skip"
        buffers = _kept_buffers(self.get_bare_model(self.net_g)) if skips else {}
        for optimizer in self.optimizers:
            optimizer.zero_grad()
        parts = split_batch(batch, train.accum_iter)
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
        self._last = LastStep(current_iter, totals, self._all_finite(totals), _files_of(batch))
        if skips and not self._last.is_finite:
            self._skip(current_iter, buffers)
            return
        self.log = totals
        if self.device.type == "cpu":
            self.check_finite(current_iter)
        learning = [o for o in self.optimizers if any(p.grad is not None for p in parameters_of([o]))]
        for optimizer in learning:
            self.scaler.unscale_(optimizer)
        self.after_backward(current_iter)
        if train.largest_norm is not None:
            self.grad_norms = [
                nn.utils.clip_grad_norm_(parameters_of([o]), train.largest_norm) for o in self.optimizers
            ]
        for optimizer in learning:  # the scaler takes no step without gradients
            self.scaler.step(optimizer)
        self.scaler.update()
        self.model_ema(train.ema_decay)

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

    def get_current_log(self) -> dict[str, float]:
        """The losses of the last step, averaged over the processes; all of them must call it together."""
        return {name: float(value) for name, value in reduce_mean_dict(self.log).items()}

    # Checkpoints.

    @master_only
    def save_network(
        self, net: nn.Module | Sequence[nn.Module], label: str, current_iter: int,
        param_key: str | Sequence[str] = "params",
    ) -> None:  # fmt: skip
        """Write `<label>_<iter>.pth` (-1: `latest`): the published keys, the EMA's, and the network's spec.

        Or `.safetensors`, or both, as `logger.checkpoint_format` says. Plug-ins pass several networks for one file,
        and the key of each.
        """
        nets, keys = ([net], [param_key]) if isinstance(net, nn.Module) else (net, param_key)
        weights: dict[Any, Any] = dict(zip(keys, nets, strict=True))
        if net is self.net_g:
            weights["params_ema"] = self.ema
        content: dict[str, Any] = {
            key: _on_cpu(self.get_bare_model(one).state_dict()) for key, one in weights.items() if one is not None
        }
        specs = self.opt.to_dict()
        content["network_g"] = specs.get(label.replace("net_", "network_"), specs["network_g"])
        content["meta"] = {"iter": current_iter, "basicsr": __version__, "name": self.opt.name}
        name = f"{label}_{'latest' if current_iter == -1 else current_iter}"
        for suffix in self.opt.logger.weight_suffixes:
            save_atomically(content, Path(str(self.opt.path.models)) / f"{name}{suffix}")

    def save(self, epoch: int, current_iter: int, **more_state: Any) -> None:
        """Write weights and training state; -1 writes `net_g_latest.pth` alone. All processes call it.

        Raises:
            OSError: in every process, when rank 0 cannot write.
        """
        self._write(lambda: self.save_network(self.net_g, "net_g", current_iter))
        if current_iter != -1:
            self.save_training_state(epoch, current_iter, **more_state)

    def save_training_state(self, epoch: int, current_iter: int, **more_state: Any) -> None:
        """Write `<iter>.state`: what resuming needs beside the weights, the random state of every process included.

        Nothing for -1, with which plug-ins call it at the end of a run.
        """
        if current_iter == -1:
            return
        state = {
            "epoch": epoch,
            "iter": current_iter,
            "optimizers": [plain_state(optimizer) for optimizer in self.optimizers],
            "schedulers": [],  # the rate is a function of the iteration; old readers expect the key
            "rng": gather_objects(_rng_state()),
            "scaler": self.scaler.state_dict(),  # empty without float16
            "basicsr": __version__,
            "options": self.opt.written(),
            **self.extra_state(),
            **self.more_state,
            **more_state,
        }
        path = Path(str(self.opt.path.training_states)) / f"{current_iter}.state"
        self._write(lambda: save_atomically(state, path))

    def _write(self, write: Callable[[], object]) -> None:
        """Let rank 0 write. When it cannot, all processes raise the error, so that none waits for the others."""
        problem = ""
        if self.opt.rank == 0:
            try:
                write()
            except OSError as error:
                problem = str(error)
        if self.opt.dist:
            problem = gather_objects(problem)[0]
        if problem:
            raise OSError(problem)

    def resume_training(self, state: Mapping[str, Any], weights: Mapping[str, Any], source: str) -> None:
        """Go on from a training state and the content of the weight file of the same iteration.

        Raises:
            CheckpointError: when the weights are of another network, or the optimizers' state of other parameters.
        """
        if "network_g" not in (self.opt.path.ignore_resume_networks or ()):
            net = self.get_bare_model(self.net_g)
            params = select_weights(weights, "params", source)[1]
            if problem := mismatch(net, params):
                name = type(net).__name__
                raise CheckpointError(
                    f"{source}: does not fit {name}: {problem}. Resume with the network_g of that run"
                )
            net.load_state_dict(params)
            if self.ema is not None:
                self.get_bare_model(self.ema).load_state_dict(select_weights(weights, "params_ema", source)[1])
        self._resume_optimizers(state["optimizers"], source)
        if state.get("scaler"):
            self.scaler.load_state_dict(state["scaler"])
        self.resume_more_networks(int(state["iter"]))
        self.load_extra_state(state, int(state["iter"]))
        self.restore_random_state(state)

    def restore_random_state(self, state: Mapping[str, Any]) -> None:
        """Set this process's random generators as they were; a state without them changes nothing."""
        rng = state.get("rng", [])
        if self.opt.rank < len(rng):
            _set_rng_state(rng[self.opt.rank])

    def _resume_optimizers(self, states: Sequence[Mapping[str, Any]], source: str) -> None:
        problem = ""
        if len(states) != len(self.optimizers):
            problem = f"there are {len(states)}, and this run has {len(self.optimizers)}"
        for optimizer, saved in zip(self.optimizers, states, strict=False):
            problem = problem or misfit(optimizer, saved)
        if problem and not self.opt.force_resume:
            raise CheckpointError(
                f"{source}: the optimizers of its state do not fit: {problem}; resume with the optimizers of that run, "
                "or let them begin anew with --force_resume"
            )
        if problem:
            logger.warning("%s: the optimizers begin anew, for those of its state do not fit: %s", source, problem)
            return
        for optimizer, saved in zip(self.optimizers, states, strict=True):
            load_state(optimizer, saved)  # the options decide the rest, so an edited rate holds


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


def _on_cpu(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.detach().cpu() for name, value in state.items()}


def _rng_state() -> dict[str, Any]:
    """State of Python's, NumPy's and PyTorch's generators as plain values and tensors."""
    numpy_state: Any = np.random.get_state()
    version, keys, gauss = random.getstate()
    state = {
        "python": (version, list(keys), gauss),
        "numpy": (numpy_state[0], torch.from_numpy(numpy_state[1].astype(np.int64)), *numpy_state[2:]),
        "torch": torch.get_rng_state(),
    }
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


@contextmanager
def random_state_kept() -> Iterator[None]:
    """Leave the random generators as they were, whatever the body draws from them."""
    state = _rng_state()
    try:
        yield
    finally:
        _set_rng_state(state)


def _set_rng_state(state: Mapping[str, Any]) -> None:
    version, keys, gauss = state["python"]
    random.setstate((version, tuple(keys), gauss))
    name, numpy_keys, *rest = state["numpy"]
    np.random.set_state((name, numpy_keys.numpy().astype(np.uint32), *rest))
    torch.set_rng_state(state["torch"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])
