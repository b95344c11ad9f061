import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from basicsr.images.files import list_images, read_image

pytest.importorskip("skimage")
REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def demo(tmp_path_factory, photo_networks):
    """A short demo, run from a folder of its own: the finished process and what it wrote."""
    root = tmp_path_factory.mktemp("demo")
    command = [sys.executable, REPOSITORY / "scripts/demo.py", "--iterations", "6", "--output", root]
    return subprocess.run(command, cwd=root, capture_output=True, text=True), root


@pytest.mark.slow
def test_runs_to_the_end(demo):
    process, root = demo
    assert process.returncode == 0, process.stderr[-2000:]
    for name in ("x2", "x4", "x4_jpeg"):
        assert str(root / f"results/demo/comparison_{name}.png") in process.stdout
    assert (root / "experiments/demo_CATANet_S_x2/models/net_g_6.pth").is_file()
    assert "6/6" not in process.stderr  # no progress bar without a terminal
    assert "Warning" not in process.stderr


@pytest.mark.slow
def test_data(demo):
    _, root = demo
    train, test = (list_images(root / "datasets/demo" / split / "HR") for split in ("train", "test"))
    assert len(train) == 10 and len(test) == 3 and not set(train) & set(test)
    hr, lr = (read_image(root / "datasets/demo/test" / name) for name in ("HR/chelsea.png", "LR/X2/chelseax2.png"))
    assert lr.shape == (hr.shape[0] // 2, hr.shape[1] // 2, 3)
    assert list_images(root / "datasets/demo/test/LR/X4_jpeg") == ["astronautx4.jpg", "chelseax4.jpg", "coinsx4.jpg"]


@pytest.mark.slow
def test_scores(demo):
    _, root = demo
    lines = (root / "results/demo/scores.md").read_text().split("# Three photographs, x4")[0].splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]
    assert rows[0][2] == "PSNR (uint8, Y, crop 2)" and rows[0][5] == "SSIM (float, Y, crop 2)"
    scores = {(image, method): values for image, method, *values in rows[2:]}
    assert [image for image, method in scores if method == "CATANet-S"] == ["astronaut", "chelsea", "coins", "**mean**"]
    assert scores["**mean**", "Bicubic"] == ["31.9140", "31.9145", "0.9045", "0.9047"]
    found = json.loads((root / "results/test_demo_CATANet_S_x2/scores.json").read_text())
    assert scores["**mean**", "CATANet-S"][0] == f"{found['demo']['mean']['psnr']:.4f}"


@pytest.mark.slow
def test_the_shipped_network_beats_bicubic_on_every_photograph(demo):
    _, root = demo
    runs = ("test_demo_CATANet_XS_x4", "test_demo_Bicubic_x4")
    network, bicubic = (json.loads((root / "results" / run / "scores.json").read_text())["demo"] for run in runs)
    for photo, scores in bicubic["per_image"].items():
        assert network["per_image"][photo]["psnr"] > scores["psnr"] + 0.3, photo


@pytest.mark.slow
def test_the_network_for_photographs_is_the_best_with_jpeg_files(demo):
    _, root = demo
    runs = ("CATANet_XS_photo", "CATANet_XS", "Bicubic")
    files = [root / f"results/test_demo_{run}_x4_jpeg/scores.json" for run in runs]
    photo, plain, bicubic = (json.loads(file.read_text())["demo"] for file in files)
    for name, scores in bicubic["per_image"].items():
        assert photo["per_image"][name]["psnr"] > scores["psnr"], name
    assert photo["mean"]["psnr"] > plain["mean"]["psnr"]
    table = (root / "results/demo/scores.md").read_text().split("# The same three as JPEG files of quality 75, x4")[1]
    assert f"| **mean** | CATANet-XS for photographs | {photo['mean']['psnr']:.4f}" in table


@pytest.mark.parametrize("name", ["x2", "x4", "x4_jpeg"])
@pytest.mark.slow
def test_picture(demo, name):
    _, root = demo
    with Image.open(root / f"results/demo/comparison_{name}.png") as picture:
        pixels = np.asarray(picture)
    assert pixels.shape[1] > 3 * pixels.shape[0] and pixels.shape[2] == 3
    assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 10_000  # a photograph, not an empty frame


def test_a_failing_step_ends_in_one_line(tmp_path):
    broken = tmp_path / "datasets/demo/train/HR/broken.png"
    broken.parent.mkdir(parents=True)
    broken.write_bytes(b"no image")
    command = [sys.executable, REPOSITORY / "scripts/demo.py", "--output", tmp_path]
    process = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert process.returncode == 1
    last = process.stderr.splitlines()[-1]
    assert last.startswith("demo: `") and "generate_lr.py" in last and "failed with exit code 2" in last
    assert not (tmp_path / "experiments").exists() and not (tmp_path / "results").exists()
