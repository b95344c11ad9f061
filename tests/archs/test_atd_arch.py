import math

import pytest
import torch
import torch.nn.functional as F
from reference.atd_literal import LiteralATD, position_index
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from basicsr.archs.atd_arch import ATD, RGB_MEAN
from basicsr.archs.layers import atd_attention
from basicsr.archs.layers.atd_family import describe_state
from basicsr.archs.layers.shifted_windows import ShiftedWindows, relative_position_index
from basicsr.archs.layers.tokens import mirrored_to_multiple
from basicsr.config.registry import ARCH_REGISTRY
from basicsr.engine.checkpoint import load_weights
from basicsr.errors import CheckpointError
from basicsr.pruning.compaction import compact, network_spec

V1 = {
    "embed_dim": 12, "depths": [3, 1], "num_heads": [2, 3], "window_size": 4, "category_size": 24, "num_tokens": 10,
    "reducted_dim": 4, "convffn_kernel_size": 3, "mlp_ratio": 1.5, "upsampler": "pixelshuffledirect",
}  # fmt: skip
V2 = V1 | {"dim_ffn_td": 3}
VERSIONS = pytest.mark.parametrize("config", [V1, V2], ids=["v1", "v2"])
SIZES = [(1, 1), (1, 7), (4, 4), (8, 12), (13, 22)]
GOLDENS = [
    "v1_nearestconv_x4_gray_even", "v1_nearestconv_x4_gray_odd", "v1_pixelshuffle_x2_even", "v1_pixelshuffle_x2_odd",
    "v1_pixelshuffle_x3_even", "v1_pixelshuffle_x3_odd", "v1_pixelshuffledirect_x4_even",
    "v1_pixelshuffledirect_x4_odd", "v2_pixelshuffle_x2_odd", "v2_pixelshuffledirect_x3_even",
    "v2_pixelshuffledirect_x3_odd",
]  # fmt: skip


def perturb(net):
    """Make every parameter matter, and temperatures cross both ends of their clamps."""
    for name, parameter in net.named_parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
        if name.endswith("attn_atd.scale"):
            parameter.data += 0.6 * torch.randn_like(parameter)
        if name.endswith("logit_scale"):
            parameter.data.fill_(4.9 if ".0.residual_group.layers.0." in name else 1.3)
    return net


def pair(seed=0, **config):
    """The network and its literal twin in float64 with the same weights."""
    torch.manual_seed(seed)
    literal = perturb(LiteralATD(**config).double())
    net = ATD(**config).double()
    net.load_state_dict(literal.state_dict())
    return net.eval(), literal.eval()


def assert_same(actual, expected, atol):
    torch.testing.assert_close(actual, expected, rtol=0, atol=atol)


# Published numbers


@pytest.mark.parametrize("name", GOLDENS)
def test_equals_the_published_outputs(shared, name):
    golden = torch.load(shared / "goldens" / "atd" / f"{name}.pt", weights_only=True)
    net = ATD(**golden["config"]).eval()
    net.load_state_dict(golden["state_dict"])
    with torch.no_grad():
        assert_same(net(golden["input"]), golden["output"], 1e-5)
        if "output_float64" in golden:
            assert_same(net.double()(golden["input"].double()), golden["output_float64"], 1e-7)


@pytest.mark.parametrize(
    ("name", "upscale", "parameters", "entries"),
    [
        ("ATD", 2, 21_842_207, 981), ("ATD", 3, 22_026_847, 981), ("ATD", 4, 21_989_919, 983),
        ("ATD-light", 2, 760_956, 655), ("ATD-light", 3, 767_451, 655), ("ATD-light", 4, 776_544, 655),
        ("ATD-v1", 2, 20_113_217, 1023), ("ATD-v1", 3, 20_297_857, 1023), ("ATD-v1", 4, 20_260_929, 1025),
        ("ATD-v1-light", 2, 753_204, 683), ("ATD-v1-light", 3, 759_699, 683), ("ATD-v1-light", 4, 768_792, 683),
    ],
)  # fmt: skip
def test_presets_have_the_published_size(name, upscale, parameters, entries):
    with torch.device("meta"):
        net = ARCH_REGISTRY.get(name)(upscale=upscale)
    assert sum(parameter.numel() for parameter in net.parameters()) == parameters
    assert len(net.state_dict()) == entries
    assert net.upscale == upscale


# The literal network


