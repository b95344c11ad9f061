import os
import re

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from basicsr.images.files import (
    decode_image,
    encode_image,
    image_size,
    list_images,
    read_image,
    to_pixels,
    to_tensor,
    write_image,
)


@pytest.fixture
def pixels():
    return np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tif", ".ppm"])
def test_lossless_round_trip(tmp_path, pixels, suffix):
    path = tmp_path / f"new/folder/a{suffix}"
    write_image(path, pixels)
    np.testing.assert_array_equal(read_image(path), pixels)
    np.testing.assert_array_equal(np.array(Image.open(path)), pixels)  # RGB to others as well
    assert image_size(path) == (20, 30)
    assert os.listdir(path.parent) == [path.name]


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_sixteen_bits(tmp_path, pixels, suffix):
    deep = pixels.astype(np.uint16) * 257 - (pixels > 0)
    write_image(tmp_path / f"a{suffix}", deep)
    read = read_image(tmp_path / f"a{suffix}")
    assert read.dtype == np.uint16
    np.testing.assert_array_equal(read, deep)
    np.testing.assert_array_equal(to_tensor(read).numpy(), (deep.astype(np.float32) / 65535).transpose(2, 0, 1))


def test_gray_palette_and_alpha(tmp_path, pixels):
    gray = pixels[..., 0]
    Image.fromarray(gray).save(tmp_path / "gray.png")
    Image.fromarray(np.dstack([pixels, gray])).save(tmp_path / "alpha.png")
    palette = Image.fromarray(pixels).convert("P")
    palette.save(tmp_path / "palette.png")
    np.testing.assert_array_equal(read_image(tmp_path / "gray.png"), np.dstack([gray] * 3))
    np.testing.assert_array_equal(read_image(tmp_path / "alpha.png"), pixels)
    np.testing.assert_array_equal(read_image(tmp_path / "palette.png"), np.array(palette.convert("RGB")))


@pytest.mark.parametrize(("suffix", "expected"), [(".jpg", (30, 20)), (".png", (20, 30))])
def test_orientation_counts_for_jpeg_and_both_readers_agree(tmp_path, pixels, suffix, expected):
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by a quarter
    Image.fromarray(pixels).save(tmp_path / f"a{suffix}", exif=exif)
    assert image_size(tmp_path / f"a{suffix}") == expected
    assert read_image(tmp_path / f"a{suffix}").shape[:2] == expected


@pytest.mark.parametrize("read", [read_image, image_size])
class TestDamagedFiles:
    @pytest.mark.parametrize("suffix", [".png", ".jpg"])
    @pytest.mark.parametrize("kept", [0.5, 0.99])
    def test_cut_off(self, tmp_path, photos, read, suffix, kept):
        path = tmp_path / f"a{suffix}"
        write_image(path, read_image(photos / "coffee.png"))
        data = path.read_bytes()
        path.write_bytes(data[: int(kept * len(data))])
        with pytest.raises(ValueError, match=rf"{re.escape(str(path))}: the file is cut off"):
            read(path)

    def test_bytes_after_the_end_are_fine(self, tmp_path, pixels, read):
        path = tmp_path / "a.jpg"
        write_image(path, pixels)
        path.write_bytes(path.read_bytes() + bytes(500))
        read(path)

    @pytest.mark.parametrize("data", [b"", b"no image at all", b"\x89PNG\r\n\x1a\nIEND"])
    def test_no_image(self, tmp_path, read, data):
        (tmp_path / "a.png").write_bytes(data)
        with pytest.raises(ValueError, match=r"a\.png: cannot be decoded as an image; replace the file"):
            read(tmp_path / "a.png")

    def test_missing(self, tmp_path, read):
        with pytest.raises(FileNotFoundError, match=r"a\.png"):
            read(tmp_path / "a.png")


@pytest.mark.parametrize(
    ("name", "image", "message"),
    [
        ("a.png", np.zeros((4, 4, 3), np.float32), r"got float32 \(4, 4, 3\); see to_pixels"),
        ("a.png", np.zeros((4, 4, 4), np.uint8), r"got uint8 \(4, 4, 4\)"),
        ("a.xyz", np.zeros((4, 4, 3), np.uint8), "unknown image suffix '.xyz'; use one of .png"),
        ("a.jpg", np.zeros((4, 4, 3), np.uint16), "no 16-bit pixels; use one of .png"),
        ("a.pgm", np.zeros((4, 4, 3), np.uint8), "cannot write uint8"),
    ],
)
def test_images_that_cannot_be_written(tmp_path, name, image, message):
    with pytest.raises(ValueError, match=f"{name}: .*{message}"):
        write_image(tmp_path / name, image)
    assert os.listdir(tmp_path) == []


