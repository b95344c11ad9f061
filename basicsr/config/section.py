"""The building blocks of the option types: sections (dataclasses) and specs (`{type: name, ...}` mappings).

`basicsr.config.convert` makes them from the plain values of a YAML file.
"""

import dataclasses
import inspect
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

from basicsr.config.location import NO_LOCATION, Location
from basicsr.config.registry import Registry

_MISSING = dataclasses.MISSING


def option(default: Any = _MISSING, doc: str = "", *, factory: Any = _MISSING, run: bool = False) -> Any:
    """Declare a field of a `Section`.

    Args:
        doc: meaning and unit, for docs/options.md; the range of a number is part of its type (see `ranges.py`).
        factory: makes the default, for mutable types.
        run: whether the run fills it in, so that a YAML file cannot set it.
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
    where: Location = option(NO_LOCATION, "where the section was read", run=True)

    key_patterns: ClassVar[Mapping[str, Any]] = {}
    """types of further keys by a pattern with one `*` at an end, e.g. {"*_opt": LossSpec}"""

    @classmethod
    def extra_hints(cls, data: Mapping[str, Any], where: Location) -> "Hints | None":
        """Return the types of further keys, which may depend on `data`; None: any key is accepted unchecked."""
        return Hints({})

    def __getitem__(self, key: str) -> Any:
        if key in self.field_names():
            return getattr(self, key)
        return self.extra[key]

    def __iter__(self) -> Iterator[str]:
        yield from (name for name in self.field_names() if getattr(self, name) is not None)
        yield from self.extra

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __contains__(self, key: object) -> bool:
        return any(key == name for name in self)

    def to_dict(self) -> dict[str, Any]:
        """Return nested plain dicts and lists, in the order of the fields."""
        return {key: to_plain(self[key]) for key in self}

    def to_minimal_dict(self) -> dict[str, Any]:
        """Return the smallest dict that gives these options: without defaults and without fields of the run."""
        kept = [f.name for f in dataclasses.fields(self) if not f.metadata.get("run") and not _is_default(self, f)]
        values = {name: self[name] for name in [*kept, *self.extra]}
        return {key: _to_minimal(v) for key, v in values.items()}

    @classmethod
    def field_names(cls) -> list[str]:
        """Return the names of the declared keys, whether set or not."""
        return [f.name for f in dataclasses.fields(cls) if f.name not in ("extra", "where")]


def _is_default(section: Section, field: dataclasses.Field) -> bool:
    value = getattr(section, field.name)
    if field.default_factory is not _MISSING:
        return value == field.default_factory()
    if isinstance(value, Section) and isinstance(field.default, Section):
        return value.to_minimal_dict() == field.default.to_minimal_dict()
    return value == field.default


def _to_minimal(value: Any) -> Any:
    if isinstance(value, Section):
        return value.to_minimal_dict()
    if isinstance(value, dict):
        return {key: _to_minimal(item) for key, item in value.items()}
    return to_plain(value)


class Spec(Mapping):
    """A component described in a YAML file, `{type: L1Loss, loss_weight: 1.0}`, checked and frozen.

    `Registry.build` makes the object and adds the spec's location to the error of a rejected value.
    """

    def __init__(self, values: Mapping[str, Any], where: Location = NO_LOCATION):
        self._values = dict(values)
        self.where = where

    @property
    def type(self) -> str:
        """Registered name."""
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
    """The keys that a spec may have: `type`, a name in `registry`, and the parameters of what is registered there."""

    registry: Registry
    supplied: tuple[str, ...] = ()
    """parameters that the caller passes, so that the YAML file cannot"""
    foreign: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """types, with ranges, of parameters of other packages' classes, which declare no ranges"""
    extra_keys: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """types of further keys, which the caller reads"""
    check: Callable[["Spec"], None] | None = None
    """called with a spec whose keys are right; raises an OptionError where the object cannot be made of it"""

    def hints(self, target: Callable[..., Any]) -> "Hints":
        """Return the hints of the keys that a spec of `target`, an entry of the registry, may have."""
        hints = signature_hints(target, self.supplied)
        if not target.__module__.startswith("torch."):
            return hints
        return hints._replace(types={key: self.foreign.get(key, hint) for key, hint in hints.types.items()})


class Hints(NamedTuple):
    """Type hints of the keyword arguments of a callable."""

    types: Mapping[str, Any]
    required: frozenset[str] = frozenset()
    accepts_any: bool = False
    """whether it has a `**kwargs`"""


def signature_hints(target: Callable[..., Any], supplied: Sequence[str] = ()) -> Hints:
    """Return the hints of the keyword arguments of a class or function, without those named in `supplied`."""
    function = target.__init__ if inspect.isclass(target) else target
    try:
        annotations = typing.get_type_hints(function, include_extras=True)
    except (NameError, TypeError, SyntaxError, AttributeError):
        # An annotation of a plug-in cannot be resolved, such as `x: "list of int"`: its arguments are not checked.
        annotations = {}
    hints: dict[str, Any] = {}
    required = set()
    accepts_any = False
    for name, parameter in inspect.signature(target).parameters.items():
        if parameter.kind is parameter.VAR_KEYWORD:
            accepts_any = True
        elif parameter.kind is not parameter.VAR_POSITIONAL and name not in supplied:
            hints[name] = annotations.get(name, Any)
            if parameter.default is parameter.empty:
                required.add(name)
    return Hints(hints, frozenset(required), accepts_any)


def to_plain(value: Any) -> Any:
    """Return a value with its sections and specs as dicts and its tuples as lists."""
    if isinstance(value, Section):
        return value.to_dict()
    if isinstance(value, Mapping):
        return {k: to_plain(v) for k, v in value.items()}
    return [to_plain(v) for v in value] if isinstance(value, (list, tuple)) else value
