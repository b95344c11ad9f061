import numpy as np
import pytest

from basicsr.data.crops import Window
from basicsr.data.pieces import Job, squares, starts, write_missing
from basicsr.images.files import read_image, write_image


@pytest.mark.parametrize(
    ("length", "thresh", "expected"),
    [
        (480, 0, [0]),
        (481, 0, [0, 1]),
        (720, 0, [0, 240]),
        (1404, 0, [0, 240, 480, 720, 924]),
        (1404, 204, [0, 240, 480, 720]),
        (1404, 203, [0, 240, 480, 720, 924]),
        (479, 0, []),
    ],
)
def test_positions_of_the_published_recipe(length, thresh, expected):
    assert starts(length, 480, 240, thresh) == expected


@pytest.mark.parametrize(("height", "width"), [(10, 10), (10, 23), (31, 18)])
def test_squares_cover_every_pixel(height, width):
    seen = np.zeros((height, width), int)
    for window in squares(height, width, 10, 7):
        assert (window.height, window.width) == window.crop(seen).shape == (10, 10)
        window.crop(seen)[...] += 1
    assert seen.min() == 1


def test_no_square_fits_into_a_smaller_image():
    assert squares(9, 30, 10, 7) == []


def test_only_missing_pieces_are_written(photos, tmp_path):
    image = read_image(photos / "coffee.png")
    windows = [Window(0, 0, 20, 20), Window(5, 7, 20, 30)]
    job = Job(photos / "coffee.png", [(tmp_path / f"{k}.png", window) for k, window in enumerate(windows)], 3)
    write_image(tmp_path / "0.png", image)
    assert write_missing([job], 1) == (1, 1)
    np.testing.assert_array_equal(read_image(tmp_path / "0.png"), image)
    np.testing.assert_array_equal(read_image(tmp_path / "1.png"), image[5:25, 7:37])
    assert write_missing([job], 1) == (0, 2)
