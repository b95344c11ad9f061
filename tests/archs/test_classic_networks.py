"""The networks of BasicSR 1.4: names and shapes of published weights, numbers of parameters, and known outputs."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from basicsr.archs import build_network
from basicsr.archs.classic import CLASSIC, classic_spec
from basicsr.archs.edsr_arch import EDSR
from basicsr.archs.published import input_channels, published_spec, read_network
from basicsr.archs.rrdbnet_arch import RRDB, ResidualDenseBlock, RRDBNet
from basicsr.archs.srresnet_arch import MSRResNet
from basicsr.archs.srvgg_arch import SRVGGNetCompact
from basicsr.config.construction import build_for_shapes
from basicsr.errors import CheckpointError

RGB = {"num_in_ch": 3, "num_out_ch": 3}
LARGE = {"num_feat": 256, "num_block": 32, "res_scale": 0.1}
SPECS = {  # name: (spec, parameters)
    "RealESRGAN_x4plus": ({"type": "RRDBNet", **RGB}, 16_697_987),
    "RealESRGAN_x4plus_anime_6B": ({"type": "RRDBNet", **RGB, "num_block": 6}, 4_467_779),
    "RealESRGAN_x2plus": ({"type": "RRDBNet", **RGB, "scale": 2}, 16_703_171),
    "realesr-general-x4v3": ({"type": "SRVGGNetCompact", "num_conv": 32}, 1_213_296),
    "realesr-animevideov3": ({"type": "SRVGGNetCompact"}, 621_424),
    "EDSR_M x2": ({"type": "EDSR", **RGB, "upscale": 2}, 1_369_859),
    "EDSR_M x3": ({"type": "EDSR", **RGB, "upscale": 3}, 1_554_499),
    "EDSR_M x4": ({"type": "EDSR", **RGB}, 1_517_571),
    "EDSR_L x2": (
        {"type": "EDSR", **RGB, "upscale": 2, **LARGE},
        40_729_603,
    ),
    "EDSR_L x4": ({"type": "EDSR", **RGB, **LARGE}, 43_089_923),
    "MSRResNet x2": ({"type": "MSRResNet", "upscale": 2}, 1_369_859),
    "MSRResNet x3": ({"type": "MSRResNet", "upscale": 3}, 1_554_499),
    "MSRResNet x4": ({"type": "MSRResNet"}, 1_517_571),
}


def convolution(name, channels, out, size=3):
    return {f"{name}.weight": (out, channels, size, size), f"{name}.bias": (out,)}


def keys_of_rrdbnet(blocks, channels=3):
    table = convolution("conv_first", channels, 64)
    for i in range(blocks):
        for j in (1, 2, 3):
            for k in range(5):
                table |= convolution(f"body.{i}.rdb{j}.conv{k + 1}", 64 + 32 * k, 32 if k < 4 else 64)
    for name in ("conv_body", "conv_up1", "conv_up2", "conv_hr"):
        table |= convolution(name, 64, 64)
    return table | convolution("conv_last", 64, 3)


def keys_of_srvgg(convs):
    table = convolution("body.0", 3, 64) | {"body.1.weight": (64,)}
    for i in range(1, convs + 1):
        table |= convolution(f"body.{2 * i}", 64, 64) | {f"body.{2 * i + 1}.weight": (64,)}
    return table | convolution(f"body.{2 * convs + 2}", 64, 48)


def residual_blocks(feat, blocks):
    return {
        key: shape
        for i in range(blocks)
        for k in (1, 2)
        for key, shape in convolution(f"body.{i}.conv{k}", feat, feat).items()
    }


def keys_of_edsr(feat, blocks, factors):
    table = convolution("conv_first", 3, feat) | residual_blocks(feat, blocks)
    table |= convolution("conv_after_body", feat, feat)
    for i, factor in enumerate(factors):
        table |= convolution(f"upsample.{2 * i}", feat, feat * factor**2)
    return table | convolution("conv_last", feat, 3)


def keys_of_msrresnet(factors):
    table = convolution("conv_first", 3, 64) | residual_blocks(64, 16)
    for i, factor in enumerate(factors):
        table |= convolution(f"upconv{i + 1}", 64, 64 * factor**2)
    return table | convolution("conv_hr", 64, 64) | convolution("conv_last", 64, 3)


KEYS = {
    "RealESRGAN_x4plus": keys_of_rrdbnet(23),
    "RealESRGAN_x4plus_anime_6B": keys_of_rrdbnet(6),
    "RealESRGAN_x2plus": keys_of_rrdbnet(23, channels=12),
    "realesr-general-x4v3": keys_of_srvgg(32),
    "realesr-animevideov3": keys_of_srvgg(16),
    "EDSR_M x2": keys_of_edsr(64, 16, [2]),
    "EDSR_M x3": keys_of_edsr(64, 16, [3]),
    "EDSR_M x4": keys_of_edsr(64, 16, [2, 2]),
    "EDSR_L x2": keys_of_edsr(256, 32, [2]),
    "EDSR_L x4": keys_of_edsr(256, 32, [2, 2]),
    "MSRResNet x2": keys_of_msrresnet([2]),
    "MSRResNet x3": keys_of_msrresnet([3]),
    "MSRResNet x4": keys_of_msrresnet([2, 2]),
}


def of_shapes(spec):
    return build_for_shapes(lambda: build_network(spec))


@pytest.mark.parametrize("name", SPECS)
def test_published_names_shapes_and_parameters(name):
    spec, parameters = SPECS[name]
    net = of_shapes(spec)
    assert {key: tuple(value.shape) for key, value in net.state_dict().items()} == KEYS[name]
    assert sum(p.numel() for p in net.parameters()) == parameters


@pytest.mark.parametrize("name", SPECS)
def test_published_weights_are_recognised(name):
    spec, _ = SPECS[name]
    weights = {key: torch.empty(shape, device="meta") for key, shape in KEYS[name].items()}
    found = published_spec(weights, "x.pth")
    assert spec.items() <= ({"scale": 4, "upscale": 4, "res_scale": 1.0} | found).items()
    assert input_channels(found) == 3
    assert found["type"] in CLASSIC


def test_a_published_file_loads(tmp_path):
    spec = {"type": "RRDBNet", **RGB, "scale": 2, "num_feat": 8, "num_block": 2, "num_grow_ch": 4}
    net = build_network(spec)
    torch.save({"params_ema": net.state_dict()}, tmp_path / "x.pth")
    found, described, is_published = read_network(tmp_path / "x.pth")
    assert described == spec
    assert is_published
    x = torch.rand(1, 3, 6, 8)
    with torch.no_grad():
        assert torch.equal(found(x), net(x))


def test_weights_of_odd_shapes_are_of_no_network():
    weights = {key: torch.empty(shape, device="meta") for key, shape in keys_of_srvgg(2).items()}
    del weights["body.1.weight"]
    assert classic_spec(weights) is None
    with pytest.raises(CheckpointError, match=r"x\.pth: carries no network_g.*RRDBNet"):
        published_spec(weights, "x.pth")


def randomised(net):
    """A float64 network whose every parameter matters."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in net.double().parameters():
            p.copy_(0.2 * torch.randn(p.shape, generator=generator, dtype=torch.float64))
    return net.eval()


