import itertools
import logging
import math
from collections import Counter

import pytest
import torch

from basicsr.config.pruning import DualOptions, InterBlockOptions, PruneOptions
from basicsr.pruning.budget import DualWeights, budget_loss
from basicsr.pruning.costs import Resource
from basicsr.pruning.feasible import best_mask, feasible_masks, uniform_mask
from basicsr.pruning.samplers import BernoulliSampler, FixedSampler, NMSampler, SubsetSampler, build_sampler
from basicsr.pruning.samplers.draws import corrode, expand

FIXED = {2: 59_963, 4: 117_723}  # parameters of CATANet-L outside its groups, by scale
GROUP = 52_184
PATTERNS = [(2, 4), (1, 4)]


def blocks(limit, number=8):
    return Resource("blocks", 0, (1,) * number, limit)


def params(limit, scale=2, number=8):
    return Resource("params", FIXED[scale], (GROUP,) * number, limit)


def random_logits(sampler, deviation=1.0):
    with torch.no_grad():
        for logits in sampler.parameters():
            logits.normal_(0, deviation)
    return sampler


def subset(number=4, keep=2, **options):
    return random_logits(build_sampler(PruneOptions(**options), number, [blocks(keep, number)]))


def nm(patterns=PATTERNS, inter_block=None, **options):
    options = PruneOptions(sampler="nm", patterns=patterns, inter_block=inter_block or InterBlockOptions(), **options)
    return random_logits(build_sampler(options, sum(size for _, size in patterns), []))


def bernoulli(number=6, keep=3, **options):
    return build_sampler(PruneOptions(sampler="bernoulli", **options), number, [blocks(keep, number)])


SAMPLERS = {
    "subset": lambda: subset(6, 3),
    "per_block": lambda: subset(6, 3, logits="per_block"),
    "nm": nm,
    "nm without pairs": lambda: nm(inter_block=InterBlockOptions(enable=False)),
    "bernoulli": lambda: random_logits(bernoulli()),
}


@pytest.fixture(params=SAMPLERS)
def sampler(request):
    return SAMPLERS[request.param]()


def draws(sampler, count, tau=1.0, eps=0.0):
    with torch.no_grad():
        return Counter(tuple(sampler.sample(i, tau, eps).int().tolist()) for i in range(count))


def brute_force(number, resources, force_keep=(), force_drop=()):
    """Maximal feasible masks by their definition."""
    feasible = {
        mask
        for mask in itertools.product((1, 0), repeat=number)
        if all(r.fits(r.total(mask)) for r in resources)
        and all(mask[i] for i in force_keep)
        and not any(mask[i] for i in force_drop)
    }
    above = {m: [tuple(int(j == i or b) for j, b in enumerate(m)) for i in range(number) if not m[i]] for m in feasible}
    return [list(m) for m in itertools.product((1, 0), repeat=number) if m in feasible and not feasible & {*above[m]}]


# The set of masks.


@pytest.mark.parametrize(
    ("limited", "count", "keep"),
    [
        ([blocks(3)], 56, 3), ([blocks(4)], 70, 4), ([params(230_000)], 56, 3), ([params(230_000, scale=4)], 28, 2),
        ([blocks(2), params(230_000)], 28, 2), ([params(230_000), blocks(7)], 56, 3), ([blocks(None)], 1, 8),
    ],
)  # fmt: skip
def test_size_of_the_set(limited, count, keep):
    masks = feasible_masks(8, limited)
    assert masks.shape == (count, 8)
    assert masks.dtype == torch.int64
    assert set(masks.sum(1).tolist()) == {keep}
    assert len({tuple(mask) for mask in masks.tolist()}) == count


def test_order_of_the_set():
    masks = feasible_masks(5, [blocks(2, 5)])
    assert [tuple(mask.nonzero()[:, 0].tolist()) for mask in masks] == list(itertools.combinations(range(5), 2))


@pytest.mark.parametrize("seed", range(12))
def test_set_of_unequal_costs_is_that_of_its_definition(seed):
    generator = torch.Generator().manual_seed(seed)
    costs = torch.rand(2, 7, generator=generator).double()
    resources = [
        Resource(name, 0.5, tuple(row), 0.5 + float(share) * sum(row))
        for name, row, share in zip(("macs_g", "latency_ms"), costs.tolist(), (0.45, 0.6), strict=True)
    ]
    forced = ([0], [3]) if seed % 2 else ([], [])
    expected = brute_force(7, resources, *forced)
    assert feasible_masks(7, resources, *forced).tolist() == expected


def test_forced_groups():
    masks = feasible_masks(8, [blocks(3)], force_keep=[0, 7], force_drop=[3])
    assert len(masks) == 5
    assert masks[:, [0, 7]].all()
    assert not masks[:, 3].any()


def test_two_resources_bind_together():
    macs = Resource("macs_g", 1.0, (5.0, 1.0, 1.0, 1.0), 7.0)
    assert feasible_masks(4, [blocks(2, 4)]).shape == (6, 4)
    assert feasible_masks(4, [blocks(2, 4), macs]).shape == (6, 4)
    assert feasible_masks(4, [blocks(3, 4), macs]).tolist() == [
        [1, 1, 0, 0], [1, 0, 1, 0], [1, 0, 0, 1], [0, 1, 1, 1]
    ]  # fmt: skip


