"""Behaviour that all mask samplers share."""

import math

import pytest
import torch
from pruning.mask_samplers import (
    PATTERNS,
    SAMPLERS,
    bernoulli,
    blocks,
    draws,
    nm,
    random_logits,
    subset,
)

from basicsr.config.pruning import InterBlockOptions, PruneOptions
from basicsr.pruning.costs import Resource
from basicsr.pruning.samplers import build_sampler
from basicsr.pruning.samplers.bernoulli import BernoulliSampler
from basicsr.pruning.samplers.fixed import FixedSampler
from basicsr.pruning.samplers.n_of_m import NMSampler


@pytest.fixture(params=SAMPLERS)
def sampler(request):
    return SAMPLERS[request.param]()


def test_draws_are_exactly_binary_and_reach_every_logit(sampler):
    gradients = [torch.zeros_like(p) for p in sampler.parameters()]
    for i in range(10):
        mask = sampler.sample(i, tau=3.0)
        assert mask.shape == (sampler.number,)
        assert torch.isin(mask.detach(), torch.tensor([0.0, 1.0])).all()
        sampler.zero_grad()
        (mask * torch.randn(sampler.number)).sum().backward()
        for total, p in zip(gradients, sampler.parameters(), strict=True):
            total += p.grad.abs()
    assert all((total > 0).all() for total in gradients)


def test_draws_depend_on_iteration_and_chunk_alone(sampler):
    first = [sampler.sample(i, 1.0, 0.1) for i in range(20)]
    torch.manual_seed(99)
    state = torch.get_rng_state()
    again = [sampler.sample(i, 0.1, 0.1) for i in range(20)]
    assert torch.equal(torch.get_rng_state(), state)
    assert all(map(torch.equal, first, again))
    chunk = [sampler.sample(i, 1.0, 0.1, chunk=1) for i in range(20)]
    assert not all(map(torch.equal, first, chunk))
    assert len({tuple(mask.tolist()) for mask in first}) > 1


def test_seed_changes_the_draws():
    masks = [tuple(subset(8, 4, mask_seed=seed).sample(0, 1.0).tolist()) for seed in range(10)]
    assert len(set(masks)) > 3


def test_marginals_are_the_frequencies_of_the_draws(sampler):
    count = 1000
    masks = torch.tensor([mask for mask, n in draws(sampler, count).items() for _ in range(n)]).double()
    pi = sampler.marginals().detach().double()
    assert ((masks.mean(0) - pi).abs() <= 3.5 * (pi * (1 - pi) / count).sqrt() + 1e-9).all()


def test_marginals_are_those_of_the_ranking(sampler):
    sampler.double()
    ranked = sampler.ranking(10**6)
    if isinstance(sampler, BernoulliSampler):  # ranks the masks within the budget only
        p = torch.tensor([p for _, p in ranked])
        expected = [sampler.marginals().where(torch.tensor(m) == 1, 1 - sampler.marginals()).prod() for m, _ in ranked]
        torch.testing.assert_close(p.double(), torch.stack(expected), rtol=1e-6, atol=0)
    else:
        masks, p = torch.tensor([m for m, _ in ranked]).double(), torch.tensor([p for _, p in ranked]).double()
        assert float(p.sum()) == pytest.approx(1)
        torch.testing.assert_close(sampler.marginals(), (p[:, None] * masks).sum(0), rtol=1e-6, atol=1e-9)
    assert len({mask for mask, _ in ranked}) == len(ranked)
    assert [p for _, p in ranked] == sorted((p for _, p in ranked), reverse=True)
    assert sampler.ranking(3) == ranked[:3]


def test_entropy_of_known_distributions():
    assert build_sampler(PruneOptions(), 8, [blocks(3)]).entropy().item() == pytest.approx(math.log(56), rel=1e-5)
    assert bernoulli(6, 3).entropy().item() == pytest.approx(6 * math.log(2), rel=1e-5)
    even = build_sampler(PruneOptions(sampler="nm", patterns=PATTERNS), 8, [])
    assert even.entropy().item() == pytest.approx(math.log(6 * 4 * 3), rel=1e-5)
    assert float(FixedSampler(torch.tensor([1, 0])).entropy()) == 0


def test_statistics_are_differentiable(sampler):
    resource = Resource("macs_g", 1.0, tuple(range(sampler.number)), 3.0)
    expected = 1 + (sampler.marginals() * torch.arange(sampler.number)).sum().item()
    assert sampler.expected_cost(resource).item() == pytest.approx(expected, rel=1e-6)
    for value in (sampler.expected_cost(resource), sampler.entropy()):
        sampler.zero_grad()
        value.backward()
        assert all((p.grad != 0).any() for p in sampler.parameters())


