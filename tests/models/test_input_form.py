"""Networks of normalised images, and of luma, from training to inference: what is scored, saved and enlarged agrees."""

import json
import logging
import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import TINY_CATANET, resolved_options, run_here, write_options
from torch.utils.data import Dataset

import basicsr.test
import basicsr.train
from basicsr.archs.image_network import ImageNetwork
from basicsr.archs.published import read_network
from basicsr.config.input_form import InputForm
from basicsr.config.load import load_options
from basicsr.config.registry import DATASET_REGISTRY, MODEL_REGISTRY
from basicsr.data.loaders import build_test_loader
from basicsr.engine.checkpoint import load_file
from basicsr.errors import CheckpointError, OptionError
from basicsr.images.color import rgb2ycbcr_pt, rgb_to_y
from basicsr.images.files import read_image, to_tensor, write_image
from basicsr.images.matlab_resize import imresize
from basicsr.inference.upscaler import Upscaler
from basicsr.metrics.psnr_ssim import calculate_psnr, calculate_psnr_pt
from basicsr.models import build_model
from basicsr.models.sr_model import SRModel
from basicsr.runtimes.build import read_export_network

NORMAL = {"mean": [0.4488, 0.4371, 0.404], "std": [0.25, 0.3, 0.2]}
LUMA = {"color": "y"}
FORMS = {"normal": NORMAL, "mean": {"mean": [0.5] * 3}, "scaled": {"std": [1 / 255] * 3}, "luma": LUMA,
         "normal luma": {"color": "y", "mean": [0.45], "std": [0.3]}}  # fmt: skip
METRICS = {
    "psnr": {"type": "calculate_psnr", "crop_border": 2},
    "psnr_pt": {"type": "calculate_psnr_pt", "crop_border": 2},
}


@pytest.fixture(scope="module")
def windows(photos, tmp_path_factory):
    folder = tmp_path_factory.mktemp("windows")
    for k, name in enumerate(("chelsea", "coffee", "rocket")):
        write_image(
            folder / f"{name}.png", np.ascontiguousarray(read_image(photos / f"{name}.png")[20 : 68 + 2 * k, 30:80])
        )
    return folder


@pytest.fixture
def values(windows, tmp_path):
    def values(form, name="x", is_train=True, **more):
        data = {"type": "PairedImageDataset", "dataroot_gt": str(windows), **form}
        sets = {"train": {**data, "gt_size": 32, "batch_size_per_gpu": 2}, "val": {"name": "Photos", **data}}
        result = {
            "name": name, "scale": 2, "num_gpu": 0, "manual_seed": 3,
            "datasets": sets if is_train else {"test": {"name": "Photos", **data}},
            "network_g": {**TINY_CATANET, "in_chans": InputForm.of(form).channels},
            "val": {"val_freq": 6, "save_img": True, "pbar": False, "metrics": METRICS},
        }  # fmt: skip
        if is_train:
            adam = {"type": "Adam", "lr": 2e-3}
            result["train"] = {"total_iter": 6, "optim_g": adam, "pixel_opt": {"type": "L1Loss"}}
        return {**result, **more}

    return values


def trained(folder, values):
    """The weight file of a training, and its log."""
    assert run_here(basicsr.train, folder, "-opt", write_options(folder, values)) == 0
    run = folder / "experiments" / values["name"]
    return run / "models/net_g_latest.pth", next(run.glob("train_*.log")).read_text()


def results_of(folder, values):
    """The scores of a test by image, and its pictures by image."""
    assert run_here(basicsr.test, folder, "-opt", write_options(folder, values)) == 0
    results = folder / "results" / values["name"]
    pictures = {path.name.split("_")[0]: read_image(path) for path in sorted(results.rglob("*.png"))}
    return json.loads((results / "scores.json").read_text())["Photos"]["per_image"], pictures


