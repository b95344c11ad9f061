"""Inference: which weights a command line means, which network a file holds, and what becomes of the images."""

import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from basicsr import restorer
from basicsr.archs import atd_arch, atdu_arch, build_network
from basicsr.infer import TASKS, main
from basicsr.restorer import PUBLISHED, Restorer, load_restorer, published_spec
from basicsr.utils.checkpoint import save_atomically
from basicsr.utils.errors import CheckpointError
from basicsr.utils.img_util import list_images, read_image, write_image

ROOT = Path(__file__).parents[1]
CPU = torch.device("cpu")
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


def refusal(run, *arguments):
    code, messages = run(*arguments)
    assert code == 2
    (line,) = (line for line in messages.splitlines() if "CRITICAL" in line)
    return line.split("basicsr-infer: ", 1)[1]


def weights(path, spec, key="params", named=True):
    torch.manual_seed(3)
    net = build_network(spec).eval()
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
    model = ROOT / "pretrained_models/CATANet-XS_x4.pth"
    done = subprocess.run(
        [sys.executable, ROOT / "inference.py", "-i", tmp_path / "in", "-o", tmp_path / "out", "--model", model,
         "--device", "cpu"],
        capture_output=True, text=True, cwd=tmp_path, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert list_images(tmp_path / "out") == ["cat_CATANet-XS-D_SRx4.png", "deeper/half_CATANet-XS-D_SRx4.JPG"]
    sr = read_image(tmp_path / "out/cat_CATANet-XS-D_SRx4.png")
    assert sr.shape == (4 * 37, 4 * 45, 3)
    small = cv2.resize(sr, (45, 37), interpolation=cv2.INTER_AREA)
    assert np.abs(small.astype(float) - photo).mean() < 2  # it is that photograph, in its colours


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

    output = Restorer(Constant(), {"type": "Bicubic"}, CPU).restore(np.zeros((2, 3, 3), np.uint8))
    assert output.dtype == np.uint8
    assert (output == level).all()


def test_weights_are_the_average_where_there_is_one(world, run):
    state = build_network(SR).state_dict()
    other = {name: value + 1 for name, value in state.items()}
    save_atomically({"params": other, "params_ema": state, "network_g": SR}, "both.pth")
    save_atomically({"params": state, "network_g": SR}, "one.pth")
    for name in ("both.pth", "one.pth"):
        assert torch.equal(load_restorer(name, CPU)._run.conv_first.weight, state["conv_first.weight"])
    assert "one.pth, with param key: [params]" in run("-i", "in", "--model", "one.pth")[1]


@pytest.mark.parametrize("name", ["001_ATD_SRx2_finetune", "101_ATD_light_SRx2_scratch"])
def test_the_task_chooses_the_published_file_and_names_the_output(world, run, name):
    weights(f"experiments/pretrained_models/{name}.pth", SR)
    task = "lightweight" if "light" in name else "classical"
    assert run("-i", "in", "-o", "out", "--scale", 2, "--task", task)[0] == 0
    assert list_images("out") == [f"cat_ATD_{task}_SRx2.png"]


def test_without_options_it_is_classical_and_four(run):
    assert "experiments/pretrained_models/003_ATD_SRx4_finetune.pth: no such file" in refusal(run, "-i", "in")


def test_every_task_has_the_published_files():
    files = sorted(file for task in TASKS.values() for file in task.files.values())
    assert [file[:3] for file in files] == [
        *("001", "002", "003", "101", "102", "103", "201", "202", "203"),
        *("301", "302", "303", "401", "402", "403", "404"),
    ]
    for name, task in TASKS.items():
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
    message = refusal(run, "-i", "tiny.png", "--model", "experiments/pretrained_models/102_ATD_light_SRx3_finetune.pth",
                      "--task", "classical")  # fmt: skip
    assert f"holds {kind}, which is of --task lightweight, not classical" in message


def test_every_published_network_is_told_from_the_others(monkeypatch):
    with torch.device("meta"):
        nets = {str(spec): build_network(spec) for specs in PUBLISHED.values() for spec in specs}
    monkeypatch.setattr(restorer, "build_network", lambda spec: nets[str(spec)])  # the real ones take their time
    assert len(nets) == 17
    for specs in PUBLISHED.values():
        for spec in specs:
            assert published_spec(nets[str(spec)].state_dict(), "x.pth") == spec


def test_unknown_weights_need_a_network_g(world, run):
    weights("bare.pth", SR, named=False)
    message = refusal(run, "-i", "in", "--model", "bare.pth")
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


def test_transparency_is_left_out_with_a_message(world, run, photo):
    weights("own.pth", SR)
    rgba = np.dstack([photo[..., ::-1], np.full(photo.shape[:2], 90, np.uint8)])
    assert cv2.imwrite("in/glass.png", rgba)
    code, messages = run("-i", "in", "-o", "out", "--model", "own.pth")
    assert code == 0
    assert messages.count("transparency") == 1
    assert "in/glass.png: its transparency is left out" in messages
    assert np.array_equal(read_image("out/glass_ATD_SRx2.png"), read_image("out/cat_ATD_SRx2.png"))


@pytest.mark.parametrize("gray", [False, True])
def test_a_damaged_image_is_named_and_the_others_are_done(world, run, gray):
    weights("own.pth", GRAY if gray else SR)
    data = Path("in/cat.png").read_bytes()
    Path("in/bad.png").write_bytes(data[: len(data) // 2])
    Path("in/text.jpg").write_text("no image")
    code, messages = run("-i", "in", "-o", "out", "--model", "own.pth")
    assert code == 1
    assert "in/bad.png: the file is cut off" in messages
    assert "2 of 3 images could not be processed: bad.png, text.jpg" in messages
    assert [name.split("_")[0] for name in list_images("out")] == ["cat"]


def test_outputs_are_replaced_and_never_inputs(world, run, photo):
    weights("own.pth", SR)
    write_image("in/cat_ATD_SRx2.png", np.zeros_like(photo))
    code, messages = run("-i", "in", "-o", "in", "--model", "own.pth")
    assert code == 0
    assert "in/cat_ATD_SRx2.png: is left out, for it is an output of this command" in messages
    assert list_images("in") == ["cat.png", "cat_ATD_SRx2.png"]
    assert read_image("in/cat_ATD_SRx2.png").shape == (74, 90, 3)


def test_colour_of_a_gray_format(world, run, photo):
    weights("own.pth", SR)
    write_image("old/map.pgm", np.ascontiguousarray(photo[..., 0]))
    assert run("-i", "old", "-o", "out", "--model", "own.pth")[0] == 0
    assert list_images("out") == ["map_ATD_SRx2.ppm"]
    write_image("old/map.ppm", photo)
    assert "differ in .pgm and .ppm alone" in refusal(run, "-i", "old", "--model", "own.pth")


def test_values_that_are_no_numbers_are_an_error_of_the_image(world, run):
    state = {name: torch.full_like(value, float("nan")) if value.is_floating_point() else value
             for name, value in build_network(SR).state_dict().items()}  # fmt: skip
    save_atomically({"params": state, "network_g": SR}, "nan.pth")
    code, messages = run("-i", "in", "-o", "out", "--model", "nan.pth")
    assert code == 1
    assert "in/cat.png: the network gives values that are no numbers" in messages
    assert not Path("out").exists()


@pytest.mark.parametrize(
    "arguments, message",
    [
        ("--scale 8", "--scale: there is no published network for 8; --task classical has 2, 3, 4, for others"),
        ("--scale 0", "--scale: must be at least 1, got 0"),
        ("--task denoise-gray", "--sigma: is missing; --task denoise-gray has 15, 25, 50, for others name a file by"),
        ("--task denoise-color --sigma 30", "--sigma: there is no published network for 30; --task denoise-color has"),
        ("--task jpeg --quality 50", "--quality: there is no published network for 50; --task jpeg has 10, 20, 30, 40"),
        ("--task jpeg --sigma 15", "--sigma: belongs to --task denoise-color, denoise-gray, got jpeg"),
        ("--quality 10", "--quality: belongs to --task jpeg, got classical"),
        ("--model own.pth --quality 10", "--quality: belongs to --task jpeg, got no task"),
        ("--task jpeg --quality 10 --scale 4", "--scale: --task jpeg keeps the size, got 4; leave it out"),
        ("--model own.pth --scale 4", "own.pth: its network, ATD, enlarges 2 times, which is not --scale 4"),
        ("--model own.pth --task jpeg", "own.pth: its network, ATD, enlarges 2 times, which is not --task jpeg"),
        ("--model gray.pth --scale 2", "gray.pth: its network, ATDUNet, keeps the size, which is not --scale 2"),
        ("--model gray.pth --task denoise-color", "gray.pth: its network, ATDUNet, takes images of 1 channels"),
        ("--model rgb.pth --task classical", "rgb.pth: its network, ATDUNet, keeps the size, which is not --task"),
        ("--model none.pth", "none.pth: no such file; check the path"),
        ("--model in/cat.png", "in/cat.png: is damaged"),
        ("--model own.pth -i void", "void: no such file or folder; check the path"),
        ("--model own.pth -i empty", "empty: holds no images (.png .jpg"),
        ("--model own.pth -i own.pth", "own.pth: unknown image suffix '.pth'; use one of .png .jpg"),
        ("--model own.pth -o own.pth", "-o own.pth: is a file; name a folder"),
        ("--model own.pth -o out.png", "-o out.png: names the folder of the outputs, not a file"),
        ("--model own.pth --device gpu7", "--device: 'gpu7' cannot be used here; take auto or cpu"),
    ],
)
def test_what_cannot_be_done_is_said_before_anything_is_written(world, capsys, arguments, message):
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
        load_restorer("odd.pth", CPU)


def test_help_names_the_published_files_and_loads_no_torch():
    code = "import sys, basicsr.infer as i\ntry: i.main(['--help'])\nexcept SystemExit: print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.splitlines()[-1] == "False"
    assert "303_ATD_U_denoising_gray_sigma50.pth" in done.stdout
