"""`build_dataset` and `build_dataloader` of `basicsr/data/__init__.py`."""

import subprocess
import sys
from collections import OrderedDict

import pytest
import torch
from torch.utils.data import TensorDataset

from basicsr.config.registry import DATASET_REGISTRY
from basicsr.data import build_dataloader, build_dataset
from basicsr.data.paired_image_dataset import PairedImageDataset
from basicsr.errors import UnknownNameError

RUN = {"scale": 2, "phase": "train", "seed": 9}


class OneOpt:
    def __init__(self, opt):
        self.opt = opt


class Everything:
    def __init__(self, **kwargs):
        self.kwargs = kwargs


@pytest.fixture
def registered(monkeypatch):
    monkeypatch.setattr(
        DATASET_REGISTRY, "_items", {**DATASET_REGISTRY._items, "OneOpt": OneOpt, "Everything": Everything}
    )


class TestBuildDataset:
    def test_a_section_of_a_yaml_file(self, photos):
        spec = {
            "name": "Photos",
            "type": "PairedImageDataset",
            "dataroot_gt": str(photos),
            "gt_size": 32,
            "batch_size_per_gpu": 4,
            "num_worker_per_gpu": 2,
            "dataset_enlarge_ratio": 10,
            "use_shuffle": True,
            "task": "SR",
        }
        before = dict(spec)
        dataset = build_dataset(spec, **RUN)
        assert isinstance(dataset, PairedImageDataset)
        assert (dataset.scale, dataset.is_train, dataset.seed) == (2, True, 9)
        assert spec == before

    def test_unknown_type(self):
        with pytest.raises(UnknownNameError, match="did you mean PairedImageDataset"):
            build_dataset({"type": "PairedImageDatset"}, **RUN)

    def test_missing_argument(self):
        with pytest.raises(TypeError, match="dataroot_gt"):
            build_dataset({"type": "PairedImageDataset"}, **RUN)

    def test_a_constructor_that_takes_opt_gets_a_plain_dict_of_all(self, registered):
        spec = OrderedDict(type="OneOpt", name="x", io_backend=OrderedDict(type="disk"), mean=(0, 1), scale=3)
        opt = build_dataset(spec, **RUN).opt
        assert opt == {
            "type": "OneOpt",
            "name": "x",
            "io_backend": {"type": "disk"},
            "mean": [0, 1],
            "scale": 2,
            "phase": "train",
        }
        opt["io_backend"].pop("type")  # as such data sets do
        assert spec["io_backend"] == {"type": "disk"}

    def test_a_constructor_that_takes_all_gets_all(self, registered):
        dataset = build_dataset({"type": "Everything", "name": "x", "own": 1}, **RUN)
        assert dataset.kwargs == {"name": "x", "own": 1, **RUN}


class TestBuildDataloader:
    def test_training_is_shuffled_and_drops_the_rest(self, photos):
        dataset = build_dataset({"type": "PairedImageDataset", "dataroot_gt": str(photos), "gt_size": 32}, **RUN)
        batches = list(build_dataloader(dataset, phase="train", batch_size=2))
        assert [batch["lq"].shape for batch in batches] == [(2, 3, 16, 16)] * 2
        assert batches[0]["gt"].shape == (2, 3, 32, 32) and batches[0]["gt"].dtype == torch.float32
        assert len({path for batch in batches for path in batch["gt_path"]}) == 4

    def test_testing_keeps_order_and_rest(self):
        loader = build_dataloader(TensorDataset(torch.arange(5)), phase="test", batch_size=2)
        assert [batch[0].tolist() for batch in loader] == [[0, 1], [2, 3], [4]]

    def test_an_epoch_too_short_for_a_batch(self, photos):
        dataset = build_dataset({"type": "PairedImageDataset", "dataroot_gt": str(photos), "gt_size": 32}, **RUN)
        with pytest.raises(
            ValueError, match=r"batch_size_per_gpu: an epoch has 5 samples .* raise dataset_enlarge_ratio"
        ):
            build_dataloader(dataset, phase="train", batch_size=6)

    def test_worker_options_without_workers(self):
        loader = build_dataloader(
            TensorDataset(torch.arange(2)), phase="val", persistent_workers=True, prefetch_factor=4
        )
        assert len(list(loader)) == 2

    def test_workers_use_one_thread(self):
        class Threads(torch.utils.data.Dataset):
            def __len__(self):
                return 1

            def __getitem__(self, index):
                import cv2

                return torch.get_num_threads(), cv2.getNumThreads()

        (batch,) = build_dataloader(Threads(), phase="test", num_workers=1, prefetch_factor=1)
        assert [value.item() for value in batch] == [1, 1]


def test_importing_the_package_needs_no_image_library():
    code = "import sys, basicsr.data; sys.exit('cv2' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=__file__.rsplit("tests", 1)[0]).returncode == 0
