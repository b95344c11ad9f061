"""Checks that the data sets of a run fit each other, its network and its model, before any image is read."""

import inspect
from collections.abc import Mapping
from string import Formatter
from typing import Any

from basicsr.config.faults import FaultList
from basicsr.config.input_form import InputForm
from basicsr.config.registry import ARCH_REGISTRY, DATASET_REGISTRY, is_plugin
from basicsr.config.schema import DatasetOptions, of_phases
from basicsr.config.section import signature_hints
from basicsr.config.stages import warn_of_no_effect

STAGE_KEYS = ("mini_batch_sizes", "iters", "gt_sizes")  # of progressive training


def check_datasets(known: Mapping[str, Any], model: Any, for_plugin: bool, is_train: bool, faults: FaultList) -> None:
    """Check the data sets that this run uses.

    Args:
        known: the options that are right by themselves, `datasets` among them.
        model: the class that `model_type` names; None: unknown.
        for_plugin: whether it is, or may be, of a plug-in.
        is_train: whether the run trains.
        faults: gets what is wrong.
    """
    used = of_phases(known["datasets"], *(("train",) if is_train else ()), "val", "test")
    for key, section in used.items():
        phase = key.split("_")[0]
        given = section.to_minimal_dict()
        if is_plugin(DATASET_REGISTRY.get(section.type)):
            # what it makes of other keys is its own matter
            given = {name: given[name] for name in section.field_names() if name in given}
        else:
            _check_dataset(section, phase, known.get("scale"), for_plugin, faults)
        if phase == "train":
            if not for_plugin:
                check_read_by(model, section, STAGE_KEYS, faults)
        else:
            warn_of_no_effect("datasets.*", "val" if is_train else "test", section, given)
    _check_forms(known, used, faults)


def check_read_by(model: Any, section: Any, keys: tuple[str, ...], faults: FaultList) -> None:
    """Check that the model reads those of `keys` that a section sets; see `BaseModel.extra_options`."""
    for key in keys:
        if section.get(key) and key not in getattr(model, "extra_options", ()):
            reader = "ATDUNetModel" if key in STAGE_KEYS else "PruneDistillModel"
            message = f"is read by {reader}, not by {model.__name__}; set model_type: {reader} or remove it"
            faults.add((section.where / key).error(message))


def _check_dataset(section: DatasetOptions, phase: str, scale: int | None, for_plugin: bool, faults: FaultList) -> None:
    """Check one data set by itself; `scale` is None where it is unknown."""

    def add(key: str, message: str) -> None:
        faults.add((section.where / key).error(message))

    make = DATASET_REGISTRY.get(section.type)
    supplied = {"phase": phase} if for_plugin or scale is None else {"phase": phase, "scale": scale}
    for key, value in supplied.items():  # models of plug-ins may validate at another scale
        if section.get(key, value) != value:
            add(key, f"is {section[key]!r}, but that of this data set is {value!r}; remove it")
    if "seed" in section:
        add("seed", "follows from manual_seed; set that instead")
    if section.get("gray") is not None and section.get("in_ch", _default_of(make, "in_ch")) != 1:
        add("gray", "is how colours become gray; set in_ch: 1, or remove it")
    if phase == "train":
        if "dataroot_gt" not in section:
            add("type", f"{section.type} has no ground truth to train on; use PairedImageDataset")
        if section.get("gray") == "swapped_luma":
            message = "swapped_luma is to compare tests with published figures; train on opencv, as inference takes it"
            add("gray", message)
        size = section.get("gt_size")
        if size is not None and scale is not None and size % scale:
            add("gt_size", f"must be a multiple of scale ({scale}), got {size}")
    if problem := template_problem(section.get("filename_tmpl", "{}")):
        add("filename_tmpl", f"{problem}, got {section['filename_tmpl']!r}")


def template_problem(template: str) -> str:
    """Return what is wrong with a template of a file's stem, such as "{}x4"; "" if it is right."""
    try:
        fields = [name for _, name, _, _ in Formatter().parse(template) if name is not None]
    except ValueError:
        return "has a single brace; write {} for the name of the GT image"
    if fields != [""] or "{}" not in template:
        return "must contain {} once, for the name of the GT image, and no other braces"
    return "must be the name of a file without its folder" if "/" in template else ""


def _check_forms(known: Mapping[str, Any], used: Mapping[str, DatasetOptions], faults: FaultList) -> None:
    """Check that all data sets make network inputs in the same way, in as many channels as the network takes."""
    forms: dict[str, InputForm] = {}
    for key, section in used.items():
        make = DATASET_REGISTRY.get(section.type)
        names = signature_hints(make).types
        if is_plugin(make):
            continue
        if "mean" in names:
            try:
                form = InputForm.of(section)
            except ValueError as error:
                faults.add(section.where.error(str(error)))
                continue
            if _channels_fit(known, section, "color", form.channels, faults):
                forms[key] = form
        elif "in_ch" in names:
            _channels_fit(known, section, "in_ch", section.get("in_ch", _default_of(make, "in_ch")), faults)
    first = min(forms, key=lambda key: key != "train", default="")
    for key, form in forms.items():
        mine, others = form.to_plain(), forms[first].to_plain()
        for name in ("color", "mean", "std"):
            if mine.get(name) != others.get(name):
                message = (
                    f"is {mine.get(name)}, but that of datasets.{first} is {others.get(name)}; a network takes "
                    "images of one kind, so make them equal"
                )
                faults.add((used[key].where / name).error(message))


def _channels_fit(
    known: Mapping[str, Any], section: DatasetOptions, key: str, channels: int, faults: FaultList
) -> bool:
    """Check that network and teacher, where they declare `in_chans`, take as many channels as a data set gives.

    Return whether they do, as far as they are known.
    """
    fit = True
    for name in ("network_g", "network_t"):
        spec = known.get(name)
        if spec is None:
            continue
        make = ARCH_REGISTRY.get(spec["type"])
        if is_plugin(make) or "in_chans" not in signature_hints(make).types:
            continue
        wanted = spec.get("in_chans", _default_of(make, "in_chans"))
        if wanted != channels:
            fit = False
            message = (
                f"gives images of {channels} channel{'s' if channels > 1 else ''}, but {name} takes {wanted}; set "
                f"{name}.in_chans: {channels}, or change {key}"
            )
            faults.add((section.where / key).error(message))
    return fit


def _default_of(make: Any, name: str) -> Any:
    return inspect.signature(make).parameters[name].default
