import numpy as np
import pytest
import torch

from basicsr.images.color import rgb2ycbcr, rgb2ycbcr_pt, rgb_to_y, rgb_to_y_pt, ycbcr2rgb

# RGB in [0, 1] and YCbCr in [0, 255] by BT.601
KNOWN = [
    ((0, 0, 0), (16, 128, 128)),
    ((1, 1, 1), (235, 128, 128)),
    ((1, 0, 0), (81.481, 90.203, 240)),
    ((0, 1, 0), (144.553, 53.797, 34.214)),
    ((0, 0, 1), (40.966, 240, 109.786)),
]


@pytest.mark.parametrize(("rgb", "ycbcr"), KNOWN)
def test_known_colours(rgb, ycbcr):
    pixel = np.array(rgb, np.float64).reshape(1, 1, 3)
    np.testing.assert_allclose(rgb2ycbcr(pixel)[0, 0] * 255, ycbcr, atol=1e-9)
    np.testing.assert_array_equal(rgb2ycbcr((pixel * 255).astype(np.uint8))[0, 0], np.round(ycbcr))
    assert rgb_to_y(pixel).shape == (1, 1, 1)
    assert rgb_to_y(pixel).item() * 255 == pytest.approx(ycbcr[0])


def test_tensors_equal_arrays():
    images = np.random.default_rng(0).random((2, 5, 7, 3))
    batch = torch.from_numpy(images.transpose(0, 3, 1, 2))
    expected = np.stack([rgb2ycbcr(image) for image in images]).transpose(0, 3, 1, 2)
    np.testing.assert_allclose(rgb2ycbcr_pt(batch).numpy(), expected, atol=1e-12)
    np.testing.assert_allclose(rgb_to_y_pt(batch).numpy(), expected[:, :1], atol=1e-12)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_types_are_kept(dtype):
    image = np.random.default_rng(0).random((4, 5, 3)).astype(dtype)
    assert rgb2ycbcr(image).dtype == dtype
    assert rgb_to_y(image).dtype == dtype
    assert rgb_to_y_pt(torch.from_numpy(image).permute(2, 0, 1)[None]).numpy().dtype == dtype


def test_the_inverse():
    image = np.random.default_rng(0).random((4, 5, 3))
    np.testing.assert_allclose(rgb2ycbcr(image, y_only=True), rgb2ycbcr(image)[..., 0], atol=1e-12)
    np.testing.assert_allclose(ycbcr2rgb(rgb2ycbcr(image)), image, atol=1e-12)
    pixels = (image * 255).astype(np.uint8)
    assert np.abs(ycbcr2rgb(rgb2ycbcr(pixels)).astype(int) - pixels).max() <= 2
