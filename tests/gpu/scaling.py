"""Checks of training with scaled gradients, which float16 needs, on any device."""

import torch
from gpu.training import catanet_float16, difference, with_device
from helpers import resolved_options

from basicsr.engine.checkpoint import load_file
from basicsr.models import build_model

SCALE = 2.0**12


def build_float16_model(folder, device):
    """Build a model that trains in float16; its scale doubles after every second finite step."""
    model = build_model(resolved_options(folder, with_device(device, catanet_float16(folder))))
    model.training_step.scaler = torch.amp.GradScaler(device, init_scale=SCALE, growth_interval=2)
    return model


def steps(model, first, last):
    for it in range(first, last + 1):
        generator = torch.Generator().manual_seed(it)
        model.update_learning_rate(it)
        model.feed_data(
            {key: torch.rand(2, 3, side, side, generator=generator) for key, side in (("lq", 12), ("gt", 24))}
        )
        model.optimize_parameters(it)


def parameters(model):
    return {name: value.detach().clone() for name, value in model.net_g.named_parameters()}


def check_scale_growth_and_resume(folder, device):
    model = build_float16_model(folder, device)
    steps(model, 1, 3)
    assert model.training_step.scaler.get_scale() == 2 * SCALE
    model.save(0, 3)
    saved = folder / "experiments/run"
    again = build_float16_model(folder, device)
    again.resume_training(
        load_file(saved / "training_states/3.state"), load_file(saved / "models/net_g_3.pth"), "net_g_3.pth"
    )
    assert again.training_step.scaler.state_dict() == model.training_step.scaler.state_dict()
    before = parameters(model)
    for one in (model, again):
        steps(one, 4, 5)
        assert one.training_step.scaler.get_scale() == 4 * SCALE
    assert difference(parameters(again), parameters(model)) < 0.05 * difference(before, parameters(model))


def check_overflow_halves_scale(folder, device):
    model = build_float16_model(folder, device)
    steps(model, 1, 1)
    before = parameters(model)
    handle = model.net_g.last_conv.weight.register_hook(lambda grad: grad * float("inf"))
    steps(model, 2, 2)
    handle.remove()
    assert model.training_step.scaler.get_scale() == SCALE / 2
    torch.testing.assert_close(parameters(model), before, rtol=0, atol=0)
    steps(model, 3, 3)
    assert not torch.equal(model.net_g.last_conv.weight, before["last_conv.weight"])
