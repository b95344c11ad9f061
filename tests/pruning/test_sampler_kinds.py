"""Behaviour of single samplers: subset, N:M, bernoulli, fixed."""

import math

import pytest
import torch
from pruning.mask_samplers import (
    PATTERNS,
    bernoulli,
    blocks,
    draws,
    nm,
    params,
    random_logits,
    subset,
)

from basicsr.config.pruning import InterBlockOptions, PruneOptions
from basicsr.pruning.costs import Resource
from basicsr.pruning.feasible import uniform_mask
from basicsr.pruning.samplers import build_sampler
from basicsr.pruning.samplers.draws import corrode, expand
from basicsr.pruning.samplers.fixed import FixedSampler
from basicsr.pruning.samplers.n_of_m import NMSampler
from basicsr.pruning.samplers.subset import SubsetSampler


@pytest.mark.parametrize("logits", ["per_option", "per_block"])
def test_frequencies_of_masks_are_their_probabilities(logits):
    sampler, count = subset(logits=logits), 5000
    found = draws(sampler, count)
    for mask, p in sampler.ranking(6):
        assert abs(found[mask] / count - p) <= 3 * math.sqrt(p * (1 - p) / count)


def test_logits_of_groups_add_up_to_those_of_masks():
    per_block, per_option = subset(logits="per_block", logit_scale=2.0), subset(logit_scale=2.0)
    with torch.no_grad():
        per_option.logits.copy_((per_block.choices * per_block.logits).sum(1))
    torch.testing.assert_close(per_block.probabilities(), per_option.probabilities())
    assert torch.equal(per_block.mode(), per_option.mode())


def test_equal_logits_rank_in_the_order_of_the_set():
    sampler = build_sampler(PruneOptions(), 8, [blocks(3)])
    assert sampler.mode().tolist() == [1, 1, 1, 0, 0, 0, 0, 0]
    assert [list(mask) for mask, _ in sampler.ranking(100)] == sampler.choices.tolist()


def test_straight_through_gradients_find_the_best_masks():
    """A top-3 mask of 56 in at least 80 % of the seeds, though the noise is thrice the spread of groups' utilities."""
    good = 0
    for seed in range(5):
        generator = torch.Generator().manual_seed(seed)
        single, pairs = torch.randn(8, generator=generator), 0.3 * torch.randn(8, 8, generator=generator)
        sampler = build_sampler(PruneOptions(mask_seed=seed), 8, [blocks(3)])
        optimizer = torch.optim.Adam(sampler.parameters(), lr=0.1)
        for i in range(300):
            mask = sampler.sample(i, tau=4 - 3.9 * i / 300, eps=0.05 * (1 - i / 300))
            noise = 3 * torch.randn(8, generator=generator)
            if mask.requires_grad:
                optimizer.zero_grad()
                (-(mask * (single + noise)).sum() - mask @ pairs @ mask).backward()
                optimizer.step()
                sampler.constrain_()
        masks = sampler.choices.float()
        utility = (masks * single).sum(1) + ((masks @ pairs) * masks).sum(1)
        mode = sampler.mode().float()
        good += int((utility > mode @ single + mode @ pairs @ mode + 1e-4).sum() < 3)
    assert good >= 4


def test_subset_sampler_takes_any_masks():
    sampler = SubsetSampler(torch.tensor([[1, 0, 0], [0, 1, 1]]), seed=1)
    assert draws(sampler, 50).keys() == {(1, 0, 0), (0, 1, 1)}


def split(mask):
    return sum(mask[:4]), sum(mask[4:])


def test_pairs_reach_their_splits_and_conserve_the_total():
    sampler = nm()
    found = draws(sampler, 600)
    assert {split(mask) for mask in found} == {(2, 1), (1, 2), (3, 0)}
    assert {split(mask) for mask in draws(sampler, 200, eps=1.0)} == {(2, 1), (1, 2), (3, 0)}
    for ways in torch.eye(3) * 10:  # every transfer decided
        with torch.no_grad():
            sampler.transfer.copy_(ways)
        assert sum(sampler.mode().tolist()) == 3


def test_mode_follows_the_transfer():
    sampler = nm()
    with torch.no_grad():
        sampler.logits.zero_()
        sampler.logits[0] = 1  # groups 0 and 1 of the first block
        sampler.logits[-1] = 1  # the last group of the second
    expected = {0: [1, 0, 0, 0, 1, 0, 0, 1], 1: [1, 1, 0, 0, 0, 0, 0, 1], 2: [1, 1, 1, 0, 0, 0, 0, 0]}
    for way, mask in expected.items():
        with torch.no_grad():
            sampler.transfer.zero_()
            sampler.transfer[0, way] = 1
        # ties of the priorities, of groups 0 and 1 among others, go to the lower index: it is dropped, and added, first
        assert sampler.mode().tolist() == (mask if way else [0, 1, 0, 0, 1, 0, 0, 1])


