"""One softmax over a set of masks: the sampler for networks of few groups."""

import torch
from torch import Tensor, nn

from basicsr.pruning.samplers.base import MAX_LOGIT, MaskSampler, Ranking
from basicsr.pruning.samplers.draws import gumbel_noise, straight_through


class SubsetSampler(MaskSampler):
    """Sampler of one mask of a given set, by a softmax over all of them. Budgets hold by construction.

    Args:
        masks: (M, N), the masks that may be drawn; see `feasible_masks`.
        seed, scale: see `MaskSampler`.
        init: initial value of all logits.
        per_block: N logits, one for each group, whose sums over the kept groups are the logits of the masks, instead
            of M logits. They keep their meaning when the number of kept groups changes.
    """

    def __init__(
        self, masks: Tensor, *, seed: int, scale: float = 1.0, init: float = 0.02, per_block: bool = False
    ) -> None:
        super().__init__(masks, seed=seed, scale=scale)
        self.per_block = per_block
        self.logits = nn.Parameter(torch.full((masks.shape[1 if per_block else 0],), init))
        self._shift_invariant = not per_block or len(set(masks.sum(1).tolist())) == 1

    def probabilities(self) -> Tensor:
        """Return the (M,) probabilities of the masks, differentiable."""
        return self._scores(self.logits).softmax(0)

    def mode(self) -> Tensor:
        """Return the most probable mask, (N,) int64; of equal ones the first."""
        return self.choices[self._scores(self.logits).argmax()].long()

    def marginals(self) -> Tensor:
        """Return the (N,) probabilities of keeping each group, differentiable."""
        return self._mix(self.probabilities())

    def entropy(self) -> Tensor:
        """Return the entropy of the masks in nats, differentiable."""
        return torch.special.entr(self.probabilities()).sum()

    def ranking(self, k: int) -> Ranking:
        """Return the k most probable masks, best first; equal ones in the order of `choices`."""
        p, order = self.probabilities().detach().cpu().sort(descending=True, stable=True)
        masks = self.choices.cpu()[order[:k]].tolist()
        return [(tuple(mask), value) for mask, value in zip(masks, p[:k].tolist(), strict=True)]

    @torch.no_grad()
    def constrain_(self) -> None:
        """Subtract the mean, where that changes no probability, and clamp to +-`MAX_LOGIT`."""
        if self._shift_invariant:
            self.logits.sub_(self.logits.mean())
        self.logits.clamp_(-MAX_LOGIT, MAX_LOGIT)

    def _draw(self, generator: torch.Generator, tau: float) -> Tensor:
        scores = self._scores(self.logits.cpu())
        return self._mix(straight_through(scores + gumbel_noise(scores, generator), tau))

    def _draw_uniformly(self, generator: torch.Generator) -> Tensor:
        index = torch.randint(len(self.choices), (), generator=generator)
        return self.choices.cpu()[index].to(self.logits.dtype)

    def _scores(self, logits: Tensor) -> Tensor:
        """Return the (M,) scaled logits of the masks."""
        return self.scale * ((self.choices.to(logits) * logits).sum(1) if self.per_block else logits)

    def _mix(self, weights: Tensor) -> Tensor:
        """Return the (N,) sum of the masks weighted by (M,); not a matmul, which autocast would round."""
        return (weights[:, None] * self.choices.to(weights)).sum(0)
