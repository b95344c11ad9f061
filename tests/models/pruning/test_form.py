"""The form of the compact network: the width of its FFNs, its tail, its patch size; and budgets that know it."""

import json

import numpy as np
import pytest
import torch
import yaml
from models.prunable_nets import TINY, ResidualCNN, catanet
from models.prune_steps import run

import basicsr.test
import basicsr.train
from basicsr.archs import build_network
from basicsr.errors import OptionError
from basicsr.pruning import costs
from basicsr.pruning.compaction import compact, cut_into, in_form, narrowed, network_spec
from basicsr.pruning.search import build_search

SHORT = {"warmup_iter": 1, "search_iter": 1, "settle_iter": 1, "recalib_iter": 1}


def forward(net):
    with torch.no_grad():
        return net.eval()(torch.rand(1, 3, 16, 18, generator=torch.Generator().manual_seed(0)))


class TestNarrowing:
    def test_channels_without_influence_leave_first(self):
        net = catanet()
        dead = torch.arange(32) % 4 == 1  # 8 of 32
        state = net.state_dict()
        for axes in net.ffn_axes():
            name = next(name for name in axes if name.endswith("fc2.weight"))
            state[name][:, dead] = 0
        reference = forward(net)
        small = narrowed(net, 24)
        state = small.state_dict()
        assert {state[name].shape[axis] for axes in small.ffn_axes() for name, axis in axes.items()} == {24}
        torch.testing.assert_close(forward(small), reference, rtol=0, atol=1e-6)
        with pytest.raises(AssertionError):
            torch.testing.assert_close(forward(narrowed(net, 23)), reference, rtol=0, atol=1e-6)

    def test_importance_is_the_product_of_the_norms_of_all_layers(self):
        net = catanet(block_num=1, num_tokens=4)
        axes = net.ffn_axes()[0]
        fc1, _, depthwise, _, fc2 = (net.state_dict()[name] for name in axes)
        importance = fc1.norm(dim=1) * depthwise.flatten(1).norm(dim=1) * fc2.norm(dim=0)
        chosen = sorted(np.argsort(-importance.numpy())[:10].tolist())
        small = narrowed(net, 10).state_dict()
        for name, axis in axes.items():
            expected = net.state_dict()[name].index_select(axis, torch.tensor(chosen))
            assert torch.equal(small[name], expected), name

    def test_all_other_values_mode_and_precision_stay(self):
        net = catanet().double().train()
        small = narrowed(net, 8)
        hidden = {name for axes in net.ffn_axes() for name in axes}
        assert len(hidden) == 6 * 2 * 5
        assert small.training and next(small.parameters()).dtype == torch.float64
        for name, value in small.state_dict().items():
            assert name in hidden or torch.equal(value, net.state_dict()[name])
        assert network_spec(small) == {**network_spec(net), "mlp_dim": 8}
        assert narrowed(net, 32) is net

    def test_wider_and_undeclared_networks_are_rejected(self):
        with pytest.raises(ValueError, match=r"compact.mlp_dim: must be at most the 32 of network_g, got 33"):
            narrowed(catanet(), 33)
        with pytest.raises(ValueError, match=r"compact.mlp_dim: ResidualCNN does not declare its feed-forward"):
            narrowed(ResidualCNN(), 4)

    def test_cutting_out_of_the_teacher_narrows_as_well(self):
        whole = catanet()
        expected = narrowed(compact(whole, [1, 4]), 12)
        net = build_network(network_spec(expected))
        cut_into(net, whole, [1, 4])
        assert torch.equal(forward(net), forward(expected))


def prepared_is_equal(net):
    x = torch.rand(1, 3, 20, 17)
    with torch.no_grad():
        torch.testing.assert_close(net.prepared()(x), net(x), rtol=0, atol=1e-5)


