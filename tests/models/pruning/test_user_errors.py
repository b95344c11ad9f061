"""Errors in options and files, with their place in the option file; runs that cannot go on."""

import copy
import logging
import re

import pytest
import torch
from models.prunable_nets import TINY, ResidualCNN, catanet, with_state
from models.prune_steps import CNN, NO_FEATURES, run, step
from torch import nn

import basicsr.test
import basicsr.train
from basicsr.archs import build_network
from basicsr.config.registry import ARCH_REGISTRY
from basicsr.errors import CheckpointError, OptionError
from basicsr.pruning import finalize
from basicsr.pruning.compaction import compact, kept_groups

pytestmark = pytest.mark.filterwarnings("ignore:Unable to enable fault handler")  # stderr is captured


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
    return "sigma", r"kd.feat.sigma: must be in \(0, 1e9\], got 0.0"


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


SEARCH_ERRORS = [
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
    return "kept", r"prune.kept: must be groups from 0 to 5, ascending, got \[1, 6\]"


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


def tail_fit_of_several_convolutions(values, folder):
    values["prune"]["tail_fit"] = 2
    return "tail_fit", r"prune.tail_fit: the tail of CATANet is not one convolution"


def tail_fit_without_a_tail(values, folder):
    tail_warm_up_without_a_tail(values, folder)
    values["prune"] = {"stage": "finetune", "tail_fit": 2}
    return "tail_fit", r"prune.tail_fit: Plain does not name its tail"


def tail_warm_up_without_a_tail(values, folder):
    values["network_g"] = {"type": "Plain"}
    values["kd"] = NO_FEATURES
    del values["prune"]["kept"]
    values["prune"]["tail_warmup_iter"] = 2
    return "tail_warmup_iter", r"prune.tail_warmup_iter: Plain does not name its tail"


FINETUNE_ERRORS = [
    taps_that_are_not_there, groups_of_another_teacher, more_groups_than_the_network_has, forgotten_groups,
    groups_that_are_not_those_of_the_file, tail_fit_of_several_convolutions, tail_fit_without_a_tail,
    tail_warm_up_without_a_tail,
]  # fmt: skip


class TestOptionErrors:
    @staticmethod
    def check_error(model_of, values, mistake, folder):
        """The error has the message that the mistake expects, and the line of its key."""
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

    @pytest.mark.parametrize("mistake", SEARCH_ERRORS)
    def test_in_a_search(self, search_values, model_of, tmp_path, mistake):
        self.check_error(model_of, search_values("cnn"), mistake, tmp_path)

    @pytest.mark.parametrize("mistake", FINETUNE_ERRORS)
    def test_in_fine_tuning(self, finetune_values, model_of, tmp_path, mistake):
        self.check_error(model_of, finetune_values(), mistake, tmp_path)

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

    @pytest.mark.usefixtures("short")
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
            r"compaction: .* differs from the masked one by \d.*, more than compact.tolerance \(1.0e-06\); .*16x18': "
            rf"\d.*; the first group that differs is {kept[1]} \(1 of the cut network\)"
        )
        with pytest.raises(RuntimeError, match=message):
            model.finish(iter([]))
