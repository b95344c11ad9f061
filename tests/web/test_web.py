"""The phone demo in headless Chromium: the page itself, offline, the camera, refusals."""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from web_reference import check_screenshot, check_seen, desktop, difference

from basicsr.images.files import read_image

pytestmark = pytest.mark.skipif(torch.__version__ < (2, 10), reason="exports need a newer PyTorch")

CAMERA = (640, 480)
UNIT_TESTS = sorted((Path(__file__).parent / "unit").glob("*.mjs"))


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
    assert photo["layout"]["content"] <= photo["layout"]["window"] == 390


def test_photo_equals_the_desktop(run, inputs, model_folder):
    photo = run["photo"]
    expected = desktop(model_folder, read_image(inputs / "photo.png"))
    assert difference(run.picture("photo.png"), expected) <= 2
    assert photo["fileName"] == "photo_x4.png"
    assert photo["status"] == "Saved."
    assert photo["facts"]["Picture"] == "134 × 65 → 536 × 260"
    assert re.match(r"CPU, WASM SIMD, \d+ thread", photo["facts"]["Runs on"])
    assert re.match(r"[\d.]+ ms \(\d+ × \d+\)", photo["facts"]["Per tile"])
    assert (
        photo["facts"]["Network"]
        == json.loads((model_folder / "CATANet-XS_photo_x4/manifest.json").read_text())["name"]
    )


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
    assert offline["status"] == "Saved."
    assert offline["scale"] == "2"  # as it was chosen before
    assert difference(run.picture("offline_x2.png"), run.picture("photo_x2.png")) <= 1
    assert difference(run.picture("offline.png"), run.picture("photo.png")) <= 1


def test_no_endless_reloads(run):
    for case, loads in (("notIsolating", 2), ("notInstalling", 1)):
        seen = run["stubborn"][case]
        assert (seen["loads"], seen["isolated"], seen["threads"]) == (loads, False, 1), case
        assert seen["ms"] < 30_000, case  # a few seconds alone


def test_without_service_worker(run, inputs, model_folder):
    plain = run["plain"]
    assert plain["isolated"] is False and plain["threads"] == 1 and plain["loads"] == 1
    assert difference(run.picture("small.png"), desktop(model_folder, read_image(inputs / "small.png"))) <= 2


def test_orientation_and_transparency(run):
    plain = run["plain"]
    assert (plain["turned"]["width"], plain["turned"]["height"]) == (32, 48)
    red, green, blue, _ = plain["turned"]["colour"]
    assert red > 150 and max(green, blue) < 90
    assert plain["transparent"]["colour"] == [0, 0, 0, 0]  # not on white


def test_rejected_files(run):
    refusals = run["refusals"]
    assert "“notes.pdf” is not an image" in refusals["notImage"]["message"]
    assert "“broken.png” is not an image" in refusals["damaged"]["message"]
    assert "600 megapixels" in refusals["huge"]["message"]
    assert {refusals[case]["state"] for case in ("notImage", "damaged", "huge")} == {"empty"}


def test_messages_name_the_limit_that_is_met(run):
    refusals = run["refusals"]
    wide, many = refusals["limits"]["wide.png"], refusals["limits"]["many.jpg"]
    assert "its longer side would have 80000 pixels" in wide["text"] and "megapixels" not in wide["text"]
    assert "1296 megapixels" in many["text"] and "makes up to 268" in many["text"]
    assert next(what for what, _ in wide["options"]) == "All of it, 2 × larger"
    assert [what for what, _ in many["options"]] == ["A part, a quarter of each side"]
    assert refusals["declined"] == "Nothing was enlarged."
    assert refusals["afterwards"]["alert"] == "" and refusals["afterwards"]["status"].startswith("Done")


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
    check_seen(run[scenario]["seen"], by_service_worker=scenario not in ("plain", "refusals"))


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
    names = ("phone_start", "phone_photo", "phone_limit_wide", "phone_live", "desktop_start", "desktop_photo")
    for name in names:
        check_screenshot(run.shots / f"{name}.png")
