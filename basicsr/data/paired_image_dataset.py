"""Pairs of a low-resolution image and its ground truth."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from torch.utils.data import Dataset

from basicsr.config.ranges import Megabytes, PixelDeviation, PixelMean, Pixels, Scale, Seed
from basicsr.config.registry import DATASET_REGISTRY
from basicsr.data.cache import CachedImages
from basicsr.data.crops import UPRIGHT, Orientation, Window, downscale_window, random_orientation, random_window
from basicsr.data.data_sampler import SampleIndex, locate
from basicsr.data.listing import chosen_names, partner_names
from basicsr.data.network_input import ToInput
from basicsr.data.storage import StoredImage, open_store, raise_for_faults

PHASES = ("train", "val", "test")


class Draw(NamedTuple):
    """The random choices of one sample."""

    position: int
    """index of its pair in the data set"""
    window: Window
    """in low-resolution pixels"""
    orientation: Orientation


@DATASET_REGISTRY.register()
class PairedImageDataset(Dataset[dict[str, Any]]):
    """`{lq, gt, lq_path, gt_path}`: float32 RGB (3, h, w) and (3, scale * h, scale * w) in [0, 1], and their files.

    Training samples are aligned crops, flipped and rotated; every random choice follows from (seed, epoch, index),
    so workers, ranks and resumes change nothing. Validation and test samples are whole images, the ground truth cut at
    the bottom right to scale times the low-resolution size.

    All images are checked when the data set is built. Low-resolution images must have floor(ground truth / scale)
    pixels a side. See `read_image` for gray, 16-bit and transparent files.

    Args:
        dataroot_gt: folder of ground truth, subfolders included, or an LMDB.
        dataroot_lq: folder or LMDB of low-resolution images, with the same subfolders; None: they are made on the fly
            by MATLAB's bicubic, equal in every pixel to files made beforehand, and `lq_path` repeats `gt_path`.
        filename_tmpl: low-resolution stem from the ground truth's: "{}x4" pairs `a.png` with `ax4.png` or `ax4.jpg`.
        meta_info_file: text file that lists the ground truth to use, one name a line.
        io_backend: {type: disk} for folders, {type: lmdb} for LMDBs, whose paths end in `.lmdb`.
        scale: ground-truth pixels for each low-resolution pixel, >= 1.
        phase: "train", "val" or "test".
        gt_size: side of a training crop in ground-truth pixels, a multiple of `scale`; None: whole images.
        use_hflip: mirror training samples at random.
        use_rot: turn training samples by multiples of 90 degrees at random.
        color: "y": the luma alone, one channel.
        mean: subtracted from each channel.
        std: divides each channel.
        cache_mb: limit in MiB for decoded images in memory, shared by the workers, and for low-resolution images that
            are made, where there is room for all; 0: decode every time.
        seed: of crops, flips and rotations.

    Raises:
        FileNotFoundError: when a folder, an LMDB or an image is missing.
        ValueError: when an argument is out of range, or images are damaged, too small, or of sizes that do not match.
    """

    def __init__(
        self,
        *,
        dataroot_gt: str,
        dataroot_lq: str | None = None,
        filename_tmpl: str = "{}",
        meta_info_file: str | None = None,
        io_backend: dict | None = None,
        scale: Scale = 4,
        phase: str = "train",
        gt_size: Pixels | None = None,
        use_hflip: bool = True,
        use_rot: bool = True,
        color: Literal["y"] | None = None,
        mean: Sequence[PixelMean] | None = None,
        std: Sequence[PixelDeviation] | None = None,
        cache_mb: Megabytes = 2048,
        seed: Seed = 0,
    ) -> None:
        if scale < 1:
            raise ValueError(f"scale: must be at least 1, got {scale}")
        if phase not in PHASES:
            raise ValueError(f"phase: must be one of {', '.join(PHASES)}, got {phase!r}")
        if gt_size is not None and (gt_size < scale or gt_size % scale):
            raise ValueError(f"gt_size: must be a multiple of scale ({scale}), got {gt_size}")
        if cache_mb < 0:
            raise ValueError(f"cache_mb: must not be negative, got {cache_mb}; 0 turns the cache off")
        self.scale = scale
        self.is_train = phase == "train"
        self.crop_px = gt_size // scale if gt_size is not None and self.is_train else None
        self.use_hflip = use_hflip
        self.use_rot = use_rot
        self.seed = seed
        self.to_input = ToInput(color, mean, std)

        gt_store = open_store(dataroot_gt, io_backend)
        gt_names = chosen_names(gt_store, meta_info_file)
        sizes = gt_store.sizes(gt_names)
        self._check_not_small(gt_store.root, gt_names, sizes)
        images = [StoredImage(gt_store, name) for name in gt_names]
        self.gt_paths = self.lq_paths = [image.path for image in images]
        self.has_lq_files = dataroot_lq is not None
        lq_sizes = [(height // scale, width // scale) for height, width in sizes]
        if dataroot_lq is not None:
            lq_store = open_store(dataroot_lq, io_backend)
            lq_names = partner_names(gt_names, lq_store, filename_tmpl)
            lq_sizes = lq_store.sizes(lq_names)
            self._check_lq_sizes(lq_store.root, gt_names, sizes, lq_names, lq_sizes)
            lq_images = [StoredImage(lq_store, name) for name in lq_names]
            self.lq_paths = [image.path for image in lq_images]
            images = images + lq_images
        self.gt_sizes, self.lq_sizes = sizes, lq_sizes  # (height, width) in pixels
        self._images = CachedImages(images, sizes + lq_sizes, cache_mb)  # of position k: GT; of len(self) + k: its LQ

    @property
    def paths(self) -> list[dict[str, str]]:
        """The paths of each pair, under the keys of a sample."""
        return [{"lq_path": str(lq), "gt_path": str(gt)} for lq, gt in zip(self.lq_paths, self.gt_paths, strict=True)]

    @property
    def stored_images(self) -> Sequence[StoredImage]:
        """All images that are read from files: ground truth, then low-resolution ones."""
        return self._images.images

    def __len__(self) -> int:
        return len(self.gt_paths)

    def __getitem__(self, key: int | SampleIndex) -> dict[str, Any]:
        """Return the sample of `key`; in training a plain integer means epoch 0."""
        position, window, orientation = self.draw(key)
        gt = self._images[position]
        lq = self._lq_window(position, gt, window)
        return {
            "lq": self.to_input(orientation.apply(lq)),
            "gt": self.to_input(orientation.apply(window.crop(gt, self.scale))),
            "lq_path": str(self.lq_paths[position]),
            "gt_path": str(self.gt_paths[position]),
        }

    def draw(self, key: int | SampleIndex) -> Draw:
        """Return the random choices of the sample of `key`, which follow from (seed, epoch, index)."""
        sample, position = locate(key, len(self))
        height, width = self.lq_sizes[position]
        rng = np.random.default_rng([self.seed, *sample])
        window = random_window(height, width, self.crop_px, rng) if self.crop_px else Window(0, 0, height, width)
        orientation = random_orientation(rng, hflip=self.use_hflip, rot=self.use_rot) if self.is_train else UPRIGHT
        return Draw(position, window, orientation)

    def read_pair(self, position: int) -> tuple[np.ndarray, np.ndarray]:
        """Return a whole low-resolution image and its ground truth, (H, W, 3), read without the cache.

        Raises:
            OSError: when a file cannot be read.
            ValueError: when it is damaged or has changed.
        """
        gt = self._images.images[position].read()
        if self.has_lq_files:
            return self._images.images[len(self) + position].read(), gt
        return self._downscaled(gt), gt

    def _lq_window(self, position: int, gt: np.ndarray, window: Window) -> np.ndarray:
        if self.has_lq_files:
            return window.crop(self._images[len(self) + position])
        # The whole image costs as much as a few dozen windows, so it is only made for the cache.
        if gt.dtype == np.uint8 and self._images.has_room_for(len(self) + position):
            return window.crop(self._images.get(len(self) + position, lambda: self._downscaled(gt)))
        return downscale_window(gt, window, self.scale)

    def _downscaled(self, gt: np.ndarray) -> np.ndarray:
        height, width = gt.shape[0] // self.scale, gt.shape[1] // self.scale
        return downscale_window(gt, Window(0, 0, height, width), self.scale)

    def _check_not_small(self, folder: Path, names: Sequence[str], sizes: Sequence[tuple[int, int]]) -> None:
        least = self.scale * (self.crop_px or 1)
        limit = (
            f"gt_size ({least}); leave it out or lower gt_size" if self.crop_px else f"scale ({least}); leave it out"
        )
        raise_for_faults(
            folder,
            [
                f"{name}: {height}x{width} (height x width) is smaller than {limit}"
                for name, (height, width) in zip(names, sizes, strict=True)
                if min(height, width) < least
            ],
            len(names),
        )

    def _check_lq_sizes(
        self,
        folder: Path,
        gt_names: Sequence[str],
        gt_sizes: Sequence[tuple[int, int]],
        lq_names: Sequence[str],
        lq_sizes: Sequence[tuple[int, int]],
    ) -> None:
        raise_for_faults(
            folder,
            [
                f"{lq_name}: expected {gt[0] // self.scale}x{gt[1] // self.scale} (height x width, {gt_name} of "
                f"{gt[0]}x{gt[1]} at scale {self.scale}), got {lq[0]}x{lq[1]}; "
                "check scale, or make the file with scripts/data_preparation/generate_lr.py"
                for gt_name, gt, lq_name, lq in zip(gt_names, gt_sizes, lq_names, lq_sizes, strict=True)
                if lq != (gt[0] // self.scale, gt[1] // self.scale)
            ],
            len(gt_names),
        )
