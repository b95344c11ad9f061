"""Networks from weight files alone: by the `network_g` that a file carries or, of published files, by their weights."""

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from basicsr.archs import build_network, build_network_for
from basicsr.archs.layers.atd import describe_state
from basicsr.config.registry import ARCH_REGISTRY
from basicsr.engine.checkpoint import load_file, load_weights, mismatch, select_weights
from basicsr.errors import CheckpointError

SCALES = (2, 3, 4)
# The networks that files without `network_g` may hold, in the words of `describe_state`.
PUBLISHED: dict[str | None, list[dict[str, Any]]] = {
    "ATD v2": [{"type": kind, "upscale": scale} for kind in ("ATD-light", "ATD") for scale in SCALES],
    "ATD v1": [{"type": kind, "upscale": scale} for kind in ("ATD-v1-light", "ATD-v1") for scale in SCALES],
    "ATD-U": [{"type": "ATD-U", "in_chans": channels} for channels in (3, 1)],
    None: [{"type": "CATANet-L", "upscale": scale} for scale in SCALES],
}


def read_network(path: str | Path) -> tuple[nn.Module, dict[str, Any], bool]:
    """The network of a weight file, on the CPU; its description; and whether it is known by its weights alone.

    Its `network_g` describes it or, in a published file, the shapes of its weights. The weights are `params_ema` or,
    where the file has none, `params`.

    Raises:
        CheckpointError: when the file is missing or damaged, its `network_g` describes no network, or its weights do
            not fit it.
    """
    content = load_file(path)
    key = "params_ema" if "params_ema" in content else "params"
    weights = select_weights(content, key, path)[1]
    is_published = content.get("network_g") is None
    spec: dict[str, Any] = published_spec(weights, path) if is_published else content["network_g"]
    net = build_network_for(weights, spec, path)
    load_weights(net, path, key)
    return net, dict(spec), is_published


def published_spec(weights: Mapping[str, Tensor], path: str | Path) -> dict[str, Any]:
    """The published network, of those in `PUBLISHED`, whose weights have these names and shapes.

    Raises:
        CheckpointError: when it is none of them.
    """
    for spec in PUBLISHED[describe_state(weights)]:
        with torch.device("meta"):  # only names and shapes matter
            net = build_network(spec)
        if not mismatch(net, weights):
            return spec
    kinds = ", ".join(dict.fromkeys(spec["type"] for specs in PUBLISHED.values() for spec in specs))
    raise CheckpointError(
        f"{path}: carries no network_g, and its weights are of none of the published networks ({kinds}); add the "
        "network_g of its options to the file, beside params"
    )


def input_channels(spec: Mapping[str, Any]) -> int:
    """Channels of the input of a network: what its spec says, else its constructor, else 3."""
    if "in_chans" in spec:
        return int(spec["in_chans"])
    argument = inspect.signature(ARCH_REGISTRY.get(spec["type"])).parameters.get("in_chans")
    return 3 if argument is None or argument.default is inspect.Parameter.empty else int(argument.default)
