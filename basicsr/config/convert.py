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
from typing import Annotated, Any, Literal, Union

from basicsr.config.describe import describe, has_fixed_length
from basicsr.config.faults import FaultList
from basicsr.config.location import Location, format_value
from basicsr.config.ranges import Range
from basicsr.config.section import Component, Hints, Section, Spec, to_plain
from basicsr.config.similar import similar_names
from basicsr.config.yaml_file import MAX_INT
from basicsr.errors import OptionError, UnknownNameError

logger = logging.getLogger("basicsr")


class PartialSection:
    """The keys of a section that are right, and the faults of all others.

    Attributes:
        faults: of all keys, those of nested sections included.
        given: the converted values of declared keys.
        extra: those of further keys.
    """

    def __init__(self, section: type[Section], data: Any, where: Location) -> None:
        self.section, self.where, self.faults = section, where, FaultList()
        self.given: dict[str, Any] = {}
        self.extra: dict[str, Any] = {}
        self._hints = typing.get_type_hints(section, include_extras=True)
        self._declared = {f.name: f for f in fields(section) if not f.metadata.get("run")}
        self._meant: set[str] = set()  # keys that are there, but misspelt
        self._failed: set[Any] = set()  # keys whose value does not fit
        if not isinstance(data, Mapping):
            self.faults.add(where.error(f"expected keys and values, got {format_value(data)}"))
            return
        extra_hints: Hints | None = None  # where the component is unknown, its keys are, too
        with self.faults.collecting():
            extra_hints = section.extra_hints(data, where)
        for key, value in data.items():
            self._failed.add(key)
            with self.faults.collecting():
                self._convert(key, value, extra_hints)
                self._failed.remove(key)
        self._find_missing(data, extra_hints)

    def known(self) -> dict[str, Any]:
        """Return the values that are right: of all keys in the data, and the defaults of declared ones that are not."""
        known = {**self.given, **self.extra}
        for name in self._declared.keys() - self.given.keys() - self._failed - self._meant - {*self._required()}:
            default, make = self._declared[name].default, self._declared[name].default_factory
            known[name] = make() if make is not MISSING else default
        return known

    def build(self) -> Any:
        """Return the section.

        Raises:
            OptionError: for the faults of its keys, and for keys that do not fit each other.
        """
        built = None
        if all(name in self.given for name in self._required()):
            try:
                built = self.section(**self.given, extra=self.extra, where=self.where)
            except OptionError as error:
                self.faults.add(error)
            except ValueError as error:  # `__post_init__` names the key and what it must be
                key, _, message = str(error).partition(": ")
                if key.split(".")[0] not in self._failed:  # else it has the default here
                    self.faults.add((self.where / key).error(message))
        self.faults.raise_if_any()
        return built

    def _required(self) -> list[str]:
        """Return the declared keys that have no default."""
        return [k for k, f in self._declared.items() if f.default is MISSING and f.default_factory is MISSING]

    def _convert(self, key: Any, value: Any, extra_hints: Hints | None) -> None:
        """Convert the value of one key, and keep it."""
        _check_key_is_text(key, self.where)
        where = self.where / key
        if key in self._declared:
            self.given[key] = convert(value, self._hints[key], where)
        else:
            self.extra[key] = convert(value, self._hint_of_extra_key(key, extra_hints), where)

    def _hint_of_extra_key(self, key: str, hints: Hints | None) -> Any:
        """Return the type of a key that is no field of the section."""
        if hints is not None and key in hints.types:
            return hints.types[key]
        for pattern, hint in self.section.key_patterns.items():
            if _matches(pattern, key):
                return hint
        if hints is not None and not hints.accepts_any:
            known = [*self._declared, *hints.types]
            self._meant.update(similar_names(key, known, parts=False))
            _warn_or_reject_unknown_key(key, known, self.where / key)
        return Any

    def _find_missing(self, data: Mapping[str, Any], extra_hints: Hints | None) -> None:
        """Add a fault for each required key that is not in `data`, not even misspelt."""
        needed = {
            name: f"{describe(self._hints[name])} ({self._declared[name].metadata['doc']})" for name in self._required()
        }
        if extra_hints is not None:
            needed |= {name: describe(extra_hints.types[name]) for name in sorted(extra_hints.required)}
        for name, expected in needed.items():
            if name not in data and name not in self._meant:
                self.faults.add((self.where / name).error(f"is missing; expected {expected}"))


