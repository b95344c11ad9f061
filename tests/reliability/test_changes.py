"""Resuming with changed options, and from states of older versions."""

import copy
import logging
import os
import re
import shutil
from collections import Counter

import numpy as np
import pytest
import torch
import yaml
from reliability.runs import Run, options, pruning

import basicsr.train
from basicsr.engine.checkpoint import load_file
from basicsr.images.files import read_image, write_image


@pytest.fixture
def train(monkeypatch):
    """A function that trains in a folder with these options, in this process; returns the exit code."""
    monkeypatch.setattr(logging.getLogger("basicsr"), "handlers", [])

    def train(run, values, *flags):
        (run.folder / "run.yml").write_text(yaml.safe_dump(values))
        monkeypatch.chdir(run.folder)
        torch.set_num_threads(1)
        return basicsr.train.main(["-opt", "run.yml", *flags])

    return train


@pytest.fixture
def stopped(tmp_path, train):
    """A run with two of its four iterations done."""
    values = options(tmp_path, 4, train={"optim_g": {"weight_decay": 0.0}})
    run = Run(tmp_path / "run", values)
    assert train(run, values, "--force_yml", "train:total_iter=2") == 0
    return run, values


def swap_colours(path):
    """Replace an image by another one of the same length and time."""
    status = path.stat()
    write_image(path, np.ascontiguousarray(read_image(path)[..., ::-1]))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (status.st_size, status.st_mtime_ns)


def changed(values, key, value):
    values = copy.deepcopy(values)
    *sections, last = key.split(".")
    node = values
    for section in sections:
        node = node.setdefault(section, {})
    node[last] = value
    return values


@pytest.mark.parametrize(("key", "value", "line"), [
    ("logger.print_freq", 5, "logger.print_freq: 1 -> 5"),
    ("datasets.train.num_worker_per_gpu", 1, "datasets.train.num_worker_per_gpu: (default) -> 1"),
    ("train.total_iter", 3, "train.total_iter: 2 -> 3"),
])  # fmt: skip
def test_harmless_changes_are_listed(key, value, line, stopped, train, capsys):
    run, values = stopped
    assert train(run, changed(values, key, value), "--auto_resume") == 0
    assert f"\t{line}\n" in capsys.readouterr().err


@pytest.mark.parametrize(("key", "value", "line"), [
    ("manual_seed", 4, "manual_seed: 3 -> 4"),
    ("datasets.train.batch_size_per_gpu", 1, "datasets.train.batch_size_per_gpu: 2 -> (default)"),
    ("datasets.train.gt_size", 20, "datasets.train.gt_size: 24 -> 20"),
    ("train.optim_g", {"type": "Adam", "lr": 1e-4, "weight_decay": 0.0}, "train.optim_g.lr: 0.001 -> 0.0001"),
    ("train.pixel_opt.type", "MSELoss", "train.pixel_opt.type: L1Loss -> MSELoss"),
    ("train.ema_decay", 0.9, "train.ema_decay: (default) -> 0.9"),
    ("matmul_precision", "high", "matmul_precision: (default) -> high"),
])  # fmt: skip
def test_decisive_changes_need_force(key, value, line, stopped, train, capsys):
    run, values = stopped
    values = changed(values, key, value)
    assert train(run, values, "--auto_resume") == 2
    message = capsys.readouterr().err.splitlines()[-1]
    assert f"2.state: the run would not end as it would have, for these have changed: {line}" in message
    assert "--force_resume" in message
    assert train(run, values, "--auto_resume", "--force_resume") == 0
    assert f"\t{line}\n" in capsys.readouterr().err


def test_another_optimizer_is_reset_if_forced(stopped, train, capsys):
    run, values = stopped
    values = changed(values, "train.optim_g", {"type": "SGD", "lr": 1e-3, "momentum": 0.9})
    assert train(run, values, "--auto_resume") == 2
    assert "SGD needs dampening, momentum, nesterov; it was another optimizer" in capsys.readouterr().err
    assert train(run, values, "--auto_resume", "--force_resume") == 0
    assert "the optimizers are reset" in capsys.readouterr().err


def test_more_images_are_noticed(stopped, train, tmp_path, capsys):
    run, values = stopped
    for k in range(3):
        (tmp_path / "images" / f"new{k}.png").write_bytes((tmp_path / "images" / "0.png").read_bytes())
    assert train(run, values, "--auto_resume") == 2
    assert "run.samples_per_epoch: 5 -> 8" in capsys.readouterr().err
    assert train(run, values, "--auto_resume", "--force_resume") == 0


