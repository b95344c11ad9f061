"""Super-resolution: a network learns to turn LQ into GT. The losses are whatever `train.*_opt` names."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from basicsr.archs import build_network
from basicsr.compat.hooks import overrides
from basicsr.config.registry import MODEL_REGISTRY
from basicsr.config.schema import Options
from basicsr.engine.cuda_graphs import GraphedForward
from basicsr.engine.ema import EMA
from basicsr.engine.plan_cache import PLANS
from basicsr.images.files import to_pixels, write_image
from basicsr.images.tiling import tiles_when_full
from basicsr.losses import build_loss
from basicsr.metrics import both_protocols
from basicsr.metrics.evaluate import Scores, evaluate
from basicsr.models.base_model import BaseModel

# What plug-ins override to run their networks; where none is overridden, `predictor` alone does it.
RUN_HOOKS = ("feed_data", "test", "pre_process", "process", "post_process", "get_current_visuals")


@MODEL_REGISTRY.register()
class SRModel(BaseModel):
    """One network, trained on pairs; also registered as `CATANetModel`.

    Override `compute_losses` for another objective and `predictor` for another way to run the network. The hooks that
    BasicSR 1.4's plug-ins override do what they do there; see `plugin_hooks`.
    """

    lq: Tensor
    gt: Tensor | None
    output: Tensor | None
    img: Tensor | None  # what `pre_process` made of `lq`

    def __init__(self, opt: Options):
        super().__init__(opt)
        self.batch: dict[str, Any] = {}
        self.net_g = self.model_to_device(self.build_net_g())
        self.losses: dict[str, nn.Module] = {}
        self.cri_pix: nn.Module | None = None
        self.cri_perceptual: nn.Module | None = None
        self.ema_decay = opt.train.ema_decay if opt.train else 0.0
        if self.is_train:
            self.init_training_settings()

    def init_training_settings(self) -> None:
        """What training needs beside the network: losses, moving average, optimizers."""
        train = self.opt.train
        if train is None:
            return
        self.losses = {key: build_loss(spec).to(self.device) for key, spec in train.losses.items()}
        self.cri_pix, self.cri_perceptual = self.losses.get("pixel_opt"), self.losses.get("perceptual_opt")
        if train.ema_decay > 0:
            self.net_g_ema = EMA(self.get_bare_model(self.net_g), train.ema_decay)
        self.setup_optimizers()
        self.setup_schedulers()

    def build_net_g(self) -> nn.Module:
        """`network_g` with the weights it starts from."""
        net = build_network(self.opt.network_g)
        path = self.opt.path
        if path.pretrain_network_g is not None:
            self.load_network(net, path.pretrain_network_g, path.strict_load_g, path.param_key_g)
        return net

    def setup_optimizers(self) -> None:
        """The optimizers of a training run; here that of `net_g`."""
        if self.opt.train is not None:
            self.setup_optimizer(self.get_bare_model(self.net_g).parameters(), self.opt.train.optim_g)

    def feed_data(self, data: Mapping[str, Any]) -> None:
        """Take a batch `{'lq': (B, 3, h, w), 'gt': (B, 3, s*h, s*w), ...}` to the device."""
        self.batch = {
            key: value.to(self.device, non_blocking=True) if isinstance(value, Tensor) else value
            for key, value in data.items()
        }
        self.lq, self.gt = self.batch["lq"], self.batch.get("gt")

    def compute_losses(self, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        """Every loss between output and GT, under the name it is logged as."""
        return self.losses_of(self.net_g(batch["lq"]), batch["gt"])

    def losses_of(self, output: Tensor, gt: Tensor) -> dict[str, Tensor]:
        """What `train.*_opt` says of an output, under the names that are logged."""
        plugins = {"pixel_opt": self.cri_pix, "perceptual_opt": self.cri_perceptual}  # set by a plug-in itself
        criteria = self.losses or {key: criterion for key, criterion in plugins.items() if criterion is not None}
        return {loss_name(key): criterion(output.float(), gt) for key, criterion in criteria.items()}

    def optimize_parameters(self, current_iter: int) -> None:
        """One optimizer step on the batch that was fed."""
        fed = {key: getattr(self, key, None) for key in ("lq", "gt")}  # a plug-in may have put others there
        self.minimise({**self.batch, **{key: value for key, value in fed.items() if value is not None}}, current_iter)

    @property
    def net_eval(self) -> nn.Module:
        """The network that is tested: the EMA where there is one."""
        return self.get_bare_model(self.ema if self.ema is not None else self.net_g)

    @contextmanager
    def predictor(self) -> Iterator[Callable[[Tensor], Tensor]]:
        """A function from LQ (B, 3, h, w) to SR (B, 3, s*h, s*w), RGB in [0, 1], not clamped.

        A network that has a faster form for inference (`prepared`) runs in it, and on CUDA, for images of a size that
        repeats, as a graph. An image for which memory does not suffice is done in tiles, with a message.
        """
        net, amp = self.net_eval, self.opt.val.amp
        was_training = net.training
        net.eval()
        prepare = getattr(net, "prepared", None)
        run = prepare(torch.bfloat16 if amp else torch.float32) if callable(prepare) else net
        if self.opt.val.compile:
            run = compiled_for_all_sizes(run)
        autocast = torch.autocast(self.device.type, torch.bfloat16) if amp and run is net else nullcontext()

        def forward(lq: Tensor) -> Tensor:
            with autocast:
                return (self_ensemble(run, lq) if self.opt.val.self_ensemble else run(lq)).float()

        graphs = None if self.opt.val.compile else GraphedForward(forward, self.device, keep=PLANS.recorded)

        def predict(lq: Tensor) -> Tensor:
            with torch.inference_mode():
                return (graphs or forward)(lq.to(self.device, non_blocking=True))

        try:
            yield tiles_when_full(predict)
        finally:
            if graphs is not None:
                graphs.drop()
            net.train(was_training)

    def test(self) -> None:
        """Run the network on the batch that was fed, into `self.output`."""
        self.img = None
        self.pre_process()
        self.process()
        self.post_process()

    def pre_process(self) -> None:
        """Make `self.img` of `self.lq`, if the network needs another input, such as a padded one; nothing here."""

    def process(self) -> None:
        """Run the network on `self.img`, or else on `self.lq`, into `self.output`."""
        with self.predictor() as predict:
            self.output = predict(self.lq if getattr(self, "img", None) is None else self.img)  # type: ignore[arg-type]

    def post_process(self) -> None:
        """Bring `self.output` to the size it should have; nothing here."""

    def get_current_visuals(self) -> dict[str, Tensor]:
        """Input, output and ground truth of the last test, on the CPU."""
        names = {"lq": "lq", "result": "output", "gt": "gt"}  # plug-ins delete those they need no more
        visuals = {key: getattr(self, name, None) for key, name in names.items()}
        return {key: value.detach().cpu() for key, value in visuals.items() if value is not None}

    def validation(self, loader: Iterable[Mapping[str, Any]], current_iter: int | None = None,
                   save_img: bool = False) -> Scores:  # fmt: skip
        """Score the data set of `loader`, whose images are this process's share.

        Args:
            current_iter: in training; None in a test run, which scores in both protocols.
            save_img: write the outputs into the run's `visualization` folder.
        """
        if overrides(self, SRModel, ("nondist_validation", "dist_validation")):
            return self.validate_by_hooks(loader, current_iter, save_img)
        return self._score(loader, current_iter, save_img)

    def nondist_validation(self, dataloader: Any, current_iter: Any, tb_logger: Any, save_img: bool) -> None:
        """Validate in this process alone, into `metric_results`, for plug-ins that go on from there."""
        at = current_iter if isinstance(current_iter, int) else None
        self.scores = self._score(dataloader, at, save_img, gather=False)
        self.metric_results = self.scores.mean()

    def _score(
        self, loader: Iterable[Mapping[str, Any]], current_iter: int | None, save_img: bool, gather: bool = True
    ) -> Scores:
        val = self.opt.val
        name = getattr(loader, "name", "")
        metrics: Mapping[str, Any] = val.metrics or {}
        if current_iter is None:
            metrics = both_protocols(metrics)
        on_image = self._image_writer(name, current_iter) if save_img else None
        bar = tqdm(loader, desc=f"Test {name}", unit="image", leave=False, disable=not val.pbar or self.opt.rank != 0)
        root = getattr(loader, "root", None)
        if overrides(self, SRModel, RUN_HOOKS):
            return evaluate(lambda sr: sr, self._tested(bar), metrics, name, on_image, root=root, gather=gather)
        with self.predictor() as predict:
            return evaluate(predict, bar, metrics, name, on_image, root=root, gather=gather)

    def _tested(self, batches: Iterable[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
        """Batches as the model's own hooks see them, with the output instead of the input."""
        for batch in batches:
            self.feed_data(batch)
            self.test()
            visuals = self.get_current_visuals()
            images = {"lq": visuals["result"], **({"gt": visuals["gt"]} if "gt" in visuals else {})}
            yield {**{key: value for key, value in batch.items() if key != "gt"}, **images}

    def _image_writer(self, dataset: str, current_iter: int | None) -> Callable[[str, Tensor], None]:
        folder = Path(str(self.opt.path.visualization))
        suffix = self.opt.val.suffix

        def write(name: str, sr: Tensor) -> None:
            if current_iter is not None:
                path = folder / name / f"{Path(name).name}_{current_iter}.png"
            else:
                path = folder / dataset / f"{name}_{suffix or self.opt.name}.png"
            write_image(path, to_pixels(sr[0]))

        return write


