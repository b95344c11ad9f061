"""A short fine-tuning by which masks are compared: the training loop without its commands, and the score on images."""

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from torch import Tensor, nn
from torch.utils.data import DataLoader

from basicsr.config.schema import Options
from basicsr.data.loaders import TestLoader, batches, build_test_loader, build_train_loader
from basicsr.engine.distributed import gather_objects
from basicsr.engine.random_state import random_state_kept, seed_everything
from basicsr.errors import ImageReadError
from basicsr.models.base_model import BaseModel
from basicsr.pruning.compaction import network_spec
from basicsr.pruning.finalize import network_to_finetune
from basicsr.pruning.matching import Origin
from basicsr.pruning.next_stages import longest_warmup, recovery_options, recovery_settings
from basicsr.pruning.pick import Tried, pick_mask
from basicsr.pruning.search import MaskSearch

logger = logging.getLogger("basicsr")


class HeldImages(list[dict[str, Any]]):
    """The images of a `TestLoader`, read once, for many validations. Those that cannot be read are left out of all."""

    def __init__(self, loader: TestLoader):
        super().__init__(loader)
        self.name = loader.name
        self.root = loader.root
        self.left_out = sorted(image.path for share in gather_objects(loader.unreadable) for image in share)
        self.form = loader.form


def fine_tune(model: BaseModel, loader: DataLoader[Any], on_step: Callable[[], object] = lambda: None) -> None:
    """Train a model for all iterations of its options, as basicsr/train.py does.

    Every call sees the same batches and random numbers, whatever was drawn before.

    Raises:
        FloatingPointError: when a loss was not finite.
    """
    opt = model.opt
    seed_everything(opt.manual_seed + opt.rank)
    total_iter, warmup_iter = (opt.train.total_iter, opt.train.warmup_iter) if opt.train else (0, -1)
    for it, (_, batch) in zip(range(1, total_iter + 1), batches(loader, 0), strict=False):  # batches() is endless
        model.update_learning_rate(it, warmup_iter)
        model.feed_data(batch)
        model.optimize_parameters(it)
        on_step()
    model.check_finite(total_iter)


def mean_scores(model: BaseModel, sets: Sequence[Iterable[dict[str, Any]]]) -> dict[str, float]:
    """Return the mean of each metric, over the sets if there are several; all processes call it with their shares.

    Raises:
        ImageReadError: when an image has no scores, as the means of two models would then be of different images.
    """
    scores = [model.validation(held, 0, False) for held in sets]
    for one in scores:
        if one.failed or not one.per_image:
            reason = next(iter(one.failed.values()), "no image can be read")
            raise ImageReadError(f"{one.dataset}: {reason}; mend that, then go on with --auto_resume")
    means = [one.mean() for one in scores]
    return {metric: sum(mean[metric] for mean in means) / len(means) for metric in means[0]}


def check_recovery(opt: Options, net: nn.Module, origin: Origin) -> None:
    """Check, before a search, that `try_masks` can fine-tune at its end.

    Raises:
        OptionError: when `compact.finetune` is no section `train`.
        ValueError: when a warm-up takes all iterations.
    """
    pick_iter = opt.prune.pick_iter if opt.prune else 0
    warmup = longest_warmup(recovery_options(opt, network_spec(net), origin.teacher, pick_iter))
    if warmup >= pick_iter:
        raise ValueError(
            f"prune.pick_iter: must be above the {warmup} iterations of warm-up, got {pick_iter}; raise it, or lower "
            "compact.finetune.warmup_iter, prune.tail_warmup_iter or prune.tail_fit"
        )


def try_masks(
    opt: Options,
    search: MaskSearch,
    origin: Origin,
    whole: nn.Module,
    build: Callable[[Options, nn.Module], BaseModel],
) -> list[Tried]:
    """Fine-tune each of the most probable masks, as `prune.pick` says; make the best one the mode of `search`.

    Args:
        opt: of the search.
        search: after its last step.
        origin: of the groups of `whole`.
        whole: the full-depth network with the weights of the search.
        build: makes the model of the stage `finetune` that trains a network.
    """
    device = next(whole.parameters()).device

    def options(net: nn.Module, kept: Sequence[int]) -> Options:
        return recovery_options(opt, network_spec(net), origin.of(kept).teacher, search.prune.pick_iter)

    base, val_keys = options(whole, range(len(search.mode))), list(opt.datasets_of("val"))
    loader, sets = build_train_loader(base), [HeldImages(build_test_loader(opt, key)) for key in val_keys]

    def recover(kept: list[int]) -> tuple[float, float]:
        seed_everything(opt.manual_seed)  # all masks, in all processes, begin with the same tail
        lq: Iterator[Tensor] = (batch["lq"].to(device) for _, batch in batches(loader, 0))
        begin = network_to_finetune(opt, whole, kept, lq)
        model = build(options(begin, kept), begin)
        before = mean_scores(model, sets)["psnr"]
        fine_tune(model, loader)
        return before, mean_scores(model, sets)["psnr"]

    values = opt.to_minimal_dict()
    scoring = {"val_sets": {key: values["datasets"][key] for key in val_keys}, "metrics": values["val"]["metrics"]}
    if left_out := [path for held in sets for path in held.left_out]:
        logger.warning("All masks are compared without %d images that cannot be read", len(left_out))
        scoring["left_out"] = left_out
    settings = {**recovery_settings(base), **scoring, "mlp_dim": opt.compact.mlp_dim}
    with random_state_kept():
        return pick_mask(opt, search, settings, recover)
