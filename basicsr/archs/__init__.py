"""Network architectures. A file `*_arch.py` here that registers a class is all a new network needs."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from basicsr.utils.registry import ARCH_REGISTRY

if TYPE_CHECKING:
    from torch import nn


def build_network(spec: Mapping[str, Any]) -> "nn.Module":
    """The network that `{type: CATANet-L, upscale: 4, ...}` describes, freshly initialised."""
    return ARCH_REGISTRY.build(spec)
