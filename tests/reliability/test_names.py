"""Scores and pictures of images and data sets that share names: none replaces another."""

import json

import numpy as np
import pytest
import torch
import yaml
from helpers import run_here, run_python
from reliability.runs import ROOT, TINY, options

import basicsr.train
from basicsr.archs import build_network
from basicsr.engine.checkpoint import save_atomically
from basicsr.images.files import read_image, write_image

METRICS = {"psnr": {"type": "calculate_psnr", "crop_border": 0}}


@pytest.fixture
def twins(tmp_path):
    """A folder with a.bmp and a.png, which differ, and b.png."""
    for k, name in enumerate(["a.bmp", "a.png", "b.png"]):
        write_image(tmp_path / "twins" / name, np.full((24, 24, 3), 40 + 60 * k, np.uint8))
    return tmp_path / "twins"


@pytest.mark.parametrize("processes", [1, 2])
def test_images_of_one_stem_in_a_test(processes, twins, tmp_path):
    torch.manual_seed(0)
    save_atomically({"params": build_network(TINY).state_dict()}, tmp_path / "net.pth")
    values = {
        "name": "run", "scale": 2, "num_gpu": 0, "network_g": TINY,
        "datasets": {"test_1": {"name": "Twins", "type": "PairedImageDataset", "dataroot_gt": str(twins)}},
        "path": {"pretrain_network_g": str(tmp_path / "net.pth")}, "val": {"save_img": True, "metrics": METRICS},
    }  # fmt: skip
    (tmp_path / "run.yml").write_text(yaml.safe_dump(values))
    launcher = ["--launcher", "pytorch"] if processes > 1 else []
    arguments = [ROOT / "basicsr" / "test.py", "-opt", "run.yml", *launcher]
    env = {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    found = run_python(*arguments, processes=processes if processes > 1 else 0, cwd=tmp_path, env=env)
    assert found.returncode == 0, found.stderr
    folder = tmp_path / "results" / "run"
    assert list(json.loads((folder / "scores.json").read_text())["Twins"]["per_image"]) == ["a", "a~2", "b"]
    pictures = folder / "visualization" / "Twins"
    assert sorted(path.name for path in pictures.iterdir()) == ["a_run.png", "a~2_run.png", "b_run.png"]
    levels = [read_image(pictures / f"{name}_run.png").mean() for name in ("a", "a~2", "b")]
    assert levels == sorted(levels) and levels[2] - levels[0] > 20  # each is of its own image


def test_pictures_of_two_validation_sets_with_equal_file_names(tmp_path):
    write_image(tmp_path / "more" / "0.png", np.full((30, 30, 3), 90, np.uint8))
    sets = {f"val_{name}": {"name": name, "type": "PairedImageDataset", "dataroot_gt": str(tmp_path / folder)}
            for name, folder in (("First", "images"), ("Second", "more"))}  # fmt: skip
    values = options(tmp_path, 2, datasets=sets, val={"val_freq": 2, "save_img": True, "metrics": METRICS})
    (tmp_path / "run.yml").write_text(yaml.safe_dump(values))
    assert run_here(basicsr.train, tmp_path, "-opt", "run.yml") == 0
    folder = tmp_path / "experiments" / "run" / "visualization"
    assert read_image(folder / "First" / "0" / "0_2.png").shape == (36, 42, 3)
    assert read_image(folder / "Second" / "0" / "0_2.png").shape == (30, 30, 3)