class TestMovedFiles:
    """Paths may change where the files are the same: names and lengths count, not folders and times."""

    @pytest.fixture
    def moved(self, stopped, tmp_path):
        """The stopped run, and its options after its images have been moved to another folder."""
        run, values = stopped
        shutil.copytree(tmp_path / "images", tmp_path / "elsewhere", copy_function=shutil.copy)  # with new times
        shutil.rmtree(tmp_path / "images")
        return run, changed(values, "datasets.train.dataroot_gt", str(tmp_path / "elsewhere"))

    def test_the_same_images_elsewhere_are_a_note(self, moved, train, tmp_path, capsys):
        run, values = moved
        assert train(run, values, "--auto_resume") == 0
        line = f"datasets.train.dataroot_gt: {tmp_path}/images -> {tmp_path}/elsewhere (the same files)"
        assert f"\t{line}\n" in capsys.readouterr().err

    def test_a_list_of_all_images_is_no_change(self, moved, train, tmp_path):
        run, values = moved
        (tmp_path / "list.txt").write_text("".join(f"{k}.png\n" for k in range(5)))
        values = changed(values, "datasets.train.meta_info_file", str(tmp_path / "list.txt"))
        assert train(run, values, "--auto_resume") == 0

    @pytest.mark.parametrize("keeps_folder", [True, False])
    @pytest.mark.parametrize(
        ("change", "named"),
        [
            ("rename", "removed: 4.png; new: 5.png"),
            ("replace", "of another length: 4.png"),
            ("exchange", "of another length: 3.png, 4.png"),
        ],
    )
    def test_other_images_are_noticed(self, change, named, keeps_folder, stopped, train, tmp_path, capsys):
        run, values = stopped
        folder = tmp_path / "images"
        if not keeps_folder:
            folder = folder.rename(tmp_path / "elsewhere")
            values = changed(values, "datasets.train.dataroot_gt", str(folder))
        if change == "rename":
            (folder / "4.png").rename(folder / "5.png")
        elif change == "replace":
            write_image(folder / "4.png", np.zeros((41, 38, 3), np.uint8))
        else:
            (folder / "4.png").rename(folder / "x")
            (folder / "3.png").rename(folder / "4.png")
            (folder / "x").rename(folder / "3.png")
        assert train(run, values, "--auto_resume") == 2
        message = capsys.readouterr().err.splitlines()[-1]
        assert "the run would not end as it would have, for these have changed: " in message
        assert re.search(rf"run\.files: 5 files, [0-9a-f]{{16}} -> 5 files, [0-9a-f]{{16}} \({named}\)", message)
        assert ("dataroot_gt" in message) == (not keeps_folder)
        assert train(run, values, "--auto_resume", "--force_resume") == 0

    def test_a_file_of_the_same_length_and_time_is_noticed(self, moved, train, tmp_path, capsys):
        run, values = moved
        swap_colours(tmp_path / "elsewhere" / "2.png")
        assert train(run, values, "--auto_resume") == 2
        message = capsys.readouterr().err.splitlines()[-1]
        assert re.search(r"run\.samples: \w{16} -> \w{16} \(of other content: 2\.png\)", message)

    def test_times_do_not_count_and_the_run_ends_as_it_would_have(self, stopped, train, tmp_path, capsys):
        run, values = stopped
        for path in (tmp_path / "images").iterdir():
            os.utime(path, (1, 1))
        assert train(run, values, "--auto_resume") == 0
        assert "run." not in capsys.readouterr().err.split("Changed since")[1].split("Start training")[0]
        straight = Run(tmp_path / "straight", values)
        assert train(straight, values) == 0
        states = [load_file(each.experiment / "training_states" / "4.state") for each in (run, straight)]
        assert torch.equal(*(state["training_files"] for state in states)) and states[0]["run"] == states[1]["run"]

    def test_a_list_that_leaves_an_image_out_is_noticed(self, stopped, train, tmp_path, capsys):
        run, values = stopped
        (tmp_path / "list.txt").write_text("".join(f"{k}.png\n" for k in (0, 1, 2, 4, 4)))
        assert (
            train(run, changed(values, "datasets.train.meta_info_file", str(tmp_path / "list.txt")), "--auto_resume")
            == 2
        )
        assert "(removed: 3.png; new: 4.png)" in capsys.readouterr().err.splitlines()[-1]

    def test_a_state_of_a_version_without_digests_compares_names_and_lengths(self, moved, train, tmp_path, capsys):
        run, values = moved
        path = run.experiment / "training_states" / "2.state"
        state = load_file(path)
        del state["run"]["samples"], state["run"]["validation"], state["training_files"]
        torch.save(state, path)
        swap_colours(tmp_path / "elsewhere" / "2.png")
        assert train(run, values, "--auto_resume") == 0
        assert "(the same files)" in capsys.readouterr().err

    def test_other_validation_images_are_a_note(self, tmp_path, train, capsys):
        values = options(tmp_path, 4)
        shutil.copytree(tmp_path / "images", tmp_path / "val")
        section = {"name": "V", "type": "PairedImageDataset", "dataroot_gt": str(tmp_path / "val")}
        values = changed(values, "datasets.val", section)
        run = Run(tmp_path / "run", values)
        assert train(run, values, "--force_yml", "train:total_iter=2") == 0
        swap_colours(tmp_path / "val" / "2.png")
        assert train(run, values, "--auto_resume") == 0
        assert re.search(
            r"\trun\.validation\.V: 5 files.* \(its best scores so far are of other images\)\n", capsys.readouterr().err
        )

    def test_a_state_that_knows_no_files_compares_paths(self, moved, train, capsys):
        run, values = moved
        path = run.experiment / "training_states" / "2.state"
        state = load_file(path)
        for fact in ("files", "samples"):
            del state["run"][fact]
        del state["training_files"]
        torch.save(state, path)
        assert train(run, values, "--auto_resume") == 2
        message = capsys.readouterr().err.splitlines()[-1]
        assert "for these have changed: datasets.train.dataroot_gt" in message and "run.files" not in message

    def test_weights_of_a_teacher(self, tmp_path, train, capsys):
        values = options(tmp_path, 4, **pruning(tmp_path, 4))
        run, elsewhere = Run(tmp_path / "run", values), tmp_path / "elsewhere.pth"
        assert train(run, values, "--force_yml", "logger:save_checkpoint_freq=3") == 0
        (run.experiment / "training_states" / "4.state").unlink()
        (tmp_path / "teacher.pth").rename(elsewhere)
        for key in "gt":
            values = changed(values, f"path.pretrain_network_{key}", str(elsewhere))
        assert train(run, values, "--auto_resume") == 0
        line = f"path.pretrain_network_t: {tmp_path}/teacher.pth -> {elsewhere} (the same files)"
        assert f"\t{line}\n" in capsys.readouterr().err

        content = load_file(elsewhere)
        next(iter(content["params"].values())).add_(1e-3)
        torch.save(content, elsewhere)
        assert train(run, values, "--auto_resume") == 2
        assert "run.sha256.pretrain_network_t: " in capsys.readouterr().err.splitlines()[-1]


