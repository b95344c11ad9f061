"""Network architectures, their shared layers, and kernels for CPU and GPU.

A file `*_arch.py` here that registers a class is all that a new network needs.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from basicsr.config.registry import ARCH_REGISTRY

if TYPE_CHECKING:
    from torch import nn


def build_network(spec: Mapping[str, Any]) -> "nn.Module":
    """Return the network that `{type: CATANet-L, upscale: 4, ...}` describes, freshly initialised."""
    return ARCH_REGISTRY.build(spec)
