"""The form of the shared layers for exported graphs.

Inside `graph_form` the layers compute the same numbers (to rounding) by operations that ONNX Runtime, WebGPU, OpenVINO
and ExecuTorch all have: integers of 32 bits, tensors of at most four dimensions, a counting sort instead of a sort,
products and softmax instead of fused attention, one image a batch, no Python loop over a size. `runtimes/trace.py`
traces networks in it. Outside of it nothing changes.
"""

from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch
from torch import Tensor

T = TypeVar("T")


class GraphForm:
    """Settings and constants of one graph.

    Args:
        is_static: all inputs have one size, so that index plans are constants of the graph. Otherwise the graph
            computes them from the size.
        known: constants computed before, by their keys; missing ones are computed and added.
    """

    def __init__(self, is_static: bool, known: dict[Hashable, object] | None = None):
        self.is_static = is_static
        self.known = {} if known is None else known
        self._in_graph: dict[Hashable, object] = {}
        self._sorted: list[tuple[Tensor, Tensor]] = []

    def constant(self, key: Hashable, make: Callable[[], T]) -> T:
        """Return `make()`, a constant of the graph that depends only on the key."""
        if key not in self.known:
            self.known[key] = make()
        return self.known[key]  # type: ignore[return-value]

    def plan(self, key: tuple[Hashable, ...], make: Callable[[], T]) -> T:
        """Return the plan `make()`, which depends only on the key and the sizes in it.

        With final sizes it is a constant. Otherwise the graph computes it, once for each key; sizes may then be
        symbols, which are distinguished by their names.
        """
        if self.is_static:
            return self.constant(key, make)
        name = tuple(map(str, key))
        if name not in self._in_graph:
            self._in_graph[name] = make()
        return self._in_graph[name]  # type: ignore[return-value]

    def keep_places(self, order: Tensor, places: Tensor) -> None:
        """Keep the place that the counting sort gave each token."""
        self._sorted.append((order, places))

    def places_of(self, order: Tensor) -> Tensor:
        """Return the place of each token in an order of `stable_group_order`, (N,) int32."""
        return next(places for known, places in self._sorted if known is order)


_form: GraphForm | None = None


def active_form() -> GraphForm | None:
    """Return the form that the layers are exported in now; None outside of `graph_form`."""
    return _form


def at_most(limit: int, size: int) -> int:
    """Return the smaller of the two; in a graph for any size `limit`, for its inputs are at least that large."""
    return limit if _form is not None and not _form.is_static else min(limit, size)


def has_values(x: Tensor) -> bool:
    """Return whether `x` is a plain tensor with values: no subclass, not on the meta device, not in a traced graph.

    Only then may a kernel read it, and shapes depend on numbers.
    """
    return type(x) is Tensor and not x.is_meta and not torch.compiler.is_compiling()


@contextmanager
def graph_form(form: GraphForm) -> Iterator[GraphForm]:
    """Switch the layers to the form that other runtimes understand. For one thread, and evaluation."""
    global _form
    before, _form = _form, form
    form._sorted.clear()
    try:
        yield form
    finally:
        _form = before
        form._sorted.clear()


def counting_order(groups_N: Tensor, group_num: int) -> tuple[Tensor, Tensor]:
    """Sort group numbers stably by counting, in int32: many runtimes have no stable sort, but all have this.

    Args:
        groups_N: (N,) int32 in [0, group_num).

    Returns:
        The token at each place, and the place of each token, both (N,).
    """
    number = groups_N.shape[0]
    each = torch.arange(group_num, dtype=torch.int32, device=groups_N.device)
    member = (groups_N[:, None] == each).int()
    up_to_here = torch.cumsum(member, dim=0, dtype=torch.int32)  # (N, T): tokens of the group so far
    count = member.sum(dim=0, dtype=torch.int32)
    before = torch.cumsum(count, dim=0, dtype=torch.int32) - count
    places = ((up_to_here + (before - 1)) * member).sum(dim=1, dtype=torch.int32)
    token = torch.arange(number, dtype=torch.int32, device=groups_N.device)
    return torch.zeros_like(token).scatter(0, places.long(), token), places
