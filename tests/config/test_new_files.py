"""A file in a package is all that a new component needs: the table "To add something" of docs/architecture.md."""

import importlib
import sys

import pytest
from helpers import write_options

from basicsr.config import registry
from basicsr.config.load import load_options
from basicsr.errors import OptionError

FILES = {  # package: (registry, file, its code, name)
    "archs": (
        "ARCH_REGISTRY",
        "brandnew_arch.py",
        "@{registry}.register()\nclass BrandNew(torch.nn.Conv2d):\n"
        "    def __init__(self, *, upscale: int = 2, dim: int = 8):\n        super().__init__(3, dim, 1)\n",
        "BrandNew",
    ),
    "losses": (
        "LOSS_REGISTRY",
        "brandnew_loss.py",
        "@{registry}.register()\nclass BrandNewLoss(torch.nn.L1Loss):\n"
        "    def __init__(self, loss_weight: float = 1.0):\n        super().__init__()\n",
        "BrandNewLoss",
    ),
    "data": (
        "DATASET_REGISTRY",
        "brandnew_dataset.py",
        "@{registry}.register()\nclass BrandNewDataset(torch.utils.data.Dataset):\n"
        "    def __init__(self, *, dataroot_gt: str):\n        super().__init__()\n",
        "BrandNewDataset",
    ),
    "metrics": (
        "METRIC_REGISTRY",
        "brandnew_metric.py",
        "@{registry}.register()\ndef calculate_brandnew(img, img2, crop_border: int = 0):\n    return 1.0\n",
        "calculate_brandnew",
    ),
    "models": (
        "MODEL_REGISTRY",
        "brandnew_model.py",
        "from basicsr.models.sr_model import SRModel\n\n\n@{registry}.register()\nclass BrandNewModel(SRModel):\n"
        "    def compute_losses(self, batch):\n        return super().compute_losses(batch)\n",
        "BrandNewModel",
    ),
}


@pytest.fixture
def new_files(tmp_path, monkeypatch):
    """Put a file of each kind next to those of its package, without writing into the checkout."""
    for package, (name, file, code, _) in FILES.items():
        folder = tmp_path / package
        folder.mkdir()
        head = f"import torch\n\nfrom basicsr.config.registry import {name}\n\n\n"
        (folder / file).write_text(head + code.format(registry=name))
        module = importlib.import_module(f"basicsr.{package}")
        monkeypatch.setattr(module, "__path__", [*module.__path__, str(folder)])
        components = getattr(registry, name)
        monkeypatch.setattr(components, "_items", dict(components._items))
        monkeypatch.setattr(components, "_discovered", False)  # other tests may have looked for files before
    yield
    for name in [name for name in sys.modules if "brandnew" in name]:
        del sys.modules[name]


@pytest.mark.parametrize("package", FILES)
def test_a_new_file_is_found_by_its_name(package, new_files):
    name, file, _, component = FILES[package]
    found = getattr(registry, name).get(component)
    assert found.__module__ == f"basicsr.{package}.{file.removesuffix('.py')}"
    assert component in getattr(registry, name)


def test_an_option_file_names_them_and_their_arguments_are_checked(new_files, tmp_path):
    values = {
        "name": "run", "model_type": "BrandNewModel", "scale": 2, "network_g": {"type": "BrandNew", "dim": 4},
        "datasets": {"train": {"type": "BrandNewDataset", "dataroot_gt": "x"}},
        "train": {"total_iter": 1, "optim_g": {"type": "Adam"}, "new_opt": {"type": "BrandNewLoss"}},
        "val": {"metrics": {"new": {"type": "calculate_brandnew", "crop_border": 2}}},
    }  # fmt: skip
    assert load_options(write_options(tmp_path, values), is_train=True).network_g["dim"] == 4
    values["train"]["new_opt"]["los_weight"] = 1.0
    with pytest.raises(OptionError, match=r"run\.yml:\d+: train\.new_opt\.los_weight: .*'loss_weight'"):
        load_options(write_options(tmp_path, values), is_train=True)
