"""Batches cut on the device are those of a loader, bit for bit; and when they are not possible, the log says so."""

import itertools
import logging

import numpy as np
import pytest
import torch
from reliability.runs import Run
from reliability.runs import options as options_of_run
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.data import DataLoader

import basicsr.train
from basicsr.config.load import resolve
from basicsr.config.location import Location
from basicsr.config.registry import DATASET_REGISTRY
from basicsr.config.schema import DatasetOptions, Options
from basicsr.config.section import Spec
from basicsr.config.training import TrainOptions
from basicsr.data import build_dataloader, device_cache
from basicsr.data.crops import Orientation, Window
from basicsr.data.data_sampler import EnlargedSampler
from basicsr.data.device_cache import DeviceCacheError, DeviceLoader, FlatImages
from basicsr.data.loaders import build_train_loader
from basicsr.data.network_input import ToInput
from basicsr.data.paired_image_dataset import PairedImageDataset
from basicsr.errors import OptionError
from basicsr.images.files import list_images, read_image, write_image
from basicsr.images.matlab_resize import imresize

CPU = torch.device("cpu")
NORMAL = {"mean": [0.4488, 0.4371, 0.404], "std": [0.3, 0.9, 1.1]}


@pytest.fixture(scope="module")
def lr(photos, tmp_path_factory):
    """Folder of LR images of scale 2, with changed pixels, so that it matters whether they are read."""
    folder = tmp_path_factory.mktemp("lr")
    for name in list_images(photos):
        gt = read_image(photos / name)
        gt = gt[: gt.shape[0] // 2 * 2, : gt.shape[1] // 2 * 2]
        write_image(folder / name, 255 - imresize(gt, 1 / 2))
    return folder


def both(dataset, device=CPU, batch_size=4, world=1, rank=0, ratio=3):
    """The usual loader of a data set, and the one on the device."""
    samplers = [EnlargedSampler(len(dataset), world, rank, ratio=ratio, seed=7) for _ in range(2)]
    usual = build_dataloader(dataset, phase="train", batch_size=batch_size, sampler=samplers[0])
    return usual, DeviceLoader(dataset, batch_size, samplers[1], device)


def assert_equal(usual, kept, epochs=((0, 0), (1, 0))):
    """Check that both give the same batches in these (epoch, start)."""
    assert len(usual) == len(kept) and usual.batch_size == kept.batch_size
    for epoch in epochs:
        count = 0
        for loader in (usual, kept):
            loader.sampler.set_epoch(*epoch)
        for one, other in zip(usual, kept, strict=True):
            assert list(one) == list(other)
            for key in ("lq", "gt"):
                assert other[key].device.type == kept.device.type and one[key].stride() == other[key].stride()
                torch.testing.assert_close(other[key].cpu(), one[key], rtol=0, atol=0)
            assert one["lq_path"] == other["lq_path"] and one["gt_path"] == other["gt_path"]
            count += 1
        assert count == (len(usual) * usual.batch_size - epoch[1]) // usual.batch_size > 0


@pytest.mark.parametrize(
    "options",
    [
        *({"use_hflip": hflip, "use_rot": rot} for hflip, rot in itertools.product((False, True), repeat=2)),
        NORMAL,
        {"color": "y"},
        {"color": "y", "mean": [0.5], "std": [0.3]},
        {"gt_size": 120},  # of a side of 121 to 160
        {"scale": 1},
        {"scale": 3, "gt_size": 48},
        {"scale": 4, "seed": 11},
        {"cache_mb": 0},
    ],
    ids=str,
)
def test_batches_equal_those_of_a_loader(photos, options):
    dataset = PairedImageDataset(**{"dataroot_gt": str(photos), "scale": 2, "gt_size": 32, **options})
    assert_equal(*both(dataset))


@pytest.mark.parametrize("color", [None, "y"])
def test_low_resolution_files_are_read(photos, lr, color):
    dataset = PairedImageDataset(dataroot_gt=str(photos), dataroot_lq=str(lr), scale=2, gt_size=32, color=color)
    usual, kept = both(dataset)
    assert_equal(usual, kept)
    assert next(iter(kept))["lq_path"][0].startswith(str(lr))


def test_lmdb(photos, lr, make_lmdb):
    roots = {"dataroot_gt": str(make_lmdb(photos, "gt")), "dataroot_lq": str(make_lmdb(lr, "lr"))}
    assert_equal(*both(PairedImageDataset(**roots, scale=2, gt_size=32, io_backend={"type": "lmdb"})))


@pytest.mark.parametrize("rank", [0, 1])
def test_every_rank_gets_its_share(photos, rank):
    dataset = PairedImageDataset(dataroot_gt=str(photos), scale=2, gt_size=32)
    assert_equal(*both(dataset, batch_size=2, world=2, rank=rank))


def test_an_epoch_goes_on_in_its_middle(photos):
    dataset = PairedImageDataset(dataroot_gt=str(photos), scale=2, gt_size=32)
    usual, kept = both(dataset, ratio=4)
    assert_equal(usual, kept, epochs=[(1, 8), (2, 12), (3, 0)])


def test_global_generators_are_left_alone(photos):
    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    list(both(PairedImageDataset(dataroot_gt=str(photos), scale=2, gt_size=32))[1])
    assert torch.equal(torch.get_rng_state(), before[0])
    np.testing.assert_array_equal(np.random.get_state()[1], before[1])


def test_every_turn_of_a_window_is_three_integers():
    images = [
        np.random.default_rng(k).integers(0, 256, shape, np.uint8) for k, shape in enumerate([(7, 5, 3), (6, 9, 3)])
    ]
    kept = FlatImages([image.shape[:2] for image in images], 3, torch.uint8, CPU)
    for position, image in enumerate(images):
        kept.store(position, torch.from_numpy(image.reshape(-1, 3)))
    window = Window(2, 1, 4, 4)
    for turn in itertools.starmap(Orientation, itertools.product((False, True), repeat=3)):
        strides = torch.tensor([kept.strides(position, window, turn) for position in (0, 1)]).T
        for crop, image in zip(kept.crops(strides, 4), images, strict=True):
            np.testing.assert_array_equal(crop, turn.apply(window.crop(image)))


class Operations(TorchDispatchMode):
    """Collects the names of the operations that run within."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.append(func.overloadpacket._qualified_op_name)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("options", [NORMAL, {"color": "y"}], ids=str)
def test_a_batch_reads_nothing_back_from_the_device(photos, options):
    kept = both(PairedImageDataset(dataroot_gt=str(photos), scale=2, gt_size=32, **options))[1]
    batches = iter(kept)
    with Operations() as operations:
        next(batches)
    assert operations.names.count("aten::index_select") == (2 if "color" in options else 4)
    assert len(operations.names) < 50  # each of them a launch, or a view
    # On a GPU, these wait: the number of a tensor, a size that depends on values, a copy to the host.
    assert not {"aten::_local_scalar_dense", "aten::nonzero", "aten::equal", "aten::is_nonzero"} & {*operations.names}


class Drawing(PairedImageDataset):
    """A data set with windows of its own."""

    def draw(self, key):
        return super().draw(key)._replace(window=Window(3, 1, self.crop_px, self.crop_px))


class Sampling(PairedImageDataset):
    """A data set with samples of its own."""

    def __getitem__(self, key):
        return {**super().__getitem__(key), "lq": torch.zeros(3, 16, 16)}


class OldPlugIn:
    """A data set in the style of BasicSR."""

    def __init__(self, opt):
        self.opt = opt

    def __len__(self):
        return 4

    def __getitem__(self, index):
        return {"lq": torch.zeros(3, 4, 4), "gt": torch.zeros(3, 8, 8)}


def test_a_subclass_that_draws_differently(photos):
    dataset = Drawing(dataroot_gt=str(photos), scale=2, gt_size=32)
    usual, kept = both(dataset)
    assert_equal(usual, kept)
    assert {tuple(dataset.draw(key).window) for key in kept.sampler} == {(3, 1, 16, 16)}


@pytest.fixture
def run_options(photos):
    def options(root=photos, kind="PairedImageDataset", scale=2, batch_size=2, cache="device", **dataset):
        section = DatasetOptions(
            type=kind,
            extra={"dataroot_gt": str(root), "gt_size": 32, **dataset},
            cache=cache,
            batch_size_per_gpu=batch_size,
            where=Location({(): "x.yml"}, ("datasets", "train")),
        )
        train = TrainOptions(optim_g=Spec({"type": "Adam"}), total_iter=1, accum_iter=2)
        return resolve(
            Options(
                name="run",
                scale=scale,
                num_gpu=0,
                datasets={"train": section},
                network_g=Spec({"type": "X"}),
                train=train,
                manual_seed=5,
            )
        )

    return options


@pytest.fixture
def messages(caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("basicsr"), "propagate", True)
    caplog.set_level(logging.INFO, "basicsr")
    return caplog


def test_the_loader_of_a_run(run_options, messages):
    loader = build_train_loader(run_options())
    assert isinstance(loader, DeviceLoader) and loader.device == CPU
    assert next(iter(loader))["lq"].shape == (4, 3, 16, 16)  # two parts of a step
    usual = build_train_loader(run_options(cache="memory"))
    assert type(usual) is DataLoader
    assert_equal(usual, loader)
    (message,) = messages.messages
    assert message.startswith("Training set kept on cpu: 5 pairs of images, 0.3 MiB, filled in ")
    assert message.endswith(" threads") and loader.cache_bytes == sum(
        3 * height * width for sizes in (loader.dataset.gt_sizes, loader.dataset.lq_sizes) for height, width in sizes
    )


def too_large(monkeypatch, tmp_path):
    monkeypatch.setattr(device_cache, "memory_limit", lambda device: 2**19)
    return {}, "the images take 0.3 MiB, and of the 0.5 MiB that are free on cpu they may take 50%"


def shared_by_processes(monkeypatch, tmp_path):
    monkeypatch.setattr(device_cache, "memory_limit", lambda device: 2**22)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "8")
    return {}, "the images take 0.3 MiB, and of the 0.5 MiB that are free on cpu they may take 50%"


def in_pieces(monkeypatch, tmp_path):
    def full(*args, **kwargs):
        raise torch.OutOfMemoryError("CUDA out of memory\nat great length")

    monkeypatch.setattr(device_cache, "FlatImages", full)
    return {}, "they may take 50%; CUDA out of memory"


def sixteen_bits(monkeypatch, tmp_path):
    write_image(tmp_path / "a.png", np.zeros((40, 50, 3), np.uint8))
    write_image(tmp_path / "b.png", np.zeros((40, 50, 3), np.uint16))
    return {"root": tmp_path, "batch_size": 1}, f"{tmp_path / 'b.png'} has 16 bits a channel"


def whole_images(monkeypatch, tmp_path):
    write_image(tmp_path / "a.png", np.zeros((40, 50, 3), np.uint8))
    write_image(tmp_path / "b.png", np.ones((40, 50, 3), np.uint8))
    options = {"root": tmp_path, "gt_size": None, "batch_size": 1}
    return options, "gt_size is not set, so samples are whole images"


def noise(monkeypatch, tmp_path):
    options = {"kind": "Dataset_GaussianDenoising", "scale": 1, "sigma_range": 25}
    return options, "GaussianDenoisingDataset is no PairedImageDataset"


def plug_in(monkeypatch, tmp_path):
    monkeypatch.setattr(DATASET_REGISTRY, "_items", {**DATASET_REGISTRY._items, "OldPlugIn": OldPlugIn})
    return {"kind": "OldPlugIn"}, "OldPlugIn is no PairedImageDataset"


def own_samples(monkeypatch, tmp_path):
    monkeypatch.setattr(DATASET_REGISTRY, "_items", {**DATASET_REGISTRY._items, "Sampling": Sampling})
    return {"kind": "Sampling"}, "Sampling makes samples of its own (__getitem__)"


def another_luma(monkeypatch, tmp_path):
    usual = ToInput.__call__
    monkeypatch.setattr(ToInput, "__call__", lambda self, image: usual(self, image) + 1e-7 * (len(image) > 40))
    return {"color": "y"}, "color: y, and this CPU rounds the luma of a crop differently than that of an image"


@pytest.mark.parametrize(
    "case",
    [too_large, shared_by_processes, in_pieces, sixteen_bits, whole_images, noise, plug_in, own_samples, another_luma],
)
def test_the_usual_loader_replaces_one_that_is_not_possible(case, run_options, messages, monkeypatch, tmp_path):
    changes, reason = case(monkeypatch, tmp_path)
    loader = build_train_loader(run_options(**changes))
    assert type(loader) is DataLoader and len(next(iter(loader))["gt"]) == loader.batch_size
    (line,) = [record for record in messages.records if "cache" in record.getMessage()]
    assert line.levelno == logging.WARNING and "\n" not in line.getMessage()
    assert line.getMessage().startswith("x.yml: datasets.train.cache: device is not possible, using memory: ")
    assert line.getMessage().endswith(reason)


def test_a_damaged_image_ends_the_run_before_it_begins(run_options, tmp_path, monkeypatch):
    for k in range(200):
        write_image(tmp_path / f"{k:03d}.png", np.full((40, 50, 3), k, np.uint8))
    read, seen = PairedImageDataset.read_pair, []

    def damaged(self, position):
        seen.append(position)
        if position == 3:
            raise ValueError("003.png: is damaged")
        return read(self, position)

    monkeypatch.setattr(PairedImageDataset, "read_pair", damaged)
    with pytest.raises(OptionError, match=r"^x.yml: datasets.train: 003.png: is damaged$"):
        build_train_loader(run_options(tmp_path))
    assert len(seen) < 200  # the others are not read first


def test_an_epoch_too_short_for_a_batch(run_options):
    with pytest.raises(OptionError, match="an epoch has 5 samples a process, less than a batch of 6"):
        build_train_loader(run_options(batch_size=3))


def test_a_data_set_that_cannot_be_kept_has_its_own_error(photos):
    dataset = PairedImageDataset(dataroot_gt=str(photos), scale=2, phase="val", gt_size=32)
    with pytest.raises(DeviceCacheError, match="samples are whole images"):
        DeviceLoader(dataset, 1, EnlargedSampler(5, 1, 0), CPU)


@pytest.fixture
def train(monkeypatch):
    monkeypatch.setattr(logging.getLogger("basicsr"), "handlers", [])

    def train(run, *overrides):
        monkeypatch.chdir(run.folder)
        torch.set_num_threads(1)
        flags = ["--force_yml", *overrides] if overrides else []
        assert basicsr.train.main(["-opt", "run.yml", "--auto_resume", *flags]) == 0
        return run.result()

    return train


@pytest.mark.filterwarnings("ignore:Unable to enable fault handler")
def test_a_whole_run_ends_with_the_same_weights(tmp_path, train, capsys):
    values = options_of_run(tmp_path, 5, train={"accum_iter": 1, "ema_decay": 0.9})  # two iterations an epoch
    expected = train(Run(tmp_path / "memory", values))
    assert train(Run(tmp_path / "device", values), "datasets:train:cache=device") == expected
    assert "Training set kept on cpu: 5 pairs" in capsys.readouterr().err
    changing = Run(tmp_path / "changing", values)  # one way after the other, from the middle of an epoch on
    train(changing, "train:total_iter=3")
    assert train(changing, "datasets:train:cache=device") == expected
    assert "datasets.train.cache: (default) -> device" in capsys.readouterr().err


@pytest.mark.gpu
@pytest.mark.parametrize("options", [{}, NORMAL, {"color": "y"}], ids=str)
def test_batches_on_a_gpu(photos, lr, options):
    device = torch.device("cuda" if torch.cuda.is_available() else "mps")
    dataset = PairedImageDataset(dataroot_gt=str(photos), dataroot_lq=str(lr), scale=2, gt_size=32, **options)
    usual, kept = both(dataset, device)
    assert_equal(usual, kept)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@pytest.mark.parametrize("options", [NORMAL, {"color": "y"}], ids=str)
def test_nothing_waits_for_a_gpu(photos, options):
    kept = both(PairedImageDataset(dataroot_gt=str(photos), scale=2, gt_size=32, **options), torch.device("cuda"))[1]
    torch.cuda.set_sync_debug_mode("error")
    try:
        batches = list(kept)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert len(batches) == len(kept) > 0
