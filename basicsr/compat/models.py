"""Models written for BasicSR 1.4, adapted to the calls of a run.

A plug-in's class is put between two others: `PluginAdapter` comes first in the order of methods and translates the
calls of a run into those that BasicSR 1.4 made; `ModelMethods` comes last and holds what plug-ins call, or reach by
`super()`. So `self.opt` is a plain, writable dict (`PlainOptions`), `self.log_dict` is shown in the log, and an own
`nondist_validation` is used for validation.
"""

import logging
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn
from torch.nn.parallel import DistributedDataParallel

from basicsr.compat.model_methods import TEST_METHODS, ModelMethods
from basicsr.compat.options import PlainOptions
from basicsr.config.schema import Options
from basicsr.engine.checkpoint import weight_file
from basicsr.engine.distributed import gather_objects
from basicsr.engine.step_graphs import methods_of_plugins
from basicsr.images.unreadable import READ_ERRORS, reason_of
from basicsr.metrics.evaluate import Scores
from basicsr.models.base_model import BaseModel

logger = logging.getLogger("basicsr")
WHOLE_SET = "(all images)"  # name of the row that shows a plug-in's mean in the table of scores
VALIDATION_METHODS = ("nondist_validation", "dist_validation")

if TYPE_CHECKING:
    _ModelMethods = ModelMethods
else:
    _ModelMethods = object  # the real one comes last in the order of methods


@cache
def adapt_model(model_class: Any) -> Any:
    """Return a subclass of a plug-in's model that a run can use; anything else but a model as it is."""
    if not (isinstance(model_class, type) and issubclass(model_class, BaseModel)):
        return model_class
    names = {name: getattr(model_class, name) for name in ("__module__", "__qualname__", "__doc__")}
    return type(model_class.__name__, (PluginAdapter, model_class, ModelMethods), names)


PlainOptions.adapt_model = staticmethod(adapt_model)  # type: ignore[attr-defined]  # `build_model` looks for it


class PluginAdapter(_ModelMethods):
    """Translates the calls of a run into those of BasicSR 1.4."""

    _resume_folder: Path | None = None  # None: that of this run
    _run_state: Mapping[str, Any] = {}  # for the training state that is about to be saved

    def __init__(self, opt: Options):
        self.ema_decay = opt.train.ema_decay if opt.train else 0.0
        plain: Any = opt if isinstance(opt, PlainOptions) else PlainOptions(opt)
        super().__init__(plain)
        for optimizer in self.optimizers:  # those of `get_optimizer`, too, follow the schedule
            for group in optimizer.param_groups:
                group.setdefault("initial_lr", group["lr"])

    # Training.

    def init_training_settings(self) -> None:
        """Make all that training needs besides the network."""
        super().init_training_settings()
        if not methods_of_plugins(type(self), ("init_training_settings",)):  # which calls it by itself
            self.setup_schedulers()

    def take_step(self, batch: Mapping[str, Any], current_iter: int) -> None:
        """Take one optimizer step on those of `lq`, `gt` and others that the plug-in has not set to None."""
        super().take_step({key: value for key, value in batch.items() if value is not None}, current_iter)

    def update_ema(self) -> None:
        """Update the moving average by `model_ema`, which plug-ins override."""
        self.model_ema(decay=self.opt.train.ema_decay if self.opt.train else 0.0)

    # Validation.

    def validation(
        self, loader: Iterable[Mapping[str, Any]], current_iter: int | None = None, save_img: bool = False
    ) -> Scores:
        """Score a data set by the plug-in's own methods, as far as it overrides them."""
        own = methods_of_plugins(type(self), ("validation", *VALIDATION_METHODS, *TEST_METHODS))
        if not own or "validation" in own:
            return super().validation(loader, current_iter, save_img)
        if set(own).isdisjoint(VALIDATION_METHODS):
            return self.score_by_methods(loader, current_iter, save_img)
        return self._validate_on_rank0(loader, current_iter, save_img)

    def _validate_on_rank0(self, loader: Any, current_iter: int | None, save_img: bool) -> Scores:
        """Return the scores of the plug-in's `nondist_validation` (`dist_validation` with several processes).

        As in BasicSR, rank 0 goes through the whole data set and the others wait. `metric_results` holds the means.
        """
        self.metric_results = {}
        self.scores: Scores | None = None
        iter_or_name = self.opt.name if current_iter is None else current_iter
        whole = loader.whole() if hasattr(loader, "whole") else loader
        failed: dict[str, str] = {}
        try:
            with without_ddp_sync(vars(self).values()):
                validate = self.dist_validation if self.opt.dist else self.nondist_validation
                validate(whole, iter_or_name, None, save_img)
        except READ_ERRORS as error:  # the other processes wait
            failed[WHOLE_SET] = reason_of(error, getattr(loader, "name", ""))
            logger.error("%s. The run goes on without these scores", failed[WHOLE_SET])
        scores = self.scores
        if scores is None:
            means = {} if failed else {name: float(value) for name, value in self.metric_results.items()}
            failed |= {image.path: image.reason for image in getattr(whole, "unreadable", ())}
            scores = Scores(getattr(loader, "name", ""), {WHOLE_SET: means} if means else {}, failed=failed)
        return gather_objects(scores)[0]

    # Checkpoints.

    def save(self, epoch: int, current_iter: int, **run_state: Any) -> None:
        """Write weights and training state by `save(epoch, current_iter)`, as plug-ins define it."""
        with self._with_run_state(run_state):
            super().save(epoch, current_iter)

    def save_training_state(self, epoch: int, current_iter: int, **run_state: Any) -> None:
        """Write the training state; nothing for iteration -1, with which plug-ins call it at the end of a run."""
        if current_iter != -1:
            with self._with_run_state(run_state):
                super().save_training_state(epoch, current_iter)

    def extra_state(self) -> dict[str, Any]:
        """Return the model's own content of the training state, and that of the run."""
        return {**super().extra_state(), **self._run_state}

    @contextmanager
    def _with_run_state(self, run_state: Mapping[str, Any]) -> Iterator[None]:
        """Let a training state that is saved in the block hold `run_state`."""
        before = self._run_state
        self._run_state = {**before, **run_state}
        try:
            yield
        finally:
            self._run_state = before

    def resume_training(self, state: Mapping[str, Any], weights: Mapping[str, Any], source: str) -> None:
        """Load a checkpoint; files of further networks are looked for beside that of `net_g`."""
        self._resume_folder = Path(source).parent if Path(source).exists() else None
        super().resume_training(state, weights, source)

    def load_extra_state(self, state: Mapping[str, Any], current_iter: int) -> None:
        """Load, besides the model's own state, `network_d` and the like, where the run saved them."""
        ignored = self.opt.path.ignore_resume_networks or ()
        for key in (key for key in self.opt if key.startswith("network_") and key != "network_g"):
            label = key.replace("network", "net")
            path = weight_file(self._resume_folder or str(self.opt.path.models), label, current_iter)
            if key not in ignored and isinstance(getattr(self, label, None), nn.Module) and path.is_file():
                self.load_network(getattr(self, label), path)
        super().load_extra_state(state, current_iter)


@contextmanager
def without_ddp_sync(values: Iterable[Any]) -> Iterator[None]:
    """Let the DDP networks among `values` run in one process alone, without synchronising their buffers."""
    nets = [net for net in values if isinstance(net, DistributedDataParallel) and net.require_forward_param_sync]
    for net in nets:
        net.require_forward_param_sync = False
    try:
        yield
    finally:
        for net in nets:
            net.require_forward_param_sync = True
