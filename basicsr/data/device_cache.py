"""A training set kept on the training device, which cuts its batches there.

All inputs form one flat tensor, and all ground truth another. The random choices of a sample are drawn on the CPU, as
for any loader. Each crop, flipped and rotated, is then described by three integers: its first pixel, and the distances
to the next row and to the next column. So a batch takes one small transfer, two gathers, and a look-up table from the
256 levels to inputs.
"""

import logging
import os
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import Lock
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from basicsr.data import check_epoch_length
from basicsr.data.crops import Orientation, Window
from basicsr.data.paired_image_dataset import Draw, PairedImageDataset
from basicsr.engine.device import memory_limit
from basicsr.errors import first_line

logger = logging.getLogger("basicsr")
MAX_FREE_SHARE = 0.5  # of the free memory, for the images; the rest is for training
MAX_FILL_THREADS = 8
LEVELS = 256
MIB = 2**20


class DeviceCacheError(Exception):
    """A data set cannot be kept on a device; the message is the reason."""


class Strides(NamedTuple):
    """Position of a crop in a flat tensor: its pixel (i, j) has index origin + i * row + j * column."""

    origin: int
    row: int
    column: int


def crop_strides(window: Window, orientation: Orientation, width: int) -> Strides:
    """Return the strides of a window in a given orientation, from the first pixel of an image `width` pixels wide."""
    top, left, row, column = window.top, window.left, width, 1
    if orientation.mirror_x:
        left, column = left + window.width - 1, -column
    if orientation.mirror_y:
        top, row = top + window.height - 1, -row
    origin = top * width + left
    return Strides(origin, column, row) if orientation.swap else Strides(origin, row, column)


class FlatImages:
    """Images of different sizes in one flat tensor on a device.

    Args:
        sizes: (height, width) of each, in pixels.
        channels: number of channels.
        dtype: type of the values.
        device: device of the tensor.
    """

    def __init__(self, sizes: Sequence[tuple[int, int]], channels: int, dtype: torch.dtype, device: torch.device):
        self._starts = [0, *np.cumsum([height * width for height, width in sizes]).tolist()]
        self._widths = [width for _, width in sizes]
        self._pixels = torch.empty(self._starts[-1], channels, dtype=dtype, device=device)
        self._steps = torch.arange(max(min(size) for size in sizes), device=device)

    def store(self, position: int, pixels: Tensor) -> None:
        """Store the pixels (H * W, C) of the image at `position`."""
        self._pixels[self._starts[position] : self._starts[position + 1]].copy_(pixels)

    def strides(self, position: int, window: Window, orientation: Orientation) -> Strides:
        """Return the strides of a window of the image at `position` in a given orientation."""
        strides = crop_strides(window, orientation, self._widths[position])
        return strides._replace(origin=self._starts[position] + strides.origin)

    def crops(self, strides: Tensor, side: int) -> Tensor:
        """Return the squares (B, side, side, C) at strides (3, B), int64 on the device."""
        origin, row, column = strides[:, :, None, None]
        steps = self._steps[:side]
        index = origin + row * steps[:, None] + column * steps
        return self._pixels.index_select(0, index.flatten()).view(*index.shape, -1)


