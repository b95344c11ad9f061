"""Free memory by control groups and limits, and the memory that networks take."""

import re

import pytest
import torch

from basicsr.archs import build_network
from basicsr.engine import device
from basicsr.engine.device import memory_limit
from basicsr.errors import OptionError
from basicsr.inference import memory
from basicsr.inference.memory import PEAK_MARGIN, PeakMemoryEstimator, parse_bytes, peak_tensor_bytes
from basicsr.inference.upscaler import Upscaler


@pytest.mark.parametrize(
    ("text", "expected"),
    [("2", 2 * 2**30), ("2G", 2 * 2**30), ("1.5 GB", 3 * 2**29), ("800M", 800 * 2**20), ("64kib", 2**16)],
)
def test_amounts(text, expected):
    assert parse_bytes(text) == expected


@pytest.mark.parametrize("text", ["", "G", "-1", "0", "2 apples", "1e9"])
def test_what_is_no_amount(text):
    with pytest.raises(ValueError, match="expected an amount of memory such as 2G"):
        parse_bytes(text)


def test_the_least_of_all_limits_counts(monkeypatch):
    monkeypatch.setattr(device, "_available_memory", lambda: 10)
    monkeypatch.setattr(device, "_control_group_memory", lambda: [7, 9])
    assert memory_limit(torch.device("cpu")) == 7
    monkeypatch.setattr(device, "_control_group_memory", lambda: [-3])
    assert memory_limit(torch.device("cpu")) == 0


def test_control_groups_of_both_versions_and_their_parents(tmp_path):
    root, proc = tmp_path / "cgroup", tmp_path / "proc"

    def group(folder, limit, used, cached, names):
        (root / folder).mkdir(parents=True, exist_ok=True)
        for name, value in zip(
            (*names, "memory.stat"), (limit, used, f"file 1\ninactive_file {cached}\n"), strict=True
        ):
            (root / folder / name).write_text(f"{value}\n")

    two = ("memory.max", "memory.current")
    group("a", "3000", "1000", 200, two)
    group("a/b", "max", "900", 0, two)
    proc.write_text("0::/a/b\n")
    assert device._control_group_memory(str(proc), str(root)) == [2200]
    one = ("memory.limit_in_bytes", "memory.usage_in_bytes")
    group("memory", str(2**63 - 4096), "5", 0, one)
    group("memory/c", "5000", "5", 0, one)
    proc.write_text("12:cpu,cpuacct:/c\n4:memory:/c\n")
    assert min(device._control_group_memory(str(proc), str(root))) == 4995
    assert device._control_group_memory(str(tmp_path / "none"), str(root)) == []


def test_the_peak_counts_what_lives_at_a_time_and_is_new():
    x = torch.zeros(1000)  # 4000 bytes, from before

    def chain(x):
        for _ in range(5):
            x = x + 1  # two at a time
        return x.view(10, 100)  # no memory of its own

    assert peak_tensor_bytes(chain, x) == 8000
    assert peak_tensor_bytes(lambda x: [x + i for i in range(6)], x) == 24_000
    assert peak_tensor_bytes(lambda x: x.mul_(2), x) == 0


def test_the_estimate_grows_with_the_area_or_faster():
    linear = PeakMemoryEstimator(lambda x: x + 1, 3, torch.device("cpu"))
    assert linear(96, 96) == int(PEAK_MARGIN * 96 * 96 * 3 * 4)
    assert linear(960, 96) == pytest.approx(10 * linear(96, 96), rel=1e-4)

    def all_pairs(x):
        tokens = x.flatten(2)[:, 0]
        return tokens.transpose(1, 2) if tokens.ndim == 3 else tokens.T @ tokens

    square = PeakMemoryEstimator(all_pairs, 3, torch.device("cpu"))
    assert square(960, 96) == pytest.approx(100 * square(96, 96), rel=1e-4)


def test_the_estimate_of_a_network_holds(tmp_path):
    """What a process grows by while CATANet runs is less than estimated, and not far less."""
    from basicsr.archs import build_network

    net = build_network({"type": "CATANet-XS-D", "upscale": 4}).eval()
    estimate_peak = PeakMemoryEstimator(net.prepared(torch.float32), 3, torch.device("cpu"))
    peak = peak_tensor_bytes(net.prepared(torch.float32), torch.rand(1, 3, 160, 120))
    assert peak < estimate_peak(160, 120) < 2 * PEAK_MARGIN * peak


def test_memory_that_cannot_suffice_is_refused_with_what_would(monkeypatch):
    monkeypatch.setattr(memory, "memory_limit", lambda device: 2**34)
    monkeypatch.setattr(memory, "resident_bytes", lambda: 400 * 2**20)
    net = build_network({"type": "Bicubic", "upscale": 4})

    def upscaler(limit):
        return Upscaler(net, {"type": "Bicubic"}, device="cpu", memory=limit)

    with pytest.raises(OptionError, match=r"--memory: must be at least \d+M with this network, got 400M") as error:
        upscaler(400 * 2**20)
    least = int(re.search(r"at least (\d+)M", str(error.value))[1])
    assert 400 < least < 420
    up = upscaler(least * 2**20)  # which is right for small pictures
    assert up.tile_for(64, 64) == 64
    with pytest.raises(MemoryError, match=r"40000x100 px needs --memory \d+M or more, got") as error:
        up.tile_for(100, 40_000)
    needed = int(re.search(r"--memory (\d+)M", str(error.value))[1])
    assert upscaler(needed * 2**20).tile_for(100, 40_000) == 64
