import logging
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from basicsr.archs.layers.multiply_adds import MultiplyAdds
from basicsr.config.pruning import BudgetOptions
from basicsr.pruning import costs
from basicsr.pruning.costs import Resource, group_resources, latency_table, multiply_add_resource


class Tiny(nn.Module):
    """Eleven groups, so that blocks.1 must not take what belongs to blocks.10; group i has i + 1 channels inside."""

    def __init__(self, number=11):
        super().__init__()
        self.number = number
        self.in_chans = 1
        self.first = nn.Conv2d(1, 2, 1)
        self.blocks = nn.ModuleList(nn.Conv2d(2, i + 1, 1) for i in range(self.number))
        self.mids = nn.ModuleList(nn.Conv2d(i + 1, 2, 1) for i in range(self.number))
        self.register_buffer("centres", torch.zeros(1000))
        self.calls = 0

    def prunable_groups(self):
        return [
            SimpleNamespace(
                index=i,
                prefixes=(f"blocks.{i}.", f"mids.{i}"),
                macs=lambda h, w, i=i: MultiplyAdds(4 * (i + 1) * h * w, 1000 * i),
            )
            for i in range(self.number)
        ]

    def multiply_adds(self, height, width):
        groups = [group.macs(height, width) for group in self.prunable_groups()]
        return sum(groups, MultiplyAdds(2 * height * width, 500))

    def forward(self, x, gates=None, taps=()):
        self.calls += 1
        assert not self.training and torch.is_inference_mode_enabled()
        x = self.first(x)
        for gate, block, mid in zip(gates, self.blocks, self.mids, strict=True):
            x = x + mid(block(x)) if gate else x
        return x


def resources(net=None, **budget):
    return {r.name: r for r in group_resources(net or Tiny(), BudgetOptions(**budget), "cpu")}


def test_blocks_and_parameters_are_exact():
    net = Tiny()
    found = resources(net, blocks=3, params=100)
    assert (found["blocks"].fixed, found["blocks"].groups, found["blocks"].limit) == (0, (1,) * 11, 3)
    assert found["params"].groups == tuple(3 * (i + 1) + 2 * (i + 1) + 2 for i in range(11))
    assert found["params"].fixed == 4
    assert found["params"].limit == 100
    assert found["params"].full == sum(p.numel() for p in net.parameters())


def test_multiply_adds_count_attention_and_the_rest():
    macs = resources(ref_size=(4, 5))["macs_g"]
    assert macs.groups == pytest.approx([(80 * (i + 1) + 1000 * i) / 1e9 for i in range(11)])
    assert macs.fixed == pytest.approx(540e-9)
    assert macs.limit is None


def test_multiply_adds_of_the_rest_may_be_unknown(caplog):
    net = SimpleNamespace()
    with caplog.at_level(logging.WARNING, "basicsr"):
        macs = multiply_add_resource(net, Tiny().prunable_groups(), (4, 5), limit=1.0)
    assert macs.fixed == 0
    assert "budget.macs_g: SimpleNamespace has no multiply_adds()" in caplog.text


def test_latency_is_only_measured_when_limited(monkeypatch):
    monkeypatch.setattr(costs, "_timer", None)
    assert set(resources()) == {"blocks", "params", "macs_g"}


def test_latency_is_measured_on_a_copy_in_evaluation():
    net = Tiny(2).train()
    latency = resources(net, latency_ms=1.0, ref_size=(4, 5))["latency_ms"]
    assert len(latency.groups) == 2
    assert min(latency.groups) >= 0
    assert 0 < latency.fixed < latency.record["full_ms"]
    assert net.training
    assert net.calls == 0
    record = latency.record
    assert {key: record[key] for key in ("device", "device_name", "dtype", "torch", "size", "runs")} == {
        "device": "cpu", "device_name": "cpu", "dtype": "float32", "torch": torch.__version__, "size": [4, 5],
        "runs": 10,
    }  # fmt: skip