@VERSIONS
@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("size", SIZES)
def test_equals_the_literal_network(config, batch, size):
    net, literal = pair(sum(size), upscale=3, **config)
    lq = torch.rand(batch, 3, *size, dtype=torch.float64)
    with torch.no_grad():
        assert_same(net(lq), literal(lq), 1e-9)


@pytest.mark.parametrize(
    "changed",
    [
        {"upsampler": "pixelshuffle", "upscale": 8, "resi_connection": "3conv"},
        {"upsampler": "pixelshuffle", "upscale": 1, "in_chans": 1, "img_range": 2.0},
        {"upsampler": "nearest+conv", "upscale": 4, "in_chans": 4},
        {"upsampler": "", "upscale": 1, "qkv_bias": False, "patch_norm": False},
        {"upsampler": "pixelshuffledirect", "upscale": 5, "ape": True, "img_size": 12},
        {"window_size": 5, "category_size": 1000},
    ],
    ids=lambda value: "_".join(f"{k}={v}" for k, v in value.items()),
)
@VERSIONS
def test_every_option_equals_the_literal_network(config, changed):
    net, literal = pair(**(config | changed))
    lq = torch.rand(1, changed.get("in_chans", 3), 9, 11, dtype=torch.float64)
    with torch.no_grad():
        assert_same(net(lq), literal(lq), 1e-9)


@pytest.mark.parametrize(("dtype", "atol"), [(torch.float64, 1e-10), (torch.float32, 2e-5)])
@VERSIONS
def test_has_the_gradients_of_the_literal_network(config, dtype, atol):
    net, literal = pair(upscale=2, **config)
    lq, gt = torch.rand(2, 3, 9, 13, dtype=torch.float64), torch.rand(2, 3, 18, 26, dtype=torch.float64)
    F.mse_loss(literal(lq), gt).backward()
    net.to(dtype).train()
    F.mse_loss(net(lq.to(dtype)), gt.to(dtype)).backward()
    expected = dict(literal.named_parameters())
    for name, parameter in net.named_parameters():
        torch.testing.assert_close(
            parameter.grad.double(), expected[name].grad, rtol=1e-3, atol=atol, msg=lambda text, n=name: f"{n}: {text}"
        )


@VERSIONS
@pytest.mark.parametrize("size", [(8, 8), (9, 17)])
@pytest.mark.parametrize(
    "head",
    [
        {"upsampler": "pixelshuffle", "upscale": 4},
        {"upsampler": "pixelshuffledirect", "upscale": 3, "resi_connection": "3conv"},
        {"upsampler": "nearest+conv", "upscale": 4},
    ],
    ids=lambda head: head["upsampler"],
)
def test_multiply_adds_equal_those_counted_in_the_literal_network(config, size, head):
    literal = LiteralATD(**(config | head)).requires_grad_(False)  # the counter stumbles over the dictionary
    with FlopCounterMode(display=False) as counter:
        literal(torch.rand(1, 3, *size))
    assert sum(ATD(**(config | head)).multiply_adds(*size)) == counter.get_total_flops() / 2


# Parts


@pytest.mark.parametrize("side", [1, 4, 5])
def test_position_index_is_the_literal_one(side):
    assert torch.equal(relative_position_index(side), position_index(side))


@pytest.mark.parametrize("shift", [0, 2])
def test_windows_hold_every_token_once_and_those_at_the_border_have_labels(shift):
    grid = ShiftedWindows((8, 12), 4, shift, torch.rand(2, 96, 1))
    assert grid.windows.rows.flatten().sort().values.tolist() == list(range(2 * 8 * 12))
    assert grid.windows.number == 6
    if not shift:
        assert grid.labels is None
        return
    kinds = [len(set(labels)) for labels in grid.labels.tolist()]
    assert kinds == [1, 1, 2, 2, 2, 4]  # inside, the last column or row, the corner
    assert grid.uniform == 2


@VERSIONS
def test_windows_of_a_test_serve_training(config):
    """They are kept from forward to forward, whatever mode made them."""
    net, _ = pair(**config)
    lq = torch.rand(1, 3, 9, 21, dtype=torch.float64)
    with torch.inference_mode():
        expected = net(lq)
    output = net.train()(lq)
    output.mean().backward()
    assert_same(output.detach(), expected, 1e-9)


