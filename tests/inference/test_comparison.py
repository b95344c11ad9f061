"""The picture that shows an output next to the bicubic enlargement."""

import numpy as np
import pytest

from basicsr.images.files import read_image
from basicsr.images.matlab_resize import imresize
from basicsr.inference.comparison import COLUMN_WIDTH, GAP, Box, busiest_boxes, draw_comparison, parse_box


def test_boxes_hold_the_detail_and_do_not_overlap():
    image = np.zeros((80, 100, 3), np.uint8)
    image[50:66, 20:36] = np.random.default_rng(0).integers(0, 256, (16, 16, 3))
    image[5:15, 80:90] = np.random.default_rng(1).integers(0, 256, (10, 10, 3))
    first, second = busiest_boxes(image, 20)
    assert first.x <= 20 and first.x + 20 >= 36 and first.y <= 50 and first.y + 20 >= 66
    assert second.x <= 80 and second.x + 20 >= 90 and second.y <= 5
    assert busiest_boxes(image[:7, :9], 20) == [Box(0, 0, 7, 7), *busiest_boxes(image[:7, :9], 20)[1:]]
    assert len(busiest_boxes(image[:20, :20], 20)) == 1  # no room for another


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_both_columns_show_the_same_place(photos, channels, dtype):
    photo = read_image(photos / "chelsea.png")[:90, :120]
    photo = (photo.astype(dtype) * (1 if dtype == np.uint8 else 257))[..., :channels]
    sr = imresize(photo, 3)
    page = draw_comparison(photo, sr, channels, "Net", [Box(30, 20, 25, 25), Box(60, 40, 25, 25)])
    assert page.dtype == np.uint8 and page.shape[1:] == (2 * (COLUMN_WIDTH + 2 * GAP), 3)
    left, right = np.hsplit(page, 2)
    below = 60 + 3 * 90  # the crops, whose frames are equal
    assert np.abs(left[below:].astype(int) - right[below:]).max() <= 1  # where the output is the bicubic one
    assert (left[:40] != right[:40]).any()  # but the captions differ
    whole_left, whole_right = (half[50 : 50 + 250, GAP : GAP + 360].astype(float) for half in (left, right))
    assert np.abs(whole_left - whole_right).mean() < 6


def test_large_and_thin_images(photos):
    photo = read_image(photos / "chelsea.png")
    for image, scale in ((np.tile(photo, (3, 8, 1)), 2), (photo[:2], 4), (photo[:, :3], 1), (photo[:1, :1], 2)):
        page = draw_comparison(image, image.repeat(scale, 0).repeat(scale, 1), 3, "Net")
        assert page.shape[1] == 2 * (COLUMN_WIDTH + 2 * GAP)
        assert page.shape[0] < 3000


def test_a_box_outside_is_an_error():
    image = np.zeros((10, 10, 3), np.uint8)
    with pytest.raises(ValueError, match="--crop 5,5,6,1: does not lie within the image of 10x10 px"):
        draw_comparison(image, image, 3, "Net", [Box(5, 5, 6, 1)])


def test_boxes_from_text():
    assert parse_box("1,2, 3,4") == Box(1, 2, 3, 4)
    for text in ("", "1,2,3", "a,b,c,d", "1,2,3,0", "-1,2,3,4"):
        with pytest.raises(ValueError, match="expected x,y,w,h"):
            parse_box(text)
