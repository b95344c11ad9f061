"""Discriminators: names and shapes of published weights, and outputs from their equations."""

import pytest
import torch
from torch.nn import functional as F

from basicsr.archs import build_network
from basicsr.archs.discriminator_arch import UNetDiscriminatorSN, VGGStyleDiscriminator
from basicsr.config.construction import build_for_shapes


def shapes(net):
    return {key: tuple(value.shape) for key, value in net.state_dict().items()}


def test_unet_names_and_parameters():
    net = build_for_shapes(lambda: build_network({"type": "UNetDiscriminatorSN", "num_in_ch": 3}))
    table = {"conv0.weight": (64, 3, 3, 3), "conv0.bias": (64,), "conv9.weight": (1, 64, 3, 3), "conv9.bias": (1,)}
    widths = {1: (64, 128, 4), 2: (128, 256, 4), 3: (256, 512, 4), 4: (512, 256, 3), 5: (256, 128, 3), 6: (128, 64, 3)}
    for i, (channels, out, side) in {**widths, 7: (64, 64, 3), 8: (64, 64, 3)}.items():
        table[f"conv{i}.weight_orig"] = (out, channels, side, side)
        table |= {f"conv{i}.weight_u": (out,), f"conv{i}.weight_v": (channels * side**2,)}
    assert shapes(net) == table
    assert sum(p.numel() for p in net.parameters()) == 4_376_897


@pytest.mark.parametrize(("size", "parameters"), [(128, 14_499_401), (256, 21_055_049)])
def test_vgg_style_names_and_parameters(size, parameters):
    spec = {"type": "VGGStyleDiscriminator", "num_in_ch": 3, "num_feat": 64, "input_size": size}
    net = build_for_shapes(lambda: build_network(spec))
    widths = [64, 128, 256, 512, 512] + [512] * (size == 256)
    table = {"conv0_0.bias": (64,)}
    for stage, width in enumerate(widths):
        table[f"conv{stage}_0.weight"] = (width, widths[stage - 1] if stage else 3, 3, 3)
        table[f"conv{stage}_1.weight"] = (width, width, 4, 4)
        for place in (0, 1) if stage else (1,):
            table |= {f"bn{stage}_{place}.{key}": (width,) for key in ("weight", "bias", "running_mean", "running_var")}
            table[f"bn{stage}_{place}.num_batches_tracked"] = ()
    table |= {"linear1.weight": (100, 8192), "linear1.bias": (100,), "linear2.weight": (1, 100), "linear2.bias": (1,)}
    assert shapes(net) == table
    assert sum(p.numel() for p in net.parameters()) == parameters


@pytest.mark.parametrize("skip", [True, False])
def test_unet_from_its_equations(skip):
    torch.manual_seed(0)
    net = UNetDiscriminatorSN(3, num_feat=4, skip_connection=skip).double().eval()
    x = torch.rand(2, 3, 16, 24, dtype=torch.float64)
    state = net.state_dict()

    def conv(i, y):
        weight = state[f"conv{i}.weight_orig"]
        weight = weight / (state[f"conv{i}.weight_u"] @ weight.flatten(1) @ state[f"conv{i}.weight_v"])
        return F.leaky_relu(F.conv2d(y, weight, stride=2 if i < 4 else 1, padding=1), 0.2)

    down = [F.leaky_relu(F.conv2d(x, state["conv0.weight"], state["conv0.bias"], padding=1), 0.2)]
    for i in (1, 2, 3):
        down.append(conv(i, down[-1]))
    y = down[3]
    for i, skipped in ((4, down[2]), (5, down[1]), (6, down[0])):
        y = conv(i, F.interpolate(y, scale_factor=2, mode="bilinear")) + (skipped if skip else 0)
    y = conv(8, conv(7, y))
    expected = F.conv2d(y, state["conv9.weight"], state["conv9.bias"], padding=1)
    torch.testing.assert_close(net(x), expected, rtol=1e-10, atol=1e-12)


def test_unet_limits_its_slope_and_takes_odd_sizes():
    torch.manual_seed(0)
    net = UNetDiscriminatorSN(3, num_feat=4)
    for _ in range(50):  # power iterations
        net(torch.rand(1, 3, 8, 8))
    norm = torch.linalg.matrix_norm(net.conv1.weight.detach().flatten(1), ord=2)
    assert norm.item() == pytest.approx(1, abs=1e-3)
    assert net(torch.rand(1, 3, 13, 17)).shape == (1, 1, 13, 17)


def test_vgg_style_from_its_equations():
    torch.manual_seed(0)
    net = VGGStyleDiscriminator(3, 2, input_size=128).double().train()
    x = torch.rand(2, 3, 128, 128, dtype=torch.float64)
    state, y = {k: v.clone() for k, v in net.state_dict().items()}, x
    for stage in range(5):
        y = F.conv2d(y, state[f"conv{stage}_0.weight"], state.get(f"conv{stage}_0.bias"), padding=1)
        y = F.leaky_relu(F.batch_norm(y, None, None, training=True) if stage else y, 0.2)
        y = F.conv2d(y, state[f"conv{stage}_1.weight"], stride=2, padding=1)
        y = F.leaky_relu(F.batch_norm(y, None, None, training=True), 0.2)
    hidden = F.leaky_relu(F.linear(y.flatten(1), state["linear1.weight"], state["linear1.bias"]), 0.2)
    torch.testing.assert_close(net(x), F.linear(hidden, state["linear2.weight"], state["linear2.bias"]))
    assert VGGStyleDiscriminator(1, 1, input_size=256)(torch.rand(1, 1, 256, 256)).shape == (1, 1)
    with pytest.raises(ValueError, match=r"images of 128x128 px \(input_size\), got 64x128; set gt_size"):
        net(torch.rand(1, 3, 64, 128))
    with pytest.raises(ValueError, match="input_size: must be 128 or 256, got 64"):
        VGGStyleDiscriminator(3, 4, input_size=64)
