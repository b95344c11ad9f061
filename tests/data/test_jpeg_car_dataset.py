import cv2
import numpy as np
import pytest
import torch

from basicsr.data import build_dataset
from basicsr.data.data_sampler import SampleIndex
from basicsr.data.jpeg_car_dataset import JPEGArtifactDataset
from basicsr.images.files import to_pixels, to_tensor, write_image


def levels(tensor):
    """Return the 8-bit levels, (h, w) or (h, w, 3) RGB, of a tensor."""
    torch.testing.assert_close(tensor * 255, (tensor * 255).round(), rtol=0, atol=1e-4)
    return to_pixels(tensor)


@pytest.mark.parametrize("quality", [10, 40])
def test_validation_is_opencvs_codec_at_that_quality(photos, quality):
    dataset = JPEGArtifactDataset(dataroot_gt=str(photos), phase="val", quality_factor=quality)
    for sample in dataset:
        gray = cv2.imread(sample["gt_path"], cv2.IMREAD_GRAYSCALE)
        jpeg = cv2.imencode(".jpg", gray, [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
        np.testing.assert_array_equal(sample["gt"], to_tensor(gray))
        np.testing.assert_array_equal(sample["lq"], to_tensor(cv2.imdecode(jpeg, cv2.IMREAD_GRAYSCALE)))


def test_colour(photos):
    dataset = JPEGArtifactDataset(dataroot_gt=str(photos), phase="val", quality_factor=20, in_ch=3)
    for sample in dataset:
        bgr = cv2.imread(sample["gt_path"])
        jpeg = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, 20])[1]
        np.testing.assert_array_equal(levels(sample["gt"]), bgr[..., ::-1])
        np.testing.assert_array_equal(levels(sample["lq"]), cv2.imdecode(jpeg, cv2.IMREAD_COLOR)[..., ::-1])


@pytest.mark.parametrize("in_ch", [1, 3])
def test_training_compresses_the_crop_as_it_is_shown(photos, in_ch):
    options = {"dataroot_gt": str(photos), "gt_size": 40, "quality_factor": 10, "in_ch": in_ch}
    dataset = JPEGArtifactDataset(**options)
    samples = [dataset[SampleIndex(0, index)] for index in range(10)]
    for sample in samples:
        assert sample["lq"].shape == sample["gt"].shape == (in_ch, 40, 40)
        shown = levels(sample["gt"])
        jpeg = cv2.imencode(".jpg", shown[..., ::-1] if in_ch == 3 else shown, [cv2.IMWRITE_JPEG_QUALITY, 10])[1]
        decoded = cv2.imdecode(jpeg, cv2.IMREAD_COLOR if in_ch == 3 else cv2.IMREAD_GRAYSCALE)
        np.testing.assert_array_equal(levels(sample["lq"]), decoded[..., ::-1] if in_ch == 3 else decoded)
    assert len({sample["gt"].numpy().tobytes() for sample in samples}) == 10
    again = JPEGArtifactDataset(**options)[SampleIndex(0, 9)]
    assert torch.equal(again["lq"], samples[9]["lq"])
    assert torch.equal(again["gt"], samples[9]["gt"])


def test_small_images_are_mirrored(tmp_path):
    gray = np.random.default_rng(0).integers(0, 256, (8, 16), np.uint8)
    write_image(tmp_path / "a.png", gray)
    dataset = JPEGArtifactDataset(dataroot_gt=str(tmp_path), gt_size=16, quality_factor=90, geometric_augs=False)
    np.testing.assert_array_equal(levels(dataset[0]["gt"]), np.concatenate([gray, gray[::-1]]))


def test_sixteen_bits_are_compressed_as_eight(tmp_path):
    gray = np.random.default_rng(0).integers(0, 256, (16, 16), np.uint8)
    write_image(tmp_path / "a.png", gray)
    write_image(tmp_path / "b.png", gray.astype(np.uint16) * 257)
    eight, sixteen = JPEGArtifactDataset(dataroot_gt=str(tmp_path), phase="val", quality_factor=30)
    torch.testing.assert_close(sixteen["lq"], eight["lq"], rtol=0, atol=0)
    torch.testing.assert_close(sixteen["gt"], eight["gt"])


class TestUrban100:
    """The published test swaps the weights of red and blue; `gray: swapped_luma` compares with it."""

    def test_swapped_luma(self, photos):
        options = {"dataroot_gt": str(photos), "phase": "test", "quality_factor": 10, "gray": "swapped_luma"}
        for sample in JPEGArtifactDataset(**options):
            bgr = cv2.imread(sample["gt_path"]) / 255
            luma = (16 + bgr @ [65.481, 128.553, 24.966]).round().astype(np.uint8)
            np.testing.assert_array_equal(levels(sample["gt"]), luma)
            jpeg = cv2.imencode(".jpg", luma, [cv2.IMWRITE_JPEG_QUALITY, 10])[1]
            np.testing.assert_array_equal(levels(sample["lq"]), cv2.imdecode(jpeg, cv2.IMREAD_GRAYSCALE))

    def test_the_difference_is_named(self, photos, tmp_path, caplog):
        (tmp_path / "Urban100HQ").symlink_to(photos)
        options = {"dataroot_gt": str(tmp_path / "Urban100HQ"), "quality_factor": 10}
        JPEGArtifactDataset(phase="test", gray="swapped_luma", **options)
        JPEGArtifactDataset(phase="train", **options)
        JPEGArtifactDataset(phase="test", in_ch=3, **options)
        assert caplog.text == ""
        JPEGArtifactDataset(phase="test", **options)
        assert "set gray: swapped_luma in this data set" in caplog.text


def test_classic5(shared):
    dataset = JPEGArtifactDataset(dataroot_gt=str(shared / "data/classic5"), phase="test", quality_factor=10)
    errors = [(sample["lq"] - sample["gt"]).double().pow(2).mean().log10().item() for sample in dataset]
    assert -10 * np.mean(errors) == pytest.approx(27.82, abs=0.05)  # as every paper on classic5 says of its input


def test_built_from_a_section(photos):
    section = {
        "type": "Dataset_JPEGCAR",
        "name": "DFWB",
        "dataroot_gt": str(photos),
        "quality_factor": 40,
        "gt_size": 48,
        "gt_sizes": [24, 48],
        "iters": [6, 4],
        "mini_batch_sizes": [6, 3],
        "geometric_augs": True,
    }
    dataset = build_dataset(section, scale=1, phase="train", seed=0)
    assert dataset[0]["lq"].shape == (1, 48, 48)


@pytest.mark.parametrize("quality", [0, 101])
def test_qualities_out_of_range_are_errors(photos, quality):
    with pytest.raises(ValueError, match=rf"quality_factor: must be in \[1, 100\], got {quality}"):
        JPEGArtifactDataset(dataroot_gt=str(photos), quality_factor=quality)
