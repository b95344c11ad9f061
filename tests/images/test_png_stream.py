"""PNG files written row by row: every kind is read back as it was, by two decoders."""

import io

import cv2
import numpy as np
import pytest
from PIL import Image

from basicsr.images.png_stream import PngStream


def written(image, step, bits=8):
    file = io.BytesIO()
    stream = PngStream(file, image.shape[:2], image.shape[2], bits)
    for top in range(0, len(image), step):
        stream.write(image[top : top + step])
    stream.close()
    return file.getvalue()


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("size", [(1, 1), (1, 40), (40, 1), (33, 57)])
def test_what_is_written_is_read(size, channels, bits):
    rng = np.random.default_rng(0)
    image = rng.integers(0, 2**bits, (*size, channels)).astype(np.uint8 if bits == 8 else np.uint16)
    image[size[0] // 2 :] = image[:1]  # flat parts, too
    data = written(image, 7, bits)
    with Image.open(io.BytesIO(data)) as opened:
        opened.load()
        assert opened.size == size[::-1]
        if bits == 8:
            assert np.array_equal(np.array(opened).reshape(image.shape), image)
    read = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    read = read[..., None] if read.ndim == 2 else read
    expected = image[..., {1: [0], 2: [0, 0, 0, 1], 3: [2, 1, 0], 4: [2, 1, 0, 3]}[channels]]  # OpenCV: BGR
    assert read.dtype == image.dtype
    assert np.array_equal(read, expected)


def test_photographs_become_no_larger_than_by_opencv(photos):
    image = cv2.imread(str(photos / "chelsea.png"))
    large = cv2.resize(image, None, fx=3, fy=3, interpolation=cv2.INTER_CUBIC)
    assert len(written(large, 64)) < len(cv2.imencode(".png", large)[1])


def test_rows_that_do_not_fit_are_errors():
    with pytest.raises(ValueError, match="no 5 channels of 8 bits"):
        PngStream(io.BytesIO(), (2, 2), 5)
    stream = PngStream(io.BytesIO(), (4, 3), 3)
    for rows in (np.zeros((5, 3, 3), np.uint8), np.zeros((1, 4, 3), np.uint8), np.zeros((1, 3, 3), np.uint16)):
        with pytest.raises(ValueError, match="are no rows of"):
            stream.write(rows)
    with pytest.raises(ValueError, match="0 of 4 rows"):
        stream.close()
