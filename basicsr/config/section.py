"""Plain YAML values to checked, typed, frozen ones: the machinery under `options.py`.

One converter serves the dataclasses that describe the sections and the signatures of registered classes and
functions, so a wrong key in `network_g` reads like a wrong key in `train`. Every error says where (file and line),
which key, what is wrong, and the nearest known name.
"""

import dataclasses
import inspect
import logging
import types
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from typing import Annotated, Any, ClassVar, Literal, NamedTuple, Union

from basicsr.config.registry import Registry
from basicsr.config.yaml_file import MAX_INT, Path_
from basicsr.errors import OptionError, UnknownNameError

logger = logging.getLogger("basicsr")

LONGEST = 1500  # characters of a message, after its place
SHOWN = 200  # characters of a wrong value that an error shows
SIMILAR = 0.8  # difflib ratio from which an unknown key is taken for a misspelt known one
_MISSING = dataclasses.MISSING


class Where(NamedTuple):
    """A place in the options: the path of a key, and the file and line it came from."""

    places: Mapping[Path_, str]
    path: Path_ = ()
    for_plugin: bool = False
    """whether a plug-in reads these options, which may know keys that look like misspelt ones."""

    def __truediv__(self, key: str | int) -> "Where":
        return self._replace(path=(*self.path, key))

    def __str__(self) -> str:
        """`x.yml:12: train.ema_decay`; a key that was not written takes the line of the section it belongs to."""
        place = next(
            (self.places[self.path[:n]] for n in range(len(self.path), 0, -1) if self.path[:n] in self.places), ""
        )
        dotted = "".join(f"[{p}]" if isinstance(p, int) else f".{printable(p)}" for p in self.path).lstrip(".")
        return ": ".join(part for part in (place or self.places.get((), ""), dotted) if part)

    def at(self, dotted: str) -> "Where":
        """The place of a key given as `section.key`."""
        return self._replace(path=(*self.path, *dotted.split(".")))

    def error(self, message: str) -> OptionError:
        """An error to raise, that begins with this place; on one line, and cut when it quotes something long."""
        line = " ".join(message.splitlines())
        return OptionError(f"{self}: {line if len(line) <= LONGEST else f'{line[:LONGEST]}...'}")


NOWHERE = Where({})


