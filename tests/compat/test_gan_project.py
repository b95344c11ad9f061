"""A plug-in project with discriminators trains, validates, resumes and tests in processes of its own."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from compat.gan_project import OPTIONS, write_project

from basicsr.images.files import list_images, read_image, write_image
from basicsr.metrics.psnr_ssim import calculate_psnr

ROOT = Path(__file__).parents[2]
MODELS = ["GritGANModel", pytest.param("GritBaseModel", marks=pytest.mark.slow)]
LOSSES = {
    "GritGANModel": (
        "l_g_pix", "l_g_ldl", "l_g_percep", "l_g_gan", "l_d_real", "l_d_fake", "out_d_real", "sigma_max",
    ),
    "GritBaseModel": ("l_g_pix", "l_g_percep", "l_g_gan", "l_d", "real_score"),
}  # fmt: skip


class Project:
    """A project of its own in `root`, whose pictures are in `photos`."""

    def __init__(self, root, photos):
        self.root, self.photos = write_project(root), photos
        self.folder = root / "experiments" / "Grit_x2"
        hub = root / "cache" / "hub" / "checkpoints"  # where PyTorch keeps what it downloads
        hub.mkdir(parents=True)
        generator = torch.Generator().manual_seed(0)
        weights = {"features.0.weight": torch.randn(64, 3, 3, 3, generator=generator)}
        torch.save({**weights, "features.0.bias": torch.zeros(64)}, hub / "vgg19-dcbb9e9d.pth")

    def run(self, script, model, *flags, init_iters=0):
        text = OPTIONS.format(model=model, photos=self.photos, init_iters=init_iters)
        (self.root / "o.yml").write_text(text)
        env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": f"{self.root}{os.pathsep}{ROOT}",
               "TORCH_HOME": str(self.root / "cache")}  # fmt: skip
        argv = [sys.executable, f"grit/{script}.py", "-opt", "o.yml", *flags]
        done = subprocess.run(argv, cwd=self.root, env=env, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr[-3000:]
        return done.stderr

    def weights(self, name):
        return torch.load(self.folder / "models" / f"{name}.pth", weights_only=True)


@pytest.fixture(scope="module")
def windows(photos, tmp_path_factory):
    folder = tmp_path_factory.mktemp("windows")
    for name in list_images(photos)[:3]:
        write_image(folder / f"{Path(name).stem}.png", np.ascontiguousarray(read_image(photos / name)[40:80, 30:78]))
    return folder


@pytest.fixture(scope="module", params=MODELS)
def trained(request, windows, tmp_path_factory):
    """A model, its project after 6 iterations, and what the run said."""
    project = Project(tmp_path_factory.mktemp("project"), windows)
    return request.param, project, project.run("train", request.param)


def changes(one, other):
    return [name for name, value in one.items() if not torch.equal(value, other[name])]


def test_both_networks_learn_with_their_losses_in_the_log(trained):
    model, project, said = trained
    for name in LOSSES[model]:
        assert len(re.findall(rf" {name}: -?\d\.\d+e[+-]\d\d", said)) == 6, name
    assert ("l_d_r1" in said) == (model == "GritBaseModel")
    rates = re.findall(r"lr:\((\S+?),(\S+?),\)", said)
    assert rates == [("1.000e-03", "2.000e-03")] * 4 + [("5.000e-04", "1.000e-03")] * 2
    for label in ("net_g", "net_d"):
        first, last = (project.weights(f"{label}_{k}")["params"] for k in (3, 6))
        assert {"net_g": "conv_first.weight", "net_d": "body.0.weight"}[label] in changes(first, last)
    generator = project.weights("net_g_6")
    assert changes(generator["params"], generator["params_ema"])
    assert "GritPatchDiscriminator" in str(project.weights("net_d_6")["network_g"])


def test_validation_scores_the_pictures_that_it_writes(trained, windows):
    """Those of the averaged network, un-normalised."""
    model, project, said = trained
    assert ("Own report of PhotosVal" in said) == (model == "GritBaseModel")
    scores = [float(score) for score in re.findall(r"# psnr: (\S+)", said)]
    found = []
    for name in list_images(windows):
        stem = Path(name).stem
        picture = read_image(project.folder / "visualization" / stem / f"{stem}_6.png")
        found.append(calculate_psnr(picture, read_image(windows / name)[:36, :36], crop_border=2))
    assert len(scores) == 2
    assert scores[1] == pytest.approx(np.mean(found), abs=1e-3)


def test_a_test_run_gives_the_same_scores(trained):
    model, project, said = trained
    path = project.folder / "models" / "net_g_latest.pth"
    project.run("test", model, "--force_yml", f"path:pretrain_network_g={path}")
    content = json.loads((project.root / "results" / "Grit_x2" / "scores.json").read_text())["PhotosVal"]
    assert content["mean"]["psnr"] == pytest.approx(float(re.findall(r"# psnr: (\S+)", said)[1]), abs=1e-3)


@pytest.mark.slow
def test_a_resumed_run_ends_like_the_whole(trained, windows, tmp_path):
    model, whole, _ = trained
    project = Project(tmp_path, windows)
    project.run("train", model, "--force_yml", "train:total_iter=3")
    project.run("train", model, "--auto_resume")
    for name, keys in (("net_g_6", ("params", "params_ema")), ("net_d_6", ("params",))):
        for key in keys:
            assert changes(whole.weights(name)[key], project.weights(name)[key]) == [], (name, key)
    states = [torch.load(p.folder / "training_states" / "6.state", weights_only=False) for p in (whole, project)]
    assert len(states[0]["optimizers"]) == 2
    torch.testing.assert_close(states[0]["optimizers"], states[1]["optimizers"], rtol=0, atol=0)


@pytest.mark.slow
def test_the_discriminator_learns_alone_in_its_first_iterations(windows, tmp_path):
    project = Project(tmp_path, windows)
    said = project.run("train", "GritGANModel", init_iters=3)
    assert len(re.findall(r" l_g_gan: ", said)) == 3
    assert len(re.findall(r" l_d_real: ", said)) == 6
