"""A network file dropped into `basicsr/archs/` whose constructor reads numbers from tensors, from YAML to inference."""

import logging
import sys

import numpy as np
import pytest
import torch
import yaml

import basicsr.archs
import basicsr.test
import basicsr.train
from basicsr.archs import build_network
from basicsr.archs.published import load_network
from basicsr.config.registry import ARCH_REGISTRY
from basicsr.errors import CheckpointError
from basicsr.images.files import image_size, list_images, read_image, write_image
from basicsr.inference.upscaler import Upscaler

pytestmark = pytest.mark.filterwarnings("ignore:Unable to enable fault handler")  # stderr is captured
LOGGER = logging.getLogger("basicsr")
FILE = """
import numpy as np
import torch
from torch import nn

from basicsr.config.registry import ARCH_REGISTRY

TINY = {}


@ARCH_REGISTRY.register()
class Reader(nn.Module):
    min_side = 1
    multiple_of = 1

    def __init__(self, *, upscale: int = 2, dim: int = 8, depth: int = 3, rate: float = 0.5):
        super().__init__()
        self.upscale = upscale
        rates = torch.linspace(0, rate, depth)
        items = [rates[i].item() for i in range(depth)]
        assert np.allclose(items, rates.tolist()) and np.allclose(items, rates.numpy())
        self.body = nn.Sequential(nn.Conv2d(3, dim, 3, padding=1), *(nn.Dropout(item) for item in np.asarray(rates)))
        self.tail = nn.Sequential(nn.Conv2d(dim, 3 * upscale**2, 3, padding=1), nn.PixelShuffle(upscale))

    def forward(self, x):
        return self.tail(self.body(x))
"""
SPEC = {"type": "Reader", "upscale": 2, "dim": 6}


def forget():
    for name in [name for name in ARCH_REGISTRY._items if name == "Reader"]:
        del ARCH_REGISTRY._items[name]
    for name in [name for name in sys.modules if name.endswith("reader_arch")]:
        del sys.modules[name]


@pytest.fixture(params=["file in archs", "plug-in", "class registered by hand"])
def reader(request, tmp_path, monkeypatch):
    """Make `Reader` available in one of the ways that a network can come from."""
    folder = tmp_path / "code"
    folder.mkdir()
    (folder / "reader_arch.py").write_text(FILE)
    monkeypatch.setattr(ARCH_REGISTRY, "_items", dict(ARCH_REGISTRY._items))
    if request.param == "file in archs":
        monkeypatch.setattr(basicsr.archs, "__path__", [*basicsr.archs.__path__, str(folder)])
        monkeypatch.setattr(ARCH_REGISTRY, "_discovered", False)  # other tests may have looked for files before
        assert ARCH_REGISTRY.get("Reader").__module__ == "basicsr.archs.reader_arch"
    elif request.param == "plug-in":
        monkeypatch.syspath_prepend(str(folder))
        __import__("reader_arch")
    else:
        exec(FILE, {"__name__": "__main__"})
    yield
    forget()


def run(command, folder, options):
    path = folder / f"{options['name']}.yml"
    path.write_text(yaml.safe_dump(options, sort_keys=False))
    torch.set_num_threads(1)
    level = LOGGER.level
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(LOGGER, "handlers", [])
        code = command.main(["-opt", path.name])
        for handler in LOGGER.handlers:
            handler.close()
    LOGGER.setLevel(level)
    return code


@pytest.fixture
def windows(photos, tmp_path):
    """Folder of two small windows of photographs."""
    folder = tmp_path / "windows"
    for name in list_images(photos)[:2]:
        write_image(folder / name, np.ascontiguousarray(read_image(photos / name)[40:68, 30:60]))
    return folder


def test_from_training_to_inference(reader, windows, tmp_path):
    data = {"name": "Photos", "type": "PairedImageDataset", "dataroot_gt": str(windows)}
    metrics = {"psnr": {"type": "calculate_psnr", "crop_border": 2, "test_y_channel": True}}
    options = {"name": "read", "scale": 2, "num_gpu": 0, "network_g": SPEC}
    training = {
        "datasets": {"train": {**data, "gt_size": 16, "batch_size_per_gpu": 1}},
        "train": {"total_iter": 2, "optim_g": {"type": "Adam", "lr": 1e-3}, "pixel_opt": {"type": "L1Loss"}},
    }
    assert run(basicsr.train, tmp_path, options | training) == 0
    weights = tmp_path / "experiments/read/models/net_g_latest.pth"
    testing = {"datasets": {"test_1": data}, "path": {"pretrain_network_g": str(weights)}, "val": {"metrics": metrics}}
    assert run(basicsr.test, tmp_path, options | {"name": "read_test"} | testing) == 0
    assert load_network(weights).tail[0].weight.shape == (12, 6, 3, 3)
    upscaler = Upscaler.from_checkpoint(weights, device="cpu")
    image = windows / list_images(windows)[0]
    height, width = read_image(image).shape[:2]
    assert image_size(image) == (height, width)
    assert upscaler(read_image(image)).shape == (2 * height, 2 * width, 3)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({**SPEC, "dim": 8}, r"weights do not fit its network_g, Reader: .*body\.0\.weight is \(6, 3, 3, 3\) in the"),
        ({**SPEC, "dim": 10**9}, r"network_g does not fit this version of Reader .*more than 256 MiB"),
        ({**SPEC, "dim": 2**62}, "network_g does not fit this version of Reader"),
        ({**SPEC, "depth": 10**11}, r"network_g does not fit this version of Reader .*more than 256 MiB"),
        ({**SPEC, "rate": 7.0}, "network_g does not fit this version of Reader .*dropout probability"),
    ],
    ids=["other sizes", "huge", "overflow", "huge on the way", "wrong value"],
)
def test_weights_that_do_not_fit_are_explained(reader, tmp_path, spec, message):
    torch.save({"params": build_network(SPEC).state_dict(), "network_g": spec}, tmp_path / "a.pth")
    for load in (load_network, lambda path: Upscaler.from_checkpoint(path, device="cpu")):
        with pytest.raises(CheckpointError, match=rf"a\.pth: its {message}"):
            load(tmp_path / "a.pth")
