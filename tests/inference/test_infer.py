"""The command basicsr-infer: the weights that it means, the network of a file, and the outputs."""

import dataclasses
import functools
import json
import os
import signal
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from basicsr.archs import atd_arch, atdu_arch, build_network, published
from basicsr.archs.published import PUBLISHED, published_spec, read_network
from basicsr.compat.video import VideoReader, VideoWriter
from basicsr.engine.checkpoint import save_atomically
from basicsr.errors import CheckpointError
from basicsr.images.files import list_images, read_image, write_image
from basicsr.images.matlab_resize import imresize
from basicsr.infer import main
from basicsr.inference import upscaler
from basicsr.inference.memory import parse_bytes
from basicsr.inference.tasks import TASKS
from basicsr.inference.upscaler import Upscaler
from basicsr.metrics.psnr_ssim import calculate_psnr

ROOT = Path(__file__).parents[2]
SR = {"type": "ATD", "upscale": 2, **atd_arch.TINY}
GRAY = {"type": "ATDUNet", **atdu_arch.TINY, "in_chans": 1}


@pytest.fixture(scope="module")
def photo(photos):
    """A photograph of odd size, 37x45 pixels."""
    return np.ascontiguousarray(read_image(photos / "chelsea.png")[40:77, 30:75])


@pytest.fixture
def world(tmp_path, monkeypatch, photo):
    """A working directory with a folder `in` of one photograph."""
    monkeypatch.chdir(tmp_path)
    write_image("in/cat.png", photo)
    return tmp_path


@pytest.fixture
def run(world, capsys):
    """Runs the command on the CPU; returns the exit code and the messages."""

    def run(*arguments):
        code = main([*map(str, arguments), "--device", "cpu"])
        return code, capsys.readouterr().err

    return run


def user_error(run, *arguments):
    code, messages = run(*arguments)
    assert code == 2
    (line,) = (line for line in messages.splitlines() if "CRITICAL" in line)
    return line.split("basicsr-infer: ", 1)[1]


@functools.cache
def built(spec_json):
    torch.manual_seed(3)
    return build_network(json.loads(spec_json)).eval()


def weights(path, spec, key="params", named=True):
    """Write a weight file; returns its network, which is built once."""
    net = built(json.dumps(spec))
    save_atomically({key: net.state_dict(), **({"network_g": spec} if named else {})}, path)
    return net


def expected(net, image):
    """The output in 8 bits, worked out without the code under test."""
    tensor = torch.from_numpy(image.astype(np.float32) / np.iinfo(image.dtype).max)
    tensor = tensor[None, None] if image.ndim == 2 else tensor.permute(2, 0, 1)[None]
    with torch.no_grad():
        output = net(tensor)[0].permute(1, 2, 0).numpy()
    return np.floor(np.clip(output, 0, 1) * np.float32(255) + np.float32(0.5)).astype(np.uint8).squeeze()


