import json
import subprocess
import sys
from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from reference.catanet_literal import LiteralCATANet
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from basicsr.archs.catanet_arch import CATANet
from basicsr.config.registry import ARCH_REGISTRY
from basicsr.images.files import read_image
from basicsr.metrics.psnr_ssim import calculate_psnr, calculate_psnr_pt, calculate_ssim, calculate_ssim_pt

GOLDEN = Path(__file__).parents[1] / "golden"

# Unequal head widths (6 and 8), four ways of cutting patches, n_iters 1, more centres than some inputs have tokens.
SMALL = {
    "dim": 16,
    "block_num": 3,
    "qk_dim": 12,
    "mlp_dim": 24,
    "heads": 2,
    "patch_size": [5, 16, 20],
    "num_tokens": [4, 8, 24],
    "group_size": [64, 32, 16],
    "n_iters": [1, 2, 3],
}
SIZES = [(1, 1), (1, 7), (3, 50), (16, 16), (17, 29), (27, 40), (33, 47), (64, 64)]


def load(path):
    return torch.load(path, weights_only=True)


def centres(net_or_state):
    state = net_or_state.state_dict() if isinstance(net_or_state, nn.Module) else net_or_state
    return {name: value for name, value in state.items() if name.endswith("means")}


def initialised(net):
    """What the buffers say of every group's centres."""
    return [bool(value) for name, value in net.state_dict().items() if name.endswith("initted")]


def assert_all_close(actual, expected, atol):
    assert actual.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(actual[name], value, rtol=0, atol=atol, msg=lambda text, n=name: f"{n}: {text}")


def perturbed_pair(seed, *, centres_set, **config):
    """The network and its literal twin in float64, with the same weights, each of which matters."""
    torch.manual_seed(seed)
    literal = LiteralCATANet(**config).double()
    for parameter in literal.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)
    for tab, _ in literal.blocks:
        tab.initted.fill_(centres_set)
    net = CATANet(**config).double()
    net.load_state_dict(literal.state_dict())
    return net, literal


def randomised(seed=0, **config):
    return perturbed_pair(seed, centres_set=True, **(SMALL | config))[0].float().eval()


# Published numbers


@pytest.mark.parametrize(
    "name",
    ["small_x1_24x40", "small_x2_32x48", "small_x3_37x53", "small_x4_29x31", "small_x2_uninitialised_33x47"],
)
def test_equals_the_published_outputs(shared, name):
    golden = load(shared / "goldens" / "catanet" / f"{name}.pt")
    net = CATANet(**golden["config"]).eval()
    net.load_state_dict(golden["state_dict"])
    with torch.no_grad():
        output = net(golden["input"])
    torch.testing.assert_close(output, golden["output"], rtol=0, atol=1e-5)


def test_equals_three_published_training_steps(shared):
    golden = load(shared / "goldens" / "catanet" / "small_x2_train3.pt")
    net = CATANet(**golden["config"]).train()
    net.load_state_dict(golden["initial_state_dict"])
    optimizer = torch.optim.Adam(net.parameters(), lr=2e-4, betas=(0.9, 0.99))
    for step, (lq, gt) in enumerate(zip(golden["inputs"], golden["targets"], strict=True)):
        output = net(lq)
        loss = F.l1_loss(output, gt)
        optimizer.zero_grad()
        loss.backward()
        torch.testing.assert_close(output, golden["outputs"][step], rtol=0, atol=1e-4)
        assert loss.item() == pytest.approx(golden["losses"][step], abs=1e-5)
        if step == 0:
            assert_all_close({n: p.grad for n, p in net.named_parameters()}, golden["first_step_grads"], atol=1e-4)
        optimizer.step()
        assert_all_close(centres(net), golden["means_after_each_step"][step], atol=1e-4)
    assert_all_close(net.state_dict(), golden["final_state_dict"], atol=1e-4)


