"""YAML files read safely: no code runs, `2e-4` is a number, duplicate keys are errors, and every key knows its line."""

import re
from pathlib import Path
from typing import Any, NoReturn

import yaml

from basicsr.errors import OptionError

MAX_BYTES = 1 << 18  # of a file or a value; PyYAML takes seconds for that many, and options take a hundredth of them
MAX_DEPTH = 20  # levels of nesting; an anchor that contains itself has no end
MAX_VALUES = 20_000  # values after aliases are expanded; a few nested aliases can describe billions
CHARACTERS = 100  # of text that count as one more value
MAX_INT = 2**63 - 1  # what PyTorch counts with
MAX_MESSAGE = 400  # characters of an error that quotes the file

KeyPath = tuple[str | int, ...]


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader, private so that its rules change nobody else's."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """A mapping whose keys are all different."""
        seen: dict[Any, int] = {}
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":  # `<<: *anchor` may stand more than once
                continue
            key, line = self.construct_object(key_node, deep=True), key_node.start_mark.line + 1
            if not isinstance(key, (str, int, float, bool, type(None))):
                _refuse("a key must be plain text", key_node)
            if key in seen:
                _refuse(f"the key {key!r} stands twice, in lines {seen[key]} and {line}; remove one", key_node)
            seen[key] = line
        return super().construct_mapping(node, deep)

    def construct_yaml_int(self, node: yaml.ScalarNode) -> int:
        """A whole number that other code can hold, and print."""
        value = int(super().construct_yaml_int(node))
        if abs(value) > MAX_INT:
            _refuse("a whole number must be below 2^63 either side of 0", node)
        return value

    def as_text(self, node: yaml.ScalarNode) -> str:
        """A value as it is written."""
        return str(self.construct_scalar(node))


# YAML 1.1 wants a dot and a signed exponent in a float, so PyYAML reads `2e-4` as text; who writes it means a number.
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?[0-9][0-9_]*(\.[0-9_]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)
_Loader.add_constructor("tag:yaml.org,2002:timestamp", _Loader.as_text)  # 2024-01-01 stays text
_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_yaml_int)


def parse_value(text: str) -> Any:
    """A value as it would read in a YAML file: `2e-4` a float, `[1, 2]` a list, `~` None, everything else text.

    Raises:
        yaml.YAMLError: when `text` is no YAML, or its value is too large, too deep, or holds what no value can.
    """
    return _parse(text)[1]


def load_yaml(path: str | Path) -> tuple[dict[str, Any], dict[KeyPath, str]]:
    """Read a YAML file whose top level is a mapping.

    Returns:
        the values, and for the path of every key or list entry the place it was read from ("x.yml:12").

    Raises:
        OptionError: naming file and line, when the file is missing, no UTF-8 text, no YAML, or no mapping.
    """
    try:
        with Path(path).open("rb") as file:
            data = file.read(MAX_BYTES + 1)
        if len(data) > MAX_BYTES:
            raise OptionError(f"{path}: is larger than {MAX_BYTES >> 10} KiB; is it an option file?")
        text = data.decode("utf-8")
    except OptionError:
        raise
    except UnicodeDecodeError as error:
        raise OptionError(f"{path}: is not UTF-8 text (byte {error.start}); save it as UTF-8") from error
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the path
        reason = getattr(error, "strerror", None) or error
        raise OptionError(f"{path}: cannot be read ({reason}); check the path given to -opt") from error
    try:
        node, values = _parse(text)
    except yaml.MarkedYAMLError as error:
        line = f":{error.problem_mark.line + 1}" if error.problem_mark else ""
        raise OptionError(f"{path}{line}: {_one_line(error.problem or error.context)}") from error
    except yaml.YAMLError as error:
        raise OptionError(f"{path}: is no valid YAML: {_one_line(error)}") from error
    values = {} if node is None else values
    if not isinstance(values, dict):
        raise OptionError(f"{path}: expected `key: value` lines at the top level, got {type(values).__name__}")
    places: dict[KeyPath, str] = {}
    if node is not None:
        _collect_places(node, (), str(path), places)
    return values, places


def _parse(text: str) -> tuple[yaml.Node | None, Any]:
    """The nodes and the value of a text.

    Raises:
        yaml.YAMLError: when it is no YAML, or has no value that options can have.
    """
    if len(text) > MAX_BYTES:
        raise yaml.YAMLError(f"larger than {MAX_BYTES >> 10} KiB")
    loader = _Loader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None, None
        _measure(node, 0, {})
        return node, loader.construct_document(node)
    except RecursionError as error:
        raise yaml.YAMLError("nested too deeply") from error
    except (ValueError, LookupError, TypeError, ArithmeticError) as error:  # e.g. `!!int ""`, `!!bool maybe`
        raise yaml.YAMLError(f"a value does not fit its tag ({error})") from error
    finally:
        loader.dispose()


def _measure(node: yaml.Node, level: int, known: dict[int, tuple[int, int]]) -> tuple[int, int]:
    """Values and levels in `node` with all aliases written out, each node counted once; refuses too many.

    Args:
        node: at `level` below the top.
        level: see there.
        known: of nodes counted before, by identity.
    """
    found = known.get(id(node))
    if found is None:
        found = 1, 0
        if isinstance(node, yaml.ScalarNode):
            found = 1 + len(node.value) // CHARACTERS, 0
            if any(c == "\0" or "\ud800" <= c <= "\udfff" for c in node.value):
                _refuse("a text holds a zero or half a character (\\0, \\ud800), which no file name can", node)
        elif level <= MAX_DEPTH:
            pairs = node.value if isinstance(node, yaml.MappingNode) else [(value,) for value in node.value]
            parts = [_measure(part, level + 1, known) for pair in pairs for part in pair]
            found = 1 + sum(values for values, _ in parts), 1 + max((levels for _, levels in parts), default=0)
        known[id(node)] = found
    values, levels = found
    if level + levels > MAX_DEPTH or values > MAX_VALUES:
        _refuse(
            f"nested too deeply or too large (over {MAX_DEPTH} levels or {MAX_VALUES} values); "
            "check its anchors and aliases",
            node,
        )
    return found


def _refuse(problem: str, node: yaml.Node) -> NoReturn:
    raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark)


def _one_line(error: object) -> str:
    line = " ".join(str(error).split())
    return line if len(line) <= MAX_MESSAGE else f"{line[:MAX_MESSAGE]}..."


def _collect_places(node: yaml.Node, path: KeyPath, file: str, places: dict[KeyPath, str]) -> None:
    """Walk the nodes (merged keys are in place by now) and note where each key stands."""
    if isinstance(node, yaml.MappingNode):
        children = [(key.value, key, value) for key, value in node.value]
    elif isinstance(node, yaml.SequenceNode):
        children = [(i, value, value) for i, value in enumerate(node.value)]
    else:
        children = []
    for name, marked, value in children:
        here = (*path, name)
        places[here] = f"{file}:{marked.start_mark.line + 1}"
        _collect_places(value, here, file, places)
