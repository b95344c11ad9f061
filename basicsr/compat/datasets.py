"""Data sets written for BasicSR 1.4: built from one mapping, and random by the global generators."""

import functools
import inspect
from collections.abc import Mapping
from typing import Any

import numpy as np
from torch.utils.data import Dataset

from basicsr.data.data_sampler import SampleIndex, locate
from basicsr.data.paired_image_dataset import PairedImageDataset
from basicsr.engine.random_state import seeded_generators


class LegacyDataset(Dataset[Any]):
    """A data set that draws from the global generators, made to give repeatable samples.

    Around each sample the generators of Python, NumPy and PyTorch are seeded from (seed, epoch, index), then restored.
    """

    def __init__(self, dataset: Dataset[Any], seed: int) -> None:
        self.dataset = dataset
        self.seed = seed
        self.opt: Mapping[str, Any] = getattr(dataset, "opt", {})

    def __len__(self) -> int:
        return len(self.dataset)  # type: ignore[arg-type]

    def __getitem__(self, key: int | SampleIndex) -> Any:
        sample, position = locate(key, len(self))
        key_numbers = [self.seed, *sample]
        with seeded_generators(key_numbers):
            if isinstance(self.dataset, PairedImageDataset):  # it draws from its own seed, not from the generators
                self.dataset.seed = int(np.random.SeedSequence(key_numbers).generate_state(1)[0])
            return self.dataset[position]


def adapt_dataset(cls: Any) -> Any:
    """Return a function that builds a `LegacyDataset` of a class whose constructor takes one `opt`; else the class."""
    if list(inspect.signature(cls).parameters) != ["opt"]:
        return cls

    def build(opt: Mapping[str, Any], seed: int) -> LegacyDataset:
        return LegacyDataset(cls(opt), seed)

    build.__module__ = cls.__module__  # by which the checks of options know that it is a plug-in's
    return build


def takes_opt(cls: Any) -> Any:
    """Let a data set with keyword arguments also be built from one mapping, `cls(opt)`, as in BasicSR.

    The keys of the mapping that are arguments count. The data set gets the further attributes that BasicSR's have:
    `opt`, `io_backend_opt`, `mean`, `std`, `gt_folder`, `lq_folder`, `filename_tmpl` and `file_client`.
    """
    make = cls.__init__

    @functools.wraps(make)
    def either(self: Any, opt: Mapping[str, Any] | None = None, /, **arguments: Any) -> None:
        names = list(inspect.signature(make).parameters)[1:]
        if opt is not None:
            arguments = {**{name: opt[name] for name in names if opt.get(name) is not None}, **arguments}
        make(self, **arguments)
        self.opt = dict(opt) if opt is not None else {}
        self.io_backend_opt = dict(arguments.get("io_backend") or {"type": "disk"})
        self.mean, self.std = arguments.get("mean"), arguments.get("std")
        self.gt_folder, self.lq_folder = arguments.get("dataroot_gt"), arguments.get("dataroot_lq")
        self.filename_tmpl = arguments.get("filename_tmpl") or "{}"
        self.file_client = None  # as in BasicSR before the first sample

    cls.__init__ = either
    return cls
