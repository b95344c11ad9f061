"""An independent logit for each group: binary concrete, with a decision by an exact knapsack."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from basicsr.pruning.costs import Resource, limited_resources
from basicsr.pruning.feasible import best_mask, feasible_masks, infeasible_text
from basicsr.pruning.samplers.base import MAX_LOGIT, MaskSampler, Ranking

MAX_ENUMERATED_GROUPS = 16  # up to here all feasible masks are listed; at most 12,870 of them are maximal


class BernoulliSampler(MaskSampler):
    """Sampler that draws each group on its own. The number of kept groups is random, so it needs `budget_loss`.

    At first every group stays with probability K/N, where K is the largest number of groups that fits the tightest
    budget. The decision is the best mask of `feasible_masks`.

    Source: Maddison et al. (arXiv 1611.00712), Jang et al. (arXiv 1611.01144).
    """

    def __init__(
        self,
        number: int,
        resources: Sequence[Resource],
        *,
        seed: int,
        scale: float = 1.0,
        force_keep: Sequence[int] = (),
        force_drop: Sequence[int] = (),
    ) -> None:
        super().__init__(torch.eye(number), seed=seed, scale=scale)
        self.resources = limited_resources(resources)
        self.force_keep, self.force_drop = list(force_keep), list(force_drop)
        self._kept = torch.tensor([i in force_keep for i in range(number)])
        self._free = torch.tensor([i not in force_keep and i not in force_drop for i in range(number)])
        self._masks = None
        if number <= MAX_ENUMERATED_GROUPS:
            self._masks = feasible_masks(number, self.resources, force_keep, force_drop)
        elif best_mask([0.0] * number, self.resources, force_keep, force_drop) is None:
            raise ValueError(infeasible_text(self.resources, max(1, len(force_keep)), force_keep, force_drop))
        free = max(1, int(self._free.sum()))
        share = min(max((self._most_groups() - len(force_keep)) / free, 0.5 / free), 1 - 0.5 / free)
        self.logits = nn.Parameter(torch.full((number,), math.log(share / (1 - share)) / scale))

    def mode(self) -> Tensor:
        """Return the mask of `feasible_masks` with the largest sum of logits, (N,) int64; of equal ones the first.

        Only maximal masks are compared: among all masks within the budget, the best would be the empty one as long as
        no group has a probability above 1/2.
        """
        if self._masks is None:
            values = self.logits.tolist()
            mask = torch.tensor(best_mask(values, self.resources, self.force_keep, self.force_drop))
        else:
            mask = self._masks[self._mask_scores(self._masks).argmax()]
        return mask.to(self.choices.device)

    def marginals(self) -> Tensor:
        """Return the (N,) probabilities of keeping each group, differentiable."""
        return self._apply_forced((self.scale * self.logits).sigmoid())

    def entropy(self) -> Tensor:
        """Return the entropy of the masks in nats, differentiable."""
        pi = self.marginals()
        return (torch.special.entr(pi) + torch.special.entr(1 - pi)).sum()

    def ranking(self, k: int) -> Ranking:
        """Return the k most probable masks within the budget; the decision alone for more than 16 groups."""
        masks = self.mode()[None].cpu() if self._masks is None else self._masks
        masks = masks[self._mask_scores(masks).sort(descending=True, stable=True).indices[:k]]
        pi = self.marginals().detach().cpu().double()
        p = torch.where(masks == 1, pi, 1 - pi).prod(1)
        return [(tuple(mask), value) for mask, value in zip(masks.tolist(), p.tolist(), strict=True)]

    @torch.no_grad()
    def constrain_(self) -> None:
        """Clamp to +-`MAX_LOGIT`."""
        self.logits.clamp_(-MAX_LOGIT, MAX_LOGIT)

    def _draw(self, generator: torch.Generator, tau: float) -> Tensor:
        u = torch.rand(self.number, generator=generator).clamp_min(1e-9)  # torch.rand is always below 1
        logits = self.logits.cpu()
        scores = self.scale * logits + (u.log() - (-u).log1p()).to(logits.dtype)
        soft = (scores / tau).sigmoid()
        return self._apply_forced((scores > 0).to(soft) + (soft - soft.detach()))

    def _draw_uniformly(self, generator: torch.Generator) -> Tensor:
        """Draw uniformly from `feasible_masks`; of many groups, add them in random order as long as they fit."""
        if self._masks is not None:
            return self._masks[torch.randint(len(self._masks), (), generator=generator)].to(self.logits.dtype)
        mask = self._kept.long()
        for i in torch.randperm(self.number, generator=generator).tolist():
            tried = mask | F.one_hot(torch.tensor(i), self.number)
            if self._free[i] and all(r.fits(r.total(tried)) for r in self.resources):
                mask = tried
        return mask.to(self.logits.dtype)

    def _mask_scores(self, masks: Tensor) -> Tensor:
        """Return the (M,) sums of logits, rounded so that equal sums tie whatever the order of addition."""
        return (masks * self.logits.detach().cpu().double()).sum(1).round(decimals=9)

    def _apply_forced(self, values: Tensor) -> Tensor:
        return torch.where(self._free.to(values.device), values, self._kept.to(values))

    def _most_groups(self) -> int:
        counts = range(self.number - len(self.force_drop), 0, -1)
        fitting = (
            n for n in counts if all(r.fits(r.minimum(n, self.force_keep, self.force_drop)) for r in self.resources)
        )
        return next(fitting)
