"""How many calls a forward and a training step hand to the device, by the plain path: geometry must not count."""

import pytest
import torch
from torch.nn import functional as F

from basicsr.archs import build_network, fast_catanet
from basicsr.engine.launches import count_launches


@pytest.fixture(autouse=True)
def no_kernels(monkeypatch):
    monkeypatch.setenv("BASICSR_KERNELS", "0")
    monkeypatch.setattr(fast_catanet, "_fused", lambda x: False)  # what only CPUs have


def network(name):
    net = build_network({"type": name, "upscale": 4})
    net.train()(torch.rand(1, 3, 16, 16))  # sets the token centres
    return net


def of_forward(net, batch=1, side=64):
    lq = torch.rand(batch, 3, side, side)
    with torch.no_grad():  # composite calls are counted in their parts
        net(lq)  # makes the plans
        return count_launches(lambda: net(lq))


@pytest.mark.parametrize(("name", "form", "most"), [
    ("CATANet-L", "prepared", 600), ("CATANet-L", "train", 700), ("CATANet-XS", "prepared", 260),
])  # fmt: skip
def test_of_an_evaluation(name, form, most):
    net = network(name).eval()
    assert of_forward(net.prepared() if form == "prepared" else net) <= most


@pytest.mark.parametrize(
    ("name", "most"), [pytest.param("CATANet-L", 3000, marks=pytest.mark.slow), ("CATANet-XS", 1150)]
)
def test_of_a_training_step(name, most):
    """Forward and backward of 16 images; their size does not matter."""
    net = network(name)
    lq, gt = torch.rand(16, 3, 32, 32), torch.rand(16, 3, 128, 128)

    def step():
        F.l1_loss(net(lq), gt).backward()

    step()
    net.zero_grad()
    assert count_launches(step) <= most


@pytest.mark.parametrize("name", ["CATANet-XS", "ATD-light", "ATD-v1-light"])
def test_no_loop_over_images(name):
    """A further image costs no call; only the second needs some, where it cannot share memory with the first."""
    net = network(name).eval()
    one, two, five = (of_forward(net, batch, 16) for batch in (1, 2, 5))
    assert one < two == five