def test_uniform_draws_carry_no_gradient_and_ignore_the_logits(sampler):
    with torch.no_grad():
        for logits in sampler.parameters():
            logits.view(-1)[0] = 10
    assert not any(sampler.sample(i, 1.0, eps=1.0).requires_grad for i in range(20))
    found = draws(sampler, 1500, eps=1.0)
    expected = {"SubsetSampler": 20, "NMSampler": 52, "BernoulliSampler": 20}[type(sampler).__name__]
    if isinstance(sampler, NMSampler) and not sampler.blocks.pairs:
        expected = 24
    assert len(found) == expected
    assert max(found.values()) < 2.2 * 1500 / expected


def test_eps_is_the_probability_of_a_uniform_draw():
    sampler = subset(6, 3)
    explored = sum(not sampler.sample(i, 1.0, eps=0.3).requires_grad for i in range(1000))
    assert 260 < explored < 340
    assert all(sampler.sample(i, 1.0, eps=0.0).requires_grad for i in range(100))


def test_tau_shapes_the_gradient_only():
    sampler = subset(6, 3)
    gradients = []
    for tau in (4.0, 0.5):
        sampler.zero_grad()
        mask = sampler.sample(3, tau)
        (mask * torch.arange(6.0)).sum().backward()
        gradients.append((mask.detach(), sampler.logits.grad.clone()))
    assert torch.equal(gradients[0][0], gradients[1][0])
    assert not torch.allclose(gradients[0][1], gradients[1][1])


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_logits_that_are_not_finite(sampler, value):
    with torch.no_grad():
        list(sampler.parameters())[-1].view(-1)[0] = value
    with pytest.raises(FloatingPointError, match=r"not finite at iteration 17, tau 2.5"):
        sampler.sample(17, 2.5)


def test_constrained_logits_mean_the_same(sampler):
    with torch.no_grad():
        for logits in sampler.parameters():
            logits += 3
    before = sampler.marginals()
    sampler.constrain_()
    torch.testing.assert_close(sampler.marginals(), before)
    if not isinstance(sampler, BernoulliSampler):
        assert all(abs(p.mean().item()) < 1e-6 for p in sampler.parameters())
    with torch.no_grad():
        for logits in sampler.parameters():
            logits.view(-1)[0] = 1e4
    sampler.constrain_()
    assert all(p.abs().max() <= 10 for p in sampler.parameters())


def test_logits_of_groups_keep_their_mean_where_it_matters():
    unequal = Resource("macs_g", 0, (3.0, 1.0, 1.0, 1.0), 3.0)
    sampler = random_logits(build_sampler(PruneOptions(logits="per_block"), 4, [unequal]))
    assert sorted(sampler.choices.sum(1).tolist()) == [1, 3]
    before = sampler.logits.detach().clone()
    sampler.constrain_()
    assert torch.equal(sampler.logits, before)


def test_state_round_trip(sampler):
    state = {name: value.clone() for name, value in sampler.state_dict().items()}
    drawn = [sampler.sample(i, 1.0) for i in range(20)]
    random_logits(sampler, deviation=5.0)
    sampler.load_state_dict(state)
    assert all(map(torch.equal, drawn, [sampler.sample(i, 1.0) for i in range(20)]))


def test_state_of_another_run_is_rejected():
    def state(number, keep, **options):
        return subset(number, keep, **options).state_dict()

    with pytest.raises(ValueError, match="got 28 choices of 8 groups, this run has 56 choices of 8 groups"):
        subset(8, 3).load_state_dict(state(8, 2))
    with pytest.raises(ValueError, match="got 15 choices of 6 groups, this run has 28 choices of 8 groups"):
        subset(8, 2).load_state_dict(state(6, 2))
    with pytest.raises(ValueError, match="8 choices of 8 groups, stand for other masks"):
        subset(8, 7).load_state_dict(state(8, 1))
    with pytest.raises(ValueError, match="got 8 logits, this run has 56 logits"):
        subset(8, 3).load_state_dict(state(8, 3, logits="per_block"))
    with pytest.raises(ValueError, match="got 6 choices of 6 groups, this run has 7 choices of 7 groups"):
        bernoulli(7).load_state_dict(bernoulli(6).state_dict())


def test_mode_is_the_first_of_the_ranking(sampler):
    if isinstance(sampler, NMSampler):
        sampler = nm(inter_block=InterBlockOptions(enable=False))
    assert tuple(sampler.mode().tolist()) == sampler.ranking(1)[0][0]
    assert sampler.mode().dtype == torch.int64
