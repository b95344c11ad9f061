"""Hook to record or override the token groups that a network chooses.

Tests and exporters compare two runs of a network with it: rounding may move a token to another group, and then
everything after it differs.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor


class GroupRecord:
    """The token groups of a forward pass, choice after choice; see `group_choices`."""

    def __init__(self, forced: Sequence[Tensor] | None):
        self.forced = forced
        self.chosen: list[Tensor] = []
        self.gaps: list[Tensor] = []


_record: GroupRecord | None = None


@contextmanager
def group_choices(forced: Sequence[Tensor] | None = None) -> Iterator[GroupRecord]:
    """Record the groups that a network chooses for its tokens, or override them.

    Args:
        forced: groups (B, N) to take instead, one tensor for each choice in the forward pass; None: the network's own.

    Yields:
        `chosen`: the network's own groups, and with `forced` also `gaps`: the score of each token's own group minus
        that of the forced one, (B, N).
    """
    global _record
    before, _record = _record, GroupRecord(forced)
    try:
        yield _record
    finally:
        _record = before


def groups_are_watched() -> bool:
    """Return whether `group_choices` is active, which needs scores."""
    return _record is not None


def recorded_groups(groups_BN: Tensor, scores: Callable[[], Tensor]) -> Tensor:
    """Return the groups to take: the network's own `groups_BN`, or those that `group_choices` forces.

    Args:
        scores: returns the (B, N, T) scores whose largest are the groups; called only when groups are forced.
    """
    if _record is None:
        return groups_BN
    _record.chosen.append(groups_BN)
    if _record.forced is None:
        return groups_BN
    forced = _record.forced[len(_record.chosen) - 1].to(groups_BN).view_as(groups_BN)
    both = scores().gather(-1, torch.stack([groups_BN, forced], dim=-1).long())
    _record.gaps.append(both[..., 0] - both[..., 1])
    return forced
