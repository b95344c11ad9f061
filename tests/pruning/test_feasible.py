"""The masks that fit a budget."""

import itertools
import logging

import pytest
import torch
from pruning.mask_samplers import (
    blocks,
    params,
)

from basicsr.config.pruning import PruneOptions
from basicsr.pruning.costs import Resource
from basicsr.pruning.feasible import best_mask, feasible_masks, uniform_mask
from basicsr.pruning.samplers import build_sampler


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


def test_uniform_mask():
    kept = {k: [i for i, bit in enumerate(uniform_mask(8, k)) if bit] for k in (1, 2, 3, 4, 8)}
    assert kept == {1: [0], 2: [0, 7], 3: [0, 4, 7], 4: [0, 2, 5, 7], 8: list(range(8))}
    with pytest.raises(ValueError, match=r"keep: must be in 1..8, got 9"):
        uniform_mask(8, 9)
