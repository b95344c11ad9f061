"""Image files of every kind and in every state are read right, or rejected with a message that names the file.

The full campaign: `make fuzz`. docs/reliability.md has a table of the result for each kind.
"""

import io
import logging
import re
import time
import zlib
from collections import Counter
from contextlib import suppress

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from reliability.mutations import bounded, campaign, encoded, image_file, peak_mb, png, png_chunk, quiet, report

from basicsr.archs import build_network
from basicsr.data.single_image_dataset import SingleImageDataset
from basicsr.data.storage import FolderImages
from basicsr.images.files import (
    decode_gray,
    decode_image,
    exif_orientation,
    image_facts,
    image_size,
    read_image,
    to_tensor,
    write_image,
)
from basicsr.inference.reading import upright
from basicsr.inference.upscaler import Upscaler

MAX_SECONDS = 20  # of CPU time for one file
MAX_GROWTH_MB = 500  # of the process over a whole campaign


@pytest.fixture(scope="module")
def photo(photos):
    """RGB, (64, 50, 3)."""
    return read_image(photos / "coffee.png")[:64, :50]


@pytest.fixture(scope="module")
def ramp():
    """Alpha, (64, 50)."""
    return np.tile(np.arange(50, dtype=np.uint8) * 5, (64, 1))


@pytest.fixture(scope="module")
def upscaler():
    return Upscaler(build_network({"type": "Bicubic", "upscale": 2}), {"type": "Bicubic"}, device="cpu")


def as_in_inference(pixels, path):
    """Pixels as data sets read them, as inference does: it applies the orientation of PNG and WebP files."""
    if "its orientation" not in image_facts(path).left_out:
        return pixels
    with Image.open(path) as image:
        return upright(pixels, exif_orientation(image))


def attempt(number, folder, photo, upscaler):
    """Return "read" or "rejected" for case `number`; a valid file must be read, and the cache keeps its pixels."""
    suffix, data, is_valid = image_file(number, photo)
    path = folder / f"a{suffix}"
    path.write_bytes(data)
    try:
        size = image_size(path)
        image = upscaler.read(path)
    except (ValueError, OSError) as error:
        assert not is_valid, f"a valid file was rejected: {error}"
        assert str(path) in str(error)
        with pytest.raises((ValueError, OSError), match=re.escape(path.name)):
            SingleImageDataset(dataroot_lq=str(folder))[0]
        path.unlink()
        return "rejected"
    assert image.shape[:2] == as_in_inference(np.empty(size), path).shape and image.shape[2] in (3, 4)
    assert image.dtype in (np.uint8, np.uint16)
    assert decode_gray(data, path).shape == (*size, 1)
    cached = SingleImageDataset(dataroot_lq=str(folder), cache_mb=8)
    for _ in range(2):
        in_data_set = as_in_inference(cached[0]["lq"].permute(1, 2, 0).numpy(), path)
        np.testing.assert_array_equal(in_data_set, to_tensor(image[..., :3]).permute(1, 2, 0))
    upscaler.upscale_file(path, folder / "out/a.png")
    assert (image_facts(folder / "out/a.png").left_out == ("its transparency",)) is (image.shape[2] == 4)
    assert read_image(folder / "out/a.png").shape == (2 * image.shape[0], 2 * image.shape[1], 3)
    (folder / "out/a.png").unlink()
    path.unlink()
    return "read"


@pytest.mark.parametrize("numbers", campaign(150, 2_000))
def test_mutated_image_files(tmp_path, photo, upscaler, numbers):
    counts, slowest, failures = Counter(), (0.0, -1), []
    for number in range(10):  # loads libraries, so that their memory is not measured
        with quiet(), suppress(Exception):
            attempt(number, tmp_path, photo, upscaler)
    before = peak_mb()
    for number in numbers:
        start = time.process_time()
        try:
            with quiet(), bounded(MAX_SECONDS, f"case {number}"):
                counts[attempt(number, tmp_path, photo, upscaler)] += 1
        except (Exception, pytest.fail.Exception) as error:  # noqa: BLE001 - all failures of a campaign are of interest
            failures.append(f"case {number}: {type(error).__name__}: {str(error)[:300]}")
            for path in tmp_path.glob("a.*"):
                path.unlink()
        slowest = max(slowest, (time.process_time() - start, number))
    report(
        "image files", counts, slowest=f"{slowest[0]:.1f} s (case {slowest[1]})", memory=f"+{peak_mb() - before:.0f} MB"
    )
    assert not failures, f"{len(failures)} failures:\n" + "\n".join(failures[:400])
    assert min(counts["read"], counts["rejected"]) > 0.1 * counts.total()
    assert peak_mb() - before < MAX_GROWTH_MB


