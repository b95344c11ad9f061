"""Clean images and JPEG-compressed copies, for the removal of compression artefacts."""

import logging
from dataclasses import dataclass
from typing import Literal

import numpy as np

from basicsr.config.ranges import Quality
from basicsr.config.registry import DATASET_REGISTRY
from basicsr.data.degraded_image_dataset import DegradedImageDataset, eight_bits
from basicsr.images.jpeg import jpeg_copy

logger = logging.getLogger("basicsr")


@DATASET_REGISTRY.register(name="Dataset_JPEGCAR")
@dataclass(kw_only=True, eq=False)
class JPEGArtifactDataset(DegradedImageDataset):
    """`{lq, gt, lq_path, gt_path}`: clean images, and copies encoded as JPEG and decoded by OpenCV.

    The 8-bit image is compressed: in training the crop, flipped and rotated, in validation and test the whole image.
    Gray images make gray JPEGs; colour ones have colour in half the resolution (4:2:0), OpenCV's default.
    """

    quality_factor: Quality
    """of the JPEG; 1: worst."""
    in_ch: Literal[1, 3] = 1
    """channels: 3, RGB, or 1, gray."""

    def __post_init__(self) -> None:
        if not 1 <= self.quality_factor <= 100:
            raise ValueError(f"quality_factor: must be in [1, 100], got {self.quality_factor}")
        super().__post_init__()
        if not self.is_train and self.in_ch == 1 and self.gray == "opencv" and "Urban100" in self.dataroot_gt:
            logger.warning(
                "%s: the published JPEG figures of Urban100 are of another gray; to compare with them, set "
                "gray: swapped_luma in this data set",
                self.dataroot_gt,
            )

    def degrade(self, clean: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Return `clean` in 8 bits, encoded and decoded."""
        return jpeg_copy(eight_bits(clean), self.quality_factor)