def test_shape_inference_leaves_nothing_behind():
    """Windows made of tensors without memory are not kept, and none of them meets the kernel."""
    net, lq = ATD(**V2).eval(), torch.rand(1, 3, 14, 29)
    with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad():
        assert net(torch.rand(1, 3, 14, 29)).shape == (1, 3, 28, 58)
    with torch.no_grad():
        assert net(lq).isfinite().all()


def test_mirroring_repeats_the_edge_and_bounces():
    x = torch.arange(3.0)[None, None, None].expand(1, 1, 5, 3)
    assert mirrored_to_multiple(x, 8)[0, 0, 7].tolist() == [0, 1, 2, 2, 1, 0, 0, 1]
    assert mirrored_to_multiple(x[..., :5, :1], 5).shape == (1, 1, 5, 5)


def test_similarities_in_pieces_are_the_same(monkeypatch):
    net, _ = pair(**V1)
    lq = torch.rand(2, 3, 13, 22, dtype=torch.float64)
    with torch.no_grad():
        whole = net(lq)
        monkeypatch.setitem(atd_attention.SIMILARITIES, "cpu", 2 * 10 * 7)  # seven pixels of each image at a time
        assert_same(net(lq), whole, 1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_largest_weight_is_the_first_of_equals(dtype):
    weights = torch.randn(2, 500, 12, dtype=dtype).softmax(dim=-1)
    top = weights.amax(dim=-1, keepdim=True)
    weights[:, ::3, 4:6] = top[:, ::3]  # ties
    weights[:, 1::3, 2:3] = top[:, 1::3]
    weights[:, 1::3, 9:10] = torch.nextafter(top[:, 1::3], torch.ones((), dtype=dtype))  # larger by one rounding
    assert torch.equal(atd_attention._largest(weights), weights.argmax(dim=-1))
    assert atd_attention._largest(torch.full((1, 1, 12), float("nan"))).item() in range(12)


# Choice of version and sizes


def test_version_follows_the_arguments():
    with torch.device("meta"):
        assert ATD(**V1).version == 1
        assert ATD(**V2).version == 2
        assert ATD().version == 2
        assert ATD(version=1).version == 1
        assert ATD(version=2, **V1).layers[0].residual_group.layers["0"].fc_td.out_features == 16
    with pytest.raises(ValueError, match="dim_ffn_td: version 1 has none, got 3"):
        ATD(version=1, **V2)


def test_sizes_left_out_are_those_of_the_published_constructor():
    with torch.device("meta"):
        net = ATD(upsampler="pixelshuffledirect")
        literal = LiteralATD(upsampler="pixelshuffledirect")
    shapes = {name: value.shape for name, value in literal.state_dict().items()}
    assert {name: value.shape for name, value in net.state_dict().items()} == shapes


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"upscale": 0}, "upscale: .*0"),
        ({"upscale": 6, "upsampler": "pixelshuffle"}, "upscale: must be 3 or a power of 2 .*6"),
        ({"upscale": 2, "upsampler": "nearest+conv"}, "upscale: must be 4 .*2"),
        ({"upscale": 2, "upsampler": ""}, "upscale: must be 1 .*2"),
        ({"upsampler": "bilinear"}, "upsampler: .*'nearest.conv', '', got 'bilinear'"),
        ({"resi_connection": "2conv"}, "resi_connection: .*'2conv'"),
        ({"patch_size": 2}, "patch_size: must be 1, got 2"),
        ({"embed_dim": 13}, r"num_heads: must divide embed_dim \(13\)"),
        ({"num_heads": [2]}, "num_heads: needs one value for each of the 2 depths"),
        ({"depths": [0, 2]}, "depths: .*0"),
        ({"window_size": 1}, "window_size: must be at least 2, got 1"),
        ({"convffn_kernel_size": 4}, "convffn_kernel_size: must be odd, got 4"),
        ({"version": 3}, "version: must be 1 or 2, got 3"),
        ({"prune_unit": "head"}, "prune_unit: .*'head'"),
        ({"kept_layers": [[0]]}, "kept_layers: needs one list"),
        ({"kept_layers": [[0, 3], [0]]}, r"kept_layers: must be layers from 0 to 2, ascending, got \[0, 3\]"),
    ],
    ids=lambda value: None if isinstance(value, str) else "_".join(f"{k}={v}" for k, v in value.items()),
)
def test_arguments_that_do_not_fit_are_refused_by_name(changed, message):
    with pytest.raises(ValueError, match=message):
        ATD(**(V1 | changed))


