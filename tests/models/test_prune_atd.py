"""Pruning of ATD, by residual groups and by the layers in them: from the mask to a cut network that was fine-tuned."""

import copy
import json

import numpy as np
import pytest
import torch
import yaml
from helpers import run_here

import basicsr.test
import basicsr.train
from basicsr.archs import build_network
from basicsr.archs.atd_arch import ATD
from basicsr.archs.prunable import Prunable
from basicsr.archs.published import load_network
from basicsr.config.load import load_options, resolve
from basicsr.config.pruning import BudgetOptions
from basicsr.engine.checkpoint import save_atomically
from basicsr.errors import OptionError
from basicsr.images.files import list_images, read_image, write_image
from basicsr.models import build_model
from basicsr.pruning import compaction, finalize
from basicsr.pruning.compaction import compact, compaction_errors, cut_into, network_spec
from basicsr.pruning.costs import group_resources
from basicsr.pruning.finalize import recalibrate
from basicsr.pruning.masked_network import Draw, MaskedNetwork
from basicsr.pruning.teacher import load_teacher

pytestmark = pytest.mark.filterwarnings("ignore:Unable to enable fault handler")  # stderr is captured
V1 = {
    "type": "ATD", "upscale": 2, "embed_dim": 8, "depths": [3, 1, 4], "num_heads": [2, 4, 1], "window_size": 4,
    "category_size": 24, "num_tokens": 10, "reducted_dim": 4, "convffn_kernel_size": 3, "mlp_ratio": 1.5,
    "upsampler": "pixelshuffledirect",
}  # fmt: skip
V2 = V1 | {"dim_ffn_td": 3}
SHORT = {"depths": [2, 2], "num_heads": [2, 4]}
VERSIONS = pytest.mark.parametrize("config", [V1, V2], ids=["v1", "v2"])
UNITS = pytest.mark.parametrize("unit", ["group", "layer"])
KEEP = [
    ("group", [1]), ("group", [0, 2]), ("group", [0, 1, 2]),
    ("layer", [0, 2, 4, 7]), ("layer", [1, 3, 5, 6]),  # layers between that are gone; a last one that was not the last
    ("layer", [3, 4]),  # the first block loses all of them
    ("layer", [2, 4, 5, 6]),  # the second one does
    ("layer", [1]), ("layer", list(range(8))),
]  # fmt: skip


@pytest.fixture(autouse=True)
def short(seed, monkeypatch):
    """Leave out what takes most of the time of a short run."""
    torch.set_num_threads(1)  # faster for tensors this small
    monkeypatch.setattr(finalize, "write_page", lambda folder: str(folder / "prune_report.html"))
    monkeypatch.setattr(basicsr.train, "plot_curves", lambda curves, path: None)
    monkeypatch.setattr(compaction, "SHAPES", ((2, 9, 13),))


def trained(spec, **changed):
    """A network all of whose parameters matter, as training leaves it."""
    net = build_network({**spec, **changed})
    for parameter in net.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    return net.eval()


# Cutting


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.float64, 1e-12)])
@VERSIONS
@pytest.mark.parametrize(("unit", "keep"), KEEP)
def test_multiplied_skipped_and_cut_networks_are_equal(config, unit, keep, dtype, tolerance):
    net = trained(config, prune_unit=unit).to(dtype)
    small = compact(net, keep)
    bits = [int(i in keep) for i in range(len(net.prunable_groups()))]
    lq = torch.rand(1, 3, 8, 12, dtype=dtype)
    with torch.no_grad():
        skipped, cut, whole = net(lq, bits), small(lq), net(lq)
        multiplied = net(lq, [torch.tensor(float(bit), dtype=dtype) for bit in bits])
    torch.testing.assert_close(skipped, cut, rtol=0, atol=tolerance)
    torch.testing.assert_close(multiplied, cut, rtol=0, atol=tolerance)
    assert torch.equal(whole, cut) == all(bits)
    assert max(compaction_errors(net, small, keep).values()) <= tolerance