@given(
    st.binary(),
    st.sampled_from([b"", b"\xff\xd8\xff\xe1", b"\x89PNG\r\n\x1a\n", b"II*\0", b"RIFF\0\0\0\0WEBP", b"BM", b"P6 "]),
)
def test_any_bytes(tmp_path_factory, data, head):
    path = tmp_path_factory.getbasetemp() / "any.png"
    path.write_bytes(head + data)
    for read in (read_image, image_size):
        try:
            read(path)
        except ValueError as error:
            assert str(path) in str(error)


class TestKinds:
    """The rows of the table in docs/reliability.md."""

    @pytest.fixture
    def read(self, tmp_path, upscaler, caplog):
        """Reads a file for inference, as a data set and as gray -> its pixels, RGB or RGBA, and the warnings."""

        def read(data, suffix):
            for path in tmp_path.glob("a.*"):
                path.unlink()
            path = tmp_path / f"a{suffix}"
            path.write_bytes(data)
            with caplog.at_level(logging.WARNING, "basicsr"):
                caplog.clear()
                image = upscaler.read(path)
                messages = [record.getMessage() for record in caplog.records]
            decoded = read_image(path)
            assert decoded.shape[:2] == image_size(path) == decode_gray(data, path).shape[:2]
            np.testing.assert_array_equal(as_in_inference(decoded, path), image[..., :3])
            np.testing.assert_array_equal(SingleImageDataset(dataroot_lq=str(tmp_path))[0]["lq"], to_tensor(decoded))
            return image, messages

        return read

    @pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "PPM", "WEBP"])
    def test_rgb_and_gray(self, read, photo, kind):
        options = {"lossless": True} if kind == "WEBP" else {}
        suffix = {"WEBP": ".webp", "TIFF": ".tif"}.get(kind, f".{kind.lower()}")
        image, messages = read(encoded(photo, kind, **options), suffix)
        np.testing.assert_array_equal(image, photo)
        gray, _ = read(encoded(photo[..., 0], kind, **options), suffix)
        np.testing.assert_array_equal(gray, np.dstack([photo[..., 0]] * 3))
        assert messages == []

    @pytest.mark.parametrize(("kind", "suffix"), [("PNG", ".png"), ("TIFF", ".tif"), ("WEBP", ".webp")])
    def test_only_inference_keeps_alpha_and_the_colors_under_it(self, read, photo, ramp, kind, suffix):
        options = {"lossless": True, "exact": True} if kind == "WEBP" else {}
        image, messages = read(encoded(np.dstack([photo, ramp]), kind, **options), suffix)
        np.testing.assert_array_equal(image, np.dstack([photo, ramp]))
        assert messages == []
        if kind in ("PNG", "TIFF"):
            image, _ = read(encoded(np.dstack([photo[..., 0], ramp]), kind), suffix)
            np.testing.assert_array_equal(image, np.dstack([photo[..., 0]] * 3 + [ramp]))

    @pytest.mark.parametrize("suffix", [".png", ".tif"])
    @pytest.mark.parametrize("channels", [1, 3, 4])
    def test_sixteen_bits_stay_until_the_output(self, read, upscaler, photo, ramp, suffix, channels):
        deep = photo.astype(np.uint16) * 257 - (photo > 0)
        stored_rgba = np.dstack([deep, ramp.astype(np.uint16) * 257 - (ramp > 0)])
        stored = {1: deep[..., 0], 3: deep[..., ::-1], 4: stored_rgba[..., [2, 1, 0, 3]]}[channels]  # OpenCV writes BGR
        image, messages = read(cv2.imencode(suffix, stored)[1].tobytes(), suffix)
        assert image.dtype == np.uint16
        np.testing.assert_array_equal(image, {1: np.dstack([deep[..., 0]] * 3), 3: deep, 4: stored_rgba}[channels])
        assert messages == []
        np.testing.assert_array_equal(to_tensor(image).numpy(), (image / np.float32(65535)).transpose(2, 0, 1))
        assert upscaler(image).dtype == np.uint8

    def test_palettes(self, read, photo):
        palette = Image.fromarray(photo).convert("P", palette=Image.Palette.ADAPTIVE, colors=200)
        for kind, suffix in (("PNG", ".png"), ("BMP", ".bmp"), ("TIFF", ".tif")):
            image, messages = read(encoded(palette, kind), suffix)
            np.testing.assert_array_equal(image, np.array(palette.convert("RGB")))
            assert messages == []
        image, messages = read(encoded(palette, "PNG", transparency=3), ".png")
        with Image.open(io.BytesIO(encoded(palette, "PNG", transparency=3))) as opened:
            np.testing.assert_array_equal(image, np.array(opened.convert("RGBA")))
        assert messages == []
        one_bit = Image.fromarray(photo).convert("1")
        for kind, suffix in (("PNG", ".png"), ("BMP", ".bmp"), ("TIFF", ".tif")):
            np.testing.assert_array_equal(read(encoded(one_bit, kind), suffix)[0], np.array(one_bit.convert("RGB")))

    def test_cmyk(self, read, photo):
        cmyk = Image.fromarray(photo).convert("CMYK")
        image, _ = read(encoded(cmyk, "TIFF"), ".tif")
        np.testing.assert_array_equal(image, np.array(cmyk.convert("RGB")))
        image, _ = read(encoded(cmyk, "JPEG", quality=100, subsampling=0), ".jpg")
        assert np.abs(image.astype(int) - photo).max() <= 6

    @pytest.mark.parametrize("orientation", range(1, 9))
    def test_orientation(self, read, photo, orientation):
        exif = Image.Exif()
        exif[0x0112] = orientation
        turned = {
            1: lambda x: x,
            2: lambda x: x[:, ::-1],
            3: lambda x: x[::-1, ::-1],
            4: lambda x: x[::-1],
            5: lambda x: x.swapaxes(0, 1),
            6: lambda x: np.rot90(x, -1),
            7: lambda x: np.rot90(x, 2).swapaxes(0, 1),
            8: np.rot90,
        }[orientation]
        image, messages = read(encoded(photo, "TIFF", exif=exif), ".tif")
        np.testing.assert_array_equal(image, turned(photo))
        assert messages == []
        plain, _ = read(encoded(photo, "JPEG"), ".jpg")
        image, messages = read(encoded(photo, "JPEG", exif=exif), ".jpg")
        np.testing.assert_array_equal(image, turned(plain))
        assert messages == []
        for kind, suffix, options in (("PNG", ".png", {}), ("WEBP", ".webp", {"lossless": True})):
            image, messages = read(encoded(photo, kind, exif=exif, **options), suffix)
            np.testing.assert_array_equal(image, turned(photo))
            assert messages == []

    def test_orientation_in_xmp_is_ignored(self, read, photo):
        """Pillow applies it, OpenCV does not; sizes and pixels of a data set must agree."""
        xmp = (
            b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
            b'<rdf:Description xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Orientation="6"/></rdf:RDF></x:xmpmeta>'
        )
        assert read(encoded(photo, "JPEG", xmp=xmp), ".jpg")[0].shape == (64, 50, 3)

    @pytest.mark.parametrize(
        ("kind", "suffix"), [("PNG", ".png"), ("WEBP", ".webp"), ("TIFF", ".tif"), ("GIF", ".png")]
    )
    def test_the_first_frame_is_read(self, read, photo, kind, suffix):
        frames = [Image.fromarray(x) for x in (photo, 255 - photo, photo[::-1].copy())]
        if kind == "GIF":
            frames = [frame.convert("P") for frame in frames]
        options = {"lossless": True} if kind == "WEBP" else {}
        image, messages = read(encoded(frames[0], kind, save_all=True, append_images=frames[1:], **options), suffix)
        np.testing.assert_array_equal(image, np.array(frames[0].convert("RGB")))
        assert [m.endswith("its frames after the first is left out") or "frames" in m for m in messages] == [True]

    @pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 5000), (5000, 1)])
    def test_thin(self, read, upscaler, height, width):
        pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
        np.testing.assert_array_equal(read(encoded(pixels, "PNG"), ".png")[0], pixels)
        assert upscaler(pixels).shape == (2 * height, 2 * width, 3)

    def test_the_content_decides_not_the_suffix(self, read, photo):
        for suffix in (".jpg", ".tif", ".bmp", ".webp"):
            np.testing.assert_array_equal(read(encoded(photo, "PNG"), suffix)[0], photo)

    @pytest.mark.parametrize("mode", ["F", "I"])
    def test_other_depths_are_rejected(self, tmp_path, photo, mode):
        path = tmp_path / "a.tif"
        Image.fromarray(photo).convert("L").convert(mode).save(path)
        with pytest.raises(ValueError, match=r"a\.tif"):
            read_image(path)