def test_unknown_arguments_are_refused():
    with pytest.raises(TypeError, match="drop_path_rate"):
        ATD(drop_path_rate=0.1, **V1)


def test_absolute_positions_need_their_size():
    net = ATD(ape=True, img_size=8, **V1)
    with pytest.raises(ValueError, match=r"ape: the network has 64 positions .* 12x8 px"):
        net(torch.rand(1, 3, 9, 8))


# State


def test_mean_is_a_float32_number_outside_the_state():
    net = ATD(**V1).double()
    assert "mean" not in net.state_dict()
    assert net.mean.flatten().tolist() == torch.tensor(RGB_MEAN).double().tolist()


def test_fresh_weights_follow_the_published_initialisation():
    net = ATD(**V1)
    layer = net.layers[0].residual_group.layers["0"]
    assert not layer.attn_win.proj.bias.any()
    assert layer.attn_atd.scale.tolist() == [0.5] * 10
    assert layer.attn_aca.logit_scale.item() == pytest.approx(math.log(10))
    assert ATD(**V2).layers[0].residual_group.layers["0"].attn_atd.scale.tolist() == [1.0]
    weights = [m.weight.flatten() for m in net.modules() if isinstance(m, torch.nn.Linear)]
    assert torch.cat(weights).std().item() == pytest.approx(0.02, rel=0.05)
    assert net.layers[0].residual_group.td.std().item() == pytest.approx(1, rel=0.2)


@pytest.mark.parametrize(
    ("mine", "theirs", "message"),
    [
        (V1, V2, "these are weights of ATD v2, the network is ATD v1: build type ATD with dim_ffn_td"),
        (V2, V1, "these are weights of ATD v1, the network is ATD v2: build type ATD without dim_ffn_td"),
    ],
    ids=["v1", "v2"],
)
def test_weights_of_the_other_version_are_named(mine, theirs, message, tmp_path):
    net, other = ATD(**mine), ATD(**theirs)
    torch.save({"params": {f"module.{k}": v for k, v in other.state_dict().items()}}, tmp_path / "x.pth")
    with pytest.raises(CheckpointError, match=message):
        load_weights(net, tmp_path / "x.pth")
    with pytest.raises(RuntimeError, match=message):
        net.load_state_dict(other.state_dict())
    net.load_state_dict({k: v for k, v in other.state_dict().items() if k.startswith("conv_first")}, strict=False)
    assert torch.equal(net.conv_first.weight, other.conv_first.weight)


def test_a_file_of_the_same_version_gets_no_advice(tmp_path):
    torch.save({"params": ATD(**V1).state_dict()}, tmp_path / "x.pth")
    with pytest.raises(CheckpointError, match="does not fit ATD: 4 missing") as error:
        load_weights(ATD(**(V1 | {"upsampler": "pixelshuffle", "upscale": 1})), tmp_path / "x.pth")
    assert "these are weights" not in str(error.value)
    assert describe_state(["conv_first.weight", "norm.weight"]) is None


def test_checkpointing_changes_no_gradient():
    plain, checkpointed = ATD(**V1), ATD(use_checkpoint=True, **V1)
    checkpointed.load_state_dict(plain.state_dict())
    lq = torch.rand(2, 3, 9, 13)
    for net in (plain, checkpointed):
        net.train()(lq).square().mean().backward()
    for mine, theirs in zip(checkpointed.parameters(), plain.parameters(), strict=True):
        assert_same(mine.grad, theirs.grad, 1e-7)


@pytest.mark.skipif(torch.__version__ < (2, 10), reason="exports need a newer PyTorch")
@VERSIONS
def test_evaluation_can_be_exported(config):
    net = ATD(**(config | {"depths": [2], "num_heads": [2]})).eval()
    lq = torch.rand(1, 3, 9, 13)
    exported = torch.export.export(net, (lq,)).module()  # fails where Python asks a tensor for its value
    with torch.no_grad():
        assert_same(exported(lq), net(lq), 1e-5)


@VERSIONS
def test_half_precision_trains_and_stays_near(config):
    net, lq = perturb(ATD(**config)), torch.rand(2, 3, 8, 8)
    plain = net.eval()(lq)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = net.train()(lq)
        half.float().square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())
    assert (half - plain).square().mean().sqrt() < 0.1 * plain.std()


# Pruning


