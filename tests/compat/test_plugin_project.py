"""A project built on BasicSR 1.4 runs as it is: it is written outside the package and started in a real process."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from compat.plugin_project import TEST_YML, TRAIN_YML, write_project

from basicsr.metrics.psnr_ssim import calculate_psnr
from basicsr.utils.img_util import list_images, read_image, write_image

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def windows(photos, tmp_path_factory):
    folder = tmp_path_factory.mktemp("windows")
    for k, name in enumerate(list_images(photos)[:3]):
        write_image(folder / name, np.ascontiguousarray(read_image(photos / name)[40 : 78 + 2 * k, 30 : 76 - 2 * k]))
    return folder


def run(root, command, *flags, processes=0):
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"] if processes else []
    argv = [sys.executable, *launcher, f"mini/{command}.py", "-opt", f"{command}.yml", *flags]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": f"{root}{os.pathsep}{ROOT}"}
    done = subprocess.run(argv, cwd=root, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stderr


def options(root, windows, model="MiniModel", ema_decay=0.9, total_iter=8):
    text = TRAIN_YML.format(model=model, photos=windows, ema_decay=ema_decay, total_iter=total_iter)
    (root / "train.yml").write_text(text)


@pytest.fixture(scope="module")
def trained(windows, tmp_path_factory):
    """A project whose training run of 8 iterations is done, and what it said."""
    root = write_project(tmp_path_factory.mktemp("project"))
    options(root, windows)
    return root, run(root, "train")


def load(path):
    return torch.load(path, weights_only=True)


def test_it_trains_validates_and_saves(trained, windows):
    root, said = trained
    folder = root / "experiments" / "Mini_x2"
    latest = load(folder / "models" / "net_g_latest.pth")
    assert {"params", "params_ema"} <= set(latest)
    assert latest["params"]["steps"] == latest["params_ema"]["steps"] == 8  # buffers follow, and optimize ran 8 times
    assert not torch.equal(latest["params"]["conv_last.weight"], latest["params_ema"]["conv_last.weight"])
    assert (folder / "models" / "net_g_4.pth").exists()
    assert not (folder / "training_states" / "-1.state").exists()
    state = load(folder / "training_states" / "8.state")
    assert {"psnr", "mini"} == set(state["best"]["PhotosVal"])
    assert "queue 32 of Mini_x2" in said  # keys of its own reach it
    losses = [float(value) for value in re.findall(r"iter: +\d+, .* l_pix: (\S+)", said)]
    assert len(losses) == 4
    assert re.findall(r"lr:\((\S+?),\)", said) == ["2.000e-03", "2.000e-03", "1.000e-03", "5.000e-04"]
    for key in ("l1_gt_usm", "path.pretrain_network_le"):
        assert re.search(rf"{re.escape(key)}: unknown option, kept for plug-ins", said), key


def test_its_scores_are_those_of_its_pictures(trained, windows):
    """Its metric, which reckons with BGR, and ours agree, and both with the pictures that it wrote as BGR."""
    root, said = trained
    folder = root / "experiments" / "Mini_x2" / "visualization"
    scores = []
    for name in list_images(windows):
        gt = read_image(windows / name)
        gt = gt[: gt.shape[0] // 2 * 2, : gt.shape[1] // 2 * 2]
        picture = read_image(folder / Path(name).stem / f"{Path(name).stem}_8.png")
        scores.append(calculate_psnr(picture, gt, crop_border=2, test_y_channel=True))
    lines = said[said.rindex("Validation PhotosVal") :]
    psnr, mini = (float(re.search(rf"# {name}: (\S+)", lines)[1]) for name in ("psnr", "mini"))
    assert psnr == pytest.approx(np.mean(scores), abs=1e-4)
    assert mini == pytest.approx(psnr, abs=1e-3)


@pytest.mark.slow
def test_a_resumed_run_ends_where_the_whole_one_does(trained, windows, tmp_path):
    whole, _ = trained
    root = write_project(tmp_path)
    options(root, windows)
    run(root, "train", "--force_yml", "train:total_iter=4")
    run(root, "train", "--auto_resume")
    ends = [load(r / "experiments" / "Mini_x2" / "models" / "net_g_8.pth") for r in (whole, root)]
    for key in ("params", "params_ema"):
        for name, value in ends[0][key].items():
            assert torch.equal(value, ends[1][key][name]), (key, name)


def test_it_tests_what_it_trained(trained, windows):
    root, _ = trained
    weights = root / "experiments" / "Mini_x2" / "models" / "net_g_latest.pth"
    for model in ("MiniModel", "PaddingModel"):
        (root / "test.yml").write_text(TEST_YML.format(model=model, photos=windows, weights=weights))
        run(root, "test")
        folder = root / "results" / "Mini_x2_test"
        content = json.loads((folder / "scores.json").read_text())["PhotosTest"]
        pictures = sorted((folder / "visualization" / "PhotosTest").iterdir())
        assert [p.name for p in pictures] == [f"{Path(n).stem}_Mini_x2_test.png" for n in list_images(windows)]
        assert content["mean"]["psnr"] == pytest.approx(content["mean"]["mini"], abs=1e-3)
        if model == "MiniModel":
            alone = content["mean"]["psnr"]
    assert content["mean"]["psnr"] == pytest.approx(alone, abs=1e-9)  # by our loop through its hooks
    assert len(content["per_image"]) == 3


@pytest.mark.slow
def test_a_model_that_overrides_little_trains_with_our_step(windows, tmp_path):
    root = write_project(tmp_path)
    options(root, windows, model="PaddingModel", ema_decay=0.5, total_iter=4)
    said = run(root, "train")
    latest = load(root / "experiments" / "Mini_x2" / "models" / "net_g_latest.pth")
    assert latest["params"]["steps"] == latest["params_ema"]["steps"] == 4
    assert re.search(r"# psnr: \d\d\.\d{4}", said)


@pytest.mark.slow
def test_two_processes_validate_in_the_first(windows, tmp_path):
    root = write_project(tmp_path)
    options(root, windows, ema_decay=0, total_iter=4)
    said = run(
        root, "train", "--launcher", "pytorch", "--force_yml", "datasets:train:batch_size_per_gpu=1", processes=2
    )
    assert said.count("Validation PhotosVal") == 1
    assert len(list((root / "experiments" / "Mini_x2" / "visualization").rglob("*_4.png"))) == 3
