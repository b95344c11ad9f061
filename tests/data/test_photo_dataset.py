import io
import itertools

import numpy as np
import pytest
import torch
from helpers import TINY_CATANET, run_here, write_options
from PIL import Image

import basicsr.train
from basicsr.data import build_dataloader, build_dataset
from basicsr.data.data_sampler import EnlargedSampler, SampleIndex
from basicsr.data.device_cache import DeviceCacheError, DeviceLoader
from basicsr.data.paired_image_dataset import PairedImageDataset
from basicsr.data.photo_dataset import PhotoDataset
from basicsr.images.files import list_images, read_image, to_pixels, write_image
from basicsr.images.matlab_resize import imresize

CLEAN = {"blur_prob": 0, "kernels": ["bicubic"], "noise_prob": 0, "jpeg_prob": 0}
Q75 = {**CLEAN, "jpeg_prob": 1, "jpeg_quality": [75, 75], "chroma_420_prob": 1}


def photo(folder, **options):
    return build_dataset({"type": "PhotoDataset", "dataroot_gt": str(folder), "scale": 2, **options}, seed=3)


def assert_equal(one, other):
    assert one.keys() == other.keys()
    for key, value in one.items():
        assert torch.equal(value, other[key]) if isinstance(value, torch.Tensor) else value == other[key]


def pillow_jpeg(image, quality, subsampling="4:2:0"):
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=quality, subsampling=subsampling)
    return np.asarray(Image.open(file))


def error(sample):
    """The mean error in levels against MATLAB's bicubic, without the edges, where a crop's surroundings matter."""
    difference = sample["lq"] - imresize(sample["gt"], 1 / 2).clamp(0, 1)
    return float(difference[:, 3:-3, 3:-3].abs().mean() * 255)


@pytest.fixture(scope="module")
def one_color(tmp_path_factory):
    """Folder of an image without details, so that all that differs from it is degradation."""
    folder = tmp_path_factory.mktemp("one_color")
    write_image(folder / "a.png", np.full((256, 256, 3), (120, 130, 110), np.uint8))
    return folder