@VERSIONS
@pytest.mark.parametrize("unit", ["group", "layer"])
def test_gates_of_one_change_nothing_and_of_zero_leave_a_part_out(config, unit):
    net, lq = perturb(ATD(prune_unit=unit, **config)).eval(), torch.rand(1, 3, 9, 13)
    number = len(net.prunable_groups())
    assert number == (2 if unit == "group" else 4)
    with torch.no_grad():
        plain = net(lq)
        for one in (1, torch.tensor(1.0)):
            assert torch.equal(net(lq, gates=[one] * number), plain)
        for i in range(number):
            gates = [int(k != i) for k in range(number)]
            skipped = net(lq, gates=gates)
            assert not torch.equal(skipped, plain)
            assert_same(net(lq, gates=[torch.tensor(float(g)) for g in gates]), skipped, 1e-6)


@VERSIONS
@pytest.mark.parametrize("unit", ["group", "layer"])
def test_a_closed_gate_still_gets_its_gradient(config, unit):
    net = perturb(ATD(prune_unit=unit, **config)).train()
    gates = [torch.tensor(float(i == 0), requires_grad=True) for i in range(len(net.prunable_groups()))]
    net(torch.rand(1, 3, 9, 13), gates=gates).square().mean().backward()
    assert all(gate.grad.abs() > 0 for gate in gates)
    closed = net.layers[1].residual_group.layers["0"].wqkv.weight.grad
    assert closed is not None
    assert not closed.any()


@VERSIONS
@pytest.mark.parametrize(
    ("unit", "keep"), [("group", [1]), ("layer", [0, 3]), ("layer", [1, 2, 3]), ("layer", [0, 2]), ("layer", [3])]
)
def test_what_is_left_equals_what_is_masked(config, unit, keep):
    net = perturb(ATD(prune_unit=unit, **config)).eval()
    groups = net.prunable_groups()
    small = ATD(**net.compact_kwargs(keep))
    if unit == "group":
        small = compact(net, keep)
    else:
        small.load_state_dict({name: net.state_dict()[name] for name in small.state_dict()})
        assert [g.prefixes for g in small.prunable_groups()] == [groups[i].prefixes for i in keep]
    again = ATD(**{key: value for key, value in network_spec(small).items() if key != "type"})
    again.load_state_dict(small.state_dict())
    lq = torch.rand(2, 3, 9, 13)
    with torch.no_grad():
        masked = net(lq, gates=[int(i in keep) for i in range(len(groups))])
        assert_same(small.eval()(lq), masked, 1e-6)
        assert torch.equal(again.eval()(lq), small(lq))


@pytest.mark.parametrize("keep", [[0, 3], [3]])
@VERSIONS
def test_what_is_left_trains_every_weight_that_learns(config, keep):
    net = ATD(prune_unit="layer", **config)
    small = ATD(**net.compact_kwargs(keep)).train()
    small(torch.rand(1, 3, 9, 13)).mean().backward()
    assert [name for name, p in small.named_parameters() if p.requires_grad and p.grad is None] == []


@pytest.mark.parametrize("unit", ["group", "layer"])
def test_taps_are_what_groups_put_out(unit):
    net, lq = ATD(prune_unit=unit, **V2).eval(), torch.rand(2, 3, 9, 13)
    with torch.no_grad():
        output, features = net(lq, taps=[0, 1])
        assert torch.equal(output, net(lq))
        assert {i: tuple(f.shape) for i, f in features.items()} == dict.fromkeys((0, 1), (2, 12, 9, 13))
        number = len(net.prunable_groups())
        _, alone = net(lq, gates=[1] + [0] * (number - 1), taps=[1])
    assert torch.equal(alone[1], features[0])  # nothing is added after the first


@VERSIONS
@pytest.mark.parametrize("unit", ["group", "layer"])
def test_costs_of_the_parts_add_up(config, unit):
    net = ATD(prune_unit=unit, **config)
    costs = [sum(group.macs(20, 33)) for group in net.prunable_groups()]
    first = ATD(**net.compact_kwargs(range(len(costs) - 1)))
    assert sum(net.multiply_adds(20, 33)) == sum(first.multiply_adds(20, 33)) + costs[-1]
    prefixes = tuple(prefix for group in net.prunable_groups() for prefix in group.prefixes)
    outside = [name for name in net.state_dict() if not name.startswith((*prefixes, *net.tail_prefixes))]
    assert ("conv_first.weight" in outside) and not any(".wqkv." in name for name in outside)
