"""Checks of options that depend on each other, or on the model.

Every check gets the options that are right by themselves (`known`), and adds what is wrong to a `FaultList`; it passes
over what is not known, so that no fault follows from another.
"""

import logging
import os
from collections.abc import Mapping
from typing import Any

from basicsr.config.convert import PartialSection, build_section
from basicsr.config.data_checks import check_datasets, check_read_by
from basicsr.config.faults import FaultList
from basicsr.config.input_form import InputForm
from basicsr.config.location import Location, format_value
from basicsr.config.pruning import CompactOptions, DistillOptions
from basicsr.config.registry import MODEL_REGISTRY
from basicsr.config.schema import DatasetOptions, Options, ValOptions, form_of_datasets, of_phases
from basicsr.config.stages import warn_of_no_effect
from basicsr.config.training import TrainOptions, loss_name
from basicsr.errors import UnknownNameError
from basicsr.text import folded

logger = logging.getLogger("basicsr")
PHASES = ("train", "val", "test")
MINUS_ONE_TO_ONE = {"mean": [0.5] * 3, "std": [0.5] * 3}


def build_options(values: Mapping[str, Any], where: Location, is_train: bool) -> Options:
    """Return the options that plain values describe, after all checks.

    Raises:
        OptionError: for all that is wrong, without what follows from another fault.
    """
    parts = PartialSection(Options, values, where)
    _check(parts.known(), where, is_train, parts.faults)
    return parts.build()


def check(options: Options, is_train: bool) -> None:
    """Check options that were not read from a file, as `build_options` does.

    Raises:
        OptionError: for all that is wrong.
    """
    faults = FaultList()
    _check(options, options.where, is_train, faults)
    faults.raise_if_any()


def _check(known: Mapping[str, Any], where: Location, is_train: bool, faults: FaultList) -> None:
    model = _find_model(known.get("model_type"), where, faults)
    for_plugin = where.for_plugin or model is None
    _check_name(known.get("name", "run"), where, faults)
    if not _scale_fits(known, where, faults):
        known = {key: value for key, value in known.items() if key != "scale"}
    if "datasets" in known:
        _check_phases(known["datasets"], where, is_train, faults)
        _check_test_set_names(known["datasets"], faults)
        check_datasets(known, model, for_plugin, is_train, faults)
    if "val" in known:
        _check_val(known["val"], is_train, faults)
    if is_train and not for_plugin:
        _check_sections(known, model, where, faults)
    if is_train and "train" in known:
        _check_train(known["train"], model, where, faults)
    if is_train and known.get("train") is not None:
        _check_losses(known, known["train"], model, faults)
        _check_finetune(known.get("compact"), known["train"], faults)


def _find_model(name: Any, where: Location, faults: FaultList) -> Any:
    """Return the class of this name, None where there is none."""
    try:
        return None if name is None else MODEL_REGISTRY.get(name)
    except UnknownNameError as error:
        faults.add((where / "model_type").error(str(error), names_component=True))
        return None


def _check_name(name: str, where: Location, faults: FaultList) -> None:
    if not name or os.sep in name or name in (".", ".."):
        faults.add((where / "name").error(f"must be usable as the name of a folder, got {format_value(name)}"))


def _scale_fits(known: Mapping[str, Any], where: Location, faults: FaultList) -> bool:
    """Check that the network enlarges as the options say; return whether it does, as far as that is known."""
    scale, network = known.get("scale"), known.get("network_g", {})
    for key in ("upscale", "scale"):  # of RRDBNet it is called scale, as in BasicSR
        upscale = network.get(key)
        if None not in (scale, upscale) and upscale != scale:
            faults.add((where / "scale").error(f"is {scale}, but network_g.{key} is {upscale}; make them equal"))
            return False
    return True


def _check_phases(datasets: Mapping[str, DatasetOptions], where: Location, is_train: bool, faults: FaultList) -> None:
    """Check that there are the data sets that the run needs, and only those of known phases."""
    phases = {key: key.split("_")[0] for key in datasets}
    unknown = [key for key, phase in phases.items() if phase not in PHASES]
    for key in unknown:
        message = "must be train, val, val_1, ... or test, test_1, ...; rename it"
        faults.add((where / "datasets" / key).error(message))
    for key, section in datasets.items():
        if phases[key] != "train" and section.cache == "device":
            faults.add((section.where / "cache").error("device is only for training sets; remove it"))
    if is_train and "train" not in datasets and not unknown:  # which may be meant
        message = "has no training set; add `train: {type: PairedImageDataset, ...}`"
        faults.add((where / "datasets").error(message))
    if not is_train and not {"val", "test"} & set(phases.values()) and not unknown:
        message = "has no test set; add `test_1: {type: PairedImageDataset, ...}`"
        faults.add((where / "datasets").error(message))


