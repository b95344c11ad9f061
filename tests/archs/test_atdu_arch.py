import pytest
import torch
import torch.nn.functional as F
from reference.atd_literal import LiteralATDUNet
from torch.utils.flop_counter import FlopCounterMode

from basicsr.archs.atd_arch import ATD
from basicsr.archs.atdu_arch import TINY, ATDUNet
from basicsr.config.registry import ARCH_REGISTRY
from basicsr.engine.checkpoint import load_weights
from basicsr.errors import CheckpointError

THREE = {
    "in_chans": 1, "embed_dim": 8, "depths": (2, 1, 2), "num_heads": (1, 2, 4), "window_size": (8, 4, 4),
    "dim_ffn_td": (2, 3, 3), "category_size": (24, 16, 20), "num_tokens": (8, 6, 5), "reducted_dim": (3, 4, 4),
    "convffn_kernel_size": 3, "mlp_ratio": 2.66,
}  # fmt: skip


def pair(**config):
    """The network and its literal twin in float64 with the same weights, each of which matters."""
    literal = LiteralATDUNet(**config).double()
    for parameter in literal.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    net = ATDUNet(**config).double()
    net.load_state_dict(literal.state_dict())
    return net.eval(), literal.eval()


@pytest.mark.parametrize("name", ["u_color_3level_bias_even", "u_color_3level_bias_odd", "u_gray_4level_odd"])
def test_equals_the_published_outputs(shared, name):
    golden = torch.load(shared / "goldens" / "atd" / f"{name}.pt", weights_only=True)
    net = ATDUNet(**golden["config"]).eval()
    net.load_state_dict(golden["state_dict"])
    with torch.no_grad():
        torch.testing.assert_close(net(golden["input"]), golden["output"], rtol=0, atol=1e-5)
        output = net.double()(golden["input"].double())
    torch.testing.assert_close(output, golden["output_float64"], rtol=0, atol=1e-7)


@pytest.mark.parametrize(("in_chans", "parameters"), [(1, 24_903_392), (3, 24_905_120)])
def test_the_preset_has_the_published_size(in_chans, parameters):
    with torch.device("meta"):
        net = ARCH_REGISTRY.get("ATD-U")(in_chans=in_chans)
    assert sum(parameter.numel() for parameter in net.parameters()) == parameters
    assert len(net.state_dict()) == 971


@pytest.mark.parametrize(("side", "giga"), [(128, 69.0), (256, 275.1), (512, 1099.7)])
def test_the_preset_has_the_published_cost(side, giga):
    with torch.device("meta"):
        net = ARCH_REGISTRY.get("ATD-U")()
    assert sum(net.multiply_adds(side, side)) / 1e9 == pytest.approx(giga, rel=0.001)


@pytest.mark.parametrize("config", [TINY, THREE, THREE | {"bias": True, "patch_norm": True}], ids=["2", "3", "bias"])
@pytest.mark.parametrize(("batch", "size"), [(1, (1, 1)), (2, (5, 17)), (1, (16, 16)), (2, (18, 37))])
def test_equals_the_literal_network(config, batch, size):
    net, literal = pair(**config)
    x = torch.rand(batch, config["in_chans"], *size, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(net(x), literal(x), rtol=0, atol=1e-9)


def test_has_the_gradients_of_the_literal_network():
    net, literal = pair(**THREE)
    x, target = torch.rand(2, 2, 1, 18, 21, dtype=torch.float64)
    for network in (net.train(), literal.train()):
        F.mse_loss(network(x), target).backward()
    expected = dict(literal.named_parameters())
    for name, parameter in net.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[name].grad, rtol=1e-6, atol=1e-10)


def test_multiply_adds_equal_those_counted_in_the_literal_network():
    with FlopCounterMode(display=False) as counter:
        LiteralATDUNet(**THREE).requires_grad_(False)(torch.rand(1, 1, 18, 37))
    assert sum(ATDUNet(**THREE).multiply_adds(18, 37)) == counter.get_total_flops() / 2


def test_checkpointing_changes_no_gradient():
    plain, checkpointed = ATDUNet(**TINY), ATDUNet(use_checkpoint=True, **TINY)
    checkpointed.load_state_dict(plain.state_dict())
    x = torch.rand(2, 3, 9, 13)
    for net in (plain, checkpointed):
        net.train()(x).square().mean().backward()
    for mine, theirs in zip(checkpointed.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, theirs.grad, rtol=0, atol=1e-7)


@pytest.mark.skipif(torch.__version__ < (2, 10), reason="exports need a newer PyTorch")
def test_evaluation_can_be_exported():
    net, x = ATDUNet(**(TINY | {"depths": (1, 1)})).eval(), torch.rand(1, 3, 9, 13)
    exported = torch.export.export(net, (x,)).module()
    with torch.no_grad():
        torch.testing.assert_close(exported(x), net(x), rtol=0, atol=1e-5)


def test_weights_of_relatives_are_named_both_ways(tmp_path):
    unet, atd = ATDUNet(**TINY), ATD(embed_dim=12, depths=[1], num_heads=[2], upsampler="", upscale=1, dim_ffn_td=3)
    for net, other, message in (
        (unet, atd, "these are weights of ATD v2, the network is ATD-U: build type ATD with dim_ffn_td"),
        (atd, unet, "these are weights of ATD-U, the network is ATD v2: build type ATDUNet"),
    ):
        torch.save({"params": other.state_dict()}, tmp_path / "x.pth")
        with pytest.raises(CheckpointError, match=message):
            load_weights(net, tmp_path / "x.pth")


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"upscale": 2}, "upscale: must be 1 for ATDUNet, got 2"),
        ({"img_range": 255.0}, "img_range: must be 1 for ATDUNet, got 255"),
        ({"out_chans": 3}, r"out_chans: must be in_chans \(1\), got 3"),
        ({"depths": (2,)}, "depths: needs at least 2 levels"),
        ({"num_tokens": (8, 6)}, "num_tokens: needs one value for each of the 3 depths"),
        ({"window_size": (8, 32, 4)}, "window_size: must divide 8, .* level 1"),
        ({"num_heads": (1, 3, 4)}, r"num_heads: must divide embed_dim \(16\), got \[3\]"),
        ({"category_size": (24, 0, 20)}, "category_size: .*0"),
        ({"convffn_kernel_size": 2}, "convffn_kernel_size: must be odd"),
        ({"embed_dim": 9}, "embed_dim: must be even"),
    ],
    ids=lambda value: None if isinstance(value, str) else "_".join(f"{k}={v}" for k, v in value.items()),
)
def test_arguments_that_do_not_fit_are_refused_by_name(changed, message):
    with pytest.raises(ValueError, match=message):
        ATDUNet(**(THREE | changed))
