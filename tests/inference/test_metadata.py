"""What outputs keep of their files: colours and profiles, EXIF, XMP, location; HEIC and AVIF; the JPEG encoder."""

import io
import logging

import cv2
import icc_profiles as icc
import numpy as np
import pytest
from helpers import squares
from PIL import ExifTags, Image, ImageCms, ImageOps, JpegImagePlugin

from basicsr.errors import OptionError
from basicsr.images.files import read_image
from basicsr.inference import formats
from basicsr.inference.color import pixels_to_srgb
from basicsr.inference.xmp import clean_xmp

Base, IFD = ExifTags.Base, ExifTags.IFD
HOLDING = [".png", ".jpg", ".tif", ".webp", ".avif"]  # formats that hold profile, EXIF and XMP
XMP = """<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
<rdf:Description rdf:about="" xmlns:exif="http://ns.adobe.com/exif/1.0/" xmlns:tiff="http://ns.adobe.com/tiff/1.0/"
 xmlns:dc="http://purl.org/dc/elements/1.1/" xmlns:photoshop="http://ns.adobe.com/photoshop/1.0/"
 xmlns:drone="http://www.dji.com/drone-dji/1.0/" xmlns:GCamera="http://ns.google.com/photos/1.0/camera/"
 exif:GPSLatitude="48,12.3N" photoshop:City="Wien" drone:GpsLongtitude="16.3" GCamera:MotionPhoto="1"
 tiff:Orientation="6" exif:PixelXDimension="40">
 <exif:GPSLongitude>16,22.1E</exif:GPSLongitude>
 <Iptc4xmpExt:LocationShown xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/"><rdf:Bag>
 <rdf:li>Stephansplatz</rdf:li></rdf:Bag></Iptc4xmpExt:LocationShown>
 <exif:PixelYDimension>30</exif:PixelYDimension>
 <dc:creator><rdf:Seq><rdf:li>Anna Muster</rdf:li></rdf:Seq></dc:creator>
</rdf:Description></rdf:RDF></x:xmpmeta>
<?xpacket end="w"?>"""
PLACES = ("48,12", "Wien", "16.3", "16,22", "Stephansplatz")


@pytest.fixture(scope="module")
def photo(photos):
    """30x40 px, RGB."""
    return np.ascontiguousarray(read_image(photos / "chelsea.png")[40:70, 30:70])


@pytest.fixture(scope="module")
def vivid(photo):
    """The photograph with colours far from gray, 30x40 px, RGB."""
    return np.clip(128 + 3.0 * (photo.astype(float) - photo.mean(axis=2, keepdims=True)) + 20, 0, 255).astype(np.uint8)


def exif_of_a_camera(orientation=1):
    exif = Image.Exif()
    exif[Base.Make], exif[Base.Model], exif[Base.Orientation] = "Make", "Camera 3", orientation
    exif[Base.DateTime] = "2026:05:01 10:11:12"
    exif[IFD.Exif] = {
        Base.DateTimeOriginal: "2026:05:01 10:11:12",
        Base.ExposureTime: 0.004,
        Base.ExifImageWidth: 40,
        Base.ExifImageHeight: 30,
        Base.MakerNote: b"at home in Wien",
        Base.ColorSpace: 65535,
    }
    exif[IFD.GPSInfo] = {1: "N", 2: (48.0, 12.0, 18.0), 3: "E", 4: (16.0, 22.0, 6.0)}
    return exif


def saved(path, pixels, **options):
    """Write a file by Pillow, without loss where the format can."""
    lossless = {".jpg": {"quality": 100, "subsampling": 0}, ".webp": {"lossless": True}, ".avif": {"quality": 100}}
    Image.fromarray(pixels).save(path, **lossless.get(path.suffix, {}), **options)
    return path


def of_littlecms(image, profile):
    """The levels of sRGB, by Pillow alone."""
    converted = ImageCms.profileToProfile(
        image,
        ImageCms.ImageCmsProfile(io.BytesIO(profile)),
        ImageCms.createProfile("sRGB"),
        renderingIntent=ImageCms.Intent.RELATIVE_COLORIMETRIC,
        outputMode="RGB",
        flags=ImageCms.Flags.BLACKPOINTCOMPENSATION,
    )
    return np.array(converted)


