"""Searches that follow each other: 6 -> 4 -> 2 groups, with option files alone."""

import json
from pathlib import Path

import pytest
import torch
import yaml
from models.prunable_nets import TINY, catanet, with_state
from models.prune_steps import NO_FEATURES, run

import basicsr.test
import basicsr.train
from basicsr.archs import build_network
from basicsr.config.load import load_options
from basicsr.errors import OptionError
from basicsr.pruning.matching import matched_groups

OPTIONS = Path(__file__).parents[3] / "options/train/prune/progressive"
SHORT = {"warmup_iter": 1, "search_iter": 2, "settle_iter": 1, "recalib_iter": 1}
FINETUNE = {"finetune": {"total_iter": 2}}


@pytest.fixture
def search(search_values, tmp_path):
    """Runs a search; returns its report, its folder `compact`, and the option file of fine-tuning."""

    def search(name, blocks, force_drop, **sections):
        prune = {**SHORT, "force_drop": force_drop, **sections.pop("prune", {})}
        values = search_values(
            prune=prune, budget={"blocks": blocks}, train={"total_iter": 4}, compact=FINETUNE, **sections
        )
        values["name"] = name
        assert run(basicsr.train, tmp_path, values) == 0
        folder = tmp_path / "experiments" / name
        return (
            json.loads((folder / "prune_report.json").read_text()),
            folder / "compact",
            yaml.safe_load((folder / "compact/train_finetune.yml").read_text()),
        )

    return search


def network_of(folder):
    return yaml.safe_load((folder / "network_g.yml").read_text())["network_g"]


def meta_of(file):
    return torch.load(file, weights_only=True)["meta"]


@pytest.mark.usefixtures("short")
@pytest.mark.parametrize("tuned", [False, True], ids=["cut", "tuned"])
@pytest.mark.parametrize("teacher", ["whole", "four"])
def test_two_cuts(search, tmp_path, teacher, tuned):
    """Groups 0 and 3 go first, then, of 1 2 4 5, one of the first two (1) and one other (5)."""
    report, first, _ = search("one", 4, [0, 3])
    assert report["kept"] == report["kept_original"] == [1, 2, 4, 5]
    weights = first / "net_g_xs.pth"
    if tuned:
        assert run(basicsr.train, tmp_path, "experiments/one/compact/train_finetune.yml") == 0
        weights = tmp_path / "experiments/one_finetune/models/net_g_latest.pth"
    assert [meta_of(weights)[key] for key in ("kept", "original")] == [[1, 2, 4, 5]] * 2

    path, four = {"pretrain_network_g": str(weights)}, {"network_g": network_of(first)}
    if teacher == "four":
        path["pretrain_network_t"], four["network_t"] = str(weights), network_of(first)
    report, second, finetune = search("two", 2, [0, 3], path=path, **four, kd={"search_taps": "last"})
    assert (report["number"], report["kept"], report["kept_original"]) == (4, [1, 2], [2, 4])
    relative = [2, 4] if teacher == "whole" else [1, 2]
    assert finetune["prune"]["kept"] == meta_of(second / "net_g_xs.pth")["kept"] == relative
    assert meta_of(second / "net_g_xs.pth")["original"] == [2, 4]
    assert max(report["equality"].values()) <= 1e-6

    assert run(basicsr.train, tmp_path, "experiments/two/compact/train_finetune.yml") == 0
    assert run(basicsr.test, tmp_path, "experiments/two/compact/test_x2.yml") == 0
    meta = meta_of(tmp_path / "experiments/two_finetune/models/net_g_latest.pth")
    assert (meta["kept"], meta["original"]) == (relative, [2, 4])


@pytest.fixture
def four(tmp_path):
    """Options of a network with four groups, whose file does not say which of the teacher's they are."""
    file = tmp_path / "four.pth"
    network = {**TINY, "block_num": 4, "num_tokens": [8, 4, 4, 8]}
    torch.save({"params": catanet(**network).state_dict()}, file)
    return {"network_g": network, "path": {"pretrain_network_g": str(file)}}


class TestOrigin:
    def test_features_are_those_of_the_teachers_groups(self, search_values, four, model_of):
        model = model_of(search_values(**four, prune={"kept": [1, 2, 4, 5]}, kd={"search_taps": "last"}))
        assert model.distillation.pairs == [(3, 5)]
        assert model.origin.of([0, 2]).teacher == model.origin.of([0, 2]).original == [1, 4]
        assert matched_groups([1, 4], 6, "absorb") == [3, 5]

    @pytest.mark.parametrize("kept", [None, [0, 1, 2, 9], [0, 1, 2], [2, 1, 4, 5]])
    def test_that_is_unknown_or_wrong_is_an_error_before_the_search(self, search_values, four, model_of, kept):
        message = (
            r"x\.yml:\d+: prune.kept: (network_g has 4 groups, network_t 6; say which|must name, in ascending order)"
        )
        with pytest.raises(OptionError, match=message):
            model_of(search_values(**four, prune={"kept": kept}))

    def test_a_teacher_that_was_cut_before(self, search_values, four, model_of, tmp_path):
        """Five groups, of which the student has four."""
        five = {**TINY, "block_num": 5, "num_tokens": [8, 4, 8, 4, 8]}
        file = tmp_path / "five.pth"
        torch.save({"params": catanet(**five).state_dict(), "meta": {"original": [1, 2, 3, 4, 5]}}, file)
        values = search_values(**four, prune={"kept": [1, 2, 4, 5]}) | {"network_t": five}
        values["path"]["pretrain_network_t"] = str(file)
        assert model_of(values).origin == ([1, 2, 4, 5], [0, 1, 3, 4])
        values["prune"]["kept"] = [0, 2, 4, 5]
        with pytest.raises(OptionError, match=r"prune.kept: network_g has 4 groups, network_t 5; say which"):
            model_of(values)

    def test_does_not_matter_without_features(self, search_values, four, model_of):
        assert model_of(search_values(**four, kd=NO_FEATURES)).origin.original == [0, 1, 2, 3]


def test_the_option_files_with_a_network_of_full_size(tmp_path, search_values, model_of):
    """The second search as it is in the file, on data and weights of the test."""
    for name in ("01_search_5_x4", "02_search_3_x4"):
        load_options(OPTIONS / f"{name}.yml", is_train=True)
    values = yaml.safe_load((OPTIONS / "02_search_3_x4.yml").read_text())
    for key in ("g", "t"):
        net = with_state(build_network(values[f"network_{key}"]))
        meta = {"kept": values["network_g"]["keep"]} if key == "g" else {}
        torch.save({"params": net.state_dict(), "meta": meta}, tmp_path / f"{key}.pth")
        values["path"][f"pretrain_network_{key}"] = str(tmp_path / f"{key}.pth")
    values["datasets"] = search_values()["datasets"]
    model = model_of({**values, "name": "s", "num_gpu": 0, "budget": {**values["budget"], "ref_size": [32, 32]}})
    assert len(model.search.sampler.choices) == 10
    assert model.origin.of([0, 3, 4]).teacher == [0, 4, 7]
