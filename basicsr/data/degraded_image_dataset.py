"""Base of the data sets of noise and of JPEG artefacts: clean images, and degraded copies made on the fly."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from torch.utils.data import Dataset

from basicsr.config.ranges import Images, Iterations, Megabytes, Pixels, Scale, Seed
from basicsr.data.cache import CachedImages
from basicsr.data.crops import flip_and_rotate, pad_to_side, random_window
from basicsr.data.data_sampler import SampleIndex, locate
from basicsr.data.listing import chosen_names
from basicsr.data.paired_image_dataset import PHASES
from basicsr.data.storage import GrayImage, StoredImage, open_store
from basicsr.images.color import rgb2ycbcr
from basicsr.images.files import to_tensor

logger = logging.getLogger("basicsr")


@dataclass(kw_only=True, eq=False)
class DegradedImageDataset(Dataset[dict[str, Any]]):
    """`{lq, gt, lq_path, gt_path}`: float32 (C, h, w) of one size, RGB or gray, the clean one in [0, 1].

    Training samples are crops, flipped and rotated, then degraded; every random choice follows from (seed, epoch,
    index), so workers, ranks and resumes change nothing. Validation and test samples are whole images, degraded in the
    same way each time. `lq_path` repeats `gt_path`.

    A data set of this kind is a dataclass that adds its options and overrides `degrade`.

    Raises:
        FileNotFoundError: when the folder, the LMDB or a listed image is missing.
        ValueError: when an option is out of range, or images are damaged.
    """

    dataroot_gt: str
    """folder of clean images, subfolders included, or an LMDB."""
    dataroot_lq: str | None = None
    """not read, as degraded images are made; accepted for files that repeat dataroot_gt or set `none`."""
    filename_tmpl: str = "{}"
    """not used."""
    meta_info_file: str | None = None
    """text file that lists the images to use, one name a line."""
    io_backend: dict | None = None
    """{type: disk} for a folder, {type: lmdb} for an LMDB, whose path ends in `.lmdb`."""
    in_ch: Literal[1, 3] = 3
    """channels: 3, RGB, or 1, gray."""
    gray: Literal["opencv", "swapped_luma"] = "opencv"
    """with in_ch 1, the conversion of colours to gray: by OpenCV, or, to compare with the published JPEG figures of
    Urban100 only, by a luma with the weights of red and blue swapped."""
    gt_size: Pixels | None = None
    """side of a training crop; smaller images are mirrored at the bottom and the right; null: whole images."""
    geometric_augs: bool = True
    """flip and rotate training samples at random, according to use_hflip and use_rot; false: neither."""
    use_hflip: bool = True
    """mirror training samples at random."""
    use_rot: bool = True
    """turn training samples by multiples of 90 degrees at random."""
    mini_batch_sizes: Sequence[Images] | None = None
    """of progressive training, read by the model: samples a step, for each of its stages."""
    iters: Sequence[Iterations] | None = None
    """of progressive training, read by the model: iterations of each stage."""
    gt_sizes: Sequence[Pixels] | None = None
    """of progressive training, read by the model: side of a crop in each stage, up to gt_size."""
    cache_mb: Megabytes = 2048
    """limit in MiB for decoded images in memory, shared by the workers; 0: decode every time."""
    scale: Scale = 1
    """of the run; must be 1."""
    phase: str = "train"
    """train, val or test."""
    seed: Seed = 0
    """of crops, flips, rotations and, in training, of the degradation."""

    def __post_init__(self) -> None:
        if self.scale != 1:
            raise ValueError(f"scale: must be 1, for input and output are of one size, got {self.scale}")
        if self.phase not in PHASES:
            raise ValueError(f"phase: must be one of {', '.join(PHASES)}, got {self.phase!r}")
        if self.in_ch not in (1, 3):
            raise ValueError(f"in_ch: must be 3 (RGB) or 1 (gray), got {self.in_ch}")
        if self.gray not in ("opencv", "swapped_luma"):
            raise ValueError(f"gray: must be 'opencv' or 'swapped_luma', got {self.gray!r}")
        if self.gt_size is not None and self.gt_size < 1:
            raise ValueError(f"gt_size: must be at least 1, got {self.gt_size}; null takes whole images")
        if self.gt_sizes and max(self.gt_sizes) > (self.gt_size or 0):
            raise ValueError(f"gt_sizes: must not exceed gt_size ({self.gt_size}), got {list(self.gt_sizes)}")
        if self.cache_mb < 0:
            raise ValueError(f"cache_mb: must not be negative, got {self.cache_mb}; 0 turns the cache off")
        if self.dataroot_lq not in (None, "none", "None", "", self.dataroot_gt):
            logger.warning(
                "dataroot_lq: %s is not read, the degraded images are made from dataroot_gt; "
                "PairedImageDataset reads files of both kinds",
                self.dataroot_lq,
            )
        self.is_train = self.phase == "train"
        store = open_store(self.dataroot_gt, self.io_backend)
        decodes_gray = self.in_ch == 1 and self.gray == "opencv"
        kind = GrayImage if decodes_gray else StoredImage
        images = [kind(store, name) for name in chosen_names(store, self.meta_info_file)]
        sizes = store.sizes([image.name for image in images])
        self.gt_paths = [image.path for image in images]
        self._images = CachedImages(images, sizes, self.cache_mb, channels=1 if decodes_gray else 3)

    def degrade(self, clean: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Return the network input for `clean`: integers of any depth, or floats scaled like [0, 1].

        Args:
            clean: (H, W, C) pixels, uint8 or uint16.
            rng: the generator of training samples; validation and test must not draw from it.
        """
        raise NotImplementedError

    @property
    def stored_images(self) -> Sequence[StoredImage]:
        """All images that are read from files."""
        return self._images.images

    def __len__(self) -> int:
        return len(self.gt_paths)

    def __getitem__(self, key: int | SampleIndex) -> dict[str, Any]:
        """Return the sample of `key`; in training a plain integer means epoch 0."""
        sample, position = locate(key, len(self))
        rng = np.random.default_rng([self.seed, *sample])
        clean = self._images[position]
        if self.in_ch == 1 and self.gray == "swapped_luma":
            clean = rgb2ycbcr(eight_bits(clean)[..., ::-1], y_only=True)[..., None]  # reversed channels are the swap
        if self.is_train:
            if self.gt_size is not None:
                clean = pad_to_side(clean, self.gt_size)
                clean = random_window(clean.shape[0], clean.shape[1], self.gt_size, rng).crop(clean)
            hflip, rot = (self.geometric_augs and asked for asked in (self.use_hflip, self.use_rot))
            (clean,) = flip_and_rotate([clean], rng, hflip=hflip, rot=rot)
        path = str(self.gt_paths[position])
        lq = self.degrade(clean, rng)
        return {"lq": to_tensor(lq), "gt": to_tensor(clean), "lq_path": path, "gt_path": path}


def eight_bits(image: np.ndarray) -> np.ndarray:
    """Return `image`, of 8 or 16 bits, as uint8."""
    return image if image.dtype == np.uint8 else np.round(image / 257).astype(np.uint8)
