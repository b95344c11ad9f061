"""Models written for BasicSR 1.4, adapted to the calls of a run.

A plug-in's class is put between two others: `PluginAdapter` comes first in the order of methods and translates the
calls of a run into those that BasicSR 1.4 made; `ModelMethods` comes last and holds what plug-ins call, or reach by
`super()`. So `self.opt` is a plain, writable dict (`PlainOptions`), `self.log_dict` is shown in the log, and an own
`nondist_validation` is used for validation.
"""

import inspect
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn
from torch.nn.parallel import DistributedDataParallel

from basicsr.compat.model_methods import TEST_METHODS, ModelMethods, in_parts
from basicsr.compat.options import PlainOptions, options_of
from basicsr.config.schema import Options
from basicsr.engine.checkpoint import load_file, weight_file
from basicsr.engine.distributed import gather_objects
from basicsr.engine.step_graphs import methods_of_plugins
from basicsr.images.unreadable import READ_ERRORS, reason_of
from basicsr.metrics.evaluate import Best, Scores
from basicsr.models.base_model import BaseModel
from basicsr.models.scoring import name_of_set
from basicsr.models.sr_model import SRModel

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
    if not (isinstance(model_class, type) and issubclass(model_class, BaseModel)) or issubclass(
        model_class, PluginAdapter
    ):
        return model_class
    names = {name: getattr(model_class, name) for name in ("__module__", "__qualname__", "__doc__")}
    return type(model_class.__name__, (PluginAdapter, model_class, ModelMethods), names)


PlainOptions.adapt_model = staticmethod(adapt_model)  # type: ignore[attr-defined]  # `build_model` looks for it


