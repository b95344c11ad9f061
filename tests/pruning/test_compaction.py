"""Masked and cut networks compute the same function."""

import copy

import pytest
import torch
import torch.nn.functional as F
import yaml
from models.prunable_nets import TINY, ResidualCNN, catanet, with_state

from basicsr.archs import build_network
from basicsr.archs.prunable import Prunable
from basicsr.pruning.compaction import (
    compact,
    compaction_errors,
    cut_into,
    kept_groups,
    kept_state,
    network_spec,
    with_tail,
)
from basicsr.pruning.teacher import group_channels

INPUTS = ((1, 3, 16, 16), (2, 3, 12, 20), (1, 3, 11, 9))
PARAMETERS = {  # scale: parameters with 1, 2, 3, 4 groups of CATANet-L
    2: [112_147, 164_331, 216_515, 268_699],
    3: [184_347, 236_531, 288_715, 340_899],
    4: [169_907, 222_091, 274_275, 326_459],
}
DIRECT = {2: 214_188, 3: 219_603, 4: 227_184}  # with 4 groups and a direct tail
MASKS = {"first": [0], "last": [5], "both ends": [0, 5], "scattered": [1, 2, 4], "all": [0, 1, 2, 3, 4, 5]}


@pytest.fixture(autouse=True)
def one_thread(seed):
    torch.set_num_threads(1)  # faster for tensors this small


@pytest.fixture(scope="module")
def trained():
    torch.manual_seed(0)
    return catanet()


@pytest.fixture
def net(trained):
    return copy.deepcopy(trained)


@pytest.fixture
def cnn():
    return with_state(ResidualCNN(hidden=(3, 4, 5, 6, 3, 4, 5, 6, 3, 4, 5, 6)))


def ones(number, kind):
    return [1] * number if kind == "python" else list(torch.ones(number).unbind())


@pytest.mark.parametrize("kind", ["python", "tensor"])
@pytest.mark.parametrize("mode", ["training", "evaluation"])
def test_all_ones_change_no_bit(net, kind, mode):
    plain, gated = net.train(mode == "training"), copy.deepcopy(net)
    x = torch.rand(2, 3, 17, 20)
    expected, found = plain(x), gated(x, ones(6, kind))
    assert torch.equal(found, expected)
    expected.square().mean().backward()
    found.square().mean().backward()
    for (name, mine), theirs in zip(gated.named_parameters(), plain.parameters(), strict=True):
        assert torch.equal(mine.grad, theirs.grad), name
    for (name, mine), theirs in zip(gated.named_buffers(), plain.buffers(), strict=True):
        assert torch.equal(mine, theirs), name


def test_taps_change_no_bit_and_are_the_outputs_of_the_groups(net):
    x = torch.rand(1, 3, 17, 20)
    with torch.no_grad():
        output, features = net(x, taps=[1, 5])
        assert torch.equal(output, net(x))
        assert features.keys() == {1, 5}
        _, dropped = net(x, [1, 1, 0, 0, 0, 0], taps=[1, 5])
    assert torch.equal(features[1], dropped[1])
    assert torch.equal(dropped[5], dropped[1])
    assert not torch.equal(features[5], features[1])
    assert features[1].shape == (1, 16, 17, 20)


def test_a_wrong_number_of_gates_is_rejected(net):
    with pytest.raises(ValueError, match="gates: needs one for each of the 6 groups, got 5"):
        net(torch.rand(1, 3, 16, 16), [1] * 5)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.float64, 1e-13)])
@pytest.mark.parametrize("keep", MASKS.values(), ids=MASKS.keys())
def test_multiplied_skipped_and_cut_networks_are_equal(net, keep, dtype, tolerance):
    net = net.to(dtype)
    small = compact(net, keep)
    bits = [int(i in keep) for i in range(6)]
    for shape in INPUTS:
        x = torch.rand(shape, dtype=dtype)
        with torch.no_grad():
            skipped, cut = net(x, bits), small(x)
            multiplied = net(x, [torch.tensor(float(bit), dtype=dtype) for bit in bits])
            whole = net(x)
        torch.testing.assert_close(skipped, cut, rtol=0, atol=tolerance)
        torch.testing.assert_close(multiplied, cut, rtol=0, atol=tolerance)
        assert torch.equal(whole, cut) == (len(keep) == 6)


def test_a_gate_has_a_gradient_where_it_is_0_and_the_weights_behind_it_have_none(net):
    gates = torch.tensor([1.0, 0.0, 1.0, 0.0, 0.0, 1.0], requires_grad=True)
    net.train()(torch.rand(2, 3, 16, 16), gates.unbind()).square().mean().backward()
    assert (gates.grad != 0).all()
    for name, p in net.named_parameters():
        dropped = name.split(".")[0] in ("blocks", "mid_convs") and name.split(".")[1] in "134"
        assert bool((p.grad == 0).all()) == dropped, name


