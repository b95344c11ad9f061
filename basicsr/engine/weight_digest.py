"""Whether a weight file and a training state are of one save: by the iteration and a digest of the weights."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from basicsr.errors import CheckpointError

WEIGHTS = ("params", "params_ema")  # keys of a weight file under which it holds weights


def weights_digest(content: Mapping[str, Any]) -> str:
    """Return a digest of the weights in a file, by which a training state knows the files of its own save.

    It depends on names, types, shapes and values alone: equal runs have equal states, and a `.safetensors` file has the
    digest of the `.pth` with the same content.
    """
    digest = hashlib.sha256()
    for key in sorted(key for key, value in content.items() if isinstance(value, Mapping) and key in WEIGHTS):
        for name, value in sorted(content[key].items()):
            digest.update(f"{key} {name} {value.dtype} {list(value.shape)}".encode())
            digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()[:32]


def check_belongs(content: Mapping[str, Any], path: Path, it: int, digest: object) -> None:
    """Check that a weight file was saved together with a training state.

    Args:
        content: of the weight file.
        path: of the weight file.
        it: iteration of the state.
        digest: that the state holds of the file; None in states of older versions, where only iterations are compared.

    Raises:
        CheckpointError: when the iterations or the digests differ.
    """
    meta = content.get("meta")
    found = meta.get("iter") if isinstance(meta, Mapping) else None
    hint = "a run goes on only from files of one save; to start anew from weights, give them as path.pretrain_network_g"
    if isinstance(found, int) and found != it:
        raise CheckpointError(f"{path}: holds the weights of iteration {found}, and its state is of {it}; {hint}")
    if digest is not None and weights_digest(content) != digest:
        raise CheckpointError(f"{path}: holds other weights than were saved with its state of iteration {it}; {hint}")
