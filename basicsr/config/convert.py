"""Conversion of plain YAML values to checked and typed ones.

One converter serves the fields of sections and the signatures of registered classes and functions, so that errors in
`network_g` and in `train` have the same form: file and line, key, problem, nearest valid name.
"""

import inspect
import logging
import math
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import MISSING, fields
from difflib import get_close_matches
from typing import Annotated, Any, Literal, Union

from basicsr.config.describe import describe, has_fixed_length
from basicsr.config.location import MAX_VALUE_CHARS, Location, format_value
from basicsr.config.ranges import Range
from basicsr.config.section import Component, Hints, Section, Spec, to_plain
from basicsr.config.yaml_file import MAX_INT
from basicsr.errors import OptionError, UnknownNameError

logger = logging.getLogger("basicsr")

SUGGESTION_CUTOFF = 0.8  # difflib ratio from which an unknown key counts as a misspelt known one


def build_section(section: type[Section], data: Any, where: Location) -> Any:
    """Build a `Section` from plain values, recursively.

    Raises:
        OptionError: for a missing or misspelt key, or a value of the wrong type or range.
    """
    if not isinstance(data, Mapping):
        raise where.error(f"expected keys and values, got {format_value(data)}")
    hints = typing.get_type_hints(section, include_extras=True)
    declared = {f.name: f for f in fields(section) if not f.metadata.get("run")}
    extra_hints = section.extra_hints(data, where)
    given: dict[str, Any] = {}
    extra: dict[str, Any] = {}
    for key, value in data.items():
        _check_key_is_text(key, where)
        if key in declared:
            given[key] = convert(value, hints[key], where / key)
        else:
            extra[key] = convert(value, _hint_of_extra_key(key, section, declared, extra_hints, where), where / key)
    for name, f in declared.items():
        if name not in given and f.default is MISSING and f.default_factory is MISSING:
            raise (where / name).error(f"is missing; expected {describe(hints[name])} ({f.metadata['doc']})")
    if extra_hints is not None:
        for name in sorted(extra_hints.required - set(data)):
            raise (where / name).error(f"is missing; expected {describe(extra_hints.types[name])}")
    try:
        return section(**given, extra=extra, where=where)
    except OptionError:
        raise
    except ValueError as error:  # `__post_init__` names the key and the range
        key, _, message = str(error).partition(": ")
        raise (where / key).error(message) from error


def _hint_of_extra_key(
    key: str, section: type[Section], declared: Mapping[str, Any], hints: Hints | None, where: Location
) -> Any:
    """Return the type of a key that is no field of `section`."""
    if hints is not None and key in hints.types:
        return hints.types[key]
    for pattern, hint in section.key_patterns.items():
        if _matches(pattern, key):
            return hint
    if hints is not None and not hints.accepts_any:
        _warn_or_reject_unknown_key(key, [*declared, *hints.types], where / key)
    return Any


def convert_spec(value: Any, component: Component, where: Location) -> Spec:
    """Convert a `{type: name, ...}` mapping, checking its keys against the signature of what `type` names.

    Raises:
        OptionError: for an unknown type or key, a wrong type, or a missing parameter.
    """
    if not isinstance(value, Mapping) or not isinstance(value.get("type"), str):
        expected = f"{{type: <{component.registry.kind}>, ...}}"
        raise where.error(f"expected {expected}, got {format_value(to_plain(value))}")
    try:
        target = component.registry.get(value["type"])
    except UnknownNameError as error:
        raise (where / "type").error(str(error)) from error
    hints = component.hints(target)
    known = {**hints.types, **component.extra_keys}
    values: dict[str, Any] = {"type": value["type"]}
    for key, item in value.items():
        _check_key_is_text(key, where)
        if key in known:
            values[key] = convert(item, known[key], where / key)
        elif key != "type":
            if not hints.accepts_any:
                hint = _suggestion(key, known) or f"; its arguments are {', '.join(known) or 'none'}"
                raise (where / key).error(f"{value['type']} has no such argument{hint}")
            values[key] = item
    for key in sorted(hints.required - set(values)):
        raise (where / key).error(f"is missing; {value['type']} needs {describe(known[key])} here")
    return Spec(values, where)


def convert(value: Any, hint: Any, where: Location) -> Any:
    """Convert a value to the type `hint`: a list to a tuple, a mapping to a `Section` or `Spec`, `2.0` to an int, etc.

    Raises:
        OptionError: when it does not fit.
    """
    kind = typing.get_origin(hint) or hint
    if inspect.isclass(kind) and issubclass(kind, Section):
        return build_section(kind, value, where)
    if isinstance(kind, typing.TypeVar):
        return value
    return _CONVERTERS.get(kind, _convert_instance)(value, hint, where)


def _convert_annotated(value: Any, hint: Any, where: Location) -> Any:
    base, *notes = typing.get_args(hint)
    for note in notes:
        if isinstance(note, Component):
            return convert_spec(value, note, where)
        if isinstance(note, Range) and _is_number(value) and value not in note:
            raise where.error(f"must be in {note}, got {format_value(value)}")
    return _CONVERTERS[base](value, hint, where) if base in (int, float) else convert(value, base, where)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _convert_none(value: Any, hint: Any, where: Location) -> None:
    if value is not None:
        raise _type_error(value, hint, where)


