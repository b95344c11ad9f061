"""The loaders of a run: however many processes share the samples, they see the same ones."""

import pytest
import torch

from basicsr.config.load import resolve
from basicsr.config.location import Location
from basicsr.config.schema import DatasetOptions, Options
from basicsr.config.section import Spec
from basicsr.config.training import TrainOptions
from basicsr.data.loaders import build_test_loader, build_train_loader
from basicsr.errors import OptionError


@pytest.fixture
def options(photos):
    def options(rank=0, world_size=1, batch_size=2, accum_iter=1, root=photos, ratio=4, num_gpu="auto", **dataset):
        section = {
            "type": "PairedImageDataset",
            "extra": {"dataroot_gt": str(root), "gt_size": 32},
            "where": Location({(): "x.yml"}, ("datasets", "train")),
        }
        datasets = {
            "train": DatasetOptions(**section, batch_size_per_gpu=batch_size, dataset_enlarge_ratio=ratio, **dataset),
            "val": DatasetOptions(**section, name="Photos"),
            "val_2": DatasetOptions(**section),
        }
        train = TrainOptions(optim_g=Spec({"type": "Adam"}), total_iter=1, accum_iter=accum_iter)
        run = Options(
            name="run",
            scale=2,
            num_gpu=num_gpu,
            datasets=datasets,
            network_g=Spec({"type": "X"}),
            train=train,
            manual_seed=5,
        )
        return resolve(run, rank=rank, world_size=world_size)

    return options


def first_epochs(opt, epochs=2):
    loader = build_train_loader(opt)
    for epoch in range(epochs):
        loader.sampler.set_epoch(epoch)
        yield from loader


def test_two_processes_see_the_batches_of_one(options):
    one = list(first_epochs(options(batch_size=4)))
    shares = [list(first_epochs(options(rank, 2))) for rank in (0, 1)]
    assert len(one) == len(shares[0]) == len(shares[1]) == 2 * 5
    for whole, *halves in zip(one, *shares, strict=True):
        for key in ("lq", "gt"):
            interleaved = torch.stack([half[key] for half in halves], 1).flatten(0, 1)
            torch.testing.assert_close(interleaved, whole[key], rtol=0, atol=0)


def test_a_batch_holds_the_parts_of_one_optimizer_step(options):
    batch = next(iter(build_train_loader(options(batch_size=2, accum_iter=3))))
    assert batch["lq"].shape == (6, 3, 16, 16)


@pytest.mark.parametrize(
    ("has_cuda", "num_gpu", "pin_memory", "expected"),
    [
        (True, "auto", None, True),
        (True, 1, None, True),
        (True, 0, None, False),
        (True, "auto", False, False),
        (False, "auto", None, False),
        (False, "auto", True, True),
    ],
)
def test_memory_is_page_locked_for_cuda(options, monkeypatch, has_cuda, num_gpu, pin_memory, expected):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: has_cuda)
    assert build_train_loader(options(num_gpu=num_gpu, pin_memory=pin_memory)).pin_memory is expected


def test_whole_images_are_dealt_in_turn(options, photos):
    whole = build_test_loader(options(), "val")
    shares = [build_test_loader(options(rank, 2), "val") for rank in (0, 1)]
    names = [[batch["gt_path"][0] for batch in loader] for loader in (whole, *shares)]
    assert names == [sorted(map(str, photos.iterdir())), names[0][::2], names[0][1::2]]
    assert (len(whole), len(shares[0]), len(shares[1])) == (5, 3, 2)
    assert (whole.name, whole.root) == ("Photos", photos)
    assert next(iter(whole))["gt"].shape[2:] == (144, 120)


def test_a_set_without_a_name_is_called_by_its_key(options):
    assert build_test_loader(options(), "val_2").name == "val_2"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"root": "nowhere"}, "nowhere: no such folder"),
        ({"batch_size": 6, "ratio": 1}, "batch_size_per_gpu: an epoch has 5 samples a process, less than a batch of 6"),
        ({"world_size": 2, "accum_iter": 2, "ratio": 1}, "an epoch has 2 samples a process, less than a batch of 4"),
    ],
)
def test_what_cannot_be_loaded_names_the_section(options, change, message):
    with pytest.raises(OptionError) as error:
        build_train_loader(options(**change))
    assert str(error.value).startswith("x.yml: datasets.train: ") and message in str(error.value)