def test_transfers_that_cannot_be_are_left_out():
    sampler = nm(min_keep_per_block=1)
    assert {split(mask) for mask in draws(sampler, 300)} == {(2, 1), (1, 2)}
    assert {split(mask) for mask in draws(sampler, 300, eps=1.0)} == {(2, 1), (1, 2)}
    assert {split(mask) for mask, _ in sampler.ranking(100)} == {(2, 1), (1, 2)}
    q = (sampler.transfer[0, :2]).softmax(0)  # renormalised
    assert sampler.marginals()[:4].sum().item() == pytest.approx((q[0] * 1 + q[1] * 2).item(), rel=1e-5)
    full = nm([(4, 4), (1, 4)])
    assert {split(mask) for mask in draws(full, 300)} == {(4, 1), (3, 2)}


def test_forced_groups_hold_through_transfers():
    sampler = nm(force_keep=[1], force_drop=[2, 6])
    assert [len(rows) for rows in sampler.choices.split([2, 3])] == [2, 3]
    for eps in (0.0, 1.0):
        for mask in draws(sampler, 300, eps=eps):
            assert mask[1] == 1
            assert mask[2] == mask[6] == 0
            assert sum(mask) == 3


def test_pairs_need_not_be_neighbours():
    sampler = nm([(1, 2), (1, 3), (2, 3), (1, 2)], InterBlockOptions(pairs=[(0, 2), (3, 1)]))
    assert all(sum(mask) == 5 for mask in draws(sampler, 100))
    masks = torch.tensor([m for m, _ in sampler.ranking(10**6)]).double()
    p = torch.tensor([p for _, p in sampler.ranking(10**6)]).double()
    torch.testing.assert_close((p[:, None] * masks).sum(0).float(), sampler.marginals().detach())


def test_chain_pairs_neighbours_and_leaves_the_last_alone():
    assert nm([(1, 2)] * 5).blocks.pairs == [(0, 1), (2, 3)]
    assert nm(inter_block=InterBlockOptions(enable=False)).blocks.pairs == []


def test_expand_and_corrode():
    mask, priority = torch.tensor([1.0, 0.0, 1.0, 0.0, 0.0]), torch.tensor([0.3, 0.2, 0.3, 0.5, 0.5])
    none = torch.zeros(5, dtype=torch.bool)
    assert expand(mask, priority, 1, none).tolist() == [1, 0, 1, 1, 0]
    assert expand(mask, priority, 1, torch.tensor([0, 0, 0, 1, 0]).bool()).tolist() == [1, 0, 1, 0, 1]
    assert expand(mask, priority, 2, none).tolist() == [1, 0, 1, 1, 1]
    assert corrode(mask, priority, 1, none).tolist() == [0, 0, 1, 0, 0]
    assert corrode(mask, priority, 1, torch.tensor([1, 0, 0, 0, 0]).bool()).tolist() == [1, 0, 0, 0, 0]
    mask.requires_grad_()
    expand(mask, priority, 1, none).sum().backward()
    assert mask.grad.tolist() == [1, 1, 1, 0, 1]


def test_cost_range_is_that_of_the_reachable_masks():
    costs = Resource("macs_g", 1.0, (1.0, 2.0, 4.0, 8.0, 3.0, 5.0, 7.0, 11.0))
    for options in ({}, {"force_keep": [3], "force_drop": [4]}, {"min_keep_per_block": 1}):
        sampler = nm(**options)
        reached = [costs.total(mask) for mask in draws(sampler, 500, eps=1.0)]
        assert sampler.blocks.cost_range(costs) == (min(reached), max(reached))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"patterns": [(2, 4), (1, 3)]}, r"\[\[2, 4\], \[1, 3\]\] has sizes that add up to 7, but the network has 8"),
        ({"patterns": [(5, 4), (1, 4)]}, r"must be \[keep, size\] with 0 <= keep <= size, got \[\[5, 4\]\]"),
        ({"patterns": [(0, 4), (0, 4)]}, "keeps none of 8 groups"),
        ({"patterns": [(2, 4), (2, 4)]}, "keeps 4 of 8 groups, but budget.blocks is 3; make them equal"),
        ({"force_keep": [4, 5]}, r"keeps 1 of groups 4..7, which prune.force_keep \[4, 5\]"),
        (
            {"force_drop": [0, 1, 2]},
            r"keeps 2 of groups 0..3, which prune.force_keep \[\] and prune.force_drop \[0, 1, 2",
        ),
        ({"min_keep_per_block": 2}, "keeps 1 of groups 4..7, but prune.min_keep_per_block is 2"),
        (
            {"inter_block": InterBlockOptions(pairs=[(0, 2)])},
            r"prune.inter_block.pairs: must name local blocks 0..1, each in one pair at most, got \[\[0, 2\]\]",
        ),
        ({"inter_block": InterBlockOptions(pairs=[(1, 1)])}, r"each in one pair at most, got \[\[1, 1\]\]"),
    ],
)
def test_patterns_that_cannot_be(options, message):
    with pytest.raises(ValueError, match=message):
        build_sampler(PruneOptions(**{"sampler": "nm", "patterns": PATTERNS, **options}), 8, [blocks(3)])