class TestDamage:
    def test_a_cut_off_photo_with_a_preview(self, tmp_path, photo):
        """The preview in the header has its own end marker, which does not end the photo."""
        exif = b"Exif\0\0" + b"MM\0*\0\0\0\x08\0\0" + encoded(photo[:8, :8], "JPEG")
        data = encoded(np.resize(photo, (300, 300, 3)), "JPEG", exif=exif)
        assert b"\xff\xd9" in data[: len(data) // 2]
        (tmp_path / "a.jpg").write_bytes(data)
        assert image_size(tmp_path / "a.jpg") == (300, 300)
        (tmp_path / "a.jpg").write_bytes(data[: len(data) // 2])
        for read in (image_size, read_image):
            with pytest.raises(ValueError, match=r"a\.jpg: the file is cut off"):
                read(tmp_path / "a.jpg")

    def test_flipped_bits_in_a_png_are_detected(self, photo):
        data = encoded(photo, "PNG")
        rng = np.random.default_rng(0)
        for at in rng.integers(8, len(data) - 16, 100):
            bad = bytearray(data)
            bad[at] ^= 1 << int(rng.integers(8))
            with pytest.raises(ValueError, match=r"a\.png"):
                decode_image(bytes(bad), "a.png")

    @pytest.mark.parametrize("compression", ["tiff_adobe_deflate", "tiff_lzw"])
    def test_damaged_strips_of_a_tiff_are_detected(self, photo, compression):
        data = bytearray(encoded(photo, "TIFF", compression=compression))
        data[200:260] = bytes(60)
        with pytest.raises(ValueError, match=r"a\.tif"):
            decode_image(bytes(data), "a.tif")

    def test_an_orientation_that_decoders_read_differently(self, tmp_path, photo, upscaler):
        exif = b"Exif\0\0M\r\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"
        (tmp_path / "a.jpg").write_bytes(encoded(photo, "JPEG", exif=exif))
        for read in (read_image, upscaler.read, lambda path: SingleImageDataset(dataroot_lq=str(path.parent))[0]):
            with pytest.raises(ValueError, match=r"a\.jpg: its header said"):
                read(tmp_path / "a.jpg")

    def test_a_data_set_names_the_damaged_image(self, tmp_path, photo):
        for k in range(3):
            write_image(tmp_path / f"{k}.png", photo)
        (tmp_path / "1.png").write_bytes(encoded(photo, "PNG").replace(b"IDAT", b"IDAX"))
        with pytest.raises(ValueError, match=r"1\.png"):
            [*SingleImageDataset(dataroot_lq=str(tmp_path))]

    def test_an_image_that_changed_is_an_error(self, tmp_path, photo):
        write_image(tmp_path / "a.png", photo)
        dataset = SingleImageDataset(dataroot_lq=str(tmp_path), cache_mb=8)
        write_image(tmp_path / "a.png", photo[:30])
        with pytest.raises(ValueError, match=r"a\.png: its header said \(64, 50\), the image is \(30, 50\)"):
            dataset[0]


class TestBombs:
    """Small files that claim or hold far more pixels or text than fits into memory."""

    @pytest.mark.parametrize(
        ("width", "height"), [(20_000, 20_000), (40_000, 40_000), (2**31 - 1, 2**31 - 1), (10**6, 10**6)]
    )
    @pytest.mark.parametrize("read", [read_image, image_size])
    def test_many_pixels(self, tmp_path, read, width, height):
        path = tmp_path / "a.png"
        path.write_bytes(png(width, height, bytes(10**6)))
        before = peak_mb()
        with (
            bounded(MAX_SECONDS, "a bomb"),
            pytest.raises(ValueError, match=r"a\.png: has too many pixels .*cut it into tiles"),
        ):
            read(path)
        assert peak_mb() - before < 200

    @pytest.mark.parametrize("read", [read_image, image_size])
    def test_a_chunk_that_claims_more_than_the_file_has(self, tmp_path, photo, read):
        data = encoded(photo, "PNG")
        at = data.index(b"IDAT") - 4
        (tmp_path / "a.png").write_bytes(data[:at] + (2**31 - 20).to_bytes(4, "big") + data[at + 4 :])
        before = peak_mb()
        with pytest.raises(ValueError, match=r"a\.png: cannot be decoded as an image \(a chunk is longer"):
            read(tmp_path / "a.png")
        assert peak_mb() - before < 100

    def test_a_data_set_rejects_them(self, tmp_path):
        (tmp_path / "a.png").write_bytes(png(30_000, 30_000, bytes(10**6)))
        with pytest.raises(ValueError, match=r"a\.png: has too many pixels"):
            FolderImages(tmp_path).sizes(["a.png"])

    @pytest.mark.parametrize("name", [b"zTXt", b"iTXt", b"iCCP"])
    def test_text_that_grows(self, tmp_path, name):
        text = zlib.compress(bytes(300 << 20), 9)
        before = {b"zTXt": b"k\0\0", b"iTXt": b"k\0\1\0\0\0", b"iCCP": b"k\0\0"}[name] + text
        path = tmp_path / "a.png"
        path.write_bytes(png(2, 2, bytes(14), before=png_chunk(name, before)))
        memory = peak_mb()
        with bounded(MAX_SECONDS, "a bomb"):
            try:
                assert read_image(path).shape == (2, 2, 3)
            except ValueError as error:
                assert "a.png" in str(error)
        assert peak_mb() - memory < 200
