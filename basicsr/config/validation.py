"""Checks of options that depend on each other or on the components that they name."""

import functools
import logging
from collections.abc import Collection
from typing import Any

import torch

from basicsr.config.construction import TooLargeError, build_for_shapes
from basicsr.config.convert import build_section
from basicsr.config.data_checks import check_datasets, check_read_by
from basicsr.config.registry import (
    ARCH_REGISTRY,
    MODEL_REGISTRY,
    OPTIMIZER_REGISTRY,
    SCHEDULER_REGISTRY,
)
from basicsr.config.schema import Options
from basicsr.config.section import Spec
from basicsr.config.stages import warn_of_no_effect
from basicsr.config.training import TrainOptions, loss_name
from basicsr.errors import UnknownNameError
from basicsr.text import folded

logger = logging.getLogger("basicsr")
MINUS_ONE_TO_ONE = {"mean": [0.5] * 3, "std": [0.5] * 3}


def check(options: Options, is_train: bool) -> None:
    """Check that the model exists, the data sets are there, and every constructor accepts its values.

    Networks are built for their shapes only (see `construction.py`), the optimizer with one small parameter.

    Raises:
        OptionError: naming the first option that is wrong.
    """
    where = options.where
    try:
        model = MODEL_REGISTRY.get(options.model_type)
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
    check_datasets(options, model, is_train)
    _check_metrics(options)
    warn_of_no_effect("val", "val" if is_train else "test", options.val, options.val.to_minimal_dict())
    if is_train:
        _check_training(options, model)
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


def _check_metrics(options: Options) -> None:
    for name, spec in (options.val.metrics or {}).items():
        if name == "image":
            raise spec.where.error("is the name of the first column in files of scores; rename the metric")
        if spec.get("input_order", "HWC") != "HWC":
            raise (spec.where / "input_order").error(
                f"must be HWC, for so images are scored, got {spec['input_order']}"
            )


def _check_training(options: Options, model: Any) -> None:
    where, train = options.where, options.train
    if train is None:
        raise (where / "train").error("is missing; training needs optim_g, total_iter and a loss")
    if "train" not in options.datasets:
        raise (where / "datasets").error("has no training set; add `train: {type: PairedImageDataset, ...}`")
    if not train.losses and not where.for_plugin:
        raise (where / "train").error("has no loss; add e.g. `pixel_opt: {type: L1Loss, loss_weight: 1.0}`")
    if train.mixing_augs:
        logger.warning("%s: MixUp is not applied, as in the published code of ATD-U", train.where / "mixing_augs")
    if not where.for_plugin:
        _check_sections(options, model)
    _check_losses(options, train, getattr(model, "own_losses", ()))
    _check_optimizer(train)
    if options.compact.finetune:  # keys of the section `train` of a later run
        values = {key: value for key, value in train.to_minimal_dict().items() if key != "optim_m"}
        build_section(TrainOptions, {**values, **options.compact.finetune}, options.compact.where / "finetune")
    if train.scheduler is not None:
        SCHEDULER_REGISTRY.build(train.scheduler)


def _check_sections(options: Options, model: Any) -> None:
    """Check that the model reads the sections, and keys of `val`, that not every model reads."""
    read = getattr(model, "extra_options", ())
    for key in ("prune", "budget", "kd", "compact"):
        if key not in read and options[key] is not None and options[key].to_minimal_dict():
            raise (options.where / key).error(f"is read by PruneDistillModel, not by {options.model_type}; remove it")
    check_read_by(model, options.val, ("expect_teacher_psnr",))
    names = {section.name or key for key, section in options.datasets_of("val", "test").items()}
    for name in options.val.expect_teacher_psnr or {}:
        if name not in names:
            raise (options.val.where / "expect_teacher_psnr" / name).error(
                f"is the name of no test set; they are {', '.join(sorted(names)) or 'not there'}"
            )


def _check_losses(options: Options, train: TrainOptions, own_losses: Collection[str]) -> None:
    """Check that no loss is logged like one of the model's own, and that each can use the images that it gets."""
    form = options.input_form
    for key, spec in train.losses.items():
        where = train.where / key
        if loss_name(key) in own_losses:
            raise where.error(f"is logged as {loss_name(key)}, like a loss of {options.model_type}; rename it")
        if spec.type == "PerceptualLoss" and form.channels != 3:
            raise where.error("PerceptualLoss takes images of 3 channels; leave out color: y of the data sets")
        fits = not spec.get("use_input_norm", True) or (spec.get("range_norm") and form.to_plain() == MINUS_ONE_TO_ONE)
        if spec.type == "PerceptualLoss" and form.is_normalised and not fits:
            logger.warning(
                "%s: gets normalised images, but expects [0, 1]; range_norm: true fits mean and std 0.5, "
                "use_input_norm: false those of ImageNet",
                where,
            )
    if options.kd.zoom.weight > 0 and form.is_normalised:
        raise (options.kd.where / "zoom").error("inverts colours in [0, 1]; leave out mean and std of the data sets")


def _check_optimizer(train: TrainOptions) -> None:
    parameter = torch.nn.Parameter(torch.zeros(2, 2))
    takes_names = getattr(OPTIMIZER_REGISTRY.get(train.optim_g.type), "takes_names", False)
    try:
        OPTIMIZER_REGISTRY.build(train.optim_g, [("weight", parameter) if takes_names else parameter])
    except RuntimeError as error:  # e.g. `foreach` together with `fused`
        raise train.optim_g.where.error(str(error)) from error