def test_equals_the_published_centres_where_some_have_no_token(shared):
    golden = load(shared / "goldens" / "catanet" / "small_x2_train2_empty_centres.pt")
    net = CATANet(**golden["config"]).double().train()
    net.load_state_dict(golden["initial_state_dict"])
    F.l1_loss(net(golden["inputs"][0]), golden["targets"][0]).backward()
    published = golden["means_after_each_step"][0]
    torch.testing.assert_close(centres(net)["blocks.0.0.means"], published["blocks.0.0.means"], rtol=0, atol=1e-8)

    # Beyond the first group, step one hangs on rounding: 64 centres pooled from 192 mirrored tokens come in 16 pairs of
    # equal ones, and 141 of 384 tokens are as near to one as to its twin. Step two, started from the record, does not.
    net.load_state_dict(golden["initial_state_dict"])
    optimizer = torch.optim.Adam(net.parameters(), lr=2e-4, betas=(0.9, 0.99))
    for name, parameter in net.named_parameters():
        parameter.grad = golden["first_step_grads"][name].clone()
    optimizer.step()
    flags = {f"blocks.{i}.0.initted": torch.tensor(True) for i in range(3)}
    net.load_state_dict({**net.state_dict(), **published, **flags})
    output = net(golden["inputs"][1])
    loss = F.l1_loss(output, golden["targets"][1])
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    torch.testing.assert_close(output, golden["outputs"][1], rtol=0, atol=1e-8)
    assert loss.item() == pytest.approx(golden["losses"][1], abs=1e-8)
    assert_all_close(centres(net), golden["means_after_each_step"][1], atol=1e-8)
    assert_all_close(net.state_dict(), golden["final_state_dict"], atol=1e-8)


@pytest.fixture
def published_x4(shared):
    """CATANet-L x4 with weights that others trained with the published code."""
    net = CATANet(upscale=4).eval()
    net.load_state_dict(load(shared / "checkpoints" / "CATANet_L_x4_AID.pth")["params"], strict=True)
    return net


def test_equals_the_published_output_of_a_real_checkpoint(shared, published_x4):
    golden = load(shared / "goldens" / "catanet" / "L_x4_AID_butterfly.pt")
    with torch.no_grad():
        output = published_x4(golden["input"])
    assert (output - golden["output"].float()).square().mean().sqrt() < 5e-4
    assert output.mean().item() == pytest.approx(golden["output_mean"], abs=1e-4)
    assert output.std().item() == pytest.approx(golden["output_std"], abs=1e-4)


def test_reaches_the_published_scores_on_set5(shared, published_x4):
    scores = []
    for name in ("baby", "bird", "butterfly", "head", "woman"):
        lq = read_image(shared / "data" / "Set5" / "LR_bicubic" / "X4" / f"{name}x4.png")
        gt = read_image(shared / "data" / "Set5" / "HR" / f"{name}.png")[: 4 * lq.shape[0], : 4 * lq.shape[1]]
        with torch.no_grad():
            sr = published_x4(torch.from_numpy(lq).permute(2, 0, 1)[None] / 255)
        gt_pt = torch.from_numpy(gt).permute(2, 0, 1)[None] / 255
        sr_uint8 = (sr[0].permute(1, 2, 0).clamp(0, 1) * 255).round().byte().numpy()
        luma = {"crop_border": 4, "test_y_channel": True}
        scores.append(
            [
                calculate_psnr_pt(sr, gt_pt, **luma).item(),
                calculate_ssim_pt(sr, gt_pt, **luma).item(),
                calculate_psnr(sr_uint8, gt, **luma),
                calculate_ssim(sr_uint8, gt, **luma),
                calculate_psnr(sr_uint8, gt, crop_border=4),
                calculate_ssim(sr_uint8, gt, crop_border=4),
            ]
        )
    mean = np.mean(scores, axis=0)
    np.testing.assert_allclose(mean[0::2], [31.724, 31.722, 29.787], rtol=0, atol=0.002)
    np.testing.assert_allclose(mean[1::2], [0.8901, 0.8899, 0.8584], rtol=0, atol=0.0002)


# The project's own records and the literal network


@pytest.mark.parametrize("name", ["catanet_eval", "catanet_eval_uninitialised"])
def test_equals_the_recorded_outputs(name):
    golden = load(GOLDEN / f"{name}.pt")
    net = CATANet(**golden["config"]).double().eval()
    net.load_state_dict(golden["state_dict"])
    with torch.no_grad():
        output = net(golden["input"])
    torch.testing.assert_close(output, golden["output"], rtol=0, atol=1e-9)