@pytest.mark.usefixtures("short")
def test_files_of_a_narrow_network_with_a_direct_tail_and_other_patches(search_values, tmp_path):
    """The budget of parameters allows three groups of this form, and one of the original."""
    form = {**TINY, "patch_size": 10}
    three = sum(p.numel() for p in in_form(compact(catanet(), [0, 1, 2]), "direct", 12).parameters())
    assert three < sum(p.numel() for p in compact(catanet(), [0, 1]).parameters())
    values = search_values(
        prune={**SHORT, "tail": "direct"}, train={"total_iter": 3}, budget={"blocks": None, "params": three},
        compact={"mlp_dim": 12, "finetune": {"total_iter": 2}},
    )  # fmt: skip
    values["network_g"] = form
    assert run(basicsr.train, tmp_path, values) == 0
    folder = tmp_path / "experiments/s/compact"
    content = torch.load(folder / "net_g_xs.pth", weights_only=True)
    spec = content["network_g"]
    assert (spec["mlp_dim"], spec["tail"], spec["patch_size"]) == (12, "direct", [10, 10, 10])
    net = build_network(spec)
    net.load_state_dict(content["params"])
    prepared_is_equal(net.eval())
    for file in ("network_g.yml", "train_finetune.yml", "test_x2.yml"):
        assert yaml.safe_load((folder / file).read_text())["network_g"] == spec
    report = json.loads((folder / "prune_report.json").read_text())
    params = report["resources"]["params"]
    assert params["kept"] == report["compact"]["params"] == three == sum(p.numel() for p in net.parameters())
    assert params["full"] == sum(p.numel() for p in build_network(form).parameters())
    assert max(report["equality"].values()) <= 1e-6
    assert run(basicsr.train, tmp_path, "experiments/s/compact/train_finetune.yml") == 0
    assert run(basicsr.test, tmp_path, "experiments/s/compact/test_x2.yml") == 0


class TestBudgets:
    def test_latency_is_measured_in_the_form_of_the_compact_network(self, search_values, model_of, monkeypatch):
        seen = []

        def timed(net, *arguments):
            seen.append(network_spec(net))
            return {"fixed_ms": 1.0, "groups_ms": [1.0] * 6}

        monkeypatch.setattr(costs, "latency_table", timed)
        values = search_values(
            prune={"tail": "direct"}, compact={"mlp_dim": 12}, budget={"blocks": None, "latency_ms": 3}
        )
        values["network_g"] = {**TINY, "patch_size": [6, 8, 10, 6, 8, 10]}
        model = model_of(values)
        (spec,) = seen
        assert (spec["tail"], spec["mlp_dim"], spec["patch_size"]) == ("direct", 12, [6, 8, 10, 6, 8, 10])
        assert model.masked.module.tail == "original"
        assert model.search.sampler.choices.sum(1).unique().tolist() == [2]  # 1 ms and 2 groups of 1 ms
        state = torch.random.get_rng_state()
        build_search(model.opt, model.masked.module, torch.device("cpu"))
        assert torch.equal(torch.random.get_rng_state(), state)  # the numbers of the run stay those without a new tail

    def test_the_direct_tail_is_faster(self):
        """What the table calls fixed is the network without groups."""
        net = catanet(upscale=4, block_num=1, num_tokens=4)
        fixed = {
            tail: costs.latency_table(in_form(net, tail, None), 1, (48, 48), "cpu", runs=3)["fixed_ms"]
            for tail in ("original", "direct")
        }
        assert fixed["direct"] < 0.7 * fixed["original"]

    def test_a_resumed_run_uses_the_latency_of_the_first(self, search_values, tmp_path, monkeypatch):
        """Measured again, it could allow other masks, whose logits would not fit."""
        groups = iter([[1.0, 2.0, 3.0, 4.0], [4.0, 1.0, 1.0, 1.0]])
        measured = []

        def timed(net, *arguments):
            measured.append(1)
            return {"fixed_ms": 0.0, "groups_ms": next(groups)}

        monkeypatch.setattr(costs, "latency_table", timed)
        values = search_values(
            "cnn", prune=SHORT, train={"total_iter": 3}, budget={"blocks": None, "latency_ms": 5},
            compact={"enable": False}, logger={"save_checkpoint_freq": 1},
        )  # fmt: skip
        assert run(basicsr.train, tmp_path, values) == 0
        (tmp_path / "experiments/s/training_states/3.state").unlink()
        assert run(basicsr.train, tmp_path, values, "--auto_resume") == 0
        assert len(measured) == 1

    def test_an_undeclared_ffn_is_an_error_before_the_search(self, search_values, model_of):
        with pytest.raises(OptionError, match=r"x\.yml:\d+: compact.mlp_dim: ResidualCNN does not declare"):
            model_of(search_values("cnn", compact={"mlp_dim": 4}))
        with pytest.raises(OptionError, match=r"compact.mlp_dim: must be at most the 32 of network_g, got 40"):
            model_of(search_values(compact={"mlp_dim": 40}))
        with pytest.raises(OptionError, match=r"mlp_dim: must be in \[1, 65536\], got 0"):
            model_of(search_values(compact={"mlp_dim": 0}))
