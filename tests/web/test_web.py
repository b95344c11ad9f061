"""The phone demo in headless Chromium: drive.mjs acts, this file prepares its inputs and checks its results."""

import importlib.util
import json
import math
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from basicsr.images.files import read_image

pytestmark = pytest.mark.skipif(torch.__version__ < (2, 10), reason="exports need a newer PyTorch")

REPOSITORY = Path(__file__).parents[2]
UNIT_TESTS = sorted((Path(__file__).parent / "unit").glob("*.mjs"))
CACHE = REPOSITORY / "build/web"
DRIVER_SECONDS = 400  # on a very busy machine; alone it takes about a fifth
CAMERA = (640, 480)
LEVEL = 1 / 255


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
    return web.set_up_tests(CACHE)


@pytest.fixture(scope="session")
def model_folder(web, photo_networks, tmp_path_factory):
    """The exports of the shipped networks, x2 and x4: those of `make web`, if they are there."""
    for module in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(module)
    folder = web.SITE / "models"
    places = {folder / f"x{scale}": model for scale, model in photo_networks.items()}
    if not all(web.is_exported(model, place, web.DEFAULT_TILE) for place, model in places.items()):
        folder = tmp_path_factory.mktemp("models") / "models"
        web.export_networks(web.SHIPPED, folder, web.DEFAULT_TILE, folder.parent / "cache")
    return folder


@pytest.fixture(scope="session")
def site(web, programs, model_folder, tmp_path_factory):
    """The site as `make web` leaves it, in a folder of its own."""
    folder = tmp_path_factory.mktemp("web") / "site"
    shutil.copytree(web.SITE, folder, ignore=shutil.ignore_patterns("models", "precache.js", "*.wasm", "*.mjs"))
    shutil.copytree(model_folder, folder / "models")
    web.put_runtime(web.read_lock(folder), folder / "vendor", CACHE)
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
    Image.fromarray(astronaut).resize((4032, 3024)).save(folder / "large.jpg", quality=80)
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
def run(web, programs, site, inputs, tmp_path_factory):
    """The results of the browser: scenario -> facts; `run.output` holds the pictures that it saved."""
    output = tmp_path_factory.mktemp("output")
    shots = output / "shots"
    shots.mkdir()
    changing, following = (shutil.copytree(site, site.parent / name) for name in ("changing", "following"))
    page = following / "index.html"
    page.write_text(page.read_text().replace("<h1>Enlarge</h1>", "<h1>Enlarge 2</h1>"))
    web.write_precache(following)
    not_isolating, not_installing = (shutil.copytree(site, site.parent / name) for name in ("open", "damaged"))
    worker = (site / "sw.js").read_text()
    (not_isolating / "sw.js").write_text(worker.replace("  'Cross-Origin-Embedder-Policy': 'require-corp',\n", ""))
    (not_installing / "style.css").write_text("/* not the file that is listed */")
    config = {
        "playwright": programs,
        "chromium": shutil.which("chromium"),
        "python": sys.executable,
        "site": site,
        "changingSite": changing,
        "nextSite": following,
        "notIsolatingSite": not_isolating,
        "notInstallingSite": not_installing,
        "inputs": inputs,
        "output": output,
        "shots": shots,
        "scenarios": ["photo", "plain", "refusals", "live", "update", "stubborn", "policy"],
    }
    (output / "config.json").write_text(json.dumps(config, default=str))
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


