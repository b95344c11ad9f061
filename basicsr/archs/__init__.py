"""Network architectures. A file `*_arch.py` here that registers a class is all a new network needs."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from basicsr.config.registry import ARCH_REGISTRY
from basicsr.errors import CheckpointError

if TYPE_CHECKING:
    from torch import Tensor, nn


def build_network(spec: Mapping[str, Any]) -> "nn.Module":
    """The network that `{type: CATANet-L, upscale: 4, ...}` describes, freshly initialised."""
    return ARCH_REGISTRY.build(spec)


def build_network_for(weights: "Mapping[str, Tensor]", spec: Any, path: str | Path) -> "nn.Module":
    """The network that a weight file's own `network_g` describes, built only once its sizes are known to be the file's.

    Args:
        weights: of the file, which are not loaded yet.
        spec: the `network_g`; whoever made the file may have written anything there.
        path: of the file.

    Raises:
        CheckpointError: when `spec` describes no network, or another one than that of the weights.
    """
    import torch

    from basicsr.config.convert import convert_spec
    from basicsr.config.location import NO_LOCATION
    from basicsr.config.section import Component
    from basicsr.engine.checkpoint import mismatch

    if not isinstance(spec, Mapping) or "type" not in spec:
        raise CheckpointError(f"{path}: its network_g must be a mapping with a type, got {str(spec)[:50]}")
    try:
        checked = convert_spec(spec, Component(ARCH_REGISTRY), NO_LOCATION.at("network_g"))
        try:
            with torch.device("meta"):  # takes no memory, however large the numbers
                net = build_network(checked)
        except (NotImplementedError, RuntimeError):
            if ARCH_REGISTRY.get(checked.type).__module__.startswith("basicsr."):
                raise
            net = build_network(checked)  # constructors of plug-ins may read numbers, as in `x.item()`
    except (TypeError, RuntimeError, ArithmeticError, LookupError, ValueError) as error:
        kind = str(spec["type"])[:50]
        raise CheckpointError(f"{path}: its network_g does not fit this version of {kind} ({error})") from error
    if problem := mismatch(net, weights):
        raise CheckpointError(f"{path}: its weights do not fit its network_g, {checked.type}: {problem}")
    return build_network(checked)


def load_network(path: str | Path, param_key: str = "params") -> "nn.Module":
    """The network that a weight file describes by its own `network_g`, with its weights, in evaluation.

    Raises:
        CheckpointError: when the file carries no `network_g`, or its weights do not fit it.
    """
    from basicsr.engine.checkpoint import load_file, load_weights, select_weights

    content = load_file(path)
    if content.get("network_g") is None:
        raise CheckpointError(f"{path}: carries no network_g, so build the network first, from its YAML")
    net = build_network_for(select_weights(content, param_key, path)[1], content["network_g"], path)
    load_weights(net, path, param_key)
    return net.eval()