def option(default: Any = _MISSING, doc: str = "", *, factory: Any = _MISSING, run: bool = False) -> Any:
    """A field of a `Section`: its default, and what it is (unit, range) for docs/options.md.

    Args:
        run: the run itself fills it in; it cannot be written in a YAML file.
    """
    metadata = {"doc": doc, "run": run}
    if factory is not _MISSING:
        return dataclasses.field(default_factory=factory, metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Section(Mapping):
    """Frozen options that can also be read as a mapping: `opt.train.ema_decay`, `opt['train'].get('ema_decay')`.

    The mapping has the fields that are not None, then the keys kept in `extra`.
    """

    extra: Mapping[str, Any] = option(factory=dict, doc="keys that no field declares", run=True)
    where: Where = option(NOWHERE, "where the section was read", run=True)

    # Keys that end or start like this are components too, e.g. {"*_opt": LossSpec}.
    key_patterns: ClassVar[Mapping[str, Any]] = {}

    @classmethod
    def more_hints(cls, data: Mapping[str, Any], where: Where) -> "Hints | None":
        """Type hints of further keys that depend on `data`; None: any key is welcome."""
        return Hints({})

    def __getitem__(self, key: str) -> Any:
        if key in self._names():
            return getattr(self, key)
        return self.extra[key]

    def __iter__(self) -> Iterator[str]:
        yield from (name for name in self._names() if getattr(self, name) is not None)
        yield from self.extra

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __contains__(self, key: object) -> bool:
        return any(key == name for name in self)

    def to_dict(self) -> dict[str, Any]:
        """Plain dicts, lists and values all the way down, in the order of the fields."""
        return {key: _plain(self[key]) for key in self}

    def written(self) -> dict[str, Any]:
        """What a file must say to give these options: `to_dict()` without defaults and without what a run fills in."""
        kept = [f.name for f in dataclasses.fields(self) if not f.metadata.get("run") and not _is_default(self, f)]
        values = {name: self[name] for name in [*kept, *self.extra]}
        return {key: v.written() if isinstance(v, Section) else _written(v) for key, v in values.items()}

    @classmethod
    def _names(cls) -> list[str]:
        return [f.name for f in dataclasses.fields(cls) if f.name not in ("extra", "where")]


def _is_default(section: Section, field: dataclasses.Field) -> bool:
    value = getattr(section, field.name)
    if field.default_factory is not _MISSING:
        return value == field.default_factory()
    if isinstance(value, Section) and isinstance(field.default, Section):
        return value.written() == field.default.written()
    return value == field.default


def _written(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: v.written() if isinstance(v, Section) else _written(v) for key, v in value.items()}
    return _plain(value)


def at_least(least: int, section: Section, *names: str) -> None:
    """Refuse values below `least` among the fields `names`, for a section's `__post_init__`."""
    for name in names:
        if section[name] < least:
            raise ValueError(f"{name}: must be at least {least}, got {section[name]}")


class Spec(Mapping):
    """A component as a YAML file names it: `{type: L1Loss, loss_weight: 1.0}`, checked and frozen.

    `Registry.build` makes the object; an error it raises then carries the place the spec was read from.
    """

    def __init__(self, values: Mapping[str, Any], where: Where = NOWHERE):
        self._values = dict(values)
        self.where = where

    @property
    def type(self) -> str:
        """The registered name."""
        return self._values["type"]

    def __getitem__(self, key: str) -> Any:
        return self._values[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __repr__(self) -> str:
        return repr(self._values)


@dataclasses.dataclass(frozen=True, eq=False)
class Component:
    """What a spec may say: `type` is a name in `registry`, the other keys are parameters of what is found there."""

    registry: Registry
    supplied: tuple[str, ...] = ()  # parameters that the caller passes, not the YAML
    own: Mapping[str, Any] = dataclasses.field(default_factory=dict)  # keys that the caller reads, with their type


class Hints(NamedTuple):
    """Parameters of a callable: their types, which of them must be given, and whether it takes any other key."""

    types: Mapping[str, Any]
    required: frozenset[str] = frozenset()
    takes_any: bool = False


def signature_hints(target: Callable[..., Any], supplied: Sequence[str] = ()) -> Hints:
    """Hints of the keyword arguments of a class or function, `supplied` ones left out."""
    function = target.__init__ if inspect.isclass(target) else target
    try:
        annotations = typing.get_type_hints(function)
    except (NameError, TypeError):  # a plug-in's annotation that cannot be resolved checks nothing
        annotations = {}
    hints: dict[str, Any] = {}
    required = set()
    takes_any = False
    for name, parameter in inspect.signature(target).parameters.items():
        if parameter.kind is parameter.VAR_KEYWORD:
            takes_any = True
        elif parameter.kind is not parameter.VAR_POSITIONAL and name not in supplied:
            hints[name] = annotations.get(name, Any)
            if parameter.default is parameter.empty:
                required.add(name)
    return Hints(hints, frozenset(required), takes_any)


def structure(section: type[Section], data: Any, where: Where) -> Any:
    """Build a `Section` from plain values, recursively.

    Raises:
        OptionError: for a missing key, a misspelt one, or a value of the wrong type or range.
    """
    if not isinstance(data, Mapping):
        raise where.error(f"expected keys and values, got {_shown(data)}")
    hints = typing.get_type_hints(section, include_extras=True)
    fields = {f.name: f for f in dataclasses.fields(section) if not f.metadata.get("run")}
    more = section.more_hints(data, where)
    known = {**{name: hints[name] for name in fields}, **(more.types if more else {})}
    given: dict[str, Any] = {}
    extra: dict[str, Any] = {}
    for key, value in data.items():
        _refuse_other_than_text(key, where)
        pattern = next((h for p, h in section.key_patterns.items() if _fits(p, str(key))), None)
        if key in fields:
            given[key] = convert(value, hints[key], where / key)
        elif key in known:
            extra[key] = convert(value, known[key], where / key)
        elif pattern is not None:
            extra[key] = convert(value, pattern, where / key)
        else:
            if more is not None and not more.takes_any:
                _pass_or_refuse(key, known, where / key)
            extra[key] = value
    for name, f in fields.items():
        if name not in given and f.default is _MISSING and f.default_factory is _MISSING:
            raise (where / name).error(f"is missing; expected {describe(hints[name])}. {f.metadata['doc']}")
    for name in sorted(more.required - set(data) if more else ()):
        raise (where / name).error(f"is missing; expected {describe(known[name])}")
    try:
        return section(**given, extra=extra, where=where)
    except OptionError:
        raise
    except ValueError as error:  # __post_init__ names the key and the range
        key, _, message = str(error).partition(": ")
        raise (where / key).error(message) from error


def convert(value: Any, hint: Any, where: Where) -> Any:
    """`value` as the type `hint`: a number for a number, a tuple for a list, a `Section` or `Spec` for a mapping.

    Raises:
        OptionError: when it does not fit.
    """
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        return convert_spec(value, arguments[1], where)
    if hint is Any or isinstance(hint, typing.TypeVar):
        return value
    if origin in (Union, types.UnionType):
        return _convert_union(value, hint, arguments, where)
    if origin is Literal:
        if any(value == a and type(value) is type(a) for a in arguments):
            return value
    elif hint in (None, type(None)):
        if value is None:
            return None
    elif inspect.isclass(hint) and issubclass(hint, Section):
        return structure(hint, value, where)
    elif hint is float and isinstance(value, (int, float)) and not isinstance(value, bool):
        if value == value:  # not nan, which passes any check of a range
            return float(value)
    elif (
        hint is int
        and not isinstance(value, bool)
        and (isinstance(value, int) or (isinstance(value, float) and value.is_integer() and abs(value) <= MAX_INT))
    ):
        return int(value)
    elif origin in (list, tuple, Sequence) or hint in (list, tuple, Sequence):
        if isinstance(value, (list, tuple)):
            return _convert_list(value, origin, arguments, where)
    elif origin in (dict, Mapping) or hint in (dict, Mapping):
        if isinstance(value, Mapping):
            inner = arguments[1] if arguments else Any
            return {str(k): convert(v, inner, where / k) for k, v in value.items()}
    elif hint not in (int, float) and inspect.isclass(hint) and isinstance(value, hint):
        return value
    raise where.error(
        f"expected {describe(hint)}, got {_shown(value)}{_near(value, arguments if origin is Literal else ())}"
    )


def convert_spec(value: Any, component: Component, where: Where) -> Spec:
    """A `{type: …}` mapping, its keys checked against the signature of what `type` names.

    Raises:
        OptionError: for an unknown type or key, a wrong type, or a parameter that is missing.
    """
    if not isinstance(value, Mapping) or not isinstance(value.get("type"), str):
        raise where.error(f"expected {{type: name of a {component.registry.kind}, ...}}, got {_shown(_plain(value))}")
    try:
        target = component.registry.get(value["type"])
    except UnknownNameError as error:
        raise (where / "type").error(str(error)) from error
    hints = signature_hints(target, component.supplied)
    known = {**hints.types, **component.own}
    values: dict[str, Any] = {"type": value["type"]}
    for key, item in value.items():
        _refuse_other_than_text(key, where)
        if key in known:
            values[key] = convert(item, known[key], where / key)
        elif key != "type":
            if not hints.takes_any:
                raise (where / key).error(f"{value['type']} has no such argument{_near(key, known) or _listed(known)}")
            values[key] = item
    for key in sorted(hints.required - set(values)):
        raise (where / key).error(f"is missing; {value['type']} needs it: {describe(known[key])}")
    return Spec(values, where)


def describe(hint: Any) -> str:
    """A type in the words of an error message or of the documentation."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        return f"{{type: {arguments[1].registry.kind}, ...}}"
    if origin in (Union, types.UnionType):
        return " or ".join(dict.fromkeys(describe(a) for a in arguments if a is not type(None))) + (
            " or null" if type(None) in arguments else ""
        )
    if origin is Literal:
        return " or ".join(repr(a) for a in arguments)
    if origin in (list, tuple, Sequence):
        fixed = origin is tuple and arguments and arguments[-1] is not Ellipsis
        if fixed:
            return f"a list of {len(arguments)}: " + ", ".join(describe(a) for a in arguments)
        return f"a list, each {describe(arguments[0])}" if arguments else "a list"
    if origin in (dict, Mapping) or hint in (dict, Mapping):
        return "keys and values"
    if inspect.isclass(hint) and issubclass(hint, Section):
        return "a section"
    words = {
        int: "a whole number",
        float: "a number",
        bool: "true or false",
        str: "text",
        type(None): "null",
        Any: "anything",
    }
    return str(words.get(hint) or getattr(hint, "__name__", hint))


def _convert_union(value: Any, hint: Any, arguments: tuple[Any, ...], where: Where) -> Any:
    if value is None and type(None) in arguments:
        return None
    exact = [a for a in arguments if inspect.isclass(a) and type(value) is a]
    errors = []
    for argument in (*exact, *(a for a in arguments if a is not type(None))):
        try:
            return convert(value, argument, where)
        except OptionError as error:
            errors.append(error)
    sections = [a for a in arguments if a is not type(None)]
    if len(sections) == 1:
        raise errors[-1]  # `X | None`: what is wrong with the X says more than the union
    raise where.error(f"expected {describe(hint)}, got {_shown(value)}")


def _convert_list(value: Sequence[Any], origin: Any, arguments: tuple[Any, ...], where: Where) -> tuple[Any, ...]:
    if origin is tuple and arguments and arguments[-1] is not Ellipsis:
        if len(value) != len(arguments):
            raise where.error(f"expected {len(arguments)} values, got {len(value)}: {_shown(list(value))}")
        return tuple(convert(v, a, where / i) for i, (v, a) in enumerate(zip(value, arguments, strict=True)))
    return tuple(convert(v, arguments[0] if arguments else Any, where / i) for i, v in enumerate(value))


def _pass_or_refuse(key: Any, known: Mapping[str, Any], where: Where) -> None:
    """An unknown key near a known one is a mistake; any other may be a plug-in's and passes with a warning.

    With a plug-in as the model even the former passes: `pretrain_network_d` is no mistake there.
    """
    near = get_close_matches(str(key)[:SHOWN], known, n=1, cutoff=SIMILAR)
    if near and not where.for_plugin:
        raise where.error(f"unknown option; did you mean {near[0]!r}?")
    looks = f" (it looks like {near[0]!r})" if near else ""
    logger.warning("%s: unknown option, kept for plug-ins but read by nothing here%s", where, looks)


def _refuse_other_than_text(key: Any, where: Where) -> None:
    if not isinstance(key, str):
        raise where.error(f"a key must be text, got {_shown(key)}; put it in quotes (on, off, yes and no are no text)")


def printable(key: Any) -> str:
    """A key, or what else stands for a place, on one line, cut when long."""
    text = str(key)
    text = text if len(text) <= SHOWN else f"{text[:SHOWN]}..."
    return text if text.isprintable() else repr(text)[1:-1]


def _shown(value: Any) -> str:
    """A wrong value on one line, cut when long."""
    text = repr(value)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."


def _near(key: Any, names: Any) -> str:
    near = get_close_matches(str(key)[:SHOWN], [str(n) for n in names], n=1)
    return f"; did you mean {near[0]!r}?" if near else ""


def _listed(names: Mapping[str, Any]) -> str:
    return f"; it takes {', '.join(names)}" if names else "; it takes none"


def _fits(pattern: str, key: str) -> bool:
    """`*_opt` or `optim_*`."""
    return key.endswith(pattern[1:]) if pattern.startswith("*") else key.startswith(pattern[:-1])


def _plain(value: Any) -> Any:
    if isinstance(value, Section):
        return value.to_dict()
    if isinstance(value, Mapping):
        return {k: _plain(v) for k, v in value.items()}
    return [_plain(v) for v in value] if isinstance(value, (list, tuple)) else value
