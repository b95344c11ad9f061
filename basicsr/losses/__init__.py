"""Training losses. YAML specs such as `{type: L1Loss, loss_weight: 1.0}` describe them."""

import importlib
import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from basicsr.config.registry import LOSS_REGISTRY

if TYPE_CHECKING:
    from torch import nn


_GAN_FUNCTIONS = ("g_path_regularize", "gradient_penalty_loss", "r1_penalty")


def __getattr__(name: str) -> Any:
    """Return a function of `gan_loss`, which BasicSR 1.4 has here; looked up on access, since it imports PyTorch."""
    if name in _GAN_FUNCTIONS:
        return getattr(importlib.import_module("basicsr.losses.gan_loss"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def build_loss(spec: Mapping[str, Any]) -> "nn.Module":
    """Return the loss that `spec` describes; `spec` is not changed."""
    loss = LOSS_REGISTRY.build(spec)
    logging.getLogger("basicsr").info("Loss [%s] is created.", spec["type"])
    return loss
