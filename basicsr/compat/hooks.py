"""What models written for BasicSR 1.4 call and override on their base class, in terms of what is here.

A plug-in is a class from outside this package. Its `self.opt` is a plain, writable dict (`PlainOptions`), its
`log_dict` is what the log shows, and where it overrides `nondist_validation` that is how it is validated.
"""

import functools
import inspect
import logging
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from basicsr.compat.options import PlainOptions
from basicsr.config.registry import OPTIMIZER_REGISTRY
from basicsr.engine.distributed import gather_objects, reduce_mean_dict
from basicsr.metrics import direction
from basicsr.metrics.evaluate import Scores

if TYPE_CHECKING:
    from basicsr.config.schema import Options

logger = logging.getLogger("basicsr")
WHOLE_SET = "(all images)"  # the name under which a plug-in's mean stands in the table of scores


class PluginHooks:
    """The part of BasicSR's `BaseModel` that is not needed here otherwise."""

    opt: "Options"
    device: torch.device
    is_train: bool
    net_g: nn.Module
    net_g_ema: Any  # there only if there is a moving average: plug-ins ask with hasattr
    optimizers: list[torch.optim.Optimizer]
    log: dict[str, Tensor]
    metric_results: dict[str, float]
    best_metric_results: dict[str, dict[str, dict[str, Any]]]
    more_state: Mapping[str, Any] = {}  # of the run, for the training state that is about to be saved
    schedulers: tuple[()] = ()  # the rate is a function of the iteration

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Let `save(self, epoch, current_iter)`, as plug-ins override it, be called with what else the run keeps."""
        super().__init_subclass__(**kwargs)
        for name in ("save", "save_training_state"):
            method = vars(cls).get(name)
            if method is not None and not _takes_any(method):
                setattr(cls, name, _keeping_state(method))

    @property
    def is_plugin(self) -> bool:
        """Whether the class is from outside this package."""
        return from_outside(type(self))

    @property
    def ema(self) -> Any:
        """The moving average of `net_g`; None without one."""
        return getattr(self, "net_g_ema", None)

    def options_of(self, opt: "Options") -> Any:
        """What `self.opt` is: the options, or for a plug-in a plain dict of them."""
        return PlainOptions(opt) if self.is_plugin else opt

    def get_bare_model(self, net: nn.Module) -> nn.Module:
        """The network inside what is wrapped around it."""
        raise NotImplementedError

    def load_network(
        self, net: nn.Module, path: str | Path, strict: bool = True, param_key: str | None = "params"
    ) -> None:
        """Load a weight file into a network."""
        raise NotImplementedError

    # Training.

    @property
    def log_dict(self) -> dict[str, Any]:
        """The losses of the last step, as the log shows them."""
        return self.log

    @log_dict.setter
    def log_dict(self, losses: Mapping[str, Any]) -> None:
        self.log = {name: torch.as_tensor(value, device=self.device).detach().mean() for name, value in losses.items()}

    def reduce_loss_dict(self, loss_dict: Mapping[str, Tensor]) -> dict[str, float]:
        """The losses averaged over the processes, as numbers; all processes must call it together."""
        means = reduce_mean_dict({name: loss.detach().mean() for name, loss in loss_dict.items()})
        return OrderedDict((name, float(means[name])) for name in loss_dict)

    def get_optimizer(self, optim_type: str, params: Any, lr: float, **kwargs: Any) -> torch.optim.Optimizer:
        """An optimizer by its name; append it to `self.optimizers` for the schedule and the training state to see it.

        Raises:
            UnknownNameError: when there is none of this name.
        """
        spec = {"type": optim_type, "lr": lr, **kwargs}
        if getattr(OPTIMIZER_REGISTRY.get(optim_type), "takes_names", False):
            names = {p: name for name, p in self.net_g.named_parameters()}
            params = [(names.get(p, ""), p) for p in params]
        return OPTIMIZER_REGISTRY.build(spec, params)

    def setup_schedulers(self) -> None:
        """Nothing to set up: `train.scheduler` gives every optimizer's rate as a function of the iteration."""

    def adopt_optimizers(self) -> None:
        """Let the schedule know the rates of optimizers that the model made by itself."""
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group.setdefault("initial_lr", group["lr"])

    @torch.no_grad()
    def model_ema(self, decay: float = 0.999) -> None:
        """Take `net_g` into the moving average.

        Args:
            decay: share of the old average; 0 copies the network. An average that the base class made keeps
                `train.ema_decay`.

        Buffers are copied, which BasicSR leaves out.
        """
        if self.ema is None:
            return
        net, average = self.get_bare_model(self.net_g), self.get_bare_model(self.ema)
        if decay > 0 and hasattr(self.ema, "update_parameters"):
            self.ema.update_parameters(net)
            return
        for parameter, new in zip(average.parameters(), net.parameters(), strict=True):
            parameter.lerp_(new.to(parameter), 1 - decay)
        for buffer, value in zip(average.buffers(), net.buffers(), strict=True):
            buffer.copy_(value)

    def print_network(self, net: nn.Module) -> None:
        """Log a network's class and number of parameters."""
        bare = self.get_bare_model(net)
        count = sum(parameter.numel() for parameter in bare.parameters())
        logger.info("Network: %s, with parameters: %s", type(bare).__name__, f"{count:,d}")

    def resume_more_networks(self, current_iter: int) -> None:
        """Load what a plug-in saved of `network_d` and the like beside `net_g`, if the run saved it."""
        ignored = self.opt.path.ignore_resume_networks or ()
        for key in (key for key in self.opt if key.startswith("network_") and key != "network_g"):
            label = key.replace("network", "net")
            path = Path(str(self.opt.path.models)) / f"{label}_{current_iter}.pth"
            if key not in ignored and isinstance(getattr(self, label, None), nn.Module) and path.is_file():
                self.load_network(getattr(self, label), path)

    # Validation.

    def _initialize_best_metric_results(self, dataset_name: str) -> None:
        """Make room for the best score of each metric of a data set, once."""
        if not hasattr(self, "best_metric_results"):
            self.best_metric_results = {}
        if dataset_name not in self.best_metric_results:
            worst = {"higher": float("-inf"), "lower": float("inf")}
            ways = {name: direction(spec) for name, spec in (self.opt.val.metrics or {}).items()}
            self.best_metric_results[dataset_name] = {
                name: {"better": way, "val": worst[way], "iter": -1} for name, way in ways.items()
            }

    def _update_best_metric_result(self, dataset_name: str, metric: str, val: float, current_iter: int) -> None:
        """Take in a score."""
        best: dict[str, Any] = self.best_metric_results[dataset_name][metric]
        if val >= best["val"] if best["better"] == "higher" else val <= best["val"]:
            best.update(val=val, iter=current_iter)

    def _log_validation_metric_values(self, current_iter: Any, dataset_name: str, tb_logger: Any) -> None:
        """Nothing: the run logs and tracks what a validation gave."""

    def validate_by_hooks(self, loader: Any, current_iter: int | None, save_img: bool) -> Scores:
        """The scores of a plug-in's own `nondist_validation` (`dist_validation` with several processes).

        As in BasicSR, rank 0 goes through the whole data set and the others wait. `metric_results` holds the means.
        """
        self.metric_results = {}
        self.scores: Scores | None = None
        when = self.opt.name if current_iter is None else current_iter
        whole = loader.whole() if hasattr(loader, "whole") else loader
        with alone(vars(self).values()):
            (self.dist_validation if self.opt.dist else self.nondist_validation)(whole, when, None, save_img)
        scores = self.scores
        if scores is None:
            means = {name: float(value) for name, value in self.metric_results.items()}
            scores = Scores(getattr(loader, "name", ""), {WHOLE_SET: means} if means else {})
        return gather_objects(scores)[0]

    def dist_validation(self, dataloader: Any, current_iter: Any, tb_logger: Any, save_img: bool) -> None:
        """Validate in rank 0."""
        if self.opt.rank == 0:
            self.nondist_validation(dataloader, current_iter, tb_logger, save_img)

    def nondist_validation(self, dataloader: Any, current_iter: Any, tb_logger: Any, save_img: bool) -> None:
        """Validate in this process alone, into `metric_results`.

        Args:
            dataloader: whole images, one at a time.
            current_iter: iterations done, or the name of a test run.
            tb_logger: not used; the run tracks the scores.
            save_img: write the outputs.
        """
        raise NotImplementedError


