"""Binary masks over the residual groups of a network, drawn from a distribution that learns which groups stay.

A mask of N groups is N numbers: 1 keeps a group, 0 drops it. A sampler draws masks with a straight-through gradient to
its logits, its only parameters. A draw depends only on the seed, the iteration and the logits: the noise comes from a
separate generator on the CPU, so all devices, processes and resumed runs draw the same masks.

Source: TinyFusion (arXiv 2412.01199), TinySR (arXiv 2508.17434).
"""

import logging
from collections.abc import Sequence
from typing import Any, Literal

from basicsr.config.pruning import PruneOptions
from basicsr.pruning.costs import Resource, limited_resources
from basicsr.pruning.feasible import feasible_masks
from basicsr.pruning.samplers.base import Mask, MaskSampler, Ranking
from basicsr.pruning.samplers.bernoulli import BernoulliSampler
from basicsr.pruning.samplers.checks import (
    check_forced,
    check_reachable,
    checked_fixed_mask,
    checked_pairs,
    checked_patterns,
)
from basicsr.pruning.samplers.fixed import FixedSampler
from basicsr.pruning.samplers.n_of_m import NMSampler
from basicsr.pruning.samplers.subset import SubsetSampler

__all__ = [
    "BernoulliSampler",
    "FixedSampler",
    "Mask",
    "MaskSampler",
    "NMSampler",
    "Ranking",
    "SubsetSampler",
    "build_sampler",
]

logger = logging.getLogger("basicsr")


def build_sampler(
    prune: PruneOptions, number: int, resources: Sequence[Resource], mode: Literal["hard", "loss"] = "hard"
) -> MaskSampler:
    """Return the sampler that `prune` describes, for a network of `number` groups.

    Args:
        prune: section `prune` of the options.
        number: groups of the network.
        resources: costs of the groups, with or without limits.
        mode: hard: reject patterns (nm) that reach masks beyond the budget. `subset` and `fixed` always stay within
            it, `bernoulli` only in its decision.

    Raises:
        ValueError: when the options do not fit the network or each other, or no mask fits the budget.
    """
    keep, drop = prune.force_keep, prune.force_drop
    common: dict[str, Any] = {"seed": prune.mask_seed, "scale": prune.logit_scale}
    check_forced(number, keep, drop)
    searches = prune.sampler in ("subset", "bernoulli")  # the others drop groups without a budget
    if all(r.fits(r.full) for r in resources) and (searches or limited_resources(resources)):
        logger.warning("budget: the full network fits, so there is nothing to prune; lower a limit")
    if prune.sampler == "fixed":
        return FixedSampler(checked_fixed_mask(prune, number, resources))
    if prune.sampler == "bernoulli":
        return BernoulliSampler(number, resources, force_keep=keep, force_drop=drop, **common)
    if prune.sampler == "subset":
        masks = feasible_masks(number, resources, keep, drop)
        return SubsetSampler(masks, init=prune.logit_init, per_block=prune.logits == "per_block", **common)
    sampler = NMSampler(
        checked_patterns(prune, number, resources),
        init=prune.logit_init,
        pairs=checked_pairs(prune),
        shift=prune.inter_block.k,
        min_keep=prune.min_keep_per_block,
        force_keep=keep,
        force_drop=drop,
        **common,
    )
    check_reachable(sampler.blocks, prune, resources, mode)
    return sampler