@VERSIONS
@pytest.mark.parametrize(("unit", "keep"), KEEP[1::2])
def test_the_cut_network_comes_back_from_a_file(config, unit, keep, tmp_path):
    net = trained(config, prune_unit=unit)
    small = compact(net, keep)
    spec = yaml.safe_load(yaml.safe_dump(network_spec(small)))
    save_atomically({"params": small.state_dict(), "network_g": spec}, tmp_path / "small.pth")
    again, lq = load_network(tmp_path / "small.pth").eval(), torch.rand(1, 3, 9, 13)
    assert isinstance(again, ATD) and isinstance(again, Prunable)
    with torch.no_grad():
        assert torch.equal(again(lq), small(lq))
    torch.testing.assert_close(again.state_dict(), small.state_dict(), rtol=0, atol=0)


@VERSIONS
def test_kept_layers_keep_their_names_and_kept_groups_move_up(config):
    net = trained(config, prune_unit="layer")
    small = compact(net, [1, 2, 6])
    layers = {".".join(name.split(".")[:5]) for name in small.state_dict() if ".residual_group.layers." in name}
    assert layers == {f"layers.{i}.residual_group.layers.{j}" for i, j in ((0, 1), (0, 2), (2, 2))}
    assert all(torch.equal(value, net.state_dict()[name]) for name, value in small.state_dict().items())
    small = compact(trained(config), [0, 2])
    assert {name.split(".")[1] for name in small.state_dict() if name.startswith("layers.")} == {"0", "1"}
    assert [len(group.residual_group.layers) for group in small.layers] == [3, 4]


@VERSIONS
def test_a_cut_network_can_be_cut_again(config):
    net = trained(config, prune_unit="layer")
    twice, once = compact(compact(net, [0, 2, 4, 6, 7]), [1, 2, 4]), compact(net, [2, 4, 7])
    assert network_spec(twice) == network_spec(once)
    torch.testing.assert_close(twice.state_dict(), once.state_dict(), rtol=0, atol=0)
    groups = build_network({**network_spec(once), "prune_unit": "group"})
    groups.load_state_dict(once.state_dict())
    small, lq = compact(groups.eval(), [0, 2]), torch.rand(1, 3, 9, 13)
    with torch.no_grad():
        torch.testing.assert_close(small(lq), groups(lq, [1, 0, 1]), rtol=0, atol=1e-6)


@VERSIONS
@UNITS
def test_what_is_cut_is_taken_from_the_teacher_by_place(config, unit):
    keep = [0, 2] if unit == "group" else [0, 2, 4, 7]
    whole = trained(config, prune_unit=unit)
    net = build_network(network_spec(compact(whole, keep))).eval()
    cut_into(net, whole, keep)
    assert max(compaction_errors(whole, net, keep).values()) <= 1e-6


# Costs, masks, state


@VERSIONS
@UNITS
def test_costs_of_a_mask_are_those_of_the_cut_network(config, unit):
    net = trained(config, prune_unit=unit)
    found = {r.name: r for r in group_resources(net, BudgetOptions(ref_size=(9, 13)), "cpu")}
    number = 3 if unit == "group" else 8
    assert len(found["params"].groups) == found["blocks"].full == number
    for keep in ([0, 2], [1], list(range(number))):
        mask = [int(i in keep) for i in range(number)]
        small = compact(net, keep)
        assert found["params"].total(mask) == sum(p.numel() for p in small.parameters())
        cost = sum(small.multiply_adds(9, 13)) / 1e9
        if config is V1 and unit == "layer" and keep == [1]:  # now the last of its block, it refines no dictionary
            assert found["macs_g"].total(mask) > cost
        else:
            assert found["macs_g"].total(mask) == pytest.approx(cost)


@VERSIONS
@UNITS
def test_a_mask_that_is_decided_leaves_out_what_it_drops(config, unit):
    net = trained(config, prune_unit=unit).train()
    number = len(net.prunable_groups())
    bits = [i % 2 for i in range(number)]

    class Fixed(torch.nn.Module):
        number = len(bits)

        def mode(self):
            return torch.tensor(bits)

    masked = MaskedNetwork(net, Fixed())
    masked(torch.rand(1, 3, 9, 13), Draw(1, 0, 1.0, 0.0, False)).mean().backward()
    idle = {id(p) for p in masked.parameters_of_dropped([bool(bit) for bit in bits])}
    prefixes = tuple(prefix for group in net.prunable_groups() if not bits[group.index] for prefix in group.prefixes)
    for name, parameter in net.named_parameters():
        assert (id(parameter) in idle) == name.startswith(prefixes), name
        assert parameter.grad is None or not name.startswith(prefixes), name
    kept = next(i for i, bit in enumerate(bits) if bit)
    learned = [p.grad for n, p in net.named_parameters() if n.startswith(net.prunable_groups()[kept].prefixes)]
    assert sum(grad is not None for grad in learned) > 10