def test_equals_the_recorded_training_steps():
    golden = load(GOLDEN / "catanet_train.pt")
    net = CATANet(**golden["config"]).double().train()
    net.load_state_dict(golden["state_dict"])
    optimizer = torch.optim.SGD(net.parameters(), lr=golden["lr"])
    losses = []
    for lq, gt in zip(golden["inputs"], golden["targets"], strict=True):
        loss = F.l1_loss(net(lq), gt)
        optimizer.zero_grad()
        loss.backward()
        if not losses:
            assert_all_close({n: p.grad for n, p in net.named_parameters()}, golden["first_grads"], atol=1e-9)
        optimizer.step()
        losses.append(loss.item())
    assert losses == pytest.approx(golden["losses"], abs=1e-9)
    assert_all_close(centres(net), golden["final_means"], atol=1e-9)


@pytest.mark.parametrize("centres_set", [True, False], ids=["centres_set", "centres_pooled"])
@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize(("size", "upscale"), [*zip(SIZES, [1, 2, 3, 4, 2, 3, 4, 1], strict=True)])
def test_equals_the_literal_network(size, upscale, batch, centres_set):
    net, literal = perturbed_pair(sum(size), centres_set=centres_set, upscale=upscale, **SMALL)
    lq = torch.rand(batch, 3, *size, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(net.eval()(lq), literal.eval()(lq), rtol=0, atol=1e-9)


# Not with pooled centres where two of them are equal but for rounding: see `pooled` of the literal network.
@pytest.mark.parametrize(
    ("size", "centres_set"),
    [
        ((1, 1), True),
        ((1, 7), True),
        ((3, 50), True),
        ((27, 40), True),
        ((1, 7), False),
        ((16, 16), False),
        ((17, 29), False),
        ((33, 47), False),
    ],
)
def test_preset_l_equals_the_literal_network(size, centres_set):
    net, literal = perturbed_pair(sum(size), centres_set=centres_set, upscale=2)
    lq = torch.rand(1, 3, *size, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(net.eval()(lq), literal.eval()(lq), rtol=0, atol=1e-9)


@pytest.mark.parametrize("centres_set", [True, False], ids=["centres_set", "centres_pooled"])
@pytest.mark.parametrize("size", [(1, 1), (1, 7), (3, 50), (17, 29), (27, 40)])
def test_trains_like_the_literal_network(size, centres_set):
    net, literal = perturbed_pair(sum(size), centres_set=centres_set, upscale=2, **SMALL)
    records = []
    batches = torch.rand(2, 2, 3, *size, dtype=torch.float64)
    targets = torch.rand(2, 2, 3, 2 * size[0], 2 * size[1], dtype=torch.float64)
    for network in (net.train(), literal.train()):
        losses = [F.l1_loss(network(lq), gt) for lq, gt in zip(batches, targets, strict=True)]
        sum(losses).backward()
        grads = {name: parameter.grad for name, parameter in network.named_parameters()}
        records.append(grads | centres(network) | {"losses": torch.stack(losses).detach()})
        assert initialised(network) == [True] * 3
    assert_all_close(*records, atol=1e-9)


def test_trains_with_single_precision_and_every_weight():
    net = CATANet(upscale=3, **SMALL).train()
    F.l1_loss(net(torch.rand(2, 3, 19, 26)), torch.rand(2, 3, 57, 78)).backward()
    assert [name for name, p in net.named_parameters() if p.grad is None or not p.grad.isfinite().all()] == []
    assert [name for name, p in net.named_parameters() if not p.grad.any()] == []


# State


@pytest.mark.parametrize("upscale", [2, 3, 4])
def test_state_dict_has_the_published_names_and_shapes(upscale):
    layout = json.loads((GOLDEN / f"catanet_x{upscale}.json").read_text())
    state = CATANet(upscale=upscale).state_dict()
    assert {name: list(value.shape) for name, value in state.items()} == layout
    assert {str(value.dtype) for name, value in state.items() if name.endswith("initted")} == {"torch.bool"}


def test_layout_record_is_that_of_the_real_checkpoint(shared):
    state = load(shared / "checkpoints" / "CATANet_L_x4_AID.pth")["params"]
    assert {name: list(value.shape) for name, value in state.items()} == json.loads(
        (GOLDEN / "catanet_x4.json").read_text()
    )


@pytest.mark.parametrize("centres_set", [True, False])
def test_evaluation_is_deterministic_and_writes_no_state(centres_set):
    net, _ = perturbed_pair(0, centres_set=centres_set, upscale=2, **SMALL)
    net.float().eval()
    before = deepcopy(net.state_dict())
    lq = torch.rand(2, 3, 17, 29)
    with torch.no_grad():
        first, _, second = net(lq), net(torch.rand(1, 3, 30, 12)), net(lq)
    torch.testing.assert_close(second, first, rtol=0, atol=0)
    assert_all_close(net.state_dict(), before, atol=0)


@pytest.mark.skipif(torch.__version__ < (2, 10), reason="exports need a newer PyTorch")
def test_evaluation_can_be_exported_and_leaves_no_trace():
    net = randomised(upscale=2, block_num=1, patch_size=[5], num_tokens=[8], group_size=[32], n_iters=[2])
    lq = torch.rand(1, 3, 37, 41)  # sides that no other test uses: whatever is kept for a size is made in here
    exported = torch.export.export(net, (lq,)).module()  # fails where Python asks a tensor for its value
    with torch.no_grad():
        sr = net(lq)
    assert type(sr) is torch.Tensor
    torch.testing.assert_close(exported(lq), sr, rtol=0, atol=1e-5)


def test_training_can_follow_evaluation_under_inference_mode():
    net, lq = randomised(upscale=2), torch.rand(1, 3, 38, 31)  # 31 pixels: patches of 16 whose weights do not add to 1
    with torch.inference_mode():
        net(lq)
    net.train()(lq).mean().backward()


def test_loading_brings_the_flag_along():
    trained, fresh = randomised(upscale=2), CATANet(upscale=2, **SMALL).eval()
    assert initialised(trained) == [True] * 3 and initialised(fresh) == [False] * 3
    lq = torch.rand(1, 3, 17, 29)
    with torch.no_grad():
        sr_trained, sr_fresh = trained(lq), fresh(lq)
        other = CATANet(upscale=2, **SMALL).eval()
        for state, expected in ((trained, sr_trained), (fresh, sr_fresh), (trained, sr_trained)):
            other.load_state_dict(state.state_dict())
            torch.testing.assert_close(other(lq), expected, rtol=0, atol=0)


@pytest.mark.parametrize("steps", [0, 1, 2])
def test_copy_and_reload_after_training_give_the_same_images(steps):
    torch.manual_seed(0)
    net = CATANet(upscale=2, **SMALL).train()
    for _ in range(steps):
        net(torch.rand(2, 3, 20, 24))
    assert initialised(net) == [steps > 0] * 3
    reloaded = CATANet(upscale=2, **SMALL)
    reloaded.load_state_dict(net.state_dict())
    lq = torch.rand(1, 3, 17, 29)
    with torch.no_grad():
        expected = net.eval()(lq)
        for twin in (deepcopy(net), reloaded.eval()):
            torch.testing.assert_close(twin(lq), expected, rtol=0, atol=0)


def test_a_copy_trains_apart_from_its_original():
    net = randomised(upscale=2)
    before = deepcopy(net.state_dict())
    twin = deepcopy(net).train()
    twin(torch.rand(2, 3, 20, 24))
    assert_all_close(net.state_dict(), before, atol=0)
    assert not torch.equal(centres(twin)["blocks.0.0.means"], before["blocks.0.0.means"])


# Construction


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"upscale": 5}, "upscale: .*5"),
        ({"upscale": 0}, "upscale: .*0"),
        ({"qk_dim": 13}, "qk_dim: .*13"),
        ({"dim": 15}, "dim: .*15"),
        ({"heads": 0}, "heads: .*0"),
        ({"patch_size": [8, 10]}, "patch_size: .*3 .*2"),
        ({"num_tokens": [4, 8, 16, 4]}, "num_tokens: .*3 .*4"),
        ({"group_size": [64]}, "group_size: .*3 .*1"),
        ({"n_iters": [5, 5]}, "n_iters: .*3 .*2"),
        ({"patch_size": [8, 2, 10]}, "patch_size: .*2"),
        ({"num_tokens": [4, 0, 16]}, "num_tokens: .*0"),
        ({"n_iters": [0, 1, 1]}, "n_iters: .*0"),
    ],
    ids=lambda value: None if isinstance(value, str) else "_".join(f"{k}={v}" for k, v in value.items()),
)
def test_sizes_that_do_not_fit_are_refused_by_name(changed, message):
    with pytest.raises(ValueError, match=message):
        CATANet(**(SMALL | changed))