@pytest.fixture
def basicsr_1_4(stopped):
    """The same checkpoint as BasicSR 1.4 would have written it."""
    run, values = stopped
    path = run.experiment / "training_states" / "2.state"
    state = load_file(path)
    optimizers = copy.deepcopy(state["optimizers"])
    for group in optimizers[0]["param_groups"]:
        for key in ("scheduled", "foreach", "maximize", "capturable", "differentiable", "fused",
                    "decoupled_weight_decay"):  # fmt: skip
            group.pop(key, None)
    for moments in optimizers[0]["state"].values():
        moments["step"] = int(moments["step"])
    scheduler = {"milestones": Counter([250000]), "gamma": 0.5, "restarts": [0], "restart_weights": [1],
                 "base_lrs": [1e-3], "last_epoch": 2, "_step_count": 3, "verbose": False}  # fmt: skip
    torch.save({"epoch": 0, "iter": 2, "optimizers": optimizers, "schedulers": [scheduler]}, path)
    path = run.experiment / "models" / "net_g_2.pth"
    torch.save({"params": load_file(path)["params"]}, path)
    return run, values


def test_a_checkpoint_of_basicsr_1_4_resumes_and_the_log_lists_what_is_missing(basicsr_1_4, train, tmp_path, capsys):
    run, values = basicsr_1_4
    straight = Run(tmp_path / "straight", values)
    assert train(straight, values) == 0
    capsys.readouterr()
    assert train(run, values, "--auto_resume") == 0
    err = capsys.readouterr().err
    warning = next(line for line in err.splitlines() if "lacks" in line)
    assert "2.state: is of an older version and lacks the random state" in warning
    for absent in ("the position in the data", "the options of its run", "the best scores", "the scale of float16"):
        assert absent in warning
    a, b = (load_file(each.experiment / "models" / "net_g_latest.pth")["params"] for each in (run, straight))
    assert all(torch.equal(a[name], b[name]) for name in a)  # nothing in this run draws random numbers


def test_a_checkpoint_of_basicsr_1_4_without_an_average(basicsr_1_4, train, capsys):
    run, values = basicsr_1_4
    assert train(run, changed(values, "train.ema_decay", 0.9), "--auto_resume") == 0
    assert "net_g_2.pth: has no params_ema; taking params" in capsys.readouterr().err


def test_a_checkpoint_of_another_network(basicsr_1_4, train, capsys):
    run, values = basicsr_1_4
    assert train(run, changed(values, "network_g.dim", 20), "--auto_resume") == 2
    assert "net_g_2.pth: does not fit CATANet" in capsys.readouterr().err
