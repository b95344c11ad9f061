"""Weights of other projects that PyTorch's cache may hold. Nothing is downloaded here."""

import shlex
from pathlib import Path

from torch import hub

from basicsr.errors import CheckpointError

OLD_FOLDER = Path("experiments/pretrained_models")  # where projects on BasicSR keep such files


def cached_weights(url: str, need: str, key: str) -> Path:
    """Return the file of `url` in PyTorch's cache or in an old project's folder.

    Args:
        url: where the file is published.
        need: what needs it, the beginning of the message.
        key: the option or argument that takes the path of a file elsewhere.

    Raises:
        CheckpointError: where there is none; it says how to fetch it.
    """
    name = url.rsplit("/", 1)[-1]
    cache = Path(hub.get_dir()) / "checkpoints" / name
    for path in (cache, OLD_FOLDER / name):
        if path.is_file():
            return path
    command = f"curl --create-dirs -o {shlex.quote(str(cache))} {url}"
    raise CheckpointError(
        f"{need}, and neither {cache} nor {OLD_FOLDER / name} is there; nothing is downloaded by itself: fetch the "
        f"file once by `{command}`, or set {key} to its path"
    )
