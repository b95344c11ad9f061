"""Differentiable draws: Gumbel noise, the straight-through choice, and adding or dropping groups of a drawn mask."""

import math

import torch
from torch import Tensor
from torch.nn import functional as F


def gumbel_noise(like: Tensor, generator: torch.Generator) -> Tensor:
    """Return standard Gumbel noise of the shape and type of `like`, drawn in float32 for every type."""
    u = torch.rand(like.shape, generator=generator).clamp_min(1e-9)  # torch.rand is always below 1
    return -(-u.log()).log().to(like.dtype)


def straight_through(scores: Tensor, tau: float) -> Tensor:
    """Return the one-hot choice of the largest score, with the gradient of softmax(scores / tau)."""
    soft = (scores / tau).softmax(-1)
    hard = F.one_hot(scores.argmax(-1), scores.shape[-1]).to(soft)
    return hard + (soft - soft.detach())  # the parentheses keep the value exactly 0 or 1


def expand(mask: Tensor, priority: Tensor, count: int, excluded: Tensor) -> Tensor:
    """Return `mask` with the `count` inactive groups of highest priority added; ties go to the lower index.

    Args:
        excluded: groups that are never added, bool.

    Shape:
        mask: (..., n), 0 and 1 in value. priority, excluded: (n,). output: as `mask`, with its gradient.
    """
    candidates = priority.expand(mask.shape).masked_fill((mask.detach() > 0.5) | excluded, -math.inf)
    chosen = candidates.sort(stable=True, dim=-1, descending=True).indices[..., :count]
    added = torch.zeros_like(mask).scatter(-1, chosen, 1.0)
    return mask + added - mask * added


def corrode(mask: Tensor, priority: Tensor, count: int, protected: Tensor) -> Tensor:
    """Return `mask` without the `count` active groups of lowest priority; of equal ones the lower index is dropped.

    Args:
        protected: groups that are never dropped, bool.

    Shape:
        As in `expand`.
    """
    candidates = priority.expand(mask.shape).masked_fill((mask.detach() < 0.5) | protected, math.inf)
    chosen = candidates.sort(stable=True, dim=-1).indices[..., :count]
    return mask * (1 - torch.zeros_like(mask).scatter(-1, chosen, 1.0))
