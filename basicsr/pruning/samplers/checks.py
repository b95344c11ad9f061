"""Checks of the options of mask samplers against the network and the budget; errors name the key of `prune`."""

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from basicsr.config.pruning import PruneOptions
from basicsr.pruning.costs import Resource, limited_resources
from basicsr.pruning.feasible import MAX_MASKS
from basicsr.pruning.samplers.local_blocks import LocalBlocks


def check_forced(number: int, force_keep: Sequence[int], force_drop: Sequence[int]) -> None:
    """Check that forced groups exist and are forced one way only.

    Raises:
        ValueError: naming the key and the groups.
    """
    for key, groups in (("force_keep", force_keep), ("force_drop", force_drop)):
        if wrong := [i for i in groups if not 0 <= i < number]:
            raise ValueError(f"prune.{key}: the network has groups 0..{number - 1}, got {wrong}")
        if len(set(groups)) < len(groups):
            raise ValueError(f"prune.{key}: names a group twice, got {list(groups)}")
    if both := sorted(set(force_keep) & set(force_drop)):
        raise ValueError(f"prune.force_keep: groups {both} are in prune.force_drop too; keep them in one")
    if len(force_drop) == number:
        raise ValueError(f"prune.force_drop: drops all {number} groups; leave at least one")


def checked_patterns(prune: PruneOptions, number: int, resources: Sequence[Resource]) -> list[tuple[int, int]]:
    """Return `prune.patterns` as (keep, size) of each local block.

    Raises:
        ValueError: when they do not fit the network, the budget or the forced groups.
    """
    patterns = [(keep, size) for keep, size in prune.patterns or []]
    text = f"prune.patterns: {[list(pattern) for pattern in patterns]}"
    total, sizes = sum(keep for keep, _ in patterns), sum(size for _, size in patterns)
    if wrong := [[keep, size] for keep, size in patterns if not 0 <= keep <= size or size < 1]:
        raise ValueError(f"{text} must be [keep, size] with 0 <= keep <= size, got {wrong}")
    if sizes != number:
        raise ValueError(f"{text} has sizes that add up to {sizes}, but the network has {number} groups")
    if not total:
        raise ValueError(f"{text} keeps none of {number} groups; keep at least one")
    blocks = next((r.limit for r in resources if r.name == "blocks"), None)
    if blocks not in (None, total):
        raise ValueError(f"{text} keeps {total} of {number} groups, but budget.blocks is {blocks:.0f}; make them equal")
    start = 0
    for keep, size in patterns:
        _check_block(prune, text, keep, range(start, start := start + size))
    return patterns


def _check_block(prune: PruneOptions, text: str, keep: int, block: range) -> None:
    kept, dropped = [i for i in prune.force_keep if i in block], [i for i in prune.force_drop if i in block]
    keeps = f"{text} keeps {keep} of groups {block[0]}..{block[-1]}"
    if len(kept) > keep or len(block) - len(dropped) < keep:
        raise ValueError(f"{keeps}, which prune.force_keep {kept} and prune.force_drop {dropped} do not allow")
    if keep < prune.min_keep_per_block:
        raise ValueError(f"{keeps}, but prune.min_keep_per_block is {prune.min_keep_per_block}")
    if math.comb(len(block), keep) > MAX_MASKS:
        raise ValueError(
            f"{text} has over {MAX_MASKS:,} masks for [{keep}, {len(block)}]; make the local blocks smaller"
        )


def checked_pairs(prune: PruneOptions) -> list[tuple[int, int]]:
    """Return `prune.inter_block.pairs` as indices of local blocks.

    Raises:
        ValueError: when a block does not exist or is in two pairs.
    """
    blocks, pairs = len(prune.patterns or []), prune.inter_block.pairs
    if not prune.inter_block.enable:
        return []
    if pairs == "chain":
        return [(j, j + 1) for j in range(0, blocks - 1, 2)]
    named = [j for pair in pairs for j in pair]
    if any(not 0 <= j < blocks for j in named) or len(set(named)) < len(named):
        raise ValueError(
            f"prune.inter_block.pairs: must name local blocks 0..{blocks - 1}, each in one pair at most, got "
            f"{[list(pair) for pair in pairs]}"
        )
    return [(j, h) for j, h in pairs]


def check_reachable(
    blocks: LocalBlocks, prune: PruneOptions, resources: Sequence[Resource], mode: Literal["hard", "loss"]
) -> None:
    """Check that all masks of local blocks (mode "loss": at least one) are within the budget.

    Raises:
        ValueError: naming the resources and what they need.
    """
    ranges = [(r, *blocks.cost_range(r)) for r in limited_resources(resources)]
    over = [(r, low) for r, low, _ in ranges if not r.fits(low)]
    suggestion = "choose patterns that keep fewer groups, or raise the limit"
    if not over and mode == "hard":
        over = [(r, high) for r, _, high in ranges if not r.fits(high)]
        suggestion = "some masks do; choose other patterns, raise the limit, or set budget.mode: loss"
    if over:
        costs = "; ".join(f"budget.{r.name}: {r.text(c)} needed, {r.text(r.limit or 0)} allowed" for r, c in over)
        patterns = [list(pattern) for pattern in prune.patterns or []]
        raise ValueError(f"prune.patterns: {patterns} exceeds the budget; {costs}; {suggestion}")


def checked_fixed_mask(prune: PruneOptions, number: int, resources: Sequence[Resource]) -> Tensor:
    """Return `prune.fixed_mask` as an (N,) tensor.

    Raises:
        ValueError: when it does not fit the network, the budget or the forced groups.
    """
    mask = prune.fixed_mask or []
    if len(mask) != number:
        raise ValueError(f"prune.fixed_mask: the network has {number} groups, got {len(mask)} numbers, {mask}")
    if set(mask) - {0, 1}:
        raise ValueError(f"prune.fixed_mask: must be {number} numbers 0 or 1, got {mask}")
    if not any(mask):
        raise ValueError(f"prune.fixed_mask: drops all {number} groups, got {mask}; keep at least one")
    if wrong := [i for i in prune.force_keep if not mask[i]] + [i for i in prune.force_drop if mask[i]]:
        raise ValueError(f"prune.fixed_mask: contradicts prune.force_keep or prune.force_drop at groups {wrong}")
    over = [r for r in limited_resources(resources) if not r.fits(r.total(mask))]
    if over:
        costs = "; ".join(f"budget.{r.name}: {r.text(r.total(mask))}, {r.text(r.limit or 0)} allowed" for r in over)
        raise ValueError(f"prune.fixed_mask: {mask} exceeds the budget; {costs}")
    return torch.tensor(mask)
