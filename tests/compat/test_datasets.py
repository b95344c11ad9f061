"""Data sets written for BasicSR 1.4: made from one `opt`, and repeatable though they draw from global generators."""

import random

import numpy as np
import pytest
import torch

from basicsr.compat.datasets import LegacyDataset, adapt_dataset
from basicsr.compat.plugins import attach
from basicsr.config.registry import DATASET_REGISTRY, is_plugin
from basicsr.data import build_dataset
from basicsr.data.data_sampler import SampleIndex
from basicsr.data.paired_image_dataset import PairedImageDataset
from basicsr.data.single_image_dataset import SingleImageDataset


class OldDataset:
    """As plug-ins are written: global random numbers, all options."""

    def __init__(self, opt):
        self.opt = opt

    def __len__(self):
        return 5

    def __getitem__(self, index):
        return index, random.random(), np.random.rand(), torch.rand(1).item()


def test_an_adapted_data_set_still_counts_as_that_of_a_plug_in():
    assert is_plugin(adapt_dataset(OldDataset)) and not is_plugin(adapt_dataset(PairedImageDataset))


class TestLegacyDataset:
    def test_samples_follow_from_seed_epoch_and_index(self):
        dataset = LegacyDataset(OldDataset({}), seed=1)
        sample = dataset[SampleIndex(2, 7)]
        random.random(), np.random.rand(), torch.rand(1)
        assert dataset[SampleIndex(2, 7)] == sample
        assert sample[0] == 2  # index 7 of 5 images, and a plain integer for the plug-in
        others = [
            dataset[SampleIndex(3, 7)],
            dataset[SampleIndex(2, 2)],
            LegacyDataset(OldDataset({}), 2)[SampleIndex(2, 7)],
        ]
        assert len({sample, *others}) == 4
        assert dataset[3] == dataset[SampleIndex(0, 3)]
        assert len(dataset) == 5 and len(list(dataset)) == 5

    def test_global_generators_are_restored(self):
        def draw():
            return random.random(), np.random.rand(), torch.rand(1).item()

        random.seed(1), np.random.seed(1), torch.manual_seed(1)
        expected = draw()
        random.seed(1), np.random.seed(1), torch.manual_seed(1)
        LegacyDataset(OldDataset({}), 0)[0]
        assert draw() == expected

    def test_also_when_the_plug_in_fails(self):
        class Broken(OldDataset):
            def __getitem__(self, index):
                random.random()
                raise RuntimeError("broken plug-in")

        random.seed(1)
        expected = random.random()
        random.seed(1)
        with pytest.raises(RuntimeError, match="broken plug-in"):
            LegacyDataset(Broken({}), 0)[0]
        assert random.random() == expected


def test_a_registered_one_gets_its_section_and_is_repeatable(monkeypatch):
    attach()
    monkeypatch.setattr(DATASET_REGISTRY, "_items", {**DATASET_REGISTRY._items, "Old": OldDataset})
    dataset = build_dataset({"type": "Old", "name": "x", "own": [1]}, scale=2, phase="train", seed=9)
    assert isinstance(dataset, LegacyDataset)
    assert dataset.opt == {"type": "Old", "name": "x", "own": [1], "scale": 2, "phase": "train"}
    key = SampleIndex(1, 4)
    assert dataset[key] == dataset[key] == LegacyDataset(OldDataset({}), 9)[key]


@pytest.fixture
def opt(photos):
    attach()
    return {
        "name": "Photos",
        "type": "PairedImageDataset",
        "dataroot_gt": str(photos),
        "dataroot_lq": None,
        "io_backend": {"type": "disk"},
        "scale": 2,
        "phase": "train",
        "gt_size": 32,
        "use_hflip": True,
        "use_rot": True,
    }


def test_pairs_from_one_opt(opt, photos):
    dataset = PairedImageDataset({**opt, "mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]})
    assert dataset.io_backend_opt["type"] == "disk"
    assert (len(dataset), dataset.mean) == (5, [0.5, 0.5, 0.5])
    assert dataset.opt["name"] == "Photos"
    sample = dataset[0]
    assert set(sample) == {"lq", "gt", "lq_path", "gt_path"}
    assert (sample["lq"].shape, sample["gt"].shape) == ((3, 16, 16), (3, 32, 32))
    assert sample["gt_path"] == dataset.paths[0]["gt_path"] == str(photos / "astronaut.png")
    assert isinstance(build_dataset(opt), PairedImageDataset)


def test_single_images_from_one_opt(opt, photos):
    dataset = SingleImageDataset({"name": "x", "dataroot_lq": str(photos), "io_backend": {"type": "disk"}})
    assert set(dataset[1]) == {"lq", "lq_path"}
    assert dataset.paths[1] == str(photos / "chelsea.png")


def test_a_subclass_of_ours_is_cropped_differently_in_each_epoch(opt, monkeypatch):
    class Mine(PairedImageDataset):
        def __init__(self, opt):
            super().__init__(opt)

        def __getitem__(self, index):
            return {**super().__getitem__(index), "mine": self.paths[index]["gt_path"]}

    monkeypatch.setattr(DATASET_REGISTRY, "_items", {**DATASET_REGISTRY._items, "Mine": Mine})
    dataset = build_dataset({**opt, "type": "Mine"}, seed=3)
    first, second, again = (dataset[SampleIndex(epoch, 1)]["gt"] for epoch in (0, 1, 0))
    assert torch.equal(first, again)
    assert not torch.equal(first, second)