def desktop(model_folder, image, *, scale=4, whole=False):
    """The page's computation with ONNX Runtime and numpy: (H, W, 3) uint8 to (s*H, s*W, 3) uint8."""
    ort = pytest.importorskip("onnxruntime")
    model_folder = model_folder / f"x{scale}"
    manifest = json.loads((model_folder / "manifest.json").read_text())
    file = next(file for file in manifest["files"] if "wasm" in file["for"])
    options = ort.SessionOptions()
    options.intra_op_num_threads = 2
    session = ort.InferenceSession(model_folder / file["file"], options, providers=["CPUExecutionProvider"])
    s, multiple = manifest["scale"], manifest["multiple"]
    overlap = min(manifest["overlap"], file["tile"] // 4)
    height, width = image.shape[:2]
    sides = [
        math.ceil(min(side if whole else file["tile"], max(side, manifest["min_side"])) / multiple) * multiple
        for side in (height, width)
    ]
    padding = [(0, max(0, tile - side)) for tile, side in zip(sides, (height, width), strict=True)]
    lq = np.pad(image, [*padding, (0, 0)], mode="reflect").astype(np.float32).transpose(2, 0, 1) / np.float32(255)
    total = np.zeros((3, s * lq.shape[1], s * lq.shape[2]))
    weight = np.zeros(total.shape[1:])
    rows, columns = (axis(side, tile, overlap) for side, tile in zip(lq.shape[1:], sides, strict=True))
    for y in rows:
        for x in columns:
            tile = lq[None, :, y : y + sides[0], x : x + sides[1]]
            (sr,) = session.run([file["output"]], {file["input"]: np.ascontiguousarray(tile)})
            window = (slice(s * y, s * (y + sides[0])), slice(s * x, s * (x + sides[1])))
            ramp = np.outer(
                *(ramps(at, starts, size, s) for at, starts, size in ((y, rows, sides[0]), (x, columns, sides[1])))
            )
            total[:, window[0], window[1]] += ramp * sr[0]
            weight[window] += ramp
    sr = (total / weight)[:, : s * height, : s * width].transpose(1, 2, 0)
    return np.floor(np.clip(sr, 0, 1) * 255 + 0.5).astype(np.uint8)


def axis(side, tile, overlap):
    """Starts of tiles along a side."""
    if side <= tile:
        return [0]
    count = math.ceil((side - overlap) / (tile - overlap))
    return [i * (side - tile) // (count - 1) for i in range(count)]


def ramps(at, starts, tile, scale):
    """Weights of one tile along an axis, before they are normalised."""
    k = np.arange(tile * scale) + 0.5
    i = starts.index(at)
    weights = np.ones(tile * scale)
    if i > 0:
        weights = np.minimum(weights, k / (scale * (starts[i - 1] + tile - at)))
    if i + 1 < len(starts):
        weights = np.minimum(weights, k[::-1] / (scale * (at + tile - starts[i + 1])))
    return weights


def difference(a, b):
    assert a.shape == b.shape
    return int(np.abs(a.astype(int) - b.astype(int)).max())


@pytest.mark.parametrize("path", UNIT_TESTS, ids=lambda path: path.name)
def test_pure_functions(path):
    if shutil.which("node") is None:
        pytest.skip("needs node")
    process = subprocess.run(["node", "--test", path], capture_output=True, text=True, timeout=120)
    assert process.returncode == 0, process.stdout[-3000:]
    assert int(re.search(r"^# pass (\d+)", process.stdout, re.MULTILINE)[1]) > 3


def test_first_visit(run):
    photo = run["photo"]
    assert photo["isolated"] is True  # after one reload, by the service worker's headers
    assert photo["loads"] == 2
    assert photo["threads"] == min(os.cpu_count(), 4) or os.cpu_count() > 4
    assert photo["backend"] == "wasm"
    assert photo["layout"]["content"] <= photo["layout"]["window"] == 360


def test_photo_equals_the_desktop(run, inputs, model_folder):
    photo = run["photo"]
    expected = desktop(model_folder, read_image(inputs / "photo.png"))
    assert difference(run.picture("photo.png"), expected) <= 2
    assert photo["fileName"] == "photo_x4.png"
    assert re.fullmatch(r"Done in [\d.]+ s\.", photo["status"])
    assert photo["facts"]["Picture"] == "134 × 65 → 536 × 260"
    assert re.match(r"CPU, WASM SIMD, \d+ thread", photo["facts"]["Runs on"])
    assert re.match(r"[\d.]+ ms \(\d+ × \d+\)", photo["facts"]["Per tile"])
    assert photo["facts"]["Network"] == json.loads((model_folder / "x4/manifest.json").read_text())["name"]


def test_the_other_enlargement(run, inputs, model_folder):
    twice = run["photo"]["twice"]
    assert twice["choices"] == [{"name": "2 × larger", "checked": False}, {"name": "4 × larger", "checked": True}]
    assert twice["fileName"] == "photo_x2.png"  # the picture in view was enlarged again
    assert twice["tagline"] == "Photographs 2 × larger, on this device"
    assert twice["facts"]["Picture"] == "134 × 65 → 268 × 130"
    assert (
        difference(run.picture("photo_x2.png"), desktop(model_folder, read_image(inputs / "photo.png"), scale=2)) <= 2
    )


def test_the_network_improves_the_picture(photographs, model_folder):
    """The pipeline is not just consistent: it must beat nearest neighbours at putting a shrunk photograph back."""
    sharp = read_image(photographs / "chelsea.png")[60:252, 100:356]
    small = np.asarray(Image.fromarray(sharp).resize((64, 48), Image.Resampling.BICUBIC))
    error = [
        np.mean((picture.astype(float) - sharp) ** 2)
        for picture in (desktop(model_folder, small), small.repeat(4, 0).repeat(4, 1))
    ]
    assert error[0] < 0.8 * error[1]


def test_slider(run):
    photo = run["photo"]
    middle, end, start = photo["clips"]
    assert start == 0 and 536 * 0.99 <= end <= 536 and abs(middle - 268) < 3
    assert photo["keyStep"] == "0.5"
    assert abs(photo["dragged"] - 25) < 2
    assert photo["hidden"] == {"before": 134, "after": 536}


def test_zoom_and_pan(run):
    zooms = run["photo"]["zooms"]
    assert zooms["fitAgain"] == zooms["fit"]
    assert zooms["button"] == pytest.approx(1.5 * zooms["fit"], rel=0.01)
    assert zooms["key"] == pytest.approx(1.5 * zooms["fit"], rel=0.01)
    assert zooms["wheel"] > 1.3 * zooms["fit"]
    assert zooms["pinch"] == pytest.approx(2.5 * zooms["fit"], rel=0.1)
    assert run["photo"]["panned"] < 0


def test_offline(run):
    offline = run["photo"]["offline"]
    assert offline["server"] == "gone"
    assert offline["isolated"] is True and offline["threads"] == run["photo"]["threads"]
    assert offline["status"].startswith("Done")
    assert offline["scale"] == "2"  # as it was chosen before
    assert difference(run.picture("offline_x2.png"), run.picture("photo_x2.png")) <= 1
    assert difference(run.picture("offline.png"), run.picture("photo.png")) <= 1


def test_no_endless_reloads(run):
    for case, loads in (("notIsolating", 2), ("notInstalling", 1)):
        seen = run["stubborn"][case]
        assert (seen["loads"], seen["isolated"], seen["threads"]) == (loads, False, 1), case
        assert seen["ms"] < 15_000, case


def test_without_service_worker(run, inputs, model_folder):
    plain = run["plain"]
    assert plain["isolated"] is False and plain["threads"] == 1 and plain["loads"] == 1
    assert difference(run.picture("small.png"), desktop(model_folder, read_image(inputs / "small.png"))) <= 2


def test_orientation_and_transparency(run):
    plain = run["plain"]
    assert (plain["turned"]["width"], plain["turned"]["height"]) == (32, 48)
    red, green, blue, _ = plain["turned"]["colour"]
    assert red > 150 and max(green, blue) < 90
    assert plain["transparent"]["colour"] == [255, 255, 255, 255]


def test_rejected_files(run):
    refusals = run["refusals"]
    assert "“notes.pdf” is not an image" in refusals["notImage"]["message"]
    assert "“broken.png” is not an image" in refusals["damaged"]["message"]
    assert "600 megapixels" in refusals["huge"]["message"]
    assert {refusals[case]["state"] for case in ("notImage", "damaged", "huge")} == {"empty"}


def test_large_photograph_raises_a_question(run):
    refusals = run["refusals"]
    assert "4032 × 3024" in refusals["question"] and "195 megapixels" in refusals["question"]
    assert len(refusals["options"]) == 3 and all("about" in option for option in refusals["options"])
    assert refusals["frameMoved"] < 0
    assert refusals["declined"] == "Nothing was enlarged."
    assert refusals["cropped"] == {"width": 295, "height": 221}


def test_cancel(run):
    refusals = run["refusals"]
    assert re.match(r"\d+ of \d+ tiles, .* left", refusals["progress"])
    assert refusals["cancelled"] == "Cancelled."
    assert refusals["cancelMs"] < 5000
    assert difference(run.picture("after_cancel.png"), run.picture("small.png")) <= 1


def test_dark(run):
    levels = [int(number) for number in re.findall(r"\d+", run["refusals"]["background"])[:3]]
    assert max(levels) < 40


def test_live(run, inputs, model_folder):
    live = run["live"]
    width, height = live["size"]["width"], live["size"]["height"]
    assert min(width, height) >= 24 and abs(width / height - 4 / 3) < 0.15
    assert re.fullmatch(r"[\d.]+ frames per second", live["facts"]["Live"])
    assert float(live["facts"]["Live"].split()[0]) > 0
    assert re.fullmatch(r"\d+ × \d+ → \d+ × \d+", live["facts"]["Live input"])
    before, after = run.picture("live_before.png"), run.picture("live_after.png")
    assert difference(after, desktop(model_folder, before, whole=True)) <= 2
    camera = np.frombuffer((inputs / "camera.y4m").read_bytes(), np.uint8, -1, 0)
    luma = camera[camera.tobytes().index(b"FRAME\n") + 6 :][: CAMERA[0] * CAMERA[1]]
    mean = (luma.astype(float).mean() - 16) * 255 / 219
    assert abs((before @ [0.299, 0.587, 0.114]).mean() - mean) < 4
    assert live["snap"] == {"width": CAMERA[0], "height": CAMERA[1]}
    assert live["noCamera"] == "There is no camera on this device." and live["stateAfter"] == "empty"


def test_update(run):
    update = run["update"]
    assert (update["before"], update["after"]) == ("Enlarge", "Enlarge 2")
    assert update["isolated"] is True


@pytest.mark.parametrize("scenario", ["photo", "plain", "refusals", "live", "update"])
def test_nothing_leaves_the_device_and_the_console_is_clean(run, scenario):
    seen = run[scenario]["seen"]
    assert seen["messages"] == []
    assert len(seen["requests"]) > 10
    for request in seen["requests"]:
        assert request["url"].startswith((seen["origin"] + "/", "blob:", "data:")), request
        assert request["method"] == "GET" and not request["body"], request
    assert any(request["serviceWorker"] for request in seen["requests"]) == (scenario not in ("plain", "refusals"))


def test_policy(run):
    headers = run["policy"]["headers"]
    assert headers["cross-origin-opener-policy"] == "same-origin"
    assert headers["cross-origin-embedder-policy"] == "require-corp"
    assert "connect-src 'self'" in headers["content-security-policy"]
    assert run["policy"]["elsewhere"] == "connect-src"


def test_controls_have_names_and_room_for_fingers(run):
    controls = run["policy"]["controls"]
    assert {"split", "zoom-in", "save", "live", "sample"} <= {control["id"] for control in controls}
    for control in controls:
        assert control["name"], control
        assert control["height"] >= 44 and control["width"] >= 44, control


def test_screenshots(run):
    names = ("phone_start", "phone_photo", "phone_busy", "phone_large", "phone_live", "desktop_start", "desktop_photo")
    for name in names:
        shot = read_image(run.shots / f"{name}.png")
        assert shot.shape[1] == (720 if name.startswith("phone") else 1280)
        assert len(np.unique(shot.reshape(-1, 3)[::97], axis=0)) > 15  # something is drawn


def test_installable(web):
    manifest = json.loads((web.SITE / "manifest.webmanifest").read_text())
    assert {"name", "short_name", "start_url", "display"} <= set(manifest)
    sizes = {(icon["sizes"], icon.get("purpose")) for icon in manifest["icons"]}
    assert sizes == {("192x192", None), ("512x512", None), ("512x512", "maskable")}
    for icon in manifest["icons"]:
        with Image.open(web.SITE / icon["src"]) as image:
            assert f"{image.width}x{image.height}" == icon["sizes"]


def test_precache_lists_all_that_the_page_needs(site):
    text = (site / "precache.js").read_text()
    files = json.loads(text[text.index("{") : text.rindex("}") + 1])["files"]
    served = {path.relative_to(site).as_posix() for path in site.rglob("*") if path.is_file()}
    not_needed = {"precache.js", "sw.js", "package.json", "npm.lock.json", "vendor/LICENSE"}
    assert served - not_needed == set(files)
    assert {file["group"] for file in files.values()} == {"page", "wasm", "webgpu"}
    networks = {name: file["group"] for name, file in files.items() if name.endswith(".onnx")}
    assert sorted((name.split("/")[1], group) for name, group in networks.items()) == [
        *(("x2", "wasm"), ("x2", "webgpu"), ("x4", "wasm"), ("x4", "webgpu")),
    ]
    assert sum((site / name).stat().st_size for name, group in networks.items() if group == "wasm") < 2.5e6


class TestScript:
    def test_npm_missing(self, web, tmp_path, monkeypatch):
        monkeypatch.setattr(web.shutil, "which", lambda name: None)
        with pytest.raises(web.WebError, match="apt-get install nodejs npm"):
            web.put_runtime(web.read_lock(web.SITE), tmp_path / "vendor", tmp_path / "cache")

    def test_files_that_differ_from_the_lock_are_an_error(self, web, tmp_path):
        package = tmp_path / "onnxruntime-web-1.30.0/dist"
        package.mkdir(parents=True)
        for name in web.read_lock(web.SITE)["onnxruntime-web"]["files"]:
            (package / name).write_text("changed")
        with pytest.raises(web.WebError, match="SHA-256 is"):
            web.put_runtime(web.read_lock(web.SITE), tmp_path / "vendor", tmp_path)
        assert not list((tmp_path / "vendor").glob("*.wasm"))

    def test_model_missing(self, web, tmp_path, capsys):
        site = tmp_path / "site"
        shutil.copytree(web.SITE, site, ignore=shutil.ignore_patterns("models", "vendor"))
        assert web.main(["--site", str(site), "--model", str(tmp_path / "none.pth")]) == 2
        assert (
            capsys.readouterr().err == f"web: {tmp_path}/none.pth: no such file; give the weights with --model FILE\n"
        )

    def test_incomplete_site_is_not_listed(self, web, tmp_path):
        site = tmp_path / "site"
        shutil.copytree(web.SITE, site, ignore=shutil.ignore_patterns("models", "vendor"))
        (site / "models/x3").mkdir(parents=True)
        (site / "models/scales.json").write_text("[3]")
        (site / "models/x3/manifest.json").write_text(json.dumps({"files": [{"file": "x.onnx", "for": ["wasm"]}]}))
        with pytest.raises(web.WebError, match=r"lacks .*ort\.wasm\.min\.mjs.*models/x3/x\.onnx"):
            web.write_precache(site)

    def test_exports_once(self, web, model_folder, tmp_path, capsys):
        folder = tmp_path / "models"
        shutil.copytree(model_folder, folder)
        for manifest in folder.glob("x*/manifest.json"):
            os.utime(manifest)
        (folder / "x3").mkdir()  # of an earlier run with other weights
        web.export_networks(web.SHIPPED, folder, web.DEFAULT_TILE, tmp_path)
        assert capsys.readouterr().out.count("exported already") == 2
        assert sorted(path.name for path in folder.iterdir()) == ["scales.json", "x2", "x4"]
        assert json.loads((folder / "scales.json").read_text()) == [2, 4]

    def test_two_networks_of_one_scale_are_an_error(self, web, model_folder, tmp_path):
        folder = tmp_path / "models"
        shutil.copytree(model_folder, folder)
        for manifest in folder.glob("x*/manifest.json"):
            os.utime(manifest)
        twin = tmp_path / "twin.pth"
        shutil.copy(web.SHIPPED[0], twin)
        with pytest.raises(web.WebError, match=r"twin\.pth and .*CATANet-XS_x2_photo\.pth both enlarge 2 times"):
            web.export_networks([web.SHIPPED[0], twin], folder, web.DEFAULT_TILE, tmp_path)

    def test_a_changed_model_file_is_exported_again(self, web, model_folder, photo_networks, tmp_path):
        folder, model = tmp_path / "x2", photo_networks[2]
        shutil.copytree(model_folder / "x2", folder)
        os.utime(folder / "manifest.json")
        assert web.is_exported(model, folder, web.DEFAULT_TILE)
        assert not web.is_exported(photo_networks[4], folder, web.DEFAULT_TILE)
        assert not web.is_exported(model, folder, web.DEFAULT_TILE + 8)
        os.utime(folder / "manifest.json", (0, 0))  # older than the exporter
        assert not web.is_exported(model, folder, web.DEFAULT_TILE)
        os.utime(folder / "manifest.json")
        assert web.is_exported(model, folder, web.DEFAULT_TILE)
        manifest = json.loads((folder / "manifest.json").read_text())
        (folder / manifest["files"][0]["file"]).write_bytes(b"")
        assert not web.is_exported(model, folder, web.DEFAULT_TILE)
