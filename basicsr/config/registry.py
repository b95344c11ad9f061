"""Registries of classes and functions by name, through which option files select components.

To add a network, add a file `basicsr/archs/x_arch.py` with a class that `@ARCH_REGISTRY.register()` decorates. Modules
are imported when a name is looked up. The module that the name suggests (`catanet_arch` for `CATANet`) is tried first,
so that using one network imports only that one.
"""

import importlib
import pkgutil
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

from basicsr.config.known_names import describe_known_name
from basicsr.config.similar import similar_names
from basicsr.errors import OptionError, UnknownNameError

T = TypeVar("T", bound=Callable[..., Any])


def is_plugin(item: Any) -> bool:
    """Return whether a class or function is defined outside this package."""
    return not str(item.__module__).startswith("basicsr.")


class Registry:
    """Table of classes or functions by name, filled by decorators in the modules of one package.

    Args:
        kind: word for its entries in error messages, e.g. "architecture".
        package: dotted name of the package whose modules register entries; None: there is no such package.
        suffixes: ends of the names of those modules, e.g. "_arch".
    """

    def __init__(self, kind: str, package: str | None = None, *suffixes: str):
        self.kind = kind
        self._package = package
        self._suffixes = suffixes
        self._items: dict[str, Callable[..., Any]] = {}
        self._discovered = package is None
        self.adapt_plugin: Callable[[Any], Any] | None = None
        """applied by `get` to entries from outside the package; set by `basicsr.compat.plugins`"""

    def register(self, obj: T | None = None, suffix: str | None = None, *, name: str | None = None) -> Any:
        """Register `obj` under `name` (default: its own name), as `@R.register()` or `R.register(obj)`.

        Args:
            suffix: appended to the name as `name_suffix`, for plug-ins whose name is taken already.

        Raises:
            OptionError: when the name is taken; the message names the modules of both entries.
        """

        def add(item: T) -> T:
            key = name or item.__name__
            key = f"{key}_{suffix}" if suffix else key
            if key in self._items and self._items[key] is not item:
                owners = f"{self._items[key].__module__} and {item.__module__}"
                raise OptionError(f"two {self.kind}s are called {key!r}: in {owners}; rename one or pass suffix=")
            self._items[key] = item
            return item

        return add if obj is None else add(obj)

    def get(self, name: str, suffix: str = "basicsr") -> Callable[..., Any]:
        """Return the entry `name` (or `name_suffix`), importing modules until it is found.

        Raises:
            UnknownNameError: with the most similar names, or with what is known of a name of another project.
        """
        found = self._find(name, suffix)
        if found is None:
            self._import_likely_module(name)
            found = self._find(name, suffix)
        if found is None:
            self._discover()
            found = self._find(name, suffix)
        if found is None:
            near = similar_names(str(name), self._items, limit=3)
            hint = f"did you mean {', '.join(near)}?" if near else f"known: {', '.join(sorted(self._items))}"
            hint = describe_known_name(str(name)) or hint
            raise UnknownNameError(f"no {self.kind} is called {name!r}; {hint}")
        return self.adapt_plugin(found) if self.adapt_plugin is not None and is_plugin(found) else found

    def build(self, spec: Mapping[str, Any], *args: Any, **supplied: Any) -> Any:
        """Build the object that `{type: name, ...}` describes, by `get(name)(*args, ..., **supplied)`.

        Raises:
            UnknownNameError: for an unknown `type`.
            OptionError: for a value that the constructor rejects, with the location of `spec` if it has one.
        """
        arguments = {key: value for key, value in spec.items() if key != "type"}
        make = self.get(spec["type"])
        try:
            return make(*args, **arguments, **supplied)
        except OptionError:
            raise
        except ValueError as error:
            if (where := getattr(spec, "where", None)) is not None:
                raise where.error(str(error)) from error
            raise OptionError(f"{spec['type']}: {error}") from error

    def keys(self) -> list[str]:
        """Return all names, sorted."""
        self._discover()
        return sorted(self._items)

    def __contains__(self, name: str) -> bool:
        self._discover()
        return name in self._items

    def __iter__(self) -> Iterator[tuple[str, Callable[..., Any]]]:
        self._discover()
        return iter(sorted(self._items.items()))

    def _find(self, name: str, suffix: str) -> Callable[..., Any] | None:
        return self._items.get(name) or self._items.get(f"{name}_{suffix}")

    def _import_likely_module(self, name: str) -> None:
        """Import the module that `name` suggests: `catanet_arch` for `CATANet-L`, `sr_model` for `SRModel`."""
        if not self._discovered:
            word, modules = str(name).split("-")[0].split("_")[0].lower(), self._module_names()
            for suffix in self._suffixes:
                module = word.removesuffix(suffix.removeprefix("_")) + suffix
                if module in modules:
                    importlib.import_module(f"{self._package}.{module}")

    def _discover(self) -> None:
        if not self._discovered:
            for module in self._module_names():  # errors in them are not caught: they name the broken module
                importlib.import_module(f"{self._package}.{module}")
            self._discovered = True

    def _module_names(self) -> list[str]:
        package = importlib.import_module(str(self._package))
        return [m.name for m in pkgutil.iter_modules(package.__path__) if m.name.endswith(self._suffixes)]


ARCH_REGISTRY = Registry("architecture", "basicsr.archs", "_arch")
DATASET_REGISTRY = Registry("data set", "basicsr.data", "_dataset")
LOSS_REGISTRY = Registry("loss", "basicsr.losses", "_loss")
METRIC_REGISTRY = Registry("metric", "basicsr.metrics", "psnr_ssim", "niqe", "_metric")
MODEL_REGISTRY = Registry("model", "basicsr.models", "_model")
OPTIMIZER_REGISTRY = Registry("optimizer", "basicsr.engine", "optimizers")
SCHEDULER_REGISTRY = Registry("learning-rate scheduler", "basicsr.engine", "lr_scheduler")
