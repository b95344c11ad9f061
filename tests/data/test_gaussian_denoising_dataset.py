import cv2
import numpy as np
import pytest
import torch

from basicsr.data import build_dataloader, build_dataset
from basicsr.data.data_sampler import EnlargedSampler, SampleIndex
from basicsr.data.gaussian_denoising_dataset import GaussianDenoisingDataset
from basicsr.images.files import list_images, read_image, to_tensor, write_image

CONSTANT = {"sigma_type": "constant", "sigma_range": 25}


def noise_of(sample):
    return sample["lq"] - sample["gt"]


def equal(one, other):
    assert one.keys() == other.keys()
    for key, value in one.items():
        if isinstance(value, torch.Tensor):
            torch.testing.assert_close(value, other[key], rtol=0, atol=0)
        else:
            assert value == other[key]


class TestTraining:
    def test_noise_is_gaussian_and_neither_clipped_nor_rounded(self, photos):
        dataset = GaussianDenoisingDataset(dataroot_gt=str(photos), gt_size=96, **CONSTANT)
        samples = [dataset[SampleIndex(0, index)] for index in range(20)]
        noise = torch.stack([noise_of(sample) for sample in samples]) * 255
        assert noise.std().item() == pytest.approx(25, rel=0.01)
        assert abs(noise.mean().item()) < 0.1
        assert ((noise / 25).pow(4).mean()).item() == pytest.approx(3, rel=0.03)  # as of a Gaussian
        lq = torch.stack([sample["lq"] for sample in samples])
        assert lq.min() < -0.1
        assert lq.max() > 1.05
        assert ((lq * 255) % 1).std() > 0.25  # a fraction like any other: not rounded

    def test_samples_are_functions_of_seed_epoch_and_index(self, photos):
        options = {"dataroot_gt": str(photos), "gt_size": 32, **CONSTANT}
        dataset = GaussianDenoisingDataset(seed=3, **options)
        key = SampleIndex(2, 7)
        sample = dataset[key]
        equal(sample, GaussianDenoisingDataset(seed=3, **options)[key])
        others = [
            dataset[SampleIndex(3, 7)],
            dataset[SampleIndex(2, 7 + len(dataset))],
            GaussianDenoisingDataset(seed=4, **options)[key],
        ]
        for other in others:
            assert other["gt_path"] == sample["gt_path"]
            assert not torch.equal(noise_of(other), noise_of(sample))

    def test_workers_change_nothing(self, photos):
        def batches(workers):
            dataset = GaussianDenoisingDataset(dataroot_gt=str(photos), gt_size=32, **CONSTANT)
            sampler = EnlargedSampler(len(dataset), 1, 0, ratio=2)
            return list(build_dataloader(dataset, phase="train", batch_size=5, num_workers=workers, sampler=sampler))

        for one, other in zip(batches(0), batches(2), strict=True):
            equal(one, other)

    @pytest.mark.parametrize(
        ("sigma_type", "sigma_range", "expected"),
        [("random", [5, 50], None), ("choice", [15, 25, 50], {15, 25, 50}), ("constant", [15], {15})],
    )
    def test_sigmas(self, photos, sigma_type, sigma_range, expected):
        dataset = GaussianDenoisingDataset(
            dataroot_gt=str(photos), gt_size=96, sigma_type=sigma_type, sigma_range=sigma_range
        )
        sigmas = [255 * noise_of(dataset[SampleIndex(0, index)]).std().item() for index in range(30)]
        if expected:
            nearest = [min(expected, key=lambda choice: abs(choice - sigma)) for sigma in sigmas]
            assert set(nearest) == expected
            assert sigmas == pytest.approx(nearest, rel=0.03)
        else:
            low, high = sigma_range
            assert low - 1 < min(sigmas) < 15
            assert 40 < max(sigmas) < high + 2

    def test_all_eight_positions(self, tmp_path):
        image = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)
        write_image(tmp_path / "a.png", image)
        dataset = GaussianDenoisingDataset(dataroot_gt=str(tmp_path), gt_size=8, **CONSTANT)
        clean = to_tensor(image)
        positions = [torch.rot90(flipped, turns, (1, 2)) for flipped in (clean, clean.flip(2)) for turns in range(4)]
        seen = [dataset[SampleIndex(0, index)]["gt"] for index in range(80)]
        assert all(any(torch.equal(sample, position) for position in positions) for sample in seen)
        assert all(any(torch.equal(sample, position) for sample in seen) for position in positions)
        still = GaussianDenoisingDataset(dataroot_gt=str(tmp_path), gt_size=8, geometric_augs=False, **CONSTANT)
        assert all(torch.equal(still[SampleIndex(0, index)]["gt"], clean) for index in range(10))

    def test_small_images_are_mirrored_at_the_bottom_and_right(self, tmp_path):
        image = np.random.default_rng(0).integers(0, 256, (5, 9, 3), np.uint8)
        write_image(tmp_path / "a.png", image)
        dataset = GaussianDenoisingDataset(dataroot_gt=str(tmp_path), gt_size=9, geometric_augs=False, **CONSTANT)
        expected = np.concatenate([image, image[:0:-1]])
        np.testing.assert_array_equal(dataset[0]["gt"], to_tensor(expected))
        large = GaussianDenoisingDataset(dataroot_gt=str(tmp_path), gt_size=24, **CONSTANT)
        assert large[0]["gt"].shape == large[0]["lq"].shape == (3, 24, 24)


