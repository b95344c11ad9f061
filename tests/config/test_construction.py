"""Networks of unchecked sizes: built without memory or within a limit."""

import subprocess
import sys

import pytest
import torch
from torch import nn

from basicsr.config.construction import TooLargeError, build_for_shapes


class Reading(nn.Module):
    """Reads numbers from tensors, then makes `numbers` float32 parameters out of `parts`."""

    def __init__(self, numbers, parts=1, make=torch.empty):
        super().__init__()
        self.rates = [rate.item() for rate in torch.linspace(0, 0.3, 4)]
        self.parts = nn.ParameterList(nn.Parameter(make(numbers // parts)) for _ in range(parts))


def test_without_memory_where_no_number_is_read():
    net = build_for_shapes(lambda: nn.Linear(10**6, 10**6), max_bytes=0)
    assert net.weight.is_meta and net.weight.shape == (10**6, 10**6)


def test_with_values_where_numbers_are_read():
    torch.manual_seed(0)
    state = torch.get_rng_state()
    net = build_for_shapes(lambda: Reading(100, make=torch.rand), max_bytes=10_000)
    assert net.rates == pytest.approx([0, 0.1, 0.2, 0.3])
    assert [p.shape for p in net.parts] == [(100,)] and net.parts[0].device.type == "cpu"
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    ("numbers", "parts", "make"),
    [
        (10**13, 1, torch.empty),
        (10**13, 1, torch.randn),
        (10**13, 1, lambda n: torch.zeros(1).new_empty(n)),
        (10**13, 1, lambda n: torch.zeros(1).repeat(n)),
        (10**13, 1, lambda n: torch.arange(float(n))),
        (10**6, 1, lambda n: torch.zeros(n, 1) + torch.zeros(1, n)),
        (10**6, 1, lambda n: torch.zeros(n, 1) @ torch.zeros(1, n)),
        (10**6, 1, torch.eye),
        (10**7, 100, torch.zeros),
    ],
)
def test_too_large_before_memory_is_taken(numbers, parts, make):
    with pytest.raises(TooLargeError, match="more than 10 MiB"):
        build_for_shapes(lambda: Reading(numbers, parts, make), max_bytes=10 * 2**20)


def test_only_living_tensors_count():
    def build():
        for _ in range(100):
            torch.rand(10**5).sum()
        return Reading(100)

    assert len(build_for_shapes(build, max_bytes=2**20).parts) == 1


def test_wrong_arguments_raise_their_own_error():
    def build():
        torch.zeros(1).item()
        raise ValueError("dim: must be at least 1")

    with pytest.raises(ValueError, match="dim: must be"):
        build_for_shapes(build)


def test_the_compiler_is_not_imported():
    """That takes seconds, before any inference with such a network."""
    code = (
        "import sys, torch; from torch import nn; from basicsr.config.construction import build_for_shapes\n"
        "def build():\n"
        "    rates = torch.linspace(0, 1, 3).tolist()\n"
        "    i = torch.stack(torch.meshgrid([torch.arange(8), torch.arange(8)], indexing='ij')).flatten(1)\n"
        "    mask = torch.zeros(4, 64); mask = mask[:, None] - mask[:, :, None]\n"
        "    mask.masked_fill(mask != 0, -100.0)\n"
        "    return nn.init.trunc_normal_(nn.Linear(9, 9).weight), (i[:, :, None] - i[:, None]).sum(-1)\n"
        "build_for_shapes(build); print('torch._dynamo' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=True)
    assert done.stdout.strip() == "False"