@pytest.mark.parametrize("suffix", HOLDING)
class TestCarriedOver:
    def test_the_profile_is_kept_with_the_values(self, tmp_path, photo, suffix):
        source = saved(tmp_path / "a.png", photo, icc_profile=icc.display_p3())
        quality = 100 if suffix != ".webp" else None
        squares(2).upscale_file(source, tmp_path / f"b{suffix}", quality=quality, compare=tmp_path / "c.png")
        with Image.open(tmp_path / "c.png") as comparison:
            assert comparison.info["icc_profile"] == icc.display_p3()
        with Image.open(tmp_path / f"b{suffix}") as output:
            assert output.info["icc_profile"] == icc.display_p3()
            difference = np.abs(np.array(output).astype(int) - photo.repeat(2, 0).repeat(2, 1)).max()
        assert difference <= {".jpg": 4, ".avif": 4}.get(suffix, 0)

    def test_camera_and_date_without_location_upright(self, tmp_path, photo, suffix):
        exif = exif_of_a_camera(6)
        turned = np.rot90(photo)  # stored lying on its side
        source = saved(tmp_path / "a.jpg", turned, exif=exif, xmp=XMP.encode())
        squares(2).upscale_file(source, tmp_path / f"b{suffix}")
        data = (tmp_path / f"b{suffix}").read_bytes()
        assert not any(place.encode() in data for place in PLACES)
        with Image.open(tmp_path / f"b{suffix}") as output:
            assert output.size == (80, 60)
            found, details = output.getexif(), output.getexif().get_ifd(IFD.Exif)
            assert (found[Base.Make], found[Base.Model]) == ("Make", "Camera 3")
            assert found.get(Base.Orientation, 1) == 1  # AVIF has none
            assert details[Base.DateTimeOriginal] == "2026:05:01 10:11:12"
            assert float(details[Base.ExposureTime]) == pytest.approx(0.004)
            assert (details[Base.ExifImageWidth], details[Base.ExifImageHeight]) == (80, 60)
            assert Base.MakerNote not in details and not found.get_ifd(IFD.GPSInfo)
            assert b"Anna Muster" in output.info["xmp"]
            pixels = np.array(output.convert("RGB")).astype(int)
        assert np.abs(pixels[::2, ::2] - photo).mean() < 4

    def test_location_where_asked_for(self, tmp_path, photo, suffix):
        source = saved(tmp_path / "a.jpg", photo, exif=exif_of_a_camera(), xmp=XMP.encode())
        squares().upscale_file(source, tmp_path / f"b{suffix}", keep_location=True)
        with Image.open(tmp_path / f"b{suffix}") as output:
            assert output.getexif().get_ifd(IFD.GPSInfo)[2] == (48.0, 12.0, 18.0)
            assert all(place in output.info["xmp"].decode() for place in PLACES)


def test_sixteen_bits_in_tiff_and_png(tmp_path, photo):
    deep = photo.astype(np.uint16) * 257 - (photo > 9)
    cv2.imwrite(str(tmp_path / "a.png"), deep[..., ::-1])
    data = (tmp_path / "a.png").read_bytes()
    with Image.open(saved(tmp_path / "p.png", photo, icc_profile=icc.adobe_rgb(), exif=exif_of_a_camera())):
        other = (tmp_path / "p.png").read_bytes()
    start, end = other.index(b"iCCP") - 4, other.index(b"IDAT") - 4
    (tmp_path / "a.png").write_bytes(data[:33] + other[start:end] + data[33:])
    for suffix in (".png", ".tif"):
        squares().upscale_file(tmp_path / "a.png", tmp_path / f"b{suffix}", bits=16)
        assert np.array_equal(read_image(tmp_path / f"b{suffix}"), deep)
        with Image.open(tmp_path / f"b{suffix}") as output:
            assert output.info["icc_profile"] == icc.adobe_rgb()
            assert output.getexif()[Base.Model] == "Camera 3"
            assert not output.getexif().get_ifd(IFD.GPSInfo)


