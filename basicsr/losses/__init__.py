"""Training losses. YAML specs such as `{type: L1Loss, loss_weight: 1.0}` describe them."""

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from basicsr.config.registry import LOSS_REGISTRY

if TYPE_CHECKING:
    from torch import nn


def build_loss(spec: Mapping[str, Any]) -> "nn.Module":
    """Return the loss that `spec` describes; `spec` is not changed."""
    loss = LOSS_REGISTRY.build(spec)
    logging.getLogger("basicsr").info("Loss [%s] is created.", spec["type"])
    return loss
