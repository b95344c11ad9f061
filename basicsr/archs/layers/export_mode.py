"""The form of the shared layers that other runtimes can take, and a hand on the groups that a network chooses.

Inside `graph_form` the layers of `layers.py` and `gathered_attention.py` give the same numbers (to rounding) in
operations that ONNX Runtime, WebGPU, OpenVINO and ExecuTorch all have: integers of 32 bits, tensors of at most four
dimensions, a counting sort in place of a sort, products and softmax in place of fused attention, one image a batch, no
Python loop over a size. `basicsr/export.py` traces networks in it. Outside of it nothing changes.
"""

from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

import torch
from torch import Tensor

T = TypeVar("T")


class GraphForm:
    """What the layers ask while the form is on.

    Args:
        is_static: the size of the input is final, so that index plans are constants of the graph. Otherwise they are
            computed in it from the size.
        known: constants computed before, by their keys; what is missing is computed and added.
    """

    def __init__(self, is_static: bool, known: dict[Hashable, object] | None = None):
        self.is_static = is_static
        self.known = {} if known is None else known
        self._in_graph: dict[Hashable, object] = {}
        self._sorted: list[tuple[Tensor, Tensor]] = []

    def constant(self, key: Hashable, make: Callable[[], T]) -> T:
        """Return what `make` returns, which depends on nothing but the key: a plan, see `plans.py`."""
        if key not in self.known:
            self.known[key] = make()
        return self.known[key]  # type: ignore[return-value]

    def plan(self, key: tuple[Hashable, ...], make: Callable[[], T]) -> T:
        """Return what `make` returns, which depends on the key and the sizes in it.

        A constant where sizes are final. Otherwise it is computed in the graph, once for all who ask; sizes may then be
        symbols, which are told apart by their names.
        """
        if self.is_static:
            return self.constant(key, make)
        name = tuple(map(str, key))
        if name not in self._in_graph:
            self._in_graph[name] = make()
        return self._in_graph[name]  # type: ignore[return-value]

    def keep_places(self, order: Tensor, places: Tensor) -> None:
        """Remember where the counting sort has put each token."""
        self._sorted.append((order, places))

    def places_of(self, order: Tensor) -> Tensor:
        """The place of each token in an order of `stable_group_order`, (N,) int32."""
        return next(places for known, places in self._sorted if known is order)


class Groups:
    """The groups that a network chooses for its tokens, call after call; see `group_choices`."""

    def __init__(self, forced: Sequence[Tensor] | None):
        self.forced = forced
        self.chosen: list[Tensor] = []
        self.gaps: list[Tensor] = []


_form: GraphForm | None = None
_groups: Groups | None = None


def active_form() -> GraphForm | None:
    """The form that layers are to take now; None: their own."""
    return _form


def at_most(limit: int, size: int) -> int:
    """The smaller of the two; in a graph for any size `limit`, for whoever traces it promises inputs so large."""
    return limit if _form is not None and not _form.is_static else min(limit, size)


@contextmanager
def graph_form(form: GraphForm) -> Iterator[GraphForm]:
    """Let the layers take the form that other runtimes understand. For one thread, and evaluation."""
    global _form
    before, _form = _form, form
    form._sorted.clear()
    try:
        yield form
    finally:
        _form = before
        form._sorted.clear()


@contextmanager
def group_choices(forced: Sequence[Tensor] | None = None) -> Iterator[Groups]:
    """Record which groups a network chooses for its tokens, and say which ones it is to take.

    Args:
        forced: for each choice in the order of the forward pass the groups (B, N) to take; None: the network's own.

    Yields:
        `chosen`: the network's own groups, and with `forced` also `gaps`: by how much the score of each token's own
        group exceeds that of the forced one, (B, N).
    """
    global _groups
    before, _groups = _groups, Groups(forced)
    try:
        yield _groups
    finally:
        _groups = before


def groups_are_watched() -> bool:
    """Return whether `group_choices` records or prescribes groups now, for which scores are needed."""
    return _groups is not None


def settled(groups_BN: Tensor, scores: Callable[[], Tensor]) -> Tensor:
    """The groups to take: the network's own `groups_BN`, or those that `group_choices` prescribes.

    Args:
        scores: gives the (B, N, T) scores of which the groups are the largest.
    """
    if _groups is None:
        return groups_BN
    _groups.chosen.append(groups_BN)
    if _groups.forced is None:
        return groups_BN
    forced = _groups.forced[len(_groups.chosen) - 1].to(groups_BN).view_as(groups_BN)
    both = scores().gather(-1, torch.stack([groups_BN, forced], dim=-1).long())
    _groups.gaps.append(both[..., 0] - both[..., 1])
    return forced


def counting_order(groups_N: Tensor, group_num: int) -> tuple[Tensor, Tensor]:
    """A stable sort of group numbers from counts, in int32: no runtime lacks it, as many lack a stable sort.

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
