"""Files, times and seeds under the names that plug-ins written for BasicSR 1.4 import."""

import logging
import os
from collections.abc import Iterator, Mapping, MutableMapping
from pathlib import Path
from typing import Any

from basicsr.engine.distributed import master_only
from basicsr.engine.random_state import seed_everything
from basicsr.engine.run import archive_folder, timestamp
from basicsr.images.walk import walk

set_random_seed = seed_everything
get_time_str = timestamp


def scandir(
    dir_path: str | Path, suffix: str | tuple[str, ...] | None = None, recursive: bool = False, full_path: bool = False
) -> Iterator[str]:
    """Return the paths of the files in a folder, sorted, by the rule of `basicsr.images.walk` (no hidden files).

    Args:
        dir_path: the folder.
        suffix: ending of the names, in upper or lower case, or several; None: all files.
        recursive: include subfolders.
        full_path: let each path begin with `dir_path`; False: make it relative to it.

    Raises:
        TypeError: for another kind of suffix.
        FileNotFoundError: when there is no such folder.
    """
    if suffix is not None and not isinstance(suffix, (str, tuple)):
        raise TypeError('"suffix" must be a string or tuple of strings')
    endings = tuple(ending.lower() for ending in ((suffix,) if isinstance(suffix, str) else suffix or ("",)))
    names = walk(dir_path, lambda name: name.endswith(endings), recursive).names
    return iter([os.path.join(dir_path, name) for name in names] if full_path else names)


def mkdir_and_rename(path: str | Path) -> None:
    """Make a folder; an existing one is renamed to `<name>_archived_<time>`."""
    archive_folder(Path(path))
    Path(path).mkdir(parents=True, exist_ok=True)


@master_only
def make_exp_dirs(opt: Mapping[str, Any]) -> None:
    """Make the folders of a run in rank 0; an existing folder of the run is renamed as by `mkdir_and_rename`."""
    path = dict(opt["path"])
    mkdir_and_rename(path.pop("experiments_root" if opt["is_train"] else "results_root"))
    for key in ("models", "training_states", "log", "visualization"):
        if path.get(key):
            Path(path[key]).mkdir(parents=True, exist_ok=True)


def check_resume(opt: Mapping[str, Any], resume_iter: int) -> None:
    """Set `pretrain_network_*` of a resumed run to the weights of its iteration, except `ignore_resume_networks`."""
    path: MutableMapping[str, Any] = opt["path"]
    if not path.get("resume_state"):
        return
    for network in (key for key in opt if key.startswith("network_")):
        if network not in (path.get("ignore_resume_networks") or ()):
            label = network.replace("network", "net")
            path[f"pretrain_{network}"] = os.path.join(path["models"], f"{label}_{resume_iter}.pth")
            logging.getLogger("basicsr").info("Set pretrain_%s to %s", network, path[f"pretrain_{network}"])


def sizeof_fmt(size: float, suffix: str = "B") -> str:
    """Return a number of bytes as text, such as 1.5 KB."""
    for unit in ("", "K", "M", "G", "T", "P", "E", "Z"):
        if abs(size) < 1024.0:
            return f"{size:3.1f} {unit}{suffix}"
        size /= 1024.0
    return f"{size:3.1f} Y{suffix}"