@pytest.mark.parametrize(
    ("name", "upscale", "parameters"),
    [
        ("CATANet-L", 2, 477_435),
        ("CATANet-L", 3, 549_635),
        ("CATANet-L", 4, 535_195),
        ("CATANet-M", 2, 306_471),
        ("CATANet-S", 2, 230_079),
        ("CATANet", 4, 535_195),
        ("CATANet-XS", 2, 216_515),
        ("CATANet-XS", 3, 288_715),
        ("CATANet-XS", 4, 274_275),
        ("CATANet-XS-D", 2, 214_188),
        ("CATANet-XS-D", 3, 219_603),
        ("CATANet-XS-D", 4, 227_184),
        ("CATANet-XXS", 2, 162_004),
        ("CATANet-XXS", 3, 167_419),
        ("CATANet-XXS", 4, 175_000),
    ],
)
def test_presets_have_the_published_number_of_parameters(name, upscale, parameters):
    net = ARCH_REGISTRY.get(name)(upscale=upscale)
    assert sum(parameter.numel() for parameter in net.parameters()) == parameters


@pytest.mark.parametrize("keep", [(), (0, 0, 1), (3, 1), (0, 8)])
def test_a_pruned_preset_names_groups_that_are_none(keep):
    with pytest.raises(ValueError, match="keep: must be ascending indices of groups of CATANet-L, 0 to 7"):
        ARCH_REGISTRY.get("CATANet-XS")(keep=keep)


