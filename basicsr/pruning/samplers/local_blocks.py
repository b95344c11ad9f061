"""The fixed part of N:M sampling: local blocks of neighbouring groups, and which pairs of blocks may shift groups."""

import itertools
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from basicsr.pruning.costs import Resource
from basicsr.pruning.samplers.draws import corrode, expand

GIVE, STAY, TAKE = -1, 0, 1
WAYS = (GIVE, STAY, TAKE)
"""What the first block of a pair can do; the second block does the opposite."""


class LocalBlocks:
    """Local blocks of which each keeps a fixed number of groups, and pairs of blocks that may shift groups.

    Args:
        patterns: (keep, size) of each block.
        pairs: indices of two blocks each; a block is in one pair at most.
        shift: number of groups that a pair shifts.
        min_keep: number of groups that a block keeps at least when it gives.
        force_keep, force_drop: 0-based indices of groups that every mask keeps or drops.
    """

    def __init__(
        self,
        patterns: Sequence[tuple[int, int]],
        pairs: Sequence[tuple[int, int]] = (),
        shift: int = 1,
        min_keep: int = 0,
        force_keep: Sequence[int] = (),
        force_drop: Sequence[int] = (),
    ) -> None:
        self.keeps, self.sizes = [keep for keep, _ in patterns], [size for _, size in patterns]
        self.pairs, self.shift, self.min_keep = list(pairs), shift, min_keep
        number = sum(self.sizes)
        self.kept = torch.tensor([i in force_keep for i in range(number)]).split(self.sizes)
        self.dropped = torch.tensor([i in force_drop for i in range(number)]).split(self.sizes)
        self.masks = [_block_masks(*block) for block in zip(self.keeps, self.kept, self.dropped, strict=True)]
        self.possible_ways = [[self._can_shift(j, h, way) for way in WAYS] for j, h in self.pairs]

    @property
    def single_blocks(self) -> list[int]:
        """Indices of the blocks that are in no pair, ascending."""
        return [j for j in range(len(self.sizes)) if not any(j in pair for pair in self.pairs)]

    def shifted_masks(self, masks: Sequence[Tensor], priorities: Sequence[Tensor]) -> list[Tensor]:
        """Return, for each block, its (..., size) masks after giving, unchanged, and after taking: (3, ..., size).

        Args:
            masks: one tensor a block, (..., size), 0 and 1 in value.
            priorities: one tensor a block, (size,); see `expand` and `corrode`.
        """
        stacks = []
        for j, (mask, priority) in enumerate(zip(masks, priorities, strict=True)):
            gives = corrode(mask, priority, self.shift, self.kept[j]) if self._can_give(j) else mask
            takes = expand(mask, priority, self.shift, self.dropped[j]) if self._can_take(j) else mask
            stacks.append(torch.stack([gives, mask, takes]))
        return stacks

    def draw_uniformly(self, generator: torch.Generator) -> Tensor:
        """Return an (N,) float mask, uniform over all masks that choices and shifts can lead to."""
        keeps = list(self.keeps)
        for p, (j, h) in enumerate(self.pairs):
            splits = self._splits(p)
            ways = [float(self._mask_count(j, n_j) * self._mask_count(h, n_h)) for n_j, n_h in splits]
            way = torch.multinomial(torch.tensor(ways, dtype=torch.float64), 1, generator=generator)
            keeps[j], keeps[h] = splits[int(way)]
        masks = []
        for keep, kept, dropped in zip(keeps, self.kept, self.dropped, strict=True):
            order = torch.rand(len(kept), generator=generator).masked_fill(kept, 2.0).masked_fill(dropped, -1.0)
            masks.append(torch.zeros(len(kept)).scatter(0, order.argsort(descending=True)[:keep], 1.0))
        return torch.cat(masks)

    def cost_range(self, resource: Resource) -> tuple[float, float]:
        """Return the least and the greatest cost of the masks that choices and shifts can lead to."""
        costs = torch.tensor(resource.groups, dtype=torch.float64).split(self.sizes)
        low = high = resource.fixed
        for j in self.single_blocks:
            least, most = self._block_cost_range(j, self.keeps[j], costs[j])
            low, high = low + least, high + most
        for p, (j, h) in enumerate(self.pairs):
            ranges = [
                (self._block_cost_range(j, n_j, costs[j]), self._block_cost_range(h, n_h, costs[h]))
                for n_j, n_h in self._splits(p)
            ]
            low += min(first[0] + second[0] for first, second in ranges)
            high += max(first[1] + second[1] for first, second in ranges)
        return low, high

    def places(self, order: Sequence[int]) -> list[int]:
        """Return the position of each group in a mask that has the blocks in `order`."""
        starts = dict(zip(order, itertools.accumulate((self.sizes[j] for j in order), initial=0), strict=False))
        return [starts[j] + i for j, size in enumerate(self.sizes) for i in range(size)]

    def _can_give(self, j: int) -> bool:
        return self.keeps[j] - self.shift >= max(self.min_keep, int(self.kept[j].sum()))

    def _can_take(self, j: int) -> bool:
        return self.keeps[j] + self.shift <= self.sizes[j] - int(self.dropped[j].sum())

    def _can_shift(self, j: int, h: int, way: int) -> bool:
        giver, taker = (h, j) if way == TAKE else (j, h)
        return way == STAY or (self._can_give(giver) and self._can_take(taker))

    def _splits(self, pair: int) -> list[tuple[int, int]]:
        """Return the numbers of groups that the two blocks of a pair can keep."""
        (j, h), possible = self.pairs[pair], self.possible_ways[pair]
        shifts = [way * self.shift for way, can in zip(WAYS, possible, strict=True) if can]
        return [(self.keeps[j] + shift, self.keeps[h] - shift) for shift in shifts]

    def _mask_count(self, j: int, keep: int) -> int:
        kept, dropped = int(self.kept[j].sum()), int(self.dropped[j].sum())
        return math.comb(self.sizes[j] - kept - dropped, keep - kept)

    def _block_cost_range(self, j: int, keep: int, costs: Tensor) -> tuple[float, float]:
        forced, free = costs[self.kept[j]], costs[~(self.kept[j] | self.dropped[j])].sort().values
        count, base = keep - len(forced), float(forced.sum())
        return base + float(free[:count].sum()), base + float(free[len(free) - count :].sum())


def _block_masks(keep: int, kept: Tensor, dropped: Tensor) -> Tensor:
    """Return the (rows, n) masks of `keep` of n groups that respect forced groups; kept groups (0, 1, ..) first."""
    masks = [[int(i in chosen) for i in range(len(kept))] for chosen in itertools.combinations(range(len(kept)), keep)]
    table = torch.tensor(masks).reshape(len(masks), len(kept))
    return table[(table[:, kept] == 1).all(1) & (table[:, dropped] == 0).all(1)]
