"""`torch.compile` for images of any size."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.fx.experimental import _config as symbolic_shapes


def compile_for_all_sizes(net: nn.Module) -> Callable[[Tensor], Tensor]:
    """Compile a network into one graph that holds for images of any size.

    A square first image would tie height to width, and the next image would be compiled again.
    """
    compiled = torch.compile(net, dynamic=True, fullgraph=True)

    def run(x: Tensor) -> Tensor:
        with symbolic_shapes.patch(use_duck_shape=False):  # type: ignore[attr-defined]
            return compiled(x)

    return run