def test_a_failed_write_leaves_the_old_file(tmp_path, pixels, monkeypatch):
    write_image(tmp_path / "a.png", pixels)

    def full_disk(*_):
        raise OSError("disk is full")

    monkeypatch.setattr(os, "replace", full_disk)
    with pytest.raises(OSError, match="disk is full"):
        write_image(tmp_path / "a.png", 255 - pixels)
    assert os.listdir(tmp_path) == ["a.png"]
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), pixels)


def test_list_images(tmp_path, pixels):
    for name in ("b.PNG", "a.png", "sub/c.jpg", "._a.png", "notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    assert list_images(tmp_path) == ["a.png", "b.PNG", "sub/c.jpg"]
    with pytest.raises(FileNotFoundError, match="nowhere: no such folder"):
        list_images(tmp_path / "nowhere")


def test_tensors_and_pixels(pixels):
    tensor = to_tensor(pixels)
    assert tensor.shape == (3, 20, 30) and tensor.dtype == torch.float32 and tensor.is_contiguous()
    np.testing.assert_array_equal(to_pixels(tensor), pixels)
    np.testing.assert_array_equal(to_pixels(tensor[None]), pixels)
    np.testing.assert_array_equal(to_pixels(tensor[:1]), pixels[..., 0])
    assert to_tensor(pixels[..., 0]).shape == (1, 20, 30)
    assert to_tensor(np.full((2, 2, 3), 0.25)).unique().tolist() == [0.25]


def test_to_pixels_clamps_and_rounds():
    values = torch.tensor([-0.2, 0.4 / 255, 0.6 / 255, 254.4 / 255, 1.7]).view(1, 1, 5)
    assert to_pixels(values)[0].tolist() == [0, 0, 1, 254, 255]
    assert to_pixels(values.to(torch.bfloat16)).dtype == np.uint8
    with pytest.raises(ValueError, match=r"one image, got \(2, 3, 4, 4\)"):
        to_pixels(torch.zeros(2, 3, 4, 4))


def test_opencv_reads_what_we_write(tmp_path, pixels):
    write_image(tmp_path / "a.png", pixels)
    np.testing.assert_array_equal(cv2.imread(str(tmp_path / "a.png"))[..., ::-1], pixels)


def test_encoding_and_decoding_in_memory(pixels):
    ramp = np.sort(pixels, axis=0)  # something to compress
    sizes = []
    for level in (0, 9):
        data = encode_image(ramp, "a.png", png_level=level)
        np.testing.assert_array_equal(decode_image(data, "a.png"), ramp)
        sizes.append(len(data))
    assert sizes[0] > ramp.size > sizes[1]
    with pytest.raises(ValueError, match=r"x/a\.png: the file is cut off"):
        decode_image(data[:-20], "x/a.png")


def tiff_of(*shape, **options):
    """Return a TIFF file of random pixels, written by OpenCV."""
    dtype = options.pop("dtype", np.uint8)
    pixels = np.random.default_rng(0).integers(0, 100, shape).astype(dtype)
    return cv2.imencode(".tif", pixels, [cv2.IMWRITE_TIFF_COMPRESSION, 1])[1].tobytes()


@pytest.mark.parametrize(("suffix", "cut"), [(".bmp", 1), (".ppm", 1), (".pgm", 1), (".pgm", 300), (".tif", 500)])
def test_the_check_at_the_start_finds_files_that_are_cut_off(tmp_path, pixels, suffix, cut):
    path = tmp_path / f"a{suffix}"
    data = (
        tiff_of(20, 30, 3) if suffix == ".tif" else encode_image(pixels if suffix != ".pgm" else pixels[..., 0], path)
    )
    path.write_bytes(data)
    assert image_size(path) == (20, 30)
    path.write_bytes(data[:-cut])
    with pytest.raises(ValueError, match=f"a{suffix}: .*(cut off|cannot be decoded)"):
        image_size(path)


@pytest.mark.parametrize("dtype", [np.int16, np.int32, np.float32, np.float64])
def test_the_check_at_the_start_is_as_strict_as_the_decoder_of_tiffs(tmp_path, dtype):
    path = tmp_path / "a.tif"
    path.write_bytes(tiff_of(20, 30, dtype=dtype))
    with pytest.raises(ValueError, match=r"a\.tif"):
        read_image(path)
    with pytest.raises(ValueError, match=r"a\.tif"):
        image_size(path)
