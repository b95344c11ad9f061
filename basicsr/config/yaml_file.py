"""Safe reading of YAML files: no code runs, `2e-4` is a number, duplicate keys are errors, keys have line numbers."""

import re
from pathlib import Path
from typing import Any, NoReturn

import yaml

from basicsr.errors import OptionError

MAX_BYTES = 1 << 18  # of a file or value: PyYAML needs seconds for that many; option files have about a hundredth
MAX_DEPTH = 20  # levels of nesting: an anchor that contains itself would be infinitely deep
MAX_VALUES = 20_000  # after expansion of aliases: a few nested aliases can stand for billions of values
CHARS_PER_VALUE = 100  # every so many characters of a text count as one more value
MAX_INT = 2**63 - 1  # largest integer in PyTorch
MAX_MESSAGE_CHARS = 400  # of an error message from PyYAML
CONFLICT_MARKERS = ("<<<<<<< ", ">>>>>>> ", "||||||| ")  # of git
TAGS = {  # of PyYAML's own dialect: what to write instead
    "!!python/tuple": "a list such as [1, 2]",
    "!!python/object/apply:pathlib": "the path as text",
    "!!python/none": "~",
    "!!python/name": "the name as text",
    "!!set": "a list such as [1, 2]",
}

KeyPath = tuple[str | int, ...]


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader with stricter rules, as a subclass so that other users of PyYAML are not affected."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Return a mapping, after a check that its keys are plain and different."""
        seen: dict[Any, int] = {}
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":  # `<<: *anchor` may occur more than once
                continue
            key, line = self.construct_object(key_node, deep=True), key_node.start_mark.line + 1
            if not isinstance(key, (str, int, float, bool, type(None))):
                _reject("a key must be plain text", key_node)
            if key in seen:
                _reject(f"duplicate key {key!r}, in lines {seen[key]} and {line}; remove one", key_node)
            seen[key] = line
        return super().construct_mapping(node, deep)

    def construct_yaml_int(self, node: yaml.ScalarNode) -> int:
        """Return a whole number, after a check that it fits 64 bits."""
        value = int(super().construct_yaml_int(node))
        if abs(value) > MAX_INT:
            _reject("a whole number must be between -2^63 and 2^63", node)
        return value

    def as_text(self, node: yaml.ScalarNode) -> str:
        """Return a value as text, as it stands in the file."""
        return str(self.construct_scalar(node))


# YAML 1.1 requires a dot and a signed exponent in a float, so that PyYAML would read `2e-4` as text.
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?[0-9][0-9_]*(\.[0-9_]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)
_Loader.add_constructor("tag:yaml.org,2002:timestamp", _Loader.as_text)  # 2024-01-01 stays text
_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_yaml_int)


def parse_value(text: str) -> Any:
    """Return a value as read from a YAML file: a float for `2e-4`, a list for `[1, 2]`, None for `~`, otherwise text.

    Raises:
        yaml.YAMLError: when `text` is not YAML, or its value is too large, too deep or not allowed in options.
    """
    return _parse(text)[1]


def load_yaml(path: str | Path) -> tuple[dict[str, Any], dict[KeyPath, str]]:
    """Read a YAML file whose top level is a mapping.

    Returns:
        The values, and the file and line ("x.yml:12") of every key and list entry, by its path.

    Raises:
        OptionError: with file and line, when the file cannot be read or is not UTF-8, not YAML, or not a mapping.
    """
    text = _read_text(path)
    try:
        node, values = _parse(text)
    except yaml.MarkedYAMLError as error:
        number, problem = explain_fault(error, text)
        line = f":{number}" if number else ""
        raise OptionError(f"{path}{line}: {_one_line(problem)}") from error
    except yaml.YAMLError as error:
        raise OptionError(f"{path}: is not valid YAML: {_one_line(error)}") from error
    values = {} if node is None else values
    if not isinstance(values, dict):
        raise OptionError(f"{path}: expected `key: value` lines at the top level, got {type(values).__name__}")
    places: dict[KeyPath, str] = {}
    if node is not None:
        _collect_places(node, (), str(path), places)
    return values, places


def _read_text(path: str | Path) -> str:
    try:
        with Path(path).open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:  # ValueError: a null byte in the path
        reason = getattr(error, "strerror", None) or error
        raise OptionError(f"{path}: cannot be read ({reason}); check the path given to -opt") from error
    if len(data) > MAX_BYTES:
        raise OptionError(f"{path}: is larger than {MAX_BYTES >> 10} KiB; check that it is an option file")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise OptionError(f"{path}: is not UTF-8 text (byte {error.start}); save it as UTF-8") from error


def _parse(text: str) -> tuple[yaml.Node | None, Any]:
    """Return the root node and the value of a text.

    Raises:
        yaml.YAMLError: see `parse_value`.
    """
    if len(text) > MAX_BYTES:
        raise yaml.YAMLError(f"larger than {MAX_BYTES >> 10} KiB")
    loader = _Loader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None, None
        _check_size(node, 0, {})
        return node, loader.construct_document(node)
    except RecursionError as error:
        raise yaml.YAMLError("nested too deeply") from error
    except (ValueError, LookupError, TypeError, ArithmeticError) as error:  # e.g. `!!int ""`, `!!bool maybe`
        raise yaml.YAMLError(f"a value does not fit its tag ({error})") from error
    finally:
        loader.dispose()


