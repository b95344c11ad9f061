"""Weight files and training states: written whole or not at all, read without running code.

A weight file holds `params` (and `params_ema` where EMA was on), as BasicSR's do, and beside them `network_g`, the
spec that rebuilds the network, and `meta` (iteration, version, name of the run). A state file `<iter>.state` holds
what a run needs beside its weights to go on.
"""

import logging
import os
import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from basicsr.utils.errors import CheckpointError

logger = logging.getLogger("basicsr")
SHOWN = 5  # names of a mismatch that an error message lists


def save_atomically(content: Mapping[str, Any], path: str | Path) -> None:
    """`torch.save` beside the target, flush to the disk, then rename: whatever happens, `path` is whole, old or new.

    Raises:
        OSError: when it cannot be written; the old file, if any, is untouched.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            torch.save(dict(content), file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def load_file(path: str | Path) -> dict[str, Any]:
    """Read a weight or state file onto the CPU; files that carry code are refused.

    Raises:
        CheckpointError: when the file is missing, damaged, not made by torch.save, or holds anything but plain data.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise CheckpointError(f"{path}: no such file; check the path") from error
    except pickle.UnpicklingError as error:
        reason = str(error).splitlines()[0]
        raise CheckpointError(f"{path}: is damaged, or holds more than tensors and plain data ({reason})") from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise CheckpointError(f"{path}: is damaged or not a PyTorch file ({type(error).__name__}: {error})") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: expected a dict, got {type(content).__name__}; is it a weight file?")
    return content


def select_weights(
    content: Mapping[str, Any], param_key: str | None, path: str | Path
) -> tuple[str | None, dict[str, Tensor]]:
    """The state dict in a loaded file, and the key it was found under (None: the file itself is the state dict).

    A missing `params_ema` falls back to `params`, and a file without either is taken as a state dict. `module.`
    prefixes of DDP are dropped.

    Raises:
        CheckpointError: when no tensors are found, listing the keys of the file.
    """
    found: str | None = None
    for key in (param_key, "params"):
        if key is not None and isinstance(content.get(key), Mapping):
            found = key
            break
    if found != param_key and param_key is not None and found is not None:
        logger.warning("%s: has no %s; taking %s", path, param_key, found)
    state = content[found] if found is not None else content
    if not state or not all(isinstance(value, Tensor) for value in state.values()):
        raise CheckpointError(
            f"{path}: holds no weights under {param_key!r}; its keys are {', '.join(map(str, content))}"
        )
    return found, {key.removeprefix("module."): value for key, value in state.items()}


def load_weights(
    net: nn.Module, path: str | Path, param_key: str | None = "params", strict: bool = True
) -> dict[str, Any]:
    """Load a weight file into `net`; returns the file's content.

    Args:
        strict: every name and shape must fit; otherwise what fits is loaded and the rest is named in a warning.

    Raises:
        CheckpointError: listing missing, unexpected and wrongly shaped names together.
    """
    content = load_file(path)
    key, weights = select_weights(content, param_key, path)
    problem = mismatch(net, weights)
    if problem and strict:
        raise CheckpointError(
            f"{path}: does not fit {type(net).__name__}: {problem}. Check network_g against the file, "
            "or set path.strict_load_g: false to load what fits"
        )
    logger.info("Loading %s model from %s, with param key: [%s].", type(net).__name__, path, key)
    if problem:
        logger.warning("%s: loading what fits; %s", path, problem)
        own = net.state_dict()
        weights = {name: value for name, value in weights.items() if name in own and own[name].shape == value.shape}
    net.load_state_dict(weights, strict=strict)
    return content


def mismatch(net: nn.Module, weights: Mapping[str, Tensor]) -> str:
    """How `weights` differ from what `net` holds, in words; empty when they fit.

    A network may know more: what its method `explain_mismatch(names of weights) -> str` says comes first.
    """
    own = net.state_dict()
    shapes = [
        f"{name} is {tuple(weights[name].shape)} in the file, {tuple(own[name].shape)} in the network"
        for name in own
        if name in weights and own[name].shape != weights[name].shape
    ]
    groups = {
        "missing": [name for name in own if name not in weights],
        "unexpected": [name for name in weights if name not in own],
        "of another shape": shapes,
    }
    problems = [
        f"{len(names)} {what}: {', '.join(names[:SHOWN])}{', ...' if len(names) > SHOWN else ''}"
        for what, names in groups.items()
        if names
    ]
    explain = getattr(net, "explain_mismatch", None)
    hint = explain(weights) if problems and explain is not None else ""
    return "; ".join([hint, *problems] if hint else problems)


def newest_state(folder: str | Path) -> Path | None:
    """The `<iter>.state` file of the highest iteration in `folder`."""
    states = [path for path in Path(folder).glob("*.state") if path.stem.isdigit()]
    return max(states, key=lambda path: int(path.stem), default=None)
