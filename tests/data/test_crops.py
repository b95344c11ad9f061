import numpy as np
import pytest
import torch

from basicsr.data.crops import Window, downscale_window, flip_and_rotate, random_window
from basicsr.data.network_input import ToInput
from basicsr.images.files import read_image
from basicsr.images.matlab_resize import imresize


@pytest.mark.parametrize("scale", [1, 2, 3, 4])
def test_a_window_of_the_lr_equals_the_whole_lr(photos, scale):
    for name in ("coffee.png", "rocket.png"):
        gt = read_image(photos / name)
        height, width = gt.shape[0] // scale, gt.shape[1] // scale
        whole = imresize(gt[: height * scale, : width * scale], 1 / scale)
        side = 16
        ends = [(0, 0), (0, width - side), (height - side, 0), (height - side, width - side), (1, 2), (2, 1)]
        rng = np.random.default_rng(scale)
        windows = [Window(top, left, side, side) for top, left in ends]
        windows += [random_window(height, width, side, rng) for _ in range(20)]
        windows += [Window(0, 0, height, width), Window(height - 1, width - 1, 1, 1)]
        for window in windows:
            np.testing.assert_array_equal(downscale_window(gt, window, scale), window.crop(whole))


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_exact_halves_round_alike_everywhere(scale):
    # A few gray levels far apart make many sums that end in exactly one half.
    gt = np.random.default_rng(0).choice(np.array([0, 1, 27, 54, 127, 254, 255], np.uint8), (60, 72, 3))
    height, width = gt.shape[0] // scale, gt.shape[1] // scale
    whole = imresize(gt, 1 / scale)
    for top in range(height - 5):
        window = Window(top, (5 * top) % (width - 5), 5, 5)
        np.testing.assert_array_equal(downscale_window(gt, window, scale), window.crop(whole))


def test_images_smaller_than_the_kernel():
    gt = np.random.default_rng(0).integers(0, 256, (9, 5, 3), np.uint8)
    assert downscale_window(gt, Window(0, 0, 2, 1), 4).shape == (2, 1, 3)
    np.testing.assert_array_equal(downscale_window(gt, Window(0, 0, 2, 1), 4), imresize(gt[:8, :4], 0.25))


def test_windows_reach_every_position_and_nothing_else():
    rng = np.random.default_rng(0)
    places = {random_window(6, 5, 4, rng)[:2] for _ in range(200)}
    assert places == {(top, left) for top in range(3) for left in range(2)}
    assert Window(1, 2, 3, 4).crop(np.zeros((40, 40)), 3).shape == (9, 12)


def test_all_images_take_the_same_one_of_eight_positions():
    image = np.arange(12).reshape(2, 2, 3)
    rng = np.random.default_rng(0)
    positions = set()
    for _ in range(100):
        one, other = flip_and_rotate([image, image + 100], rng)
        np.testing.assert_array_equal(one + 100, other)
        positions.add(one.tobytes())
    assert len(positions) == 8


def test_options_of_flip_and_rotate():
    image = np.arange(12).reshape(2, 2, 3)
    counts = {}
    for hflip in (False, True):
        for rot in (False, True):
            rng = np.random.default_rng(0)
            results = [flip_and_rotate([image], rng, hflip=hflip, rot=rot)[0].tobytes() for _ in range(50)]
            counts[hflip, rot] = len(set(results))
            assert rng.random() == np.random.default_rng(0).random(151)[-1]  # as many draws whatever is asked for
    assert counts == {(False, False): 1, (True, False): 2, (False, True): 4, (True, True): 8}


def test_inputs_are_contiguous_whatever_the_view():
    image = np.random.default_rng(0).integers(0, 256, (6, 8, 3), np.uint8)
    for view in (image, image[:, ::-1], image[::-1], image.swapaxes(0, 1), image[1:5, 2:7]):
        values = ToInput()(view)
        assert values.is_contiguous()
        np.testing.assert_array_equal(values, view.transpose(2, 0, 1).astype(np.float32) / np.float32(255))


def test_to_input():
    image = np.random.default_rng(0).integers(0, 256, (4, 5, 3), np.uint8)
    plain = ToInput()(image)
    assert plain.shape == (3, 4, 5) and plain.dtype == torch.float32
    luma = ToInput("y")(image)
    expected = (65.481 * plain[0] + 128.553 * plain[1] + 24.966 * plain[2] + 16) / 255
    torch.testing.assert_close(luma, expected[None])
    normal = ToInput(None, (0.1, 0.2, 0.3), (0.5, 1, 2))(image)
    torch.testing.assert_close(normal[2], (plain[2] - 0.3) / 2)
    torch.testing.assert_close(ToInput("y", [0.5], [0.25])(image), (luma - 0.5) / 0.25)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("rgb",), "color: must be 'y' or null, got 'rgb'"),
        ((None, [0.5, 0.5]), r"mean: needs one number for each of 3 channels, got \[0.5, 0.5\]"),
        (("y", None, [1, 1, 1]), r"std: needs one number for each of 1 channels, got \[1, 1, 1\]"),
        ((None, None, [1, 0, 1]), r"std: must be positive, got \[1, 0, 1\]"),
    ],
)
def test_to_input_with_invalid_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        ToInput(*arguments)
