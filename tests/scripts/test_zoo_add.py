from pathlib import Path

import pytest
import torch

from basicsr.archs import build_network
from basicsr.archs.published import load_network
from basicsr.engine.checkpoint import load_file, save_atomically
from tests.helpers import TINY_CATANET, run_python

SCRIPT = Path(__file__).parents[2] / "scripts/zoo_add.py"


@pytest.fixture
def run(tmp_path):
    """The folder of a finished run in two stretches; its moving average is twice its weights."""
    params = build_network(TINY_CATANET).state_dict()
    ema = {name: value * 2 if value.is_floating_point() else value for name, value in params.items()}
    folder = tmp_path / "experiments/CATANet-XS_x2"
    content = {"params": params, "params_ema": ema, "network_g": TINY_CATANET}
    (folder / "models").mkdir(parents=True)
    save_atomically(content, folder / "models/net_g_latest.pth")
    (folder / "CATANet-XS_x2.yml").write_text("name: CATANet-XS_x2\n")
    (folder / "train_CATANet-XS_x2_20260102_000000.log").write_text("second\n")
    (folder / "train_CATANet-XS_x2_20260101_000000.log").write_text("first\n")
    (tmp_path / "pretrained_models").mkdir()
    return folder


def test_a_run_enters_the_zoo(run, tmp_path):
    process = run_python(SCRIPT, run, "--root", tmp_path)
    assert process.returncode == 0, process.stderr
    zoo = tmp_path / "pretrained_models"
    average, written = (load_file(path) for path in (run / "models/net_g_latest.pth", zoo / "CATANet-XS_x2.pth"))
    assert set(written) == {"params", "network_g"} and written["network_g"] == TINY_CATANET
    assert all(torch.equal(value, average["params_ema"][name]) for name, value in written["params"].items())
    assert load_network(zoo / "CATANet-XS_x2.pth").upscale == 2
    assert (zoo / "CATANet-XS_x2.yml").read_text() == "name: CATANet-XS_x2\n"
    assert (zoo / "CATANet-XS_x2.log").read_text() == "first\nsecond\n"


def test_networks_for_photographs_lie_in_the_package(run, tmp_path):
    (tmp_path / "basicsr/inference").mkdir(parents=True)
    folder = run.rename(run.with_name("CATANet-XS_x2_photo"))
    (folder / "CATANet-XS_x2.yml").rename(folder / "CATANet-XS_x2_photo.yml")
    process = run_python(SCRIPT, folder, "--root", tmp_path)
    assert process.returncode == 0, process.stderr
    assert load_network(tmp_path / "basicsr/inference/weights/CATANet-XS_x2_photo.pth").upscale == 2


@pytest.mark.parametrize("name", ["other", "CATANet-XS_x3"])
def test_what_is_refused(run, tmp_path, name):
    folder = run.with_name(name)
    if name == "other":
        run.rename(folder)
    process = run_python(SCRIPT, folder, "--root", tmp_path)
    assert process.returncode == 2 and process.stderr.count("\n") == 1
    assert ("is no name of the zoo" if name == "other" else "net_g_latest.pth") in process.stderr
