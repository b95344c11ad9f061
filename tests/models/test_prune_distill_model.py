"""Searching a mask, cutting the network, distilling into it: the model alone, and the commands from end to end."""

import copy
import csv
import json
import logging
import os
import re
import subprocess
import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import yaml
from fake_graphs import FakeBackend
from models.prunable_nets import TINY, ResidualCNN, catanet, with_state
from torch import nn

import basicsr.test
import basicsr.train
from basicsr.archs import build_network
from basicsr.config.load import load_options, resolve
from basicsr.config.registry import ARCH_REGISTRY
from basicsr.engine.checkpoint import load_file
from basicsr.engine.optimizer_groups import parameters_of
from basicsr.engine.step_graphs import GraphedStep
from basicsr.errors import CheckpointError, OptionError
from basicsr.images.files import image_size, list_images, read_image, write_image
from basicsr.models import build_model
from basicsr.models.prune_distill_model import PruneDistillModel
from basicsr.pruning import compaction, finalize
from basicsr.pruning.compaction import compact, kept_groups
from basicsr.pruning.distillation import Transform

pytestmark = pytest.mark.filterwarnings("ignore:Unable to enable fault handler")  # stderr is captured
LOGGER = logging.getLogger("basicsr")
CNN = {"type": "ResidualCNN", "upscale": 2}
PSNR = {"type": "calculate_psnr", "crop_border": 2, "test_y_channel": True}
PRUNE = {"warmup_iter": 2, "search_iter": 5, "settle_iter": 3, "recalib_iter": 2}
NO_FEATURES = {"sa": {"weight": 0.0}}


@pytest.fixture(autouse=True)
def one_thread(seed):
    torch.set_num_threads(1)  # faster for tensors this small


@pytest.fixture(autouse=True)
def registered(monkeypatch):
    monkeypatch.setitem(ARCH_REGISTRY._items, "ResidualCNN", ResidualCNN)


@pytest.fixture
def short(monkeypatch):
    """Leave out what takes most of the time of a short run."""
    monkeypatch.setattr(finalize, "build_report", lambda folder: folder / "prune_report.html")
    monkeypatch.setattr(basicsr.train, "plot_curves", lambda curves, path: None)
    monkeypatch.setattr(compaction, "SHAPES", ((1, 3, 16, 18),))


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Weight files of a CATANet and a CNN with their state set. Do not write to them."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("weights")
    nets = {"catanet": catanet(), "cnn": with_state(ResidualCNN())}
    for name, net in nets.items():
        torch.save({"params": net.state_dict()}, folder / f"{name}.pth")
    return {name: str(folder / f"{name}.pth") for name in nets}


@pytest.fixture(scope="module")
def windows(photos, tmp_path_factory):
    """Folder of small windows of the photographs, of odd sizes. Do not write to it."""
    folder = tmp_path_factory.mktemp("windows")
    for k, name in enumerate(list_images(photos)[:3]):
        write_image(folder / name, np.ascontiguousarray(read_image(photos / name)[40 : 77 + k, 30 : 75 - k]))
    return folder


@pytest.fixture(scope="module")
def search_values(weights, windows):
    """Options of a search of 10 iterations; sections given are merged."""

    def search_values(which="catanet", **sections):
        photographs = {"name": "Photos", "type": "PairedImageDataset", "dataroot_gt": str(windows)}
        network = TINY if which == "catanet" else CNN
        values = {
            "name": "s", "model_type": "PruneDistillModel", "scale": 2, "num_gpu": 0, "manual_seed": 3,
            "datasets": {
                "train": {**photographs, "gt_size": 32, "batch_size_per_gpu": 2, "dataset_enlarge_ratio": 4},
                "val": photographs.copy(),
            },
            "network_g": network, "network_t": network,
            "path": {"pretrain_network_g": weights[which], "pretrain_network_t": weights[which]},
            "prune": PRUNE, "budget": {"blocks": 2, "ref_size": [16, 16]},
            "kd": {"sa": {"weight": 0.04}},
            "train": {
                "total_iter": 10, "grad_clip": 0.5, "optim_g": {"type": "Adam", "lr": 1e-3},
                "optim_m": {"type": "Adam", "lr": 0.1}, "pixel_opt": {"type": "L1Loss"},
            },
            "val": {"metrics": {"psnr": PSNR}}, "logger": {"print_freq": 1, "save_checkpoint_freq": 1000},
        }  # fmt: skip
        for name, section in sections.items():
            values[name] = {**values.get(name, {}), **section}
        return values

    return search_values


@pytest.fixture
def finetune_values(search_values):
    """Options of fine-tuning what groups 1 and 4 of the teacher leave, beginning with these."""

    def finetune_values(**sections):
        values = search_values(**{"prune": {}, "path": {"pretrain_network_g": None}, **sections})
        values["network_g"] = {**TINY, "block_num": 2, "num_tokens": [8, 4], **sections.get("network_g", {})}
        values["prune"] = {"stage": "finetune", "kept": [1, 4], **sections.get("prune", {})}
        return values

    return finetune_values


@pytest.fixture
def model_of(tmp_path):
    """The model that these options describe, without data."""

    def model_of(values):
        values = copy.deepcopy(values)
        values["path"] = {**values["path"], "experiments_root": str(tmp_path / "experiments")}
        path = tmp_path / "x.yml"
        path.write_text(yaml.safe_dump(values, sort_keys=False))
        (tmp_path / "experiments" / "s").mkdir(parents=True, exist_ok=True)
        return build_model(resolve(load_options(path, is_train=True)))

    return model_of


def batch(it, size=2):
    generator = torch.Generator().manual_seed(it)
    return {k: torch.rand(size, 3, s, s, generator=generator) for k, s in (("lq", 12), ("gt", 24))}


def step(model, it, **changed):
    model.update_learning_rate(it)
    model.feed_data({**batch(it), **changed})
    model.optimize_parameters(it)


def state_of(module):
    return {name: value.clone() for name, value in module.state_dict().items()}


def moved(before, module):
    """Names whose values are others now, bit for bit."""
    return {name for name, value in module.state_dict().items() if not torch.equal(value, before[name])}


