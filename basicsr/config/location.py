"""Locations in option files, and the parts of error messages that quote keys and values."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from basicsr.config.yaml_file import KeyPath
from basicsr.errors import OptionError

MAX_MESSAGE_CHARS = 1500  # of a message, without its location
MAX_VALUE_CHARS = 200  # of a key or value that a message quotes


class Location(NamedTuple):
    """The path of a key in the options, and the file and line it was read from."""

    places: Mapping[KeyPath, str]
    path: KeyPath = ()
    for_plugin: bool = False
    """whether a plug-in reads these options; its own keys may look like misspelt ones"""

    def __truediv__(self, key: str | int) -> "Location":
        return self._replace(path=(*self.path, key))

    def __str__(self) -> str:
        """Return `x.yml:12: train.ema_decay`; a key that the file does not contain takes the line of its section."""
        place = self._place()
        dotted = "".join(f"[{p}]" if isinstance(p, int) else f".{format_key(p)}" for p in self.path).lstrip(".")
        return ": ".join(part for part in (place or self.places.get((), ""), dotted) if part)

    def _place(self) -> str:
        """Return the file and line of this key, or of the section that it is missing in; "" where it is unknown."""
        return next(
            (self.places[self.path[:n]] for n in range(len(self.path), 0, -1) if self.path[:n] in self.places), ""
        )

    def at(self, dotted: str) -> "Location":
        """Return the location of a key below this one, given as `section.key`."""
        return self._replace(path=(*self.path, *dotted.split(".")))

    def error(self, message: str, *, names_component: bool = False) -> OptionError:
        """Return an error that begins with this location, on one line and cut to `MAX_MESSAGE_CHARS`.

        Args:
            message: what is wrong, and what to do.
            names_component: the fault is the name of a model, network, data set, ..., from which other faults may
                follow. Such faults are reported first, that of the model before all others.
        """
        error = OptionError(f"{self}: {_shorten(' '.join(message.splitlines()), MAX_MESSAGE_CHARS)}")
        error.order = (not names_component, self.path[:1] != ("model_type",), self._line())
        return error

    def _line(self) -> int:
        """Return the line of the file, 0 where it is unknown."""
        number = self._place().rpartition(":")[2]
        return int(number) if number.isdecimal() else 0


NO_LOCATION = Location({})


def format_key(key: Any) -> str:
    """Return a key as printable text on one line, cut to `MAX_VALUE_CHARS`."""
    text = _shorten(str(key), MAX_VALUE_CHARS)
    return text if text.isprintable() else repr(text)[1:-1]


def format_value(value: Any) -> str:
    """Return the repr of a value, cut to `MAX_VALUE_CHARS`."""
    return _shorten(repr(value), MAX_VALUE_CHARS)


def _shorten(text: str, length: int) -> str:
    return text if len(text) <= length else f"{text[:length]}..."