def _check_size(node: yaml.Node, level: int, known: dict[int, tuple[int, int]]) -> tuple[int, int]:
    """Return the number of values and of levels in `node` with all aliases expanded.

    Args:
        node: the node to count.
        level: its level, 0 for the root.
        known: results for earlier nodes by identity, so that a node with many aliases is counted only once.

    Raises:
        yaml.YAMLError: when there are more than `MAX_VALUES` or `MAX_DEPTH`, or a text has forbidden characters.
    """
    size = known.get(id(node))
    if size is None:
        size = 1, 0
        if isinstance(node, yaml.ScalarNode):
            _check_characters(node)
            size = 1 + len(node.value) // CHARS_PER_VALUE, 0
        elif level <= MAX_DEPTH:
            pairs = node.value if isinstance(node, yaml.MappingNode) else [(value,) for value in node.value]
            parts = [_check_size(part, level + 1, known) for pair in pairs for part in pair]
            size = 1 + sum(values for values, _ in parts), 1 + max((levels for _, levels in parts), default=0)
        known[id(node)] = size
    values, levels = size
    if level + levels > MAX_DEPTH or values > MAX_VALUES:
        limits = f"over {MAX_DEPTH} levels or {MAX_VALUES} values"
        _reject(f"nested too deeply or too large ({limits}); check its anchors and aliases", node)
    return size


def _check_characters(node: yaml.ScalarNode) -> None:
    if any(c == "\0" or "\ud800" <= c <= "\udfff" for c in node.value):
        _reject("a text must not contain a null character or a lone surrogate (\\0, \\ud800)", node)


def _reject(problem: str, node: yaml.Node) -> NoReturn:
    raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark)


def _one_line(error: object) -> str:
    line = " ".join(str(error).split())
    return line if len(line) <= MAX_MESSAGE_CHARS else f"{line[:MAX_MESSAGE_CHARS]}..."


def explain_fault(error: yaml.MarkedYAMLError, text: str) -> tuple[int | None, str]:
    """Return the line (from 1) of a fault in YAML, None if unknown, and what is wrong, with what to write instead."""
    problem = str(error.problem or error.context)
    number = error.problem_mark.line + 1 if error.problem_mark else None
    lines = text.splitlines()
    conflict = next((i for i, line in enumerate(lines, 1) if line.startswith(CONFLICT_MARKERS)), None)
    if conflict is not None:
        return conflict, "is a conflict marker of git; keep one of the two versions and delete the lines of markers"
    line = lines[number - 1] if number and number <= len(lines) else ""
    if "'\\t'" in problem or "\t" in line[: len(line) - len(line.lstrip())]:
        return number, "a tab; YAML is indented by spaces alone, so write spaces instead"
    if tag := re.search(r"could not determine a constructor for the tag '([^']{1,100})'", problem):
        name = tag[1].replace("tag:yaml.org,2002:", "!!")
        instead = next((form for kind, form in TAGS.items() if name.startswith(kind)), "the value without the tag")
        return number, f"the tag {name} is not allowed, for option files hold plain values; write {instead}"
    if "mapping values are not allowed" in problem:
        return number, "a second `: ` in one line; put quotes around a text that holds a colon, as in 'a: b'"
    if "could not find expected ':'" in problem:
        return number, "a line above has no `: ` after its key, or a quote is not closed; write `key: value`"
    if "found undefined alias" in problem or "expected alphabetic or numeric" in problem:
        return number, f"{problem}; & and * begin references in YAML: put quotes around a text with them"
    if "cannot start any token" in problem:
        return number, f"{problem}; put quotes around a text that begins with it"
    if "<block end>" in problem or "<block mapping start>" in problem:
        hint = "check that keys of one section are indented by the same number of spaces"
        if "}" in line or "]" in line:  # as in `filename_tmpl: {}x4`
            hint += ", and put quotes around a text that begins with { or ["
        return number, f"{problem}; {hint}"
    if "expected ',' or" in problem or "<stream end>" in problem:
        return number, f"{problem}; check that brackets, braces and quotes are closed"
    return number, problem


def _collect_places(node: yaml.Node, path: KeyPath, file: str, places: dict[KeyPath, str]) -> None:
    """Add file and line of every key in `node` to `places`; keys from `<<` have been merged already."""
    if isinstance(node, yaml.MappingNode):
        children = [(key.value, key, value) for key, value in node.value]
    elif isinstance(node, yaml.SequenceNode):
        children = [(i, value, value) for i, value in enumerate(node.value)]
    else:
        children = []
    for name, marked_node, value in children:
        here = (*path, name)
        places[here] = f"{file}:{marked_node.start_mark.line + 1}"
        _collect_places(value, here, file, places)