def test_metadata_of_tiff_files_and_gray_png(tmp_path, photo):
    source = saved(tmp_path / "a.tif", photo, exif=exif_of_a_camera().tobytes(), icc_profile=icc.display_p3())
    squares(2).upscale_file(source, tmp_path / "b.jpg")
    with Image.open(tmp_path / "b.jpg") as output:
        found = output.getexif()
        assert found[Base.Model] == "Camera 3" and Base.BitsPerSample not in found and 273 not in found
        assert found.get_ifd(IFD.Exif)[Base.ExifImageWidth] == 80
    source = saved(tmp_path / "g.png", photo[..., 0], icc_profile=icc.gray_gamma())
    squares(channels=1).upscale_file(source, tmp_path / "h.png")
    with Image.open(tmp_path / "h.png") as output:
        assert output.mode == "L" and output.info["icc_profile"] == icc.gray_gamma()
        assert np.array_equal(np.array(output), photo[..., 0])


def test_damaged_blocks_are_left_out_with_a_message(tmp_path, photo, caplog):
    source = tmp_path / "a.jpg"
    exif = b"Exif\0\0II*\0\x08\0\0\0\xff\xff" + b"\x0f\x01\x05\0\xff\xff\xff\xff\0\0\0\x7f" * 3
    Image.fromarray(photo).save(source, exif=exif, xmp=b"<x:xmpmeta>", icc_profile=b"no profile")
    squares().upscale_file(source, tmp_path / "b.png")
    with Image.open(tmp_path / "b.png") as output:
        assert not {"exif", "xmp", "icc_profile"} & set(output.info)
    assert "its XMP block cannot be read and is left out" in caplog.text
    assert "its colour profile is damaged or does not fit its pixels, and is left out" in caplog.text


class TestXmp:
    def test_location_goes_and_the_rest_stays(self):
        text = clean_xmp(XMP.encode(), (60, 80), keep_location=False).decode()
        assert not any(place in text for place in PLACES)
        assert "Anna Muster" in text and "MotionPhoto" not in text
        assert 'tiff:Orientation="1"' in text and 'exif:PixelXDimension="80"' in text
        assert "<exif:PixelYDimension>60</exif:PixelYDimension>" in text
        assert text.startswith("<?xpacket begin=") and text.endswith('<?xpacket end="w"?>')

    def test_what_cannot_be_cleaned_is_not_kept(self):
        bomb = b'<!DOCTYPE x [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]><x>&b;</x>'
        assert clean_xmp(bomb, (1, 1), True) is None
        assert clean_xmp(b"<x", (1, 1), True) is None