def run(command, folder, values, *flags):
    """Exit code of a command that runs here, in `folder`, with options or an option file there."""
    path = values
    if isinstance(values, dict):
        path = f"{values['name']}.yml"
        (folder / path).write_text(yaml.safe_dump(values, sort_keys=False))
    torch.set_num_threads(1)
    level = LOGGER.level
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(LOGGER, "handlers", [])
        patch.setattr(LOGGER, "propagate", True)
        code = command.main(["-opt", path, *flags])
        for handler in LOGGER.handlers:
            handler.close()
    LOGGER.setLevel(level)
    return code


class TestSearch:
    def test_only_the_groups_that_a_mask_keeps_move_their_centres(self, search_values, model_of):
        model = model_of(search_values(prune={"warmup_iter": 2, "search_iter": 6, "settle_iter": 2}))
        net = model.masked.module
        seen = set()
        for it in range(1, 11):
            before = state_of(net)
            step(model, it)
            kept = kept_groups(model.masked.mask)
            seen.add(tuple(kept))
            assert len(kept) == 2
            buffers = {name for name, _ in net.named_buffers()}
            assert moved(before, net) & buffers == {f"blocks.{i}.0.means" for i in kept}
        assert len(seen) > 2

    def test_centres_of_dropped_groups_stay_where_their_residual_is_evaluated_for_the_gate(
        self, search_values, model_of
    ):
        """As above with a state never set: not even the flag of a dropped group may change."""
        model = model_of(
            search_values(prune={"warmup_iter": 0, "search_iter": 10, "settle_iter": 0, "eps_uniform": 0.0})
        )
        net = model.masked.module
        for block in net.blocks:
            block[0].initted.fill_(False)
            block[0]._initialised = False
        step(model, 1)
        assert all(p.grad is not None for p in net.parameters())
        kept = kept_groups(model.masked.mask)
        assert [i for i in range(6) if bool(net.blocks[i][0].initted)] == kept

    @pytest.mark.parametrize("stage", ["search", "finetune"])
    def test_the_teacher_is_the_same_after_20_steps(self, search_values, finetune_values, model_of, stage):
        prune = {"warmup_iter": 4, "search_iter": 12, "settle_iter": 4}
        if stage == "search":
            values = search_values(prune=prune, train={"total_iter": 20}, kd={"search_taps": "last"})
        else:
            values = finetune_values(train={"total_iter": 20}, kd={"zoom": {"weight": 0.1}})
        model = model_of(values)
        before = state_of(model.teacher)
        for it in range(1, 21):
            step(model, it)
            assert not model.teacher.training
        assert moved(before, model.teacher) == set()
        assert not any(p.requires_grad or p.grad is not None for p in model.teacher.parameters())
        assert {id(p) for p in model.teacher.parameters()}.isdisjoint(
            id(p) for optimizer in model.optimizers for group in optimizer.param_groups for p in group["params"]
        )

    def test_logits_learn_in_the_search_alone_and_weights_throughout(self, search_values, model_of):
        model = model_of(search_values())
        masked = model.masked
        for it in range(1, 11):
            logits, weight = masked.sampler.logits.clone(), masked.module.first_conv.weight.clone()
            step(model, it)
            phase = model.search.phase(it)
            assert phase == ("warmup" if it <= 2 else "search" if it <= 7 else "settle")
            assert torch.equal(logits, masked.sampler.logits) == (phase != "search"), it
            assert not torch.equal(weight, masked.module.first_conv.weight)
            if phase == "settle":
                assert torch.equal(masked.mask.long(), masked.sampler.mode())

    def test_what_is_tested_is_the_masked_network(self, search_values, model_of):
        model = model_of(search_values())
        for it in range(1, 5):
            step(model, it)
        lq = batch(1)["lq"]
        with model.predictor() as predict:
            output = predict(lq)
        bits = model.masked.sampler.mode().tolist()
        assert model.search.mode == "".join(map(str, bits))
        net = copy.deepcopy(model.masked.module).eval()
        with torch.no_grad():
            torch.testing.assert_close(output, net(lq, bits), rtol=0, atol=1e-5)
            assert not torch.allclose(output, net(lq), atol=1e-3)

    @pytest.mark.parametrize(
        "prune",
        [
            {"sampler": "subset", "logits": "per_block"},
            {"sampler": "nm", "patterns": [[1, 2], [1, 2]]},
            {"sampler": "nm", "patterns": [[1, 2], [1, 2]], "inter_block": {"enable": False}},
            {"sampler": "bernoulli"},
            {"sampler": "fixed", "fixed_mask": [0, 1, 0, 1]},
        ],
        ids=["per_block", "nm", "nm alone", "bernoulli", "fixed"],
    )
    def test_every_sampler_trains_and_is_logged(self, search_values, model_of, prune):
        phases = {"warmup_iter": 0, "search_iter": 3, "settle_iter": 0, "eps_uniform": 0.0, "entropy_weight": 1e-3}
        model = model_of(search_values("cnn", prune={**prune, **phases}, train={"total_iter": 3}))
        before = state_of(model.masked.sampler)
        for it in (1, 2, 3):
            step(model, it)
        rows = list(csv.DictReader(model.mask_log.path.open()))
        assert [row["iter"] for row in rows] == ["1", "2", "3"]
        assert all(float(row["grad_norm_g"]) > 0 for row in rows)
        learned = {name for name, _ in model.masked.sampler.named_parameters()}
        assert moved(before, model.masked.sampler) == learned
        assert bool(learned) == (prune["sampler"] != "fixed")
        assert ("l_budget" in rows[0]) == (prune["sampler"] == "bernoulli")
        assert len(kept_groups([int(bit) for bit in model.search.mode])) == 2
        again = model_of(search_values("cnn", prune={**prune, **phases}, train={"total_iter": 3}))
        again.load_extra_state(model.extra_state(), 3)
        assert moved(state_of(model.masked.sampler), again.masked.sampler) == set()
        assert again.search.state_dict().keys() == model.search.state_dict().keys()

    def test_a_search_ends_early_when_it_has_long_been_clear(self, search_values, model_of):
        model = model_of(search_values("cnn", prune={"min_search_iter": 4, "freeze_conf": 0.5, "freeze_patience": 2}))
        step(model, 3)
        with torch.no_grad():
            model.masked.sampler.logits[4] = 9.0
        for it in (4, 5, 6):
            step(model, it)
            assert model.search.phase(7) == ("settle" if it == 6 else "search")
        assert model.search.mode == "".join(map(str, model.masked.sampler.choices[4].tolist()))
        assert model.search.mode_since == 4


