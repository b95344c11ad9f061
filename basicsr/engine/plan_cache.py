"""The index tensors that networks compute once for a size and keep; see `archs/layers/plans.py`."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

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


def bytes_of(plan: Any) -> int:
    """Return the bytes of the tensors of a plan."""
    return sum(leaf.untyped_storage().nbytes() for leaf in tree_leaves(plan) if isinstance(leaf, Tensor))


PLANS = PlanCache(MAX_BYTES)
