"""The interface of all mask samplers: draws, decision, probabilities, and the check of a saved state."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from basicsr.pruning.costs import Resource

MAX_LOGIT = 10.0
SEED_FACTOR, CHUNK_FACTOR = 1_000_003, 2_654_435_761  # prime; PyTorch's CPU generator uses the low 32 bits of a seed
Mask = tuple[int, ...]
Ranking = list[tuple[Mask, float]]
"""Masks with their probabilities, most probable first."""


class MaskSampler(nn.Module):
    """A learned distribution of masks over N groups; its only parameters are logits.

    Args:
        choices: (rows, N) of 0 and 1, the alternatives that the logits weigh. They are part of the state, so that the
            state of another search is rejected.
        seed: seed of the draws.
        scale: factor on the logits.
    """

    choices: Tensor

    def __init__(self, choices: Tensor, *, seed: int, scale: float = 1.0) -> None:
        super().__init__()
        self.number = choices.shape[1]
        self.seed = seed
        self.scale = scale
        self.register_buffer("choices", choices.to(torch.int8))

    def sample(self, iteration: int, tau: float, eps: float = 0.0, chunk: int = 0) -> Tensor:
        """Draw a mask, exactly 0 and 1, with a straight-through gradient to the logits.

        Args:
            iteration: with `chunk` and the seed, all that the noise depends on.
            tau: temperature, > 0; shapes the gradient and does not change the drawn mask.
            eps: probability in [0, 1] of drawing uniformly among the allowed masks; such a draw has no gradient.
            chunk: index of the part of the batch, >= 0, where each part draws its own mask.

        Shape:
            output: (N,), float.

        Raises:
            FloatingPointError: when a logit is not finite.
        """
        if not all(bool(logits.isfinite().all()) for logits in self.parameters()):
            raise FloatingPointError(f"the logits of the mask are not finite at iteration {iteration}, tau {tau:.4g}")
        generator = torch.Generator().manual_seed((self.seed * SEED_FACTOR + iteration + chunk * CHUNK_FACTOR) % 2**63)
        explores = float(torch.rand((), generator=generator)) < eps
        mask = self._draw_uniformly(generator) if explores else self._draw(generator, tau)
        return mask.to(self.choices.device)

    def mode(self) -> Tensor:
        """Return the decision of the search: (N,) of 0 and 1, int64."""
        raise NotImplementedError

    def marginals(self) -> Tensor:
        """Return the (N,) probabilities of keeping each group, differentiable."""
        raise NotImplementedError

    def entropy(self) -> Tensor:
        """Return the entropy of the draws in nats, differentiable."""
        raise NotImplementedError

    def ranking(self, k: int) -> Ranking:
        """Return the k most probable masks, best first; equal ones in a fixed order."""
        raise NotImplementedError

    def constrain_(self) -> None:
        """Keep the logits bounded; to be called after each optimizer step."""

    def expected_cost(self, resource: Resource) -> Tensor:
        """Return the expected cost of a mask, a differentiable scalar."""
        pi = self.marginals()
        return resource.fixed + (pi * torch.tensor(resource.groups, dtype=pi.dtype, device=pi.device)).sum()

    def _draw(self, generator: torch.Generator, tau: float) -> Tensor:
        """Return a mask on the CPU, with a gradient."""
        raise NotImplementedError

    def _draw_uniformly(self, generator: torch.Generator) -> Tensor:
        """Return a mask on the CPU, without a gradient."""
        raise NotImplementedError

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *args: Any) -> None:
        for name, own in sorted(self.state_dict().items()):  # "choices" first: its message is the most informative
            saved = state_dict.get(prefix + name, own)
            if saved.shape != own.shape:
                raise ValueError(
                    f"{prefix}{name}: the saved mask logits are those of another run, got {_size(saved)}, this run has "
                    f"{_size(own)}; resume with the network, budget and sampler they were learned with"
                )
            if name == "choices" and not torch.equal(saved.to(own), own):
                raise ValueError(
                    f"{prefix}choices: the saved mask logits, {_size(saved)}, stand for other masks than this run's "
                    f"{_size(own)}; resume with the budget and sampler they were learned with"
                )
        super()._load_from_state_dict(state_dict, prefix, *args)


def _size(tensor: Tensor) -> str:
    if tensor.ndim == 2:
        return f"{len(tensor)} choices of {tensor.shape[1]} groups"
    return f"{'x'.join(map(str, tensor.shape))} logits"
