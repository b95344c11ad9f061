"""File names that are no UTF-8, and consoles of other encodings, in real processes of every kind of command."""

import csv
import json
import os
import shutil
import sys

import pytest
import yaml
from helpers import TINY_CATANET, run_python, write_options

from basicsr.archs import build_network
from basicsr.engine.checkpoint import save_atomically

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="other systems allow Unicode names only")
ODD = os.fsdecode(b"\xff\xe9")  # as Python holds these bytes in a name
SHOWN = r"\udcff\udce9"
TRAIN = {"total_iter": 2, "optim_g": {"type": "Adam", "lr": 1e-3}, "pixel_opt": {"type": "L1Loss"}}
CONSOLES = ["ascii", "cp1252", "utf-8"]


@pytest.fixture
def images(tmp_path, photos):
    """Folder of two images, one with an odd name."""
    folder = tmp_path / "images"
    folder.mkdir()
    shutil.copy(photos / "chelsea.png", folder / "chelsea.png")
    shutil.copy(photos / "coffee.png", folder / f"{ODD}.png")
    return folder


def run(folder, *arguments, console="ascii", code=0):
    result = run_python(*arguments, cwd=folder, env={"PYTHONIOENCODING": console}, errors="backslashreplace")
    assert result.returncode == code, result.stderr
    assert "Traceback" not in result.stderr and "Logging error" not in result.stderr
    return result


def test_options(images, **more):
    metrics = {"psnr": {"type": "calculate_psnr", "crop_border": 2, "test_y_channel": True}}
    data = {
        "name": "Фото",
        "type": "PairedImageDataset",
        "dataroot_gt": str(images.name),
        "io_backend": {"type": "disk"},
    }
    return {
        "name": "naïve",
        "model_type": "SRModel",
        "scale": 2,
        "num_gpu": 0,
        "network_g": {"type": "Bicubic", "upscale": 2},
        "datasets": {"test": data},
        "val": {"save_img": True, "pbar": False, "metrics": metrics},
        **more,
    }


test_options.__test__ = False


@pytest.mark.parametrize("console", CONSOLES)
def test_a_test_run_has_all_scores(tmp_path, images, console):
    if console != "ascii":
        (images / "chelsea.png").unlink()
    options = write_options(tmp_path, test_options(images))
    run(tmp_path, "-m", "basicsr.test", "-opt", options.name, console=console)
    results = tmp_path / "results/naïve"
    names = [ODD] if console != "ascii" else ["chelsea", ODD]
    assert list(json.loads((results / "scores.json").read_text())["Фото"]["per_image"]) == names  # escapes read back
    with (results / "scores_Фото.csv").open(encoding="utf-8") as file:
        assert [row[0] for row in csv.reader(file)][-2:] == [SHOWN, "mean"]
    assert f"| {SHOWN} |" in (results / "scores.md").read_text(encoding="utf-8")
    (log,) = results.glob("*.log")
    assert f"| {SHOWN} |" in log.read_text(encoding="utf-8")


@pytest.mark.parametrize("command", ["train", "test"])
@pytest.mark.parametrize("console", CONSOLES)
def test_check_prints_yaml_on_any_console(tmp_path, images, command, console):
    options = test_options(images, train=TRAIN)
    options["datasets"]["train"] = {**options["datasets"]["test"], "name": "Фото 2", "gt_size": 32}
    path = write_options(tmp_path, options)
    out = run(tmp_path, "-m", f"basicsr.{command}", "-opt", path.name, "--check", console=console).stdout
    values = yaml.safe_load(out)
    assert (values["name"], values["datasets"]["test"]["name"]) == ("naïve", "Фото")


def test_a_training_run(tmp_path, images):
    options = test_options(images, train=TRAIN, network_g=TINY_CATANET)
    options["datasets"] = {
        "train": {**options["datasets"]["test"], "gt_size": 32, "batch_size_per_gpu": 2, "num_worker_per_gpu": 0},
        "val": options["datasets"]["test"],
    }
    options["val"]["val_freq"] = 1
    path = write_options(tmp_path, options).rename(tmp_path / f"{ODD}.yml")
    run(tmp_path, "-m", "basicsr.train", "-opt", path.name)
    folder = tmp_path / "experiments/naïve"
    assert (folder / "finished").exists()
    assert yaml.safe_load((folder / path.name).read_text(encoding="utf-8"))["name"] == "naïve"
    run(tmp_path, "-m", "basicsr.train", "-opt", path.name, "--auto_resume", "--force_yml", "train:total_iter=3")
    assert (folder / "training_states/3.state").exists()


def test_inference(tmp_path, images):
    weights = {"params": build_network(TINY_CATANET).state_dict(), "network_g": TINY_CATANET}
    save_atomically(weights, tmp_path / f"{ODD}.pth")
    (images / f"{ODD}2.png").write_bytes(b"no image")
    request = ("-m", "basicsr.infer", "-i", images.name, "-o", "out", "--model", f"{ODD}.pth")
    err = run(tmp_path, *request, code=1).stderr
    assert sorted(name[:2] for name in os.listdir(tmp_path / "out")) == ["ch", ODD]
    assert f"{SHOWN}2.png" in err


def test_scripts(tmp_path, images):
    scripts = os.path.join(os.path.dirname(os.path.abspath(__file__)), "../../scripts")
    meta_info = f"meta_{ODD}.txt"
    out = run(tmp_path, f"{scripts}/data_preparation/generate_meta_info.py", "-i", images.name, "-o", meta_info).stdout
    assert f"meta_{SHOWN}.txt: 2 images" in out
    assert b"\xff\xe9.png (" in (tmp_path / meta_info).read_bytes()  # the name itself: data sets look for it
    compare = run(tmp_path, f"{scripts}/metrics/calculate_psnr_ssim.py", "--gt", images.name, "--restored", images.name)
    assert "inf" in compare.stdout
    options = test_options(images, name="listed")
    options["datasets"]["test"]["meta_info_file"] = "meta.txt"
    (tmp_path / meta_info).rename(tmp_path / "meta.txt")
    run(tmp_path, "-m", "basicsr.test", "-opt", write_options(tmp_path, options).name)
