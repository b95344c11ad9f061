import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from basicsr.data import build_dataloader, cache, paired_image_dataset
from basicsr.data.crops import downscale_window
from basicsr.data.data_sampler import EnlargedSampler, SampleIndex
from basicsr.data.paired_image_dataset import PairedImageDataset
from basicsr.images.files import list_images, read_image, to_pixels, to_tensor, write_image
from basicsr.images.matlab_resize import imresize


@pytest.fixture(scope="module", params=[2, 3, 4])
def scale(request):
    return request.param


@pytest.fixture(scope="module")
def pairs(photos, scale, tmp_path_factory):
    """Folders of ground truth and of its LR images, made beforehand."""
    lr = tmp_path_factory.mktemp(f"lr{scale}")
    for name in list_images(photos):
        gt = read_image(photos / name)
        height, width = gt.shape[0] // scale * scale, gt.shape[1] // scale * scale
        write_image(lr / f"{Path(name).stem}x{scale}.png", imresize(gt[:height, :width], 1 / scale))
    return photos, lr


def paired(pairs, scale, **options):
    gt, lq = pairs
    return PairedImageDataset(
        dataroot_gt=str(gt), dataroot_lq=str(lq), filename_tmpl=f"{{}}x{scale}", scale=scale, **options
    )


def equal(one, other, but=()):
    assert one.keys() == other.keys()
    for key in one.keys() - set(but):
        if isinstance(one[key], torch.Tensor):
            torch.testing.assert_close(one[key], other[key], rtol=0, atol=0)
        else:
            assert one[key] == other[key]


class TestSamples:
    @pytest.mark.parametrize("cache_mb", [0, 2048])  # made for the window alone, and as whole images that are kept
    def test_on_the_fly_equals_files(self, pairs, scale, cache_mb):
        options = {"phase": "train", "gt_size": 24 * scale, "seed": 3}
        files = paired(pairs, scale, **options)
        flying = PairedImageDataset(dataroot_gt=str(pairs[0]), scale=scale, cache_mb=cache_mb, **options)
        for epoch in range(4):
            for index in range(2 * len(files)):
                key = SampleIndex(epoch, index)
                equal(files[key], flying[key], but=["lq_path"])
                assert files[key]["lq"].shape == (3, 24, 24)
                assert files[key]["gt"].shape == (3, 24 * scale, 24 * scale)
        for index in range(len(files)):
            whole = {"phase": "val", "scale": scale}
            flying = PairedImageDataset(dataroot_gt=str(pairs[0]), **whole)
            equal(paired(pairs, scale, phase="val")[index], flying[index], but=["lq_path"])

    def test_made_images_are_kept_where_all_have_room(self, pairs, scale, monkeypatch):
        made = []

        def counted(gt, window, scale):
            made.append(window)
            return downscale_window(gt, window, scale)

        monkeypatch.setattr(paired_image_dataset, "downscale_window", counted)
        options = {"dataroot_gt": str(pairs[0]), "scale": scale, "gt_size": 24 * scale}
        dataset = PairedImageDataset(**options)
        for _ in range(2):
            for index in range(len(dataset)):
                dataset[index]
        assert [window[2:] for window in made] == dataset.lq_sizes
        monkeypatch.setattr(cache, "BYTES_PER_MB", sum(3 * height * width + 1 for height, width in dataset.gt_sizes))
        dataset = PairedImageDataset(**options, cache_mb=1)  # room for the ground truth alone
        for index in range(len(dataset)):
            dataset[index]
        assert [window[2:] for window in made[len(dataset) :]] == [(24, 24)] * len(dataset)

    def test_pairs_are_aligned(self, pairs, scale):
        dataset = paired(pairs, scale, phase="train", gt_size=24 * scale)
        for index in range(20):
            sample = dataset[SampleIndex(0, index)]
            small = imresize(sample["gt"], 1 / scale).clamp(0, 1)[:, 3:-3, 3:-3]  # away from the crop's mirrored edges
            assert (small - sample["lq"][:, 3:-3, 3:-3]).abs().mean() < 0.7 / 255  # rounding alone

    def test_crops_differ_between_epochs_and_repetitions(self, pairs, scale):
        dataset = paired(pairs, scale, gt_size=24 * scale)
        keys = [SampleIndex(0, 1), SampleIndex(1, 1), SampleIndex(0, 1 + len(dataset))]
        samples = [dataset[key] for key in keys]
        assert len({sample["gt_path"] for sample in samples}) == 1
        assert len({sample["gt"].numpy().tobytes() for sample in samples}) == 3
        equal(dataset[1], samples[0])

    def test_validation_shows_whole_images_cut_to_the_lr(self, pairs, scale):
        dataset = paired(pairs, scale, phase="val", gt_size=24 * scale)
        samples = list(dataset)
        assert len(samples) == len(dataset) == 5
        for sample in samples:
            height, width = sample["lq"].shape[1:]
            gt = read_image(sample["gt_path"])
            np.testing.assert_array_equal(to_pixels(sample["gt"]), gt[: height * scale, : width * scale])
            np.testing.assert_array_equal(to_pixels(sample["lq"]), read_image(sample["lq_path"]))

    def test_flips_can_be_turned_off(self, pairs, scale):
        dataset = paired(pairs, scale, gt_size=None, use_hflip=False, use_rot=False)
        np.testing.assert_array_equal(to_pixels(dataset[SampleIndex(5, 2)]["lq"]), read_image(dataset.lq_paths[2]))

    def test_luma_and_normalisation(self, pairs, scale):
        luma = paired(pairs, scale, phase="val", color="y")[0]
        assert luma["lq"].shape[0] == luma["gt"].shape[0] == 1
        plain = paired(pairs, scale, phase="val")[0]
        shifted = paired(pairs, scale, phase="val", mean=[0.5, 0.5, 0.5], std=[0.5, 0.5, 0.5])[0]
        for key in ("lq", "gt"):
            torch.testing.assert_close(shifted[key], (plain[key] - 0.5) / 0.5)

    def test_meta_info_file(self, pairs, scale, tmp_path):
        (tmp_path / "meta.txt").write_text("rocket.png (139,128,3)\nchelsea.png\n")
        dataset = paired(pairs, scale, phase="val", meta_info_file=str(tmp_path / "meta.txt"))
        assert [path.name for path in dataset.gt_paths] == ["rocket.png", "chelsea.png"]


