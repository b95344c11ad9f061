"""Write weight files and training states atomically; read them without running code in them.

A weight file holds `params` (and `params_ema` with a moving average), as BasicSR's do, and also `network_g`, the spec
that rebuilds the network, and `meta` (iteration, version, name of the run; as `input`, the color, mean and std of the
images that it takes). A state file `<iter>.state` holds what a run needs besides its weights to continue. The two are a
checkpoint.

A `.safetensors` file holds the same: the weights under their own names or, if there are two sets, under `params.` and
`params_ema.`; `network_g` and `meta` as JSON in its header, with a checksum.
"""

import hashlib
import io
import json
import logging
import pickle
import re
import struct
import warnings
import zipfile
import zlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from basicsr.config.schema import Options
from basicsr.engine.atomic import write_atomically
from basicsr.engine.file_kind import SAFETENSORS_FILE, describe_file
from basicsr.engine.weight_digest import WEIGHTS, check_belongs
from basicsr.errors import CheckpointError, first_line

logger = logging.getLogger("basicsr")
MAX_LISTED_NAMES = 5  # of each kind of mismatch in an error message
MAX_REASON_CHARS = 160  # of an error of a library; what is longer is its help, not a reason
SAFETENSORS = ".safetensors"
SUFFIXES = (".pth", SAFETENSORS)  # of weight files, in the order of search
WRAPPER_PREFIXES = re.compile(r"^(module\.|_orig_mod\.)+|_orig_mod\.")  # of DDP; of torch.compile, also of a part
# Errors from reading a damaged file, besides UnpicklingError.
READ_ERRORS = (
    RuntimeError, EOFError, OSError, ValueError, LookupError, ArithmeticError, AttributeError, TypeError, ImportError,
    MemoryError, AssertionError, struct.error, zlib.error, zipfile.BadZipFile, zipfile.LargeZipFile,
)  # fmt: skip


def save_atomically(content: Mapping[str, Any], path: str | Path) -> None:
    """Write a weight or state file so that `path` is whole at any time, even after a loss of power: old or new.

    Written by `torch.save` or, if `path` ends in `.safetensors`, as the docstring of the module describes.

    Raises:
        OSError: when it cannot be written; the old file, if any, is untouched.
    """
    path = Path(path)
    if path.suffix == SAFETENSORS:
        data = _to_safetensors(content)
    else:  # in memory first: on a full disk torch.save would raise other errors
        buffer = io.BytesIO()
        torch.save(dict(content), buffer)
        data = buffer.getvalue()
    try:
        write_atomically(path, data, durable=True)
    except OSError as error:
        raise OSError(
            f"{path}: cannot be written ({error.strerror or error}); make room or give write access, then go on with "
            "--auto_resume; the files written before are untouched"
        ) from error


def load_file(path: str | Path) -> dict[str, Any]:
    """Read a weight or state file onto the CPU and verify its checksums.

    Raises:
        CheckpointError: when the file is missing, damaged, of another format, or holds code instead of plain data.
    """
    try:
        kind = describe_file(path)
        if Path(path).suffix == SAFETENSORS and kind in (None, SAFETENSORS_FILE):
            return _read_safetensors(path)
        if kind is not None:
            raise CheckpointError(f"{path}: is damaged or no weight file: it is {kind}")
        _check_sums(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # such as advice to report uncommon pickles to PyTorch
            content = torch.load(path, map_location="cpu", weights_only=True)
    except CheckpointError:
        raise
    except FileNotFoundError as error:
        raise CheckpointError(f"{path}: no such file; check the path") from error
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path}: is damaged, or holds more than tensors and plain data{_foreign_name(error)}"
        ) from error
    except READ_ERRORS as error:
        raise CheckpointError(
            f"{path}: is damaged or not a {'safetensors' if Path(path).suffix == SAFETENSORS else 'PyTorch'} file "
            f"({_reason(error)}); copy or download it again"
        ) from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: expected a dict, got {type(content).__name__}; is it a weight file?")
    return content


def _foreign_name(error: Exception) -> str:
    """Return the name that a pickle asks for and must not have, for a message; PyTorch's own advice is unsafe."""
    found = re.search(r"GLOBAL ([\w.]{1,80})", str(error))
    return f" ({found[1]}); save the state_dict() of the network alone" if found else ""


def _reason(error: Exception) -> str:
    """Return the name of an error and, if it is short and not PyTorch's advice to users, its first sentence."""
    text = first_line(error).partition(". ")[0]
    is_help = "weights_only" in text or "PytorchStreamReader" in text or len(text) > MAX_REASON_CHARS
    return type(error).__name__ if is_help else f"{type(error).__name__}: {text}"


