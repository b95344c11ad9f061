"""Data sets written for BasicSR 1.4: made from one `opt`, and repeatable though they draw from global generators."""

import random

import numpy as np
import pytest
import torch

from basicsr.compat.datasets import LegacyDataset
from basicsr.compat.plugins import attach
from basicsr.config.registry import DATASET_REGISTRY
from basicsr.data import build_dataset
from basicsr.data.data_sampler import SampleIndex


class OldDataset:
    """As plug-ins were written: global random numbers, whole options."""

    def __init__(self, opt):
        self.opt = opt

    def __len__(self):
        return 5

    def __getitem__(self, index):
        return index, random.random(), np.random.rand(), torch.rand(1).item()


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

    def test_global_generators_are_put_back(self):
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


def test_a_registered_one_gets_its_section_and_repeats(monkeypatch):
    attach()
    monkeypatch.setattr(DATASET_REGISTRY, "_items", {**DATASET_REGISTRY._items, "Old": OldDataset})
    dataset = build_dataset({"type": "Old", "name": "x", "own": [1]}, scale=2, phase="train", seed=9)
    assert isinstance(dataset, LegacyDataset)
    assert dataset.opt == {"type": "Old", "name": "x", "own": [1], "scale": 2, "phase": "train"}
    assert (
        dataset[SampleIndex(1, 4)] == dataset[SampleIndex(1, 4)] == LegacyDataset(OldDataset({}), 9)[SampleIndex(1, 4)]
    )
