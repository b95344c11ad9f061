"""Fixtures for the tests of PruneDistillModel: weights, images and options of short runs, and models without data."""

import copy

import numpy as np
import pytest
import torch
import yaml
from models.prunable_nets import TINY, ResidualCNN, catanet, with_state
from models.prune_steps import CNN

import basicsr.train
from basicsr.config.load import load_options, resolve
from basicsr.config.registry import ARCH_REGISTRY
from basicsr.images.files import list_images, read_image, write_image
from basicsr.models import build_model
from basicsr.pruning import compaction, finalize

PSNR = {"type": "calculate_psnr", "crop_border": 2, "test_y_channel": True}
PRUNE = {"warmup_iter": 2, "search_iter": 5, "settle_iter": 3, "recalib_iter": 2}


@pytest.fixture(autouse=True)
def one_thread(seed):
    torch.set_num_threads(1)  # faster for tensors this small


@pytest.fixture(autouse=True)
def registered(monkeypatch):
    monkeypatch.setitem(ARCH_REGISTRY._items, "ResidualCNN", ResidualCNN)


@pytest.fixture
def short(monkeypatch):
    """Skip the slow parts of a short run: the page, the curves, and large images in the check of the cut network."""
    monkeypatch.setattr(finalize, "write_page", lambda folder: str(folder / "prune_report.html"))
    monkeypatch.setattr(basicsr.train, "plot_curves", lambda curves, path: None)
    monkeypatch.setattr(compaction, "SHAPES", ((1, 16, 18),))


@pytest.fixture(scope="session")
def weights(tmp_path_factory):
    """Weight files of a CATANet and a CNN with their state set. Do not write to them."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("weights")
    nets = {"catanet": catanet(), "cnn": with_state(ResidualCNN())}
    for name, net in nets.items():
        torch.save({"params": net.state_dict()}, folder / f"{name}.pth")
    return {name: str(folder / f"{name}.pth") for name in nets}


@pytest.fixture(scope="session")
def windows(photos, tmp_path_factory):
    """Folder of small windows of the photographs, of odd sizes. Do not write to it."""
    folder = tmp_path_factory.mktemp("windows")
    for k, name in enumerate(list_images(photos)[:3]):
        write_image(folder / name, np.ascontiguousarray(read_image(photos / name)[40 : 77 + k, 30 : 75 - k]))
    return folder


@pytest.fixture(scope="session")
def search_values(weights, windows):
    """Options of a search of 10 iterations; sections given are merged."""

    def search_values(which="catanet", **sections):
        photographs = {"name": "Photos", "type": "PairedImageDataset", "dataroot_gt": str(windows)}
        network = TINY if which == "catanet" else CNN
        values = {
            "name": "s", "model_type": "PruneDistillModel", "scale": 2, "num_gpu": 0, "manual_seed": 3,
            "datasets": {
                "train": {**photographs, "gt_size": 32, "batch_size_per_gpu": 2, "dataset_enlarge_ratio": 4},
                "val": photographs.copy(),
            },
            "network_g": network, "network_t": network,
            "path": {"pretrain_network_g": weights[which], "pretrain_network_t": weights[which]},
            "prune": PRUNE, "budget": {"blocks": 2, "ref_size": [16, 16]},
            "kd": {"sa": {"weight": 0.04}},
            "train": {
                "total_iter": 10, "grad_clip": 0.5, "optim_g": {"type": "Adam", "lr": 1e-3},
                "optim_m": {"type": "Adam", "lr": 0.1}, "pixel_opt": {"type": "L1Loss"},
            },
            "val": {"metrics": {"psnr": PSNR}}, "logger": {"print_freq": 1, "save_checkpoint_freq": 1000},
        }  # fmt: skip
        for name, section in sections.items():
            values[name] = {**values.get(name, {}), **section}
        return values

    return search_values


@pytest.fixture
def finetune_values(search_values):
    """Options of fine-tuning what groups 1 and 4 of the teacher leave, beginning with these."""

    def finetune_values(**sections):
        values = search_values(**{"prune": {}, "path": {"pretrain_network_g": None}, **sections})
        values["network_g"] = {**TINY, "block_num": 2, "num_tokens": [8, 4], **sections.get("network_g", {})}
        values["prune"] = {"stage": "finetune", "kept": [1, 4], **sections.get("prune", {})}
        return values

    return finetune_values


@pytest.fixture
def model_of(tmp_path):
    """The model that these options describe, without data."""

    def model_of(values):
        values = copy.deepcopy(values)
        values["path"] = {**values["path"], "experiments_root": str(tmp_path / "experiments")}
        path = tmp_path / "x.yml"
        path.write_text(yaml.safe_dump(values, sort_keys=False))
        (tmp_path / "experiments" / "s").mkdir(parents=True, exist_ok=True)
        return build_model(resolve(load_options(path, is_train=True)))

    return model_of
