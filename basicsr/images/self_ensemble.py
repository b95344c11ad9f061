"""Self-ensemble: the mean output of a network over the flips and rotations of its input."""

from collections.abc import Callable

import torch
from torch import Tensor


def self_ensemble(net: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Return the mean of the outputs over the 8 flips and rotations of the input, each turned back.

    Args:
        net: maps images (B, C, h, w) to images (B, C', s*h, s*w).
        x: images (B, C, h, w).

    Source: EDSR, CVPRW 2017, Sec. 3.3.
    """
    outputs = []
    for turns in range(4):
        for flip in (False, True):
            turned = torch.rot90(x.flip(-1) if flip else x, turns, (-2, -1))
            y = torch.rot90(net(turned), -turns, (-2, -1))
            outputs.append(y.flip(-1) if flip else y)
    return torch.stack(outputs).mean(dim=0)