@contextmanager
def alone(values: Iterable[Any]) -> Iterator[None]:
    """Let the DDP networks among `values` run in one process, without waiting for the others to send their buffers."""
    waiting = [net for net in values if isinstance(net, DistributedDataParallel) and net.require_forward_param_sync]
    for net in waiting:
        net.require_forward_param_sync = False
    try:
        yield
    finally:
        for net in waiting:
            net.require_forward_param_sync = True


def from_outside(cls: Any) -> bool:
    """Whether a class or function belongs to a plug-in rather than to this package."""
    return not str(cls.__module__).startswith("basicsr.")


def _takes_any(method: Any) -> bool:
    return any(p.kind is p.VAR_KEYWORD for p in inspect.signature(method).parameters.values())


def _keeping_state(method: Any) -> Any:
    @functools.wraps(method)
    def with_more(self: PluginHooks, epoch: int, current_iter: int, **more_state: Any) -> Any:
        before, self.more_state = self.more_state, {**self.more_state, **more_state}
        try:
            return method(self, epoch, current_iter)
        finally:
            self.more_state = before

    return with_more


def overrides(model: Any, base: type, names: Iterable[str]) -> bool:
    """Whether the model's class has a method of its own for one of `names` of `base`."""
    return any(getattr(type(model), name) is not getattr(base, name) for name in names)
