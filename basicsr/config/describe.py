"""Types in words, for error messages and docs/options.md."""

import inspect
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, Union

from basicsr.config.ranges import Range
from basicsr.config.section import Component, Section

_WORDS: dict[Any, str] = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "text",
    None: "null",
    type(None): "null",
    Any: "anything",
    dict: "keys and values",
    Mapping: "keys and values",
    list: "a list",
    Sequence: "a list",
    tuple: "a list",
}
_PLURALS: dict[Any, str] = {int: "whole numbers", float: "numbers", str: "texts", Any: "values"}


def describe(hint: Any) -> str:
    """Return a type in words, for error messages and docs/options.md."""
    kind, arguments = typing.get_origin(hint) or hint, typing.get_args(hint)
    if kind is Annotated:
        component = next((note for note in arguments if isinstance(note, Component)), None)
        return f"{{type: <{component.registry.kind}>, ...}}" if component else describe(arguments[0]) + _range(hint)
    if kind in (Union, types.UnionType, Literal):
        *others, last = dict.fromkeys(_alternatives(hint))
        return f"{', '.join(others)} or {last}" if others else last
    if kind in (list, tuple, Sequence) and arguments:
        return f"a list of {_describe_items(hint)}"
    if kind in (dict, Mapping) and arguments and arguments[-1] is not Any:
        return f"keys and values, each {describe(arguments[-1])}"
    if inspect.isclass(kind) and issubclass(kind, Section):
        return "a section"
    return _WORDS.get(kind) or str(getattr(hint, "__name__", hint))


def _alternatives(hint: Any) -> list[str]:
    """Return the words for each member of a union, and for each value of a `Literal`; null comes last."""
    kind, arguments = typing.get_origin(hint), typing.get_args(hint)
    if kind is Literal:
        return [repr(value) for value in arguments]
    if kind in (Union, types.UnionType):
        members = sorted(arguments, key=lambda member: member is type(None))
        return [word for member in members for word in _alternatives(member)]
    return [describe(hint)]


def _describe_items(hint: Any) -> str:
    """Return the items of a list type in words, e.g. "whole numbers" or "lists of 2 numbers"."""
    arguments = typing.get_args(hint)
    if not has_fixed_length(hint):
        return _plural(arguments[0])
    if len(set(arguments)) == 1:
        return f"{len(arguments)} {_plural(arguments[0])}"
    return f"{len(arguments)}: {', '.join(describe(argument) for argument in arguments)}"


def _range(hint: Any) -> str:
    """Return the range of an annotated number with a word before it, e.g. " in [0, 1)"; "" without one."""
    return "".join(f" in {note}" for note in typing.get_args(hint)[1:] if isinstance(note, Range))


def _plural(hint: Any) -> str:
    if typing.get_origin(hint) is Annotated and typing.get_args(hint)[0] in _PLURALS:
        return _PLURALS[typing.get_args(hint)[0]] + _range(hint)
    if typing.get_origin(hint) in (list, tuple, Sequence):
        return f"lists of {_describe_items(hint)}"
    return _PLURALS.get(hint) or f"values, each {describe(hint)}"


def has_fixed_length(hint: Any) -> bool:
    """Return whether a type is a tuple of a fixed number of items, such as `tuple[int, int]`."""
    arguments = typing.get_args(hint)
    return typing.get_origin(hint) is tuple and bool(arguments) and arguments[-1] is not Ellipsis