@VERSIONS
def test_nothing_is_set_anew_where_there_is_no_state(config):
    net = trained(config)
    before = copy.deepcopy(net.state_dict())
    recalibrate(net, iter(()), 5, 0.98)
    recalibrate(net, (pytest.fail("a batch was asked for") for _ in range(1)), 5, 0.98)
    torch.testing.assert_close(net.state_dict(), before, rtol=0, atol=0)


# The model


def values(folder, unit, version=2, **sections):
    """Options of a search of six iterations."""
    network = {**(V1 if version == 1 else V2), **SHORT, "prune_unit": unit}
    weights = folder / "teacher.pth"
    torch.save({"params": trained(network).state_dict()}, weights)
    photographs = {"name": "Photos", "type": "PairedImageDataset", "dataroot_gt": str(folder / "windows")}
    nm = {"sampler": "nm", "patterns": [[1, 2], [1, 2]]}
    result = {
        "name": "s", "model_type": "PruneDistillModel", "scale": 2, "num_gpu": 0, "manual_seed": 3,
        "datasets": {
            "train": {**photographs, "gt_size": 24, "batch_size_per_gpu": 2, "dataset_enlarge_ratio": 8},
            "val": photographs.copy(),
        },
        "network_g": network, "network_t": network.copy(),
        "path": {"pretrain_network_g": str(weights), "pretrain_network_t": str(weights)},
        "prune": {"warmup_iter": 1, "search_iter": 3, "settle_iter": 2, **(nm if unit == "layer" else {})},
        "budget": {"blocks": 1 if unit == "group" else 2, "ref_size": [12, 12]},
        "kd": {"sa": {"weight": 0.04}},
        "train": {
            "total_iter": 6, "grad_clip": 0.5, "optim_g": {"type": "Adam", "lr": 1e-3},
            "optim_m": {"type": "Adam", "lr": 0.1}, "pixel_opt": {"type": "L1Loss"},
        },
        "val": {"metrics": {"psnr": {"type": "calculate_psnr", "crop_border": 2, "test_y_channel": True}}},
        "logger": {"print_freq": 1, "save_checkpoint_freq": 1000},
        "compact": {"finetune": {"total_iter": 3}},
    }  # fmt: skip
    for name, section in sections.items():
        result[name] = {**result.get(name, {}), **section}
    return result


def write(folder, options):
    path = folder / f"{options['name']}.yml"
    path.write_text(yaml.safe_dump(options, sort_keys=False))
    return path


@pytest.fixture
def windows(photos, tmp_path):
    """The folder of the run, with small windows of the photographs, of odd sizes."""
    for k, name in enumerate(list_images(photos)[:2]):
        image = read_image(photos / name)[40 : 66 + k, 30 : 59 - k]
        write_image(tmp_path / "windows" / name, np.ascontiguousarray(image))
    return tmp_path


@pytest.fixture
def model_of(tmp_path):
    """The model that these options describe, without data."""

    def model_of(options):
        options["path"]["experiments_root"] = str(tmp_path / "experiments")
        (tmp_path / "experiments" / "s").mkdir(parents=True, exist_ok=True)
        return build_model(resolve(load_options(write(tmp_path, options), is_train=True)))

    return model_of


def run(command, folder, path):
    """Return the exit code of a command that runs in this process, in `folder`."""
    return run_here(command, folder, "-opt", path)


