"""The phone demo in headless Chromium: finished pictures, long jobs, files, networks, the GPU."""

import re

import numpy as np
import pytest
import torch
from PIL import Image
from web_reference import check_screenshot, check_seen, desktop, difference

from basicsr.images.files import read_image

pytestmark = pytest.mark.skipif(torch.__version__ < (2, 10), reason="exports need a newer PyTorch")

GPU_TILE = 32  # px, of the networks of `gpu_site`


@pytest.mark.parametrize("scenario", ["keeping", "saving"])
def test_nothing_leaves_the_device_and_the_console_is_clean(pictures_run, scenario):
    check_seen(pictures_run[scenario]["seen"])


def test_screenshots(pictures_run):
    names = ("phone_busy", "phone_kept", "phone_discard", "desktop_row", "desktop_large", "desktop_busy")
    for name in names:
        check_screenshot(pictures_run.shots / f"{name}.png")


def pixels_of(text):
    width, height = (int(number) for number in re.match(r"(\d+) × (\d+)", text).groups())
    return width * height


def test_a_large_photograph_is_enlarged_whole(pictures_run):
    large = pictures_run["large"]
    assert large["title"] == "This takes a while" and re.search(r"All of it takes about \d", large["question"])
    assert [what for what, _ in large["offers"]][:2] == ["All of it, 4 × larger", "All of it, 2 × larger"]
    assert all(pixels_of(size) >= 4032 * 3024 and "about" in size for _, size in large["offers"])
    assert large["frameMoved"] < 0
    assert large["declined"] == "Nothing was enlarged."
    assert large["facts"]["Picture"] == "4032 × 3024 → 8064 × 6048"
    assert re.fullmatch(r"\d+ of 972 tiles, about .* left", large["firstSecond"]["text"])
    assert large["firstSecond"]["value"] > 0  # within the first tile
    assert large["shown"]["width"] * large["shown"]["height"] <= 2**24


def test_a_row_whose_sizes_no_header_tells_is_asked_about(pictures_run):
    row = pictures_run["large"]["row"]
    assert row["title"] == "2 photographs"
    assert re.fullmatch(r"All of them, \d times enlarged, take about \d.* on this device\.", row["text"])


def test_strips(pictures_run, inputs, model_folder):
    strips = pictures_run["strips"]
    assert strips["shown"] == strips["again"] == {"width": 8192, "height": 119}  # no canvas is as wide as the picture
    whole = pictures_run.picture("panorama_x4.png")
    assert whole.shape == (128, 8800, 3)
    assert difference(whole, desktop(model_folder, read_image(inputs / "panorama.png"))) <= 2
    detail = pictures_run.picture("detail.png")  # of what is in view, pixel for pixel
    height, width = detail.shape[:2]
    x, y = strips["detail"]["x"], strips["detail"]["y"]
    assert width > 100 and difference(detail, whole[y : y + height, x : x + width]) <= 1
    jpeg = pictures_run.picture("panorama_x4.jpg")
    assert jpeg.shape == whole.shape and np.abs(jpeg.astype(int) - whole).mean() < 2


def test_finished_pictures_are_kept(pictures_run):
    keeping = pictures_run["keeping"]
    one = [{"name": "small.png, 124 × 52, not saved yet", "shown": True}]
    assert keeping["first"] == keeping["duringJob"] == one
    for moment in ("cancelled", "afterLive", "afterReload"):
        assert keeping[moment]["shelf"] == one, moment
        assert keeping[moment]["figures"]["Picture"] == "31 × 13 → 124 × 52", moment
        assert "Live" not in keeping[moment]["figures"], moment
    assert keeping["afterReload"]["text"] == "Kept on this device until saved or discarded."
    assert keeping["saved"] == {"shelf": [{**one[0], "name": "small.png, 124 × 52, saved"}], "button": "Save again"}
    assert [picture["shown"] for picture in keeping["two"]] == [False, True]
    assert [picture["shown"] for picture in keeping["back"]] == [True, False]
    assert "not saved" in keeping["question"] and keeping["notDiscarded"] == 2
    assert [picture["name"] for picture in keeping["savedIsGone"]] == ["small.png, 62 × 26, not saved yet"]
    assert keeping["discarded"] == {"shelf": [], "status": "Ready."}
    assert keeping["afterAll"] == "empty"


