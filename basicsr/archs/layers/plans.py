"""Geometry that depends on sizes alone: index tensors that are made once for a size and kept.

A plan is a tensor, a number, or a tuple of plans: the rows of the windows of a map, the slots that are added up where
patches overlap, a mirrored sequence. `planned` returns it from a bounded cache, so that a forward pass launches nothing
but the network's own arithmetic, and nothing waits for the device. A plan must never be written to.

The same functions make plans for eager networks, compiled graphs and exported ones. Where a size is a symbol
(`torch.compile` and exports for any size), they run inside the graph; exports for one size take plans as constants.
"""

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from basicsr.archs.layers.export_mode import active_form, has_values
from basicsr.engine.plan_cache import PLANS

T = TypeVar("T")


def planned(make: Callable[..., T], *sizes: int, like: Tensor) -> T:
    """Return `make(*sizes, device)`, kept from the first call on.

    Args:
        make: a function of the module level; must depend on nothing but its arguments.
        sizes: numbers, or symbols where a graph is traced for any size.
        like: a tensor that is computed with the plan; it gives the device.
    """
    form = active_form()
    if form is not None:
        return form.plan((make.__module__, make.__qualname__, *sizes), lambda: make(*sizes, like.device))
    if not has_values(like):
        return make(*sizes, like.device)

    def on_device() -> T:  # made on the CPU, so that shapes may depend on values without stalling a GPU
        return tree_map(lambda x: x.to(like.device) if isinstance(x, Tensor) else x, make(*sizes, torch.device("cpu")))

    return PLANS.get((make, sizes, like.device), on_device)