class PluginAdapter(_ModelMethods):
    """Translates the calls of a run into those of BasicSR 1.4."""

    _resume_folder: Path | None = None  # None: that of this run
    _run_state: Mapping[str, Any] = {}  # for the training state that is about to be saved

    def __init__(self, opt: Options | dict[str, Any]):
        plain: Any = options_of(opt)
        self.ema_decay = plain.train.ema_decay if plain.train else 0.0
        self.schedulers: list[Any] = []
        super().__init__(plain)
        for optimizer in self.optimizers:  # those of `get_optimizer`, too, follow the schedule
            for group in optimizer.param_groups:
                group.setdefault("initial_lr", group["lr"])

    def __setattr__(self, name: str, value: Any) -> None:
        """Set an attribute; a perceptual loss becomes one that returns both of its parts."""
        is_entry = hasattr(getattr(type(self), name, None), "__set__")  # which does that by itself
        super().__setattr__(name, value if is_entry else in_parts(value))

    # Training.

    def init_training_settings(self) -> None:
        """Make all that training needs besides the network."""
        super().init_training_settings()
        if not methods_of_plugins(type(self), ("init_training_settings",)):  # which calls it by itself
            self.setup_schedulers()

    def take_step(self, batch: Mapping[str, Any], current_iter: int) -> None:
        """Take one optimizer step on those of `lq`, `gt` and others that the plug-in has not set to None."""
        super().take_step({key: value for key, value in batch.items() if value is not None}, current_iter)

    def update_learning_rate(self, current_iter: int, warmup_iter: int = -1) -> None:
        """Set the rate of iteration `current_iter` (from 1); a plug-in's own `self.schedulers` do it in their way."""
        if not self.schedulers:
            super().update_learning_rate(current_iter, warmup_iter)
            return
        if current_iter > 1:
            for scheduler in self.schedulers:
                scheduler.step()
        if current_iter < warmup_iter:
            for group in (group for optimizer in self.optimizers for group in optimizer.param_groups):
                group["lr"] = group["initial_lr"] * current_iter / warmup_iter

    def check_finite(self, current_iter: int) -> None:
        """Stop where the last step was not finite; losses may be numbers."""
        self.log_dict = self.log
        super().check_finite(current_iter)

    def get_current_log(self) -> dict[str, float]:
        """Return the losses of the last step, averaged over the processes; losses may be numbers."""
        self.log_dict = self.log
        return super().get_current_log()

    def update_ema(self) -> None:
        """Update the moving average by `model_ema`, which plug-ins override."""
        self.model_ema(decay=self.opt.train.ema_decay if self.opt.train else 0.0)

    # Validation.

    def validation(
        self,
        dataloader: Iterable[Mapping[str, Any]],
        current_iter: Any = None,
        *flags: Any,
        tb_logger: Any = None,
        save_img: bool = False,
    ) -> Scores:
        """Score a data set by the plug-in's own methods, as far as it overrides them.

        A run calls it with `(dataloader, current_iter, save_img)`. A plug-in's own train.py calls it, as in BasicSR,
        with `(dataloader, current_iter, tb_logger, save_img=False)`; then the scores are logged here.

        Args:
            dataloader: batches of whole images.
            current_iter: iterations done; None, or in BasicSR the name of the run, in a test.
            flags: `save_img`, or `tb_logger` and `save_img`.
            tb_logger: a TensorBoard writer for the scores.
            save_img: write the outputs.
        """
        is_old_call = len(flags) > 1 or isinstance(current_iter, str) or (flags and not isinstance(flags[0], bool))
        if is_old_call:
            tb_logger = flags[0] if flags else tb_logger
            save_img = flags[1] if len(flags) > 1 else save_img
        elif flags:
            save_img = flags[0]
        it = None if isinstance(current_iter, str) else current_iter
        scores = self._score(dataloader, it, save_img)
        if is_old_call or tb_logger is not None:
            self.log_scores(scores, it, tb_logger)
        return scores

    def _score(self, loader: Any, current_iter: int | None, save_img: bool) -> Scores:
        """Return the scores of a data set, by whichever methods the plug-in has."""
        own = methods_of_plugins(type(self), ("validation", *VALIDATION_METHODS, *TEST_METHODS))
        if "validation" in own:
            if "tb_logger" in inspect.signature(super().validation).parameters:
                return self._score_by_plugin(super().validation, loader, current_iter, save_img)
            return super().validation(loader, current_iter, save_img)
        if not set(own).isdisjoint(VALIDATION_METHODS):
            hook = self.dist_validation if self.opt.dist else self.nondist_validation
            return self._score_by_plugin(hook, loader, current_iter, save_img)
        if not own and isinstance(self, SRModel):
            return super().validation(loader, current_iter, save_img)
        return self.score_by_methods(loader, current_iter, save_img)

    def _score_by_plugin(
        self, hook: Callable[..., Any], loader: Any, current_iter: int | None, save_img: bool
    ) -> Scores:
        """Return the scores of a plug-in's method that validates, which leaves the means in `metric_results`.

        As in BasicSR, rank 0 goes through the whole data set and the others wait. `metric_results` is left as the last
        validation left it: plug-ins make it when it is not there yet.
        """
        before = dict(getattr(self, "metric_results", {}))
        if before:
            self.metric_results = kept = dict(before)
        self._own_scores: Scores | None = None
        iter_or_name = self.opt.name if current_iter is None else current_iter
        whole = loader.whole() if hasattr(loader, "whole") else loader
        failed: dict[str, str] = {}
        try:
            with without_ddp_sync(vars(self).values()):
                hook(whole, iter_or_name, None, save_img)
        except READ_ERRORS as error:  # the other processes wait
            failed[WHOLE_SET] = reason_of(error, name_of_set(loader))
            logger.error("%s. The run goes on without these scores", failed[WHOLE_SET])
        scores = self._own_scores
        if scores is None:
            results = getattr(self, "metric_results", {})
            is_untouched = bool(before) and results is kept and results == before  # of another data set
            means = {} if failed or is_untouched else {name: float(value) for name, value in results.items()}
            failed |= {image.path: image.reason for image in getattr(whole, "unreadable", ())}
            scores = Scores(name_of_set(loader), {WHOLE_SET: means} if means else {}, failed=failed)
        return gather_objects(scores)[0]

    def log_scores(self, scores: Scores, current_iter: int | None, tb_logger: Any) -> None:
        """Log the means of a validation that a plug-in's own train.py or test.py asked for, with the best so far.

        Incomplete means are neither kept nor shown as curves.

        Args:
            scores: of one data set.
            current_iter: iterations done; None in a test.
            tb_logger: a TensorBoard writer, or None.
        """
        if self.opt.rank != 0:
            return
        if scores.failed:
            logger.info("%s", Best({}).report(scores))
            return
        name, it = scores.dataset, -1 if current_iter is None else current_iter
        self._initialize_best_metric_results(name)
        lines = [f"Validation {name}"]
        for metric, value in scores.mean().items():
            line = f"\t # {metric}: {value:.4f}"
            if metric in self.best_metric_results[name]:
                self._update_best_metric_result(name, metric, value, it)
                best = self.best_metric_results[name][metric]
                line += f"\tBest: {best['val']:.4f} @ {best['iter']} iter"
            lines.append(line)
            if tb_logger is not None:
                tb_logger.add_scalar(f"metrics/{name}/{metric}", value, it)
        logger.info("%s", "\n".join(lines))

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
        schedulers = [scheduler.state_dict() for scheduler in self.schedulers]
        own = {"schedulers": schedulers} if schedulers else {}
        return {**super().extra_state(), **own, **self._run_state}

    @contextmanager
    def _with_run_state(self, run_state: Mapping[str, Any]) -> Iterator[None]:
        """Let a training state that is saved in the block hold `run_state`."""
        before = self._run_state
        self._run_state = {**before, **run_state}
        try:
            yield
        finally:
            self._run_state = before

    def resume_training(
        self, resume_state: Mapping[str, Any], weights: Mapping[str, Any] | None = None, source: str = ""
    ) -> None:
        """Load a checkpoint; files of further networks are looked for beside that of `net_g`.

        Args:
            resume_state: the content of `<iter>.state`.
            weights: the content of `net_g_<iter>.pth`; None, as a plug-in's own train.py calls it: it is read from the
                folder of the run.
            source: name of that file.
        """
        if weights is None:
            path = weight_file(str(self.opt.path.models), "net_g", int(resume_state["iter"]))
            weights, source = load_file(path), str(path)
        self._resume_folder = Path(source).parent if Path(source).exists() else None
        super().resume_training(resume_state, weights, source)

    def load_extra_state(self, state: Mapping[str, Any], current_iter: int) -> None:
        """Load, besides the model's own state, schedulers, `network_d` and the like, where the run saved them."""
        for scheduler, saved in zip(self.schedulers, state.get("schedulers") or (), strict=False):
            scheduler.load_state_dict(saved)
            for group, rate in zip(scheduler.optimizer.param_groups, scheduler.get_last_lr(), strict=True):
                group["lr"] = rate  # which a resumed run takes from the options elsewhere
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
