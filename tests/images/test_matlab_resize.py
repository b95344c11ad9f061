import numpy as np
import pytest
import torch

from basicsr.images.files import list_images, read_image
from basicsr.images.matlab_resize import imresize

SET5 = ("baby", "bird", "butterfly", "head", "woman")


@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.parametrize("name", SET5)
def test_equals_matlab_in_every_pixel(shared, name, scale):
    hr = read_image(shared / f"data/Set5/HR/{name}.png")
    lr = read_image(shared / f"data/Set5/LR_bicubic/X{scale}/{name}x{scale}.png")
    cropped = hr[: hr.shape[0] // scale * scale, : hr.shape[1] // scale * scale]
    assert np.count_nonzero(imresize(cropped, 1 / scale) != lr) == 0


@pytest.mark.parametrize("name", SET5)
def test_float_path_equals_files_made_without_the_rounding(shared, name):
    # Unlike X2 to X4, the X8 images were rounded only once, at the end.
    hr = read_image(shared / f"data/Set5/HR/{name}.png")
    lr = read_image(shared / f"data/Set5/LR_bicubic/X8/{name}x8.png")
    cropped = hr[: hr.shape[0] // 8 * 8, : hr.shape[1] // 8 * 8].astype(np.float64)
    np.testing.assert_array_equal(np.floor(imresize(cropped, 1 / 8) + 0.5).clip(0, 255), lr)


def test_integer_rounding_between_the_passes_matters(photos):
    image = read_image(photos / "chelsea.png")[:120, :160]
    once = np.floor(imresize(image.astype(np.float64), 0.5) + 0.5).clip(0, 255)
    share = np.mean(once != imresize(image, 0.5))
    assert 0.02 < share < 0.25  # the rows' rounding shows, as it does in MATLAB


@pytest.mark.parametrize("scale", [1 / 2, 1 / 3, 1 / 4, 2, 3, 0.7, 1.5])
@pytest.mark.parametrize("antialiasing", [True, False])
def test_tensor_path_equals_float_path(photos, scale, antialiasing):
    image = read_image(photos / "coffee.png") / 255
    expected = imresize(image, scale, antialiasing).transpose(2, 0, 1)
    batch = torch.from_numpy(image.transpose(2, 0, 1)).expand(2, -1, -1, -1)
    torch.testing.assert_close(imresize(batch, scale, antialiasing)[1].numpy(), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("side", "scale", "expected"), [(49, 1 / 49, 1), (344, 1 / 3, 115), (30, 1 / 3, 10), (7, 3, 21)]
)
def test_output_side_is_rounded_up_without_float_noise(side, scale, expected):
    assert imresize(np.zeros((side, side)), scale).shape == (expected, expected)


def test_known_values():
    # A doubled step. The cubic is 111/128, 29/128, -9/128, -3/128 at distances of 1/4, 3/4, 5/4, 7/4 pixels.
    row = np.array([[0.0, 0.0, 1.0, 1.0]])
    expected = np.array([0, -3, -9, 29 - 3, 128 + 3 - 29, 128 + 9, 128 + 3, 128]) / 128
    assert imresize(row, 2)[0].tolist() == pytest.approx(expected.tolist(), abs=1e-12)


@pytest.mark.parametrize("scale", [0.25, 1 / 3, 2, 1.3])
def test_a_constant_stays_constant(scale):
    assert np.unique(imresize(np.full((13, 17, 3), 77, np.uint8), scale)) == [77]
    np.testing.assert_allclose(imresize(np.full((13, 17), 0.3), scale), 0.3, rtol=1e-12)


def test_types_and_shapes_are_kept():
    for dtype in (np.uint8, np.uint16, np.float32, np.float64):
        assert imresize(np.ones((8, 6), dtype), 0.5).dtype == dtype
    assert imresize(np.ones((8, 6), np.uint8), 0.5).shape == (4, 3)
    assert imresize(torch.ones(5, 3, 8, 6), 2).shape == (5, 3, 16, 12)
    assert imresize(torch.ones(3, 8, 6), 2).dtype == torch.float32


def test_sixteen_bits_are_clipped_to_their_own_range():
    image = np.zeros((12, 12), np.uint16)
    image[:, 6:] = 65535
    result = imresize(image, 3)
    assert result.min() == 0 and result.max() == 65535


def test_tensors_carry_gradients():
    image = torch.rand(1, 2, 6, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: imresize(x, 0.5), image)


@pytest.mark.parametrize(
    ("image", "scale", "error", "message"),
    [
        (np.zeros((4, 4)), 0, ValueError, "scale must be positive, got 0"),
        (np.zeros((4, 4)), float("nan"), ValueError, "scale must be positive, got nan"),
        (np.zeros(4), 2, ValueError, r"got shape \(4,\)"),
        (np.zeros((1, 4, 4, 3)), 2, ValueError, r"got shape \(1, 4, 4, 3\)"),
        (torch.zeros(4), 2, ValueError, r"got shape \(4,\)"),
        (torch.zeros(4, 4, dtype=torch.uint8), 2, TypeError, "torch.uint8; integers go through NumPy"),
    ],
)
def test_invalid_arguments(image, scale, error, message):
    with pytest.raises(error, match=f"imresize: .*{message}"):
        imresize(image, scale)


def test_photos_fixture_is_real(photos):
    names = list_images(photos)
    assert len(names) == 5
    assert all(read_image(photos / name).std() > 20 for name in names)