def _check_sums(path: str | Path) -> None:
    """Verify the checksums in a file of `torch.save`, which `torch.load` ignores."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
                raise zipfile.BadZipFile(
                    "it has compressed entries, which torch.save never writes and which can be huge"
                )
            wrong = archive.testzip()
        if wrong is not None:
            raise zipfile.BadZipFile(f"the checksum of {wrong} is wrong")


def _to_safetensors(content: Mapping[str, Any]) -> bytes:
    from safetensors.torch import save

    groups = {key: content[key] for key in WEIGHTS if key in content}
    if len(groups) == 1:
        tensors = dict(*groups.values())
    else:
        tensors = {f"{key}.{name}": value for key, group in groups.items() for name, value in group.items()}
    tensors = {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}  # no shared memory
    header = {key: json.dumps(content[key]) for key in ("network_g", "meta") if key in content}
    return save(tensors, {"format": "pt", **header, "crc32": _crc32(tensors, header)})


def _read_safetensors(path: str | Path) -> dict[str, Any]:
    try:
        from safetensors import SafetensorError
        from safetensors.torch import load
    except ImportError as error:
        raise CheckpointError(f"{path}: needs the package safetensors; pip install basicsr[safetensors]") from error

    data = Path(path).read_bytes()
    try:
        tensors = load(data)
    except SafetensorError as error:
        raise ValueError(str(error)) from error
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length]).get("__metadata__", {})
    plain = {key: header[key] for key in ("network_g", "meta") if key in header}
    if "crc32" in header and header["crc32"] != _crc32(tensors, plain):
        raise ValueError("its checksum is wrong")
    content: dict[str, Any] = {}
    if tensors and all(name.startswith(tuple(f"{key}." for key in WEIGHTS)) for name in tensors):
        for name, value in tensors.items():
            key, _, name = name.partition(".")
            content.setdefault(key, {})[name] = value
    else:
        content["params"] = tensors
    return {**content, **{key: json.loads(text) for key, text in plain.items()}}


def _crc32(tensors: Mapping[str, Tensor], header: Mapping[str, str]) -> str:
    """Return the CRC-32 of the content of a safetensors file, as the format has no checksum."""
    crc = zlib.crc32(json.dumps(dict(header), sort_keys=True).encode())
    for name, value in sorted(tensors.items()):
        crc = zlib.crc32(f"{name} {value.dtype} {list(value.shape)}".encode(), crc)
        crc = zlib.crc32(value.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes(), crc)
    return f"{crc:08x}"


def select_weights(
    content: Mapping[str, Any], param_key: str | None, path: str | Path
) -> tuple[str | None, dict[str, Tensor]]:
    """Return the key of the state dict in a loaded file (None: the file itself is one), and the state dict.

    A missing `params_ema` falls back to `params`; a file without either is taken as a state dict. The prefixes of DDP
    and of compiled networks, `module.` and `_orig_mod.`, are removed.

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
    return found, {WRAPPER_PREFIXES.sub("", key): value for key, value in state.items()}


def load_weights(
    net: nn.Module, path: str | Path, param_key: str | None = "params", strict: bool = True
) -> dict[str, Any]:
    """Load a weight file into `net` and return the content of the file.

    Args:
        strict: require every name and shape to fit; otherwise load those that fit and name the rest in a warning.

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
    """Describe how names and shapes of `weights` differ from those of `net`; "" if they fit.

    The result of a method `explain_mismatch(weights) -> str` of the network comes first.
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
        f"{len(names)} {what}: {', '.join(names[:MAX_LISTED_NAMES])}{', ...' if len(names) > MAX_LISTED_NAMES else ''}"
        for what, names in groups.items()
        if names
    ]
    explain = getattr(net, "explain_mismatch", None)
    hint = explain(weights) if problems and explain is not None else ""
    return "; ".join([hint, *problems] if hint else problems)