@pytest.mark.parametrize(("version", "unit"), [(2, "group"), (1, "layer"), (2, "layer")])
def test_search_cut_fine_tuning_and_test(windows, version, unit):
    assert run(basicsr.train, windows, write(windows, values(windows, unit, version))) == 0
    folder = windows / "experiments/s/compact"
    report = json.loads((folder / "prune_report.json").read_text())
    assert max(report["equality"].values()) <= 1e-6 and report["number"] == (2 if unit == "group" else 4)
    content, small = torch.load(folder / "net_g_xs.pth", weights_only=True), load_network(folder / "net_g_xs.pth")
    kept = report["kept"]
    assert content["meta"]["kept"] == kept and len(kept) == (1 if unit == "group" else 2)
    assert report["resources"]["params"]["kept"] == sum(p.numel() for p in small.parameters())
    spec = content["network_g"]
    assert (spec["type"], spec["version"], spec["prune_unit"]) == ("ATD", version, unit)
    learned = torch.load(windows / "experiments/s/models/net_g_6.pth", weights_only=True)["params"]
    if unit == "group":
        assert (spec["depths"], spec["kept_layers"]) == ([2], None)
        names = {"layers.0.conv.weight": f"layers.{kept[0]}.conv.weight"}
    else:
        places = [(0, 0), (0, 1), (1, 0), (1, 1)]
        assert spec["depths"] == [2, 2]
        assert [(i, j) for i, block in enumerate(spec["kept_layers"]) for j in block] == [places[i] for i in kept]
        names = {n: n for n in content["params"] if n.endswith("wqkv.weight")}
        assert len(names) == 2
    assert all(torch.equal(content["params"][mine], learned[theirs]) for mine, theirs in names.items())

    finetune = yaml.safe_load((folder / "train_finetune.yml").read_text())
    assert finetune["network_g"] == {k: list(v) if isinstance(v, tuple) else v for k, v in spec.items()}
    assert finetune["prune"] == {"stage": "finetune", "kept": kept}
    assert run(basicsr.train, windows, "experiments/s/compact/train_finetune.yml") == 0
    assert run(basicsr.test, windows, "experiments/s/compact/test_x2.yml") == 0
    scores = json.loads((windows / "results/test_s_finetune/scores.json").read_text())
    assert scores.keys() == {"Photos"}
    after = torch.load(windows / "experiments/s_finetune/models/net_g_latest.pth", weights_only=True)["params"]
    assert after.keys() == content["params"].keys()
    assert all(not torch.equal(after[name], content["params"][name]) for name in names)


def batch(it):
    generator = torch.Generator().manual_seed(it)
    return {k: torch.rand(2, 3, s, s, generator=generator) for k, s in (("lq", 12), ("gt", 24))}


@VERSIONS
def test_every_layer_and_every_logit_learns_in_a_search(config, model_of, tmp_path):
    options = values(tmp_path, "layer", 1 if config is V1 else 2, kd={"search_taps": "last", "sa": {"weight": 0.1}})
    model = model_of(options)
    assert model.distillation.pairs == [(3, 3)]
    weights = copy.deepcopy(model.masked.module.state_dict())
    logits = copy.deepcopy(model.masked.sampler.state_dict())
    for it in range(1, 7):
        model.update_learning_rate(it)
        model.feed_data(batch(it))
        model.optimize_parameters(it)
        assert model.masked.mask.sum() == 2
    moved = {n for n, value in model.masked.module.state_dict().items() if not torch.equal(value, weights[n])}
    assert {n for n in weights if n.endswith("convffn.fc1.weight")} <= moved
    assert "l_sa" in model.get_current_log()
    assert any(not torch.equal(v, logits[n]) for n, v in model.masked.sampler.state_dict().items())


def test_low_rank_additions_reach_the_cut_network(model_of, tmp_path):
    model = model_of(values(tmp_path, "layer", 1, prune={"delta_w": "lora", "lora_rank": 2}))
    for it in range(1, 7):
        model.update_learning_rate(it)
        model.feed_data(batch(it))
        model.optimize_parameters(it)
    with torch.no_grad():
        masked = model.masked.eval()(batch(7)["lq"], model.search.draw(6, 0))
        whole = model.whole_network().eval()
        bits = [int(bit) for bit in model.search.mode]
        cut = compact(whole, [i for i, bit in enumerate(bits) if bit])(batch(7)["lq"])
    torch.testing.assert_close(cut, masked, rtol=0, atol=1e-6)
    name = "layers.0.residual_group.layers.0.wqkv.weight"
    assert not torch.equal(whole.state_dict()[name], model.masked.module.state_dict()[name])


