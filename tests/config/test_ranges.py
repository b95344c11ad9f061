"""Every number among the options has a range, and what is outside of it is refused where options are checked."""

import importlib.util
import inspect
import math
import typing
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any

import pytest

from basicsr.config.convert import build_section, convert, convert_spec
from basicsr.config.describe import describe
from basicsr.config.location import Location
from basicsr.config.ranges import Range
from basicsr.config.schema import MetricSpec, NetworkSpec, Options
from basicsr.config.section import Component, Section
from basicsr.config.training import LossSpec, OptimizerSpec, SchedulerSpec
from basicsr.errors import OptionError

SCRIPT = Path(__file__).parents[2] / "scripts" / "generate_options_doc.py"
AT = Location({(): "x.yml"})


def generator():
    spec = importlib.util.spec_from_file_location("generate_options_doc", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def numbers_in(hint, near=None):
    """(range or None, int or float) of every number that a type has a place for."""
    kind, arguments = typing.get_origin(hint) or hint, typing.get_args(hint)
    if kind is Annotated:
        if any(isinstance(note, Component) for note in arguments[1:]):
            return []
        return numbers_in(arguments[0], next((note for note in arguments[1:] if isinstance(note, Range)), None))
    if kind in (int, float):
        return [(near, kind)]
    return [found for argument in arguments for found in numbers_in(argument)] if kind is not typing.Literal else []


def sections():
    """Every section of the option file, found from the top."""
    found, waiting = [], [Options]
    while waiting:
        section = waiting.pop()
        found.append(section)
        stack = list(typing.get_type_hints(section, include_extras=True).values())
        while stack:
            hint = stack.pop()
            stack += typing.get_args(hint)
            if inspect.isclass(hint) and issubclass(hint, Section) and hint not in (*found, *waiting):
                waiting.append(hint)
    return found


def declared_numbers():
    """{name: type} of every option with a number, of sections and of the arguments of registered components."""
    found = {}
    for section in sections():
        hints = typing.get_type_hints(section, include_extras=True)
        for field in fields(section):
            if not field.metadata["run"]:
                found[f"{section.__name__}.{field.name}"] = hints[field.name]
    page = generator()
    of_registry = {typing.get_args(spec)[1].registry.kind: typing.get_args(spec)[1]
                   for spec in (NetworkSpec, MetricSpec, LossSpec, OptimizerSpec, SchedulerSpec)}  # fmt: skip
    for _, _, registry, supplied in page.COMPONENTS:
        component = of_registry.get(registry.kind, Component(registry, supplied))
        for name, target in registry:
            if target.__module__.startswith(("basicsr.", "torch.")):  # not of other tests
                found |= {f"{name}.{key}": hint for key, hint in component.hints(target).types.items()}
    return {name: hint for name, hint in found.items() if numbers_in(hint)}


NUMBERS = declared_numbers()


def test_they_are_found():
    assert len(NUMBERS) > 200
    assert {"TrainOptions.total_iter", "PairedImageDataset.gt_size", "Adam.lr", "DualOptions.eta"} <= set(NUMBERS)


@pytest.mark.parametrize("name", NUMBERS)
def test_every_number_has_a_range(name):
    for limits, kind in numbers_in(NUMBERS[name]):
        assert limits is not None, f"{name}: declare a range, as in Annotated[{kind.__name__}, Range(0, 1)]"
        assert math.isfinite(limits.low) and math.isfinite(limits.high) and limits.low < limits.high
        assert str(limits) in describe(NUMBERS[name])  # in messages and docs/options.md


def outside(limits, kind):
    step = 1 if kind is int else 1e-3 * (limits.high - limits.low)
    return [limits.low if limits.open_low else limits.low - step, limits.high if limits.open_high else
            limits.high + step, -math.inf, math.inf, math.nan, 10**30]  # fmt: skip


def shaped(hint, number):
    """A value of a type with `number` in its first place for a number."""
    kind, arguments = typing.get_origin(hint) or hint, typing.get_args(hint)
    if kind is Annotated:
        return shaped(arguments[0], number)
    if kind in (int, float):
        return number
    if kind is dict or kind is Mapping:
        return {"a": shaped(arguments[1], number)}
    if kind is tuple and arguments[-1] is not Ellipsis:
        others = [numbers_in(argument)[0][0] for argument in arguments[1:]]
        return [shaped(arguments[0], number), *(r.low if r.open_high else r.high for r in others)]
    if kind in (list, tuple, Sequence):
        return [shaped(arguments[0], number)]
    return shaped(next(argument for argument in arguments if numbers_in(argument)), number)


@pytest.mark.parametrize("name", NUMBERS)
def test_numbers_outside_are_refused_with_key_value_and_range(name):
    hint, key = NUMBERS[name], name.rpartition(".")[2]
    limits, kind = numbers_in(hint)[0]
    for value in outside(limits, kind):
        with pytest.raises(OptionError) as caught:
            convert(shaped(hint, value), hint, AT / key)
        message = str(caught.value)
        assert message.startswith(f"x.yml: {key}") and str(limits) in message and "\n" not in message
        assert str(value) in message


@pytest.mark.parametrize("name", NUMBERS)
def test_the_ends_are_accepted(name):
    hint = NUMBERS[name]
    for limits, _ in numbers_in(hint)[:1]:
        for end, is_open in ((limits.low, limits.open_low), (limits.high, limits.open_high)):
            if not is_open:
                convert(shaped(hint, end), hint, AT)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"train": {"type": "PairedImageDataset", "dataroot_gt": "a", "gt_size": -1}},
         r"datasets\.train\.gt_size: must be in \[1, 65536\], got -1"),
        ({"train": {"type": "PairedImageDataset", "dataroot_gt": "a", "num_worker_per_gpu": 10**6}},
         r"datasets\.train\.num_worker_per_gpu: must be in \[0, 256\], got 1000000"),
        ({"val": {"type": "Dataset_GaussianDenoising", "dataroot_gt": "a", "sigma_test": math.inf}},
         r"datasets\.val\.sigma_test: must be in \[0, 255\], got inf"),
    ],
)  # fmt: skip
def test_messages_for_data_sets(values, message):
    options = {"name": "x", "scale": 2, "datasets": values, "network_g": {"type": "Bicubic", "upscale": 2}}
    with pytest.raises(OptionError, match=message):
        build_section(Options, options, AT)


def test_a_plug_in_without_ranges_gets_no_infinite_numbers():
    class Widget:
        def __init__(self, size: float, other: Any = None):
            pass

    class Table:
        kind = "widget"

        def get(self, name):
            return Widget

    component = Component(Table())
    assert convert_spec({"type": "Widget", "size": -1e20}, component, AT)["size"] == -1e20
    for value in (math.inf, -math.inf, math.nan):
        with pytest.raises(OptionError, match=r"size: expected a number, got (-?inf|nan)"):
            convert_spec({"type": "Widget", "size": value}, component, AT)


@pytest.mark.parametrize(
    ("limits", "words"),
    [(Range(0, 1), "[0, 1]"), (Range(0, 1e9, open_low=True), "(0, 1e9]"), 
     (Range(-1, 65536, open_high=True), "[-1, 65536)"),
     (Range(1e-3, 10**18), "[0.001, 1e18]")],
)  # fmt: skip
def test_ranges_in_words(limits, words):
    assert str(limits) == words
