"""What the command line takes: several inputs, patterns, pipes, addresses; and what it says about progress."""

import io
import logging
import re
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from basicsr.archs import atd_arch, build_network
from basicsr.engine.checkpoint import save_atomically
from basicsr.images.files import read_image, write_image
from basicsr.infer import main
from basicsr.inference.inputs import find_inputs
from basicsr.inference.progress import duration, shown_progress

SR = {"type": "ATD", "upscale": 2, **atd_arch.TINY}


@pytest.fixture(scope="module")
def photo(photos):
    """16x20 px, RGB."""
    return np.ascontiguousarray(read_image(photos / "chelsea.png")[40:56, 30:50])


@pytest.fixture
def world(tmp_path, monkeypatch, photo):
    """A working directory with weights and photographs."""
    monkeypatch.chdir(tmp_path)
    save_atomically({"params": build_network(SR).state_dict(), "network_g": SR}, "own.pth")
    for name in ("a.png", "b.jpg", "c.jpg", "one/a.png", "one/deeper/d.png", "two/a.png", "[x].png"):
        write_image(name, photo)
    return tmp_path


@pytest.fixture
def run(world, capsys):
    def run(*arguments):
        code = main([*map(str, arguments), "--model", "own.pth", "--device", "cpu"])
        return code, capsys.readouterr().err

    return run


def written():
    return sorted(str(path.relative_to("out")) for path in Path("out").rglob("*.*"))


class TestSeveralInputs:
    def test_files_folders_and_patterns(self, run):
        assert run("-i", "a.png", "one", "*.jpg", "[x].png", "-o", "out")[0] == 0
        assert written() == [
            *("[x]_ATD_SRx2.png", "a_ATD_SRx2.png", "b_ATD_SRx2.jpg", "c_ATD_SRx2.jpg"),
            *("one/a_ATD_SRx2.png", "one/deeper/d_ATD_SRx2.png"),
        ]

    def test_one_folder_needs_no_subfolder_and_options_repeat(self, run):
        assert run("-i", "one", "-o", "out")[0] == 0
        assert written() == ["a_ATD_SRx2.png", "deeper/d_ATD_SRx2.png"]
        assert run("-i", "a.png", "-i", "b.jpg", "-o", "out", "--overwrite")[0] == 0
        assert "b_ATD_SRx2.jpg" in written()

    def test_equal_names_never_replace_each_other(self, run):
        code, messages = run("-i", "one/a.png", "two/a.png", "-o", "out")
        assert code == 2 and not Path("out").exists()
        assert "one/a.png and two/a.png would both be written to out/a_ATD_SRx2.png; rename one of them, or" in messages
        assert run("-i", "one", "two", "-o", "out")[0] == 0  # as the message says
        assert written() == ["one/a_ATD_SRx2.png", "one/deeper/d_ATD_SRx2.png", "two/a_ATD_SRx2.png"]

    def test_a_file_that_is_named_twice_is_done_once(self, world):
        sources, _ = find_inputs(["a.png", "./a.png", "*.png", "one", "one/a.png"])
        assert [source.name for source in sources] == ["a.png", "[x].png", "one/a.png", "one/deeper/d.png"]
        assert [source.name for source in find_inputs(["**/d.png"])[0]] == ["d.png"]

    @pytest.mark.parametrize(
        ("inputs", "message"),
        [
            (["https://example.org/a.jpg"], "-i https://example.org/a.jpg: is an address, and nothing is downloaded"),
            (["https://example.org/a.jpg"], "curl -L 'https://example.org/a.jpg' | basicsr-infer -i -"),
            (["*.gif"], "-i *.gif: no file matches this pattern; check the path"),
            (["a.png", "none.png"], "none.png: no such file or folder; check the path"),
            (["a.png", "own.pth"], "own.pth: unknown suffix '.pth'; take one of these"),
        ],
    )
    def test_what_is_no_input(self, run, inputs, message):
        code, messages = run("-i", *inputs, "-o", "out")
        assert code == 2 and message in messages and not Path("out").exists()

    def test_animations_and_others_in_a_folder(self, run, photo):
        frames = [Image.fromarray(np.roll(photo, k, 1)) for k in range(3)]
        frames[0].save("one/moving.gif", save_all=True, append_images=frames[1:], duration=50, loop=0)
        code, messages = run("-i", "one", "-o", "out", "--ext", "jpg")
        assert code == 1 and "one/moving.gif: is an animation, which .jpg files cannot hold" in messages
        assert run("-i", "one", "-o", "out")[0] == 0
        with Image.open("out/moving_ATD_SRx2.gif") as image:
            assert image.n_frames == 3 and image.size == (40, 32)

    def test_heic_becomes_jpeg(self, run, photo):
        pytest.importorskip("pillow_heif", reason="needs the extra heic: pip install pillow-heif").from_pillow(
            Image.fromarray(photo)
        ).save("one/phone.HEIC")
        assert run("-i", "one/phone.HEIC", "-o", "out")[0] == 0
        assert written() == ["phone_ATD_SRx2.jpg"]

    def test_options_of_outputs(self, run, photo):
        exif = Image.Exif()
        exif[271], exif[34853] = "Maker", {1: "N", 2: (1.0, 2.0, 3.0)}
        Image.fromarray(photo).save("gps.jpg", exif=exif)
        assert run("-i", "gps.jpg", "-o", "out", "--output-quality", 60, "--color", "srgb")[0] == 0
        small = Path("out/gps_ATD_SRx2.jpg").stat().st_size
        with Image.open("out/gps_ATD_SRx2.jpg") as image:
            assert image.getexif()[271] == "Maker" and not image.getexif().get_ifd(34853)
        assert run("-i", "gps.jpg", "-o", "out", "--overwrite", "--keep-location")[0] == 0
        with Image.open("out/gps_ATD_SRx2.jpg") as image:
            assert image.getexif().get_ifd(34853)[2] == (1.0, 2.0, 3.0)
        assert Path("out/gps_ATD_SRx2.jpg").stat().st_size > 1.5 * small
        code, messages = run("-i", "gps.jpg", "-o", "out", "--output-quality", 101)
        assert code == 2 and "--output-quality: must be in [1, 100], got 101" in messages

    def test_memory_below_what_can_work_is_refused_at_once(self, run):
        code, messages = run("-i", "a.png", "-o", "out", "--memory", "20M")
        assert code == 2 and not Path("out").exists()
        assert "--memory: must be at least" in messages and "with this network, got 20M" in messages