@pytest.mark.parametrize("training", [True, False])
def test_gates_of_one_change_nothing_and_of_zero_leave_a_group_out(training):
    net = CATANet(upscale=2, **SMALL)
    lq = torch.rand(1, 3, 19, 23)
    net.train()(lq)
    net.train(training).set_state_tracking([False] * len(net.blocks))
    plain = net(lq)
    for one in (1, torch.tensor(1.0)):
        assert torch.equal(net(lq, gates=[one] * len(net.blocks)), plain)
    for i in range(len(net.blocks)):
        gates = [int(k != i) for k in range(len(net.blocks))]
        skipped = net(lq, gates=gates)
        multiplied = net(lq, gates=[torch.tensor(float(g)) for g in gates])
        assert not torch.equal(skipped, plain)
        torch.testing.assert_close(multiplied, skipped, rtol=0, atol=1e-6)


def test_a_closed_gate_still_gets_its_gradient():
    net = CATANet(upscale=2, **SMALL)
    gates = [torch.tensor(float(i == 0), requires_grad=True) for i in range(len(net.blocks))]
    net.train()(torch.rand(1, 3, 19, 23), gates=gates).square().mean().backward()
    assert all(gate.grad.abs() > 0 for gate in gates)
    closed = net.mid_convs[-1].weight.grad
    assert closed is not None
    assert not closed.any()


def test_taps_are_what_groups_put_out():
    net = CATANet(upscale=2, **SMALL).eval()
    lq = torch.rand(2, 3, 19, 23)
    with torch.no_grad():
        output, features = net(lq, taps=[0, 1])
        assert torch.equal(output, net(lq))
        assert [tuple(f.shape) for f in features.values()] == [(2, 16, 19, 23)] * 2
        first, *others = range(len(net.blocks))
        alone, feature = net(lq, gates=[1] + [0] * len(others), taps=[len(net.blocks) - 1])
    assert torch.equal(feature[len(net.blocks) - 1], features[first])  # nothing is added after the first group
    assert not torch.equal(alone, output)


