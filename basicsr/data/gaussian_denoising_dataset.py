"""Clean images and copies with Gaussian noise."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from basicsr.config.ranges import Levels
from basicsr.config.registry import DATASET_REGISTRY
from basicsr.data.degraded_image_dataset import DegradedImageDataset

LEVELS = 255  # sigma is in 8-bit levels


@DATASET_REGISTRY.register(name="Dataset_GaussianDenoising")
@dataclass(kw_only=True, eq=False)
class GaussianDenoisingDataset(DegradedImageDataset):
    """`{lq, gt, lq_path, gt_path}`: clean images, and copies with Gaussian noise, neither clipped nor rounded.

    In training each sample has its own noise. In validation and test every image has the noise of NumPy's legacy
    generator after `seed(0)`, in the order rows, columns, channels (RGB), as in published figures.
    """

    sigma_type: Literal["constant", "random", "choice"] = "constant"
    """the sigma of a training sample: constant, the number sigma_range; random, anything between its two numbers;
    choice, one of its numbers."""
    sigma_range: Levels | Sequence[Levels] | None = None
    """standard deviations of the noise in training, in 8-bit levels; see sigma_type."""
    sigma_test: Levels | None = None
    """standard deviation of the noise in validation and test, in 8-bit levels."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._sigmas = self._training_sigmas() if self.is_train else []
        if not self.is_train and (self.sigma_test is None or self.sigma_test < 0):
            raise ValueError(f"sigma_test: must be a number >= 0 in phase {self.phase}, got {self.sigma_test}")

    def degrade(self, clean: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Return `clean` as floats, with noise."""
        values = clean.astype(np.float32) / np.iinfo(clean.dtype).max
        if self.is_train:
            deviation = np.float32(self._sigma(rng) / LEVELS)
            return values + deviation * rng.standard_normal(clean.shape, np.float32)
        deviation = (self.sigma_test or 0) / LEVELS
        return (values + np.random.RandomState(0).normal(0, deviation, clean.shape)).astype(np.float32)

    def _sigma(self, rng: np.random.Generator) -> float:
        if self.sigma_type == "random":
            return float(rng.uniform(self._sigmas[0], self._sigmas[1]))
        return self._sigmas[0 if self.sigma_type == "constant" else int(rng.integers(len(self._sigmas)))]

    def _training_sigmas(self) -> list[float]:
        given = self.sigma_range
        numbers = [] if given is None else list(given) if isinstance(given, Sequence) else [given]
        if self.sigma_type == "constant":
            wanted, fits = "one number", len(numbers) == 1
        elif self.sigma_type == "random":
            wanted, fits = "two numbers, the lower first,", len(numbers) == 2 and numbers[0] <= numbers[1]
        elif self.sigma_type == "choice":
            wanted, fits = "a list of numbers", len(numbers) >= 1
        else:
            raise ValueError(f"sigma_type: must be 'constant', 'random' or 'choice', got {self.sigma_type!r}")
        if not fits or min(numbers) < 0:
            raise ValueError(f"sigma_range: sigma_type {self.sigma_type} needs {wanted} >= 0, got {given}")
        return numbers
