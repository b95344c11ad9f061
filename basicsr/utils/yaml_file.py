"""YAML files read safely: no code runs, `2e-4` is a number, duplicate keys are errors, and every key knows its line."""

import re
from pathlib import Path
from typing import Any

import yaml

from basicsr.utils.errors import OptionError

MAX_DEPTH = 20  # levels of nesting; an anchor that contains itself has no end
MAX_VALUES = 20_000  # values after aliases are expanded; a few nested aliases can describe billions

Path_ = tuple[str | int, ...]


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
                raise yaml.constructor.ConstructorError(None, None, "a key must be plain text", key_node.start_mark)
            if key in seen:
                problem = f"the key {key!r} stands twice, in lines {seen[key]} and {line}; remove one"
                raise yaml.constructor.ConstructorError(None, None, problem, key_node.start_mark)
            seen[key] = line
        return super().construct_mapping(node, deep)

    def as_text(self, node: yaml.ScalarNode) -> str:
        """A value as it is written."""
        return str(self.construct_scalar(node))


# YAML 1.1 wants a dot and a signed exponent in a float, so PyYAML reads `2e-4` as text; who writes it means a number.
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?[0-9][0-9_]*(\.[0-9_]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)
_Loader.add_constructor("tag:yaml.org,2002:timestamp", _Loader.as_text)  # 2024-01-01 stays text


def parse_value(text: str) -> Any:
    """A value as it would read in a YAML file: `2e-4` a float, `[1, 2]` a list, `~` None, everything else text.

    Raises:
        yaml.YAMLError: when `text` is no YAML.
    """
    return yaml.load(text, Loader=_Loader)  # a subclass of SafeLoader


def load_yaml(path: str | Path) -> tuple[dict[str, Any], dict[Path_, str]]:
    """Read a YAML file whose top level is a mapping.

    Returns:
        the values, and for the path of every key or list entry the place it was read from ("x.yml:12").

    Raises:
        OptionError: naming file and line, when the file is missing, no UTF-8 text, no YAML, or no mapping.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise OptionError(f"{path}: is not UTF-8 text (byte {error.start}); save it as UTF-8") from error
    except OSError as error:
        raise OptionError(f"{path}: cannot be read ({error.strerror}); check the path given to -opt") from error
    loader = _Loader(text)
    try:
        node = loader.get_single_node()
        values = loader.construct_document(node) if node is not None else {}
    except yaml.MarkedYAMLError as error:
        line = f":{error.problem_mark.line + 1}" if error.problem_mark else ""
        raise OptionError(f"{path}{line}: {error.problem or error.context}") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise OptionError(f"{path}: is no valid YAML: {error}") from error
    finally:
        loader.dispose()
    if not isinstance(values, dict):
        raise OptionError(f"{path}: expected `key: value` lines at the top level, got {type(values).__name__}")
    places: dict[Path_, str] = {}
    if node is not None:
        _collect_places(node, (), str(path), places)
    return values, places


def _collect_places(node: yaml.Node, path: Path_, file: str, places: dict[Path_, str]) -> None:
    """Walk the nodes (merged keys are in place by now) and note where each key stands."""
    if len(path) > MAX_DEPTH or len(places) > MAX_VALUES:
        raise OptionError(
            f"{file}:{node.start_mark.line + 1}: nested too deeply or too large "
            f"(over {MAX_DEPTH} levels or {MAX_VALUES} values); check its anchors and aliases"
        )
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
