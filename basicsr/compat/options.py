"""The options as plain dicts, for projects built on BasicSR 1.4, and the functions that make them."""

import argparse
import copy
import sys
from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import yaml

from basicsr.compat.logging import log_to_terminal
from basicsr.config.command_line import parse_command_line
from basicsr.config.convert import build_section
from basicsr.config.load import load_options, resolve, with_output_root
from basicsr.config.location import Location
from basicsr.config.schema import Options, PathOptions
from basicsr.config.section import Section
from basicsr.config.yaml_file import load_yaml, parse_value
from basicsr.engine.run import join_processes


class PlainSection(dict):
    """A section as a dict to read and write. A key that the section declares and no file sets is None, not missing."""

    def __init__(self, values: Mapping[str, Any], declared: frozenset[str] = frozenset()) -> None:
        super().__init__(values)
        self._declared = declared

    def __missing__(self, key: str) -> Any:
        if key in self._declared:
            return None
        raise KeyError(key)

    def __deepcopy__(self, memo: dict[int, Any]) -> "PlainSection":
        return PlainSection(copy.deepcopy(dict(self), memo), self._declared)


class PlainOptions(PlainSection):
    """The options of a run as nested dicts and lists that a plug-in may write to.

    Its attributes, such as `opt.train`, are the typed options, which never change. `path.experiments_root` (or
    `results_root` in tests) is the folder of this run, as in BasicSR.
    """

    def __init__(self, options: Options) -> None:
        super().__init__(_plain(options), frozenset(options.field_names()))
        self._typed = options
        path = self["path"]
        path["root"] = self["root_path"] = str(Path(options.path.experiments_root).absolute().parent)
        if options.path.log is not None:
            path["experiments_root" if options.is_train else "results_root"] = options.path.log
        for key, section in self["datasets"].items():
            section.setdefault("scale", options.scale)
            section["phase"] = key.split("_")[0]

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self._typed, name)

    def __deepcopy__(self, memo: dict[int, Any]) -> "PlainOptions":
        new = PlainOptions.__new__(PlainOptions)  # whose constructor would take the dict back to the typed options
        PlainSection.__init__(new, copy.deepcopy(dict(self), memo), self._declared)
        new._typed = self._typed
        return new


def options_of(values: Options | Mapping[str, Any]) -> PlainOptions:
    """Return the plain options of a run from typed ones, or from a dict such as scripts for BasicSR 1.4 write.

    Args:
        values: of a dict, `name`, `scale` and `datasets` may be missing, and the folders of the run, `is_train`,
            `rank`, `world_size` and `dist` may be there.

    Raises:
        OptionError: when the values of a dict are wrong.
    """
    if isinstance(values, PlainOptions):
        return values
    if isinstance(values, Options):
        return PlainOptions(values)
    network = values.get("network_g")
    scale = network.get("upscale", 1) if isinstance(network, Mapping) else 1
    given = {"name": "model", "scale": scale, "datasets": {}, **copy.deepcopy(dict(values))}
    run_keys = {f.name for f in fields(Options) if f.metadata["run"]}
    run = {key: given.pop(key) for key in run_keys & set(given)}
    path = dict(given.get("path") or {})
    folders = {f.name: path.pop(f.name, None) for f in fields(PathOptions) if f.metadata["run"]}
    given["path"] = {key: value for key, value in path.items() if key not in ("extra", "where")}
    options = resolve(build_section(Options, given, Location({}, for_plugin=True)))
    options = replace(options, is_train=bool(run.get("is_train", given.get("train") is not None)))
    folders = {key: value for key, value in folders.items() if value is not None}
    options = replace(options, path=replace(options.path, **folders))
    known = {key: run[key] for key in ("rank", "world_size", "dist") if key in run}
    return PlainOptions(replace(options, **known))


def parse_options(root_path: str, is_train: bool = True) -> tuple[PlainOptions, argparse.Namespace]:
    """Return the options of the run that the command line asks for, and the parsed command line.

    The processes of the launcher are joined and all generators seeded, for scripts that do not call `train_pipeline`
    or `test_pipeline`, which do that themselves.

    Args:
        root_path: folder of `experiments` and `results`.
        is_train: True for training, False for testing.

    Raises:
        OptionError: see `load_options`.
    """
    args = parse_command_line(Path(sys.argv[0]).name, "", None)
    log_to_terminal()
    options = with_output_root(root_path, load_options(args.opt, args.force_yml, is_train=is_train))
    return PlainOptions(join_processes(options, args.launcher, debug=args.debug, auto_resume=args.auto_resume)), args


def yaml_load(f: str) -> dict[str, Any]:
    """Return the values of a YAML file, or of YAML text, read safely; see `yaml_file`.

    Raises:
        OptionError: when a file cannot be read or is no YAML.
        yaml.YAMLError: when text is no YAML.
    """
    return load_yaml(f)[0] if Path(f).is_file() else parse_value(f)


def ordered_yaml() -> tuple[type, type]:
    """Return PyYAML's safe loader and dumper, which keep the order of mappings."""
    return yaml.SafeLoader, yaml.SafeDumper


def dict2str(opt: Mapping[str, Any], indent_level: int = 1) -> str:
    """Return options as indented text for a log, `key: value` or `key:[ ... ]` a line."""
    margin = " " * (indent_level * 2)
    lines = ["\n"]
    for key, value in opt.items():
        if isinstance(value, Mapping):
            lines.append(f"{margin}{key}:[{dict2str(value, indent_level + 1)}{margin}]\n")
        else:
            lines.append(f"{margin}{key}: {value}\n")
    return "".join(lines)


def _plain(value: Any) -> Any:
    if isinstance(value, Section):
        return PlainSection({key: _plain(value[key]) for key in value}, frozenset(value.field_names()))
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, (list, tuple)) else value