class TestWholeImages:
    @pytest.mark.parametrize("quality", [75, 90])
    @pytest.mark.parametrize("chroma", ["4:2:0", "4:4:4"])
    def test_one_quality_is_bicubic_saved_as_jpeg(self, photos, quality, chroma):
        options = {**Q75, "jpeg_quality": [quality, quality], "chroma_420_prob": chroma == "4:2:0"}
        for sample in photo(photos, phase="test", **options):
            gt = read_image(sample["gt_path"])
            gt = gt[: gt.shape[0] // 2 * 2, : gt.shape[1] // 2 * 2]
            np.testing.assert_array_equal(to_pixels(sample["gt"]), gt)
            np.testing.assert_array_equal(to_pixels(sample["lq"]), pillow_jpeg(imresize(gt, 1 / 2), quality, chroma))

    def test_nothing_is_drawn_anew(self, photos):
        dataset = photo(photos, phase="val")
        for index in range(len(dataset)):
            first = dataset[index]
            assert_equal(first, dataset[index])
            assert_equal(first, dataset[SampleIndex(7, index)])
            assert_equal(first, photo(photos, phase="test")[index])
            np.testing.assert_array_equal(to_pixels(first["lq"]), dataset.read_pair(index)[0])
        drawn = {dataset.degradation.draw(dataset._degradation_rng(index)) for index in range(len(dataset))}
        assert len(drawn) == len(dataset)

    def test_the_clean_ones_are_those_of_pairs(self, photos):
        pairs = PairedImageDataset(dataroot_gt=str(photos), scale=2, phase="val")
        for one, other in zip(photo(photos, phase="val", **CLEAN), pairs, strict=True):
            assert_equal(one, other)


class TestTraining:
    def test_the_clean_crops_are_those_of_pairs(self, photos):
        for use_rot in (False, True):
            options = {"gt_size": 48, "use_rot": use_rot}
            pairs = PairedImageDataset(dataroot_gt=str(photos), scale=2, seed=3, **options)
            dataset = photo(photos, **options, **CLEAN)
            for key in (SampleIndex(epoch, index) for epoch in range(3) for index in range(10)):
                one, other = dataset[key], pairs[key]
                # MATLAB rounds after the rows and after the columns: with swapped axes, some levels differ by one.
                assert (one.pop("lq") - other.pop("lq")).abs().max() < (1.1 if use_rot else 0.1) / 255
                assert_equal(one, other)

    @pytest.mark.parametrize("kernel", ["bicubic", "area", "bilinear", "lanczos"])
    @pytest.mark.parametrize("sigma", [0, 0.8, 4])
    def test_crops_are_parts_of_the_blurred_and_downscaled_image(self, photos, kernel, sigma):
        options = {**CLEAN, "blur_prob": 1, "blur_sigma": [sigma, sigma], "kernels": [kernel]}
        whole = photo(photos, phase="val", **options)
        dataset = photo(photos, gt_size=32, use_hflip=False, use_rot=False, **options)
        for key in (SampleIndex(0, index) for index in range(20)):
            position, window, _ = dataset.draw(key)
            np.testing.assert_array_equal(dataset[key]["lq"].permute(1, 2, 0),
                                          window.crop(whole[position]["lq"].permute(1, 2, 0).numpy()))  # fmt: skip

    def test_samples_are_aligned_and_differ(self, photos):
        dataset = photo(photos, gt_size=64)
        samples = [dataset[SampleIndex(epoch, index)] for epoch in range(4) for index in range(5)]
        for sample in samples:
            assert sample["lq"].shape == (3, 32, 32) and sample["gt"].shape == (3, 64, 64)
            assert error(sample) < 15
        assert len({sample["lq"].numpy().tobytes() for sample in samples}) == 20
        assert_equal(dataset[1], dataset[SampleIndex(0, 1)])

    def test_workers_and_ranks_change_nothing(self, photos):
        def batches(world, rank, workers):
            dataset = photo(photos, gt_size=32)
            sampler = EnlargedSampler(len(dataset), world, rank, ratio=4, seed=7)
            loader = build_dataloader(
                dataset, phase="train", batch_size=4 // world, num_workers=workers, sampler=sampler
            )
            for epoch in range(2):
                sampler.set_epoch(epoch)
                yield from loader

        alone = list(batches(1, 0, 0))
        assert len(alone) == 10
        for one, other in zip(alone, batches(1, 0, 2), strict=True):
            assert_equal(one, other)
        for whole, *parts in zip(alone, batches(2, 0, 0), batches(2, 1, 0), strict=True):
            shared = [image.numpy().tobytes() for part in parts for image in part["lq"]]
            assert sorted(shared) == sorted(image.numpy().tobytes() for image in whole["lq"])

    def test_a_crop_is_a_part_of_the_whole_compressed_image_where_the_grid_is(self, photos, monkeypatch):
        monkeypatch.setattr(
            "basicsr.data.photo_dataset.with_jpeg_margin", lambda window, *_: window._replace(top=0, left=0,
            height=window.top + window.height, width=window.left + window.width))  # fmt: skip
        dataset = photo(photos, gt_size=48, use_hflip=False, use_rot=False, **{**Q75, "chroma_420_prob": 0})
        whole = photo(photos, phase="val", **{**Q75, "chroma_420_prob": 0})
        for index in range(10):
            position, window, _ = dataset.draw(SampleIndex(0, index))
            blocks = [slice(0, length // 8 * 8 - start) for length, start in (
                (window.top + window.height, window.top), (window.left + window.width, window.left))]  # fmt: skip
            expected = window.crop(to_pixels(whole[position]["lq"]))
            crop = to_pixels(dataset[SampleIndex(0, index)]["lq"])
            np.testing.assert_array_equal(crop[blocks[0], blocks[1]], expected[blocks[0], blocks[1]])

    def test_images_are_turned_before_they_are_compressed(self, photos):
        dataset = photo(photos, **Q75)  # whole images: the grid begins at their corner
        for key in (SampleIndex(epoch, index) for epoch in range(4) for index in range(5)):
            expected = pillow_jpeg(imresize(to_pixels(dataset[key]["gt"]), 1 / 2), 75)
            np.testing.assert_array_equal(to_pixels(dataset[key]["lq"]), expected)

    def test_the_grid_has_any_offset(self, photos):
        """Blocks of low quality have steps at their borders alone, so those show where the grid is."""
        dataset = photo(photos, gt_size=96, **{**Q75, "jpeg_quality": [5, 5]})
        offsets = []
        for index in range(60):
            luma = dataset[SampleIndex(0, index)]["lq"].mean(0)
            offsets.append(tuple(
                max(range(8), key=lambda k, steps=steps: float(steps[k::8].mean()))
                for steps in (luma.diff(dim=0).abs().mean(1), luma.diff(dim=1).abs().mean(0))
            ))  # fmt: skip
        for axis in range(2):
            assert len({offset[axis] for offset in offsets}) >= 7


class TestEachStep:
    def mean_error(self, folder, **options):
        dataset = photo(folder, phase="val", **{**CLEAN, **options})
        return np.mean([error(sample) for sample in dataset])

    def test_the_error_grows_as_quality_falls(self, photos):
        errors = [self.mean_error(photos, jpeg_prob=1, jpeg_quality=[q, q]) for q in (98, 90, 75, 60, 40)]
        assert errors[0] > 0.3 and all(2 * low > high > low for low, high in itertools.pairwise(errors))

    def test_blur(self, photos):
        errors = [self.mean_error(photos, blur_prob=1, blur_sigma=[s, s]) for s in (0, 0.4, 0.8, 2)]
        assert errors[0] < 0.5 and errors == sorted(errors) and errors[3] > errors[1]

    @pytest.mark.parametrize("kernel", ["area", "bilinear", "lanczos"])
    @pytest.mark.parametrize("scale", [2, 3, 4])
    def test_kernels_are_aligned_and_of_their_own(self, photos, kernel, scale):
        bicubic, other = (photo(photos, phase="val", scale=scale, **{**CLEAN, "kernels": [k]})
                          for k in ("bicubic", kernel))  # fmt: skip
        for one, two in zip(bicubic, other, strict=True):
            one, two = (255 * sample["lq"][:, 3:-3, 3:-3] for sample in (one, two))
            difference = float((one - two).abs().mean())
            assert difference > 0.1 and (one - two).mean().abs() < 0.2
            for axis in (1, 2):
                for shift in (-1, 1):
                    assert difference < (one - two.roll(shift, axis)).abs().mean() / 2

    @pytest.mark.parametrize("sigma", [1, 3])
    def test_noise(self, one_color, sigma):
        options = {**CLEAN, "noise_prob": 1, "noise_sigma": [sigma, sigma]}
        for luma in (0, 1):
            noise = photo(one_color, phase="val", luma_noise_prob=luma, **options)[0]["lq"] * 255
            noise = noise - torch.tensor([120.0, 130, 110]).view(3, 1, 1)
            assert float(noise.std()) == pytest.approx((sigma**2 + 1 / 12) ** 0.5, rel=0.05)  # and of rounding
            assert np.corrcoef(noise[0].flatten(), noise[2].flatten())[0, 1] == pytest.approx(luma, abs=0.05)

    def test_shares_and_ranges(self, one_color):
        dataset = photo(one_color, jpeg_prob=0.75, noise_prob=0.25)
        drawn = [dataset.degradation.draw(np.random.default_rng(k)) for k in range(2000)]
        share = {
            "blur": sum(d.blur_sigma > 0 for d in drawn), "noise": sum(d.noise_sigma > 0 for d in drawn),
            "luma": sum(d.luma_noise for d in drawn), "jpeg": sum(d.jpeg_quality is not None for d in drawn),
            "420": sum(d.chroma == "4:2:0" for d in drawn), "area": sum(d.kernel == "area" for d in drawn),
        }  # fmt: skip
        expected = {"blur": 0.5, "noise": 0.25, "luma": 0.5, "jpeg": 0.75, "420": 0.7, "area": 0.25}
        assert {name: count / 2000 for name, count in share.items()} == pytest.approx(expected, abs=0.05)
        assert {d.jpeg_quality for d in drawn} == {None, *range(40, 99)}
        assert max(d.blur_sigma for d in drawn) == pytest.approx(0.8, abs=0.01)
        assert max(d.noise_sigma for d in drawn) == pytest.approx(3, abs=0.05)


def test_sixteen_bit_images(photos, tmp_path):
    for name in list_images(photos):
        write_image(tmp_path / name, read_image(photos / name).astype(np.uint16) * 257)
    for key in (SampleIndex(0, index) for index in range(5)):
        deep, usual = photo(tmp_path, gt_size=32)[key], photo(photos, gt_size=32)[key]
        assert torch.equal(deep["lq"], usual["lq"])
        torch.testing.assert_close(deep["gt"], usual["gt"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"blur_sigma": [0.8, 0]}, r"blur_sigma: must be \[lowest, highest\] within \[0, 10\], got \[0.8, 0\]"),
        ({"noise_sigma": [-1, 3]}, r"noise_sigma: must be \[lowest, highest\] within \[0, 100\], got \[-1, 3\]"),
        ({"jpeg_quality": [0, 98]}, r"jpeg_quality: must be \[lowest, highest\] within \[1, 100\], got \[0, 98\]"),
        ({"jpeg_quality": [75]}, r"jpeg_quality: must be \[lowest, highest\] .* got \[75\]"),
        ({"jpeg_prob": 90}, "jpeg_prob: must be a probability, 0 to 1, got 90"),
        ({"chroma_420_prob": -0.1}, "chroma_420_prob: must be a probability, 0 to 1, got -0.1"),
        ({"blur_prob": float("nan")}, "blur_prob: must be a probability, 0 to 1, got nan"),
        ({"kernels": []}, r"kernels: must be one or more of bicubic, area, bilinear, lanczos, got \[\]"),
        ({"kernels": ["nearest"]}, r"kernels: must be one or more of .* got \['nearest'\]"),
        ({"gt_size": 33}, r"gt_size: must be a multiple of scale \(2\), got 33"),
    ],
)
def test_impossible_options(photos, options, message):
    with pytest.raises(ValueError, match=message):
        photo(photos, **options)


