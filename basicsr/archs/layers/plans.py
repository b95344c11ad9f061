"""Geometry that depends on sizes alone: index tensors that are made once for a size and kept.

A plan is a tensor, a number, or a tuple of plans: the rows of the windows of a map, which values are added up where
patches overlap, a mirrored sequence. `planned` returns it from a bounded cache, so that a forward pass launches nothing
but the network's own arithmetic, and nothing waits for the device. A plan must never be written to.

The same functions make plans for eager networks, compiled graphs and exported ones. Where a size is a symbol
(`torch.compile` and exports for any size), they run inside the graph; exports for one size take plans as constants.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

from basicsr.archs.layers.export_mode import active_form, has_values

T = TypeVar("T")
MAX_BYTES = 512 * 2**20  # of all kept plans; those of CATANet-L take 73 MiB for an image of 960x540 px


class PlanCache:
    """The plans used last, up to a number of bytes; the newest is kept whatever it takes. Safe to share by threads.

    Args:
        max_bytes: of the tensors of all plans.
    """

    def __init__(self, max_bytes: int):
        self.max_bytes = max_bytes
        self.bytes = 0
        self._plans: OrderedDict[Hashable, Any] = OrderedDict()
        self._lock = threading.RLock()  # a plan may be made from other plans
        self._recorders: list[dict[Hashable, Any]] = []

    def __len__(self) -> int:
        return len(self._plans)

    def get(self, key: Hashable, make: Callable[[], T]) -> T:
        """Return the plan of this key, made by `make` where it is not known."""
        with self._lock:
            known = next((kept for kept in (self._plans, *self._recorders) if key in kept), None)
            if known is None:
                with torch.inference_mode(False), torch.no_grad():  # training may take what a test has made
                    plan = make()
                self._plans[key] = plan
                self.bytes += bytes_of(plan)
            else:
                plan = known[key]
            if key in self._plans:
                self._plans.move_to_end(key)
            for recorder in self._recorders:
                recorder[key] = plan
            while self.bytes > self.max_bytes and len(self._plans) > 1:
                self.bytes -= bytes_of(self._plans.popitem(last=False)[1])
        return plan

    @contextmanager
    def recorded(self) -> Iterator[dict[Hashable, Any]]:
        """Collect the plans that the body takes. A CUDA graph must keep them, for it knows nothing but addresses."""
        taken: dict[Hashable, Any] = {}
        self._recorders.append(taken)
        try:
            yield taken
        finally:
            self._recorders = [other for other in self._recorders if other is not taken]


PLANS = PlanCache(MAX_BYTES)


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


def bytes_of(plan: Any) -> int:
    """Return the bytes of the tensors of a plan."""
    return sum(leaf.untyped_storage().nbytes() for leaf in tree_leaves(plan) if isinstance(leaf, Tensor))