class TestParts:
    def test_each_part_of_a_batch_has_a_mask_of_its_own(self, search_values, model_of):
        prune = {"mask_chunks": 2, "warmup_iter": 0, "search_iter": 10, "settle_iter": 0}
        model = model_of(search_values("cnn", prune=prune))
        step(model, 1)
        generator = model.masked.sampler
        drawn = [generator.sample(1, model.search.tau(1), model.search.eps(1), chunk).tolist() for chunk in (0, 1)]
        assert len(set(map(tuple, drawn))) == 2
        row = next(csv.DictReader(model.mask_log.path.open()))
        assert [float(row[f"drawn_{i}"]) for i in range(4)] == np.mean(drawn, axis=0).tolist()

    def test_parts_of_an_accumulated_batch_have_as_many(self, search_values, model_of):
        prune = {"mask_chunks": 2, "warmup_iter": 0, "search_iter": 10, "settle_iter": 0}
        model = model_of(search_values("cnn", prune=prune, train={"accum_iter": 2}))
        step(model, 1, **batch(1, size=4))
        assert model._draws == 4

    def test_of_unequal_size_are_refused(self, search_values, model_of):
        with pytest.raises(
            OptionError, match=r"x.yml:\d+: prune.mask_chunks: a batch of 2 does not divide into 3 parts"
        ):
            model_of(search_values("cnn", prune={"mask_chunks": 3}))


class TestWeights:
    def test_low_rank_additions_learn_alone_and_are_part_of_the_cut_network(self, search_values, model_of):
        model = model_of(search_values(prune={"delta_w": "lora", "lora_rank": 2}))
        before, low_rank = state_of(model.masked.module), state_of(model.masked.low_rank)
        for it in range(1, 11):
            step(model, it)
        buffers = {name for name, _ in model.masked.module.named_buffers()}
        assert moved(before, model.masked.module) <= buffers
        assert {"blocks|0|0|conv1x1|weight|a", "blocks|0|0|conv1x1|weight|b"} <= moved(low_rank, model.masked.low_rank)
        whole = model.whole_network()
        changed = moved(before, whole) - buffers
        assert "blocks.0.0.conv1x1.weight" in changed and "blocks.5.1.layer.1.fn.fc1.weight" in changed
        assert not any("norm" in name or name.startswith(("mid_convs", "first_conv")) for name in changed)
        key = "blocks|0|0|conv1x1|weight"
        addition = (model.masked.low_rank[f"{key}|b"] @ model.masked.low_rank[f"{key}|a"])[..., None, None]
        name = "blocks.0.0.conv1x1.weight"
        torch.testing.assert_close(whole.state_dict()[name], before[name] + addition.detach())
        lq = batch(1)["lq"]
        model.masked.eval(), whole.eval()
        with torch.no_grad():
            masked = model.masked(lq, model.search.draw(10, 0))
            small = compact(whole, kept_groups(model.masked.mask))
            torch.testing.assert_close(small(lq), masked, rtol=0, atol=1e-6)

    def test_low_rank_additions_have_no_average(self, search_values, model_of):
        with pytest.raises(OptionError, match=r"prune.delta_w: lora has no moving average; set train.ema_decay to 0"):
            model_of(search_values("cnn", prune={"delta_w": "lora"}, train={"ema_decay": 0.9}))

    @pytest.mark.parametrize("eps", [0.0, 1.0])
    def test_the_logits_can_learn_alone(self, search_values, model_of, eps):
        model = model_of(search_values("cnn", prune={"delta_w": "none", "eps_uniform": eps}))
        before, logits = state_of(model.masked.module), state_of(model.masked.sampler)
        for it in range(1, 11):
            step(model, it)
        assert moved(before, model.masked.module) <= {name for name, _ in model.masked.module.named_buffers()}
        assert moved(logits, model.masked.sampler) == {"logits"}

    def test_nothing_to_learn_is_refused(self, search_values, model_of):
        fixed = {"sampler": "fixed", "fixed_mask": [1, 0, 0, 1], "delta_w": "none"}
        with pytest.raises(OptionError, match=r"prune.delta_w: none leaves nothing to learn with sampler fixed"):
            model_of(search_values("cnn", prune=fixed))

    def test_the_average_is_what_is_cut(self, search_values, model_of):
        model = model_of(search_values(train={"ema_decay": 0.5}))
        for it in (1, 2, 3):
            step(model, it)
        kept = kept_groups([int(bit) for bit in model.search.mode])
        average, small = model.ema.module.state_dict(), model.net_eval.state_dict()
        assert torch.equal(small["mid_convs.1.weight"], average[f"mid_convs.{kept[1]}.weight"])
        assert torch.equal(small["blocks.0.0.means"], model.masked.module.state_dict()[f"blocks.{kept[0]}.0.means"])
        assert not torch.equal(average["first_conv.weight"], model.masked.module.first_conv.weight)


