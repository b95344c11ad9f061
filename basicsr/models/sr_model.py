"""Super-resolution: a network learns to map LQ to GT. Each `train.*_opt` is a loss."""

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from basicsr.archs import build_network
from basicsr.config.input_form import InputForm
from basicsr.config.registry import MODEL_REGISTRY
from basicsr.config.schema import Options
from basicsr.config.training import loss_name
from basicsr.engine.checkpoint import load_file
from basicsr.engine.compile import compile_for_all_sizes
from basicsr.engine.cuda_graphs import GraphedForward
from basicsr.engine.ema import EMA
from basicsr.engine.plan_cache import PLANS
from basicsr.engine.wrapper import bare_network
from basicsr.errors import CheckpointError
from basicsr.images.self_ensemble import self_ensemble
from basicsr.images.tiling import tiles_when_full
from basicsr.losses import build_loss
from basicsr.metrics.evaluate import Scores
from basicsr.models.base_model import BaseModel
from basicsr.models.scoring import score_images

logger = logging.getLogger("basicsr")


@MODEL_REGISTRY.register()
class SRModel(BaseModel):
    """One network, trained on pairs; also registered as `CATANetModel`.

    Override `compute_losses` for another objective and `predictor` for another way to run the network.
    """

    def __init__(self, opt: Options):
        super().__init__(opt)
        self.net_g = self.model_to_device(self.build_net_g())
        self.losses: dict[str, nn.Module] = {}
        """key in `train` (`pixel_opt`) -> loss."""
        if self.is_train:
            self.init_training_settings()

    def build_net_g(self) -> nn.Module:
        """Return `network_g` with its initial weights: those of `path.pretrain_network_g`, if given."""
        net = build_network(self.opt.network_g)
        self.init_net_g(net)
        path = self.opt.path
        if path.pretrain_network_g is not None:
            self.load_network(net, path.pretrain_network_g, path.strict_load_g, path.param_key_g)
            self._check_input_form(path.pretrain_network_g)
        return net

    def init_net_g(self, net: nn.Module) -> None:
        """Set initial weights of `network_g`, before those of a file are loaded; by default those of its class stay."""

    def _check_input_form(self, weights: str) -> None:
        """Check that the network gets images in the form that its weights were trained on, if their file names it.

        In training a difference is only a warning: the network can learn another form.

        Raises:
            OptionError: in a test.
        """
        try:
            trained = InputForm.of_weights(load_file(weights))
        except (TypeError, ValueError) as error:
            raise CheckpointError(f"{weights}: its meta.input is damaged ({error})") from error
        mine = self.opt.input_form
        if trained is None or trained.to_plain() == mine.to_plain():
            return
        problem = f"{weights} was trained on images with {trained}, but the data sets have {mine}"
        if not self.is_train:
            raise (self.opt.where / "datasets").error(f"{problem}; make color, mean and std those of its training set")
        logger.warning("%s", problem)

    def init_training_settings(self) -> None:
        """Make all that training needs besides the network: losses, moving average, optimizers."""
        train = self.opt.train
        if train is None:
            return
        self.losses = {key: build_loss(spec).to(self.device) for key, spec in train.losses.items()}
        if train.ema_decay > 0:
            self.ema = EMA(bare_network(self.net_g), train.ema_decay)
        self.setup_optimizers()

    def setup_optimizers(self) -> None:
        """Make the optimizers of a training run; here that of `net_g`."""
        if self.opt.train is not None:
            self.setup_optimizer(bare_network(self.net_g).parameters(), self.opt.train.optim_g)

    def compute_losses(self, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        """Return every loss between output and GT, under the name that is logged."""
        return self.losses_of(self.net_g(batch["lq"]), batch["gt"])

    def losses_of(self, output: Tensor, gt: Tensor) -> dict[str, Tensor]:
        """Return the losses of `train.*_opt` between an output and GT, under the names that are logged."""
        return {loss_name(key): self.loss_of(key, output, gt) for key in self.losses}

    def loss_of(self, key: str, output: Tensor, gt: Tensor) -> Tensor:
        """Return the loss of `train.<key>` between an output and GT."""
        loss = self.losses[key]
        return loss(output.float(), gt) if getattr(loss, "needs_target", True) else loss(output.float())

    @property
    def net_eval(self) -> nn.Module:
        """The network that is tested: the moving average where there is one."""
        return bare_network(self.ema if self.ema is not None else self.net_g)

    @contextmanager
    def predictor(self) -> Iterator[Callable[[Tensor], Tensor]]:
        """Give a function from LQ (B, C, h, w) to SR (B, C, s*h, s*w), in the form of the LQ, not clamped.

        A network that has a faster form for inference (`prepared`) runs in it, and on CUDA, for images of a size that
        repeats, as a graph. An image for which memory does not suffice is done in tiles, with a message.
        """
        net, val = self.net_eval, self.opt.val
        was_training = net.training
        net.eval()
        prepare = getattr(net, "prepared", None)
        run = prepare(torch.bfloat16 if val.amp else torch.float32) if callable(prepare) else net
        if val.compile:
            run = compile_for_all_sizes(run)
        autocast = torch.autocast(self.device.type, torch.bfloat16) if val.amp and run is net else nullcontext()

        def forward(lq: Tensor) -> Tensor:
            with autocast:
                return (self_ensemble(run, lq) if val.self_ensemble else run(lq)).float()

        graphs = None if val.compile else GraphedForward(forward, self.device, keep=PLANS.recorded)

        def predict(lq: Tensor) -> Tensor:
            with torch.inference_mode():
                return (graphs or forward)(lq.to(self.device, non_blocking=True))

        try:
            yield tiles_when_full(predict)
        finally:
            if graphs is not None:
                graphs.drop()
            net.train(was_training)

    def validation(
        self, loader: Iterable[Mapping[str, Any]], current_iter: int | None = None, save_img: bool = False
    ) -> Scores:
        """Score the data set of `loader`, whose images are this process's share.

        Args:
            loader: batches, with the attributes `name` and `root` of the data set.
            current_iter: iterations done; None in a test run, which scores in both protocols.
            save_img: write the outputs into the run's `visualization` folder.
        """
        with self.predictor() as predict:
            return self.score(predict, loader, current_iter, save_img)

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


MODEL_REGISTRY.register(SRModel, name="CATANetModel")
