"""The parts that every model has: device, networks, optimizers, optimizer step, moving average, checkpoints."""

import logging
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

import basicsr
from basicsr.config.schema import Options
from basicsr.engine.checkpoint import load_weights, mismatch, save_atomically, select_weights
from basicsr.engine.device import pick_device
from basicsr.engine.distributed import master_only, reduce_mean_dict
from basicsr.engine.ema import EMA
from basicsr.engine.lr_scheduler import build_schedule, learning_rate
from basicsr.engine.optimizer_groups import (
    arguments_on,
    build_optimizer,
    put_rates_on_device,
    rate_of,
    set_rate,
)
from basicsr.engine.plan_cache import PLANS
from basicsr.engine.step import TrainingStep
from basicsr.engine.step_graphs import STEP_METHODS, graph_doubt, graph_obstacle, methods_of_plugins
from basicsr.engine.training_state import gather_state, restore_optimizers, restore_random_state, write_on_rank0
from basicsr.engine.weight_digest import weights_digest
from basicsr.engine.wrapper import bare_network
from basicsr.errors import CheckpointError
from basicsr.metrics.evaluate import Scores
from basicsr.version import __version__

logger = logging.getLogger("basicsr")


class BaseModel:
    """A network `net_g` with its optimizers, moving average and checkpoints; a new model overrides `compute_losses`.

    A training run calls, in every iteration, `update_learning_rate`, `feed_data` and `optimize_parameters`; now and
    then `check_finite`, `get_current_log`, `validation` and `save`; at the end `finish`.

    Args:
        opt: the resolved options of the run.
    """

    net_g: nn.Module
    plain_options_class: ClassVar[Callable[[type], type] | None] = None
    """gives the class of a model that is made with plain options; set by `basicsr.compat`, for BasicSR 1.4's scripts"""
    extra_options: ClassVar[frozenset[str]] = frozenset()
    """Sections and keys of the options that only some models read, of those that this one reads."""
    own_losses: ClassVar[frozenset[str]] = frozenset()
    """Names under which it logs losses of its own, so that none of `train.*_opt` may have them."""

    def __new__(cls, opt: Options, *_: Any, **__: Any) -> Any:
        """Return a model, with plain options (a dict) one of the class that takes them."""
        if isinstance(opt, dict):
            basicsr.attach_compat()
            if BaseModel.plain_options_class is not None:
                cls = BaseModel.plain_options_class(cls)
        return super().__new__(cls)

    def __init__(self, opt: Options):
        self.opt = opt
        self.is_train = opt.is_train
        self.device = pick_device(opt.num_gpu)
        self.batch: dict[str, Any] = {}
        """the batch that was fed, its tensors on the device."""
        self.ema: EMA | None = None
        """the moving average of `net_g`."""
        self.optimizers: list[torch.optim.Optimizer] = []
        self.log: dict[str, Tensor] = {}
        """the losses of the last step by name."""
        self.on_scores: Callable[[str, Mapping[str, float]], None] | None = None
        """called in a validation with the name and the scores of each image of this process, as they come."""
        self.training_step = TrainingStep(self, PLANS.recorded)
        self._saved_weights: dict[str, tuple[int, str]] = {}  # iteration and digest of the last file of each network
        self._schedule = build_schedule(opt.train.scheduler if opt.train else None)

    # Methods that a concrete model implements or extends.

    def compute_losses(self, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        """Return the weighted losses of a batch by name, each a scalar; their sum is minimised."""
        raise NotImplementedError

    def after_backward(self, current_iter: int) -> None:
        """Change the gradients of a step before they are clipped and applied; this one does nothing."""

    def validation(
        self, loader: Iterable[Mapping[str, Any]], current_iter: int | None = None, save_img: bool = False
    ) -> Scores:
        """Score a data set."""
        raise NotImplementedError

    @property
    def unfinished(self) -> bool:
        """Whether a run whose iterations are all done was stopped within `finish`, and must call it again."""
        return False

    def finish(self, batches: Iterator[tuple[int, Mapping[str, Any]]]) -> None:
        """Do the work after the last iteration, with more (epoch, batch) if needed; this one does nothing."""

    def extra_state(self) -> dict[str, Any]:
        """Return plain values and tensors that the training state keeps in addition to its usual content."""
        return {}

    def extra_meta(self) -> dict[str, Any]:
        """Return plain values that weight files keep in `meta` in addition to its usual content."""
        return {}

    def load_extra_state(self, state: Mapping[str, Any], current_iter: int) -> None:
        """Load `extra_state()`, which was saved after iteration `current_iter`."""

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

    def load_network(
        self, net: nn.Module, path: str | Path, strict: bool = True, param_key: str | None = "params"
    ) -> None:
        """Load a weight file into a network."""
        load_weights(bare_network(net), path, param_key, strict)

    def update_ema(self) -> None:
        """Take `net_g` into the moving average, if there is one."""
        if self.ema is not None:
            self.ema.update_parameters(bare_network(self.net_g))

    # Optimisation.

    def setup_optimizer(self, parameters: Iterable[Tensor], spec: Mapping[str, Any], scheduled: bool = True) -> None:
        """Make an optimizer over the trainable ones of `parameters`.

        Args:
            parameters: of `net_g` or of any other module.
            spec: such as `train.optim_g`.
            scheduled: whether `train.scheduler` and the warm-up apply to it; otherwise its rate stays as it is.
        """
        trainable = [p for p in parameters if p.requires_grad]
        optimizer = build_optimizer(spec, trainable, self.net_g, **arguments_on(self.device, spec))
        for group in optimizer.param_groups:
            group["initial_lr"] = group["lr"]
            group["scheduled"] = scheduled
        if not methods_of_plugins(type(self), STEP_METHODS):  # which may set rates as numbers
            put_rates_on_device(optimizer)
        self.optimizers.append(optimizer)

    def update_learning_rate(self, current_iter: int, warmup_iter: int = -1) -> None:
        """Set the rate of iteration `current_iter` (from 1), a pure function of it."""
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                if group.get("scheduled", True):
                    set_rate(group, learning_rate(current_iter, group["initial_lr"], self._schedule, warmup_iter))

    def get_current_learning_rate(self) -> list[float]:
        """Return the rate of each parameter group."""
        return [rate_of(group) for optimizer in self.optimizers for group in optimizer.param_groups]

    def feed_data(self, data: Mapping[str, Any]) -> None:
        """Move a batch `{'lq': (B, C, h, w), 'gt': (B, C, s*h, s*w), ...}` to the device."""
        self.batch = {
            key: value.to(self.device, non_blocking=True) if isinstance(value, Tensor) else value
            for key, value in data.items()
        }

    def optimize_parameters(self, current_iter: int) -> None:
        """Take one optimizer step on the batch that was fed."""
        self.take_step(self.batch, current_iter)

    def take_step(self, batch: Mapping[str, Any], current_iter: int) -> None:
        """Take one optimizer step on a batch; `log` then holds its losses, unless it was skipped.

        Raises:
            FloatingPointError: see `TrainingStep`.
        """
        losses = self.training_step(batch, current_iter)
        if losses is not None:
            self.log = losses

    def check_finite(self, current_iter: int) -> None:
        """Stop where the last step was not finite.

        Raises:
            FloatingPointError: naming the iteration, the values, the files and the newest checkpoint.
        """
        self.training_step.check_finite(current_iter, self.log)

    def get_current_log(self) -> dict[str, float]:
        """Return the losses of the last step, averaged over the processes; all of them must call it together."""
        return {name: float(value) for name, value in reduce_mean_dict(self.log).items()}

    # CUDA graphs.

    def graph_key(self, current_iter: int) -> Hashable:
        """Return the decisions that Python makes for iteration `current_iter`.

        Steps of equal keys do the same on the device. Shapes of batches count by themselves.
        """
        return ()

    def graph_obstacle(self) -> str:
        """Return why steps cannot be repeated by a CUDA graph, as the end of a sentence; "" where they can."""
        return graph_obstacle(self.opt, self.training_step.scaler, self.optimizers, type(self))

    def graph_doubt(self) -> str:
        """Return why they should not be without being asked for, as the end of a sentence; "" where they may."""
        return graph_doubt(vars(self).values())

    # Checkpoints.

    @master_only
    def save_network(
        self,
        net: nn.Module | Sequence[nn.Module],
        label: str,
        current_iter: int,
        param_key: str | Sequence[str] = "params",
    ) -> None:
        """Write `<label>_<iter>.pth` (-1: `latest`): weights under the published keys, and the network's spec.

        Or `.safetensors`, or both, as `logger.checkpoint_format` says.

        Args:
            net: a network, or several for one file.
            label: such as `net_g`.
            current_iter: iterations done.
            param_key: key of the network's weights, or of each network's.
        """
        nets, keys = ([net], [param_key]) if isinstance(net, nn.Module) else (net, param_key)
        content: dict[Any, Any] = {
            key: {name: value.detach().cpu() for name, value in bare_network(one).state_dict().items()}
            for key, one in zip(keys, nets, strict=True)
        }
        specs = self.opt.to_dict()
        content["network_g"] = specs.get(label.replace("net_", "network_"), specs["network_g"])
        meta = {"iter": current_iter, "basicsr": __version__, "name": self.opt.name}
        if label == "net_g":
            meta["input"] = self.opt.input_form.to_plain()
        content["meta"] = {**meta, **self.extra_meta()}
        if current_iter != -1:
            self._saved_weights[label] = current_iter, weights_digest(content)
        name = f"{label}_{'latest' if current_iter == -1 else current_iter}"
        for suffix in self.opt.logger.weight_suffixes:
            save_atomically(content, Path(str(self.opt.path.models)) / f"{name}{suffix}")

    def save(self, epoch: int, current_iter: int, **run_state: Any) -> None:
        """Write weights and training state; -1 writes only `net_g_latest.pth`. All processes call it.

        Args:
            epoch: of the last batch.
            current_iter: iterations done.
            run_state: further content of the training state.

        Raises:
            OSError: in every process, when rank 0 cannot write.
        """
        weights = {"params": self.net_g} | ({"params_ema": self.ema} if self.ema is not None else {})
        write_on_rank0(lambda: self.save_network([*weights.values()], "net_g", current_iter, [*weights]))
        if current_iter != -1:
            self.save_training_state(epoch, current_iter, **run_state)

    def save_training_state(self, epoch: int, current_iter: int, **run_state: Any) -> None:
        """Write `<iter>.state`: all that resuming needs besides the weights. All processes call it.

        Raises:
            OSError: in every process, when rank 0 cannot write.
        """
        state = {
            "epoch": epoch,
            "iter": current_iter,
            **gather_state(self.optimizers, self.training_step.scaler),
            "basicsr": __version__,
            "options": self.opt.to_minimal_dict(),
            "weight_digests": {
                label: value for label, (it, value) in self._saved_weights.items() if it == current_iter
            },
            **self.extra_state(),
            **run_state,
        }
        path = Path(str(self.opt.path.training_states)) / f"{current_iter}.state"
        write_on_rank0(lambda: save_atomically(state, path))

    def resume_training(self, state: Mapping[str, Any], weights: Mapping[str, Any], source: str) -> None:
        """Load a training state and the content of the weight file of the same iteration.

        Args:
            state: the content of `<iter>.state`.
            weights: the content of `net_g_<iter>.pth`.
            source: name of the weight file, for messages.

        Raises:
            CheckpointError: when the weights are of another network, or the optimizers' state of other parameters.
        """
        if "network_g" not in (self.opt.path.ignore_resume_networks or ()):
            net = bare_network(self.net_g)
            params = select_weights(weights, "params", source)[1]
            if problem := mismatch(net, params):
                name = type(net).__name__
                raise CheckpointError(
                    f"{source}: does not fit {name}: {problem}. Resume with the network_g of that run"
                )
            net.load_state_dict(params)
            if self.ema is not None:
                bare_network(self.ema).load_state_dict(select_weights(weights, "params_ema", source)[1])
        it = int(state["iter"])  # at the end of a run, the state is saved once more without its weights
        self._saved_weights = {label: (it, value) for label, value in (state.get("weight_digests") or {}).items()}
        restore_optimizers(self.optimizers, state["optimizers"], source, reset_on_mismatch=self.opt.force_resume)
        if state.get("scaler"):
            self.training_step.scaler.load_state_dict(state["scaler"])
        self.load_extra_state(state, it)
        restore_random_state(state)