class TestFineTuning:
    def test_begins_with_the_groups_of_the_teacher(self, finetune_values, model_of):
        model = model_of(finetune_values())
        lq = batch(1)["lq"]
        with torch.no_grad():
            expected = model.teacher(lq, [0, 1, 0, 0, 1, 0])
            torch.testing.assert_close(model.net_g.eval()(lq), expected, rtol=0, atol=1e-6)

    def test_features_are_those_of_matched_groups_and_fade(self, finetune_values, model_of):
        model = model_of(finetune_values(kd={"match": "origin", "sa": {"weight": 1.0}}))
        assert model.distillation.pairs == [(0, 1), (1, 4)]
        values = []
        for it in range(1, 11):
            step(model, it, **batch(1))
            values.append(model.get_current_log())
        assert set(values[0]) == {"l_pix", "l_ts", "l_sa"}
        assert set(values[7]) == {"l_pix", "l_ts"}  # features end with iteration 8 of 10
        assert set(values[8]) == {"l_pix"}

    def test_kept_groups_come_from_the_weight_file(self, finetune_values, model_of, tmp_path):
        small = compact(catanet(), [0, 3])
        file = tmp_path / "small.pth"
        torch.save({"params": small.state_dict(), "meta": {"kept": [0, 3]}}, file)
        values = finetune_values(path={"pretrain_network_g": str(file)})
        del values["prune"]["kept"]
        values["network_g"]["num_tokens"] = [4, 8]
        assert model_of(values).distillation.pairs == [(0, 2), (1, 5)]
        values["kd"]["taps"] = "last"
        assert model_of(values).distillation.pairs == [(1, 5)]

    def test_zoomed_inputs_have_the_teachers_outputs_as_targets(self, finetune_values, model_of, monkeypatch):
        kd = {"zoom": {"weight": 0.5, "crops": 2, "augment": 1.0}, **NO_FEATURES}
        model = model_of(finetune_values(kd=kd))
        seen = {}
        monkeypatch.setattr(model.distillation, "ask", remember(seen, "lq", model.distillation.ask))
        monkeypatch.setattr(model, "_student", remember(seen, "student", model._student))
        monkeypatch.setattr(
            "basicsr.models.prune_distill_model.Transform", lambda p, square: keep(seen, "change", Transform(p))
        )
        step(model, 1)
        lq, inputs, change = seen["lq"], seen["student"], seen["change"]
        assert lq.shape == inputs.shape == (6, 3, 12, 12)
        assert torch.equal(lq[:2], inputs[:2]) and torch.equal(lq[:2], batch(1)["lq"])
        assert change.kind is not None and torch.equal(change(lq[2:]), inputs[2:])
        gt = F.unfold(batch(1)["gt"], 12).unflatten(1, (3, 12, 12))
        assert all((gt[k % 2] == lq[2 + k][..., None]).flatten(0, 2).all(0).any() for k in range(4))
        again = model_of(finetune_values(kd=kd))
        with torch.no_grad():
            expected = 0.5 * F.l1_loss(change(again.net_g(inputs)[2:]), again.teacher(lq)[2:])
        torch.testing.assert_close(model.log["l_zoom"], expected)

    def test_an_adapter_learns_along_and_is_saved(self, finetune_values, model_of, weights, tmp_path):
        teacher = catanet(dim=20)
        torch.save({"params": teacher.state_dict()}, tmp_path / "t.pth")
        values = finetune_values(kd={"feat": {"weight": 0.1, "adapter": True}})
        values["network_t"] = {**TINY, "dim": 20}
        values["path"] = {"pretrain_network_t": str(tmp_path / "t.pth")}
        values["prune"] = {"stage": "finetune", "kept": [1, 4]}
        torch.save({"params": compact(catanet(), [1, 4]).state_dict()}, tmp_path / "g.pth")
        values["path"]["pretrain_network_g"] = str(tmp_path / "g.pth")
        model = model_of(values)
        before = state_of(model.distillation.features)
        assert before["feat.adapter.weight"].shape == (20, 16, 1, 1)
        step(model, 1)
        step(model, 2)
        assert moved(before, model.distillation.features) == {"feat.adapter.weight", "feat.adapter.bias"}
        model.save(0, 2)
        folder = tmp_path / "experiments" / "s"
        again = model_of(values)
        again.resume_training(
            load_file(folder / "training_states" / "2.state"), load_file(folder / "models" / "net_g_2.pth"), "x"
        )
        assert moved(state_of(model.distillation.features), again.distillation.features) == set()
        step(model, 3)
        step(again, 3)
        for mine, theirs in ((again.net_g, model.net_g), (again.distillation.features, model.distillation.features)):
            torch.testing.assert_close(mine.state_dict(), theirs.state_dict(), rtol=0, atol=0)

    @pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
    def test_steps_as_graphs_give_the_same_numbers(self, finetune_values, model_of, device):
        """While the tail alone learns, while features fade, and after."""
        values = finetune_values(prune={"tail_warmup_iter": 5}, train={"total_iter": 16, "ema_decay": 0.9},
                                 kd={"feat": {"weight": 0.1, "adapter": True}, "feature_off_at": 0.7})  # fmt: skip
        values["num_gpu"] = int(device == "cuda")
        backend = FakeBackend()
        models = []
        for graph in (False, True):
            values["train"]["cuda_graph"] = graph
            torch.manual_seed(0)
            model = model_of(values)
            if graph and device == "cpu":
                model.training_step.graphs = GraphedStep(backend, lambda model=model: parameters_of(model.optimizers))
            for it in range(1, 17):
                model.update_learning_rate(it)
                model.feed_data(batch(it))
                model.optimize_parameters(it)
            assert (model.training_step.graphs is not None) is graph
            models.append(model)
        for part in ("net_g", "ema", "distillation"):
            plain, graphed = (getattr(model, part).state_dict() for model in models)
            torch.testing.assert_close(graphed, plain, rtol=0, atol=0)
        if device == "cpu":  # iterations 1 to 5, 6 to 11 and 13 to 16; in 12 the teacher's output still counts
            assert [backend.count(what) for what in ("record", "replay")] == [3, 2 + 3 + 1]

    def test_a_new_tail_is_warmed_up_alone(self, finetune_values, model_of):
        prune = {"tail_warmup_iter": 3, "tail_warmup_lr": 0.005}
        model = model_of(finetune_values(network_g={"tail": "direct"}, prune=prune, train={"ema_decay": 0.5}))
        before = state_of(model.net_g)
        for it in (1, 2, 3):
            step(model, it)
            assert model.get_current_learning_rate() == [0.005]
        tail = {"last_conv.weight", "last_conv.bias"}
        assert moved(before, model.net_g) == moved(before, model.ema.module) == tail
        step(model, 4)
        assert model.get_current_learning_rate() == [1e-3]
        assert moved(before, model.net_g) == set(before) - {"blocks.0.0.initted", "blocks.1.0.initted"}


def remember(seen, name, function):
    """`function`, whose first argument is kept under `name`."""

    def call(first, *args):
        seen[name] = first.clone()
        return function(first, *args)

    return call


def keep(seen, name, value):
    seen[name] = value
    return value


@pytest.fixture(scope="module")
def searched(search_values, tmp_path_factory):
    """Folder in which a search of 10 iterations was run. Do not write to it."""
    folder = tmp_path_factory.mktemp("searched")
    values = search_values(
        val={"val_freq": 5},
        logger={"save_checkpoint_freq": 4},
        compact={"finetune": {"total_iter": 30, "optim_g": {"type": "Adam", "lr": 3e-3}}},
    )
    assert run(basicsr.train, folder, values) == 0
    return folder


@pytest.fixture(scope="module")
def finetuned(searched):
    """The same folder after the option file that the search wrote was run as it is."""
    assert run(basicsr.train, searched, "experiments/s/compact/train_finetune.yml") == 0
    return searched


