"""The commands from end to end: search, fine-tuning, test; and a search that is killed and resumed."""

import csv
import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import yaml
from models.prune_steps import NO_FEATURES, equal, run

import basicsr.test
import basicsr.train
from basicsr.archs import build_network
from basicsr.engine.checkpoint import load_file
from basicsr.images.files import image_size, list_images, read_image
from basicsr.models.prune_distill_model import PruneDistillModel
from basicsr.pruning.compaction import kept_groups

pytestmark = pytest.mark.filterwarnings("ignore:Unable to enable fault handler")  # stderr is captured


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
        content, small = spec_and_weights(folder / "compact/net_g_xs.pth")
        assert len(report["kept"]) == 2 and report["number"] == 6
        assert report["kept"] == content["meta"]["kept"] == kept_groups(np.load(folder / "compact/mask.npy").tolist())
        parameters = sum(p.numel() for p in small.parameters())
        assert report["compact"]["params"] == report["resources"]["params"]["kept"] == parameters
        assert max(report["equality"].values()) <= report["equality_tolerance"] == 1e-6
        assert report["equality_dtype"] == "float32"
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
        assert max(report["equality"].values()) <= 1e-6
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