def test_progress_and_cancel(pictures_run):
    keeping = pictures_run["keeping"]
    assert re.match(r"\d+ of 30 tiles, about .* left", keeping["progress"])
    assert keeping["busy"] == "Enlarging “medium.jpg”…"
    assert keeping["waiting"] == "Enlarging “medium.jpg”… 1 more photograph waits."
    assert keeping["cancelled"]["status"] == "Cancelled, with 1 photograph that waited."
    assert keeping["cancelMs"] < 5000
    assert keeping["afterLive"]["status"] == ""


def test_leaving_asks_during_a_job(pictures_run):
    leaving = pictures_run["leaving"]
    assert (leaving["askedIdle"], leaving["askedBusy"], leaving["state"]) == (0, 1, "busy")
    assert leaving["locks"] == [1, 1, 2]  # of one job, of another after a reload, of the same after it was hidden


def test_storage_that_keeps_nothing(pictures_run):
    forgetful = pictures_run["forgetful"]
    assert forgetful["text"] == "Not kept on this device: save before you leave."
    assert forgetful["asked"] == 1
    assert forgetful["saved"].startswith("Saved")


def test_several_photographs_in_a_row(pictures_run):
    row = pictures_run["saving"]["row"]
    assert [picture["name"].split(",")[0] for picture in row["shelf"]] == ["transparent.png", "turned.jpg", "small.png"]
    assert "“broken.png” is not an image" in row["alert"]  # and the others were done
    assert row["status"].startswith("3 photographs done")
    assert pictures_run["saving"]["all"] == ["transparent_x2.png", "turned_x2.png", "small_x2.png"]


def test_transparency_is_kept(pictures_run, inputs):
    from basicsr.images.matlab_resize import imresize

    with Image.open(pictures_run.output / "transparent_x2.png") as image:
        assert image.mode == "RGBA" and image.size == (48, 48)
        made = np.asarray(image)
    alpha = np.asarray(Image.open(inputs / "transparent.png"))[..., 3].astype(np.float32) / 255
    expected = np.clip(imresize(alpha, 2), 0, 1) * 255
    assert np.abs(made[..., 3] - expected).max() <= 1  # as basicsr-infer enlarges it
    assert np.abs(made[18:30, 18:30, :3].astype(int) - (200, 40, 40)).max() < 12
    edge = made[made[..., 3] > 40]
    assert edge[:, 0].min() > 150  # no dark seam
    with Image.open(pictures_run.output / "transparent_x2.jpg") as image:
        assert image.mode == "RGB"
        assert np.asarray(image)[:4].min() > 250  # on white
    assert pictures_run["saving"]["white"] is True and pictures_run["saving"]["white2"] is False


def test_jpeg_by_quality(pictures_run):
    exact = pictures_run.picture("small_x2.png").astype(int)
    errors = [np.abs(pictures_run.picture(f"small_q{quality}.jpg") - exact).mean() for quality in (95, 60)]
    assert errors[0] < 2 < errors[1] + 1 and errors[0] < errors[1]
    sizes = [(pictures_run.output / f"small_q{quality}.jpg").stat().st_size for quality in (95, 60)]
    assert sizes[1] < sizes[0]
    assert pictures_run["saving"]["remembered"] == {
        **{"network": "CATANet-XS_photo", "scale": 2},
        **{"format": "png", "quality": 60},
    }


def test_network_choice(pictures_run, inputs, model_folder):
    networks = pictures_run["networks"]
    assert networks["choices"] == ["Photographs", "Clean pictures"]
    expected = desktop(model_folder, read_image(inputs / "small.png"), network="CATANet-XS")
    assert difference(pictures_run.picture("clean.png"), expected) <= 2
    assert [picture["shown"] for picture in networks["shelf"]] == [True, False]  # and it was not made a third time


def test_shared_and_opened_files(pictures_run):
    incoming = pictures_run["incoming"]
    names = [picture["name"].split(",")[0] for picture in incoming["shared"]]
    assert names == ["opened.png", "geteilt ü.png", "second.png"]
    assert incoming["url"] == "" and incoming["left"] == 0
    assert incoming["posts"] == [False]  # the service worker sent none on to the server


def test_webgpu(gpu_run, gpu_site, inputs):
    gpu = gpu_run["gpu"]
    assert gpu["backend"] == "webgpu" and gpu["facts"]["Runs on"] == "WebGPU, float32"
    assert gpu["facts"]["Picture"] == "40 × 30 → 80 × 60"
    expected = desktop(gpu_site / "models", read_image(inputs / "tiny.png"), scale=2, tile=GPU_TILE)
    assert difference(gpu_run.picture("gpu.png"), expected) <= 2
    assert [message for message in gpu["messages"] if message.startswith("thrown")] == []
