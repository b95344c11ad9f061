"""YUV and RGB: known values, both directions, and FFmpeg's own conversion."""

import numpy as np
import pytest
import torch

from basicsr.inference.video.color import (
    BT709,
    BT2020,
    LUMA_WEIGHTS,
    SMPTE170M,
    Samples,
    from_rgb,
    to_gray,
    to_rgb,
)


def flat(r, g, b, size=(4, 6)):
    return torch.tensor([r, g, b], dtype=torch.float32).view(1, 3, 1, 1).expand(1, 3, *size).contiguous()


@pytest.mark.parametrize(
    ("samples", "red"),
    [  # of the standards: Rec. 601 and 709 in 8 bits, 709 and 2020 in 10 bits, JFIF
        (Samples("444", 8, SMPTE170M), (81, 90, 240)),
        (Samples("444", 8, BT709), (63, 102, 240)),
        (Samples("444", 10, BT709), (250, 409, 960)),
        (Samples("444", 10, BT2020), (294, 387, 960)),
        (Samples("444", 8, SMPTE170M, is_full=True), (76, 85, 255)),
    ],
)
def test_red_has_the_values_of_the_standards(samples, red):
    values = [int(plane.flatten()[0]) for plane in from_rgb(flat(1, 0, 0), samples)]
    assert values == list(red)
    white, black = (from_rgb(flat(v, v, v), samples) for v in (1.0, 0.0))
    low, high = ((0, 255) if samples.is_full else (16, 235)) if samples.bits == 8 else (64, 940)
    zero = 128 << (samples.bits - 8)
    assert [int(p.flatten()[0]) for p in white] == [high, zero, zero]
    assert [int(p.flatten()[0]) for p in black] == [low, zero, zero]


@pytest.mark.parametrize("matrix", LUMA_WEIGHTS)
@pytest.mark.parametrize("bits", [8, 10, 12])
@pytest.mark.parametrize("is_full", [False, True])
@pytest.mark.parametrize("chroma", ["420", "422", "444", "rgb"])
def test_both_directions_undo_each_other(matrix, bits, is_full, chroma):
    samples = Samples(chroma, bits, matrix, is_full)
    colours = torch.rand(5, 3, 1, 1).expand(5, 3, 7, 9).contiguous()  # odd sides
    planes = [plane.to(torch.int32) & 0xFFFF for plane in from_rgb(colours, samples)]
    if chroma == "420":
        assert planes[1].shape == (5, 4, 5)
    back = to_rgb(planes, samples)
    assert back.shape == colours.shape
    levels = 2**bits - 1
    assert float((back - colours).abs().max()) * levels <= (0.51 if chroma == "rgb" else 1.8)


@pytest.mark.parametrize("chroma", ["420", "422"])
@pytest.mark.parametrize("is_centered", [False, True])
def test_chroma_lies_where_it_is_shown(chroma, is_centered):
    """A slope of colour comes back as it was; a shift by a quarter of a pixel would be seen."""
    slope = torch.linspace(0.2, 0.8, 64)
    rgb = torch.stack([slope, 0 * slope + 0.5, 1 - slope])[None, :, None, :].expand(1, 3, 16, 64).contiguous()
    samples = Samples(chroma, 16, BT709, True, is_centered)
    back = to_rgb([plane.to(torch.int32) & 0xFFFF for plane in from_rgb(rgb, samples)], samples)
    assert float((back - rgb)[..., 4:-4].abs().max()) < 1e-4


@pytest.mark.parametrize("matrix", [BT709, SMPTE170M, BT2020])
@pytest.mark.parametrize("is_full", [False, True])
def test_the_library_sees_the_same_colours(matrix, is_full):
    av = pytest.importorskip("av")
    samples = Samples("444", 8, matrix, is_full)
    for colour in np.random.default_rng(0).uniform(0.05, 0.95, (8, 3)):
        frame = av.VideoFrame(64, 32, "yuv444p")
        for plane, values in zip(frame.planes, from_rgb(flat(*colour), samples), strict=True):
            np.frombuffer(plane, np.uint8)[:] = int(values.flatten()[0])
        frame.color_range, frame.colorspace = 2 if is_full else 1, matrix
        seen = frame.to_ndarray(format="rgb24")[16, 32] / 255
        assert np.abs(seen - colour).max() < 2.5 / 255


def test_gray_has_opencvs_weights():
    assert float(to_gray(flat(1, 0, 0))[0, 0, 0, 0]) == pytest.approx(0.299)
    planes = [torch.full((1, 2, 2), 200, dtype=torch.uint8)]
    assert torch.allclose(to_rgb(planes, Samples("gray", 8, BT709, True)), torch.tensor(200 / 255))