@pytest.mark.parametrize("keep", [[0], [11], [1, 10], [0, 2, 3, 11]])
def test_any_network_with_the_protocol_is_cut(cnn, keep):
    """Twelve groups, for `body.1` and `body.10` begin alike."""
    assert isinstance(cnn, Prunable)
    small = compact(cnn, keep)
    assert type(small) is ResidualCNN
    assert small.hidden == tuple(cnn.hidden[i] for i in keep)
    assert max(compaction_errors(cnn, small, keep).values()) <= 1e-6
    again = build_network_of(small)
    again.load_state_dict(small.state_dict())
    assert max(compaction_errors(cnn, again.eval(), keep).values()) <= 1e-6


def build_network_of(net):
    spec = network_spec(net)
    return type(net)(**{key: value for key, value in spec.items() if key != "type"})


def test_the_cut_network_has_mode_precision_and_state_of_the_whole_one_but_memory_of_its_own(net):
    net = net.double().train()
    small = compact(net, [1, 4])
    assert small.training
    state, whole = small.state_dict(), net.state_dict()
    assert {value.dtype for value in state.values()} == {torch.float64, torch.bool}
    assert torch.equal(state["blocks.1.0.means"], whole["blocks.4.0.means"])
    assert bool(state["blocks.0.0.initted"]) and small.blocks[0][0].initialised
    assert torch.equal(state["mid_convs.1.weight"], whole["mid_convs.4.weight"])
    with torch.no_grad():
        small.mid_convs[0].weight.zero_()
    assert net.mid_convs[1].weight.abs().max() > 0


def test_names_of_kept_groups_move_up_and_other_names_stay(cnn):
    state = {f"body.{i}.x": torch.tensor(i) for i in range(12)} | {"tail.body.1.x": torch.tensor(99)}
    places = ResidualCNN(hidden=(4, 5, 6)).prunable_groups()
    kept = kept_state(state, cnn.prunable_groups(), [1, 10, 11], places)
    found = {name: int(value) for name, value in kept.items()}
    assert found == {"body.0.x": 1, "body.1.x": 10, "body.2.x": 11, "tail.body.1.x": 99}


def test_names_are_those_of_the_cut_network(cnn):
    """The cut network may keep the names of the whole one."""
    groups, state = cnn.prunable_groups(), {f"body.{i}.x": torch.tensor(i) for i in range(12)}
    for keep in ([1, 10, 11], [0, 2]):
        found = kept_state(state, groups, keep, [groups[i] for i in keep])
        assert found == {f"body.{i}.x": torch.tensor(i) for i in keep}


@pytest.mark.parametrize("keep", [[], [2, 1], [1, 1], [-1], [6]])
def test_groups_that_are_not_there_or_out_of_order_are_rejected(net, keep):
    with pytest.raises(ValueError, match="keep: must be groups from 0 to 5, ascending, got "):
        compact(net, keep)


def test_kept_groups_of_a_mask():
    assert kept_groups([1, 0, 0, 1]) == kept_groups(torch.tensor([1.0, 0.0, 0.0, 1.0])) == [0, 3]


class TestSizes:
    @staticmethod
    def parameters(name, **arguments):
        with torch.device("meta"):
            net = build_network({"type": name, **arguments})
        return sum(p.numel() for p in net.parameters())

    @pytest.mark.parametrize("upscale", [2, 3, 4])
    def test_presets(self, upscale):
        for number, expected in enumerate(PARAMETERS[upscale], 1):
            assert self.parameters("CATANet-XS", upscale=upscale, keep=range(number)) == expected
        assert self.parameters("CATANet-XS", upscale=upscale) == PARAMETERS[upscale][2]
        assert self.parameters("CATANet-XS-D", upscale=upscale) == DIRECT[upscale]
        assert DIRECT[upscale] < 230_000
        assert self.parameters("CATANet-L", upscale=upscale) == PARAMETERS[upscale][3] + 4 * 52_184

    def test_the_budget_at_x2_allows_three_groups(self):
        assert PARAMETERS[2][2] < 230_000 < PARAMETERS[2][3]

    def test_cutting_gives_the_presets(self):
        whole = build_network({"type": "CATANet-L", "upscale": 2})
        small = compact(whole, [0, 4, 7])
        preset = build_network({"type": "CATANet-XS", "upscale": 2, "keep": [0, 4, 7]})
        assert sum(p.numel() for p in small.parameters()) == 216_515
        assert network_spec(small) == network_spec(preset)
        preset.load_state_dict(small.state_dict())
        direct = build_network({"type": "CATANet-XS-D", "upscale": 2, "keep": [0, 2, 5, 7]})
        assert network_spec(with_tail(compact(whole, [0, 2, 5, 7]), "direct")) == network_spec(direct)


