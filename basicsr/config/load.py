"""Reading of option files: the values of a YAML file, overridden, typed, checked, and completed by what a run adds.

load_yaml -> overrides of --force_yml -> build_options (types, names, signatures, constructors) -> resolve
"""

import logging
import sys
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import yaml

from basicsr.config.degradation import DegradationOptions
from basicsr.config.faults import FaultList
from basicsr.config.location import Location, format_key
from basicsr.config.registry import MODEL_REGISTRY, is_plugin
from basicsr.config.schema import Options
from basicsr.config.similar import similar_names
from basicsr.config.validation import build_options
from basicsr.config.yaml_file import MAX_DEPTH, KeyPath, load_yaml, parse_value
from basicsr.errors import OptionError, UnknownNameError
from basicsr.text import encodable, write_text

logger = logging.getLogger("basicsr")


def load_options(path: str | Path, overrides: Sequence[str] = (), *, is_train: bool) -> Options:
    """Read the options of a run, apply overrides, and check them.

    Args:
        path: the YAML file, which is also looked for in subfolders (see `find_options_file`).
        overrides: `a:b=value` or `a.b=value`; the value is read as YAML.
        is_train: whether the options are for training; otherwise they are for testing.

    Raises:
        OptionError: for each fault a line with file and line, key, problem and remedy.
    """
    path = find_options_file(path)
    values, places = load_yaml(path)
    places[()] = str(path)
    faults = FaultList()
    given: dict[tuple[str, ...], str] = {}
    for override in overrides:
        with faults.collecting():
            _apply_override(values, places, override, given)
    faults.raise_if_any()
    if isinstance(files := values.get("path"), dict) and "param_key" in files:
        files.setdefault("param_key_g", files["param_key"])
    model_type = values.get("model_type")
    model = _model_class(model_type)
    for_plugin = model_type is not None and (model is None or is_plugin(model))  # an unknown one may be of a plug-in
    if getattr(model, "degrades_batches", False):
        _gather_degradation(values, places, keep=for_plugin)
    options = build_options(values, Location(places, for_plugin=for_plugin), is_train)
    return replace(options, is_train=is_train, source=str(path))


def find_options_file(path: str | Path) -> Path:
    """Return `path` if it exists, else the only file of that name in its folder's subfolders (two levels).

    A path with no similar file is returned as it is, for `load_yaml` to report.

    Raises:
        OptionError: when several files have that name, or none but some have similar names.
    """
    path = Path(path)
    if path.exists():
        return path
    folders = [path.parent, *path.parent.glob("*/"), *path.parent.glob("*/*/")]
    found = sorted(str(folder / path.name) for folder in folders if (folder / path.name).is_file())
    if len(found) == 1:
        logger.warning("%s: no such file; using %s", path, found[0])
        return Path(found[0])
    if found:
        raise OptionError(f"{path}: no such file; did you mean one of {', '.join(found)}?")
    others = {file.stem: file for folder in reversed(folders) for file in folder.glob("*.yml")}
    if near := [str(others[name]) for name in similar_names(path.stem, others, limit=3)]:
        raise OptionError(f"{path}: no such file; did you mean {' or '.join(near)}?")
    return path


def resolve(
    options: Options,
    *,
    launcher: str = "none",
    rank: int = 0,
    world_size: int = 1,
    debug: bool = False,
    auto_resume: bool = False,
    force_resume: bool = False,
) -> Options:
    """Return the options with the values that a run decides: its rank, its folders, the intervals of a debug run.

    Args:
        launcher: none, pytorch or slurm.
        rank: index of this process, from 0.
        world_size: number of processes.
        debug: use short intervals and no trackers, and put `debug_` before the name. A name that contains `debug` has
            the same effect.
        auto_resume: resume from the newest state.
        force_resume: resume although options that affect the result have changed.
    """
    debug = debug or "debug" in options.name
    name = f"debug_{options.name}" if debug and "debug" not in options.name else options.name
    path, val, log = options.path, options.val, options.logger
    root = Path(path.experiments_root if options.is_train else path.results_root) / name
    path = replace(path, log=str(root), visualization=str(root / "visualization"))
    if options.is_train:
        path = replace(path, models=str(root / "models"), training_states=str(root / "training_states"))
        if debug:
            val = replace(val, val_freq=8)
            log = replace(log, print_freq=1, save_checkpoint_freq=8, use_tb_logger=False, wandb=None)
    return replace(
        options,
        name=name,
        path=path,
        val=val,
        logger=log,
        debug=debug,
        auto_resume=auto_resume,
        force_resume=force_resume,
        launcher=launcher,
        rank=rank,
        world_size=world_size,
        dist=world_size > 1,
    )