class TestPipes:
    @pytest.mark.parametrize("suffix", ["png", "jpeg", "webp"])
    def test_from_standard_input_to_standard_output(self, world, photo, suffix):
        stored = io.BytesIO()
        Image.fromarray(photo).save(stored, suffix)
        arguments = "-i - -o - --model own.pth --device cpu"
        command = [sys.executable, "-m", "basicsr.infer", *arguments.split()]
        done = subprocess.run(command, input=stored.getvalue(), capture_output=True)
        assert done.returncode == 0, done.stderr
        with Image.open(io.BytesIO(done.stdout)) as image:
            assert image.size == (40, 32) and image.format == suffix.upper()
        assert sorted(path.name for path in world.iterdir() if path.suffix == "") == ["one", "two"]

    def test_into_a_folder_and_from_a_file(self, world, photo, monkeypatch, capsysbinary):
        stored = io.BytesIO()
        Image.fromarray(photo).save(stored, "png")
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stored.getvalue())))
        assert main(["-i", "-", "a.png", "-o", "out", "--model", "own.pth", "--device", "cpu"]) == 0
        assert written() == ["a_ATD_SRx2.png", "stdin_ATD_SRx2.png"]
        capsysbinary.readouterr()
        assert main(["-i", "b.jpg", "-o", "-", "--ext", "png", "--model", "own.pth", "--device", "cpu"]) == 0
        assert capsysbinary.readouterr().out.startswith(b"\x89PNG")

    @pytest.mark.parametrize(
        ("stdin", "arguments", "message"),
        [
            (b"", "-i -", "-i -: standard input is empty; pipe an image in: basicsr-infer -i - < a.jpg"),
            (b"%PDF-1.7", "-i -", "-i -: standard input holds no image of a known format"),
            (b"", "-i a.png b.jpg -o -", "-o -: takes one picture without --compare, got 2 inputs; name a folder"),
        ],
    )
    def test_mistakes(self, run, monkeypatch, stdin, arguments, message):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        code, messages = run(*arguments.split())
        assert code == 2 and message in messages


class TestProgress:
    def test_lines_where_there_is_no_terminal(self, caplog):
        now = [0.0]
        with (
            caplog.at_level(logging.INFO, "basicsr"),
            shown_progress("a.jpg", clock=lambda: now[0]) as update,
        ):
            for done in range(1, 301):
                now[0] += 4  # 20 minutes in all
                update(done, 300)
        lines = [record.message for record in caplog.records]
        assert lines[0] == "a.jpg: 3 of 300 tiles, about 20 min left"
        assert 8 <= len(lines) <= 11
        assert lines[5].startswith("a.jpg: 155 of 300 tiles, about 10 min left")

    def test_nothing_is_said_of_what_is_quick(self, caplog):
        with caplog.at_level(logging.INFO, "basicsr"), shown_progress("a.jpg") as update:
            for done in range(1, 50):
                update(done, 50)
        assert caplog.records == []

    def test_a_bar_on_a_terminal(self, monkeypatch, capsys):
        monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
        monkeypatch.setattr("basicsr.inference.progress.BAR_DELAY", 0)
        with shown_progress("a.jpg") as update:
            for done in range(1, 4):
                time.sleep(0.12)  # tqdm draws ten times a second
                update(done, 4)
        text = capsys.readouterr().err
        assert "a.jpg:  75%" in text and re.search(r"3/4 \[00:00<00:00", text)

    @pytest.mark.parametrize(
        ("seconds", "words"), [(4.4, "4 s"), (89, "89 s"), (90, "2 min"), (720, "12 min"), (12_000, "3 h 20 min")]
    )
    def test_times_in_words(self, seconds, words):
        assert duration(seconds) == words
