"""Fixtures of the phone demo: its site, pictures for it, and what headless Chromium, driven by drive.mjs, saw."""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from basicsr.images.files import read_image

REPOSITORY = Path(__file__).parents[2]
CACHE = REPOSITORY / "build/web"
DRIVER_SECONDS = 600  # on a very busy machine; alone it takes about a fifth
GPU_TILE = 32  # px
CAMERA = (640, 480)


@contextmanager
def one_worker_at_a_time():
    """Keep other pytest workers from installing and fetching the same at the same time."""
    fcntl = pytest.importorskip("fcntl")
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@pytest.fixture(scope="session")
def web():
    """scripts/web.py as a module."""
    spec = importlib.util.spec_from_file_location("web", REPOSITORY / "scripts/web.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["web"] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules["web"]


@pytest.fixture(scope="session")
def programs(web):
    """Chromium, node and npm, which continuous integration installs; returns the browser's driver."""
    missing = [name for name in web.TEST_PROGRAMS if shutil.which(name) is None]
    if missing and not (os.environ.get("CI") == "true" and shutil.which("apt-get") and os.geteuid() == 0):
        pytest.skip(f"needs {', '.join(missing)}; `python scripts/web.py --test-setup` installs what is missing")
    with one_worker_at_a_time():
        return web.set_up_tests(CACHE)


@pytest.fixture(scope="session")
def model_folder(web, tmp_path_factory):
    """The exports of the shipped networks: those of `make web`, if they are there."""
    for module in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(module)
    folder = web.SITE / "models"
    missing = [model.name for model in web.SHIPPED if not model.is_file()]
    if missing:
        pytest.skip(f"needs {', '.join(missing)}")
    if not all(
        any(web.is_exported(model, place, web.DEFAULT_TILE) for place in folder.glob("*_x*")) for model in web.SHIPPED
    ):
        folder = tmp_path_factory.mktemp("models") / "models"
        web.export_networks(web.SHIPPED, folder, web.DEFAULT_TILE, folder.parent / "cache")
    return folder


@pytest.fixture(scope="session")
def site(web, programs, model_folder, tmp_path_factory):
    """The site as `make web` leaves it, in a folder of its own."""
    folder = tmp_path_factory.mktemp("web") / "site"
    shutil.copytree(web.SITE, folder, ignore=shutil.ignore_patterns("models", "precache.js", "*.wasm", "*.mjs"))
    shutil.copytree(model_folder, folder / "models")
    with one_worker_at_a_time():
        web.put_runtime(web.read_lock(folder), folder / "vendor", CACHE)
    web.write_precache(folder)
    return folder


@pytest.fixture(scope="session")
def gpu_site(web, site, tmp_path_factory):
    """The site with a network x2 for tiles of 32 px: a software adapter takes minutes for larger ones."""
    folder = tmp_path_factory.mktemp("gpu") / "site"
    shutil.copytree(site, folder, ignore=shutil.ignore_patterns("models"))
    web.export_networks(web.SHIPPED[:1], folder / "models", GPU_TILE, folder.parent / "cache")
    web.write_precache(folder)
    return folder


@pytest.fixture(scope="session")
def inputs(photographs, tmp_path_factory):
    """Pictures for the page."""
    folder = tmp_path_factory.mktemp("inputs")
    astronaut = read_image(photographs / "astronaut.png")
    photo = Image.fromarray(astronaut[40:105, 160:294])  # 134x65: two tiles
    photo.save(folder / "photo.png")
    photo.crop((30, 20, 61, 33)).save(folder / "small.png")  # 31x13, less than the network takes
    turned = Image.new("RGB", (48, 32), (20, 20, 200))
    turned.paste((220, 30, 20), (0, 0, 8, 32))  # the left edge, which orientation 6 puts at the top
    exif = Image.Exif()
    exif[0x0112] = 6
    turned.save(folder / "turned.jpg", quality=95, exif=exif)
    transparent = np.zeros((24, 24, 4), np.uint8)
    transparent[8:16, 8:16] = (200, 40, 40, 255)
    Image.fromarray(transparent, "RGBA").save(folder / "transparent.png")
    Image.fromarray(astronaut).resize((640, 480)).save(folder / "medium.jpg", quality=85)
    Image.fromarray(astronaut).resize((4032, 3024)).save(folder / "large.jpg", quality=80)
    Image.fromarray(astronaut).resize((2200, 32)).save(folder / "panorama.png")
    Image.fromarray(astronaut).resize((2000, 1500)).save(folder / "late.jpg", quality=80)
    late = (folder / "late.jpg").read_bytes()
    segments = 17 * (b"\xff\xef\xff\xff" + bytes(65533))  # 1.1 MB before the size of the picture
    (folder / "late.jpg").write_bytes(late[:2] + segments + late[2:])
    photo.resize((40, 30)).save(folder / "tiny.png")
    Image.new("RGB", (20000, 300), (90, 120, 80)).save(folder / "wide.png")
    Image.new("RGB", (9000, 9000), (90, 120, 80)).save(folder / "many.jpg")
    (folder / "broken.png").write_bytes(b"not a picture at all")
    (folder / "huge_header.png").write_bytes(
        b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + (30000).to_bytes(4, "big") + (20000).to_bytes(4, "big") + b"\x08\x02\0\0\0"
    )
    write_y4m(folder / "camera.y4m", np.asarray(Image.fromarray(astronaut[:384]).resize(CAMERA)), frames=4)
    return folder


@pytest.fixture(scope="session")
def photographs():
    """Folder of scikit-image's photographs."""
    return Path(pytest.importorskip("skimage").__file__).parent / "data"


def write_y4m(path, rgb, frames):
    """A video of one picture, 8-bit 4:2:0, BT.601 limited range, 30 frames per second."""
    r, g, b = np.moveaxis(rgb.astype(np.float64), -1, 0)
    y = 16 + 0.257 * r + 0.504 * g + 0.098 * b
    u = 128 - 0.148 * r - 0.291 * g + 0.439 * b
    v = 128 + 0.439 * r - 0.368 * g - 0.071 * b
    half = [(plane[::2, ::2] + plane[1::2, ::2] + plane[::2, 1::2] + plane[1::2, 1::2]) / 4 for plane in (u, v)]
    frame = b"FRAME\n" + b"".join(np.rint(plane).astype(np.uint8).tobytes() for plane in (y, *half))
    height, width = y.shape
    path.write_bytes(f"YUV4MPEG2 W{width} H{height} F30:1 Ip A1:1 C420jpeg\n".encode() + frames * frame)


@pytest.fixture(scope="session")
def base(programs, inputs):
    """What every configuration of drive.mjs holds."""
    return {"playwright": programs, "chromium": shutil.which("chromium"), "python": sys.executable, "inputs": inputs}


@pytest.fixture(scope="session")
def run(web, base, site, tmp_path_factory):
    """The results of the page's basic scenarios, for test_web.py."""
    changing, following = (shutil.copytree(site, site.parent / name) for name in ("changing", "following"))
    page = following / "index.html"
    page.write_text(page.read_text().replace("<h1>Enlarge</h1>", "<h1>Enlarge 2</h1>"))
    web.write_precache(following)
    not_isolating, not_installing = (shutil.copytree(site, site.parent / name) for name in ("open", "damaged"))
    worker = (site / "sw.js").read_text()
    (not_isolating / "sw.js").write_text(worker.replace("  'Cross-Origin-Embedder-Policy': 'require-corp',\n", ""))
    (not_installing / "style.css").write_text("/* not the file that is listed */")
    config = {
        **base,
        "site": site,
        "changingSite": changing,
        "nextSite": following,
        "notIsolatingSite": not_isolating,
        "notInstallingSite": not_installing,
        "scenarios": ["photo", "plain", "refusals", "live", "update", "stubborn", "policy"],
    }
    return drive(config, tmp_path_factory.mktemp("output"))


@pytest.fixture(scope="session")
def pictures_run(base, site, tmp_path_factory):
    """The results of the scenarios of finished pictures and long jobs, for test_pictures.py."""
    scenarios = ["keeping", "leaving", "forgetful", "saving", "networks", "large", "strips", "incoming"]
    return drive({**base, "site": site, "scenarios": scenarios}, tmp_path_factory.mktemp("pictures"))


@pytest.fixture(scope="session")
def gpu_run(base, gpu_site, tmp_path_factory):
    """The results of the browser with WebGPU, on Chromium's software adapter."""
    config = {**base, "gpuSite": gpu_site, "gpuMs": 1000 * DRIVER_SECONDS, "scenarios": ["gpu"]}
    return drive(config, tmp_path_factory.mktemp("gpu"))


def drive(config, output):
    """Run drive.mjs; what it saves goes to `output`, screenshots to `output`/shots."""
    shots = output / "shots"
    shots.mkdir()
    (output / "config.json").write_text(json.dumps({**config, "output": output, "shots": shots}, default=str))
    command = ["node", Path(__file__).with_name("drive.mjs"), output / "config.json"]
    process = subprocess.run(command, capture_output=True, text=True, timeout=DRIVER_SECONDS)
    assert process.returncode == 0, process.stderr[-3000:]
    return Run(json.loads((output / "results.json").read_text()), output, shots)


class Run:
    """The results of drive.mjs."""

    def __init__(self, results, output, shots):
        self.results, self.output, self.shots = results, output, shots

    def __getitem__(self, scenario):
        assert "error" not in self.results[scenario], self.results[scenario]["error"]
        return self.results[scenario]

    def picture(self, name):
        return read_image(self.output / name)