def photographs(folder):
    for path in sorted(folder.iterdir()):
        gt = read_image(path)[: 2 * (read_image(path).shape[0] // 2)]
        yield path.stem, gt, imresize(gt, 1 / 2)


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_scores_pictures_and_inference_agree(values, windows, tmp_path, form):
    """The same network as a function of plain images, by inference, has the scores and pictures of the test."""
    weights, log = trained(tmp_path, values(form))
    best = [float(number) for number in re.findall(r"# psnr(?:_pt)?: ([\d.inf]+)", log)]
    assert best and all(10 < number < 50 for number in best)
    scores, pictures = results_of(
        tmp_path, values(form, "t", is_train=False, path={"pretrain_network_g": str(weights)})
    )
    upscale = Upscaler.from_checkpoint(weights, device="cpu")
    for name, gt, lq in photographs(windows):
        sr = upscale(lq, bits=32).astype(np.float64)
        if "color" in form:
            raw = upscale._run(to_tensor(lq)[None])  # RGB before it is clamped
            luma = rgb2ycbcr_pt(raw, y_only=True)
            expected = calculate_psnr_pt(luma, torch.from_numpy(rgb_to_y(gt / 255)[..., 0])[None, None].float(), 2)
            gray = np.round(np.clip((luma[0, 0].numpy() * 255 - 16) / 219, 0, 1) * 255)
            picture = np.repeat(gray[..., None], 3, axis=2)
        else:
            expected = calculate_psnr_pt(upscale._run(to_tensor(lq)[None]), to_tensor(gt)[None], 2)
            picture = np.round(sr * 255)
            assert scores[name]["psnr"] == pytest.approx(calculate_psnr(picture, gt.astype(np.float64), 2), abs=0.01)
        assert scores[name]["psnr_pt"] == pytest.approx(float(expected), abs=1e-3)
        assert np.abs(pictures[name] - picture).max() <= 1


@pytest.mark.parametrize("form", [{}, NORMAL, LUMA], ids=str)
def test_bicubic_keeps_its_known_scores(values, tmp_path, windows, form):
    """Bicubic enlargement of normalised images is that of plain ones, so scores and pictures must not change."""
    scores, pictures = results_of(tmp_path, values(form, is_train=False, network_g={"type": "Bicubic", "upscale": 2}))
    heading = "psnr (uint8, Y, crop 2)" if "color" in form else "psnr (uint8, RGB, crop 2)"
    assert heading in (tmp_path / "results/x/scores.md").read_text()
    for name, gt, lq in photographs(windows):
        sr = imresize(to_tensor(lq)[None], 2)
        expected = calculate_psnr_pt(sr, to_tensor(gt)[None], 2, test_y_channel="color" in form)
        assert scores[name]["psnr_pt"] == pytest.approx(float(expected), abs=1e-3)
        shown = pictures[name] / 255
        plain = np.clip(sr[0].permute(1, 2, 0).numpy(), 0, 1)
        if "color" in form:  # a gray picture from black to white, whose luma is that of the enlarged photograph
            shown, plain = rgb_to_y(shown), rgb_to_y(sr[0].permute(1, 2, 0).numpy())
        assert np.abs(shown - plain).mean() < 1 / 255


def test_a_gray_photograph_is_enlarged_to_gray(values, tmp_path, windows):
    weights, _ = trained(tmp_path, values(LUMA))
    gray = np.array(read_image(windows / "chelsea.png")[..., 1])
    sr = Upscaler.from_checkpoint(weights, device="cpu")(gray)
    assert sr.shape == (96, 100, 3) and np.ptp(sr.astype(int), axis=2).max() <= 1


def test_weight_files_keep_the_form(values, tmp_path):
    weights, _ = trained(tmp_path, values(NORMAL))
    assert load_file(weights)["meta"]["input"] == NORMAL
    net, spec, _ = read_network(weights)
    assert isinstance(net, ImageNetwork) and spec["in_chans"] == 3
    with pytest.raises(CheckpointError, match=r"was trained on images with .*mean \[0\.4488.*which exported files"):
        read_export_network(weights)
    plain, _ = trained(tmp_path, values({}, "plain"))
    assert load_file(plain)["meta"]["input"] == {}
    assert not isinstance(read_network(plain)[0], ImageNetwork)


@pytest.mark.parametrize(
    "damage", [{"mean": "abc"}, {"mean": [0.5, math.nan, 0.5]}, {"std": [0.0] * 3}, {"color": "rgb"}, {"mean": 3}]
)
def test_a_damaged_form_is_an_error(values, tmp_path, damage):
    weights, _ = trained(tmp_path, values({}, train={"total_iter": 1, "optim_g": {"type": "SGD", "lr": 1e-3},
                                                     "pixel_opt": {"type": "L1Loss"}}))  # fmt: skip
    content = load_file(weights)
    content["meta"]["input"] = damage
    torch.save(content, weights)
    with pytest.raises(CheckpointError, match=r"net_g_latest\.pth: its meta\.input"):
        read_network(weights)


def test_a_test_on_images_of_another_form_is_refused(values, tmp_path, caplog):
    weights, _ = trained(tmp_path, values(NORMAL))
    path = {"pretrain_network_g": str(weights)}
    with pytest.raises(
        OptionError, match=r"datasets: .*was trained on images with .*but the data sets have color null, mean null"
    ):
        build_model(resolved_options(tmp_path, values({}, "t", is_train=False, path=path), is_train=False))
    with caplog.at_level(logging.WARNING, "basicsr"):  # fine-tuning may change it
        build_model(resolved_options(tmp_path, values({}, "fine", path=path)))
    assert "was trained on images with" in caplog.text


def test_the_other_model_clamps_images_not_normalised_outputs(values, tmp_path):
    form = {"mean": [0.5] * 3, "std": [0.1] * 3}
    more = {"model_type": "ATDUNetModel", "network_g": {"type": "Bicubic", "upscale": 2}}
    scores, _ = results_of(tmp_path, values(form, is_train=False, **more))
    plain, _ = results_of(tmp_path, values({}, "plain", is_train=False, **more))
    for name, found in scores.items():
        assert found == pytest.approx(plain[name], abs=1e-3)


class OldDataset(Dataset):
    """A data set as projects on BasicSR 1.4 have them, which normalises its images by itself."""

    def __init__(self, opt):
        self.opt = opt
        self.paths = sorted(Path(opt["dataroot_gt"]).iterdir())
        self.mean, self.std = opt.get("mean"), opt.get("std")

    def __len__(self):
        return len(self.paths)

    def __getitem__(self, index):
        gt = read_image(self.paths[index])
        gt = gt[: 2 * (gt.shape[0] // 2)]
        mean, std = (torch.tensor(numbers).view(3, 1, 1) for numbers in (self.mean, self.std))
        lq, gt = ((to_tensor(image) - mean) / std for image in (imresize(gt, 1 / 2), gt))
        return {"lq": lq, "gt": gt, "lq_path": str(self.paths[index]), "gt_path": str(self.paths[index])}


def test_a_data_set_of_an_old_project_with_its_own_mean_and_std(values, tmp_path, monkeypatch):
    monkeypatch.setitem(DATASET_REGISTRY._items, "OldDataset", OldDataset)
    import basicsr.compat.plugins  # noqa: F401  # what `basicsr.utils.registry` imports for every plug-in

    bicubic = {"network_g": {"type": "Bicubic", "upscale": 2}}
    old = values(NORMAL, "old", is_train=False, **bicubic)
    old["datasets"]["test"]["type"] = "OldDataset"
    scores, pictures = results_of(tmp_path, old)
    expected, expected_pictures = results_of(tmp_path, values({}, "plain", is_train=False, **bicubic))
    for name, found in scores.items():
        assert found == pytest.approx(expected[name], abs=1e-3)
        assert np.abs(pictures[name].astype(int) - expected_pictures[name]).max() <= 1
    assert build_test_loader(load_options(tmp_path / "old.yml", is_train=False), "test").form.to_plain() == NORMAL


def test_the_form_is_inverted():
    form = InputForm(None, *NORMAL.values())
    images = torch.rand(2, 3, 5, 4)
    torch.testing.assert_close(form.undo(form.normalise(images)), images)
    torch.testing.assert_close(form.clamp(form.normalise(4 * images - 1)), form.normalise((4 * images - 1).clamp(0, 1)))
    assert InputForm(None, [0, 0, 0], [1, 1, 1]).to_plain() == {} and not InputForm(None, [0, 0, 0]).is_normalised


@pytest.mark.parametrize("undoes", [False, True])
def test_a_model_of_an_old_project_that_runs_the_network_by_itself(values, tmp_path, monkeypatch, undoes):
    """Its outputs are normalised, unless its pictures, like its ground truth, are not."""
    import basicsr.compat.plugins  # noqa: F401

    form = InputForm(None, *NORMAL.values())

    class OldModel(SRModel):
        def test(self):
            self.output = self.net_g(self.lq)

        def post_process(self):  # in many projects it cuts what was padded
            pass

        def get_current_visuals(self):
            visuals = {"lq": self.lq, "result": self.output.detach(), "gt": self.gt}
            return {key: form.undo(image) if undoes else image for key, image in visuals.items()}

    OldModel.__module__ = "project.models"
    monkeypatch.setitem(MODEL_REGISTRY._items, "OldModel", OldModel)
    bicubic = {"network_g": {"type": "Bicubic", "upscale": 2}}
    scores, _ = results_of(tmp_path, values(NORMAL, "old", is_train=False, model_type="OldModel", **bicubic))
    expected, _ = results_of(tmp_path, values({}, "plain", is_train=False, **bicubic))
    for name, found in scores.items():
        assert found == pytest.approx(expected[name], abs=1e-3)


def test_the_suffix_of_pictures_counts_in_training_too(values, tmp_path):
    options = values({})
    options["val"]["suffix"] = "mine"
    trained(tmp_path, options)
    assert len(list((tmp_path / "experiments/x/visualization/chelsea").glob("chelsea_6_mine.png"))) == 1