def test_set5_is_read_as_published(shared):
    for scale in (2, 3, 4):
        files = PairedImageDataset(
            dataroot_gt=str(shared / "data/Set5/HR"),
            dataroot_lq=str(shared / f"data/Set5/LR_bicubic/X{scale}"),
            filename_tmpl=f"{{}}x{scale}",
            scale=scale,
            phase="test",
        )
        flying = PairedImageDataset(dataroot_gt=str(shared / "data/Set5/HR"), scale=scale, phase="test")
        for index in range(5):
            equal(files[index], flying[index], but=["lq_path"])


class TestLoading:
    def batches(self, dataset, world, rank, batch_size, workers=0):
        sampler = EnlargedSampler(len(dataset), world, rank, ratio=4, seed=7)
        loader = build_dataloader(
            dataset, phase="train", batch_size=batch_size, num_workers=workers, sampler=sampler, seed=rank
        )
        for epoch in range(2):
            sampler.set_epoch(epoch)
            yield from loader

    def test_workers_change_nothing(self, photos):
        dataset = PairedImageDataset(dataroot_gt=str(photos), scale=2, gt_size=32)
        alone = list(self.batches(dataset, 1, 0, 4))
        fresh = PairedImageDataset(dataroot_gt=str(photos), scale=2, gt_size=32)
        helped = list(self.batches(fresh, 1, 0, 4, workers=2))
        assert len(alone) == len(helped) == 10
        for one, other in zip(alone, helped, strict=True):
            equal(one, other)

    def test_ranks_change_nothing(self, photos):
        dataset = PairedImageDataset(dataroot_gt=str(photos), scale=2, gt_size=32)

        def images(*batches):
            return sorted(image.numpy().tobytes() for batch in batches for image in batch["lq"])

        single = list(self.batches(dataset, 1, 0, 4))
        ranks = [self.batches(dataset, 2, rank, 2) for rank in range(2)]
        for whole, *parts in zip(single, *ranks, strict=True):
            assert images(whole) == images(*parts)

    def test_loading_leaves_the_global_generators_alone(self, photos):
        dataset = PairedImageDataset(dataroot_gt=str(photos), scale=2, gt_size=32)
        before = torch.get_rng_state(), np.random.get_state()[1].copy()
        list(self.batches(dataset, 1, 0, 4, workers=1))
        assert torch.equal(torch.get_rng_state(), before[0])
        np.testing.assert_array_equal(np.random.get_state()[1], before[1])

    def test_workers_fill_the_parents_cache(self, photos, tmp_path):
        folder = shutil.copytree(photos, tmp_path / "gt")
        dataset = PairedImageDataset(dataroot_gt=str(folder), scale=2, gt_size=32)
        expected = list(self.batches(dataset, 1, 0, 4, workers=2))
        shutil.rmtree(folder)
        for one, other in zip(self.batches(dataset, 1, 0, 4), expected, strict=True):
            equal(one, other)


