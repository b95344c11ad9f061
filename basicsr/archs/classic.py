"""The specs of the networks of BasicSR 1.4 from their weights alone, whose sizes can be read from the shapes."""

import math
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

Weights = Mapping[str, Tensor]
CLASSIC = ("RRDBNet", "SRVGGNetCompact", "MSRResNet", "EDSR", "SwinIR")
_BIAS = "layers.0.residual_group.blocks.0.attn.relative_position_bias_table"
JPEG_WINDOW = 7  # px; SwinIR's networks for JPEG artefacts are the only ones with it, and have an img_range of 255
LARGE_EDSR = 256  # channels, from which on EDSR's paper scales residual branches by 0.1; weights do not tell


def classic_spec(weights: Weights) -> dict[str, Any] | None:
    """Return the `network_g` of published weights of BasicSR 1.4's networks; None for others.

    The caller compares all shapes: a spec is a proposal.
    """
    for key, describe in _KINDS.items():
        if key in weights:
            try:
                return describe(weights)
            except (KeyError, IndexError, ValueError, ZeroDivisionError):
                return None
    return None


def _rrdbnet(weights: Weights) -> dict[str, Any]:
    feat, channels = weights["conv_first.weight"].shape[:2]
    out = len(weights["conv_last.weight"])
    unit = math.isqrt(channels // out)  # of the pixel-unshuffle in front
    return {
        "type": "RRDBNet",
        "num_in_ch": channels // unit**2,
        "num_out_ch": out,
        "scale": 4 // unit,
        "num_feat": feat,
        "num_block": _count(weights, "body."),
        "num_grow_ch": len(weights["body.0.rdb1.conv1.weight"]),
    }


def _srvgg(weights: Weights) -> dict[str, Any]:
    convs = [value for key, value in weights.items() if key.endswith(".weight") and value.ndim == 4]
    feat, channels = convs[0].shape[:2]
    if weights["body.1.weight"].ndim != 1:  # other activations have no weights, so that files do not tell them apart
        raise ValueError("not prelu")
    return {
        "type": "SRVGGNetCompact",
        "num_in_ch": channels,
        "num_out_ch": channels,
        "num_feat": feat,
        "num_conv": len(convs) - 2,
        "upscale": math.isqrt(len(convs[-1]) // channels),
        "act_type": "prelu",
    }


def _edsr(weights: Weights) -> dict[str, Any]:
    feat, channels = weights["conv_first.weight"].shape[:2]
    steps = [v for k, v in weights.items() if k.startswith("upsample.") and k.endswith(".weight")]
    return {
        "type": "EDSR",
        "num_in_ch": channels,
        "num_out_ch": len(weights["conv_last.weight"]),
        "num_feat": feat,
        "num_block": _count(weights, "body."),
        "upscale": math.prod(math.isqrt(len(step) // feat) for step in steps),
        "res_scale": 0.1 if feat >= LARGE_EDSR else 1.0,
    }


def _msrresnet(weights: Weights) -> dict[str, Any]:
    feat, channels = weights["conv_first.weight"].shape[:2]
    step = math.isqrt(len(weights["upconv1.weight"]) // feat)
    return {
        "type": "MSRResNet",
        "num_in_ch": channels,
        "num_out_ch": channels,
        "num_feat": feat,
        "num_block": _count(weights, "body."),
        "upscale": 4 if "upconv2.weight" in weights else step,
    }


def _swinir(weights: Weights) -> dict[str, Any]:
    dim, channels = weights["conv_first.weight"].shape[:2]
    block = "layers.{}.residual_group."
    groups = range(_count(weights, "layers."))
    rows = len(weights[_BIAS])
    window = (math.isqrt(rows) + 1) // 2
    steps = [v for k, v in weights.items() if k.startswith("upsample.") and k.endswith(".weight")]
    upscale, upsampler = 1, ""
    if "conv_up1.weight" in weights:
        upscale, upsampler = 4, "nearest+conv"
    elif "conv_before_upsample.0.weight" in weights:
        upscale, upsampler = math.prod(math.isqrt(len(v) // v.shape[1]) for v in steps), "pixelshuffle"
    elif steps:
        upscale, upsampler = math.isqrt(len(steps[0]) // channels), "pixelshuffledirect"
    mask = next((len(v) for k, v in weights.items() if k.endswith(".attn_mask")), 4)
    return {
        "type": "SwinIR",
        "img_size": math.isqrt(mask) * window,
        "in_chans": channels,
        "embed_dim": dim,
        "depths": [_count(weights, block.format(i) + "blocks.") for i in groups],
        "num_heads": [weights[_BIAS.replace("layers.0", f"layers.{i}")].shape[1] for i in groups],
        "window_size": window,
        "mlp_ratio": len(weights["layers.0.residual_group.blocks.0.mlp.fc1.weight"]) / dim,
        "upscale": upscale,
        "upsampler": upsampler,
        "img_range": 255.0 if not upsampler and window == JPEG_WINDOW else 1.0,
        "resi_connection": "3conv" if "layers.0.conv.0.weight" in weights else "1conv",
    }


# A name that only this network's weights have -> its spec from them. EDSR comes last: others have its names, too.
_KINDS: dict[str, Callable[[Weights], dict[str, Any]]] = {
    "body.0.rdb1.conv1.weight": _rrdbnet,
    _BIAS: _swinir,
    "upconv1.weight": _msrresnet,
    "body.0.weight": _srvgg,
    "body.0.conv1.weight": _edsr,
}


def _count(weights: Weights, prefix: str) -> int:
    """Return the number of modules in the list `prefix`."""
    return len({key.removeprefix(prefix).split(".")[0] for key in weights if key.startswith(prefix)})
