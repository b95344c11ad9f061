"""Network architectures. A file `*_arch.py` here that registers a class is all a new network needs."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from basicsr.utils.errors import CheckpointError
from basicsr.utils.registry import ARCH_REGISTRY

if TYPE_CHECKING:
    from torch import nn


def build_network(spec: Mapping[str, Any]) -> "nn.Module":
    """The network that `{type: CATANet-L, upscale: 4, ...}` describes, freshly initialised."""
    return ARCH_REGISTRY.build(spec)


def load_network(path: str | Path, param_key: str = "params") -> "nn.Module":
    """The network that a weight file describes by its own `network_g`, with its weights, in evaluation.

    Raises:
        CheckpointError: when the file carries no `network_g`, or its weights do not fit it.
    """
    from basicsr.utils.checkpoint import load_file, load_weights

    spec = load_file(path).get("network_g")
    if spec is None:
        raise CheckpointError(f"{path}: carries no network_g, so build the network first, from its YAML")
    net = build_network(spec)
    load_weights(net, path, param_key)
    return net.eval()
