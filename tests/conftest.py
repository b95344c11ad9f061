"""Fixtures for all tests. Nothing is downloaded: what is not on this machine skips the tests that need it."""

import logging
import os
import random
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # read when torch is imported; two processes on two cores, small tensors

import numpy as np
import pytest
import torch

if not torch.cuda.is_available():  # read when kernels are first imported: Triton then runs them on the CPU, slowly
    os.environ.setdefault("TRITON_INTERPRET", "1")
# A command inside the test process must not change its malloc for the tests that come after it: with freed memory
# kept, a damaged image that claims many pixels has them all touched, and tests of memory see it.
os.environ.setdefault("BASICSR_MALLOC", "0")

from basicsr.images.files import read_image, write_image

ROOT = Path(__file__).resolve().parents[1]
# Processes that tests start import this checkout, wherever they run and whatever their environment has installed.
os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
SHIPPED = ROOT / "pretrained_models/CATANet-XS-D_x4.pth"
PHOTO_NETWORKS = {scale: ROOT / f"basicsr/inference/weights/CATANet-XS_x{scale}_photo.pth" for scale in (2, 4)}
# Windows (top, left, height, width) of photographs that scikit-image's wheel holds; odd sizes on purpose.
PHOTOS = {
    "astronaut.png": (0, 150, 144, 121),
    "chelsea.png": (60, 120, 123, 160),
    "coffee.png": (100, 200, 130, 130),
    "motorcycle_left.png": (200, 300, 125, 146),
    "rocket.jpg": (150, 220, 139, 128),
}


@pytest.fixture(autouse=True)
def seed():
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def shared():
    """Folder of real photographs, checkpoints and reference outputs, kept beside the repository."""
    folder = Path(os.environ.get("BASICSR_SHARED", ROOT.parent / "shared"))
    if not folder.is_dir():
        pytest.skip("needs ../shared")
    return folder


@pytest.fixture(scope="session")
def photos(tmp_path_factory):
    """Folder of five small real photographs, PNG, 121 to 160 pixels a side. Do not write to it."""
    source = Path(pytest.importorskip("skimage").__file__).parent / "data"
    folder = tmp_path_factory.mktemp("photos")
    for name, (top, left, height, width) in PHOTOS.items():
        image = read_image(source / name)[top : top + height, left : left + width]
        write_image(folder / Path(name).with_suffix(".png"), np.ascontiguousarray(image))
    return folder


@pytest.fixture(scope="session")
def photo_networks():
    """The weight files that the package carries, by scale."""
    missing = [path.name for path in PHOTO_NETWORKS.values() if not path.is_file()]
    if missing:
        pytest.skip(f"needs {', '.join(missing)} in basicsr/inference/weights")
    return PHOTO_NETWORKS


@pytest.fixture(scope="session")
def shipped_export(tmp_path_factory):
    """Folder with what `basicsr-export` writes of the network in the repository. Do not write to it."""
    for module in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(module)
    from basicsr.export import main

    folder = tmp_path_factory.mktemp("export")
    assert main(["-m", str(SHIPPED), "-o", str(folder)]) == 0
    return folder


# Tests that use one of these fixtures are slow, since the first of them waits for it: an export of a whole network, and
# the phone demo's site.
SLOW_FIXTURES = {"shipped_export", "model_folder", "site"}


@pytest.hookimpl(tryfirst=True)  # before `-m "not slow"` chooses
def pytest_collection_modifyitems(items):
    for item in items:
        if item.get_closest_marker("gpu") and not torch.cuda.is_available():
            item.add_marker(pytest.mark.skip(reason="needs CUDA"))
        if SLOW_FIXTURES & set(item.fixturenames):
            item.add_marker(pytest.mark.slow)


@pytest.fixture(autouse=True)
def unconfigured_logger():
    """Undo what commands do to the logger; where messages do not propagate, pytest would capture them twice."""
    _reset_logger()
    yield
    _reset_logger()


def _reset_logger():
    logger = logging.getLogger("basicsr")
    for handler in logger.handlers:
        handler.close()
    logger.handlers.clear()
    logger.propagate = True
    logger.setLevel(logging.NOTSET)