def build_section(section: type[Section], data: Any, where: Location) -> Any:
    """Build a `Section` from plain values, recursively.

    Raises:
        OptionError: for missing or misspelt keys, and values of the wrong type or range, all of them.
    """
    return PartialSection(section, data, where).build()


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
    except UnknownNameError as error:  # its arguments are unknown, too
        raise (where / "type").error(str(error), names_component=True) from error
    hints = component.hints(target)
    known = {**hints.types, **component.extra_keys}
    values: dict[str, Any] = {"type": value["type"]}
    faults, meant = FaultList(), set(value)
    for key, item in value.items():
        with faults.collecting():
            _check_key_is_text(key, where)
            if key in known:
                values[key] = convert(item, known[key], where / key)
            elif key != "type" and not hints.accepts_any:
                meant.update(similar_names(key, known))
                hint = _suggestion(key, known) or f"; its arguments are {', '.join(known) or 'none'}"
                raise (where / key).error(f"{value['type']} has no such argument{hint}")
            else:
                values[key] = item
    for key in sorted(hints.required - meant):
        faults.add((where / key).error(f"is missing; {value['type']} needs {describe(known[key])} here"))
    faults.raise_if_any()
    spec = Spec(values, where)
    if component.check is not None:
        component.check(spec)
    return spec


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
    return tuple(_convert_items(enumerate(value), lambda _: item_hint, where).values())


def _convert_tuple(value: Any, hint: Any, where: Location) -> tuple[Any, ...]:
    hints = typing.get_args(hint)
    if not has_fixed_length(hint) or not isinstance(value, (list, tuple)):
        return _convert_sequence(value, hint, where)
    if len(value) != len(hints):
        raise where.error(f"expected {len(hints)} values, got {len(value)}: {format_value(list(value))}")
    return tuple(_convert_items(enumerate(value), hints.__getitem__, where).values())


def _convert_mapping(value: Any, hint: Any, where: Location) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise _type_error(value, hint, where)
    (*_, item_hint) = typing.get_args(hint) or (Any,)
    return {str(key): item for key, item in _convert_items(value.items(), lambda _: item_hint, where).items()}


def _convert_items(items: Iterable[tuple[Any, Any]], hint_of: Callable[[Any], Any], where: Location) -> dict[Any, Any]:
    """Convert the items of a list or mapping by their key.

    Raises:
        OptionError: for all that do not fit.
    """
    faults, converted = FaultList(), {}
    for key, item in items:
        with faults.collecting():
            converted[key] = convert(item, hint_of(key), where / key)
    faults.raise_if_any()
    return converted


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

    Where a plug-in is the model, even the former only warns: its own keys may resemble ours.
    """
    near = similar_names(key, known, parts=False)
    if near and not where.for_plugin:
        raise where.error(f"unknown option; did you mean {near[0]!r}?")
    similar = f" (similar to {near[0]!r})" if near else ""
    logger.warning("%s: unknown option, kept for plug-ins but otherwise unused%s", where, similar)


def _check_key_is_text(key: Any, where: Location) -> None:
    if not isinstance(key, str):
        problem = f"a key must be text, got {format_value(key)}"
        raise where.error(f"{problem}; put it in quotes (YAML reads on, off, yes and no as booleans)")


def _suggestion(key: Any, names: Iterable[Any]) -> str:
    near = similar_names(str(key), [str(n) for n in names])
    return f"; did you mean {near[0]!r}?" if near else ""


def _matches(pattern: str, key: str) -> bool:
    """Return whether a key matches a pattern such as `*_opt` or `optim_*`."""
    return key.endswith(pattern[1:]) if pattern.startswith("*") else key.startswith(pattern[:-1])