def test_the_device_cannot_keep_it(photos):
    dataset = PhotoDataset(dataroot_gt=str(photos), scale=2, gt_size=32)
    with pytest.raises(DeviceCacheError, match="PhotoDataset makes samples of its own"):
        DeviceLoader(dataset, 1, EnlargedSampler(5, 1, 0), torch.device("cpu"))


def options_of_run(photos, **train):
    return {
        "name": "photo",
        "scale": 2,
        "num_gpu": 0,
        "datasets": {
            "train": {"name": "photos", "type": "PhotoDataset", "dataroot_gt": str(photos), "gt_size": 32,
                      "batch_size_per_gpu": 2, "num_worker_per_gpu": 0, **train},
            "val": {"name": "val", "type": "PhotoDataset", "dataroot_gt": str(photos), **Q75},
        },
        "network_g": TINY_CATANET,
        "train": {"total_iter": 2, "optim_g": {"type": "Adam", "lr": 1e-4}, "pixel_opt": {"type": "L1Loss"},
                  "scheduler": {"type": "MultiStepLR", "milestones": [2]}},
        "val": {"val_freq": 2, "metrics": {"psnr": {"type": "calculate_psnr", "crop_border": 2}}},
        "logger": {"print_freq": 1, "save_checkpoint_freq": 2},
    }  # fmt: skip


@pytest.mark.filterwarnings("ignore:Unable to enable fault handler")
def test_a_run(photos, tmp_path, capsys):
    path = write_options(tmp_path, options_of_run(photos, cache="device", kernels=["area", "lanczos"]))
    assert run_here(basicsr.train, tmp_path, "-opt", path) == 0
    log = capsys.readouterr().err
    assert (tmp_path / "experiments/photo/models/net_g_2.pth").is_file()
    assert "cache: device is not possible, using memory: PhotoDataset makes samples of its own" in log
    assert "psnr" in log


def test_a_range_that_is_not_possible_ends_a_run(photos, tmp_path, capfd):
    path = write_options(tmp_path, options_of_run(photos, jpeg_quality=[98, 40]))
    assert run_here(basicsr.train, tmp_path, "-opt", path) != 0
    output = capfd.readouterr()
    assert "datasets.train: jpeg_quality: must be [lowest, highest]" in output.out + output.err
