"""The budget loss and its weights."""

import pytest
import torch
from pruning.mask_samplers import (
    FIXED,
    GROUP,
    bernoulli,
    blocks,
    params,
)

from basicsr.config.pruning import DualOptions
from basicsr.pruning.budget import DualWeights, budget_loss
from basicsr.pruning.costs import Resource


@pytest.mark.parametrize("start", [-3.0, 3.0])
def test_budget_loss_pulls_the_expected_cost_to_the_limit(start):
    sampler, resources = bernoulli(8, 3), [blocks(3), blocks(None)]
    with torch.no_grad():
        sampler.logits.fill_(start)
    optimizer = torch.optim.Adam(sampler.parameters(), lr=0.1)
    for _ in range(100):
        optimizer.zero_grad()
        budget_loss(sampler, resources, {"blocks": 10.0}, two_sided=True).backward()
        optimizer.step()
    assert sampler.expected_cost(resources[0]).item() == pytest.approx(3, abs=0.05)


def test_budget_loss_value():
    sampler = bernoulli(8, 4)
    below, above = params(300_000), Resource("macs_g", 10, (20,) * 8, 50)
    excess = [(FIXED[2] + 4 * GROUP - 300_000) / below.full, (90 - 50) / 170]
    weights = {"params": 10.0, "macs_g": 3.0}
    both = budget_loss(sampler, [below, above], weights, two_sided=True)
    assert both.item() == pytest.approx(10 * excess[0] ** 2 + 3 * excess[1] ** 2, rel=1e-5)
    assert budget_loss(sampler, [below, above], weights, two_sided=False).item() == pytest.approx(3 * excess[1] ** 2)
    assert budget_loss(sampler, [blocks(None)], {}, two_sided=True).item() == 0


def test_dual_weights():
    weights = DualWeights({"params": 1.0, "blocks": 99.95}, DualOptions(eta=0.5, max=100.0))
    costs = {"params": (50.0, 100.0), "blocks": (6.0, 3.0), "macs_g": (1.0, None)}
    weights.step(costs)
    assert weights.values == {"params": 0.75, "blocks": 100.0}
    for _ in range(5):
        weights.step(costs)
    assert weights.values["params"] == 0
    other = DualWeights({"blocks": 1.0, "params": 1.0}, DualOptions())
    other.load_state_dict(weights.state_dict())
    assert other.values == weights.values
    with pytest.raises(ValueError, match=r"the saved run limits \['blocks', 'params'\], this run limits \['blocks'\]"):
        DualWeights({"blocks": 1.0}, DualOptions()).load_state_dict(weights.state_dict())
