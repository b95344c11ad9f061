"""Networks from weight files alone: by the `network_g` that a file carries, else by the shapes of its weights."""

import inspect
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from basicsr.archs import build_network
from basicsr.archs.classic import CLASSIC, classic_spec
from basicsr.archs.image_network import ImageNetwork
from basicsr.archs.layers.atd_family import describe_state
from basicsr.config.construction import build_for_shapes
from basicsr.config.convert import convert_spec
from basicsr.config.input_form import InputForm
from basicsr.config.location import NO_LOCATION
from basicsr.config.registry import ARCH_REGISTRY
from basicsr.config.section import Component
from basicsr.engine.checkpoint import load_file, load_weights, mismatch, select_weights
from basicsr.errors import CheckpointError

SCALES = (2, 3, 4)
MAX_TYPE_CHARS = 50  # of what a file gives as the type of its network, in messages
# A constructor may need temporary tensors, and buffers that are not in files.
BYTES_PER_WEIGHT = 16
SPARE_BYTES = 1 << 28
# The networks that files without `network_g` may hold, by the result of `describe_state`.
PUBLISHED: dict[str | None, list[dict[str, Any]]] = {
    "ATD v2": [{"type": kind, "upscale": scale} for kind in ("ATD-light", "ATD") for scale in SCALES],
    "ATD v1": [{"type": kind, "upscale": scale} for kind in ("ATD-v1-light", "ATD-v1") for scale in SCALES],
    "ATD-U": [{"type": "ATD-U", "in_chans": channels} for channels in (3, 1)],
    None: [{"type": "CATANet-L", "upscale": scale} for scale in SCALES],
}


def load_network(path: str | Path, param_key: str = "params") -> nn.Module:
    """Return the network that a weight file describes by its own `network_g`, with its weights, in evaluation.

    Raises:
        CheckpointError: when the file carries no `network_g`, or its weights do not fit it.
    """
    content = load_file(path)
    if content.get("network_g") is None:
        raise CheckpointError(f"{path}: carries no network_g, so build the network first, from its YAML")
    net = build_network_for(select_weights(content, param_key, path)[1], content["network_g"], path)
    load_weights(net, path, param_key)
    return net.eval()


def read_network(path: str | Path) -> tuple[nn.Module, dict[str, Any], bool]:
    """Return the network of a weight file, on the CPU, its spec, and whether it was recognised by its weights alone.

    Its `network_g` describes it or, in a published file, the shapes of its weights. The weights are `params_ema` or,
    where the file has none, `params`. One that was trained on luma, or on normalised images, is inside an
    `ImageNetwork`.

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
    try:
        form = InputForm.of_weights(content)
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"{path}: its meta.input is damaged ({error})") from error
    if form is not None and form.to_plain():
        if form.channels != input_channels(spec):
            raise CheckpointError(f"{path}: its meta.input ({form}) does not fit the {input_channels(spec)} channels")
        net = ImageNetwork(net, form, int(spec.get("upscale", getattr(net, "upscale", 1))))
    return net, dict(spec), is_published


def build_network_for(weights: Mapping[str, Tensor], spec: Any, path: str | Path) -> nn.Module:
    """Return the network that a weight file's own `network_g` describes, after checking its sizes against the weights.

    Args:
        weights: of the file; they are not loaded.
        spec: the `network_g`, which may hold anything.
        path: of the file.

    Raises:
        CheckpointError: when `spec` describes no network, or not that of the weights.
    """
    if not isinstance(spec, Mapping) or "type" not in spec:
        raise CheckpointError(f"{path}: its network_g must be a mapping with a type, got {str(spec)[:MAX_TYPE_CHARS]}")
    max_bytes = sum(w.numel() for w in weights.values()) * BYTES_PER_WEIGHT + SPARE_BYTES
    try:
        checked = convert_spec(spec, Component(ARCH_REGISTRY), NO_LOCATION.at("network_g"))
        outline = build_for_shapes(partial(build_network, checked), max_bytes)
    except (TypeError, RuntimeError, ArithmeticError, LookupError, ValueError, MemoryError) as error:
        kind = str(spec["type"])[:MAX_TYPE_CHARS]
        raise CheckpointError(f"{path}: its network_g does not fit this version of {kind} ({error})") from error
    if problem := mismatch(outline, weights):
        raise CheckpointError(f"{path}: its weights do not fit its network_g, {checked.type}: {problem}")
    del outline
    return build_network(checked)


def published_spec(weights: Mapping[str, Tensor], path: str | Path) -> dict[str, Any]:
    """Return the spec of the network whose weights have these names and shapes.

    It is one of those in `PUBLISHED`, or of BasicSR 1.4's networks in any size.

    Raises:
        CheckpointError: when there is none.
    """
    classic = classic_spec(weights)
    for spec in [classic] if classic else PUBLISHED[describe_state(weights)]:
        if not mismatch(build_for_shapes(partial(build_network, spec)), weights):
            return spec
    kinds = ", ".join([*dict.fromkeys(spec["type"] for specs in PUBLISHED.values() for spec in specs), *CLASSIC])
    raise CheckpointError(
        f"{path}: carries no network_g, and its weights are of none of the published networks ({kinds}); add the "
        "network_g of its options to the file, next to params"
    )


def input_channels(spec: Mapping[str, Any]) -> int:
    """Return the channels of a network's input: those in its spec, else its constructor's default, else 3."""
    arguments = inspect.signature(ARCH_REGISTRY.get(spec["type"])).parameters
    for key in ("in_chans", "num_in_ch"):  # the latter in BasicSR's networks
        if key in spec:
            return int(spec[key])
        if key in arguments and arguments[key].default is not inspect.Parameter.empty:
            return int(arguments[key].default)
    return 3
