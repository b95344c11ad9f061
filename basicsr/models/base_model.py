"""What every model has: device, networks, optimizer step, EMA, checkpoints. A new model overrides `compute_losses`."""

import logging
import random
from collections.abc import Iterable, Iterator, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from basicsr.metrics.evaluate import Scores
from basicsr.models.lr_scheduler import build_schedule, learning_rate
from basicsr.utils.checkpoint import load_weights, mismatch, save_atomically, select_weights
from basicsr.utils.dist_util import gather_objects, master_only, reduce_mean_dict
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
        super().__init__(net, multi_avg_fn=get_ema_multi_avg_fn(decay))
        self.n_averaged.fill_(1)  # the average starts at the network's initial weights
        self.requires_grad_(False)

    def update_parameters(self, model: nn.Module) -> None:
        """Take in the network after a step."""
        super().update_parameters(model)
        for mine, theirs in zip(self.module.modules(), model.modules(), strict=True):
            follow = getattr(mine, "follow", None)
            if callable(follow):
                follow(theirs)  # Python state that mirrors buffers


class Wrapper(nn.Module):
    """What a model puts around the network it trains, such as a mask. `get_bare_model` looks through it."""

    module: nn.Module


class BaseModel:
    """A network `net_g`, what trains it and what keeps it.

    Args:
        opt: the resolved options of the run.
    """

    def __init__(self, opt: Options):
        self.opt = opt
        self.is_train = opt.is_train
        self.device = pick_device(opt.num_gpu)
        self.net_g: nn.Module
        self.net_g_ema: EMA | None = None
        self.optimizers: list[torch.optim.Optimizer] = []
        self.log: dict[str, Tensor] = {}
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
        optimizer = OPTIMIZER_REGISTRY.build(spec, trainable)
        for group in optimizer.param_groups:
            group["initial_lr"] = group["lr"]
            group["scheduled"] = scheduled
        self.optimizers.append(optimizer)

    def update_learning_rate(self, current_iter: int, warmup_iter: int = -1) -> None:
        """Set the rate of iteration `current_iter` (from 1), a pure function of it."""
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                if group.get("scheduled", True):
                    group["lr"] = learning_rate(current_iter, group["initial_lr"], self._schedule, warmup_iter)

    def get_current_learning_rate(self) -> list[float]:
        """The rate of each parameter group."""
        return [group["lr"] for optimizer in self.optimizers for group in optimizer.param_groups]

    def autocast(self) -> Any:
        """Mixed precision where `train.amp` asks for it: float16 with the scaler, which is there on CUDA alone."""
        if self.opt.train is None or self.opt.train.mixed_precision is None:
            return nullcontext()
        dtype = torch.float16 if self.scaler.is_enabled() else torch.bfloat16
        return torch.autocast(self.device.type, dtype=dtype)

    def minimise(self, batch: Mapping[str, Any], current_iter: int) -> None:
        """One optimizer step on a batch, cut into `accum_iter` parts whose gradients are averaged.

        Raises:
            FloatingPointError: when a loss is not finite, naming the iteration and the values. On a GPU the check waits
                until the losses are read, for it would stall every step.
        """
        train = self.opt.train
        if train is None:
            raise ValueError("train: a training step needs the train options")
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
        self.log = totals
        if self.device.type == "cpu":
            self.check_finite(current_iter)
        learning = [o for o in self.optimizers if any(p.grad is not None for p in _parameters(o))]
        for optimizer in learning:
            self.scaler.unscale_(optimizer)
        self.after_backward(current_iter)
        if train.largest_norm is not None:
            self.grad_norms = [nn.utils.clip_grad_norm_(_parameters(o), train.largest_norm) for o in self.optimizers]
        for optimizer in learning:  # the scaler takes no step without gradients
            self.scaler.step(optimizer)
        self.scaler.update()
        if self.net_g_ema is not None:
            self.net_g_ema.update_parameters(self.get_bare_model(self.net_g))

    def check_finite(self, current_iter: int) -> None:
        """Stop where a loss of the last step is inf or nan."""
        values = {name: float(value) for name, value in self.log.items()}
        if not all(np.isfinite(list(values.values()))):
            found = ", ".join(f"{name}={value}" for name, value in values.items())
            raise FloatingPointError(
                f"iteration {current_iter}: the loss is not finite ({found}); lower the learning rate, add warm-up "
                "(train.warmup_iter) or gradient clipping (train.grad_clip), and continue from the last checkpoint"
            )

    def get_current_log(self) -> dict[str, float]:
        """The losses of the last step, averaged over the processes; all of them must call it together."""
        return {name: float(value) for name, value in reduce_mean_dict(self.log).items()}

    # Checkpoints.

    @master_only
    def save_network(self, net: nn.Module, label: str, current_iter: int) -> None:
        """Write `<label>_<iter>.pth` (-1: `latest`): the published keys, the EMA's, and the network's spec."""
        ema = self.net_g_ema if net is self.net_g else None
        content: dict[str, Any] = {"params": _on_cpu(self.get_bare_model(net).state_dict())}
        if ema is not None:
            content["params_ema"] = _on_cpu(ema.module.state_dict())
        content["network_g"] = self.opt.to_dict()["network_g"]
        content["meta"] = {"iter": current_iter, "basicsr": __version__, "name": self.opt.name}
        name = f"{label}_{'latest' if current_iter == -1 else current_iter}.pth"
        save_atomically(content, Path(str(self.opt.path.models)) / name)

    def save(self, epoch: int, current_iter: int, **more_state: Any) -> None:
        """Write weights and training state; -1 writes `net_g_latest.pth` alone. All processes call it."""
        self.save_network(self.net_g, "net_g", current_iter)
        if current_iter != -1:
            self.save_training_state(epoch, current_iter, **more_state)

    def save_training_state(self, epoch: int, current_iter: int, **more_state: Any) -> None:
        """Write `<iter>.state`: what resuming needs beside the weights, the random state of every process included."""
        state = {
            "epoch": epoch,
            "iter": current_iter,
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "schedulers": [],  # the rate is a function of the iteration; old readers expect the key
            "rng": gather_objects(_rng_state()),
            "scaler": self.scaler.state_dict(),  # empty without float16
            "basicsr": __version__,
            **self.extra_state(),
            **more_state,
        }
        if self.opt.rank == 0:
            save_atomically(state, Path(str(self.opt.path.training_states)) / f"{current_iter}.state")

    def resume_training(self, state: Mapping[str, Any], weights: Mapping[str, Any], source: str) -> None:
        """Go on from a training state and the content of the weight file of the same iteration.

        Raises:
            CheckpointError: when the weights are of another network.
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
            if self.net_g_ema is not None:
                self.net_g_ema.module.load_state_dict(select_weights(weights, "params_ema", source)[1])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            configured = [group["initial_lr"] for group in optimizer.param_groups]
            optimizer.load_state_dict(saved)
            for group, lr in zip(optimizer.param_groups, configured, strict=True):
                group["initial_lr"] = lr  # the options decide, so an edited rate holds
        if state.get("scaler"):
            self.scaler.load_state_dict(state["scaler"])
        self.load_extra_state(state, int(state["iter"]))
        rng = state.get("rng", [])
        if self.opt.rank < len(rng):
            _set_rng_state(rng[self.opt.rank])


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


def _parameters(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


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


def _set_rng_state(state: Mapping[str, Any]) -> None:
    version, keys, gauss = state["python"]
    random.setstate((version, tuple(keys), gauss))
    name, numpy_keys, *rest = state["numpy"]
    np.random.set_state((name, numpy_keys.numpy().astype(np.uint32), *rest))
    torch.set_rng_state(state["torch"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])