class TestValidation:
    @pytest.mark.parametrize("in_ch", [1, 3])
    def test_noise_is_that_of_the_legacy_generator(self, photos, in_ch):
        dataset = GaussianDenoisingDataset(dataroot_gt=str(photos), phase="val", sigma_test=50, in_ch=in_ch)
        before = np.random.get_state()[1].copy()
        samples = list(dataset)
        np.testing.assert_array_equal(np.random.get_state()[1], before)
        assert len(samples) == len(dataset) == 5
        for sample in samples:
            clean = sample["gt"].numpy().transpose(1, 2, 0)
            np.random.seed(0)
            noisy = clean.copy()
            noisy += np.random.normal(0, 50 / 255, clean.shape)
            np.testing.assert_array_equal(sample["lq"].numpy(), noisy.transpose(2, 0, 1))
            assert sample["lq"].dtype == torch.float32
            assert sample["lq_path"] == sample["gt_path"]

    def test_colours_are_rgb_and_whole(self, photos):
        dataset = GaussianDenoisingDataset(dataroot_gt=str(photos), phase="test", sigma_test=15, gt_size=32)
        for sample, name in zip(dataset, list_images(photos), strict=True):
            np.testing.assert_array_equal(sample["gt"], to_tensor(read_image(photos / name)))


class TestGray:
    @pytest.mark.parametrize("suffix", [".png", ".jpg", ".bmp"])
    @pytest.mark.parametrize("cache_mb", [0, 8])
    def test_gray_equals_the_decoding_of_opencv(self, photos, tmp_path, suffix, cache_mb):
        for name in list_images(photos):
            write_image((tmp_path / name).with_suffix(suffix), read_image(photos / name))
        options = {"dataroot_gt": str(tmp_path), "in_ch": 1, "cache_mb": cache_mb}
        dataset = GaussianDenoisingDataset(phase="val", sigma_test=15, **options)
        for _ in range(2):  # decoded, then from the cache
            for sample in dataset:
                gray = cv2.imread(sample["gt_path"], cv2.IMREAD_GRAYSCALE)
                np.testing.assert_array_equal(sample["gt"], to_tensor(gray))
        train = GaussianDenoisingDataset(gt_size=24, **options, **CONSTANT)
        assert train[0]["lq"].shape == train[0]["gt"].shape == (1, 24, 24)

    def test_lmdb_equals_the_folder(self, photos, make_lmdb):
        folder = GaussianDenoisingDataset(dataroot_gt=str(photos), in_ch=1, gt_size=24, **CONSTANT)
        root, backend = str(make_lmdb(photos, "gt")), {"type": "lmdb"}
        lmdb = GaussianDenoisingDataset(dataroot_gt=root, io_backend=backend, in_ch=1, gt_size=24, **CONSTANT)
        for index in range(5):
            for key in ("lq", "gt"):
                torch.testing.assert_close(lmdb[index][key], folder[index][key], rtol=0, atol=0)

    def test_sixteen_bits(self, tmp_path):
        gray = np.random.default_rng(0).integers(0, 256, (32, 32), np.uint8)
        write_image(tmp_path / "a.png", gray)
        write_image(tmp_path / "b.png", gray.astype(np.uint16) * 257)
        for in_ch in (1, 3):
            options = {"dataroot_gt": str(tmp_path), "phase": "val", "sigma_test": 15}
            eight, sixteen = GaussianDenoisingDataset(in_ch=in_ch, **options)
            for key in ("lq", "gt"):
                torch.testing.assert_close(sixteen[key], eight[key])


