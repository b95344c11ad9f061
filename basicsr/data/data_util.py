"""Choosing images and their partners before a run starts, and seeding each sample."""

import random
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from basicsr.data.data_sampler import SampleIndex
from basicsr.data.storage import ImageStore, refuse


def chosen_names(store: ImageStore, meta_info_file: str | None = None) -> list[str]:
    """Names of images in `store`: those that a meta file lists, in its order, else all that are there.

    Args:
        store: where they are.
        meta_info_file: text with one image a line; what follows a name, as in `0001.png (1404,2040,3)`, is ignored.

    Raises:
        FileNotFoundError: when the meta file or a listed image is missing, or there are no images.
    """
    names = store.names()
    if meta_info_file is not None:
        lines = Path(meta_info_file).read_text(encoding="utf-8").splitlines()
        known, names = set(names), [line.split(" (")[0].strip() for line in lines if line.strip()]
        missing = [f"{name}: listed in {meta_info_file}, but not there" for name in names if name not in known]
        refuse(store.root, missing, len(names), FileNotFoundError)
    if not names:
        raise FileNotFoundError(f"{meta_info_file or store.root}: no images; check the path")
    return names


def partner_names(gt_names: Sequence[str], lq_store: ImageStore, filename_tmpl: str) -> list[str]:
    """Names in `lq_store` of the low-resolution partners of `gt_names`.

    Args:
        gt_names: names of ground truth.
        lq_store: where the partners are.
        filename_tmpl: makes the partner's stem from an image's: "{}x4" pairs `a/b.png` with `a/bx4.png` or `a/bx4.jpg`.

    Raises:
        ValueError: when the template holds no "{}".
        FileNotFoundError: when a partner is missing.
    """
    if "{}" not in filename_tmpl:
        raise ValueError(f"filename_tmpl: must contain {{}} for the name of the GT image, got {filename_tmpl!r}")
    by_stem = {str(PurePosixPath(name).with_suffix("")): name for name in lq_store.names()}
    wanted = {name: str(_with_stem(PurePosixPath(name), filename_tmpl)) for name in gt_names}
    missing = [
        f"{name}: its LQ image {stem}.* is missing; check filename_tmpl ({filename_tmpl!r})"
        for name, stem in wanted.items()
        if stem not in by_stem
    ]
    refuse(lq_store.root, missing, len(gt_names), FileNotFoundError)
    return [by_stem[wanted[name]] for name in gt_names]


def locate(key: int | SampleIndex, size: int) -> tuple[SampleIndex, int]:
    """A loader's key as a sample, and the position of its image in a data set of `size` images.

    Raises:
        IndexError: when a plain integer is not in [0, size), which ends a `for` loop over a data set.
    """
    if isinstance(key, SampleIndex):
        return key, key.index % size
    if not 0 <= key < size:
        raise IndexError(f"sample {key} of a data set of {size} images")
    return SampleIndex(epoch=0, index=key), key


class LegacyDataset(Dataset[Any]):
    """A data set written for BasicSR, `__init__(self, opt)` and global random numbers, made to give repeatable samples.

    Around each sample the generators of Python, NumPy and PyTorch are seeded from (seed, epoch, index), then put back.
    """

    def __init__(self, dataset: Dataset[Any], seed: int) -> None:
        self.dataset = dataset
        self.seed = seed

    def __len__(self) -> int:
        return len(self.dataset)  # type: ignore[arg-type]

    def __getitem__(self, key: int | SampleIndex) -> Any:
        sample, position = locate(key, len(self))
        number = int(np.random.SeedSequence([self.seed, *sample]).generate_state(1)[0])
        python_state, numpy_state = random.getstate(), np.random.get_state()
        with torch.random.fork_rng(devices=[]):
            try:
                random.seed(number)
                np.random.seed(number)
                torch.manual_seed(number)
                return self.dataset[position]
            finally:
                random.setstate(python_state)
                np.random.set_state(numpy_state)


def _with_stem(name: PurePosixPath, template: str) -> PurePosixPath:
    return name.with_name(template.format(name.stem))