def sha256_of(path: str | Path) -> str:
    """Return the SHA-256 of a file as hexadecimal."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def newest_state(folder: str | Path) -> Path | None:
    """Return the `<iter>.state` file of the highest iteration in `folder`."""
    return max(_states(folder), key=lambda path: int(path.stem), default=None)


@dataclass(frozen=True)
class Checkpoint:
    """The contents of a training state and of the weight file of the same iteration."""

    state: dict[str, Any]
    weights: dict[str, Any]
    path: Path
    weights_path: Path


def load_checkpoint(path: str | Path, ignored: Collection[str] = ()) -> Checkpoint:
    """Read the training state `<run>/training_states/<iter>.state` and the weights `<run>/models/net_g_<iter>`.

    Files of further networks of that iteration (`net_d_<iter>` and the like) are compared with the state as well.

    Args:
        path: of the state.
        ignored: networks that are not resumed (`network_d`), whose files are not looked at.

    Raises:
        CheckpointError: when a file is missing, damaged, of another kind, or of another save than the state.
    """
    path = Path(path)
    state = load_file(path)
    if not isinstance(state.get("iter"), int) or not isinstance(state.get("optimizers"), list):
        raise CheckpointError(f"{path}: is no training state; its keys are {', '.join(map(str, state))}")
    it = state["iter"]
    if path.stem.isdigit() and int(path.stem) != it:
        raise CheckpointError(f"{path}: holds the state of iteration {it}, not of {path.stem} as its name says")
    models = path.parent.parent / "models"
    weights_path = weight_file(models, "net_g", it)
    weights = load_file(weights_path)
    select_weights(weights, "params", weights_path)
    digests = state.get("weight_digests") or {}
    if not isinstance(digests, Mapping):
        raise CheckpointError(f"{path}: is damaged: its entry weight_digests is no mapping")
    check_belongs(weights, weights_path, it, digests.get("net_g"))
    others = {file.stem.rpartition("_")[0] for suffix in SUFFIXES for file in models.glob(f"net_*_{it}{suffix}")}
    for label in sorted((others | set(digests)) - {"net_g"}):
        if label.replace("net_", "network_") not in ignored:
            file = weight_file(models, label, it)
            check_belongs(load_file(file), file, it, digests.get(label))
    return Checkpoint(state, weights, path, weights_path)


def weight_file(folder: str | Path, label: str, it: int) -> Path:
    """Return the weight file of a network such as `net_g` at an iteration: that which exists, else the `.pth`."""
    files = [Path(folder) / f"{label}_{it}{suffix}" for suffix in SUFFIXES]
    return next((file for file in files if file.exists()), files[0])


def find_checkpoint(opt: Options) -> Checkpoint | None:
    """Return the checkpoint to continue from: `path.resume_state`, or with --auto_resume the newest undamaged one."""
    ignored = opt.path.ignore_resume_networks or ()
    if opt.path.resume_state:
        return load_checkpoint(opt.path.resume_state, ignored)
    return newest_checkpoint(str(opt.path.training_states), ignored) if opt.auto_resume else None


def newest_checkpoint(folder: str | Path, ignored: Collection[str] = ()) -> Checkpoint | None:
    """Return the newest whole checkpoint whose state is in `folder`, None if there are none; warn of those passed over.

    A checkpoint is whole if its files are undamaged and of one save.

    Raises:
        CheckpointError: when there are checkpoints, and none is whole.
    """
    newest: CheckpointError | None = None
    for path in sorted(_states(folder), key=lambda path: -int(path.stem)):
        try:
            return load_checkpoint(path, ignored)
        except CheckpointError as error:
            newest = newest or error
            logger.warning("%s; trying the checkpoint before it", error)
    if newest is not None:
        raise CheckpointError(
            f"{newest}; none of the older ones can be used either. Remove {folder} to start again"
        ) from newest
    return None


def prune_checkpoints(states: str | Path, models: str | Path, current: int, keep: int, best: Collection[int]) -> None:
    """Delete the checkpoints before iteration `current`, but not the `keep` newest and those of `best` iterations."""
    found = {int(path.stem) for path in _states(states)}
    found |= {int(path.stem.removeprefix("net_g_")) for path in _weight_files(models)}
    newest = sorted(it for it in found if it <= current)[-keep:]
    for it in sorted(found - set(newest) - set(best)):
        if it < current:
            (Path(states) / f"{it}.state").unlink(missing_ok=True)  # first, as it needs the weights
            for suffix in SUFFIXES:
                for path in Path(models).glob(f"net_*_{it}{suffix}"):  # discriminators, too
                    path.unlink(missing_ok=True)


def _states(folder: str | Path) -> list[Path]:
    return [path for path in Path(folder).glob("*.state") if path.stem.isdigit()]


def _weight_files(folder: str | Path) -> list[Path]:
    files = (path for suffix in SUFFIXES for path in Path(folder).glob(f"net_g_*{suffix}"))
    return [path for path in files if path.stem.removeprefix("net_g_").isdigit()]
