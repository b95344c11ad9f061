"""The methods and attributes of BasicSR 1.4's `BaseModel` and `SRModel` that only its plug-ins use."""

import logging
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from basicsr.config.input_form import InputForm
from basicsr.engine.distributed import reduce_mean_dict
from basicsr.engine.optimizer_groups import build_optimizer
from basicsr.engine.step_graphs import methods_of_plugins
from basicsr.engine.wrapper import bare_network
from basicsr.losses.basic_loss import PerceptualLoss
from basicsr.metrics import direction
from basicsr.metrics.evaluate import Scores
from basicsr.models.scoring import form_of, score_images
from basicsr.models.sr_model import SRModel

logger = logging.getLogger("basicsr")
# What plug-ins override to run their networks; where none is overridden, `predictor` does it.
TEST_METHODS = ("feed_data", "test", "pre_process", "process", "post_process", "get_current_visuals")

if TYPE_CHECKING:
    _SRModel = SRModel
else:
    _SRModel = object  # `adapt_model` puts these methods after those of SRModel


class DictEntry:
    """An attribute that stands for an entry of one of the model's dicts.

    Args:
        holder: name of the dict.
        key: of the entry.
        is_optional: None removes the entry, and in training a missing one reads as None, as the base class of BasicSR
            sets it to None then; otherwise a missing one is no attribute.
        wrap: applied to an entry that is read.
    """

    def __init__(
        self, holder: str, key: str, is_optional: bool = False, wrap: Callable[[Any], Any] = lambda entry: entry
    ):
        self._holder = holder
        self._key = key
        self._is_optional = is_optional
        self._wrap = wrap

    def __get__(self, model: Any, owner: type) -> Any:
        entries = vars(model).get(self._holder, {}) if model is not None else {}
        if self._key in entries:
            return self._wrap(entries[self._key])
        if self._is_optional and model is not None and model.is_train:
            return None
        raise AttributeError(f"{owner.__name__} has no {self._key!r} now")

    def __set__(self, model: Any, value: Any) -> None:
        entries = vars(model).setdefault(self._holder, {})
        entries[self._key] = value.loss if isinstance(value, LossParts) else value
        if value is None and self._is_optional:
            del entries[self._key]

    def __delete__(self, model: Any) -> None:
        vars(model).get(self._holder, {}).pop(self._key, None)


class FirstOptimizer:
    """The optimizer of `net_g`, which the base class makes; a plug-in's own attribute of this name hides it."""

    def __get__(self, model: Any, owner: type) -> Any:
        optimizers = vars(model).get("optimizers") if model is not None else None
        if not optimizers:
            raise AttributeError(f"{owner.__name__} has no optimizer now")
        return optimizers[0]