def test_groups_that_do_not_track_keep_their_centres():
    net = CATANet(upscale=2, **SMALL).train()
    net(torch.rand(1, 3, 19, 23))
    groups = net.prunable_groups()
    before = {name: buffer.clone() for name, buffer in net.named_buffers()}
    net.set_state_tracking([i == 0 for i in range(len(groups))], decay=0.5)
    net(torch.rand(1, 3, 19, 23))
    after = dict(net.named_buffers())
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved == {name for name in groups[0].state_buffers if name.endswith("means")}


def test_group_costs_add_up_to_the_network():
    net = CATANet(upscale=4)
    groups = net.prunable_groups()
    prefixes = tuple(prefix for group in groups for prefix in group.prefixes)
    assert sum(p.numel() for n, p in net.named_parameters() if n.startswith(prefixes)) == 8 * 52_184
    costs = [group.macs(256, 256) for group in groups]
    assert [round(sum(cost) / 1e9, 2) for cost in costs] == [7.80, 7.57, 8.03, 9.21] * 2
    first = CATANet(**net.compact_kwargs([0]))
    assert sum(net.multiply_adds(256, 256)) == sum(first.multiply_adds(256, 256)) + sum(sum(cost) for cost in costs[1:])


def test_direct_tail_costs_what_one_convolution_does():
    net = CATANet(upscale=4, tail="direct", **SMALL)
    groups = sum(sum(group.macs(256, 256)) for group in net.prunable_groups())
    assert sum(net.multiply_adds(256, 256)) == groups + (3 * 16 * 9 + 16 * 48 * 9) * 256**2
    with pytest.raises(ValueError, match="tail: must be one of original, direct, got 'none'"):
        CATANet(tail="none")


def test_fresh_weights_follow_the_published_initialisation():
    torch.manual_seed(0)
    net = CATANet(upscale=2)
    linear = [module for module in net.modules() if isinstance(module, nn.Linear)]
    assert torch.cat([layer.weight.flatten() for layer in linear]).std().item() == pytest.approx(0.02, rel=0.02)
    assert not any(layer.bias.any() for layer in linear if layer.bias is not None)
    assert initialised(net) == [False] * 8


def imported_modules(statement):
    code = f"import sys; {statement}; print(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return run.stdout.split()


def test_one_network_imports_one_network():
    modules = imported_modules("import basicsr.archs.catanet_arch")
    assert [m for m in modules if m.startswith("basicsr.") and m.endswith("_arch")] == ["basicsr.archs.catanet_arch"]


def test_the_package_alone_imports_no_torch():
    assert "torch" not in imported_modules("import basicsr")


@pytest.mark.parametrize(("height", "width"), [(20, 33), (9, 17)])
def test_multiply_adds_equal_those_counted_in_the_literal_network(height, width):
    literal = LiteralCATANet(upscale=4).eval()
    for tab, _ in literal.blocks:
        tab.initted.fill_(True)
    with torch.no_grad(), FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        literal(torch.rand(1, 3, height, width))
    assert sum(ARCH_REGISTRY.get("CATANet-L")(upscale=4).multiply_adds(height, width)) == counter.get_total_flops() / 2


def test_multiply_adds_of_the_paper():
    """The paper counts 46.8 G for L x4 at 3x256x256, attention left out."""
    conv_linear, _ = ARCH_REGISTRY.get("CATANet-L")(upscale=4).multiply_adds(256, 256)
    assert conv_linear == pytest.approx(46.8e9, rel=0.01)


def test_checkpointing_changes_neither_gradients_nor_centres():
    plain, checkpointed = CATANet(upscale=2, **SMALL), CATANet(upscale=2, use_checkpoint=True, **SMALL)
    checkpointed.load_state_dict(plain.state_dict())
    lq = torch.rand(2, 3, 19, 23)
    for _ in range(2):  # the second time the stored centres are moved, not set
        for net in (plain, checkpointed):
            net.zero_grad()
            net.train()(lq).square().mean().backward()
    for mine, theirs in ((p.grad, q.grad) for p, q in zip(checkpointed.parameters(), plain.parameters(), strict=True)):
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(checkpointed.state_dict(), plain.state_dict(), rtol=0, atol=0)
