"""A given mask as a sampler, for baselines: random, uniform and hand-made masks run through the same code."""

import torch
from torch import Tensor

from basicsr.pruning.samplers.base import MaskSampler, Ranking


class FixedSampler(MaskSampler):
    """Sampler that always draws the same mask, and has no parameters.

    Args:
        mask: (N,) of 0 and 1.
    """

    def __init__(self, mask: Tensor) -> None:
        super().__init__(mask[None], seed=0)

    def mode(self) -> Tensor:
        """Return the mask, (N,) int64."""
        return self.choices[0].long()

    def marginals(self) -> Tensor:
        """Return the mask, (N,) float."""
        return self.choices[0].float()

    def entropy(self) -> Tensor:
        """Return 0."""
        return torch.zeros((), device=self.choices.device)

    def ranking(self, k: int) -> Ranking:
        """Return the mask with probability 1."""
        return [(tuple(self.mode().tolist()), 1.0)][:k]

    def _draw(self, generator: torch.Generator, tau: float) -> Tensor:
        return self.marginals()

    def _draw_uniformly(self, generator: torch.Generator) -> Tensor:
        return self.marginals()