def conv(net, name, x):
    weight, bias = net.state_dict()[f"{name}.weight"], net.state_dict()[f"{name}.bias"]
    return F.conv2d(x, weight, bias, padding=1)


def lrelu(x, slope):
    return torch.maximum(x, slope * x)


def assert_equal(net, x, expected):
    with torch.no_grad():
        torch.testing.assert_close(net(x), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("scale", [1, 2, 4])
def test_rrdbnet_from_its_equations(scale):
    net = randomised(RRDBNet(3, 3, scale=scale, num_feat=6, num_block=2, num_grow_ch=4))
    x = torch.rand(2, 3, 8, 12, dtype=torch.float64)
    y = first = conv(net, "conv_first", F.pixel_unshuffle(x, 4 // scale))
    for i in range(2):
        block = y
        for j in (1, 2, 3):
            maps = [y]
            for k in (1, 2, 3, 4):
                maps.append(lrelu(conv(net, f"body.{i}.rdb{j}.conv{k}", torch.cat(maps, 1)), 0.2))
            y = y + 0.2 * conv(net, f"body.{i}.rdb{j}.conv5", torch.cat(maps, 1))
        y = block + 0.2 * y
    y = first + conv(net, "conv_body", y)
    for name in ("conv_up1", "conv_up2"):
        y = lrelu(conv(net, name, y.repeat_interleave(2, 2).repeat_interleave(2, 3)), 0.2)
    assert_equal(net, x, conv(net, "conv_last", lrelu(conv(net, "conv_hr", y), 0.2)))


def test_rrdbnet_parts_and_errors():
    x = torch.rand(1, 6, 5, 5)
    assert ResidualDenseBlock(6, 4)(x).shape == RRDB(6, 4)(x).shape == x.shape
    with pytest.raises(ValueError, match="scale: must be 1, 2 or 4, got 3"):
        RRDBNet(3, 3, scale=3)


@pytest.mark.parametrize("act_type", ["relu", "prelu", "leakyrelu"])
def test_srvgg_from_its_equations(act_type):
    net = randomised(SRVGGNetCompact(num_feat=6, num_conv=2, upscale=3, act_type=act_type))
    x = torch.rand(2, 3, 7, 5, dtype=torch.float64)
    y = x
    for i in (0, 2, 4):
        y = conv(net, f"body.{i}", y)
        slope = {"relu": 0.0, "leakyrelu": 0.1}.get(act_type)
        if slope is None:
            slope = net.state_dict()[f"body.{i + 1}.weight"].view(1, -1, 1, 1)
        y = torch.where(y > 0, y, slope * y)
    y = F.pixel_shuffle(conv(net, "body.6", y), 3)
    assert_equal(net, x, y + x.repeat_interleave(3, 2).repeat_interleave(3, 3))


def body(net, y, blocks, res_scale=1.0):
    for i in range(blocks):
        y = y + res_scale * conv(net, f"body.{i}.conv2", conv(net, f"body.{i}.conv1", y).clamp_min(0))
    return y


def test_edsr_from_its_equations():
    net = randomised(EDSR(3, 3, num_feat=6, num_block=2, upscale=4, res_scale=0.1))
    x = torch.rand(2, 3, 7, 5, dtype=torch.float64)
    mean = torch.tensor([0.4488, 0.4371, 0.4040]).double().view(1, 3, 1, 1)
    first = conv(net, "conv_first", (x - mean) * 255)
    y = first + conv(net, "conv_after_body", body(net, first, 2, 0.1))
    for i in (0, 2):
        y = F.pixel_shuffle(conv(net, f"upsample.{i}", y), 2)
    assert_equal(net, x, conv(net, "conv_last", y) / 255 + mean)


@pytest.mark.parametrize("upscale", [2, 3, 4])
def test_msrresnet_from_its_equations(upscale):
    net = randomised(MSRResNet(num_feat=6, num_block=2, upscale=upscale))
    x = torch.rand(2, 3, 7, 5, dtype=torch.float64)
    y = body(net, lrelu(conv(net, "conv_first", x), 0.1), 2)
    for i, factor in enumerate({2: [2], 3: [3], 4: [2, 2]}[upscale]):
        y = lrelu(F.pixel_shuffle(conv(net, f"upconv{i + 1}", y), factor), 0.1)
    y = conv(net, "conv_last", lrelu(conv(net, "conv_hr", y), 0.1))
    assert_equal(net, x, y + nn.Upsample(scale_factor=upscale, mode="bilinear")(x))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: EDSR(1, 1), r"rgb_mean: has 3 values for 1 channels"),
        (lambda: EDSR(3, 3, img_range=0), "img_range: must be above 0"),
        (lambda: EDSR(3, 3, upscale=6), "upscale: must be 3 or a power of 2, got 6"),
        (lambda: MSRResNet(num_out_ch=1), r"num_out_ch: must be num_in_ch \(3\), got 1"),
        (lambda: SRVGGNetCompact(act_type="gelu"), "act_type: must be one of relu, prelu, leakyrelu, got 'gelu'"),
        (lambda: SRVGGNetCompact(num_feat=0), "num_feat: must be at least 1, got 0"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(build, message):
    with pytest.raises(ValueError, match=message):
        build()
