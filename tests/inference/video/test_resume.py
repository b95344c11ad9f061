"""Videos that were not finished: what is left of them, and that a resumed run gives what an uninterrupted one gives."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from videos import frames, luma, make_video, moving, packets, times

from basicsr.archs import atd_arch, build_network
from basicsr.engine.checkpoint import save_atomically
from basicsr.inference.upscaler import Upscaler

av = pytest.importorskip("av")
ROOT = Path(__file__).parents[3]
SPEC = {"type": "ATD", "upscale": 2, **atd_arch.TINY}
FRAMES = 30
SEGMENT = 8
PARTS = Path("out/.clip_SRx2.mp4.parts")
# The command with short segments, which says `reached` and waits once the network has done a number of batches.
COMMAND = f"""
import sys, time
from basicsr.inference import upscaler
from basicsr.inference.video import segments
from basicsr.infer import main

segments.SEGMENT_FRAMES = {SEGMENT}
run, count, limit = upscaler.Upscaler.predict, 0, int(sys.argv[1])
def counting(self, lq):
    global count
    count += 1
    if count == limit:
        time.sleep(1)  # for the encoder
        print("reached", flush=True)
        time.sleep(60)
    return run(self, lq)
upscaler.Upscaler.predict = counting
sys.exit(main(sys.argv[2:]))
"""
ARGUMENTS = ["-i", "clip.mp4", "-o", "out", "--model", "own.pth", "--device", "cpu"]
ARGUMENTS += ["--suffix", "_SRx2", "--batch", "3", "--tile", "0"]


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    torch.manual_seed(3)
    path = tmp_path_factory.mktemp("weights") / "own.pth"
    save_atomically({"params": build_network(SPEC).state_dict(), "network_g": SPEC}, path)
    return path


@pytest.fixture
def world(tmp_path, monkeypatch, weights):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("basicsr.inference.video.segments.SEGMENT_FRAMES", SEGMENT)
    Path("own.pth").write_bytes(weights.read_bytes())
    make_video("clip.mp4", [moving(k) for k in range(FRAMES)], sound=True)
    return tmp_path


def start(limit, *more):
    command = [sys.executable, "-c", COMMAND, str(limit), *ARGUMENTS, *more]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}  # threads round differently; one, as here
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env)


def finish(*more):
    with start(0, *more) as process:
        _, messages = process.communicate(timeout=120)
    return process.returncode, messages


def uninterrupted(target="whole.mp4"):
    upscaler = Upscaler.from_checkpoint("own.pth", device="cpu", tile=0)
    upscaler.upscale_video("clip.mp4", target, batch=3)
    return target


def same(one, other, *, exact=False):
    """Two films have the same pictures at the same times.

    x264 on several threads writes different films of the same pictures now and then (one of twelve, at 54 dB; never on
    one thread), so only some codecs are compared byte by byte. Pictures that follow one another differ by 27 dB.
    """
    first = times(other)[0]  # the delay of the sound, where it is copied into Matroska
    assert times(one) == times(other) == pytest.approx([first + k / 25 for k in range(FRAMES)], abs=2e-3)
    if exact:
        assert packets(one, "video") == packets(other, "video")
    for k, (picture, expected) in enumerate(zip(frames(one), frames(other), strict=True)):
        assert picture.key_frame == expected.key_frame, k
        error = np.square(luma(picture).astype(float) - luma(expected)).mean()
        assert error < 255**2 / 10**4.5, (k, error)  # 45 dB


class CrashError(RuntimeError):
    pass


def failing_after(calls, run):
    """`run`, which fails once it was called so often and the encoder had time for what came of it."""
    count = 0

    def failing(lq):
        nonlocal count
        count += 1
        if count > calls:
            deadline = time.monotonic() + 30
            while not list(Path().glob(".*.parts/[0-9]*.segment")) and time.monotonic() < deadline:
                time.sleep(0.05)
            raise CrashError
        return run(lq)

    return failing


@pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX signals")
def test_a_killed_process_is_resumed_and_gives_the_same_film(world):
    with start(8) as process:  # batches of 3, 3, 2: the seventh starts the third segment
        assert process.stdout.readline() == "reached\n", process.stderr.read()
        process.kill()
    assert sorted(path.name for path in Path("out").iterdir() if path.suffix != ".lock") == [PARTS.name]
    assert len(list(PARTS.glob("[0-9]*.segment"))) == 2

    upscaler = Upscaler.from_checkpoint("own.pth", device="cpu", tile=0)
    for settings, message in [
        ({}, r"16 of its frames were done by a run that did not end .*--resume to go on with them, or --overwrite"),
        ({"resume": True, "crf": 30}, r"made with other settings: crf \(18, now 30\)"),
    ]:
        with pytest.raises(ValueError, match=message):
            upscaler.upscale_video("clip.mp4", "out/clip_SRx2.mp4", batch=3, **settings)

    code, messages = finish("--resume")
    assert code == 0, messages
    assert "goes on behind 16 frames that are done" in messages
    assert os.listdir("out") == ["clip_SRx2.mp4"]
    same("out/clip_SRx2.mp4", uninterrupted())
    assert packets("out/clip_SRx2.mp4", "audio") == packets("whole.mp4", "audio")


@pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX signals")
@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
@pytest.mark.parametrize("resume", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_stopped_process_leaves_no_film_and_its_parts_only_for_resume(world, number, resume):
    with start(8, *(["--resume"] if resume else [])) as process:
        assert process.stdout.readline() == "reached\n", process.stderr.read()
        process.send_signal(number)
        _, messages = process.communicate(timeout=60)
    assert process.returncode == 128 + number and "Traceback" not in messages
    assert (os.listdir("out") if Path("out").exists() else []) == ([PARTS.name] if resume else [])
    if resume:
        assert "16 frames are kept in" in messages and "--resume goes on with them" in messages
        if number == signal.SIGINT:
            assert finish("--resume")[0] == 0
            same("out/clip_SRx2.mp4", uninterrupted())


def test_an_error_keeps_finished_segments(world, caplog):
    upscaler = Upscaler.from_checkpoint("own.pth", device="cpu", tile=0)
    upscaler._run_or_tile = failing_after(9, upscaler._run_or_tile)
    with pytest.raises(CrashError):
        upscaler.upscale_video("clip.mp4", "a.mp4", batch=3)
    kept = len(list(Path(".a.mp4.parts").glob("[0-9]*.segment")))
    assert not Path("a.mp4").exists() and kept >= 1 and f"{8 * kept} frames are kept" in caplog.text
    fresh = Upscaler.from_checkpoint("own.pth", device="cpu", tile=0)
    with pytest.raises(ValueError, match=r"made with other settings: batch \(3, now 1\)"):
        fresh.upscale_video("clip.mp4", "a.mp4", resume=True)
    frames_done = []
    plain = fresh._run_or_tile
    fresh._run_or_tile = lambda lq: (frames_done.append(len(lq)), plain(lq))[1]
    assert fresh.upscale_video("clip.mp4", "a.mp4", batch=3, resume=True) == (30, 64, 96)
    assert sum(frames_done) == FRAMES - 8 * kept
    same("a.mp4", uninterrupted())
    assert not Path(".a.mp4.parts").exists()


@pytest.mark.parametrize(
    ("name", "codec"), [("a.mkv", "ffv1"), ("a.mp4", "hevc"), ("a.webm", "av1"), ("a.webm", "vp9"), ("a.mov", "prores")]
)
def test_every_codec_is_resumed_and_gives_the_same_film(world, name, codec):
    upscaler = Upscaler.from_checkpoint("own.pth", device="cpu", tile=0)
    upscaler.upscale_video("clip.mp4", f"whole_{name}", batch=4, codec=codec)
    plain = upscaler._run_or_tile
    upscaler._run_or_tile = failing_after(5, plain)
    with pytest.raises(CrashError):
        upscaler.upscale_video("clip.mp4", name, batch=4, codec=codec)
    upscaler._run_or_tile = plain
    upscaler.upscale_video("clip.mp4", name, batch=4, codec=codec, resume=True)
    same(name, f"whole_{name}", exact=codec in ("ffv1", "prores"))


def test_other_weights_do_not_mix(world):
    torch.manual_seed(4)
    save_atomically({"params": build_network(SPEC).state_dict(), "network_g": SPEC}, "other.pth")
    upscaler = Upscaler.from_checkpoint("own.pth", device="cpu", tile=0)
    upscaler._run_or_tile = failing_after(25, upscaler._run_or_tile)
    with pytest.raises(CrashError):
        upscaler.upscale_video("clip.mp4", "a.mp4")
    for name in ("other.pth", "own.pth"):
        other = Upscaler.from_checkpoint(name, device="cpu", tile=0, overlap=8 if name == "own.pth" else 16)
        key = "weights" if name == "other.pth" else "network"
        with pytest.raises(ValueError, match=f"made with other settings: {key} "):
            other.upscale_video("clip.mp4", "a.mp4", resume=True)
    other.upscale_video("clip.mp4", "a.mp4", overwrite=True)
    assert len(frames("a.mp4")) == FRAMES and not Path(".a.mp4.parts").exists()


def test_an_existing_film_is_replaced_only_by_a_whole_one(world):
    Path("a.mp4").write_bytes(b"before")
    upscaler = Upscaler.from_checkpoint("own.pth", device="cpu", tile=0)
    plain = upscaler._run_or_tile
    upscaler._run_or_tile = lambda lq: plain(lq) * np.nan
    with pytest.raises(ValueError, match=r"clip\.mp4: the network gives values that are no numbers"):
        upscaler.upscale_video("clip.mp4", "a.mp4")
    assert Path("a.mp4").read_bytes() == b"before"
    assert sorted(os.listdir()) == ["a.mp4", "clip.mp4", "own.pth"]
    upscaler._run_or_tile = plain
    upscaler.upscale_video("clip.mp4", "a.mp4")
    assert len(frames("a.mp4")) == FRAMES