def fake_timer(time_of, monkeypatch):
    monkeypatch.setattr(costs, "_timer", lambda net, size, device: time_of)


def test_latency_of_a_group_is_the_mean_of_adding_and_removing_it(monkeypatch, caplog):
    group_costs = [1.0, 2.0, 4.0]

    def time_of(mask):  # the first group costs 0.2 more where the second is
        return 10 + sum(c for c, bit in zip(group_costs, mask, strict=True) if bit) + 0.2 * (mask[0] and mask[1])

    fake_timer(time_of, monkeypatch)
    with caplog.at_level(logging.WARNING, "basicsr"):
        table = latency_table(Tiny(), 3, (4, 5), "cpu", runs=1)
    assert table["groups_ms"] == pytest.approx([1.1, 2.1, 4.0])
    assert (table["fixed_ms"], table["full_ms"]) == pytest.approx((10, 17.2))
    assert 0 < table["additivity_error"] < 0.02
    assert caplog.text == ""


def test_latency_is_the_median_of_the_runs(monkeypatch):
    times = iter([50.0] * 2 + [time for base in (1.0, 90.0, 2.0) for time in [base] * (2 + 2 * 1 + 5)])
    fake_timer(lambda mask: next(times), monkeypatch)
    assert latency_table(Tiny(), 1, (4, 5), "cpu", runs=3)["full_ms"] == 2.0


def test_latencies_that_do_not_add_up_are_reported(monkeypatch, caplog):
    fake_timer(lambda mask: 1.0 + sum(mask) ** 2, monkeypatch)
    with caplog.at_level(logging.WARNING, "basicsr"):
        table = latency_table(Tiny(), 6, (4, 5), "cpu", runs=1)
    assert table["additivity_error"] > 0.1
    assert f"add up to {100 * table['additivity_error']:.0f} % off" in caplog.text


def test_unknown_latency_device():
    with pytest.raises(ValueError, match=r"budget.latency_device: is not on this machine, got 'gpu9'; use auto or cpu"):
        resources(latency_ms=1.0, latency_device="gpu9")


def test_resource():
    params = Resource("params", 100, (10, 30, 20), limit=130)
    assert params.full == 160
    assert params.total((1, 0, 1)) == params.total(torch.tensor([1.0, 0.0, 1.0])) == 130
    assert params.fits(130)
    assert not params.fits(130.5)
    assert [params.minimum(count) for count in range(4)] == [100, 110, 130, 160]
    assert params.minimum(2, force_keep=[1]) == 140
    assert params.minimum(1, force_drop=[0]) == 120
    with pytest.raises(ValueError):
        params.total((1, 0))


def test_a_limit_met_but_for_rounding_fits():
    assert 0.1 + 0.2 > 0.3
    assert Resource("macs_g", 0.1, (0.2,), limit=0.3).fits(0.1 + 0.2)
    assert Resource("macs_g", 0.1, (0.2,)).fits(1e9)


def test_all_processes_use_the_latencies_of_the_first(monkeypatch):
    """Each would measure others, and allow other masks."""
    first = {"fixed_ms": 2.0, "groups_ms": [3.0] * 11}
    monkeypatch.setattr(costs, "read_on_rank0_and_broadcast", lambda measure: first)  # what another rank gets
    found = resources(latency_ms=9)["latency_ms"]
    assert (found.fixed, found.groups, found.limit) == (2.0, (3.0,) * 11, 9)


def test_latencies_that_were_measured_before_are_used(monkeypatch):
    monkeypatch.setattr(costs, "latency_table", None)
    measured = {"fixed_ms": 2.0, "groups_ms": [3.0] * 11}
    (found,) = (r for r in group_resources(Tiny(), BudgetOptions(latency_ms=9), "cpu", measured) if r.limit)
    assert (found.name, found.fixed, found.record) == ("latency_ms", 2.0, measured)