class LossParts:
    """A perceptual loss as plug-ins call it: it returns perceptual and style loss, None for one of weight 0.

    Its other attributes are those of the loss, which returns the sum.
    """

    def __init__(self, loss: PerceptualLoss) -> None:
        self.loss = loss

    def __call__(self, pred: Tensor, target: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """Return the two weighted losses between images (B, 3, H, W)."""
        return self.loss.parts(pred, target)

    def __getattr__(self, name: str) -> Any:
        return getattr(vars(self)["loss"], name)


def in_parts(loss: Any) -> Any:
    """Return a perceptual loss as plug-ins call it; any other loss as it is."""
    return LossParts(loss) if isinstance(loss, PerceptualLoss) else loss


class ModelMethods(_SRModel):
    """Methods that plug-ins call, or reach by `super()` from their own.

    An attribute that the base class of BasicSR sets at some time does not exist before: plug-ins ask with `hasattr`.
    """

    metric_results: dict[str, float]
    best_metric_results: dict[str, dict[str, dict[str, Any]]]
    output: Tensor
    img: Tensor  # made by `pre_process` from `lq`, if the network needs another input
    lq = DictEntry("batch", "lq")
    gt = DictEntry("batch", "gt")
    cri_pix = DictEntry("losses", "pixel_opt", is_optional=True)
    cri_perceptual = DictEntry("losses", "perceptual_opt", is_optional=True, wrap=in_parts)
    optimizer_g = FirstOptimizer()
    _own_scores: Scores | None = None  # of a validation that `nondist_validation` left to this package

    # Networks.

    @property
    def net_g_ema(self) -> Any:
        """The moving average of `net_g`; without one no attribute, because plug-ins ask with `hasattr`."""
        if self.ema is None:
            raise AttributeError(f"{type(self).__name__} has no moving average")
        return self.ema

    @net_g_ema.setter
    def net_g_ema(self, average: Any) -> None:
        self.ema = average

    @staticmethod
    def get_bare_model(net: nn.Module) -> nn.Module:
        """Return the network inside DDP, EMA or a wrapper of the model."""
        return bare_network(net)

    def print_network(self, net: nn.Module) -> None:
        """Log a network's class and number of parameters."""
        bare = bare_network(net)
        count = sum(parameter.numel() for parameter in bare.parameters())
        logger.info("Network: %s, with parameters: %s", type(bare).__name__, f"{count:,d}")

    @torch.no_grad()
    def model_ema(self, decay: float = 0.999) -> None:
        """Take `net_g` into the moving average. Buffers are copied, which BasicSR leaves out.

        Args:
            decay: share of the old average; 0 copies the network. An average that the base class made keeps
                `train.ema_decay`.
        """
        if self.ema is None:
            return
        net, average = bare_network(self.net_g), bare_network(self.ema)
        if decay > 0 and hasattr(self.ema, "update_parameters"):
            self.ema.update_parameters(net)
            return
        for parameter, new in zip(average.parameters(), net.parameters(), strict=True):
            parameter.lerp_(new.to(parameter), 1 - decay)
        for buffer, value in zip(average.buffers(), net.buffers(), strict=True):
            buffer.copy_(value)

    # Training.

    def get_optimizer(self, optim_type: str, params: Any, lr: float, **kwargs: Any) -> torch.optim.Optimizer:
        """Return an optimizer; append it to `self.optimizers` for the schedule and the training state to include it.

        Raises:
            UnknownNameError: when there is none of this name.
        """
        return build_optimizer({"type": optim_type, "lr": lr, **kwargs}, params, self.net_g)

    def setup_schedulers(self) -> None:
        """Do nothing: `train.scheduler` gives every optimizer's rate as a function of the iteration."""

    @property
    def log_dict(self) -> dict[str, Any]:
        """The losses of the last step, as the log shows them."""
        return self.log

    @log_dict.setter
    def log_dict(self, losses: Mapping[str, Any]) -> None:
        self.log = {name: self.as_scalar(value) for name, value in losses.items()}

    def as_scalar(self, value: Any) -> Tensor:
        """Return the mean of a loss, a tensor or a number, as a scalar of the model's device."""
        return torch.as_tensor(value, dtype=torch.float32, device=self.device).detach().mean()

    def reduce_loss_dict(self, loss_dict: Mapping[str, Any]) -> dict[str, float]:
        """Return the losses averaged over the processes, as numbers; all processes must call it together.

        Args:
            loss_dict: tensors or numbers.
        """
        means = reduce_mean_dict({name: self.as_scalar(loss) for name, loss in loss_dict.items()})
        return OrderedDict((name, float(means[name])) for name in loss_dict)

    # Testing.

    def test(self) -> None:
        """Run the network on the batch that was fed, into `self.output`."""
        vars(self).pop("img", None)  # of the last image
        self.pre_process()
        self.process()
        self.post_process()

    def pre_process(self) -> None:
        """Make `self.img` of `self.lq`, if the network needs another input, such as a padded one; here nothing."""

    def process(self) -> None:
        """Run the network on `self.img`, or else on `self.lq`, into `self.output`."""
        image = self.img if hasattr(self, "img") else self.lq
        if hasattr(self, "predictor"):
            with self.predictor() as predict:
                self.output = predict(image)
            return
        net = bare_network(self.ema if self.ema is not None else self.net_g)  # of a `BaseModel`
        was_training = net.training
        net.eval()
        with torch.no_grad():
            self.output = net(image)
        net.train(was_training)

    def post_process(self) -> None:
        """Bring `self.output` to the size it should have; here nothing."""

    def get_current_visuals(self) -> dict[str, Tensor]:
        """Return input, output and ground truth of the last test, on the CPU."""
        names = {"lq": "lq", "result": "output", "gt": "gt"}  # plug-ins delete those they need no more
        visuals = {key: getattr(self, name, None) for key, name in names.items()}
        return {key: value.detach().cpu() for key, value in visuals.items() if value is not None}

    # Validation.

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
        it = current_iter if isinstance(current_iter, int) else None
        self._own_scores = self.score_by_methods(dataloader, it, save_img, gather=False)
        self.metric_results = self._own_scores.mean()

    def score_by_methods(
        self, loader: Iterable[Mapping[str, Any]], current_iter: int | None, save_img: bool, gather: bool = True
    ) -> Scores:
        """Score a data set with the outputs of the plug-in's `test`, or of `predictor` where it overrides nothing."""
        if methods_of_plugins(type(self), TEST_METHODS) or not hasattr(self, "predictor"):
            return self.score(lambda sr: sr, TestedBatches(self, loader), current_iter, save_img, gather)
        with self.predictor() as predict:
            return self.score(predict, loader, current_iter, save_img, gather)

    def score(
        self,
        predict: Callable[[Tensor], Tensor],
        loader: Iterable[Mapping[str, Any]],
        current_iter: int | None,
        save_img: bool,
        gather: bool = True,
    ) -> Scores:
        """Score the outputs of `predict` for the images of `loader`; see `score_images`."""
        return score_images(self.opt, predict, loader, current_iter, save_img, gather, self.on_scores)

    def _initialize_best_metric_results(self, dataset_name: str) -> None:
        """Prepare an entry for the best score of each metric of a data set, once."""
        if not hasattr(self, "best_metric_results"):
            self.best_metric_results = {}
        if dataset_name not in self.best_metric_results:
            worst = {"higher": float("-inf"), "lower": float("inf")}
            directions = {name: direction(spec) for name, spec in (self.opt.val.metrics or {}).items()}
            self.best_metric_results[dataset_name] = {
                name: {"better": better, "val": worst[better], "iter": -1} for name, better in directions.items()
            }

    def _update_best_metric_result(self, dataset_name: str, metric: str, val: float, current_iter: int) -> None:
        """Update the best score of a metric."""
        best: dict[str, Any] = self.best_metric_results[dataset_name][metric]
        if val >= best["val"] if best["better"] == "higher" else val <= best["val"]:
            best.update(val=val, iter=current_iter)

    def _log_validation_metric_values(self, current_iter: Any, dataset_name: str, tb_logger: Any) -> None:
        """Do nothing: the run logs and tracks the scores of a validation."""


class TestedBatches:
    """A loader whose batches hold, in place of LQ, the output of a plug-in's own methods for them."""

    __test__ = False  # not for pytest

    def __init__(self, model: ModelMethods, loader: Any):
        self._model = model
        self._loader = loader

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for batch in self._loader:
            self._model.feed_data(batch)
            self._model.test()
            visuals = self._model.get_current_visuals()
            images = {"lq": visuals["result"], **({"gt": visuals["gt"]} if "gt" in visuals else {})}
            if not self._undone(images.get("gt"), batch.get("gt")):
                images = {key: form_of(self._loader).undo(image) for key, image in images.items()}
            yield {**{key: value for key, value in batch.items() if key != "gt"}, **images}

    def _undone(self, shown: Tensor | None, fed: Tensor | None) -> bool:
        """Return whether the plug-in has undone the normalisation by itself, as its ground truth, if any, shows."""
        if shown is None or fed is None:
            return bool(methods_of_plugins(type(self._model), ("get_current_visuals",)))
        return not torch.equal(shown.cpu(), fed[..., : shown.shape[-2], : shown.shape[-1]].cpu())  # it may be cropped

    def __len__(self) -> int:
        return len(self._loader)

    @property
    def form(self) -> InputForm:
        """The form of the images, which are no longer normalised."""
        return InputForm(form_of(self._loader).color)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)