def with_output_root(root_path: str | Path | None, options: Options) -> Options:
    """Return the options with `experiments` and `results` in `root_path`; None: in the current folder."""
    if root_path is None:
        return options
    path = options.path
    experiments, results = Path(root_path) / path.experiments_root, Path(root_path) / path.results_root
    return replace(options, path=replace(path, experiments_root=str(experiments), results_root=str(results)))


def dump_options(options: Options, encoding: str | None = "utf-8") -> str:
    """Return the options as YAML text, with defaults.

    Args:
        encoding: that the text will be written in; characters that it lacks become escapes of YAML.
    """
    text = yaml.safe_dump(options.to_dict(), sort_keys=False, allow_unicode=True)
    try:
        text.encode(encoding or "utf-8")
    except UnicodeEncodeError:
        return yaml.safe_dump(options.to_dict(), sort_keys=False, allow_unicode=False)
    return text


def copy_options_file(source: str | Path, folder: str | Path) -> None:
    """Copy the YAML file with its comments into a run's folder, below a header with the time and the command."""
    command = " ".join(" ".join(sys.argv).split())  # in one line, or the rest would be read as options
    header = f"# GENERATE TIME: {datetime.now():%Y-%m-%d %H:%M:%S}\n# CMD:\n# {encodable(command)}\n\n"
    text = Path(source).read_text(encoding="utf-8-sig")  # a byte-order mark is allowed at the start of a file only
    write_text(Path(folder) / Path(source).name, header + text)


def _apply_override(
    values: dict[str, Any], places: dict[KeyPath, str], override: str, given: dict[tuple[str, ...], str]
) -> None:
    """Set one value in `values`, its location in `places` and its text in `given`, which holds earlier overrides."""
    place = f"--force_yml {format_key(override)}"
    dotted, equals, text = override.partition("=")
    keys = tuple(dotted.replace(".", ":").split(":"))
    if not equals or not all(keys) or not dotted.isprintable() or len(keys) > MAX_DEPTH:
        raise OptionError(f"{place}: expected a:b=value, e.g. train:total_iter=1000")
    try:
        value = parse_value(text)
    except yaml.YAMLError as error:
        hint = f"put quotes around a text with such characters: --force_yml \"{format_key(dotted)}='...'\""
        raise OptionError(f"{place}: the value is not valid YAML; {hint}") from error
    replaced = [earlier for keys_before, earlier in given.items() if keys_before[: len(keys)] == keys]
    if replaced and replaced != [override]:
        raise OptionError(
            f"{place}: would replace --force_yml {format_key(replaced[0])} of the same command; leave one of them out"
        )
    given[keys] = override
    node: Any = values
    for depth, key in enumerate(keys[:-1]):
        node = node.setdefault(key, {})
        if not isinstance(node, dict):
            raise OptionError(
                f"{place}: {'.'.join(keys[: depth + 1])} is a value, not a section; override it as a whole"
            )
    node[keys[-1]] = value
    places[keys] = place


def _gather_degradation(values: dict[str, Any], places: dict[KeyPath, str], keep: bool) -> None:
    """Put the keys of the section `degradation` that stand at the top level, as in files of Real-ESRGAN, into it.

    Args:
        values: of the file.
        places: of the values.
        keep: leave them where they are as well, for plug-ins, which read them there.
    """
    section = values.get("degradation")
    if section is not None and not isinstance(section, dict):
        return
    moved = {key: values[key] for key in DegradationOptions.field_names() if key in values}
    if moved:
        values["degradation"] = {**moved, **(section or {})}
        places |= {("degradation", *path): place for path, place in places.items() if path and path[0] in moved}
        for key in () if keep else moved:
            del values[key]


def _model_class(model_type: Any) -> Any:
    """Return what `model_type` names; None where it names nothing known."""
    try:
        return None if model_type is None else MODEL_REGISTRY.get(model_type)
    except (UnknownNameError, TypeError):  # `build_options` reports these
        return None
