"""Finding images and their partners, refusing bad ones by name before a run starts, and seeding each sample."""

import random
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from basicsr.data.data_sampler import SampleIndex
from basicsr.utils.img_util import image_size, list_images

MAX_REPORTED = 5


def check_io_backend(io_backend: dict | None) -> None:
    """Refuse everything but image files in folders.

    Raises:
        ValueError: for another back end.
    """
    kind = (io_backend or {}).get("type", "disk")
    if kind != "disk":
        raise ValueError(f"io_backend.type: must be 'disk', got {kind!r}; unpack the images into a folder")


def image_names(folder: Path, meta_info_file: str | None = None) -> list[str]:
    """Names of images relative to `folder`: those that a meta file lists, in its order, else all that are there.

    Args:
        folder: searched with its subfolders.
        meta_info_file: text with one image a line; what follows a name, as in `0001.png (1404,2040,3)`, is ignored.

    Raises:
        FileNotFoundError: when the folder, the meta file or a listed image is missing, or there are no images.
    """
    names = list_images(folder)
    if meta_info_file is not None:
        lines = Path(meta_info_file).read_text(encoding="utf-8").splitlines()
        known, names = set(names), [line.split(" (")[0].strip() for line in lines if line.strip()]
        missing = [f"{name}: listed in {meta_info_file}, not in the folder" for name in names if name not in known]
        refuse(folder, missing, len(names), FileNotFoundError)
    if not names:
        raise FileNotFoundError(f"{meta_info_file or folder}: no images; check the path")
    return names


def partner_names(gt_names: Sequence[str], lq_folder: Path, filename_tmpl: str) -> list[str]:
    """Names relative to `lq_folder` of the low-resolution partners of `gt_names`.

    Args:
        gt_names: names relative to the folder of ground truth.
        lq_folder: searched with its subfolders.
        filename_tmpl: makes the partner's stem from an image's: "{}x4" pairs `a/b.png` with `a/bx4.png` or `a/bx4.jpg`.

    Raises:
        ValueError: when the template holds no "{}".
        FileNotFoundError: when the folder or a partner is missing.
    """
    if "{}" not in filename_tmpl:
        raise ValueError(f"filename_tmpl: must contain {{}} for the name of the GT image, got {filename_tmpl!r}")
    by_stem = {str(PurePosixPath(name).with_suffix("")): name for name in list_images(lq_folder)}
    wanted = {name: str(_with_stem(PurePosixPath(name), filename_tmpl)) for name in gt_names}
    missing = [
        f"{name}: its LQ image {stem}.* is missing; check filename_tmpl ({filename_tmpl!r})"
        for name, stem in wanted.items()
        if stem not in by_stem
    ]
    refuse(lq_folder, missing, len(gt_names), FileNotFoundError)
    return [by_stem[wanted[name]] for name in gt_names]


def image_sizes(folder: Path, names: Sequence[str]) -> list[tuple[int, int]]:
    """(height, width) of every image, from its header.

    Raises:
        ValueError: when files are cut off or are no images, naming them.
    """

    def size_or_fault(name: str) -> tuple[int, int] | str:
        try:
            return image_size(folder / name)
        except ValueError as error:
            return str(error)

    with ThreadPoolExecutor() as pool:
        found = list(pool.map(size_or_fault, names))
    refuse(folder, [fault for fault in found if isinstance(fault, str)], len(names))
    return [size for size in found if not isinstance(size, str)]


def refuse(folder: Path, faults: Sequence[str], total: int, error: type[Exception] = ValueError) -> None:
    """Raise one `error` that counts the faulty images and shows the first few; no faults: do nothing."""
    if faults:
        more = [f"and {len(faults) - MAX_REPORTED} more"] if len(faults) > MAX_REPORTED else []
        shown = "\n  ".join(["", *faults[:MAX_REPORTED], *more])
        raise error(f"{folder}: {len(faults)} of {total} images cannot be used:{shown}")


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