class TestColours:
    @pytest.mark.parametrize(
        ("profile", "matrix", "gamma"),
        [(icc.display_p3(), icc.DISPLAY_P3, None), (icc.adobe_rgb(), icc.ADOBE_RGB, 563 / 256)],
        ids=["P3", "Adobe"],
    )
    def test_srgb_by_a_profile(self, tmp_path, vivid, profile, matrix, gamma):
        source = saved(tmp_path / "a.png", vivid, icc_profile=profile)
        squares().upscale_file(source, tmp_path / "b.png", color="srgb")
        output = read_image(tmp_path / "b.png").astype(float)
        exact = 255 * icc.srgb_of(vivid, matrix, gamma)
        assert np.abs(output - vivid).max() > 15  # colours as stored would be that wrong
        assert np.abs(output - exact).max() < 2 and np.abs(output - exact).mean() < 0.4  # LittleCMS in 8 bits
        with Image.open(tmp_path / "b.png") as opened:
            assert ImageCms.getProfileDescription(
                ImageCms.ImageCmsProfile(io.BytesIO(opened.info["icc_profile"]))
            ).startswith("sRGB")

    @pytest.mark.parametrize("name", ["P3", "Adobe", "gray", "table"])
    def test_sixteen_bits_agree_with_littlecms(self, tmp_path, vivid, name, caplog):
        profile = {"P3": icc.display_p3, "Adobe": icc.adobe_rgb, "gray": icc.gray_gamma, "table": icc.rgb_tables}[
            name
        ]()
        pixels = vivid if name != "gray" else vivid[..., :1].repeat(3, axis=2)
        deep = pixels.astype(np.uint16) * 257
        output = pixels_to_srgb(deep, profile, "a.png")
        image = Image.fromarray(pixels if name != "gray" else pixels[..., 0])
        assert output.dtype == np.uint16
        assert np.abs(output / 257 - of_littlecms(image, profile)).max() <= 1.5
        assert ("has tables" in caplog.text) == (name == "table")
        if name in ("P3", "Adobe"):
            matrix, gamma = (icc.DISPLAY_P3, None) if name == "P3" else (icc.ADOBE_RGB, 563 / 256)
            assert np.abs(output - 65535 * icc.srgb_of(deep, matrix, gamma)).max() < 80  # of 65535

    def test_gray_is_converted_for_an_output_of_rgb(self, tmp_path, photo, caplog):
        source = saved(tmp_path / "a.png", photo[..., 0], icc_profile=icc.gray_gamma(1.8))
        with caplog.at_level(logging.INFO, "basicsr"):
            squares().upscale_file(source, tmp_path / "b.png")
        output = read_image(tmp_path / "b.png").astype(float)
        exact = 255 * icc.encode_srgb((photo[..., :1] / 255) ** 1.8)
        assert np.abs(output - exact).max() < 1.5
        assert "its colours are converted to sRGB, for the output is RGB, its profile is not" in caplog.text

    @pytest.mark.parametrize("suffix", [".jpg", ".tif"])
    @pytest.mark.parametrize("color", ["keep", "srgb"])
    def test_cmyk_is_converted_by_its_profile(self, tmp_path, photo, suffix, color):
        inks = np.dstack([photo[::-1], photo[..., :1] // 2])
        source = tmp_path / f"a{suffix}"
        options = {"quality": 100, "subsampling": 0} if suffix == ".jpg" else {}
        exif = exif_of_a_camera(3).tobytes()
        Image.fromarray(inks, mode="CMYK").save(source, icc_profile=icc.cmyk(), exif=exif, **options)
        squares().upscale_file(source, tmp_path / "b.png", color=color)
        with Image.open(source) as opened:
            image = ImageOps.exif_transpose(opened)
        output = read_image(tmp_path / "b.png").astype(int)
        assert np.abs(output - of_littlecms(image, icc.cmyk())).max() <= 1
        assert np.abs(output - np.array(image.convert("RGB"))).mean() > 5  # without the profile

    def test_formats_without_profiles_get_srgb(self, tmp_path, vivid):
        source = saved(tmp_path / "a.png", vivid, icc_profile=icc.display_p3())
        squares().upscale_file(source, tmp_path / "b.bmp")
        assert np.abs(read_image(tmp_path / "b.bmp") - 255 * icc.srgb_of(vivid, icc.DISPLAY_P3)).max() < 2

    def test_alpha_stays(self, tmp_path, vivid):
        rgba = np.dstack([vivid, vivid[..., 1]])
        source = saved(tmp_path / "a.png", rgba, icc_profile=icc.display_p3())
        squares().upscale_file(source, tmp_path / "b.png", color="srgb")
        with Image.open(tmp_path / "b.png") as output:
            assert np.array_equal(np.array(output)[..., 3], rgba[..., 3])
            assert np.abs(np.array(output)[..., :3] - 255 * icc.srgb_of(vivid, icc.DISPLAY_P3)).max() < 2

    def test_pil_images_keep_theirs(self, vivid):
        image = Image.fromarray(vivid)
        image.info["icc_profile"] = icc.display_p3()
        output = squares(2)(image)
        assert output.info["icc_profile"] == icc.display_p3() and np.array_equal(np.array(output)[::2, ::2], vivid)
        gray = squares(channels=1)(image)
        assert gray.mode == "L" and "icc_profile" not in gray.info
        cmyk = Image.fromarray(np.dstack([vivid, vivid[..., 0] // 3]), mode="CMYK")
        cmyk.info["icc_profile"] = icc.cmyk()
        output = squares()(cmyk)
        assert output.mode == "RGB" and icc.cmyk() != output.info["icc_profile"]

    def test_values_of_options(self):
        with pytest.raises(OptionError, match="--color: must be one of keep, srgb, got 'cmyk'"):
            squares().upscale_file("a.png", "b.png", color="cmyk")
        with pytest.raises(OptionError, match=r"--output-quality: must be in \[1, 100\], got 0"):
            squares().upscale_file("a.png", "b.png", quality=0)


@pytest.mark.parametrize(("quality", "sampling"), [(None, 0), (90, 0), (89, 2), (50, 2)])
def test_jpeg_has_full_colour_from_quality_90_on(tmp_path, photo, quality, sampling):
    squares().upscale_file(saved(tmp_path / "a.png", photo), tmp_path / "b.jpg", quality=quality)
    with Image.open(tmp_path / "b.jpg") as output:
        assert JpegImagePlugin.get_sampling(output) == sampling
    Image.fromarray(photo).save(tmp_path / "c.jpg", quality=quality or 95, subsampling=sampling)
    with Image.open(tmp_path / "b.jpg") as output, Image.open(tmp_path / "c.jpg") as by_pillow:
        assert output.quantization == by_pillow.quantization


class TestHeifAndAvif:
    @pytest.fixture
    def heic(self, tmp_path, photo):
        pillow_heif = pytest.importorskip("pillow_heif", reason="needs the extra heic: pip install pillow-heif")
        exif = exif_of_a_camera(6).tobytes()
        image = pillow_heif.from_pillow(Image.fromarray(np.ascontiguousarray(np.rot90(photo))))
        image.save(tmp_path / "a.heic", quality=100, chroma=444, exif=exif, icc_profile=icc.display_p3())
        return tmp_path / "a.heic"

    def test_heic_upright_in_its_colours(self, heic, photo, tmp_path):
        squares(2).upscale_file(heic, tmp_path / "b.png")
        with Image.open(tmp_path / "b.png") as output:
            assert output.size == (80, 60) and output.info["icc_profile"] == icc.display_p3()
            assert output.getexif()[Base.Model] == "Camera 3" and not output.getexif().get_ifd(IFD.GPSInfo)
            assert np.abs(np.array(output)[::2, ::2].astype(int) - photo).mean() < 3
        assert squares(1)(heic).shape == (30, 40, 3)

    def test_avif_upright(self, tmp_path, photo):
        exif = exif_of_a_camera(6)
        source = saved(tmp_path / "a.avif", np.ascontiguousarray(np.rot90(photo)), exif=exif)
        squares().upscale_file(source, tmp_path / "b.png")
        assert np.abs(read_image(tmp_path / "b.png").astype(int) - photo).mean() < 3
        squares(2).upscale_file(source, tmp_path / "b.avif")
        with Image.open(tmp_path / "b.avif") as output:
            assert output.size == (80, 60) and output.getexif().get(Base.Orientation, 1) == 1

    def test_without_the_package_the_message_says_what_to_install(self, tmp_path, monkeypatch):
        monkeypatch.setattr(formats, "has_heif", lambda: False)
        (tmp_path / "a.heic").write_bytes(b"\0\0\0\x1cftypheic\0\0\0\0mif1heicmiaf" + b"\0" * 40)
        with pytest.raises(ValueError, match=r"a\.heic: HEIC files need one more package: pip install pillow-heif"):
            squares()(tmp_path / "a.heic")

    def test_damaged_files_are_named(self, tmp_path, photo):
        source = saved(tmp_path / "a.avif", photo)
        source.write_bytes(source.read_bytes()[:200])
        with pytest.raises(ValueError, match=r"a\.avif: cannot be decoded as an image"):
            squares()(source)


@pytest.mark.parametrize("suffix", [".png", ".webp"])
def test_orientation_of_png_and_webp_is_applied(tmp_path, photo, suffix):
    for orientation in range(1, 9):
        source = saved(tmp_path / f"a{suffix}", photo, exif=exif_of_a_camera(orientation))
        squares().upscale_file(source, tmp_path / "b.png")
        jpeg = saved(tmp_path / "a.jpg", photo, exif=exif_of_a_camera(orientation))
        output, decoded = read_image(tmp_path / "b.png").astype(int), read_image(jpeg)  # turned by OpenCV
        assert output.shape == decoded.shape and np.abs(output - decoded).mean() < 2
