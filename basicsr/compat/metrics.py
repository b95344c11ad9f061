"""Metrics written for BasicSR 1.4: they get 8-bit BGR images, and import these functions on them."""

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from basicsr.compat.images import bgr2ycbcr, tensor2img


def adapt_metric(metric: Callable[..., Any]) -> Callable[..., Any]:
    """Return a metric that `evaluate` hands BGR images, unless it declares the `protocol` it is computed on."""
    if hasattr(metric, "protocol"):
        return metric

    @functools.wraps(metric)
    def on_bgr(*args: Any, **kwargs: Any) -> Any:
        return metric(*args, **kwargs)

    vars(on_bgr)["convert"] = tensor2img
    return on_bgr


def reorder_image(img: np.ndarray, input_order: str = "HWC") -> np.ndarray:
    """Return an image (H, W), (C, H, W) or (H, W, C) as (H, W, C).

    Raises:
        ValueError: for another order than "HWC" or "CHW".
    """
    if input_order not in ("HWC", "CHW"):
        raise ValueError(f"Wrong input_order {input_order}. Supported input_orders are 'HWC' and 'CHW'")
    if img.ndim == 2:
        return img[..., None]
    return img.transpose(1, 2, 0) if input_order == "CHW" else img


def to_y_channel(img: np.ndarray) -> np.ndarray:
    """Return the luma (H, W, 1) in [16, 235], float32, of a BGR image (H, W, 3) in [0, 255], or of a gray one."""
    image = np.asarray(img).astype(np.float32) / 255.0
    if image.ndim == 3 and image.shape[2] == 3:
        image = bgr2ycbcr(image, y_only=True)[..., None]
    return image * 255.0
