"""Wheel and source distribution: the networks for photographs travel with them and are found from any folder."""

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from basicsr.images.files import read_image

ROOT = Path(__file__).parents[1]
NEEDED = ("pyproject.toml", "setup.py", "README.md", "LICENSE", "requirements.txt", "basicsr")
BUILD = """
import sys
from setuptools import build_meta
target = sys.argv[1]  # setuptools changes the arguments
build_meta.build_sdist(target)
build_meta.build_wheel(target)
"""


@pytest.fixture(scope="module")
def distributions(tmp_path_factory, photo_networks):
    """The source distribution, and the wheel that is built of what it contains."""
    pytest.importorskip("setuptools", "68")
    folder = tmp_path_factory.mktemp("dist")
    checkout = folder / "checkout"
    for name in NEEDED:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        checkout.mkdir(exist_ok=True)
        copy(ROOT / name, checkout / name)
    sdist, _ = build(checkout, folder / "of_checkout")
    with tarfile.open(sdist) as tar:
        tar.extractall(folder / "unpacked", **({"filter": "data"} if hasattr(tarfile, "data_filter") else {}))
    (source,) = (folder / "unpacked").iterdir()
    return sdist, build(source, folder / "of_sdist")[1]


def build(source, target):
    """Build both distributions of `source`, which gets files of the build; return their paths."""
    target.mkdir()
    command = [sys.executable, "-c", BUILD, target]
    process = subprocess.run(command, cwd=source, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr[-2000:]
    (sdist,), (wheel,) = target.glob("*.tar.gz"), target.glob("*.whl")
    return sdist, wheel


@pytest.mark.slow
def test_the_wheel_of_the_source_distribution_enlarges_a_photograph(distributions, photo_networks, photos, tmp_path):
    sdist, wheel = distributions
    with tarfile.open(sdist) as tar:
        assert {path.name for path in photo_networks.values()} <= {Path(name).name for name in tar.getnames()}
    site = tmp_path / "site-packages"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    for path in photo_networks.values():
        assert (site / path.relative_to(ROOT)).read_bytes() == path.read_bytes()

    work = tmp_path / "work"
    work.mkdir()
    shutil.copy(photos / "coffee.png", work)
    height, width, _ = read_image(photos / "coffee.png").shape
    for scale in (2, 4):
        command = [sys.executable, "-m", "basicsr.infer", "-i", "coffee.png", "--scale", str(scale), "--device", "cpu"]
        env = {**os.environ, "PYTHONPATH": str(site)}
        process = subprocess.run(command, cwd=work, env=env, capture_output=True, text=True)
        assert process.returncode == 0, process.stderr
        assert str(site / "basicsr/inference/weights") in process.stderr  # not those of this checkout
        sr = read_image(work / f"results/test/coffee_CATANet-XS_photo_SRx{scale}.png")
        assert sr.shape == (scale * height, scale * width, 3)