def _check_test_set_names(datasets: Mapping[str, DatasetOptions], faults: FaultList) -> None:
    """Check that the names of test sets, under which scores and images are kept and written, are distinct files."""
    taken: dict[str, str] = {}
    for key, section in of_phases(datasets, "val", "test").items():
        name = section.name or key
        where = section.where / "name"
        if name in (".", "..") or any(c in name for c in "/\\\0"):
            faults.add(where.error(f"must be usable as the name of a folder, got {name!r}; leave out slashes"))
            continue
        other = taken.setdefault(folded(name), key)
        if other != key:
            same = datasets[other].name or other
            alike = "has the same name" if same == name else f"is called {same!r}, which may be the same file name"
            message = (
                f"is {name!r}, and datasets.{other} {alike}; scores and images of one would overwrite those of the "
                f"other: give it a name of its own, such as {name}_2"
            )
            faults.add(where.error(message))


def _check_val(val: ValOptions, is_train: bool, faults: FaultList) -> None:
    for name, spec in (val.metrics or {}).items():
        if name == "image":
            faults.add(spec.where.error("is the name of the first column in files of scores; rename the metric"))
        if spec.get("input_order", "HWC") != "HWC":
            message = f"must be HWC, for so images are scored, got {spec['input_order']}"
            faults.add((spec.where / "input_order").error(message))
    warn_of_no_effect("val", "val" if is_train else "test", val, val.to_minimal_dict())


def _check_train(train: TrainOptions | None, model: Any, where: Location, faults: FaultList) -> None:
    if train is None:
        faults.add((where / "train").error("is missing; training needs optim_g, total_iter and a loss"))
        return
    if not where.for_plugin:
        _check_has_loss(train, model, faults)
    if train.mixing_augs:
        logger.warning("%s: MixUp is not applied, as in the published code of ATD-U", train.where / "mixing_augs")


def _check_has_loss(train: TrainOptions, model: Any, faults: FaultList) -> None:
    if not train.losses and train.gan_opt is None:
        faults.add(train.where.error("has no loss; add e.g. `pixel_opt: {type: L1Loss, loss_weight: 1.0}`"))
    if train.gan_opt is not None and model is not None and not getattr(model, "trains_discriminator", False):
        message = f"{model.__name__} has no discriminator; use SRGANModel, ESRGANModel or RealESRGANModel, or remove it"
        faults.add((train.where / "gan_opt").error(message))


def _check_sections(known: Mapping[str, Any], model: Any, where: Location, faults: FaultList) -> None:
    """Check that the model reads the sections, and keys of `val`, that not every model reads."""
    read = getattr(model, "extra_options", ())
    for key in ("prune", "budget", "kd", "compact", "degradation"):
        if key not in read and known.get(key) is not None and known[key].to_minimal_dict():
            reader = "RealESRNetModel and RealESRGANModel" if key == "degradation" else "PruneDistillModel"
            faults.add((where / key).error(f"is read by {reader}, not by {known['model_type']}; remove it"))
    if "val" not in known:
        return
    val: ValOptions = known["val"]
    check_read_by(model, val, ("expect_teacher_psnr",), faults)
    if "datasets" not in known:
        return
    names = {section.name or key for key, section in of_phases(known["datasets"], "val", "test").items()}
    for name in val.expect_teacher_psnr or {}:
        if name not in names:
            message = f"is the name of no test set; they are {', '.join(sorted(names)) or 'not there'}"
            faults.add((val.where / "expect_teacher_psnr" / name).error(message))


def _check_losses(known: Mapping[str, Any], train: TrainOptions, model: Any, faults: FaultList) -> None:
    """Check that no loss is logged like one of the model's own, and that each can use the images that it gets."""
    form = form_of_datasets(known["datasets"]) if "datasets" in known else None
    for key, spec in train.losses.items():
        where = train.where / key
        if loss_name(key) in getattr(model, "own_losses", ()):
            message = f"is logged as {loss_name(key)}, like a loss of {known['model_type']}; rename it"
            faults.add(where.error(message))
        elif spec.type == "PerceptualLoss" and form is not None:
            _check_perceptual_loss(spec, form, where, faults)
    kd: DistillOptions | None = known.get("kd")
    if kd is not None and kd.zoom.weight > 0 and form is not None and form.is_normalised:
        message = "inverts colours in [0, 1]; leave out mean and std of the data sets"
        faults.add((kd.where / "zoom").error(message))


def _check_perceptual_loss(spec: Mapping[str, Any], form: InputForm, where: Location, faults: FaultList) -> None:
    if form.channels != 3:
        message = "PerceptualLoss takes images of 3 channels; leave out color: y of the data sets"
        faults.add(where.error(message))
    fits = not spec.get("use_input_norm", True) or (spec.get("range_norm") and form.to_plain() == MINUS_ONE_TO_ONE)
    if form.is_normalised and not fits:
        logger.warning(
            "%s: gets normalised images, but expects [0, 1]; range_norm: true fits mean and std 0.5, "
            "use_input_norm: false those of ImageNet",
            where,
        )


def _check_finetune(compact: CompactOptions | None, train: TrainOptions, faults: FaultList) -> None:
    """Check the keys of the section `train` of a later run."""
    if compact is not None and compact.finetune:
        values = {key: value for key, value in train.to_minimal_dict().items() if key != "optim_m"}
        with faults.collecting():
            build_section(TrainOptions, {**values, **compact.finetune}, compact.where / "finetune")
