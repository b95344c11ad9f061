"""Videos from end to end: what a file holds comes out enlarged, with all else as it was, or is refused by name."""

import io
import logging
import sys
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
import videos
from PIL import Image
from torch import nn
from torch.nn import functional as F
from videos import flat, frames, luma, make_video, moving, packets, rgb, times

from basicsr.errors import OptionError
from basicsr.inference.upscaler import Upscaler
from basicsr.inference.video.formats import CODECS, check_codec_options, codec_for

av = pytest.importorskip("av")
BT709, BT470BG, BT2020 = (1, 1, 1, 1), (5, 2, 5, 6), (9, 1, 9, 14)  # matrix, range, primaries, transfer


class Repeat(nn.Module):
    """Repeats pixels."""

    def __init__(self, upscale):
        super().__init__()
        self.upscale = upscale

    def forward(self, x):
        return F.interpolate(x, scale_factor=self.upscale, mode="nearest")


@pytest.fixture
def enlarge(tmp_path, monkeypatch, caplog):
    """Enlarges a video of the current folder; returns the log."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("basicsr.inference.video.segments.SEGMENT_FRAMES", 8)

    def enlarge(source, target, scale=2, **settings):
        caplog.clear()
        with caplog.at_level(logging.INFO, "basicsr"):
            upscaler = Upscaler(Repeat(scale), {"type": "Bicubic", "upscale": scale}, device="cpu")
            upscaler.upscale_video(source, target, **settings)
        assert not [path.name for path in tmp_path.iterdir() if path.name.startswith(".")]
        return caplog.text

    return enlarge


def seconds(values):
    return pytest.approx(values, abs=6e-4)  # Matroska has milliseconds


CLIP = [moving(k) for k in range(20)]


@pytest.mark.parametrize(
    ("target", "codec"),
    [("a.mp4", "h264"), ("a.mkv", "ffv1"), ("a.mp4", "hevc"), ("a.webm", "av1"), ("a.webm", "vp9"), ("a.mov", "prores"),
     ("a.m4v", "mpeg4"), ("a.avi", "mjpeg")],
)  # fmt: skip
def test_every_codec_keeps_frames_their_order_and_times(enlarge, target, codec):
    make_video("in.mp4", CLIP)
    log = enlarge("in.mp4", target, codec=codec, batch=3)
    assert "20 frames of 96x64 px" in log and CODECS[codec].encoder in log
    assert "work: decoding" in log and "without sound" in log
    assert times(target) == seconds([k / 25 for k in range(20)])
    shown = [rgb(frame)[..., 1] for frame in frames(target)]
    sources = [rgb(frame)[..., 1].repeat(2, 0).repeat(2, 1) for frame in frames("in.mp4")]
    for k, picture in enumerate(shown):
        errors = [np.abs(picture - source).mean() for source in sources]
        assert int(np.argmin(errors)) == k and errors[k] < 0.02


def test_times_are_kept_however_uneven(enlarge):
    uneven = np.cumsum([0, 33, 40, 17, 200, 33, 41, 16, 1000, 40, 40, 40, 7, 90, 33, 33, 34, 33, 33, 500]).tolist()
    make_video("in.mkv", CLIP, times=uneven)
    expected = [time / 1000 for time in uneven]
    assert times("in.mkv") == seconds(expected)
    for target in ("a.mp4", "a.mkv", "a.webm", "a.mov"):
        enlarge("in.mkv", target)
        assert times(target) == seconds(expected)
    with pytest.raises(ValueError, match=r"in\.mkv: its frames come at uneven times, .* add --ext mkv"):
        enlarge("in.mkv", "a.avi")


def test_sound_subtitles_chapters_attachments_and_tags_are_copied(enlarge):
    cover = io.BytesIO()
    Image.new("RGB", (4, 6), "red").save(cover, "PNG")
    attachments = [("a.ttf", "font/ttf", b"letters"), ("cover.png", "image/png", cover.getvalue())]
    more = {"chapters": [(0, "Morning"), (400, "Evening")], "metadata": {"title": "A day", "artist": "Somebody"}}
    make_video("in.mp4", CLIP, sound=True, subtitle=("mov_text", "Hello"), **more)
    make_video("in.mkv", CLIP, sound="libopus", subtitle=("subrip", "Hello"), attachments=attachments, **more)
    for source, target, settings in (("in.mp4", "a.mp4", {}), ("in.mkv", "a.mkv", {"codec": "h264"})):
        log = enlarge(source, target, **settings)
        assert "1 audio, 1 subtitle" in log and "without sound" not in log and "not copied" not in log
        assert packets(target, "audio") == packets(source, "audio")
        assert packets(target, "subtitle") == packets(source, "subtitle")
        with av.open(source) as before, av.open(target) as after:
            assert after.chapters() == before.chapters() and len(after.chapters()) == 2
            tags = {key.lower(): value for key, value in after.metadata.items()}
            assert (tags["title"], tags["artist"]) == ("A day", "Somebody")
            assert after.streams.audio[0].metadata["language"] == "deu"
            assert after.streams.audio[0].codec_context.name == before.streams.audio[0].codec_context.name
    with av.open("a.mkv") as after:
        (letters,) = (stream for stream in after.streams if stream.type == "attachment")
        assert letters.data == b"letters" and letters.metadata["filename"] == "a.ttf"
    enlarge("in.mkv", "b.mp4")
    for name in ("a.mkv", "b.mp4"):
        with av.open(name) as after:
            (picture,) = (s for s in after.streams.video if s.disposition & av.stream.Disposition.attached_pic)
            assert bytes(next(after.demux(picture))) == cover.getvalue()


@pytest.mark.parametrize(
    ("source", "target", "left"),
    [("in.mp4", "a.mkv", "subtitle 2 (mov_text)"), ("in.mp4", "a.webm", "audio 1 (aac, deu), subtitle 2 (mov_text)"),
     ("in.mkv", "a.mp4", "subtitle 2 (srt)"), ("in.mp4", "a.avi", "subtitle 2 (mov_text)")],
)  # fmt: skip
def test_what_a_file_does_not_hold_is_named(enlarge, source, target, left):
    make_video("in.mp4", CLIP, sound=True, subtitle=("mov_text", "Hello"))
    make_video("in.mkv", CLIP, sound=True, subtitle=("subrip", "Hello"))
    log = enlarge(source, target)
    assert f"{source}: not copied, since {target[1:]} files made here do not hold it: {left}" in log and "--ext" in log
    assert len(frames(target)) == 20
    assert ("without sound" in log) == ("audio" in left)


def test_the_place_is_left_out_where_asked(enlarge):
    camera, place = "com.apple.quicktime.make", "com.apple.quicktime.location.ISO6709"
    tags = {"title": "A day", camera: "Apple", place: "+47.0000+008.0000/", "location": "+47.0000+008.0000/"}
    make_video("in.mov", CLIP[:2], metadata=tags, container_options={"movflags": "use_metadata_tags"})
    for keep_location in (True, False):
        enlarge("in.mov", "a.mp4", keep_location=keep_location)
        with av.open("a.mp4") as file:
            assert any("location" in key for key in file.metadata) == keep_location
            assert (file.metadata["title"], file.metadata[camera]) == ("A day", "Apple")


def test_sound_stays_beside_the_pictures(enlarge):
    """The first packets of AAC lie before 0; the pictures must not move against them."""
    make_video("in.mp4", CLIP, sound=True)
    for target in ("a.mp4", "a.mov", "a.mkv"):
        enlarge("in.mp4", target)
        starts = []
        for path in ("in.mp4", target):
            with av.open(path) as file:
                first = next(packet for packet in file.demux(audio=0) if packet.size)
                starts.append(times(path)[0] - float(first.pts * first.time_base))
        assert starts[1] == pytest.approx(starts[0], abs=1.1e-3)


@pytest.mark.parametrize("degrees", [90, 180, 270])
@pytest.mark.parametrize("hflip", [False, True])
def test_turned_videos_come_out_upright(enlarge, degrees, hflip):
    make_video(
        "in.mp4", CLIP[:3], turn={"degrees": degrees, "hflip": hflip}, options={"qp": "8"}, aspect=Fraction(4, 3)
    )
    enlarge("in.mp4", "a.mp4", crf=4)
    shown, stored = frames("a.mp4")[1], frames("in.mp4")[1]
    assert not any(data.type.name == "DISPLAYMATRIX" for data in shown.side_data)
    matrix = next(data for data in stored.side_data if data.type.name == "DISPLAYMATRIX")
    a, b, _, c, d = np.frombuffer(matrix, np.int32)[:5] / 65536
    before = luma(stored)
    height, width = before.shape
    x, y = np.meshgrid(np.arange(width) - (width - 1) / 2, np.arange(height) - (height - 1) / 2)
    columns, rows = a * x + c * y, b * x + d * y  # where each pixel is shown, by the definition of the matrix
    upright = np.zeros((width, height) if degrees != 180 else (height, width))
    upright[(rows - rows.min()).astype(int), (columns - columns.min()).astype(int)] = before
    assert np.abs(luma(shown) - upright.repeat(2, 0).repeat(2, 1)).mean() < 2
    with av.open("a.mp4") as file:
        aspect = file.streams.video[0].sample_aspect_ratio
    assert aspect == (Fraction(4, 3) if degrees == 180 else Fraction(3, 4))


@pytest.mark.parametrize("tags", [BT709, (1, 2, 1, 1), (6, 1, 6, 6), BT470BG, BT2020])
@pytest.mark.parametrize(("target", "codec"), [("a.mp4", "h264"), ("a.webm", "vp9"), ("a.mkv", "ffv1")])
def test_colours_and_their_tags_are_kept(enlarge, tags, target, codec):
    values = [(60, 100, 180), (200, 140, 110), (120, 60, 60), (90, 200, 128)]
    make_video("in.mkv", [flat(value) for value in values], codec="ffv1", tags=tags)
    enlarge("in.mkv", target, codec=codec, **({"crf": 4} if codec != "ffv1" else {}))
    for before, after in zip(frames("in.mkv"), frames(target), strict=True):
        before.colorspace, before.color_range = tags[:2]  # FFV1 has no tags of its own; the file has them
        if codec != "ffv1":
            assert (after.colorspace, after.color_range) == tags[:2]
        assert np.abs(rgb(after)[32, 48] - rgb(before)[16, 24]).max() < 3.1 / 255
    with av.open(target) as file:
        context = file.streams.video[0].codec_context
        assert (context.color_primaries, context.color_trc) == tags[2:]


def test_untagged_pictures_are_tagged_as_players_took_them(enlarge):
    """480 lines are BT.601 where nothing says otherwise, 960 would be BT.709: the enlarged file must say."""
    make_video("in.mp4", [flat((90, 90, 200), 480, 64)] * 2)
    enlarge("in.mp4", "a.mp4")
    (before, _), (after, _) = frames("in.mp4"), frames("a.mp4")
    assert before.colorspace == 2 and after.colorspace == 6 and after.color_range == 1
    before.colorspace = 6
    assert np.abs(rgb(after)[100, 64] - rgb(before)[50, 32]).max() < 3.1 / 255


@pytest.mark.parametrize(
    ("target", "codec"), [("a.mp4", "h264"), ("a.mp4", "hevc"), ("a.mkv", "ffv1"), ("a.webm", "av1")]
)
def test_ten_bits_stay_ten_bits(enlarge, target, codec):
    slope = np.linspace(64, 940, 256).astype(np.uint16)
    planes = [np.broadcast_to(slope, (64, 256)).copy(), *flat((0, 512, 512), 64, 256)[1:]]
    planes[1:] = [plane.astype(np.uint16) for plane in planes[1:]]
    make_video("in.mkv", [planes] * 2, codec="ffv1", pix_fmt="yuv420p10le", tags=BT709)
    enlarge("in.mkv", target, codec=codec, **({"crf": 1} if codec != "ffv1" else {}))
    after = frames(target)[0]
    assert after.format.components[0].bits == 10
    got = rgb(after)[60, ::2, 1] * 1023
    expected = (slope - 64.0) / (940 - 64) * 1023
    assert np.abs(got - expected).mean() < (0.6 if codec == "ffv1" else 3)
    if codec == "ffv1":
        assert len(np.unique(np.rint(got))) > 250
    log = enlarge("in.mkv", "b.webm", codec="vp9")
    assert "in.mkv: has 10 bits, VP9 has 8" in log


@pytest.mark.parametrize(
    ("target", "codec", "size"),
    [
        ("a.mp4", "h264", (94, 136)),
        ("a.mkv", "ffv1", (93, 135)),
        ("a.webm", "vp9", (93, 135)),
        ("a.mov", "prores", (93, 136)),
    ],
)
def test_odd_sides_are_filled_up_only_where_they_must(enlarge, target, codec, size):
    make_video("in.mkv", [moving(k, 31, 45) for k in range(3)], codec="ffv1")
    enlarge("in.mkv", target, scale=3, codec=codec)
    after, before = frames(target)[0], frames("in.mkv")[0]
    assert (after.height, after.width) == size
    expected = luma(before).repeat(3, 0).repeat(3, 1)
    margin = [(0, size[0] - 93), (0, size[1] - 135)]
    assert np.abs(rgb(after)[..., 1] * 219 + 16 - np.pad(expected, margin, mode="edge")).mean() < 14


def test_further_streams_of_pictures_are_named(enlarge):
    make_video("in.mkv", CLIP[:4])
    with av.open("in.mkv") as source, av.open("two.mkv", "w") as file:
        copies = [file.add_stream_from_template(source.streams.video[0]) for _ in range(2)]
        for packet in source.demux(video=0):
            data = bytes(packet)
            for copy in copies if data else ():
                again = av.Packet(data)
                again.pts, again.dts, again.time_base = packet.pts, packet.dts, packet.time_base
                again.is_keyframe, again.stream = packet.is_keyframe, copy
                file.mux(again)
    assert "two.mkv: never copied here: video 1 (h264)" in enlarge("two.mkv", "a.mkv")
    assert len(frames("a.mkv")) == 4


def test_ten_bits_become_hevc_where_h264_is_usual(enlarge):
    planes = [plane.astype(np.uint16) * 4 for plane in moving(3, 64, 96)]
    make_video("in.mp4", [planes] * 2, pix_fmt="yuv420p10le")
    assert "HEVC (libx265, crf 20, preset medium, yuv420p10le)" in enlarge("in.mp4", "a.mp4")


def test_interlaced_videos_are_refused_with_advice(enlarge):
    make_video("in.mkv", CLIP[:4], options={"x264-params": "interlaced=1:tff=1"})
    with pytest.raises(ValueError, match=r"in\.mkv: is interlaced.*bwdif"):
        enlarge("in.mkv", "a.mkv")


MASTER = "G(13250,34500)B(7500,3000)R(34000,16000)WP(15635,16450)L(10000000,50)"


def test_hdr_is_kept_with_its_tags_and_metadata(enlarge):
    params = f"log-level=error:hdr10=1:master-display={MASTER}:max-cll=1000,400"
    pictures = [flat((500 + 20 * k, 480, 560), 64, 64) for k in range(3)]
    make_video("in.mp4", pictures, codec="libx265", pix_fmt="yuv420p10le", tags=(9, 1, 9, 16),
               options={"x265-params": params})  # fmt: skip
    log = enlarge("in.mp4", "a.mp4")  # by HEVC, for H.264 files of HDR play nowhere
    assert "libx265" in log
    before, after = frames("in.mp4")[0], frames("a.mp4")[0]
    assert (after.colorspace, after.color_primaries, after.color_trc) == (9, 9, 16)
    assert after.format.name == "yuv420p10le"
    assert np.abs(luma(after).astype(int) - 500).max() <= 4
    for name in ("MASTERING_DISPLAY_METADATA", "CONTENT_LIGHT_LEVEL"):
        found = [bytes(data) for frame in (before, after) for data in frame.side_data if data.type.name == name]
        assert len(found) == 2 and found[0] == found[1]
    with pytest.raises(ValueError, match=r"in\.mp4: is HDR \(PQ\), for which 8 bits are too few.*--codec hevc"):
        enlarge("in.mp4", "a.webm")


def test_colours_that_are_not_converted_are_refused(enlarge):
    make_video("in.mkv", [flat((90, 90, 200))], codec="ffv1", tags=(10, 1, 9, 14))
    with pytest.raises(ValueError, match=r"in\.mkv: its colours are BT\.2020 with constant luminance"):
        enlarge("in.mkv", "a.mkv")


def test_screen_recordings_in_rgb_are_lossless_in_ffv1(enlarge):
    picture = np.random.default_rng(0).integers(0, 256, (3, 64, 80), dtype=np.uint8)  # green, blue, red
    options = {"x265-params": "log-level=error:lossless=1"}
    make_video("in.mkv", [list(picture)] * 2, codec="libx265", pix_fmt="gbrp", options=options)
    enlarge("in.mkv", "a.mkv")
    after = frames("a.mkv")[1].to_ndarray(format="rgb24")
    np.testing.assert_array_equal(after, picture[[2, 0, 1]].transpose(1, 2, 0).repeat(2, 0).repeat(2, 1))
    enlarge("in.mkv", "a.mp4")
    assert frames("a.mp4")[0].format.name == "yuv420p"  # few players take 4:4:4


def test_a_file_that_ends_early_gives_its_frames_and_a_warning(enlarge):
    make_video("in.mkv", [moving(k % 20, 64, 96) for k in range(60)], codec="ffv1")
    data = Path("in.mkv").read_bytes()
    Path("cut.mkv").write_bytes(data[: len(data) // 2])
    log = enlarge("cut.mkv", "a.mkv")
    assert 10 < len(frames("a.mkv")) < 50
    assert "cut.mkv: its header promises 60 frames" in log


def test_what_an_edit_list_cuts_away_is_neither_enlarged_nor_missed(enlarge):
    make_video("in.mp4", CLIP, times=[40 * k - 200 for k in range(20)])
    with av.open("in.mp4") as file:
        assert file.streams.video[0].frames == 20
    assert "damaged" not in enlarge("in.mp4", "a.mp4")
    assert times("a.mp4") == seconds([k / 25 for k in range(15)])


@pytest.mark.parametrize("name", ["in.mp4", "in.mkv"])
def test_files_without_pictures_are_refused(enlarge, name):
    with av.open(name, "w") as file:
        stream = file.add_stream("aac", rate=48000)
        for packet in videos.sine(av, stream, 0.2):
            file.mux(packet)
    with pytest.raises(ValueError, match=f"{name}: cannot be read as a video; it holds no pictures"):
        enlarge(name, "a.mkv")


def test_without_pyav_a_message_says_how_to_get_it(tmp_path, enlarge, monkeypatch):
    (tmp_path / "in.mp4").write_bytes(b"film")
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(OptionError, match=r"videos need PyAV, which is not installed; pip install 'av>=18'"):
        enlarge("in.mp4", "a.mp4")


def test_options_are_checked_before_anything_else(tmp_path):
    for settings, message in [
        (("h265", None, None), r"--codec: must be one of h264, hevc, .*got 'h265'"),
        (("h264", 60, None), r"--crf: must be in \[0, 51\] for h264, got 60"),
        (("ffv1", 3, None), r"--crf: ffv1 has no quality to set, got 3"),
        (("hevc", 20, "p5"), r"--preset: must be one of ultrafast, .*for hevc, got 'p5'"),
    ]:
        with pytest.raises(OptionError, match=message):
            check_codec_options(*settings)
    with pytest.raises(OptionError, match=r"--codec vp9: \.mov files do not hold it.*--ext webm, or take one of h264"):
        codec_for("a.mov", "vp9")
    with pytest.raises(OptionError, match=r"a\.gif: unknown video suffix '\.gif'; use one of \.mp4"):
        codec_for("a.gif", None)


def test_nvenc_says_that_it_needs_a_card(enlarge):
    if torch.cuda.is_available():
        pytest.skip("there may be NVENC")
    make_video("in.mp4", [flat((90, 90, 200), 128, 128)])
    with pytest.raises(ValueError, match=r"does not work here .*it needs an NVIDIA card that has NVENC"):
        enlarge("in.mp4", "a.mp4", codec="h264_nvenc")
