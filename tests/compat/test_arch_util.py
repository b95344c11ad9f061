"""Building blocks that architectures written for BasicSR 1.4 import."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from basicsr.compat import arch_util


def test_tuples():
    assert arch_util.to_2tuple(3) == (3, 3)
    assert arch_util.to_2tuple((1, 2)) == (1, 2)
    assert arch_util.to_4tuple("a") == "a"  # iterable


def test_initial_weights():
    torch.manual_seed(0)
    expected = nn.init.kaiming_normal_(torch.empty(8, 4, 3, 3)) * 0.1
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(4, 8, 3), nn.BatchNorm2d(8))
    torch.manual_seed(0)
    arch_util.default_init_weights([net], 0.1, bias_fill=0.5)
    torch.testing.assert_close(net[0].weight.detach(), expected)
    assert (net[0].bias == 0.5).all()
    assert (net[1].weight == 1).all()


def test_blocks():
    x = torch.rand(2, 6, 5, 7)
    block = arch_util.make_layer(arch_util.ResidualBlockNoBN, 2, num_feat=6, res_scale=0.5)
    assert [name for name, _ in block[0].named_parameters()] == [
        "conv1.weight",
        "conv1.bias",
        "conv2.weight",
        "conv2.bias",
    ]
    one = block[0]
    torch.testing.assert_close(one(x), x + 0.5 * one.conv2(F.relu(one.conv1(x))))


@pytest.mark.parametrize(("scale", "convolutions"), [(2, [24]), (3, [54]), (4, [24, 24]), (8, [24, 24, 24])])
def test_upsample(scale, convolutions):
    net = arch_util.Upsample(scale, 6)
    assert [m.out_channels for m in net if isinstance(m, nn.Conv2d)] == convolutions
    assert net(torch.rand(1, 6, 3, 4)).shape == (1, 6, 3 * scale, 4 * scale)


def test_upsample_refuses_other_scales():
    with pytest.raises(ValueError, match="scale 6 is not supported"):
        arch_util.Upsample(6, 4)


def test_pixel_unshuffle():
    x = torch.rand(2, 3, 4, 6)
    y = arch_util.pixel_unshuffle(x, 2)
    assert y.shape == (2, 12, 2, 3)
    assert torch.equal(F.pixel_shuffle(y, 2), x)


def test_flow():
    x = torch.rand(1, 2, 5, 6)
    flow = torch.zeros(1, 5, 6, 2)
    flow[..., 0] = 1  # each pixel looks at its right neighbour
    torch.testing.assert_close(arch_util.flow_warp(x, flow)[..., :-1], x[..., 1:])
    small = arch_util.resize_flow(torch.ones(1, 2, 4, 8), "shape", (2, 2))
    assert small[0, :, 0, 0].tolist() == [0.25, 0.5]