def finetuning(folder, kept, blocks, **kd):
    options = values(folder, "layer", kd=kd)
    options["network_g"] = {**options["network_g"], "kept_layers": blocks}
    del options["path"]["pretrain_network_g"], options["train"]["optim_m"]
    options["prune"] = {"stage": "finetune", "kept": kept}
    return options


@pytest.mark.parametrize(
    ("match", "expected"), [("absorb", [(0, 1), (1, 3)]), ("origin", [(0, 0), (1, 3)]), ("uniform", [(0, 1), (1, 3)])]
)
def test_layers_of_the_student_are_compared_with_those_of_their_block(model_of, tmp_path, match, expected):
    """Layer 0 takes over what layer 1 did, but not layer 2, before which the block ends in a convolution."""
    model = model_of(finetuning(tmp_path, [0, 3], [[0], [1]], match=match))
    assert model.distillation.pairs == expected
    with torch.no_grad():
        masked = model.teacher(batch(1)["lq"], [1, 0, 0, 1])
        torch.testing.assert_close(model.net_g.eval()(batch(1)["lq"]), masked, rtol=0, atol=1e-6)
    model.update_learning_rate(1)
    model.feed_data(batch(1))
    model.optimize_parameters(1)
    assert model.get_current_log()["l_sa"] > 0


def test_a_student_without_the_last_block_ends_with_its_own(model_of, tmp_path):
    model = model_of(finetuning(tmp_path, [0], [[0], []]))
    assert model.distillation.pairs == [(0, 1)]
    assert not model.net_g.layers[1].residual_group.td.requires_grad


def test_features_of_groups_are_not_compared_with_those_of_layers(model_of, tmp_path):
    options = values(tmp_path, "layer")
    del options["network_t"]["prune_unit"]
    with pytest.raises(OptionError, match=r"network_t.prune_unit: is 'group', but network_g has 'layer'.*kd to 0"):
        model_of(copy.deepcopy(options))
    options["kd"] = {"sa": {"weight": 0.0}}
    assert model_of(options).teacher.prune_unit == "group"


class TestRounding:
    """One pixel in another category changes all others, so what roundings change is looked at in float64."""

    @staticmethod
    def rounded(monkeypatch, threshold):
        """Networks of up to `threshold` bits differ."""

        def errors(net, small, keep):
            found = compaction_errors(net, small, keep)
            bits = torch.finfo(next(net.parameters()).dtype).bits
            return {shape: error + (0.5 if bits <= threshold else 0) for shape, error in found.items()}

        monkeypatch.setattr(finalize, "compaction_errors", errors)

    def test_is_told_from_a_difference(self, model_of, tmp_path, monkeypatch):
        model = model_of(values(tmp_path, "layer", 1))
        self.rounded(monkeypatch, 32)
        model.finish(iter(()))
        report = json.loads((tmp_path / "experiments/s/prune_report.json").read_text())
        assert max(report["equality"].values()) < 1e-12 and report["equality_dtype"] == "float64"
        assert next(model.whole_network().parameters()).dtype == torch.float32
        saved = torch.load(tmp_path / "experiments/s/compact/net_g_xs.pth", weights_only=True)["params"]
        assert saved["conv_first.weight"].dtype == torch.float32

    def test_a_difference_ends_the_run(self, model_of, tmp_path, monkeypatch):
        model = model_of(values(tmp_path, "layer", 1))
        self.rounded(monkeypatch, 64)
        with pytest.raises(RuntimeError, match=r"differs from the masked one by 5.0e-01"):
            model.finish(iter(()))

    def test_float32_is_enough_otherwise(self, model_of, tmp_path):
        model = model_of(values(tmp_path, "group"))
        model.finish(iter(()))
        report = json.loads((tmp_path / "experiments/s/prune_report.json").read_text())
        assert report["equality_dtype"] == "float32"


def test_a_teacher_of_either_version_needs_no_state(tmp_path):
    for config in (V1, V2):
        net = trained(config)
        torch.save({"params": net.state_dict()}, tmp_path / "t.pth")
        teacher = load_teacher(config, str(tmp_path / "t.pth"), None, torch.device("cpu"))
        assert not teacher.training and not any(p.requires_grad for p in teacher.parameters())
