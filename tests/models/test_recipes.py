"""The recipes in options/train/gan and classic start: their own keys, on miniature data, with small networks."""

from pathlib import Path

import pytest
import torch
import yaml
from helpers import run_here, write_options
from reliability.runs import merged
from torchvision import models

import basicsr.train
from basicsr.images.files import write_image

TRAIN = Path(__file__).parents[2] / "options/train"
RECIPES = sorted([*TRAIN.glob("gan/*.yml"), *TRAIN.glob("classic/*.yml")])
SMALL = {
    "RRDBNet": {"num_feat": 4, "num_block": 1, "num_grow_ch": 2},
    "VGGStyleDiscriminator": {"num_feat": 2},
    "SwinIR": {"embed_dim": 12, "depths": [2], "num_heads": [2]},
    "UNetDiscriminatorSN": {"num_feat": 2},
    "SRVGGNetCompact": {"num_feat": 4, "num_conv": 1},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Random pictures, and the first layer of a VGG-11."""
    folder = tmp_path_factory.mktemp("recipes")
    generator = torch.Generator().manual_seed(0)
    for k in range(2):
        picture = (255 * torch.rand(35, 33, 3, generator=generator)).byte().numpy().repeat(4, 0).repeat(4, 1)
        write_image(folder / "images" / f"{k}.png", picture)
    with torch.device("meta"):
        layers = models.vgg11().features[:1].to_empty(device="cpu")
    weights = {f"features.{key}": 0.1 * torch.randn(value.shape) for key, value in layers.state_dict().items()}
    torch.save(weights, folder / "vgg11.pth")
    return folder


def miniature(values, folder):
    """The options of a recipe with the data, the sizes and the length of a test."""
    for data in values["datasets"].values():
        data["dataroot_gt"] = str(folder / "images")
        for key in ("dataroot_lq", "filename_tmpl", "meta_info", "meta_info_file"):
            data.pop(key, None)
    data = values["datasets"]["train"]
    data |= {"batch_size_per_gpu": 1, "num_worker_per_gpu": 0}
    if "crop_pad_size" in data:
        data |= {"crop_pad_size": 128}
        values["degradation"] |= {"resize_range": [0.5, 1.5], "gt_size": 64, "queue_size": 2}
    for key in ("network_g", "network_d"):
        if key in values:
            values[key] |= SMALL[values[key]["type"]]
    if "perceptual_opt" in values["train"]:
        changes = {"layer_weights": {"conv1_1": 1}, "vgg_type": "vgg11", "weights": str(folder / "vgg11.pth")}
        values["train"]["perceptual_opt"] |= changes
    values.get("path", {}).pop("pretrain_network_g", None)
    return merged(values, {"num_gpu": 0, "train": {"total_iter": 2}, "logger": {"use_tb_logger": False}})


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_starts(path, folder, tmp_path):
    values = yaml.safe_load(path.read_text())
    assert values["name"] == path.stem
    options = write_options(tmp_path, miniature(values, folder))
    assert run_here(basicsr.train, tmp_path, "-opt", options) == 0
    log = "".join(file.read_text() for file in (tmp_path / "experiments" / path.stem).glob("train_*.log"))
    losses = ["l_g_gan", "l_d_real"] if "network_d" in values else ["l_pix"]
    losses += ["l_g_percep"] if "perceptual_opt" in values["train"] else []
    assert all(loss in log for loss in losses)
    assert "psnr" in log