def _convert_float(value: Any, hint: Any, where: Location) -> float:
    if not _is_number(value) or not math.isfinite(value):  # of plug-ins, too, whose numbers have no range
        raise _type_error(value, hint, where)
    return float(value)


def _convert_int(value: Any, hint: Any, where: Location) -> int:
    is_int = isinstance(value, int) and not isinstance(value, bool)
    if is_int or (isinstance(value, float) and value.is_integer() and abs(value) <= MAX_INT):
        return int(value)
    raise _type_error(value, hint, where)


def _convert_literal(value: Any, hint: Any, where: Location) -> Any:
    choices = typing.get_args(hint)
    if any(value == choice and type(value) is type(choice) for choice in choices):
        return value
    raise _type_error(value, hint, where, _suggestion(value, choices))


def _convert_union(value: Any, hint: Any, where: Location) -> Any:
    members = [member for member in typing.get_args(hint) if member is not type(None)]
    if value is None and len(members) < len(typing.get_args(hint)):
        return None
    exact = [member for member in members if type(value) is member]
    errors = []
    for member in (*exact, *members):
        try:
            return convert(value, member, where)
        except OptionError as error:
            errors.append(error)
    if len(members) == 1:
        raise errors[-1]  # the error about the X of `X | None` has more detail than one about the union
    raise _type_error(value, hint, where)


def _convert_sequence(value: Any, hint: Any, where: Location) -> tuple[Any, ...]:
    if not isinstance(value, (list, tuple)):
        raise _type_error(value, hint, where)
    (item_hint, *_) = typing.get_args(hint) or (Any,)
    return tuple(convert(item, item_hint, where / i) for i, item in enumerate(value))


def _convert_tuple(value: Any, hint: Any, where: Location) -> tuple[Any, ...]:
    hints = typing.get_args(hint)
    if not has_fixed_length(hint) or not isinstance(value, (list, tuple)):
        return _convert_sequence(value, hint, where)
    if len(value) != len(hints):
        raise where.error(f"expected {len(hints)} values, got {len(value)}: {format_value(list(value))}")
    return tuple(convert(v, h, where / i) for i, (v, h) in enumerate(zip(value, hints, strict=True)))


def _convert_mapping(value: Any, hint: Any, where: Location) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise _type_error(value, hint, where)
    (*_, item_hint) = typing.get_args(hint) or (Any,)
    return {str(key): convert(item, item_hint, where / key) for key, item in value.items()}


def _convert_instance(value: Any, hint: Any, where: Location) -> Any:
    """Return a value that is an instance of the class `hint` already."""
    kind = typing.get_origin(hint) or hint
    if inspect.isclass(kind) and isinstance(value, kind):
        return value
    raise _type_error(value, hint, where)


_CONVERTERS: dict[Any, Callable[[Any, Any, Location], Any]] = {
    Any: lambda value, hint, where: value,
    Annotated: _convert_annotated,
    Union: _convert_union,
    types.UnionType: _convert_union,
    Literal: _convert_literal,
    None: _convert_none,
    type(None): _convert_none,
    float: _convert_float,
    int: _convert_int,
    list: _convert_sequence,
    Sequence: _convert_sequence,
    tuple: _convert_tuple,
    dict: _convert_mapping,
    Mapping: _convert_mapping,
}


def _type_error(value: Any, hint: Any, where: Location, suggestion: str = "") -> OptionError:
    return where.error(f"expected {describe(hint)}, got {format_value(value)}{suggestion}")


def _warn_or_reject_unknown_key(key: str, known: Sequence[str], where: Location) -> None:
    """Reject an unknown key that resembles a known one; warn about any other, for a plug-in may read it.

    Where a plug-in is the model, even the former only warns: its own `pretrain_network_d` resembles
    `pretrain_network_g`.
    """
    near = get_close_matches(key[:MAX_VALUE_CHARS], known, n=1, cutoff=SUGGESTION_CUTOFF)
    if near and not where.for_plugin:
        raise where.error(f"unknown option; did you mean {near[0]!r}?")
    similar = f" (similar to {near[0]!r})" if near else ""
    logger.warning("%s: unknown option, kept for plug-ins but otherwise unused%s", where, similar)


def _check_key_is_text(key: Any, where: Location) -> None:
    if not isinstance(key, str):
        problem = f"a key must be text, got {format_value(key)}"
        raise where.error(f"{problem}; put it in quotes (YAML reads on, off, yes and no as booleans)")


def _suggestion(key: Any, names: Iterable[Any]) -> str:
    near = get_close_matches(str(key)[:MAX_VALUE_CHARS], [str(n) for n in names], n=1)
    return f"; did you mean {near[0]!r}?" if near else ""


def _matches(pattern: str, key: str) -> bool:
    """Return whether a key matches a pattern such as `*_opt` or `optim_*`."""
    return key.endswith(pattern[1:]) if pattern.startswith("*") else key.startswith(pattern[:-1])