MODEL_REGISTRY.register(SRModel, name="CATANetModel")


def loss_name(key: str) -> str:
    """The name a loss is logged under: `pixel_opt` -> `l_pix`, `perceptual_opt` -> `l_percep`, `x_opt` -> `l_x`."""
    stem = key.removesuffix("_opt")
    return "l_" + {"pixel": "pix", "perceptual": "percep"}.get(stem, stem)


def compiled_for_all_sizes(net: nn.Module) -> Callable[[Tensor], Tensor]:
    """`torch.compile` into one graph that holds for images of any size.

    A square first image would tie height to width, and the next image would be compiled again.
    """
    from torch.fx.experimental import _config

    compiled = torch.compile(net, dynamic=True, fullgraph=True)

    def run(x: Tensor) -> Tensor:
        with _config.patch(use_duck_shape=False):  # type: ignore[attr-defined]
            return compiled(x)

    return run


def self_ensemble(net: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Mean of the outputs over the 8 flips and rotations of the input, each turned back ("self-ensemble", x8).

    Source: EDSR, CVPRW 2017, Sec. 3.3.
    """
    outputs = []
    for turns in range(4):
        for flip in (False, True):
            turned = torch.rot90(x.flip(-1) if flip else x, turns, (-2, -1))
            y = torch.rot90(net(turned), -turns, (-2, -1))
            outputs.append(y.flip(-1) if flip else y)
    return torch.stack(outputs).mean(dim=0)
