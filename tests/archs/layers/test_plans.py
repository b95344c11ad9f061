"""Geometry is planned once for a size, kept up to a limit, and never taken from one trace into the next."""

import threading

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from basicsr.archs import build_network
from basicsr.archs.layers import plans
from basicsr.archs.layers.patches import PatchGrid, _blend, _coverage, _sum_entries, _sum_in_bags
from basicsr.archs.layers.plans import planned
from basicsr.archs.layers.tokens import mirrored_index
from basicsr.archs.layers.windows import slots_by_entry
from basicsr.engine.plan_cache import PlanCache, bytes_of

LIKE = torch.empty(0)


@pytest.fixture
def cache(monkeypatch):
    """An empty cache in place of the shared one."""
    fresh = PlanCache(1 << 20)
    monkeypatch.setattr(plans, "PLANS", fresh)
    return fresh


def test_a_plan_is_made_once_for_its_sizes(cache):
    first = planned(mirrored_index, 0, 9, 4, like=LIKE)
    assert planned(mirrored_index, 0, 9, 4, like=LIKE) is first
    assert planned(mirrored_index, 0, 9, 5, like=LIKE) is not first
    assert len(cache) == 2


def test_a_second_forward_makes_no_plan(cache, monkeypatch):
    made = []
    monkeypatch.setattr(cache, "get", lambda key, make: made.append(key) or PlanCache.get(cache, key, make))
    net = build_network({"type": "CATANet-XS", "upscale": 2}).eval()
    with torch.inference_mode():
        net(torch.rand(1, 3, 20, 33))
        known, asked = len(cache), len(made)
        net(torch.rand(1, 3, 20, 33))
    assert len(cache) == known > 0
    assert len(made) == 2 * asked


def test_plans_of_a_test_serve_training(cache):
    with torch.inference_mode():
        plan = planned(mirrored_index, 0, 9, 4, like=LIKE)
    assert not plan.is_inference()


def test_the_oldest_plans_go_first():
    cache = PlanCache(100)
    for number in range(5):
        cache.get(number, lambda: torch.zeros(40, dtype=torch.uint8))
        cache.get(0, lambda: torch.zeros(40, dtype=torch.uint8))
    assert cache.bytes == 80
    assert list(cache._plans) == [4, 0]


def test_a_plan_above_the_limit_is_kept_alone():
    cache = PlanCache(100)
    small = cache.get("small", lambda: torch.zeros(10))
    large = cache.get("large", lambda: (torch.zeros(1000), 3, None))
    assert cache.get("large", lambda: small) is large
    assert (len(cache), cache.bytes) == (1, 4000)


def test_plans_made_of_plans(cache):
    inner = cache.get("outer", lambda: cache.get("inner", lambda: torch.ones(3)) + 1)
    assert inner.tolist() == [2, 2, 2]
    assert len(cache) == 2


def test_recorded_plans_outlive_the_cache():
    """A CUDA graph reads plans by address, so whoever captured it keeps them."""
    cache = PlanCache(100)
    cache.get("before", lambda: torch.zeros(5))
    with cache.recorded() as taken:
        first = cache.get("first", lambda: torch.zeros(20))
        cache.get("before", lambda: torch.ones(5))
        cache.get("second", lambda: torch.zeros(20))
        assert cache.get("first", lambda: torch.ones(20)) is first
    cache.get("after", lambda: torch.zeros(20))
    assert set(taken) == {"before", "first", "second"}
    assert "first" not in cache._plans
    assert cache.bytes == sum(bytes_of(plan) for plan in cache._plans.values())


def test_threads_get_one_plan():
    cache, made, found = PlanCache(1 << 20), [], []
    gate = threading.Barrier(4)

    def ask():
        gate.wait()
        found.append(cache.get("plan", lambda: made.append(1) or torch.zeros(3)))

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 1
    assert all(plan is found[0] for plan in found)


@pytest.mark.parametrize("kind", ["fake", "meta"])
def test_tensors_without_values_leave_no_plan(cache, kind):
    net = build_network({"type": "CATANet-XS", "upscale": 2}).eval()
    if kind == "meta":
        with torch.no_grad():
            assert net.to("meta")(torch.rand(1, 3, 30, 17, device="meta")).shape == (1, 3, 60, 34)
    else:
        with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad():
            assert net(torch.rand(1, 3, 30, 17)).shape == (1, 3, 60, 34)
    assert len(cache) == 0


@pytest.mark.parametrize("size", [(1, 1), (9, 8), (13, 20), (29, 30)])
def test_blending_with_and_without_bags(size):
    blend = _blend(2, *size, 8, torch.device("cpu"))
    p = torch.rand(len(blend.tokens), 3, dtype=torch.float64)
    torch.testing.assert_close(_sum_in_bags(p, blend), _sum_entries(p, blend))


@pytest.mark.parametrize("size", [(9, 8), (15, 31)])
def test_a_blend_for_any_size_is_that_of_numbers(size, monkeypatch):
    """Where sizes are symbols, no entry is left out: those that are none have the factor 0."""
    expected, p = _blend(1, *size, 8, torch.device("cpu")), torch.rand(PatchGrid(size, 8).count * 64, 3)
    monkeypatch.setattr("basicsr.archs.layers.patches.has_values", lambda x: False)
    padded = _blend(1, *size, 8, torch.device("cpu"))
    assert len(padded.factor) == 9 * size[0] * size[1]
    torch.testing.assert_close(_sum_in_bags(p, padded), _sum_in_bags(p, expected))
    assert torch.equal(padded.token_factor, expected.token_factor)


def test_coverage_that_is_one_everywhere_is_no_plan():
    assert _coverage(14, 14, 8, torch.device("cpu")) is None
    assert _coverage(15, 14, 8, torch.device("cpu")).unique().numel() > 1


def test_slots_by_entry():
    assert slots_by_entry(torch.tensor([2, 0, 2, 1, 2]), 4).tolist() == [[1, -1, -1], [3, -1, -1], [0, 2, 4], [-1] * 3]