def test_set12(shared):
    dataset = GaussianDenoisingDataset(
        dataroot_gt=str(shared / "data/Set12"), phase="test", in_ch=1, sigma_test=25, scale=1
    )
    sample = dataset[0]
    assert sample["lq"].shape == sample["gt"].shape == (1, 256, 256)
    psnr = -10 * noise_of(sample).double().pow(2).mean().log10()
    assert psnr.item() == pytest.approx(20.17, abs=0.1)  # 20 log10(255 / 25)


def test_built_from_a_section(photos):
    section = {
        "type": "Dataset_GaussianDenoising",
        "name": "DFWB",
        "dataroot_gt": str(photos),
        "dataroot_lq": "none",
        "filename_tmpl": "{}",
        "in_ch": 3,
        "gt_size": 48,
        "gt_sizes": [24, 48],
        "iters": [6, 4],
        "mini_batch_sizes": [6, 3],
        "sigma_type": "constant",
        "sigma_range": 50.0,
        "geometric_augs": True,
        "io_backend": {"type": "disk"},
        "batch_size_per_gpu": 6,
    }
    dataset = build_dataset(section, scale=1, phase="train", seed=0)
    assert dataset[0]["gt"].shape == (3, 48, 48)
    assert dataset[0]["lq_path"] == str(photos / "astronaut.png")


def test_files_that_are_not_read_are_named(photos, caplog):
    options = {"dataroot_gt": str(photos), "phase": "val", "sigma_test": 15}
    for same in (None, "none", str(photos)):
        GaussianDenoisingDataset(dataroot_lq=same, **options)
    assert caplog.text == ""
    GaussianDenoisingDataset(dataroot_lq="datasets/noisy", **options)
    assert "dataroot_lq: datasets/noisy is not read" in caplog.text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scale": 2}, "scale: must be 1, .* got 2"),
        ({"phase": "valid"}, "phase: must be one of train, val, test, got 'valid'"),
        ({"in_ch": 2}, r"in_ch: must be 3 \(RGB\) or 1 \(gray\), got 2"),
        ({"gray": "luma"}, "gray: must be 'opencv' or 'swapped_luma', got 'luma'"),
        ({"gt_size": 0}, "gt_size: must be at least 1, got 0"),
        ({"gt_size": 32, "gt_sizes": [16, 48]}, r"gt_sizes: must not exceed gt_size \(32\), got \[16, 48\]"),
        ({"cache_mb": -1}, "cache_mb: must not be negative, got -1"),
        ({"sigma_type": "blind"}, "sigma_type: must be 'constant', 'random' or 'choice', got 'blind'"),
        ({"sigma_range": None}, "sigma_range: sigma_type constant needs one number >= 0, got None"),
        ({"sigma_range": [15, 25]}, r"sigma_type constant needs one number >= 0, got \[15, 25\]"),
        ({"sigma_range": -1}, "sigma_type constant needs one number >= 0, got -1"),
        ({"sigma_type": "random"}, "sigma_type random needs two numbers, the lower first, >= 0, got 25"),
        ({"sigma_type": "random", "sigma_range": [50, 5]}, r"the lower first, >= 0, got \[50, 5\]"),
        ({"sigma_type": "choice", "sigma_range": []}, r"sigma_type choice needs a list of numbers >= 0, got \[\]"),
        ({"phase": "val"}, "sigma_test: must be a number >= 0 in phase val, got None"),
        ({"phase": "test", "sigma_test": -5}, "sigma_test: must be a number >= 0 in phase test, got -5"),
    ],
)
def test_invalid_options(photos, options, message):
    with pytest.raises(ValueError, match=message):
        GaussianDenoisingDataset(**{"dataroot_gt": str(photos), **CONSTANT, **options})


def test_an_empty_folder_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError, match="no images; check the path"):
        GaussianDenoisingDataset(dataroot_gt=str(tmp_path), **CONSTANT)
