"""Projects in the manner of the field's repositories train, validate, resume and test in processes of their own."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from compat.ecosystem_project import PERCEPTUAL, TRAIN_YML, write_project

from basicsr.images.files import list_images, read_image, write_image

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def windows(photos, tmp_path_factory):
    folder = tmp_path_factory.mktemp("windows")
    for name in list_images(photos)[:3]:
        write_image(folder / f"{Path(name).stem}.png", np.ascontiguousarray(read_image(photos / name)[40:80, 30:78]))
    return folder


@pytest.fixture
def project(windows, tmp_path):
    """Return a function that writes the option file of a model and runs a script of the project."""
    write_project(tmp_path)
    hub = tmp_path / "cache" / "hub" / "checkpoints"  # where PyTorch keeps what it downloads
    hub.mkdir(parents=True)
    generator = torch.Generator().manual_seed(0)
    weights = {"features.0.weight": torch.randn(64, 3, 3, 3, generator=generator), "features.0.bias": torch.zeros(64)}
    torch.save(weights, hub / "vgg19-dcbb9e9d.pth")

    def run(script, model, *flags, more=""):
        (tmp_path / "o.yml").write_text(TRAIN_YML.format(model=model, photos=windows, more=more))
        env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}",
               "TORCH_HOME": str(tmp_path / "cache")}  # fmt: skip
        argv = [sys.executable, f"tiny/{script}.py", "-opt", "o.yml", *flags]
        done = subprocess.run(argv, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr[-3000:]
        return done.stderr

    run.root = tmp_path
    run.folder = tmp_path / "experiments" / "Tiny_x2"
    return run


def params(project, name="net_g_6.pth", key="params"):
    return torch.load(project.folder / "models" / name, weights_only=True)[key]


def assert_same(one, other):
    torch.testing.assert_close(one, other, rtol=0, atol=0)


def resume_equals_whole(project, script, model):
    """Whether a run of 3 iterations, resumed, ends with the weights of `project`'s run of 6."""
    whole = params(project)
    for path in sorted((project.folder).rglob("*"), reverse=True):
        path.unlink() if path.is_file() else path.rmdir()
    project(script, model, "--force_yml", "train:total_iter=3")
    resumed = project(script, model, "--auto_resume")
    assert_same(params(project), whole)
    return resumed


def test_results_that_are_filled_lazily_and_the_optimizer_of_the_base_class(project):
    said = project("train", "TinyLazyModel", more=PERCEPTUAL.format(style=2.0))
    scores = re.findall(r"# psnr: (\S+)", said)
    assert len(scores) == 2 and scores[0] != scores[1]  # after 3 and 6 iterations
    for name in ("l_pix", "l_percep", "l_style"):
        assert len(re.findall(rf"{name}: \d", said)) == 6, name
    assert re.findall(r"share: (\S+)", said) == ["5.0000e-01"] * 6  # a number, not a tensor
    assert "niqe" in said  # of images too small for it: nan
    assert not torch.equal(params(project)["conv.weight"], params(project, key="params_ema")["conv.weight"])
    weights = project.folder / "models" / "net_g_latest.pth"
    project("test", "TinyLazyModel", "--force_yml", f"path:pretrain_network_g={weights}", "path:param_key_g=params_ema")
    content = json.loads((project.root / "results/Tiny_x2/scores.json").read_text())["PhotosVal"]
    assert content["mean"]["psnr"] == pytest.approx(float(scores[1]), abs=1e-3)


@pytest.mark.slow
def test_a_resumed_run_of_such_a_model_ends_like_the_whole(project):
    project("train", "TinyLazyModel")
    resume_equals_whole(project, "train", "TinyLazyModel")


@pytest.mark.slow
@pytest.mark.parametrize("model", ["TinyBaseModel", "TinyHookModel"])
def test_a_child_of_the_base_model_with_validation_schedulers_and_saving_of_its_own(project, model):
    said = project("train", model)
    assert ("own validation" in said) == (model == "TinyBaseModel")
    scores = re.findall(r"# psnr: (\S+)", said)
    assert len(scores) == 2
    rates = re.findall(r"lr:\((\S+?),\)", said)
    assert rates == ["1.000e-03"] * 2 + ["5.000e-04"] * 2 + ["2.500e-04"] * 2  # of its own StepLR
    resume_equals_whole(project, "train", model)
    weights = project.folder / "models" / "net_g_latest.pth"
    project("test", model, "--force_yml", f"path:pretrain_network_g={weights}")
    content = json.loads((project.root / "results/Tiny_x2/scores.json").read_text())["PhotosVal"]
    if model == "TinyBaseModel":
        assert content["mean"]["psnr"] == pytest.approx(float(scores[1]), abs=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("model", ["TinyLazyModel", "TinyBaseModel", "SRModel"])
def test_a_training_script_of_its_own(project, model):
    said = project("own_train", model)
    assert len(re.findall(r"iter: +\d+, .* l_pix: ", said)) == 6
    assert len(re.findall(r"Validation PhotosVal\n\t # psnr: \d+\.\d+\tBest: \d+\.\d+ @ \d iter", said)) == 3
    assert list((project.root / "tb_logger" / "Tiny_x2").iterdir())
    first = params(project, "net_g_3.pth")
    for name in ("net_g_6.pth", "net_g_latest.pth"):
        (project.folder / "models" / name).unlink()
    (project.folder / "training_states" / "6.state").unlink()
    said = project("own_train", model, "--auto_resume")  # which begins epoch 0 again, as such scripts always did
    assert "Resuming training from epoch: 0, iter: 3." in said
    assert re.findall(r"iter: +(\d+), ", said)[-3:] == ["4", "5", "6"]
    assert_same(params(project, "net_g_3.pth"), first)
    assert params(project).keys() == first.keys()
