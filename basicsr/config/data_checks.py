"""Checks that the data sets of a run fit each other, its network and its model, before any image is read."""

import inspect
from collections.abc import Mapping
from string import Formatter
from typing import Any

from basicsr.config.input_form import InputForm
from basicsr.config.registry import ARCH_REGISTRY, DATASET_REGISTRY, is_plugin
from basicsr.config.schema import DatasetOptions, Options
from basicsr.config.section import signature_hints
from basicsr.config.stages import warn_of_no_effect

STAGE_KEYS = ("mini_batch_sizes", "iters", "gt_sizes")  # of progressive training


def check_datasets(options: Options, model: Any, is_train: bool) -> None:
    """Check the data sets that this run uses.

    Args:
        options: of the run.
        model: the class that `model_type` names.
        is_train: whether the run trains.

    Raises:
        OptionError: naming the first option that is wrong.
    """
    used = options.datasets_of("train", "val", "test") if is_train else options.datasets_of("val", "test")
    for key, section in used.items():
        phase = key.split("_")[0]
        given = section.to_minimal_dict()
        if is_plugin(DATASET_REGISTRY.get(section.type)):
            # what it makes of other keys is its own matter
            given = {name: given[name] for name in section.field_names() if name in given}
        else:
            _check_dataset(options, section, phase)
        if phase == "train":
            if not options.where.for_plugin:
                check_read_by(model, section, STAGE_KEYS)
        else:
            warn_of_no_effect("datasets.*", "val" if is_train else "test", section, given)
    _check_forms(options, used)


def check_read_by(model: Any, section: Any, keys: tuple[str, ...]) -> None:
    """Check that the model reads those of `keys` that a section sets; see `BaseModel.extra_options`.

    Raises:
        OptionError: naming the first that it does not read.
    """
    for key in keys:
        if section.get(key) and key not in getattr(model, "extra_options", ()):
            reader = "ATDUNetModel" if key in STAGE_KEYS else "PruneDistillModel"
            raise (section.where / key).error(
                f"is read by {reader}, not by {model.__name__}; set model_type: {reader} or remove it"
            )


def _check_dataset(options: Options, section: DatasetOptions, phase: str) -> None:
    where, make = section.where, DATASET_REGISTRY.get(section.type)
    supplied = {"phase": phase} if options.where.for_plugin else {"phase": phase, "scale": options.scale}
    for key, value in supplied.items():  # models of plug-ins may validate at another scale
        if section.get(key, value) != value:
            raise (where / key).error(f"is {section[key]!r}, but that of this data set is {value!r}; remove it")
    if "seed" in section:
        raise (where / "seed").error("follows from manual_seed; set that instead")
    if section.get("gray") is not None and section.get("in_ch", _default_of(make, "in_ch")) != 1:
        raise (where / "gray").error("is how colours become gray; set in_ch: 1, or remove it")
    if phase == "train":
        if "dataroot_gt" not in section:
            raise (where / "type").error(f"{section.type} has no ground truth to train on; use PairedImageDataset")
        if section.get("gray") == "swapped_luma":
            raise (where / "gray").error(
                "swapped_luma is to compare tests with published figures; train on opencv, as inference takes it"
            )
        size = section.get("gt_size")
        if size is not None and size % options.scale:
            raise (where / "gt_size").error(f"must be a multiple of scale ({options.scale}), got {size}")
    if problem := template_problem(section.get("filename_tmpl", "{}")):
        raise (where / "filename_tmpl").error(f"{problem}, got {section['filename_tmpl']!r}")


def template_problem(template: str) -> str:
    """Return what is wrong with a template of a file's stem, such as "{}x4"; "" if it is right."""
    try:
        fields = [name for _, name, _, _ in Formatter().parse(template) if name is not None]
    except ValueError:
        return "has a single brace; write {} for the name of the GT image"
    if fields != [""] or "{}" not in template:
        return "must contain {} once, for the name of the GT image, and no other braces"
    return "must be the name of a file without its folder" if "/" in template else ""


def _check_forms(options: Options, used: Mapping[str, DatasetOptions]) -> None:
    """Check that all data sets make network inputs in the same way, in as many channels as the network takes."""
    forms: dict[str, InputForm] = {}
    for key, section in used.items():
        make = DATASET_REGISTRY.get(section.type)
        names = signature_hints(make).types
        if is_plugin(make):
            continue
        if "mean" in names:
            try:
                forms[key] = InputForm.of(section)
            except ValueError as error:
                raise section.where.error(str(error)) from error
            _check_channels(options, section, "color", forms[key].channels)
        elif "in_ch" in names:
            _check_channels(options, section, "in_ch", section.get("in_ch", _default_of(make, "in_ch")))
    first = min(forms, key=lambda key: key != "train", default="")
    for key, form in forms.items():
        mine, others = form.to_plain(), forms[first].to_plain()
        for name in ("color", "mean", "std"):
            if mine.get(name) != others.get(name):
                raise (used[key].where / name).error(
                    f"is {mine.get(name)}, but that of datasets.{first} is {others.get(name)}; a network takes "
                    "images of one kind, so make them equal"
                )


def _check_channels(options: Options, section: DatasetOptions, key: str, channels: int) -> None:
    """Check that network and teacher, where they declare `in_chans`, take as many channels as a data set gives."""
    for name in ("network_g", "network_t"):
        spec = options.get(name)
        if spec is None:
            continue
        make = ARCH_REGISTRY.get(spec["type"])
        if is_plugin(make) or "in_chans" not in signature_hints(make).types:
            continue
        wanted = spec.get("in_chans", _default_of(make, "in_chans"))
        if wanted != channels:
            raise (section.where / key).error(
                f"gives images of {channels} channel{'s' if channels > 1 else ''}, but {name} takes {wanted}; set "
                f"{name}.in_chans: {channels}, or change {key}"
            )


def _default_of(make: Any, name: str) -> Any:
    return inspect.signature(make).parameters[name].default
