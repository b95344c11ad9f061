"""Image quality scores and the validation loop.

YAML specs such as `{type: calculate_psnr, crop_border: 4, test_y_channel: true}` describe them.
"""

from collections.abc import Mapping
from typing import Any

from basicsr.config.registry import METRIC_REGISTRY

_LAZY = ("calculate_psnr", "calculate_psnr_pt", "calculate_ssim", "calculate_ssim_pt", "calculate_niqe")


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return METRIC_REGISTRY.get(name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def calculate_metric(data: Mapping[str, Any], spec: Mapping[str, Any]) -> Any:
    """Score the images in `data` (`img`, `img2`) by the metric of `spec`, with all keys of `spec` except `better`."""
    arguments = {key: value for key, value in spec.items() if key not in ("type", "better")}
    return METRIC_REGISTRY.get(spec["type"])(**data, **arguments)


def direction(spec: Mapping[str, Any]) -> str:
    """Return which scores are better, "higher" or "lower": `better` of the spec, else of the metric.

    Raises:
        ValueError: for any other value.
    """
    better = spec.get("better") or getattr(METRIC_REGISTRY.get(spec["type"]), "better", "higher")
    if better not in ("higher", "lower"):
        raise ValueError(f"better: must be 'higher' or 'lower', got {better!r}")
    return better


def protocol(spec: Mapping[str, Any]) -> str:
    """Return the images a metric is computed on: "uint8" (clamped, rounded) or "float" (raw network output)."""
    return getattr(METRIC_REGISTRY.get(spec["type"]), "protocol", "uint8")


def needs_reference(spec: Mapping[str, Any]) -> bool:
    """Return whether a metric compares an image with its ground truth; otherwise it scores the image alone."""
    return getattr(METRIC_REGISTRY.get(spec["type"]), "needs_reference", True)


def describe(spec: Mapping[str, Any], channels: int = 3, luma: bool = False) -> str:
    """Return the whole protocol as the heading of a table, such as "uint8, Y, crop 4".

    Args:
        channels: of the images; of those with one, that one is scored, with or without `test_y_channel`.
        luma: that channel is the luma, not gray.
    """
    colour = getattr(METRIC_REGISTRY.get(spec["type"]), "channel", "Y" if spec.get("test_y_channel") else "RGB")
    scored = "Y" if luma else "gray" if channels == 1 else colour
    return f"{protocol(spec)}, {scored}, crop {spec.get('crop_border', 0)}"


def both_protocols(metrics: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return `metrics` and, after each entry, its twin in the other protocol, named `<name>_uint8` or `<name>_float`.

    `calculate_x` and `calculate_x_pt` are twins. Papers print one or the other, which differ by some 0.002 dB, so a
    test run prints both. A twin that is listed already, or whose name is taken, is not added.
    """
    listed = [dict(spec) for spec in metrics.values()]
    result: dict[str, dict[str, Any]] = {}
    for name, spec in metrics.items():
        result[name] = dict(spec)
        kind = spec["type"]
        twin = {**spec, "type": kind.removesuffix("_pt") if kind.endswith("_pt") else f"{kind}_pt"}
        twin.pop("input_order", None)  # of images as arrays alone, and HWC by default
        if twin["type"] in METRIC_REGISTRY and twin not in listed:
            twin_name = f"{name}_{protocol(twin)}"
            if twin_name not in metrics:
                result[twin_name] = twin
    return result
