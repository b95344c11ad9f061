"""Optimizers as CUDA wants them, on the CPU: fused steps, rates in tensors, states that move between devices."""

import copy

import pytest
import torch
from torch import nn

from basicsr.engine.optimizer_groups import (
    arguments_on,
    is_capturable,
    load_state,
    optimizer_mismatch,
    plain_state,
    put_rates_on_device,
    rate_of,
    set_rate,
)
from basicsr.engine.optimizers import MUON

CUDA, CPU = torch.device("cuda"), torch.device("cpu")
MAKERS = {
    "Adam": lambda net, **options: torch.optim.Adam(net.parameters(), 1e-2, **options),
    "AdamW": lambda net, **options: torch.optim.AdamW(net.parameters(), 1e-2, weight_decay=0.1, **options),
    "MUON": lambda net, **options: MUON(
        net.named_parameters(), (1e-2, 1e-3), **{k: v for k, v in options.items() if k != "fused"}
    ),
}


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 6, 3), nn.Conv2d(6, 6, 3), nn.Conv2d(6, 4, 1))


def take_steps(net, optimizer, first, last, rates=True):
    for t in range(first, last + 1):
        if rates:
            for group in optimizer.param_groups:
                set_rate(group, 0.01 / t)
        generator = torch.Generator().manual_seed(t)
        for p in net.parameters():
            p.grad = torch.randn(p.shape, generator=generator)
        optimizer.step()


@pytest.mark.parametrize(
    ("spec", "device", "expected"),
    [
        ({"type": "Adam"}, CUDA, {"fused": True, "capturable": True}),
        ({"type": "AdamW", "fused": False}, CUDA, {"capturable": True}),
        ({"type": "AdamW", "foreach": True}, CUDA, {"capturable": True}),
        ({"type": "Adam", "capturable": False}, CUDA, {"fused": True}),
        ({"type": "MUON"}, CUDA, {"capturable": True}),
        ({"type": "SGD"}, CUDA, {}),
        ({"type": "Adam"}, CPU, {}),
        ({"type": "MUON"}, CPU, {}),
    ],
)
def test_what_cuda_adds_to_the_options(spec, device, expected):
    assert arguments_on(device, spec) == expected


@pytest.mark.parametrize("kind", MAKERS)
class TestRatesInTensors:
    def test_steps_equal_those_with_numbers(self, kind):
        plain, tensors = network(), network()
        numbers, on_device = MAKERS[kind](plain), MAKERS[kind](tensors, fused=True, capturable=True)
        put_rates_on_device(on_device)
        put_rates_on_device(numbers)
        assert is_capturable(on_device)
        assert not is_capturable(numbers)
        take_steps(plain, numbers, 1, 4)
        take_steps(tensors, on_device, 1, 4)
        torch.testing.assert_close(tensors.state_dict(), plain.state_dict(), rtol=0, atol=2e-6)

    def test_are_read_as_numbers(self, kind):
        optimizer = MAKERS[kind](network(), fused=True, capturable=True)
        before = [group["lr"] for group in optimizer.param_groups]
        put_rates_on_device(optimizer)
        assert [rate_of(group) for group in optimizer.param_groups] == before
        (tensor, *_) = (group["lr"] for group in optimizer.param_groups)
        set_rate(optimizer.param_groups[0], 0.3)
        assert optimizer.param_groups[0]["lr"] is tensor
        assert tensor.item() == pytest.approx(0.3)
        assert rate_of(optimizer.param_groups[0]) == 0.3  # not float32's 0.30000001192...

    def test_states_hold_numbers_and_go_on_either_way(self, kind):
        straight = network()
        whole = MAKERS[kind](straight)
        take_steps(straight, whole, 1, 6)
        for first, second in ((False, True), (True, False), (True, True)):
            net = network()
            optimizer = None
            for flag, (begin, end) in ((first, (1, 3)), (second, (4, 6))):
                saved = plain_state(optimizer) if optimizer is not None else None
                flags = {"fused": True, "capturable": True} if flag else {}
                optimizer = MAKERS[kind](net, **flags)
                put_rates_on_device(optimizer)
                if saved is not None:
                    assert all(
                        isinstance(group["lr"], float) and "rate" not in group for group in saved["param_groups"]
                    )
                    assert optimizer_mismatch(optimizer, saved) == ""
                    load_state(optimizer, copy.deepcopy(saved))
                take_steps(net, optimizer, begin, end)
                for group in optimizer.param_groups:
                    assert isinstance(group["lr"], torch.Tensor) is flag
                    assert bool(group.get("capturable")) is flag
            torch.testing.assert_close(net.state_dict(), straight.state_dict(), rtol=0, atol=4e-6)


def test_the_number_of_steps_follows_this_runs_flags(monkeypatch):
    """PyTorch asks the saved groups, which are those of the other device."""
    saved = plain_state(MAKERS["Adam"](network(), fused=True))
    for key in range(6):
        saved["state"][key] = {"step": torch.tensor(3.0), "exp_avg": torch.zeros(()), "exp_avg_sq": torch.zeros(())}
    seen = []
    policy = torch.optim.Optimizer._process_value_according_to_param_policy

    def asked(param, value, param_id, param_groups, key=None):
        seen.append((key, param_groups[0].get("fused"), param_groups[0].get("capturable")))
        return policy(param, value, param_id, param_groups, key)

    monkeypatch.setattr(torch.optim.Optimizer, "_process_value_according_to_param_policy", staticmethod(asked))
    load_state(MAKERS["Adam"](network()), saved)
    assert ("step", None, False) in seen
    seen.clear()
    load_state(MAKERS["Adam"](network(), fused=True, capturable=True), saved)
    assert ("step", True, True) in seen


@pytest.mark.gpu
@pytest.mark.parametrize("kind", MAKERS)
def test_a_step_on_cuda_reads_nothing(kind):
    if not torch.cuda.is_available():
        pytest.skip("needs CUDA")
    net = network().cuda()
    optimizer = MAKERS[kind](net, fused=True, capturable=True)
    put_rates_on_device(optimizer)
    for p in net.parameters():
        p.grad = torch.ones_like(p)
    optimizer.step()
    torch.cuda.set_sync_debug_mode("error")
    try:
        set_rate(optimizer.param_groups[0], 1e-4)
        nn.utils.clip_grad_norm_(list(net.parameters()), 0.1)
        optimizer.step()
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_averages_take_the_memory_format_of_their_parameters():
    """As states of networks that were not yet in channels-last memory; fused steps on CUDA refuse them otherwise."""
    before, after = network(), network().to(memory_format=torch.channels_last)
    old = MAKERS["Adam"](before)
    take_steps(before, old, 1, 3)
    after.load_state_dict(before.state_dict())
    new = MAKERS["Adam"](after)
    load_state(new, copy.deepcopy(plain_state(old)))
    for parameter, learned in new.state.items():
        assert learned["exp_avg"].stride() == learned["exp_avg_sq"].stride() == parameter.stride()
    take_steps(before, old, 4, 6)
    take_steps(after, new, 4, 6)
    torch.testing.assert_close(after.state_dict(), before.state_dict(), rtol=0, atol=0)