class DeviceLoader(DataLoader[dict[str, Any]]):
    """A `DataLoader` of batches `{lq, gt, lq_path, gt_path}` on a device, which holds all images.

    The batches are equal, bit for bit, to those of any loader of the same data set and sampler; the last one of an
    epoch is left out unless it is full. The host never waits for a GPU.

    Args:
        dataset: pairs, in training, with a `gt_size`.
        batch_size: samples in a batch.
        sampler: order of the samples.
        device: device of images and batches.

    Attributes:
        cache_bytes: memory of the images on the device.

    Raises:
        DeviceCacheError: when the data set cannot be kept there: too large, another class, 16 bits, whole images.
        OSError: when an image cannot be read.
        ValueError: when an image is damaged, or an epoch does not fill one batch.
    """

    def __init__(self, dataset: Dataset[Any], batch_size: int, sampler: Sampler[Any], device: torch.device) -> None:
        check_epoch_length(sampler, batch_size)
        super().__init__(dataset, batch_size=batch_size, sampler=sampler, drop_last=True)
        self.device = device
        self._pairs = _croppable(dataset)
        self._paths = self._pairs.paths
        self._side = int(self._pairs.crop_px or 0)
        # RGB images are stored as 8-bit levels. Luma is a sum of three products, which a GPU may round differently: the
        # CPU computes it once, as it does for a loader.
        self._is_luma = self._pairs.to_input.color == "y"
        self._levels = None if self._is_luma else _levels_as_inputs(self._pairs).flatten().to(device)
        self._offsets = LEVELS * torch.arange(3, device=device)[:, None, None]  # of each channel's levels
        self._lq, self._gt = self._allocate()
        self._copying = Lock()  # not every device accepts copies from several threads at a time
        self._fill()

    def __iter__(self) -> Iterator[dict[str, Any]]:  # type: ignore[override]
        for keys in self.batch_sampler or ():
            yield self._batch([self._pairs.draw(key) for key in keys])

    def _batch(self, draws: Sequence[Draw]) -> dict[str, Any]:
        scale = self._pairs.scale
        lq = [self._lq.strides(*draw) for draw in draws]
        gt = [self._gt.strides(at, window.scaled(scale), turn) for at, window, turn in draws]
        strides = torch.tensor([lq, gt]).transpose(1, 2)  # (2, 3, B)
        if self.device.type == "cuda":
            strides = strides.contiguous().pin_memory()  # only a copy from pinned memory does not wait for the GPU
        strides = strides.to(self.device, non_blocking=True)
        return {
            "lq": self._inputs(self._lq.crops(strides[0], self._side)),
            "gt": self._inputs(self._gt.crops(strides[1], scale * self._side)),
            **{key: [self._paths[draw.position][key] for draw in draws] for key in ("lq_path", "gt_path")},
        }

    def _inputs(self, crops: Tensor) -> Tensor:
        """Return the inputs (B, C, h, w) made of stored pixels (B, h, w, C)."""
        if self._levels is None:
            return crops.view(len(crops), 1, *crops.shape[1:3])
        levels = crops.permute(0, 3, 1, 2).to(torch.int64, memory_format=torch.contiguous_format)
        levels += self._offsets
        return self._levels.index_select(0, levels.flatten()).view(levels.shape)

    def _allocate(self) -> list[FlatImages]:
        channels, dtype = (1, torch.float32) if self._is_luma else (3, torch.uint8)
        sizes = [self._pairs.lq_sizes, self._pairs.gt_sizes]
        self.cache_bytes = sum(h * w for one in sizes for h, w in one) * channels * dtype.itemsize
        free = memory_limit(self.device) // (_local_processes() if self.device.type == "cpu" else 1)
        problem = (
            f"the images take {self.cache_bytes / MIB:,.1f} MiB, and of the {free / MIB:,.1f} MiB that are free on "
            f"{self.device} they may take {MAX_FREE_SHARE:.0%}"
        )
        if self.cache_bytes > MAX_FREE_SHARE * free:
            raise DeviceCacheError(problem)
        try:
            return [FlatImages(one, channels, dtype, self.device) for one in sizes]
        except RuntimeError as error:  # the free memory may be fragmented
            raise DeviceCacheError(f"{problem}; {first_line(error)}") from error

    def _fill(self) -> None:
        start = time.perf_counter()
        threads = max(1, min(MAX_FILL_THREADS, (os.cpu_count() or 1) // _local_processes()))
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(self._fill_pair, range(len(self._pairs))))  # an error cancels the remaining ones
        size, seconds = f"{self.cache_bytes / MIB:,.1f}", time.perf_counter() - start
        text = "Training set kept on %s: %d pairs of images, %s MiB, filled in %.1f s by %d threads"
        logger.info(text, self.device, len(self._pairs), size, seconds, threads)

    def _fill_pair(self, position: int) -> None:
        scales = (1, self._pairs.scale)
        for kept, image, scale in zip((self._lq, self._gt), self._pairs.read_pair(position), scales, strict=True):
            if image.dtype != np.uint8:
                raise DeviceCacheError(f"{self._paths[position]['gt_path']} has 16 bits a channel")
            pixels = self._luma(image, scale * self._side) if self._is_luma else torch.from_numpy(image.reshape(-1, 3))
            with self._copying:
                kept.store(position, pixels)

    def _luma(self, image: np.ndarray, side: int) -> Tensor:
        """Return the inputs (H * W, 1) made of an image; check that a crop of `side` pixels gives the same ones."""
        whole, corner = (self._pairs.to_input(part) for part in (image, image[:side, :side]))
        if not torch.equal(corner, whole[:, :side, :side]):
            raise DeviceCacheError("color: y, and this CPU rounds the luma of a crop differently than that of an image")
        return whole.view(-1, 1)


def _croppable(dataset: Dataset[Any]) -> PairedImageDataset:
    """Return the data set, after a check that its samples are crops drawn by `PairedImageDataset.draw`."""
    name = type(getattr(dataset, "dataset", dataset)).__name__  # of the one inside a wrapper
    if not isinstance(dataset, PairedImageDataset):
        raise DeviceCacheError(f"{name} is no PairedImageDataset")
    if type(dataset).__getitem__ is not PairedImageDataset.__getitem__:
        raise DeviceCacheError(f"{name} makes samples of its own (__getitem__)")
    if not dataset.crop_px:
        raise DeviceCacheError("gt_size is not set, so samples are whole images")
    return dataset


def _levels_as_inputs(dataset: PairedImageDataset) -> Tensor:
    """Return the input for each level, (3, 256): a table is exact, whatever the rounding of a device."""
    ramp = np.arange(LEVELS, dtype=np.uint8)
    return dataset.to_input(np.stack([ramp] * 3, -1)[:, None])[:, :, 0]


def _local_processes() -> int:
    """Return the number of processes that torchrun started on this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
