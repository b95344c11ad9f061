"""Animated GIF, WebP, PNG and AVIF files, frame by frame."""

import icc_profiles as icc
import numpy as np
import pytest
from helpers import squares
from PIL import Image

from basicsr.images.matlab_resize import imresize
from basicsr.inference.reading import is_animation

TIMES = [40, 100, 200, 70]  # ms; GIF counts in tens


def frames_of(path):
    """(pixels RGBA, ms) of the frames of a file as they are shown, and what it says about repetitions."""
    with Image.open(path) as image:
        frames = []
        for k in range(image.n_frames):
            image.seek(k)
            frames.append((np.array(image.convert("RGBA")), image.info.get("duration")))
        return frames, image.info.get("loop")


def drawn(has_alpha):
    """Four frames of 12x16 px in a few colours, so that GIF keeps them."""
    frames = []
    for k in range(4):
        frame = np.full((12, 16, 4), (200, 30, 60, 255), np.uint8)
        frame[2 + k : 6 + k, 3 * k : 3 * k + 5] = (10, 120, 250, 255)
        if has_alpha:
            frame[8:, : 4 + k, 3] = 0
        frames.append(frame if has_alpha else np.ascontiguousarray(frame[..., :3]))
    return frames


def saved(path, frames, **options):
    first, *others = (Image.fromarray(frame) for frame in frames)
    lossless = {".webp": {"lossless": True}, ".gif": {"disposal": 2}, ".avif": {"quality": 100}}.get(path.suffix, {})
    first.save(path, save_all=True, append_images=others, duration=TIMES, **lossless, **options)
    return path


@pytest.mark.parametrize("has_alpha", [False, True])
@pytest.mark.parametrize("suffix", [".gif", ".webp", ".png", ".apng", ".avif"])
def test_frames_times_and_repetitions(tmp_path, suffix, has_alpha):
    source = saved(tmp_path / f"a{suffix}", drawn(has_alpha), **({} if suffix == ".avif" else {"loop": 3}))
    assert is_animation(source)
    seen = []
    size = squares(2).upscale_file(source, tmp_path / f"b{suffix}", batch=3, progress=lambda *done: seen.append(done))
    assert size == (24, 32) and seen == [(3, 4), (4, 4)]
    (inputs, loop), (outputs, output_loop) = frames_of(source), frames_of(tmp_path / f"b{suffix}")
    assert len(outputs) == 4 and loop == output_loop
    for (before, time), (after, output_time) in zip(inputs, outputs, strict=True):
        alpha, before = imresize(before[..., 3].astype(float), 2).clip(0, 255), before.repeat(2, 0).repeat(2, 1)
        assert time == pytest.approx(output_time)
        alpha = np.where(alpha < 128, 0, 255) if suffix == ".gif" else alpha
        assert np.abs(alpha - after[..., 3]).max() <= 1 + 30 * (suffix == ".avif")
        is_seen = (before[..., 3] > 0) & (after[..., 3] > 0)
        difference = np.abs(before[is_seen].astype(int) - after[is_seen])[:, :3]
        assert difference.mean() < 3 if suffix == ".avif" else difference.max() == 0


@pytest.mark.parametrize(
    ("loop", "plays"), [(None, 1), (0, 0), (3, 4)], ids=["once", "forever", "three times after the first"]
)
def test_gif_to_webp_and_back(tmp_path, loop, plays):
    source = saved(tmp_path / "a.gif", drawn(False), **({} if loop is None else {"loop": loop}))
    squares().upscale_file(source, tmp_path / "b.webp")
    assert frames_of(tmp_path / "b.webp")[1] == plays
    squares().upscale_file(tmp_path / "b.webp", tmp_path / "c.gif")
    outputs, output_loop = frames_of(tmp_path / "c.gif")
    assert output_loop == loop and [time for _, time in outputs] == TIMES


def test_a_png_whose_first_frame_is_no_part_of_the_animation(tmp_path):
    still = np.full((12, 16, 3), 90, np.uint8)
    first, *others = (Image.fromarray(frame) for frame in [still, *drawn(False)])
    first.save(tmp_path / "a.png", save_all=True, append_images=others, duration=TIMES, loop=2, default_image=True)
    squares(2).upscale_file(tmp_path / "a.png", tmp_path / "b.png")
    with Image.open(tmp_path / "b.png") as image:
        assert image.default_image and image.n_frames == 5
        assert np.array_equal(np.array(image.convert("RGB")), still.repeat(2, 0).repeat(2, 1))
    assert frames_of(tmp_path / "a.png")[0][1][1] == frames_of(tmp_path / "b.png")[0][1][1]
    squares(2).upscale_file(tmp_path / "a.png", tmp_path / "b.webp")
    outputs, loop = frames_of(tmp_path / "b.webp")
    assert len(outputs) == 4 and loop == 2
    assert np.array_equal(outputs[0][0][..., :3], drawn(False)[0].repeat(2, 0).repeat(2, 1))


def test_colours_and_a_comparison(tmp_path):
    source = saved(tmp_path / "a.webp", drawn(False), icc_profile=icc.display_p3())
    squares(2).upscale_file(source, tmp_path / "b.webp", compare=tmp_path / "compare.png")
    with Image.open(tmp_path / "b.webp") as image:
        assert image.info["icc_profile"] == icc.display_p3()
    with Image.open(tmp_path / "compare.png") as image:
        assert image.width > 1000
    squares().upscale_file(source, tmp_path / "b.gif")  # which holds no profile
    output = frames_of(tmp_path / "b.gif")[0][1][0][..., :3]
    assert np.abs(output - 255 * icc.srgb_of(drawn(False)[1], icc.DISPLAY_P3)).max() < 2


def test_what_cannot_hold_an_animation_is_refused_by_name(tmp_path):
    source = saved(tmp_path / "a.gif", drawn(False))
    with pytest.raises(ValueError, match=r"a\.gif: is an animation, which \.jpg files cannot hold; use one of \.gif, "):
        squares().upscale_file(source, tmp_path / "b.jpg")
    with pytest.raises(ValueError, match="is an animation, which has 8 bits a channel, not 16"):
        squares().upscale_file(source, tmp_path / "b.png", bits=16)
    with pytest.raises(ValueError, match="goes alone"):
        squares().upscale_files([(source, tmp_path / "b.gif")])
    data = source.read_bytes()
    source.write_bytes(data[: len(data) // 2])
    with pytest.raises(ValueError, match=r"a\.gif: "):
        squares().upscale_file(source, tmp_path / "b.gif")
    assert [path.name for path in tmp_path.iterdir()] == ["a.gif"]


def test_a_still_gif(tmp_path):
    Image.fromarray(drawn(True)[0]).save(tmp_path / "a.gif")
    assert not is_animation(tmp_path / "a.gif")
    squares(2).upscale_file(tmp_path / "a.gif", tmp_path / "b.gif")
    ((before, _),), ((after, _),) = frames_of(tmp_path / "a.gif")[0], frames_of(tmp_path / "b.gif")[0]
    assert np.array_equal(before[..., 3].repeat(2, 0).repeat(2, 1), after[..., 3])
    is_seen = after[..., 3] > 0
    assert np.array_equal(before.repeat(2, 0).repeat(2, 1)[is_seen], after[is_seen])