def test_a_process_enlarges_a_folder_with_the_network_of_the_repository(tmp_path, photo):
    write_image(tmp_path / "in/cat.png", photo)
    write_image(tmp_path / "in/deeper/half.JPG", photo[:20])
    model = ROOT / "pretrained_models/CATANet-XS-D_x4.pth"
    command = [sys.executable, ROOT / "inference.py", "-i", "in", "-o", "out", "--model", model, "--device", "cpu"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert list_images(tmp_path / "out") == ["cat_CATANet-XS-D_SRx4.png", "deeper/half_CATANet-XS-D_SRx4.JPG"]
    sr = read_image(tmp_path / "out/cat_CATANet-XS-D_SRx4.png")
    assert sr.shape == (4 * 37, 4 * 45, 3)
    small = cv2.resize(sr, (45, 37), interpolation=cv2.INTER_AREA)
    assert np.abs(small.astype(float) - photo).mean() < 2  # the same photograph, in its colours


def test_the_network_of_a_file_runs_and_the_output_is_rounded(world, run, photo):
    net = weights("own.pth", SR, key="params_ema")
    assert run("-i", "in/cat.png", "--model", "own.pth")[0] == 0
    output = read_image("results/test/cat_ATD_SRx2.png")
    assert output.shape == (74, 90, 3)
    assert np.array_equal(output, expected(net, photo))


@pytest.mark.parametrize("value, level", [(0.5 / 255 + 1e-5, 1), (0.999, 255), (-0.2, 0), (1.3, 255)])
def test_levels_are_rounded_and_clamped(value, level):
    class Constant(torch.nn.Module):
        def forward(self, x):
            return torch.full_like(x, value)

    output = Upscaler(Constant(), {"type": "Bicubic", "upscale": 1}, device="cpu")(np.zeros((2, 3, 3), np.uint8))
    assert output.dtype == np.uint8
    assert (output == level).all()


def test_weights_are_the_average_where_there_is_one(world, run):
    state = build_network(SR).state_dict()
    other = {name: value + 1 for name, value in state.items()}
    save_atomically({"params": other, "params_ema": state, "network_g": SR}, "both.pth")
    save_atomically({"params": state, "network_g": SR}, "one.pth")
    for name in ("both.pth", "one.pth"):
        assert torch.equal(read_network(name)[0].conv_first.weight, state["conv_first.weight"])
    assert "one.pth, with param key: [params]" in run("-i", "in", "--model", "one.pth")[1]


@pytest.mark.parametrize("name", ["001_ATD_SRx2_finetune", "101_ATD_light_SRx2_scratch"])
def test_the_task_chooses_the_published_file_and_names_the_output(world, run, name):
    weights(f"experiments/pretrained_models/{name}.pth", SR)
    task = "lightweight" if "light" in name else "classical"
    assert run("-i", "in", "-o", "out", "--scale", 2, "--task", task)[0] == 0
    assert list_images("out") == [f"cat_ATD_{task}_SRx2.png"]


def test_without_options_it_is_photo_and_four(world, run, monkeypatch, photo):
    monkeypatch.setitem(TASKS, "photo", dataclasses.replace(TASKS["photo"], folder=world / "shipped"))
    nets = {scale: weights(f"shipped/CATANet-XS_x{scale}_photo.pth", {**SR, "upscale": scale}) for scale in (2, 4)}
    for scale, options in ((4, ()), (2, ("--scale", 2))):
        code, messages = run("-i", "in", "-o", "out", *options)
        assert code == 0
        (line,) = (line for line in messages.splitlines() if "photographs" in line)
        assert f"CATANet-XS_x{scale}_photo, for photographs (JPEG), enlarges {scale} times; --model and" in line
        assert np.array_equal(read_image(f"out/cat_ATD_photo_SRx{scale}.png"), expected(nets[scale], photo))
    code, messages = run("-i", "in", "-o", "asked", "--task", "photo")
    assert code == 0 and "photographs" not in messages  # nothing was chosen for the user
    assert list_images("asked") == ["cat_ATD_photo_SRx4.png"]


def test_a_shipped_network_that_is_missing_and_a_published_one(world, run, monkeypatch):
    monkeypatch.setitem(TASKS, "photo", dataclasses.replace(TASKS["photo"], folder=world / "shipped"))
    message = user_error(run, "-i", "in")
    assert "shipped/CATANet-XS_x4_photo.pth: no such file; it is part of this package, which has to be" in message
    message = user_error(run, "-i", "in", "--task", "classical")
    assert message.startswith(
        "experiments/pretrained_models/003_ATD_SRx4_finetune.pth: no such file; put the published"
    )


@pytest.mark.parametrize("scale", [2, 4])
def test_the_shipped_networks_enlarge_a_jpeg_and_beat_bicubic(world, run, photos, photo_networks, scale):
    gt = read_image(photos / "astronaut.png")[: 120 // scale * scale, : 120 // scale * scale]
    cv2.imwrite("lr.jpg", imresize(gt, 1 / scale)[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 75])
    assert run("-i", "lr.jpg", "-o", "out", "--scale", scale, "--ext", "png")[0] == 0
    sr = read_image(f"out/lr_CATANet-XS_photo_SRx{scale}.png")
    bicubic = imresize(read_image("lr.jpg"), scale)
    scores = [calculate_psnr(image, gt, crop_border=scale, test_y_channel=True) for image in (sr, bicubic)]
    assert scores[0] > scores[1]


def test_every_task_has_the_published_files():
    published = {name: task for name, task in TASKS.items() if name != "photo"}
    files = sorted(file for task in published.values() for file in task.files.values())
    assert [file[:3] for file in files] == [
        *("001", "002", "003", "101", "102", "103", "201", "202", "203"),
        *("301", "302", "303", "401", "402", "403", "404"),
    ]
    for name, task in published.items():
        for value, file in task.files.items():
            assert file.split("_")[-1].endswith(str(value)) or f"SRx{value}" in file
            assert ("light" in file) == (name == "lightweight")


@pytest.mark.parametrize("kind", ["ATD-light", "ATD-v1-light"])
def test_a_published_file_is_known_by_its_weights(world, run, kind):
    spec = {"type": kind, "upscale": 3}
    net = weights("experiments/pretrained_models/102_ATD_light_SRx3_finetune.pth", spec, named=False)
    image = np.random.default_rng(0).integers(0, 256, (8, 9, 3), np.uint8)
    write_image("tiny.png", image)
    assert run("-i", "tiny.png", "-o", "out", "--task", "lightweight", "--scale", 3)[0] == 0
    output = read_image("out/tiny_ATD_lightweight_SRx3.png").astype(int)
    assert np.abs(output - expected(net, image)).max() <= 1  # of the same network, in another order of memory
    model = "experiments/pretrained_models/102_ATD_light_SRx3_finetune.pth"
    message = user_error(run, "-i", "tiny.png", "--model", model, "--task", "classical")
    assert f"holds {kind}, which is of --task lightweight, not classical" in message


def test_every_published_network_is_told_from_the_others(monkeypatch):
    with torch.device("meta"):
        nets = {str(spec): build_network(spec) for specs in PUBLISHED.values() for spec in specs}
    monkeypatch.setattr(published, "build_network", lambda spec: nets[str(spec)])  # the real ones take their time
    assert len(nets) == 17
    for specs in PUBLISHED.values():
        for spec in specs:
            assert published_spec(nets[str(spec)].state_dict(), "x.pth") == spec


def test_unknown_weights_need_a_network_g(world, run):
    weights("bare.pth", SR, named=False)
    message = user_error(run, "-i", "in", "--model", "bare.pth")
    assert message.startswith("bare.pth: carries no network_g, and its weights are of none of the published networks")
    assert "ATD-v1-light" in message


def test_a_gray_task_reads_and_writes_gray(world, run):
    net = weights("gray.pth", GRAY)
    assert run("-i", "in", "-o", "out", "--task", "denoise-gray", "--sigma", 25, "--model", "gray.pth")[0] == 0
    output = cv2.imread("out/cat_ATD_denoise-gray_sigma25.png", cv2.IMREAD_UNCHANGED)
    assert np.array_equal(output, expected(net, cv2.imread("in/cat.png", cv2.IMREAD_GRAYSCALE)))


def test_published_denoisers_and_jpeg_networks_are_named_by_their_level(world, run):
    folder = "experiments/pretrained_models"
    weights(f"{folder}/404_ATD_U_jpegcar_gray_q40.pth", GRAY)
    weights(f"{folder}/201_ATD_U_denoising_color_sigma15.pth", {**GRAY, "in_chans": 3})
    assert run("-i", "in", "-o", "out", "--task", "jpeg", "--quality", 40)[0] == 0
    assert run("-i", "in", "-o", "out", "--task", "denoise-color", "--sigma", 15)[0] == 0
    assert list_images("out") == ["cat_ATD_denoise-color_sigma15.png", "cat_ATD_jpeg_q40.png"]
    assert cv2.imread("out/cat_ATD_jpeg_q40.png", cv2.IMREAD_UNCHANGED).ndim == 2


def test_sixteen_bits_are_read_whole(world, run, photo):
    net = weights("own.pth", SR)
    deep = photo.astype(np.uint16) * 257 + 100
    deep = np.minimum(deep, 65535).astype(np.uint16)
    write_image("deep.tif", deep)
    assert run("-i", "deep.tif", "-o", "out", "--model", "own.pth")[0] == 0
    assert np.array_equal(read_image("out/deep_ATD_SRx2.tif"), expected(net, deep))


@pytest.mark.parametrize("suffix", [".png", ".tif", ".webp"])
def test_transparency_is_kept_where_the_format_has_it(world, run, photo, suffix):
    weights("own.pth", SR)
    alpha = np.tile(np.arange(45, dtype=np.uint8) * 5, (37, 1))
    Path("glass").mkdir()
    Image.fromarray(np.dstack([photo, alpha])).save(
        f"glass/a{suffix}", **({"lossless": True, "exact": True} if suffix == ".webp" else {})
    )
    code, messages = run("-i", "glass", "-o", "out", "--model", "own.pth")
    assert code == 0 and "transparency" not in messages
    assert run("-i", "in", "-o", "out", "--model", "own.pth")[0] == 0
    with Image.open(f"out/a_ATD_SRx2{suffix}") as opened:
        assert opened.mode == "RGBA"
        output = np.array(opened)
    is_seen = output[..., 3] > 0  # colours that nobody sees are not kept by WebP
    assert np.array_equal(output[is_seen][:, :3], read_image("out/cat_ATD_SRx2.png")[is_seen])
    assert np.abs(output[..., 3].astype(int) - imresize(alpha, 2)).max() <= 1  # that of floats rounds once


def test_transparency_is_left_out_with_a_message_where_the_format_has_none(world, run, photo):
    weights("own.pth", SR)
    rgba = np.dstack([photo, np.full(photo.shape[:2], 90, np.uint8)])
    Image.fromarray(rgba).save("in/glass.png")
    code, messages = run("-i", "in", "-o", "out", "--model", "own.pth", "--ext", "bmp")
    assert code == 0
    assert messages.count("transparency") == 1
    assert "in/glass.png: its transparency is left out, for .bmp files have none" in messages
    assert np.array_equal(read_image("out/glass_ATD_SRx2.bmp"), read_image("out/cat_ATD_SRx2.bmp"))


def test_gray_with_transparency_and_a_network_of_gray(world, run, photo):
    weights("gray.pth", GRAY)
    alpha = np.full(photo.shape[:2], 200, np.uint8)
    Image.fromarray(np.dstack([photo[..., 0], alpha])).save("in/la.png")
    assert run("-i", "in/la.png", "-o", "out", "--model", "gray.pth")[0] == 0
    with Image.open("out/la_ATDUNet.png") as opened:
        assert opened.mode == "LA"
        assert (np.array(opened)[..., 1] == 200).all()


@pytest.mark.parametrize("gray", [False, True])
def test_a_damaged_image_is_named_and_the_others_are_done(world, run, gray):
    weights("own.pth", GRAY if gray else SR)
    data = Path("in/cat.png").read_bytes()
    Path("in/bad.png").write_bytes(data[: len(data) // 2])
    Path("in/text.jpg").write_text("no image")
    code, messages = run("-i", "in", "-o", "out", "--model", "own.pth")
    assert code == 1
    assert "in/bad.png: the file is cut off" in messages
    assert "2 of 3 inputs could not be processed: bad.png, text.jpg" in messages
    assert [name.split("_")[0] for name in list_images("out")] == ["cat"]


def test_outputs_are_no_inputs_and_replaced_only_when_asked(world, run, photo):
    weights("own.pth", SR)
    write_image("in/cat_ATD_SRx2.png", np.zeros_like(photo))
    write_image("in/dog.png", photo[:20])
    arguments = ("-i", "in", "-o", "in", "--model", "own.pth")
    code, messages = run(*arguments)
    assert code == 0
    assert "in/cat_ATD_SRx2.png: is left out, for it is an output of this command" in messages
    assert "in/cat_ATD_SRx2.png: stays as it is; --overwrite replaces it" in messages
    assert "1 of 2 outputs exist and stay as they are; --overwrite replaces them" in messages
    assert list_images("in") == ["cat.png", "cat_ATD_SRx2.png", "dog.png", "dog_ATD_SRx2.png"]
    assert not read_image("in/cat_ATD_SRx2.png").any()
    code, messages = run(*arguments, "--overwrite")
    assert code == 0 and "exist" not in messages
    assert read_image("in/cat_ATD_SRx2.png").shape == (74, 90, 3)
    assert len(list_images("in")) == 4


def test_an_output_never_replaces_its_input(world, run):
    weights("own.pth", SR)
    message = user_error(run, "-i", "in", "-o", "in", "--model", "own.pth", "--suffix", "", "--overwrite")
    assert message.startswith("in/cat.png: its output would replace it")
    assert run("-i", "in", "-o", "out", "--model", "own.pth", "--suffix", "")[0] == 0
    assert list_images("out") == ["cat.png"]


def test_two_inputs_of_one_output_are_an_error(world, run, photo):
    weights("own.pth", SR)
    write_image("in/cat.bmp", photo)
    message = user_error(run, "-i", "in", "-o", "out", "--model", "own.pth", "--ext", "png")
    assert message.startswith("in/cat.bmp and in/cat.png would both be written to out/cat_ATD_SRx2.png; rename one of")


def test_sixteen_bits_of_outputs(world, run, photo):
    net = weights("own.pth", SR)
    deep = np.minimum(photo.astype(np.uint16) * 257 + 100, 65535).astype(np.uint16)
    write_image("in/deep.png", deep)
    assert run("-i", "in", "-o", "out", "--model", "own.pth", "--bits", 16, "--ext", "tif")[0] == 0
    output = read_image("out/deep_ATD_SRx2.tif")
    with torch.no_grad():
        values = (
            net(torch.from_numpy(deep.astype(np.float32) / 65535).permute(2, 0, 1)[None])[0].permute(1, 2, 0).numpy()
        )
    assert output.dtype == np.uint16
    assert np.abs(output - np.clip(values, 0, 1).astype(np.float64) * 65535).max() <= 0.51
    write_image("in/small.jpg", photo)
    assert "--bits 16: .jpg files have no 16 bits (small.jpg); add --ext png" in user_error(
        run, "-i", "in", "-o", "out", "--model", "own.pth", "--bits", 16
    )


def test_images_of_equal_size_go_together(world, run, photo, monkeypatch):
    weights("own.pth", SR)
    for k in range(5):
        write_image(f"in/{k}.png", np.ascontiguousarray(photo[k : k + 30, : 40 if k < 4 else 38]))
    Image.fromarray(np.dstack([photo[:30, :40], photo[:30, :40, 0]])).save("in/alpha.png")
    Path("in/bad.png").write_bytes(Path("in/1.png").read_bytes()[:-60])
    assert run("-i", "in", "-o", "one", "--model", "own.pth")[0] == 1
    batches = []
    predict = upscaler.Upscaler.predict
    monkeypatch.setattr(upscaler.Upscaler, "predict", lambda self, lq: batches.append(len(lq)) or predict(self, lq))
    code, messages = run("-i", "in", "-o", "many", "--model", "own.pth", "--batch", 2)
    assert code == 1 and "1 of 8 inputs could not be processed: bad.png" in messages
    assert max(batches) == 2 and sum(batches) == 7
    assert list_images("many") == list_images("one") and len(list_images("one")) == 7
    for name in list_images("one"):
        one, many = (cv2.imread(f"{folder}/{name}", cv2.IMREAD_UNCHANGED).astype(int) for folder in ("one", "many"))
        assert np.abs(one - many).max() <= 1


def test_the_picture_to_compare(world, run, photo):
    weights("own.pth", SR)
    assert run("-i", "in", "-o", "out", "--model", "own.pth", "--compare", "--crop", "3,4,20,10")[0] == 0
    assert list_images("out") == ["cat_ATD_SRx2.png", "cat_ATD_SRx2_compare.png"]
    picture = read_image("out/cat_ATD_SRx2_compare.png")
    part = read_image("out/cat_ATD_SRx2.png")[8:28, 6:46]
    times = 15  # into 640 px of a column
    assert contains(picture[:, picture.shape[1] // 2 :], part.repeat(times, 0).repeat(times, 1))
    bicubic = imresize(photo, 2)[8:28, 6:46]
    assert contains(picture[:, : picture.shape[1] // 2], bicubic.repeat(times, 0).repeat(times, 1))
    code, messages = run("-i", "in", "-o", "out2", "--model", "own.pth", "--compare", "--crop", "3,4,200,10")
    assert code == 1 and "--crop 3,4,200,10: does not lie within the image of 45x37 px" in messages
    assert not Path("out2").exists() or list_images("out2") == []


def contains(image, part):
    """Whether `part` stands somewhere in `image`, pixel for pixel; matchTemplate finds the place, up to rounding."""
    x, y = cv2.minMaxLoc(cv2.matchTemplate(image, part, cv2.TM_SQDIFF))[2]
    return np.array_equal(image[y : y + part.shape[0], x : x + part.shape[1]], part)


def test_a_video_frame_by_frame(world, run, photo):
    pytest.importorskip("av")
    net = weights("own.pth", SR)
    frames = [np.ascontiguousarray(photo[:32, k : k + 40]) for k in range(5)]
    with VideoWriter("in/clip.mkv", 12.5) as writer:
        for frame in frames:
            writer.write(frame)
    code, messages = run("-i", "in", "-o", "out", "--model", "own.pth", "--batch", 2)
    assert code == 0
    assert sorted(os.listdir("out")) == ["cat_ATD_SRx2.png", "clip_ATD_SRx2.mkv"]
    assert "out/clip_ATD_SRx2.mkv, 5 frames of 80x64 px" in messages and "without sound" in messages
    with VideoReader("out/clip_ATD_SRx2.mkv") as reader:
        facts, outputs = reader.facts, list(reader)
    assert facts == (64, 80, 12.5, 5)
    for frame, output in zip(frames, outputs, strict=True):
        assert np.abs(output.astype(int) - expected(net, frame)).max() <= 1  # rounding in a batch, and FFV1 of BGR
    assert "--overwrite" in run("-i", "in/clip.mkv", "-o", "out", "--model", "own.pth")[1]
    Path("in/clip.mkv").write_bytes(Path("in/clip.mkv").read_bytes()[:200])
    code, messages = run("-i", "in/clip.mkv", "-o", "other", "--model", "own.pth", "--ext", "mp4")
    assert code == 1 and "in/clip.mkv: cannot be read as a video" in messages
    assert not Path("other").exists() or not any(Path("other").iterdir())


def test_options_of_videos_are_checked_before_work(world, run, photo):
    pytest.importorskip("av")
    weights("own.pth", SR)
    with VideoWriter("in/clip.mov", 25) as writer:
        writer.write(photo[:32, :40])
    options = "-i", "in", "-o", "out", "--model", "own.pth"
    assert user_error(run, *options, "--codec", "h265").startswith("--codec: must be one of h264, hevc")
    assert "--crf: must be in [0, 51] for h264" in user_error(run, *options, "--codec", "h264", "--crf", "77")
    assert ".mov files do not hold it" in user_error(run, *options, "--codec", "vp9")
    assert not Path("out").exists()
    code, messages = run(*options, "--codec", "vp9", "--ext", "webm", "--crf", "40", "--preset", "8")
    assert code == 0 and "VP9 (libvpx-vp9, crf 40, preset 8, yuv420p)" in messages
    assert sorted(os.listdir("out")) == ["cat_ATD_SRx2.png", "clip_ATD_SRx2.webm"]


def test_a_video_of_gray(world, run, photo):
    pytest.importorskip("av")
    weights("gray.pth", GRAY)
    with VideoWriter("clip.avi", 25) as writer:
        writer.write(np.ascontiguousarray(photo[:32, :40]))
    assert run("-i", "clip.avi", "-o", "out", "--model", "gray.pth", "--ext", "mkv")[0] == 0
    with VideoReader("out/clip_ATDUNet.mkv") as reader:
        (frame,) = reader
    assert frame.shape == (32, 40, 3) and (frame[..., 0] == frame[..., 1]).all()


SLOW = """
import sys, time
from basicsr.inference import upscaler
from basicsr.inference.memory import parse_bytes
from basicsr.infer import main

run = upscaler.Upscaler.predict
count = 0
def slow(self, lq):
    global count
    count += 1
    if count > int(sys.argv[1]):  # in the middle of an output
        print("reached", flush=True)
        time.sleep(60)
    return run(self, lq)
upscaler.Upscaler.predict = slow
sys.exit(main(sys.argv[2:]))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX signals")
@pytest.mark.parametrize(
    ("number", "kind"), [(signal.SIGINT, "png"), pytest.param(signal.SIGTERM, "mkv", marks=pytest.mark.slow)]
)
def test_a_stopped_process_leaves_nothing_half_written(world, photo, number, kind):
    weights("own.pth", SR)
    if kind == "mkv":
        pytest.importorskip("av")
        with VideoWriter("in/dog.mkv", 25) as writer:
            for k in range(4):
                writer.write(np.ascontiguousarray(photo[:32, k : k + 40]))
    else:
        write_image(f"in/dog.{kind}", photo)
    write_image("out/dog_ATD_SRx2.png", np.zeros_like(photo))  # of an earlier run
    before = Path("out/dog_ATD_SRx2.png").read_bytes()
    first = 4 if kind != "mkv" else 1  # tiles of the cat
    arguments = f"{first + 2} -i in -o out --model own.pth --device cpu --overwrite"
    arguments += "" if kind == "mkv" else " --tile 32 --overlap 4"
    command = [sys.executable, "-c", SLOW, *arguments.split()]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env) as process:
        assert process.stdout.readline() == "reached\n", process.stderr.read()
        files = os.listdir("out")
        assert ".dog_ATD_SRx2.mkv.parts" in files if kind == "mkv" else any(n.endswith(".tmp.png") for n in files)
        process.send_signal(number)
        _, messages = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert f"stopped by {number.name}; the outputs that are there are whole" in messages and "Traceback" not in messages
    assert sorted(os.listdir("out")) == ["cat_ATD_SRx2.png", "dog_ATD_SRx2.png"]
    assert read_image("out/cat_ATD_SRx2.png").shape == (74, 90, 3)
    assert Path("out/dog_ATD_SRx2.png").read_bytes() == before


LARGE = """
import sys, re
from torch import nn
from basicsr.infer import main
from basicsr.engine.checkpoint import save_atomically
from basicsr.config.registry import ARCH_REGISTRY

@ARCH_REGISTRY.register()
class Quick(nn.Sequential):
    def __init__(self, *, upscale: int = 4):
        super().__init__(nn.Conv2d(3, 3 * upscale**2, 1), nn.PixelShuffle(upscale))
        self.upscale = upscale

save_atomically({"params": Quick().state_dict(), "network_g": {"type": "Quick", "upscale": 4}}, "quick.pth")
code = main(sys.argv[1:])
print(re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())[1])
sys.exit(code)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
@pytest.mark.parametrize(
    ("width", "height", "memory", "limit"),
    [
        # The output takes 576 MB in floats, a process with PyTorch 520 MB, and buffers of fixed size 130 MB.
        (2000, 1500, "800M", "1G"),
        pytest.param(4000, 3000, "2G", "2G", marks=pytest.mark.slow),  # 2.3 GB in floats, 576 MB in 8 bits
    ],
)
def test_a_large_photograph_in_little_memory(tmp_path, photo, width, height, memory, limit):
    write_image(tmp_path / "a.jpg", cv2.resize(photo, (width, height), interpolation=cv2.INTER_CUBIC))
    arguments = f"-i a.jpg -o out --model quick.pth --ext png --memory {memory} --device cpu"
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", LARGE, *arguments.split()]
    done = subprocess.run(command, capture_output=True, text=True, env=env, timeout=500, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert f"{4 * width}x{4 * height} px" in done.stderr
    assert int(done.stdout.split()[-1]) * 2**10 < parse_bytes(limit)
    data = (tmp_path / "out/a_Quick_SRx4.png").read_bytes()  # the larger one has more pixels than Pillow opens
    assert struct.unpack(">II", data[16:24]) == (4 * width, 4 * height)
    unpack, position, size = zlib.decompressobj(), 8, 0
    while position < len(data):
        length, name = int.from_bytes(data[position : position + 4], "big"), data[position + 4 : position + 8]
        if name == b"IDAT":
            size += len(unpack.decompress(data[position + 8 : position + 8 + length]))
        position += 12 + length
    assert unpack.eof and name == b"IEND" and size == 4 * height * (1 + 3 * 4 * width)


def test_colour_of_a_gray_format(world, run, photo):
    weights("own.pth", SR)
    write_image("old/map.pgm", np.ascontiguousarray(photo[..., 0]))
    assert run("-i", "old", "-o", "out", "--model", "own.pth")[0] == 0
    assert list_images("out") == ["map_ATD_SRx2.ppm"]
    write_image("old/map.ppm", photo)
    assert "old/map.pgm and old/map.ppm would both be written to out/map_ATD_SRx2.ppm" in user_error(
        run, "-i", "old", "-o", "out", "--model", "own.pth"
    )


def test_nan_is_an_error_of_the_image(world, run):
    state = build_network(SR).state_dict()
    for value in state.values():
        if value.is_floating_point():
            value.fill_(float("nan"))
    save_atomically({"params": state, "network_g": SR}, "nan.pth")
    code, messages = run("-i", "in", "-o", "out", "--model", "nan.pth")
    assert code == 1
    assert "in/cat.png: the network gives values that are no numbers" in messages
    assert not Path("out").exists()


@pytest.mark.parametrize(
    "arguments, message",
    [
        ("--scale 3", "--scale: there is no network for 3; --task photo, the default, has 2, 4, for others name a"),
        ("--scale 8", "--scale: there is no network for 8; --task photo, the default, has 2, 4, for others name a"),
        ("--task classical --scale 8", "--scale: there is no network for 8; --task classical has 2, 3, 4, for others"),
        ("--scale 0", "--scale: must be at least 1, got 0"),
        ("--task denoise-gray", "--sigma: is missing; --task denoise-gray has 15, 25, 50, for others name a file by"),
        ("--task denoise-color --sigma 30", "--sigma: there is no network for 30; --task denoise-color has"),
        ("--task jpeg --quality 50", "--quality: there is no network for 50; --task jpeg has 10, 20, 30, 40"),
        ("--task jpeg --sigma 15", "--sigma: belongs to --task denoise-color, denoise-gray, got jpeg"),
        ("--quality 10", "--quality: belongs to --task jpeg, got photo"),
        ("--model own.pth --quality 10", "--quality: belongs to --task jpeg, got no task"),
        ("--task jpeg --quality 10 --scale 4", "--scale: --task jpeg keeps the size, got 4; leave it out"),
        ("--model own.pth --scale 4", "own.pth: its network, ATD, enlarges 2 times, which is not --scale 4"),
        ("--model own.pth --task jpeg", "own.pth: its network, ATD, enlarges 2 times, which is not --task jpeg"),
        ("--model gray.pth --scale 2", "gray.pth: its network, ATDUNet, keeps the size, which is not --scale 2"),
        ("--model gray.pth --task denoise-color", "gray.pth: its network, ATDUNet, takes images of 1 channels"),
        ("--model rgb.pth --task classical", "rgb.pth: its network, ATDUNet, keeps the size, which is not --task"),
        ("--model none.pth", "none.pth: no such file; check the path"),
        ("--model in/cat.png", "in/cat.png: is damaged or no weight file: it is a PNG image"),
        ("--model own.pth -i void", "void: no such file or folder; check the path"),
        ("--model own.pth -i empty", "empty: holds no images and no videos (images: .png .jpg"),
        ("--model own.pth -i own.pth", "own.pth: unknown suffix '.pth'; take one of these, images: .png .jpg"),
        ("--model own.pth -o own.pth", "-o own.pth: is a file; name a folder"),
        ("--model own.pth -o out.png", "-o out.png: names the folder of the outputs, not a file"),
        ("--model own.pth -o out.mp4", "-o out.mp4: names the folder of the outputs, not a file"),
        (
            "--model own.pth --dtype float16",
            "--dtype: float16 runs on CUDA alone, not on cpu; take bfloat16 or float32",
        ),
        ("--model own.pth --tile 20 --overlap 11", "--overlap: must be in [0, 10] for tiles of 20 px, got 11"),
        ("--model own.pth --overlap 33", "--overlap: must be in [0, 32] for tiles of 64 px, got 33"),
        ("--model own.pth --device gpu7", "--device: 'gpu7' cannot be used here; take auto or cpu"),
    ],
)
def test_user_errors_come_before_anything_is_written(world, capsys, arguments, message):
    weights("own.pth", SR)
    weights("gray.pth", GRAY)
    weights("rgb.pth", {**GRAY, "in_chans": 3})
    Path("empty").mkdir()
    before = sorted(world.rglob("*"))
    assert main(["-i", "in", *arguments.split()]) == 2
    assert message in capsys.readouterr().err
    assert sorted(world.rglob("*")) == before


@pytest.mark.parametrize(
    "spec, message", [("ATD", "must be a mapping"), ({"type": "ATD", "wings": 2}, "does not fit this version of ATD")]
)
def test_a_network_g_that_describes_nothing(world, spec, message):
    save_atomically({"params": {"w": torch.zeros(1)}, "network_g": spec}, "odd.pth")
    with pytest.raises(CheckpointError, match=message):
        Upscaler.from_checkpoint("odd.pth")


@pytest.mark.parametrize(
    "arguments, message",
    [
        ("--tile many", "argument --tile: must be auto, 0 or a number of px, got 'many'"),
        ("--batch 0", "argument --batch: must be at least 1, got '0'"),
        ("--memory lots", "argument --memory: expected an amount of memory such as 2G or 800M, got 'lots'"),
        ("--crop 1,2,3", "argument --crop: expected x,y,w,h in px of the input, got '1,2,3'"),
        ("--crop 1,2,3,0", "argument --crop: expected x,y,w,h with a width and height of at least 1"),
        ("--ext heic", "argument --ext: must be one of png jpg jpeg bmp"),
    ],
)
def test_wrong_values_of_options(world, capsys, arguments, message):
    with pytest.raises(SystemExit) as stop:
        main(["-i", "in", *arguments.split()])
    assert stop.value.code == 2
    assert message in capsys.readouterr().err


def test_help_names_the_published_files_and_loads_no_torch():
    code = "import sys, basicsr.infer as i\ntry: i.main(['--help'])\nexcept SystemExit: print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.splitlines()[-1] == "False"
    assert "303_ATD_U_denoising_gray_sigma50.pth" in done.stdout


def test_files_of_unknown_type_are_named_and_change_the_exit_code(world, run, photo):
    weights("own.pth", SR)
    write_image("in/.trash/dog.png", photo)
    Path("in/notes.txt").write_text("")
    assert run("-i", "in", "--model", "own.pth")[0] == 0
    assert list_images("results") == ["test/cat_ATD_SRx2.png"]
    Path("in/c.PSD").write_bytes(b"")
    Path("in/d.wmv").write_bytes(b"")
    code, messages = run("-i", "in", "--model", "own.pth", "--overwrite")
    assert code == 1
    assert "passed over: 1 .psd, 1 .wmv (unknown type), 1 hidden, 1 text and data" in messages
    assert "2 files of unknown type have no output; convert them, or move them away: c.PSD, d.wmv" in messages
