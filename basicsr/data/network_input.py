"""Network inputs made from pixels."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from basicsr.images.color import rgb_to_y_pt
from basicsr.images.files import to_tensor


@dataclass(frozen=True)
class ToInput:
    """Converts pixels (H, W, 3) to a network input (C, H, W), float32 in [0, 1] unless normalised.

    Raises:
        ValueError: for an unknown colour, or a `mean` or `std` that does not fit the channels.
    """

    color: Literal["y"] | None = None  # "y": the luma alone, C = 1
    mean: Sequence[float] | None = None  # subtracted from each channel
    std: Sequence[float] | None = None  # divides each channel, after `mean`

    def __post_init__(self) -> None:
        if self.color not in (None, "y"):
            raise ValueError(f"color: must be 'y' or null, got {self.color!r}; leave it out for RGB")
        channels = 1 if self.color else 3
        for name, values in {"mean": self.mean, "std": self.std}.items():
            if values is not None and len(values) != channels:
                raise ValueError(f"{name}: needs one number for each of {channels} channels, got {list(values)}")
        if self.std is not None and min(self.std) <= 0:
            raise ValueError(f"std: must be positive, got {list(self.std)}")

    def __call__(self, image: np.ndarray) -> Tensor:
        """Return the input made from one image."""
        values = to_tensor(image)
        if self.color == "y":
            values = rgb_to_y_pt(values[None])[0]
        if self.mean is not None:
            values -= torch.tensor(self.mean).view(-1, 1, 1)
        if self.std is not None:
            values /= torch.tensor(self.std).view(-1, 1, 1)
        return values