def test_patterns_beyond_the_budget():
    options = PruneOptions(sampler="nm", patterns=PATTERNS)
    with pytest.raises(ValueError, match=r"exceeds the budget; budget.params: 216,515 needed, 200,000 allowed; choose"):
        build_sampler(options, 8, [params(200_000)], "loss")
    macs = Resource("macs_g", 0, (1.0,) * 7 + (2.0,), 3.5)
    with pytest.raises(ValueError, match=r"budget.macs_g: 4 needed, 3.5 allowed; some masks do; .* budget.mode: loss"):
        build_sampler(options, 8, [macs])
    assert isinstance(build_sampler(options, 8, [macs], "loss"), NMSampler)


def test_bernoulli_starts_at_the_tightest_budget():
    sampler = build_sampler(PruneOptions(sampler="bernoulli"), 8, [blocks(5), params(230_000)])
    torch.testing.assert_close(sampler.marginals(), torch.full((8,), 3 / 8))
    forced = build_sampler(PruneOptions(sampler="bernoulli", force_keep=[1], force_drop=[0]), 8, [blocks(3)])
    torch.testing.assert_close(forced.marginals(), torch.tensor([0.0, 1.0] + [1 / 3] * 6))
    assert all(mask[:2] == (0, 1) for mask in draws(forced, 50))
    assert build_sampler(PruneOptions(sampler="bernoulli"), 4, []).logits.isfinite().all()


def test_bernoulli_decides_within_the_budget_even_where_dropping_is_likelier():
    sampler = bernoulli(6, 2)
    assert (sampler.marginals() < 0.5).all()
    with torch.no_grad():
        sampler.logits[[1, 4]] += 0.5
    assert sampler.mode().tolist() == [0, 1, 0, 0, 1, 0]


def test_bernoulli_of_many_groups():
    sampler = random_logits(bernoulli(24, 12))
    mode = sampler.mode()
    assert int(mode.sum()) == 12
    pi = sampler.marginals()
    [(mask, p)] = sampler.ranking(5)
    assert list(mask) == mode.tolist()
    assert p == pytest.approx(torch.where(mode == 1, pi, 1 - pi).prod().item(), rel=1e-4)
    uniform = torch.tensor(list(draws(sampler, 200, eps=1.0)))
    assert set(uniform.sum(1).tolist()) == {12}
    assert uniform.double().mean(0).sub(0.5).abs().max() < 0.15


def test_fixed_mask():
    mask = uniform_mask(8, 3)
    sampler = build_sampler(PruneOptions(sampler="fixed", fixed_mask=list(mask)), 8, [blocks(3)])
    assert list(sampler.parameters()) == []
    for eps in (0.0, 1.0):
        assert tuple(sampler.sample(0, 1.0, eps).tolist()) == mask
    assert tuple(sampler.mode().tolist()) == mask
    assert sampler.ranking(3) == [(mask, 1.0)]
    assert float(sampler.expected_cost(params(None))) == 216_515
    sampler.constrain_()
    with pytest.raises(ValueError, match="stand for other masks"):
        sampler.load_state_dict(FixedSampler(torch.tensor([1, 1, 1, 0, 0, 0, 0, 0])).state_dict())


@pytest.mark.parametrize(
    ("mask", "options", "message"),
    [
        ([1, 0], {}, r"prune.fixed_mask: the network has 8 groups, got 2 numbers, \[1, 0\]"),
        ([2] + [0] * 7, {}, r"prune.fixed_mask: must be 8 numbers 0 or 1, got \[2, 0"),
        ([0] * 8, {}, "prune.fixed_mask: drops all 8 groups"),
        ([1] * 4 + [0] * 4, {}, r"exceeds the budget; budget.params: 268,699, 230,000 allowed"),
        ([1] * 3 + [0] * 5, {"force_keep": [4], "force_drop": [0]}, r"contradicts .* at groups \[4, 0\]"),
    ],
)
def test_fixed_mask_that_cannot_be(mask, options, message):
    with pytest.raises(ValueError, match=message):
        build_sampler(PruneOptions(sampler="fixed", fixed_mask=mask, **options), 8, [params(230_000)])