class TestSpec:
    @pytest.mark.parametrize("tail", ["original", "direct"])
    def test_rebuilds_the_network(self, tail):
        small = compact(catanet(tail=tail, patch_size=[6, 8, 10, 6, 8, 10]), [2, 3])
        spec = network_spec(small)
        assert spec["type"] == "CATANet"
        assert (spec["block_num"], spec["patch_size"], spec["num_tokens"], spec["tail"]) == (2, [10, 6], [4, 8], tail)
        again = build_network(yaml.safe_load(yaml.safe_dump(spec)))
        again.load_state_dict(small.state_dict())
        x = torch.rand(1, 3, 16, 18)
        with torch.no_grad():
            assert torch.equal(again.eval()(x), small(x))


class TestTail:
    def test_a_new_tail_keeps_the_body_and_begins_near_the_enlarged_input(self, net):
        other = with_tail(net.train(), "direct")
        assert other.training and other.tail == "direct"
        x = torch.rand(1, 3, 16, 18)
        net.eval(), other.eval()
        with torch.no_grad():
            (_, expected), (output, found) = net(x, taps=range(6)), other(x, taps=range(6))
        assert all(torch.equal(found[i], expected[i]) for i in range(6))
        enlarged = F.interpolate(x, scale_factor=2, mode="bilinear")
        assert 0 < (output - enlarged).abs().max() < 0.05
        assert other.last_conv.bias.abs().max() == 0
        assert float(other.last_conv.weight.detach().std()) == pytest.approx(1e-3, rel=0.1)
        assert not any(name.startswith("upconv") for name in other.state_dict())

    def test_the_tail_that_is_there_stays(self, net):
        assert with_tail(net, "original") is net

    def test_a_network_without_a_choice_is_rejected(self, cnn):
        with pytest.raises(ValueError, match="tail: ResidualCNN has no choice of tails; leave it at original"):
            with_tail(cnn, "direct")


class TestCutInto:
    def test_weights_and_state_come_from_the_whole_network(self, net):
        small = build_network(network_spec(compact(net, [1, 4]))).train()
        cut_into(small, net, [1, 4])
        assert small.training
        assert max(compaction_errors(net, small, [1, 4]).values()) <= 1e-6

    def test_a_tail_of_another_kind_begins_anew(self, net):
        small = build_network({**network_spec(compact(net, [1, 4])), "tail": "direct"})
        drawn = small.last_conv.weight.clone()
        cut_into(small, net, [1, 4])
        assert torch.equal(small.mid_convs[1].weight, net.mid_convs[4].weight)
        assert small.last_conv.weight.std() < 0.1 * drawn.std()

    def test_another_network_is_rejected(self, net):
        three = build_network(network_spec(compact(net, [0, 1, 2])))
        with pytest.raises(ValueError, match=r"network_g: is not what the groups \[1, 4\] leave of .*: .*missing"):
            cut_into(three, net, [1, 4])
        wider = build_network({**TINY, "block_num": 2, "num_tokens": [8, 4], "dim": 20})
        with pytest.raises(ValueError, match=r"leave of network_t: .*first_conv.weight is .*, \(20, 3, 3, 3\) in"):
            cut_into(wider, net, [1, 4])

    def test_groups_that_are_not_there_are_rejected(self, net):
        small = build_network(network_spec(compact(net, [1, 4])))
        with pytest.raises(ValueError, match="must be groups from 0 to 5, ascending, got \\[1, 6\\]"):
            cut_into(small, net, [1, 6])


class TestErrors:
    def test_of_a_cut_network_are_within_the_tolerance_and_its_mode_stays(self, net):
        small = compact(net.train(), [0, 3])
        before = copy.deepcopy(net.state_dict())
        errors = compaction_errors(net, small, [0, 3])
        assert list(errors) == ["1x3x64x64", "2x3x48x80", "1x3x33x57"]
        assert max(errors.values()) <= 1e-6
        assert net.training and small.training
        torch.testing.assert_close(net.state_dict(), before, rtol=0, atol=0)

    def test_of_another_network_are_not(self, net):
        small = compact(net, [0, 3])
        with torch.no_grad():
            small.mid_convs[1].bias += 0.1
        assert min(compaction_errors(net, small, [0, 3]).values()) > 1e-4
        assert min(compaction_errors(net, compact(net, [0, 4]), [0, 3]).values()) > 1e-4


def test_networks_of_luma_are_compared_and_measured():
    net = catanet(in_chans=1)
    small = compact(net, [1, 4])
    assert max(compaction_errors(net, small, [1, 4]).values()) <= 1e-6
    assert group_channels(net) == group_channels(small) == (16, 32, 32)
