"""Video files: frames are written and read back; damaged files are named in errors."""

import numpy as np
import pytest

from basicsr.compat.video import VideoReader, VideoWriter, list_videos
from basicsr.images.files import read_image
from basicsr.inference.video.formats import VIDEO_SUFFIXES

pytest.importorskip("av")


@pytest.fixture(scope="module")
def frames(photos):
    """Ten frames of a photograph that moves, 64x80 px."""
    image = read_image(photos / "coffee.png")
    return [np.ascontiguousarray(image[2 * k : 2 * k + 64, k : k + 80]) for k in range(10)]


def psnr(a, b):
    return 10 * np.log10(255**2 / max(1e-9, ((a.astype(float) - b) ** 2).mean()))


@pytest.mark.parametrize("suffix", sorted(VIDEO_SUFFIXES))
def test_frames_their_order_and_rate_are_kept(tmp_path, frames, suffix):
    path = tmp_path / f"deep/a{suffix}"
    with VideoWriter(path, 24000 / 1001) as writer:
        for frame in frames:
            writer.write(frame)
        assert not path.exists()
    with VideoReader(path) as reader:
        facts, read = reader.facts, list(reader)
    assert facts[:2] == (64, 80) and abs(facts.fps - 24000 / 1001) < 0.01 and facts.frames == len(read) == 10
    for k, frame in enumerate(read):
        assert int(np.argmax([psnr(frame, other) for other in frames])) == k
        assert psnr(frame, frames[k]) > (130 if suffix == ".mkv" else 27)
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_an_odd_side_is_kept_by_ffv1_and_repeats_its_last_pixels_in_h264(tmp_path, frames):
    for name, margin in (("a.mkv", 0), ("a.mp4", 1)):
        with VideoWriter(tmp_path / name, 25) as writer:
            writer.write(frames[0][:63, :79])
        (frame,) = VideoReader(tmp_path / name)
        expected = np.pad(frames[0][:63, :79], ((0, margin), (0, margin), (0, 0)), mode="edge")
        assert frame.shape == expected.shape
        assert psnr(frame, expected) > (130 if not margin else 27)


def test_videos_are_listed_by_suffix(tmp_path):
    for name in ("b.MP4", "deep/a.mkv", ".hidden.mp4", "c.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert list_videos(tmp_path) == ["b.MP4", "deep/a.mkv"]


def test_nothing_is_left_of_a_video_that_is_not_finished(tmp_path, frames):
    (tmp_path / "a.mp4").write_bytes(b"before")
    with pytest.raises(KeyboardInterrupt), VideoWriter(tmp_path / "a.mp4", 25) as writer:
        writer.write(frames[0])
        raise KeyboardInterrupt
    assert [p.name for p in tmp_path.iterdir()] == ["a.mp4"]
    assert (tmp_path / "a.mp4").read_bytes() == b"before"


@pytest.mark.parametrize("content", [b"", b"hello" * 100, b"\0\0\0\x18ftypmp42" + bytes(500)])
def test_damaged_files_are_named(tmp_path, content):
    path = tmp_path / "a.mp4"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"a\.mp4: cannot be read as a video"):
        VideoReader(path)
    with pytest.raises(FileNotFoundError, match=r"none\.mp4: no such file"):
        VideoReader(tmp_path / "none.mp4")


def test_errors_of_writing(tmp_path, frames):
    with (
        pytest.raises(ValueError, match=r"unknown video suffix '\.gif'; use one of \.mp4"),
        VideoWriter(tmp_path / "a.gif", 25),
    ):
        pass
    with pytest.raises(ValueError, match="a frame of"), VideoWriter(tmp_path / "a.mp4", 25) as writer:
        writer.write(frames[0])
        writer.write(frames[0][:32])
    with pytest.raises(ValueError, match="no frame was written"), VideoWriter(tmp_path / "a.mp4", 25):
        pass
    with (
        pytest.raises(ValueError, match=r"16386x2 px; H\.264 has sides of 2 to 16384 px"),
        VideoWriter(tmp_path / "a.mp4", 25) as writer,
    ):
        writer.write(np.zeros((2, 16386, 3), np.uint8))
    assert list(tmp_path.iterdir()) == []