def spec_and_weights(path):
    content = torch.load(path, weights_only=True)
    net = build_network(content["network_g"])
    net.load_state_dict(content["params"])
    return content, net.eval()


class TestFromEndToEnd:
    def test_files(self, searched):
        folder = searched / "experiments" / "s"
        assert {path.name for path in (folder / "compact").iterdir()} == {
            "net_g_xs.pth", "network_g.yml", "train_finetune.yml", "test_x2.yml", "prune_report.json", "mask.npy",
        }  # fmt: skip
        assert (folder / "prune_report.html").stat().st_size > 1000
        assert (folder / "prune_report.json").read_bytes() == (folder / "compact/prune_report.json").read_bytes()

    def test_the_report(self, searched, weights):
        folder = searched / "experiments" / "s"
        report = json.loads((folder / "prune_report.json").read_text())
        assert {"C1", "C2", "C3", "C4", "C5", "C6", "C7"} <= report["criteria"].keys()
        content, small = spec_and_weights(folder / "compact/net_g_xs.pth")
        assert len(report["kept"]) == 2 and report["number"] == 6
        assert report["kept"] == content["meta"]["kept"] == kept_groups(np.load(folder / "compact/mask.npy").tolist())
        parameters = sum(p.numel() for p in small.parameters())
        assert report["compact"]["params"] == report["resources"]["params"]["kept"] == parameters
        assert report["criteria"]["C1"]["value"] == parameters and report["criteria"]["C1"]["passed"]
        assert report["criteria"]["C5"]["passed"] and max(report["equality"].values()) <= 1e-6
        assert report["resources"]["blocks"] == {"fixed": 0, "groups": [1] * 6, "limit": 2, "full": 6, "kept": 2}
        assert sum(mask["p"] for mask in report["ranking"]) <= 1 + 1e-6 and len(report["ranking"]) == 10
        assert report["ranking"][0]["kept"] == report["kept"]
        assert sum(report["pi"]) == pytest.approx(2)
        assert report["teacher"]["path"] == weights["catanet"] and len(report["teacher"]["sha256"]) == 64
        assert report["seeds"] == {"manual_seed": 3, "mask_seed": 3407}
        assert report["options"]["budget"]["blocks"] == 2

    def test_the_log_of_masks(self, searched):
        rows = list(csv.DictReader((searched / "experiments/s/mask_log.csv").open()))
        assert [row["iter"] for row in rows] == [str(it) for it in range(1, 11)]
        assert [row["phase"] for row in rows] == ["warmup"] * 2 + ["search"] * 5 + ["settle"] * 3
        assert [float(row["tau"]) for row in rows] == pytest.approx([4, 4, 3.22, 2.44, 1.66, 0.88] + [0.1] * 4)
        assert [float(row["E_blocks"]) for row in rows] == pytest.approx([2.0] * 10)
        for row in rows:
            assert float(row["l_total"]) == pytest.approx(float(row["l_pix"]) + float(row["l_ts"]))
            assert sum(float(row[f"drawn_{i}"]) for i in range(6)) == 2
            assert row["mode"].count("1") == 2
        assert (float(rows[0]["lr_g"]), float(rows[0]["lr_m"])) == (1e-3, 0.1)

    def test_the_cut_network_has_the_weights_of_the_search_and_centres_set_anew(self, searched):
        folder = searched / "experiments" / "s"
        content, small = spec_and_weights(folder / "compact/net_g_xs.pth")
        whole = torch.load(folder / "models/net_g_10.pth", weights_only=True)["params"]
        for place, index in enumerate(content["meta"]["kept"]):
            assert torch.equal(small.mid_convs[place].weight, whole[f"mid_convs.{index}.weight"])
            centres, old = small.blocks[place][0].means, whole[f"blocks.{index}.0.means"]
            assert 1e-4 < (centres - old).abs().max() < 0.2  # two steps of 0.02

    def test_fine_tuning_lowers_the_loss(self, finetuned, windows):
        folder = finetuned / "experiments"
        images = [read_image(windows / name)[:36, :36] for name in list_images(windows)]
        gt = torch.stack([torch.from_numpy(image.copy()).float().permute(2, 0, 1) / 255 for image in images])
        lq = F.avg_pool2d(gt, 2)
        losses = {}
        for name in ("s/compact/net_g_xs.pth", "s_finetune/models/net_g_latest.pth"):
            with torch.no_grad():
                losses[name] = float(F.l1_loss(spec_and_weights(folder / name)[1](lq), gt))
        before, after = losses.values()
        assert after < 0.7 * before

    def test_the_emitted_options_say_what_the_search_did(self, searched, windows):
        folder = searched / "experiments/s/compact"
        values = yaml.safe_load((folder / "train_finetune.yml").read_text())
        search = yaml.safe_load((searched / "s.yml").read_text())
        kept = json.loads((folder / "prune_report.json").read_text())["kept"]
        assert values["prune"] == {"stage": "finetune", "kept": kept}
        for key in ("datasets", "network_t", "val", "manual_seed", "num_gpu"):
            assert values[key] == search[key], key
        assert values["train"] == {
            "total_iter": 30, "optim_g": {"type": "Adam", "lr": 3e-3}, "grad_clip": 0.5,
            "pixel_opt": {"type": "L1Loss"},
        }  # fmt: skip
        assert values["network_g"] == yaml.safe_load((folder / "network_g.yml").read_text())["network_g"]
        test = yaml.safe_load((folder / "test_x2.yml").read_text())
        assert (test["model_type"], test["num_gpu"]) == ("SRModel", 0)

    def test_the_result_is_tested_without_the_code_of_pruning(self, finetuned, windows):
        """In a process of its own, in which modules of pruning cannot be imported."""
        code = (
            "import sys; import basicsr.models.sr_model; from basicsr.test import main\n"
            "sys.modules['basicsr.pruning'] = None\n"
            "sys.exit(main(['-opt', 'experiments/s/compact/test_x2.yml']))"
        )
        env = {**os.environ, "OMP_NUM_THREADS": "1"}
        done = subprocess.run([sys.executable, "-c", code], cwd=finetuned, env=env, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        folder = finetuned / "results" / "test_s_finetune"
        scores = json.loads((folder / "scores.json").read_text())
        assert scores.keys() == {"Photos"}
        for name in list_images(windows):
            stem = name.rpartition(".")[0]
            height, width = image_size(windows / name)
            picture = folder / "visualization" / "Photos" / f"{stem}_test_s_finetune.png"
            assert image_size(picture) == (height // 2 * 2, width // 2 * 2)

    @pytest.mark.usefixtures("short")
    def test_folders_of_ones_own_reach_the_emitted_options(self, search_values, tmp_path):
        values = search_values(
            "cnn", kd=NO_FEATURES, path={"experiments_root": "runs"}, compact={"finetune": {"total_iter": 1}},
            train={"total_iter": 3}, prune={"warmup_iter": 1, "search_iter": 1, "settle_iter": 1},
        )  # fmt: skip
        assert run(basicsr.train, tmp_path, values) == 0
        assert run(basicsr.train, tmp_path, "runs/s/compact/train_finetune.yml") == 0
        assert run(basicsr.test, tmp_path, "runs/s/compact/test_x2.yml") == 0
        assert not (tmp_path / "experiments").exists()

    @pytest.mark.usefixtures("short")
    def test_any_network_with_the_protocol(self, search_values, tmp_path):
        values = search_values(
            "cnn", val={"val_freq": 2, "expect_teacher_psnr": {"Photos": [20, 20]}},
            compact={"finetune": {"total_iter": 3}}, prune={"sampler": "nm", "patterns": [[1, 2], [1, 2]]},
            kd={"zoom": {"weight": 0.1}, "search_taps": "last"},
        )  # fmt: skip
        assert run(basicsr.train, tmp_path, values) == 0
        folder = tmp_path / "experiments/s/compact"
        content = torch.load(folder / "net_g_xs.pth", weights_only=True)
        assert content["network_g"]["hidden"] == [[8, 4, 6, 5][i] for i in content["meta"]["kept"]]
        report = json.loads((folder / "prune_report.json").read_text())
        assert report["criteria"]["C5"]["passed"]
        assert report["resources"]["params"]["kept"] == sum(
            v.numel() for n, v in content["params"].items() if "level" not in n
        )
        assert run(basicsr.train, tmp_path, "experiments/s/compact/train_finetune.yml") == 0
        assert run(basicsr.test, tmp_path, "experiments/s/compact/test_x2.yml") == 0

    @pytest.mark.usefixtures("short")
    def test_the_weights_of_the_teacher_and_a_direct_tail(self, search_values, tmp_path, weights):
        values = search_values(
            prune={"init_from": "teacher", "tail": "direct", "tail_warmup_iter": 1, "tail_warmup_lr": 0.01,
                   "recalib_iter": 0, "warmup_iter": 1, "search_iter": 1, "settle_iter": 1},
            train={"total_iter": 3}, compact={"finetune": {"total_iter": 2}},
        )  # fmt: skip
        assert run(basicsr.train, tmp_path, values) == 0
        folder = tmp_path / "experiments/s/compact"
        content, small = spec_and_weights(folder / "net_g_xs.pth")
        teacher = load_file(weights["catanet"])["params"]
        for place, index in enumerate(content["meta"]["kept"]):
            for name in (f"mid_convs.{index}.weight", f"blocks.{index}.0.means"):
                assert torch.equal(small.state_dict()[name.replace(f".{index}.", f".{place}.", 1)], teacher[name])
        assert content["network_g"]["tail"] == "direct"
        assert small.last_conv.out_channels == 12
        finetune = yaml.safe_load((folder / "train_finetune.yml").read_text())
        assert finetune["prune"]["tail_warmup_iter"] == 1 and finetune["prune"]["tail_warmup_lr"] == 0.01
        assert run(basicsr.train, tmp_path, "experiments/s/compact/train_finetune.yml") == 0
        before, after = small.state_dict(), load_file(tmp_path / "experiments/s_finetune/models/net_g_2.pth")["params"]
        assert not torch.equal(before["mid_convs.0.weight"], after["mid_convs.0.weight"])


class StopError(RuntimeError):
    """What ends a run in its middle."""


@pytest.mark.usefixtures("short")
def test_a_search_that_was_killed_goes_on_as_if_it_had_not_been(search_values, tmp_path, monkeypatch):
    values = search_values(
        prune={"eps_uniform": 0.5}, train={"ema_decay": 0.5}, logger={"print_freq": 2, "save_checkpoint_freq": 5}
    )
    straight, killed = tmp_path / "straight", tmp_path / "killed"
    for folder in (straight, killed):
        folder.mkdir()
    assert run(basicsr.train, straight, values) == 0
    with monkeypatch.context() as patch:
        step = PruneDistillModel.optimize_parameters

        def die(model, it):
            if it == 9:
                raise StopError
            step(model, it)

        patch.setattr(PruneDistillModel, "optimize_parameters", die)
        with pytest.raises(StopError):
            run(basicsr.train, killed, values)
    log = killed / "experiments/s/mask_log.csv"
    assert log.read_text().splitlines()[-1].startswith("8,")
    assert not (killed / "experiments/s/compact").exists()
    assert run(basicsr.train, killed, values, "--auto_resume") == 0
    for file in ("mask_log.csv", "prune_report.json", "compact/network_g.yml", "compact/mask.npy"):
        assert (killed / "experiments/s" / file).read_bytes() == (straight / "experiments/s" / file).read_bytes(), file
    for file in ("training_states/10.state", "models/net_g_10.pth", "compact/net_g_xs.pth"):
        mine, theirs = (load_file(folder / "experiments/s" / file) for folder in (killed, straight))
        assert equal(mine, theirs), file


def equal(mine, theirs):
    """Whether nested containers and tensors are the same, bit for bit."""
    if isinstance(theirs, dict):
        return mine.keys() == theirs.keys() and all(equal(mine[key], theirs[key]) for key in theirs)
    if isinstance(theirs, list | tuple):
        return len(mine) == len(theirs) and all(map(equal, mine, theirs))
    return torch.equal(mine, theirs) if isinstance(theirs, torch.Tensor) else mine == theirs


class Plain(nn.Conv2d):
    """No groups."""

    def __init__(self, *, upscale=2):
        super().__init__(3, 3, 1)
        self.upscale = upscale

    def prunable_groups(self):
        return []


def no_protocol(values, folder):
    values["network_g"] = {"type": "Plain"}
    values["path"]["pretrain_network_g"] = None
    return (
        "type",
        "network_g.type: Plain declares no residual groups: it lacks compact_kwargs, set_state_tracking, tail_prefixes",
    )


def no_teacher(values, folder):
    del values["network_t"]
    return "name", "network_t: is missing; distillation needs a teacher"


def no_teacher_weights(values, folder):
    del values["path"]["pretrain_network_t"]
    return "path", "path.pretrain_network_t: is missing; a teacher needs trained weights"


def no_weights(values, folder):
    del values["path"]["pretrain_network_g"]
    return "path", "path.pretrain_network_g: is missing; a search starts from trained weights"


def no_optimizer_of_logits(values, folder):
    del values["train"]["optim_m"]
    return "train", "train.optim_m: is missing; the logits need e.g. {type: Adam, lr: 0.03}"


def other_scale(values, folder):
    torch.save({"params": with_state(ResidualCNN(upscale=4)).state_dict()}, folder / "t.pth")
    values["network_t"] = {"type": "ResidualCNN", "upscale": 4}
    values["path"]["pretrain_network_t"] = str(folder / "t.pth")
    return "upscale", "network_t.upscale: is 4, but network_g has 2; teacher and student must have the same scale"


def never_trained_teacher(values, folder):
    torch.save({"params": build_network(TINY).state_dict()}, folder / "t.pth")
    values["network_t"], values["path"]["pretrain_network_t"] = TINY, str(folder / "t.pth")
    return (
        "pretrain_network_t",
        r"path.pretrain_network_t: .*t.pth was never trained: blocks.0.0.initted, blocks.1.0.initted",
    )


def budget_too_small(values, folder):
    values["budget"] = {"params": 100, "macs_g": 1e-6, "ref_size": [16, 16]}
    return (
        "budget",
        r"budget: no mask fits all limits; budget.params: [\d,]+ needed for 1 block and the fixed part, 100 allowed",
    )


def patterns_of_another_network(values, folder):
    values["prune"].update(sampler="nm", patterns=[[1, 4], [1, 4]])
    return "patterns", r"prune.patterns: .*8.*4 groups|prune.patterns: .*4 groups.*8"


def fixed_mask_of_another_network(values, folder):
    values["prune"].update(sampler="fixed", fixed_mask=[1, 0, 1])
    return "fixed_mask", r"prune.fixed_mask: the network has 4 groups, got 3 numbers, .1, 0, 1."


def forced_both_ways(values, folder):
    values["prune"].update(force_keep=[0, 2], force_drop=[2])
    return "force_keep", r"prune.force_keep: groups \[2\] are in prune.force_drop too"


def phases_of_another_run(values, folder):
    values["prune"]["search_iter"] = 50
    return (
        "search_iter",
        r"prune.search_iter: warmup_iter, search_iter and settle_iter add up to 55, but train.total_iter is 10",
    )


def channels_without_adapter(values, folder):
    torch.save({"params": with_state(ResidualCNN(width=12)).state_dict()}, folder / "t.pth")
    values["network_t"] = {**CNN, "width": 12}
    values["path"]["pretrain_network_t"] = str(folder / "t.pth")
    values["kd"].update(search_taps="last", ca={"weight": 0.1})
    return "ca", r"kd.ca: .* network_g have 8 channels, those of network_t 12"


def features_without_adapter(values, folder):
    channels_without_adapter(values, folder)
    del values["kd"]["ca"]
    values["kd"]["feat"] = {"weight": 0.1}
    return "feat", r"kd.feat: .* network_g have 8 channels, those of network_t 12.*kd.feat.adapter"


def sigma_of_0(values, folder):
    values["kd"].update(search_taps="last", feat={"weight": 0.1, "sigma": 0.0})
    return "sigma", r"kd.feat.sigma: must be above 0, got 0.0"


def anchors_of_gram(values, folder):
    values["kd"].update(search_taps="last", sa={"weight": 0.1, "mode": "gram", "anchors": 4})
    return "anchors", r"kd.sa.anchors: belong to mode exact, got 4 with gram"


def no_loss(values, folder):
    values["kd"]["alpha"] = 0.0
    values["train"]["pixel_opt"]["loss_weight"] = 0.0
    return "alpha", r"kd.alpha: is 0, and so are the weights of all other losses"


def tail_of_another_network(values, folder):
    values["prune"]["tail"] = "direct"
    return "tail", r"prune.tail: ResidualCNN has no choice of tails; leave it at original"


MISTAKES = [
    no_protocol, no_teacher, no_teacher_weights, no_weights, no_optimizer_of_logits, other_scale, never_trained_teacher,
    budget_too_small, patterns_of_another_network, fixed_mask_of_another_network, forced_both_ways,
    phases_of_another_run, channels_without_adapter, features_without_adapter, sigma_of_0, anchors_of_gram, no_loss,
    tail_of_another_network,
]  # fmt: skip


def taps_that_are_not_there(values, folder):
    values["kd"]["taps"] = [0, 2]
    return "taps", r"kd.taps: must be groups of the student, 0 to 1, got \[2\]"


def groups_of_another_teacher(values, folder):
    values["prune"]["kept"] = [1, 6]
    return "kept", r"prune.kept: must be groups from 0 to 5, rising, got \[1, 6\]"


def more_groups_than_the_network_has(values, folder):
    values["prune"]["kept"] = [1, 2, 4]
    return "network_g", r"network_g: is not what the groups \[1, 2, 4\] leave of network_t"


def forgotten_groups(values, folder):
    del values["prune"]["kept"]
    return (
        "prune",
        r"prune.kept: is missing, and so it is in the weight file; .*run stage search, or give e.g. \[0, 4, 7\]",
    )


def groups_that_are_not_those_of_the_file(values, folder):
    torch.save({"params": compact(catanet(), [1, 4]).state_dict()}, folder / "g.pth")
    values["path"]["pretrain_network_g"] = str(folder / "g.pth")
    values["prune"]["kept"] = [1, 2, 4]
    return "kept", r"prune.kept: must name, of the teacher's groups 0 to 5, the 2 that network_g kept, got \[1, 2, 4\]"


def tail_warm_up_without_a_tail(values, folder):
    values["network_g"] = {"type": "Plain"}
    values["kd"] = NO_FEATURES
    del values["prune"]["kept"]
    values["prune"]["tail_warmup_iter"] = 2
    return "tail_warmup_iter", r"prune.tail_warmup_iter: Plain does not say what its tail is"


FINETUNE_MISTAKES = [
    taps_that_are_not_there, groups_of_another_teacher, more_groups_than_the_network_has, forgotten_groups,
    groups_that_are_not_those_of_the_file, tail_warm_up_without_a_tail,
]  # fmt: skip


class TestMistakes:
    @staticmethod
    def refused(model_of, values, mistake, folder):
        """The model says what is wrong and the line of the key."""
        values = copy.deepcopy(values)
        key, message = mistake(values, folder)
        with pytest.raises(OptionError) as caught:
            model_of(values)
        place, said = re.fullmatch(r".*x\.yml(?::(\d+))?: (.*)", str(caught.value)).groups()
        assert re.match(message, said), said
        if place is not None:
            assert (folder / "x.yml").read_text().splitlines()[int(place) - 1].strip().startswith(f"{key}:")
        else:
            assert key == "name"  # a key that is missing from the whole file

    @pytest.fixture(autouse=True)
    def plain(self, monkeypatch):
        monkeypatch.setitem(ARCH_REGISTRY._items, "Plain", Plain)

    @pytest.mark.parametrize("mistake", MISTAKES)
    def test_in_a_search(self, search_values, model_of, tmp_path, mistake):
        self.refused(model_of, search_values("cnn"), mistake, tmp_path)

    @pytest.mark.parametrize("mistake", FINETUNE_MISTAKES)
    def test_in_fine_tuning(self, finetune_values, model_of, tmp_path, mistake):
        self.refused(model_of, finetune_values(), mistake, tmp_path)

    def test_are_one_line_of_the_command(self, search_values, tmp_path, capsys):
        values = search_values("cnn", budget={"blocks": 2, "params": 100})
        assert run(basicsr.train, tmp_path, values) == 2
        err = capsys.readouterr().err
        assert re.search(
            r"CRITICAL: basicsr-train: s\.yml:\d+: budget: no mask fits all limits; budget\.blocks: .*\n$", err
        )
        assert "Traceback" not in err
        assert {path.name for path in tmp_path.iterdir()} == {"s.yml"}

    def test_weights_of_another_teacher(self, search_values, model_of, weights):
        with pytest.raises(CheckpointError, match=r"catanet.pth: does not fit ResidualCNN: .*missing"):
            model_of({**search_values(), "network_t": CNN})

    def test_instance_affinity_of_one_image(self, search_values, model_of, caplog):
        caplog.set_level(logging.WARNING, "basicsr")
        values = search_values("cnn", kd={"search_taps": "last", "ia": {"weight": 0.1}})
        values["datasets"]["train"]["batch_size_per_gpu"] = 1
        model_of(values)
        assert "kd.ia: compares the images of a batch; with one image it is 0" in caplog.text

    def test_a_budget_that_binds_nothing(self, search_values, model_of, caplog):
        caplog.set_level(logging.WARNING, "basicsr")
        model_of(search_values("cnn", budget={"blocks": 4}))
        assert "budget: the full network fits, so there is nothing to prune; lower a limit" in caplog.text

    def test_a_teacher_of_other_quality(self, search_values, tmp_path, capsys):
        values = search_values("cnn", val={"val_freq": 1, "expect_teacher_psnr": {"Photos": [90, 0.05]}})
        assert run(basicsr.train, tmp_path, values) == 2
        assert "val.expect_teacher_psnr.Photos: the teacher reaches " in capsys.readouterr().err


class TestFailures:
    def test_a_loss_that_is_not_finite_names_iteration_mask_and_temperature(self, search_values, model_of):
        model = model_of(search_values())
        with pytest.raises(FloatingPointError, match=r"iteration 4: .*\(l_pix=nan, l_ts=.*; mask [01]{6}, tau 2.44"):
            step(model, 4, gt=torch.full((2, 3, 24, 24), float("nan")))

    def test_logits_that_are_not_finite_name_iteration_and_temperature(self, search_values, model_of):
        model = model_of(search_values())
        with torch.no_grad():
            model.masked.sampler.logits[3] = float("nan")
        with pytest.raises(FloatingPointError, match=r"logits of the mask are not finite at iteration 4, tau 2.44"):
            step(model, 4)

    def test_a_cut_network_that_differs_ends_the_run(self, search_values, model_of, monkeypatch):
        def wrong(net, keep):
            small = compact(net, keep)
            with torch.no_grad():
                small.mid_convs[1].bias += 0.1
            return small

        model = model_of(search_values())
        kept = kept_groups([int(bit) for bit in model.search.mode])
        monkeypatch.setattr(finalize, "compact", wrong)
        message = (
            r"compaction: .* differs from the masked one by \d.*, more than compact.tolerance \(1.0e-06\); .*64x64': "
            rf"\d.*; the first group that differs is {kept[1]} \(1 of the cut network\)"
        )
        with pytest.raises(RuntimeError, match=message):
            model.finish(iter([]))


class TestResuming:
    @pytest.fixture
    def state(self, search_values, model_of, tmp_path):
        """State and weights of a search after a step."""
        model = model_of(search_values())
        step(model, 1)
        model.save(0, 1)
        folder = tmp_path / "experiments" / "s"
        return load_file(folder / "training_states" / "1.state"), load_file(folder / "models" / "net_g_1.pth")

    @pytest.mark.parametrize(
        ("section", "message"),
        [
            ({"budget": {"blocks": 3}}, r"path.resume_state: .*15 choices of 6 groups, this run has 20 choices of 6"),
            ({"prune": {"force_keep": [1]}}, r"path.resume_state: .*15.* 5"),
            ({"prune": {"sampler": "bernoulli"}}, r"path.resume_state: "),
        ],
    )
    def test_logits_of_other_masks_are_refused(self, search_values, model_of, state, section, message):
        model = model_of(search_values(**section))
        with pytest.raises(OptionError, match=message):
            model.resume_training(*state, "net_g_1.pth")

    def test_a_state_of_another_stage_is_refused(self, search_values, finetune_values, model_of, state):
        values = finetune_values(prune={"kept": [0, 1, 2, 3, 4, 5]})
        values["network_g"] = TINY
        model = model_of(values)
        with pytest.raises(
            OptionError, match=r"path.resume_state: is a state of stage search, this is stage finetune; "
        ):
            model.resume_training(*state, "net_g_1.pth")
        step(model, 1)
        model.save(0, 1)
        state = {**state[0], **model.extra_state()}
        del state["search"]
        with pytest.raises(OptionError, match=r"path.resume_state: is a state of stage finetune, this is stage search"):
            model_of(search_values()).resume_training(state, {"params": model.net_g.state_dict()}, "x")
