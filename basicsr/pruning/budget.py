"""The loss that pulls the expected cost of a mask to the budget, and its weights."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from basicsr.config.pruning import DualOptions
from basicsr.pruning.costs import Resource
from basicsr.pruning.samplers.base import MaskSampler


def budget_loss(
    sampler: MaskSampler, resources: Sequence[Resource], weights: Mapping[str, float], two_sided: bool
) -> Tensor:
    """Return the weighted sum of squared distances of the expected costs from their limits, a scalar.

    Distances are fractions of the cost of the full network.

    Args:
        sampler: of the masks.
        resources: with or without a limit; those without do not count.
        weights: factor by the name of each limited resource.
        two_sided: costs below a limit count too, so that the budget is used.
    """
    loss = torch.zeros((), device=sampler.choices.device)
    for resource in resources:
        if resource.limit is None:
            continue
        excess = (sampler.expected_cost(resource) - resource.limit) / resource.full
        loss = loss + weights[resource.name] * (excess if two_sided else excess.clamp_min(0)).square()
    return loss


class DualWeights:
    """Weights of `budget_loss` that grow while a budget is exceeded: dual ascent.

    Args:
        values: initial weight by the name of each limited resource.
        dual: section `budget.dual` of the options.
    """

    def __init__(self, values: Mapping[str, float], dual: DualOptions) -> None:
        self.values = {name: float(value) for name, value in values.items()}
        self.dual = dual

    def step(self, costs: Mapping[str, tuple[float, float | None]]) -> None:
        """Move each weight by `eta` times the relative excess of the expected cost over the limit; within [0, max].

        Args:
            costs: (expected cost, limit) by resource; resources without a weight are skipped.
        """
        for name, value in self.values.items():
            cost, limit = costs[name]
            if limit is not None:
                self.values[name] = min(max(value + self.dual.eta * (cost / limit - 1), 0.0), self.dual.max)

    def state_dict(self) -> dict[str, float]:
        """Return the weights by resource."""
        return dict(self.values)

    def load_state_dict(self, state: Mapping[str, float]) -> None:
        """Restore the weights of an interrupted run.

        Raises:
            ValueError: when that run limited other resources.
        """
        if set(state) != set(self.values):
            raise ValueError(f"budget: the saved run limits {sorted(state)}, this run limits {sorted(self.values)}")
        self.values = {name: float(state[name]) for name in self.values}
