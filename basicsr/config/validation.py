"""Checks of options that depend on each other or on the components that they name."""

import functools
import logging

import torch

from basicsr.config.construction import TooLargeError, build_for_shapes
from basicsr.config.registry import (
    ARCH_REGISTRY,
    MODEL_REGISTRY,
    OPTIMIZER_REGISTRY,
    SCHEDULER_REGISTRY,
)
from basicsr.config.schema import Options
from basicsr.config.section import Spec
from basicsr.config.training import TrainOptions
from basicsr.errors import UnknownNameError
from basicsr.text import folded

logger = logging.getLogger("basicsr")


def check(options: Options, is_train: bool) -> None:
    """Check that the model exists, the data sets are there, and every constructor accepts its values.

    Networks are built for their shapes only (see `construction.py`), the optimizer with one small parameter.

    Raises:
        OptionError: naming the first option that is wrong.
    """
    where = options.where
    try:
        MODEL_REGISTRY.get(options.model_type)
    except UnknownNameError as error:
        raise (where / "model_type").error(str(error)) from error
    for spec in (options[key] for key in options if key.startswith("network_")):
        _check_network(spec)
    upscale = options.network_g.get("upscale", options.scale)
    if upscale != options.scale:
        raise (where / "scale").error(f"is {options.scale}, but network_g.upscale is {upscale}; make them equal")
    _check_test_set_names(options)
    for section in options.datasets_of("val", "test").values():
        if section.cache == "device":
            raise (section.where / "cache").error("device is only for training sets; remove it")
    if is_train:
        _check_training(options)
    elif not options.datasets_of("val", "test"):
        raise (where / "datasets").error("has no test set; add `test_1: {type: PairedImageDataset, ...}`")


def _check_test_set_names(options: Options) -> None:
    """Check that the names of test sets, under which scores and images are kept and written, are distinct files."""
    taken: dict[str, str] = {}
    for key, section in options.datasets_of("val", "test").items():
        name = section.name or key
        where = section.where / "name"
        if name in (".", "..") or any(c in name for c in "/\\\0"):
            raise where.error(f"must be usable as the name of a folder, got {name!r}; leave out slashes")
        other = taken.setdefault(folded(name), key)
        if other != key:
            same = options.datasets[other].name or other
            alike = "has the same name" if same == name else f"is called {same!r}, which may be the same file name"
            raise where.error(
                f"is {name!r}, and datasets.{other} {alike}; scores and images of one would overwrite those of the "
                f"other: give it a name of its own, such as {name}_2"
            )


def _check_network(spec: Spec) -> None:
    try:
        build_for_shapes(functools.partial(ARCH_REGISTRY.build, spec))
    except TooLargeError as error:
        logger.info("%s: could not be built for a check (%s)", spec.where, error)
    except (RuntimeError, OverflowError, MemoryError) as error:
        raise spec.where.error(f"cannot be built with these sizes ({error or 'too large'})") from error


def _check_training(options: Options) -> None:
    where, train = options.where, options.train
    if train is None:
        raise (where / "train").error("is missing; training needs optim_g, total_iter and a loss")
    if "train" not in options.datasets:
        raise (where / "datasets").error("has no training set; add `train: {type: PairedImageDataset, ...}`")
    if not train.losses and not where.for_plugin:
        raise (where / "train").error("has no loss; add e.g. `pixel_opt: {type: L1Loss, loss_weight: 1.0}`")
    if train.mixing_augs:
        logger.warning("%s: MixUp is not applied, as in the published code of ATD-U", train.where / "mixing_augs")
    _check_optimizer(train)
    if train.scheduler is not None:
        SCHEDULER_REGISTRY.build(train.scheduler)


def _check_optimizer(train: TrainOptions) -> None:
    parameter = torch.nn.Parameter(torch.zeros(2, 2))
    takes_names = getattr(OPTIMIZER_REGISTRY.get(train.optim_g.type), "takes_names", False)
    try:
        OPTIMIZER_REGISTRY.build(train.optim_g, [("weight", parameter) if takes_names else parameter])
    except RuntimeError as error:  # e.g. `foreach` together with `fused`
        raise train.optim_g.where.error(str(error)) from error
