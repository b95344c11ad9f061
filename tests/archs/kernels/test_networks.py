"""Whole networks with the Triton kernels against the plain path: outputs and gradients, with the same groups.

On the CPU, tiny networks run in Triton's interpreter.
"""

import pytest
import torch

pytest.importorskip("triton")

from archs.registered import tiny
from triton_cases import DEVICE

from basicsr.archs.layers.group_hook import group_choices

NAMES = ["CATANet", "ATD", "ATDUNet"]


@pytest.fixture(params=[False, True], ids=["atomic", "deterministic"])
def deterministic(request):
    torch.use_deterministic_algorithms(request.param)
    yield request.param
    torch.use_deterministic_algorithms(False)


def computed(net, lq, monkeypatch, kernels, forced=None):
    """Return output, groups and gradients, with the kernels or the plain path."""
    monkeypatch.setenv("BASICSR_KERNELS", str(int(kernels)))
    monkeypatch.setenv("BASICSR_TRITON_ON_CPU", "1")
    net.zero_grad()
    with group_choices(forced) as groups:
        out = net(lq)
        out.square().mean().backward()
    return out.detach(), groups.chosen, {name: p.grad.clone() for name, p in net.named_parameters()}


def network(name):
    net = tiny(name).to(DEVICE)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    return net


@pytest.mark.parametrize(
    "name", ["CATANet", *(pytest.param(name, marks=pytest.mark.slow) for name in ("ATD", "ATDUNet"))]
)
def test_a_training_step(name, deterministic, monkeypatch):
    net = network(name).train()
    lq = torch.rand(2, 3, 7, 9, device=DEVICE)
    computed(net, lq, monkeypatch, kernels=False)  # sets token centres
    state = {key: value.clone() for key, value in net.state_dict().items()}
    expected, groups, slopes = computed(net, lq, monkeypatch, kernels=False)
    net.load_state_dict(state)
    found, _, own = computed(net, lq, monkeypatch, kernels=True, forced=groups)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    largest = max(float(slope.abs().max()) for slope in slopes.values())
    for key, slope in slopes.items():
        torch.testing.assert_close(
            own[key], slope, rtol=1e-3, atol=1e-5 * largest, msg=lambda text, key=key: key + text
        )


@pytest.mark.parametrize("name", NAMES)
def test_an_evaluation_chooses_its_own_groups(name, monkeypatch):
    """Without `group_choices`, a kernel finds the nearest centres, too."""
    net = network(name).train()
    lq = torch.rand(1, 3, 14, 15, device=DEVICE)
    computed(net, lq, monkeypatch, kernels=False)
    outputs = []
    for kernels in ("0", "1"):
        monkeypatch.setenv("BASICSR_KERNELS", kernels)
        with torch.inference_mode():
            outputs.append(net.eval()(lq))
            outputs.append((net.prepared() if hasattr(net, "prepared") else net)(lq))
    for output in outputs[1:]:
        torch.testing.assert_close(output, outputs[0], rtol=0, atol=1e-4)


def test_k_means_with_the_kernels(monkeypatch):
    """A training step stores the centres of the plain path."""
    net, lq = network("CATANet").train(), torch.rand(2, 3, 12, 16, device=DEVICE)
    state = {key: value.clone() for key, value in net.state_dict().items()}
    centres = []
    monkeypatch.setenv("BASICSR_TRITON_ON_CPU", "1")
    for kernels in ("0", "1"):
        monkeypatch.setenv("BASICSR_KERNELS", kernels)
        net.load_state_dict(state)
        net(lq)
        centres.append([buffer.clone() for name, buffer in net.named_buffers() if name.endswith("means")])
    for mine, other in zip(*centres, strict=True):
        torch.testing.assert_close(mine, other, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ["CATANet", "ATD"])
def test_a_network_in_half_precision_throughout(name, monkeypatch):
    """Old inference scripts call `net.bfloat16()`, which converts parameters and buffers."""
    net, lq = network(name).train(), torch.rand(1, 3, 8, 8, device=DEVICE)
    monkeypatch.setenv("BASICSR_KERNELS", "0")
    net(lq)  # sets the token centres
    monkeypatch.setenv("BASICSR_KERNELS", "1")
    monkeypatch.setenv("BASICSR_TRITON_ON_CPU", "1")
    with torch.inference_mode():
        expected, found = net.eval()(lq), net.bfloat16()(lq.bfloat16())
    assert found.dtype == torch.bfloat16
    assert (found.float() - expected).square().mean().sqrt() < 0.02
