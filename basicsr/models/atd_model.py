"""ATD and ATD-U in training: additions of their published recipes to `SRModel`."""

import logging
from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping
from itertools import accumulate
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor

from basicsr.config.registry import MODEL_REGISTRY
from basicsr.config.schema import DatasetOptions, Options
from basicsr.metrics.evaluate import Scores
from basicsr.models.scoring import form_of
from basicsr.models.sr_model import SRModel

logger = logging.getLogger("basicsr")

STREAM = 1  # separates these random choices from those of the data sets, whose seeds begin with three numbers, too


@MODEL_REGISTRY.register()
class ATDModel(SRModel):
    """`SRModel` whose moving average starts from the entry `params_ema` of `path.pretrain_network_g`."""

    def __init__(self, opt: Options):
        super().__init__(opt)
        path = opt.path
        if self.ema is not None and path.pretrain_network_g is not None:
            self.load_network(self.ema, path.pretrain_network_g, path.strict_load_g, "params_ema")


class Stage(NamedTuple):
    """A part of progressive training, with batches of one size."""

    last_iter: int
    """of this stage; the last stage has no end."""
    batch_size: int
    """samples of one step in one process, all its `accum_iter` parts together."""
    side: int
    """of the crops in pixels."""


@MODEL_REGISTRY.register()
class ATDUNetModel(ATDModel):
    """Restoration with input and output of one size, trained in stages with batches and crops of different sizes.

    `datasets.train` lists the `iters` of each stage and its `mini_batch_sizes` and `gt_sizes`. The loader always gives
    `batch_size_per_gpu` crops of `gt_size` pixels. A stage takes some of them at random, and a random window, the same
    in all of them. The choices follow from seed, process and iteration, so a resumed run makes the same ones. Without
    stages, batches stay whole.

    Outputs are clamped to [0, 1] before they are scored, as for the published figures.
    """

    extra_options: ClassVar = frozenset({"iters", "mini_batch_sizes", "gt_sizes"})

    def __init__(self, opt: Options):
        super().__init__(opt)
        self.stages = stages_of(opt.datasets["train"], opt) if self.is_train else []
        self._announced: Stage | None = None

    def optimize_parameters(self, current_iter: int) -> None:
        """Take one optimizer step on the stage's part of the batch that was fed."""
        self.take_step(self.stage_batch(current_iter), current_iter)

    def stage_batch(self, current_iter: int) -> dict[str, Any]:
        """Return the part of the batch that was fed which iteration `current_iter` (from 1) trains on."""
        if not self.stages:
            return self.batch
        index = min(bisect_left(self.stages, current_iter, key=lambda stage: stage.last_iter), len(self.stages) - 1)
        stage = self.stages[index]
        if stage is not self._announced:
            self._announced = stage
            logger.info(
                "Stage %d of %d: %d crops of %d px a step", index + 1, len(self.stages), stage.batch_size, stage.side
            )
        count, _, height, width = self.batch["lq"].shape
        rng = np.random.default_rng([self.opt.manual_seed, self.opt.rank, current_iter, STREAM])
        chosen = np.sort(rng.choice(count, stage.batch_size, replace=False)).tolist()
        rows = torch.tensor(chosen).to(self.device, non_blocking=True)  # a list would make the CPU wait for the GPU
        top, left = (int(rng.integers(side - stage.side + 1)) for side in (height, width))

        def part(value: Any) -> Any:
            if isinstance(value, Tensor):
                value = value[rows]
                is_map = value.ndim == 4
                return value[..., top : top + stage.side, left : left + stage.side] if is_map else value
            return [value[i] for i in chosen]

        return {key: part(value) for key, value in self.batch.items()}

    def score(
        self,
        predict: Callable[[Tensor], Tensor],
        loader: Iterable[Mapping[str, Any]],
        current_iter: int | None,
        save_img: bool,
        gather: bool = True,
    ) -> Scores:
        """As in `SRModel`, of outputs clamped to images in [0, 1]."""
        clamp = form_of(loader).clamp
        return super().score(lambda lq: clamp(predict(lq)), loader, current_iter, save_img, gather)


def stages_of(data: DatasetOptions, opt: Options) -> list[Stage]:
    """Return the stages in the options of a training set; none without `iters`, `mini_batch_sizes` and `gt_sizes`.

    Raises:
        OptionError: when some of the three are missing, differ in length, or exceed the size of the batches.
    """
    keys = ("iters", "mini_batch_sizes", "gt_sizes")
    given: Mapping[str, list[int]] = {key: list(data[key]) for key in keys if data.get(key)}
    if not given:
        return []
    for key in keys:
        if len(given.get(key, ())) != len(next(iter(given.values()))):
            found = ", ".join(f"{name} {values}" for name, values in given.items())
            raise (data.where / key).error(f"needs one number for each stage, like {' and '.join(keys)}; got {found}")
        if min(given[key]) < 1:  # data sets that do not declare these keys give them unchecked
            raise (data.where / key).error(f"must be at least 1 in every stage, got {given[key]}")
    limits = {
        "mini_batch_sizes": ("batch_size_per_gpu", data.batch_size_per_gpu),
        "gt_sizes": ("gt_size", data.get("gt_size") or 0),
    }
    for key, (name, limit) in limits.items():
        if max(given[key]) > limit:
            raise (data.where / key).error(f"must not exceed {name} ({limit}), got {given[key]}")
    if opt.scale != 1:
        raise (data.where / "gt_sizes").error(f"needs input and output of one size, scale: 1, got {opt.scale}")
    parts = opt.train.accum_iter if opt.train else 1
    sizes = zip(accumulate(given["iters"]), given["mini_batch_sizes"], given["gt_sizes"], strict=True)
    return [Stage(last, parts * batch, side) for last, batch, side in sizes]