class TestLmdb:
    @pytest.fixture
    def folders_and_lmdbs(self, photos, make_lmdb, tmp_path):
        """The same pairs twice: options for folders, and for LMDBs."""
        for name in list_images(photos):
            gt = read_image(photos / name)
            gt = gt[: gt.shape[0] // 2 * 2, : gt.shape[1] // 2 * 2]
            write_image(tmp_path / "lr" / name, imresize(gt, 1 / 2))
        folders = {"dataroot_gt": str(photos), "dataroot_lq": str(tmp_path / "lr"), "scale": 2}
        lmdbs = {
            "dataroot_gt": str(make_lmdb(photos, "gt")),
            "dataroot_lq": str(make_lmdb(tmp_path / "lr", "lr")),
            "scale": 2,
            "io_backend": {"type": "lmdb"},
        }
        return folders, lmdbs

    @pytest.mark.parametrize("cache_mb", [0, 10])
    def test_equals_the_folders(self, folders_and_lmdbs, cache_mb):
        ours = [PairedImageDataset(gt_size=32, cache_mb=cache_mb, **options) for options in folders_and_lmdbs]
        for key in (SampleIndex(epoch, index) for epoch in range(2) for index in range(10)):
            equal(ours[0][key], ours[1][key], but=["lq_path", "gt_path"])
        assert ours[1][0]["gt_path"].endswith("gt.lmdb/astronaut.png")

    def test_workers_and_several_sets_in_a_process(self, folders_and_lmdbs):
        folders, lmdbs = folders_and_lmdbs
        validation = PairedImageDataset(phase="val", cache_mb=0, **lmdbs)
        expected = list(PairedImageDataset(phase="val", **folders))
        train = PairedImageDataset(gt_size=32, cache_mb=0, **lmdbs)
        for dataset in (validation, train):  # opened here, then used in workers, then here again
            dataset[0]
            batches = list(build_dataloader(dataset, phase="test", num_workers=2))
            assert len(batches) == 5
        for one, other in zip(validation, expected, strict=True):
            equal(one, other, but=["lq_path", "gt_path"])

    def test_the_same_checks(self, folders_and_lmdbs):
        _, lmdbs = folders_and_lmdbs
        with pytest.raises(ValueError, match=r"lr.lmdb: 5 of 5(.|\n)*expected 48x40 .* got 72x60"):
            PairedImageDataset(**{**lmdbs, "scale": 3})
        with pytest.raises(FileNotFoundError, match=r"its LQ image astronautx2.\* is missing"):
            PairedImageDataset(filename_tmpl="{}x2", **lmdbs)
        with pytest.raises(ValueError, match=r"smaller than gt_size \(130\)"):
            PairedImageDataset(gt_size=130, **lmdbs)


def test_sixteen_bit_images_are_cropped_before_they_are_downscaled(tmp_path, monkeypatch):
    deep = np.random.default_rng(0).integers(0, 65536, (64, 70, 3), np.uint16)
    write_image(tmp_path / "a.png", deep)
    dataset = PairedImageDataset(dataroot_gt=str(tmp_path), scale=2, gt_size=16)  # never kept, so never whole
    monkeypatch.setattr(dataset, "_downscaled", None)
    window, small = dataset.draw(0).window, imresize(deep, 1 / 2)
    np.testing.assert_array_equal(dataset[0]["lq"], to_tensor(dataset.draw(0).orientation.apply(window.crop(small))))


def test_gray_and_sixteen_bit_pairs(tmp_path):
    gray = np.random.default_rng(0).integers(0, 256, (32, 32), np.uint8)
    write_image(tmp_path / "a.png", gray)
    write_image(tmp_path / "b.png", np.dstack([gray] * 3).astype(np.uint16) * 257)
    dataset = PairedImageDataset(dataroot_gt=str(tmp_path), scale=2, phase="val")
    torch.testing.assert_close(dataset[0]["gt"], dataset[1]["gt"])
    assert (dataset[0]["lq"] - dataset[1]["lq"]).abs().max() < 1.01 / 255  # 16 bits are rounded more finely


class TestInvalidArguments:
    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"scale": 0}, "scale: must be at least 1, got 0"),
            ({"phase": "training"}, "phase: must be one of train, val, test, got 'training'"),
            ({"gt_size": 33}, r"gt_size: must be a multiple of scale \(2\), got 33"),
            ({"gt_size": 0}, r"gt_size: must be a multiple of scale \(2\), got 0"),
            ({"cache_mb": -1}, "cache_mb: must not be negative, got -1; 0 turns the cache off"),
            ({"io_backend": {"type": "zip"}}, "io_backend.type: must be 'disk' or 'lmdb', got 'zip'"),
            ({"color": "rgb"}, "color: must be 'y' or null, got 'rgb'"),
            ({"mean": [0.5, 0.5]}, "mean: needs one number for each of 3 channels"),
        ],
    )
    def test_options(self, photos, options, message):
        with pytest.raises(ValueError, match=message):
            PairedImageDataset(**{"dataroot_gt": str(photos), "scale": 2, **options})

    def test_missing_folders(self, photos, tmp_path):
        with pytest.raises(FileNotFoundError, match="nowhere: no such folder"):
            PairedImageDataset(dataroot_gt=str(tmp_path / "nowhere"))
        with pytest.raises(FileNotFoundError, match="nowhere: no such folder"):
            PairedImageDataset(dataroot_gt=str(photos), dataroot_lq=str(tmp_path / "nowhere"))
        with pytest.raises(FileNotFoundError, match="no images; check the path"):
            PairedImageDataset(dataroot_gt=str(tmp_path))

    def test_missing_partner(self, photos, tmp_path):
        shutil.copy(photos / "rocket.png", tmp_path)
        with pytest.raises(
            FileNotFoundError, match=r"4 of 5 images(.|\n)*chelsea.png: its LQ image chelsea.\* is missing"
        ):
            PairedImageDataset(dataroot_gt=str(photos), dataroot_lq=str(tmp_path), scale=1)

    def test_wrong_ratio(self, tmp_path):
        write_image(tmp_path / "gt/a.png", np.zeros((31, 20, 3), np.uint8))
        write_image(tmp_path / "lq/ax3.png", np.zeros((11, 7, 3), np.uint8))
        with pytest.raises(ValueError) as error:
            PairedImageDataset(
                dataroot_gt=str(tmp_path / "gt"), dataroot_lq=str(tmp_path / "lq"), filename_tmpl="{}x3", scale=3
            )
        assert str(error.value).splitlines() == [
            f"{tmp_path / 'lq'}: 1 of 1 images cannot be used:",
            "  ax3.png: expected 10x6 (height x width, a.png of 31x20 at scale 3), got 11x7; "
            "check scale, or make the file with scripts/data_preparation/generate_lr.py",
        ]

    def test_too_small(self, photos):
        with pytest.raises(ValueError, match=r"4 of 5(.|\n)*rocket.png: 139x128 .* smaller than gt_size \(130\)"):
            PairedImageDataset(dataroot_gt=str(photos), scale=2, gt_size=130)
        PairedImageDataset(dataroot_gt=str(photos), scale=2, gt_size=130, phase="val")

    def test_smaller_than_the_scale(self, tmp_path):
        write_image(tmp_path / "a.png", np.zeros((3, 9, 3), np.uint8))
        with pytest.raises(ValueError, match=r"a.png: 3x9 .* smaller than scale \(4\); leave it out"):
            PairedImageDataset(dataroot_gt=str(tmp_path), scale=4, phase="val")

    def test_damaged(self, photos, tmp_path):
        folder = shutil.copytree(photos, tmp_path / "gt")
        data = (folder / "coffee.png").read_bytes()
        (folder / "coffee.png").write_bytes(data[: len(data) // 2])
        with pytest.raises(ValueError, match=r"1 of 5 images(.|\n)*coffee.png: the file is cut off"):
            PairedImageDataset(dataroot_gt=str(folder), scale=2)