def test_infeasible_budget_names_every_resource():
    limited = [params(100_000), Resource("macs_g", 2.5, (7.8, 7.57) * 4, 20.0), Resource("blocks", 0, (1,) * 8)]
    with pytest.raises(ValueError) as error:
        build_sampler(PruneOptions(force_keep=[0, 5]), 8, limited)
    assert str(error.value) == (
        "budget: no mask with prune.force_keep [0, 5] fits all limits; budget.params: 164,331 needed for 2 blocks and "
        "the fixed part, 100,000 allowed; budget.macs_g: 17.87 needed for 2 blocks and the fixed part, 20 allowed; "
        "raise the limits that are too low"
    )
    for name in ("subset", "bernoulli"):
        with pytest.raises(
            ValueError, match=r"budget.params: 112,147 needed for 1 block and the fixed part, 100,000 allowed"
        ):
            build_sampler(PruneOptions(sampler=name), 8, [params(100_000)])
    with pytest.raises(ValueError, match=r"budget.blocks: 2 needed for 2 blocks, 1 allowed"):
        build_sampler(PruneOptions(sampler="bernoulli", force_keep=[0, 5]), 20, [blocks(1, 20)])


def test_too_many_masks_for_a_logit_each():
    with pytest.raises(ValueError, match=r"more than 20,000 masks of 17 groups fit the budget; use sampler nm or bern"):
        build_sampler(PruneOptions(), 17, [blocks(8, 17)])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"force_keep": [8]}, r"prune.force_keep: the network has groups 0..7, got \[8\]"),
        ({"force_drop": [-1]}, r"prune.force_drop: the network has groups 0..7, got \[-1\]"),
        ({"force_keep": [2, 2]}, r"prune.force_keep: names a group twice, got \[2, 2\]"),
        ({"force_keep": [1, 2], "force_drop": [2]}, r"groups \[2\] are in prune.force_drop too"),
        ({"force_drop": list(range(8))}, "prune.force_drop: drops all 8 groups"),
        (
            {"force_keep": [0, 1, 2, 3]},
            r"no mask with prune.force_keep \[0, 1, 2, 3\] .*blocks: 4 needed for 4 blocks, 3",
        ),
    ],
)
def test_forced_groups_that_cannot_be(options, message):
    with pytest.raises(ValueError, match=message):
        build_sampler(PruneOptions(**options), 8, [blocks(3)])


def test_nothing_to_prune_is_said(caplog):
    with caplog.at_level(logging.WARNING, "basicsr"):
        build_sampler(PruneOptions(), 8, [blocks(3), params(None)])
        build_sampler(PruneOptions(sampler="fixed", fixed_mask=[1, 0]), 2, [blocks(None, 2)])
        assert caplog.text == ""
        build_sampler(PruneOptions(), 8, [blocks(8), params(None)])
    assert "the full network fits, so there is nothing to prune" in caplog.text


# What all samplers have in common.


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


def test_state_of_another_run_is_refused():
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


# subset


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


def test_mode_is_the_first_of_the_ranking(sampler):
    if isinstance(sampler, NMSampler):
        sampler = nm(inter_block=InterBlockOptions(enable=False))
    assert tuple(sampler.mode().tolist()) == sampler.ranking(1)[0][0]
    assert sampler.mode().dtype == torch.int64


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


# nm


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


# bernoulli


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


@pytest.mark.parametrize("seed", range(20))
def test_knapsack_equals_brute_force(seed):
    generator = torch.Generator().manual_seed(seed)
    number = 6 + seed % 5
    values = (torch.randn(number, generator=generator) + seed % 3 - 1).tolist()
    rows = (0.2 + torch.rand(2, number, generator=generator)).tolist()
    resources = [Resource(n, 1.0, tuple(row), 1 + 0.45 * sum(row)) for n, row in zip("ab", rows, strict=True)]
    forced = ([number - 1], [1]) if seed % 4 == 3 else ([], [])
    masks = feasible_masks(number, resources, *forced)
    expected = (masks * torch.tensor(values).double()).sum(1).max()
    found = best_mask(values, resources, *forced)
    assert list(found) in masks.tolist()
    assert sum(v for v, bit in zip(values, found, strict=True) if bit) == pytest.approx(float(expected))


def test_knapsack_of_many_groups():
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(40, generator=generator).tolist()
    found = best_mask(values, [blocks(20, 40)])
    best = sorted(range(40), key=lambda i: -values[i])[:20]
    assert [i for i, bit in enumerate(found) if bit] == sorted(best)
    assert best_mask(values, [blocks(3, 40)], force_keep=[0, 1, 2, 3]) is None
    assert best_mask(values, [Resource("macs_g", 1, (2,) * 40, 2.5)]) is None


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


# fixed


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


def test_uniform_mask():
    kept = {k: [i for i, bit in enumerate(uniform_mask(8, k)) if bit] for k in (1, 2, 3, 4, 8)}
    assert kept == {1: [0], 2: [0, 7], 3: [0, 4, 7], 4: [0, 2, 5, 7], 8: list(range(8))}
    with pytest.raises(ValueError, match=r"keep: must be in 1..8, got 9"):
        uniform_mask(8, 9)


def test_subset_sampler_takes_any_masks():
    sampler = SubsetSampler(torch.tensor([[1, 0, 0], [0, 1, 1]]), seed=1)
    assert draws(sampler, 50).keys() == {(1, 0, 0), (0, 1, 1)}
