"""What every model has: device, networks, optimizer step, EMA, checkpoints. A new model overrides `compute_losses`."""

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from basicsr.config.registry import OPTIMIZER_REGISTRY
from basicsr.config.schema import Options
from basicsr.engine.checkpoint import load_weights, mismatch, save_atomically, select_weights
from basicsr.engine.device import pick_device
from basicsr.engine.distributed import gather_objects, master_only, reduce_mean_dict
from basicsr.engine.ema import EMA
from basicsr.engine.lr_scheduler import build_schedule, learning_rate
from basicsr.engine.optimizer_groups import (
    arguments_on,
    load_state,
    misfit,
    plain_state,
    put_rates_on_device,
    rate_of,
    set_rate,
)
from basicsr.engine.random_state import rng_state, set_rng_state
from basicsr.engine.step import TrainingStep
from basicsr.engine.step_graphs import overridden_hooks
from basicsr.engine.wrapper import bare_network
from basicsr.errors import CheckpointError
from basicsr.metrics.evaluate import Scores
from basicsr.version import __version__

logger = logging.getLogger("basicsr")


class BaseModel(TrainingStep):
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
        self.grad_norms: list[Tensor] = []
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
        return bare_network(net)

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
        if not overridden_hooks(type(self)):  # which may set rates as numbers
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
            "rng": gather_objects(rng_state()),
            "scaler": self.scaler.state_dict(),  # empty without float16
            "basicsr": __version__,
            "options": self.opt.to_minimal_dict(),
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
            set_rng_state(rng[self.opt.rank])

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


def _on_cpu(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.detach().cpu() for name, value in state.items()}
