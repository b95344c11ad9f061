"""The loaders of a run, built from its options. The global batches are the same for any number of processes."""

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader, SequentialSampler, Subset

from basicsr.config.faults import FaultList
from basicsr.config.input_form import PLAIN_RGB, InputForm
from basicsr.config.schema import DatasetOptions, Options
from basicsr.data import build_dataloader, build_dataset
from basicsr.data.data_sampler import EnlargedSampler
from basicsr.data.device_cache import DeviceCacheError, DeviceLoader
from basicsr.data.guard import GuardedDataset
from basicsr.data.network_input import input_form
from basicsr.engine.device import pick_device
from basicsr.errors import ImageReadError, OptionError
from basicsr.images.names import distinct_names
from basicsr.images.unreadable import Unreadable

logger = logging.getLogger("basicsr")
LOADER_TIMEOUT_FRACTION = 0.8  # of `dist_params.timeout`, so that a loader fails before the process group does


def build_train_loader(opt: Options) -> DataLoader[Any]:
    """Build the loader of this process's training batches, each with all `accum_iter` parts of an optimizer step.

    With `cache: device` it is a `DeviceLoader` where that is possible; otherwise the reason is logged.

    Raises:
        OptionError: naming the section, for folders, images or sizes that cannot be used.
    """
    options = opt.datasets["train"]
    dataset = _dataset(options, opt, "train")
    sampler = EnlargedSampler(
        len(dataset), opt.world_size, opt.rank, ratio=options.dataset_enlarge_ratio, seed=opt.manual_seed
    )
    batch_size = options.batch_size_per_gpu * (opt.train.accum_iter if opt.train else 1)
    uses_cuda = opt.num_gpu != 0 and torch.cuda.is_available()
    try:
        if options.cache == "device":
            try:
                return DeviceLoader(dataset, batch_size, sampler, pick_device(opt.num_gpu))
            except DeviceCacheError as error:
                logger.warning("%s: device is not possible, using memory: %s", options.where / "cache", error)
        return build_dataloader(
            GuardedDataset(dataset),
            phase="train",
            batch_size=batch_size,
            num_workers=options.num_worker_per_gpu,
            sampler=sampler,
            seed=opt.manual_seed + opt.rank,
            pin_memory=uses_cuda if options.pin_memory is None else options.pin_memory,
            persistent_workers=options.persistent_workers,
            prefetch_factor=options.num_prefetch_queue,
            timeout=LOADER_TIMEOUT_FRACTION * opt.dist_params.timeout,
        )
    except ValueError as error:
        raise OptionError(f"{options.where}: {error}") from error


def batches(loader: DataLoader[Any], start: int) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield (epoch, batch) without end, after the first `start` batches of a run.

    Raises:
        ImageReadError: when an image cannot be read, naming its file.
    """
    epoch, done = divmod(start, len(loader))
    sampler: Any = loader.sampler
    while True:
        sampler.set_epoch(epoch, done * int(loader.batch_size or 1))
        for batch in loader:
            if isinstance(batch, Unreadable):
                raise ImageReadError(batch.reason)
            yield epoch, batch
        epoch, done = epoch + 1, 0


class TestLoader:
    """Loads this process's share of a test set, whole images one by one; those that cannot be read are passed over.

    Attributes:
        name: name of the data set.
        root: its folder; image names are relative to it.
        names: path -> name of every image of the set, also of those that other processes score, all distinct.
        dataset: the whole data set, with its options in `opt`.
        unreadable: the images that were passed over since the last `iter`, which the log names.
        form: how its images were made network inputs.
    """

    __test__ = False  # not a test class for pytest

    def __init__(
        self,
        name: str,
        root: Path | None,
        loader: DataLoader[Any],
        dataset: Any = None,
        form: InputForm = PLAIN_RGB,
    ):
        self.name = name
        self.root = root
        self.dataset = dataset
        self.unreadable: list[Unreadable] = []
        self.form = form
        paths = getattr(dataset, "gt_paths", None) or getattr(dataset, "lq_paths", None)
        self.names = distinct_names(paths if isinstance(paths, list) else (), root)
        self._loader = loader

    def __iter__(self) -> Iterator[dict[str, Any]]:
        self.unreadable.clear()
        for position, batch in enumerate(self._loader):
            if isinstance(batch, Unreadable):
                self.unreadable.append(batch._replace(position=position))
                logger.error("%s: %s. The run goes on without this image", self.name, batch.reason)
            else:
                yield batch

    def __len__(self) -> int:
        return len(self._loader)

    def whole(self) -> "TestLoader":
        """Return a loader of all images in this process."""
        if len(self._loader) == len(self.dataset):
            return self
        dataset = GuardedDataset(self.dataset)
        loader = build_dataloader(dataset, phase="test", sampler=SequentialSampler(dataset))
        return TestLoader(self.name, self.root, loader, self.dataset, self.form)


def build_test_loader(opt: Options, key: str) -> TestLoader:
    """Build the loader of this process's images of `datasets.<key>`: every `world_size`-th, beginning at its rank.

    Raises:
        OptionError: naming the section, for folders or images that cannot be used.
    """
    options = opt.datasets[key]
    dataset = _dataset(options, opt, key.split("_")[0])
    share = Subset(GuardedDataset(dataset), range(opt.rank, len(dataset), opt.world_size))
    loader = build_dataloader(
        share,
        phase="test",
        num_workers=options.num_worker_per_gpu,
        sampler=SequentialSampler(share),
        timeout=LOADER_TIMEOUT_FRACTION * opt.dist_params.timeout,
    )
    root = options.get("dataroot_gt") or options.get("dataroot_lq")
    try:
        form = input_form(dataset, options)
    except ValueError as error:
        raise OptionError(f"{options.where}: {error}") from error
    return TestLoader(options.name or key, Path(root) if root else None, loader, dataset, form)


def build_loaders(opt: Options) -> tuple[Any, list[TestLoader]]:
    """Build the loaders of a run: that of the training set (None in a test run), and those of the other sets.

    Raises:
        OptionError: for all data sets that cannot be used.
    """
    faults, train_loader, test_loaders = FaultList(), None, []
    if opt.is_train:
        with faults.collecting():
            train_loader = build_train_loader(opt)
    for key in opt.datasets_of("val", "test"):
        with faults.collecting():
            test_loaders.append(build_test_loader(opt, key))
    faults.raise_if_any()
    return train_loader, test_loaders


def _dataset(options: DatasetOptions, opt: Options, phase: str) -> Any:
    try:
        return build_dataset(options, scale=opt.scale, phase=phase, seed=opt.manual_seed)
    except (ValueError, OSError) as error:
        raise OptionError(f"{options.where}: {error}") from error
