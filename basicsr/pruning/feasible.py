"""The masks that fit a budget: all maximal ones, the best one by a value for each group, the evenly spread one."""

import itertools
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from basicsr.pruning.costs import Resource, limited_resources

MAX_MASKS = 20_000  # for which a sampler has a logit each


def feasible_masks(
    number: int, resources: Sequence[Resource], force_keep: Sequence[int] = (), force_drop: Sequence[int] = ()
) -> Tensor:
    """Return all maximal masks within every limit: no further group would fit. At least one group is kept.

    Returns:
        (M, N) int64, in descending order as binary numbers whose first digit is group 0. Masks with the same number of
        groups are therefore in lexicographic order of their kept groups, (0, 1, 2) first.

    Raises:
        ValueError: when no mask fits, or more than `MAX_MASKS` do.
    """
    limited = limited_resources(resources)
    free = [i for i in range(number) if i not in force_drop]
    tails = [[sum(r.groups[j] for j in free if j >= i) for i in range(number + 1)] for r in limited]
    masks: list[list[int]] = []  # indices of their groups

    def visit(i: int, kept: list[int], dropped: list[int], costs: list[float]) -> None:
        """Decide on group `i` and all after it; `costs` are those of the groups kept before it."""
        most = [cost + tail[i] for cost, tail in zip(costs, tails, strict=True)]
        if any(all(r.fits(m + r.groups[j]) for r, m in zip(limited, most, strict=True)) for j in dropped):
            return  # not maximal: group j fits together with all groups that can follow
        if i == number:
            masks.append(kept)
            if len(masks) > MAX_MASKS:
                raise ValueError(
                    f"prune.sampler: subset needs a logit for each mask, and more than {MAX_MASKS:,} masks of {number} "
                    "groups fit the budget; use sampler nm or bernoulli"
                )
            return
        added = [cost + r.groups[i] for cost, r in zip(costs, limited, strict=True)]
        if i in free and all(r.fits(cost) for r, cost in zip(limited, added, strict=True)):
            visit(i + 1, [*kept, i], dropped, added)
        if i not in force_keep:
            visit(i + 1, kept, [*dropped, i] if i in free else dropped, costs)

    visit(0, [], [], [r.fixed for r in limited])
    if not any(masks):
        raise ValueError(infeasible_text(limited, max(1, len(force_keep)), force_keep, force_drop))
    return torch.tensor([[int(i in kept) for i in range(number)] for kept in masks])


def uniform_mask(number: int, keep: int) -> tuple[int, ...]:
    """Return a mask of `keep` groups evenly spread from the first to the last: 8, 3 keeps groups 0, 4 and 7.

    Raises:
        ValueError: when `keep` is not in 1 .. `number`.
    """
    if not 1 <= keep <= number:
        raise ValueError(f"keep: must be in 1..{number}, got {keep}")
    step = (number - 1) / (keep - 1) if keep > 1 else 0.0
    kept = {int(j * step + 0.5) for j in range(keep)}
    return tuple(int(i in kept) for i in range(number))


def best_mask(
    values: Sequence[float],
    resources: Sequence[Resource],
    force_keep: Sequence[int] = (),
    force_drop: Sequence[int] = (),
) -> tuple[int, ...] | None:
    """Return the mask of `feasible_masks` with the largest sum of values, exact for any number of groups.

    None when no mask fits.
    """
    limited, number = limited_resources(resources), len(values)
    found = None
    costs = [r.total([int(i in force_keep) for i in range(number)]) for r in limited]
    if all(r.fits(cost) for r, cost in zip(limited, costs, strict=True)):
        free = [i for i in range(number) if i not in force_keep and i not in force_drop]
        search = _BranchAndBound(values, limited, free)
        search.visit(0, [], costs, 0.0)
        found = search.best
    if found is None or not (found or force_keep):
        return None
    return tuple(int(i in found or i in force_keep) for i in range(number))


class _BranchAndBound:
    """Search for the best maximal set of groups, over the groups in descending order of value.

    A branch ends when even the best groups of the counts that can still follow (from the fewest that leave no room to
    the most that fit) do not beat the best set so far.

    Args:
        values: of all groups.
        limited: resources with a limit.
        free: indices of the groups that are not forced.
    """

    def __init__(self, values: Sequence[float], limited: Sequence[Resource], free: Sequence[int]) -> None:
        self.values, self.limited = values, limited
        self.order = sorted(free, key=lambda i: -values[i])
        depths = range(len(self.order) + 1)
        self.tails = [[sorted(r.groups[i] for i in self.order[depth:]) for depth in depths] for r in limited]
        self.best_value = -math.inf
        self.best: list[int] | None = None

    def visit(self, depth: int, kept: list[int], costs: Sequence[float], value: float) -> None:
        """Decide on `order[depth]` and all after it, with `kept` of those before it, of total `value`."""
        rest, dropped = self.order[depth:], [i for i in self.order[:depth] if i not in kept]
        totals = [cost + sum(tail[depth]) for cost, tail in zip(costs, self.tails, strict=True)]
        if any(all(r.fits(t + r.groups[i]) for r, t in zip(self.limited, totals, strict=True)) for i in dropped):
            return  # not maximal: group i fits together with all groups that can follow
        fewest, most = self._counts(depth, costs, dropped)
        count = min(max(fewest, sum(self.values[i] > 0 for i in rest)), most)
        if fewest > most or value + sum(self.values[i] for i in rest[:count]) <= self.best_value:
            return
        if not rest:
            self.best_value, self.best = value, kept
            return
        i = rest[0]
        added = [cost + r.groups[i] for cost, r in zip(costs, self.limited, strict=True)]
        if all(r.fits(cost) for r, cost in zip(self.limited, added, strict=True)):
            self.visit(depth + 1, [*kept, i], added, value + self.values[i])
        self.visit(depth + 1, kept, costs, value)

    def _counts(self, depth: int, costs: Sequence[float], dropped: Sequence[int]) -> tuple[int, int]:
        """Return the fewest and the most groups that can follow."""
        fewest = most = len(self.order) - depth
        for r, cost, tail in zip(self.limited, costs, self.tails, strict=True):
            sums = itertools.accumulate(tail[depth], initial=cost)
            most = min(most, sum(r.fits(total) for total in sums) - 1)
            largest = max([r.groups[i] for i in dropped] + tail[depth][-1:], default=0.0)
            sums = itertools.accumulate(reversed(tail[depth]), initial=cost)
            fewest = min(fewest, next((n for n, total in enumerate(sums) if not r.fits(total + largest)), fewest))
        return fewest, most


def infeasible_text(
    limited: Sequence[Resource], count: int, force_keep: Sequence[int] = (), force_drop: Sequence[int] = ()
) -> str:
    """Return the error message for `count` groups that do not fit: the least cost and the limit of each resource."""
    blocks = f"{count} block{'s' if count > 1 else ''}"
    needs = [
        f"budget.{r.name}: {r.text(r.minimum(count, force_keep, force_drop))} needed for {blocks}"
        f"{' and the fixed part' if r.fixed else ''}, {r.text(r.limit or 0)} allowed"
        for r in limited
    ]
    forced = f" with prune.force_keep {list(force_keep)}" if force_keep else ""
    return f"budget: no mask{forced} fits all limits; {'; '.join(needs)}; raise the limits that are too low"
