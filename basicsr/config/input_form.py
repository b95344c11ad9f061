"""How a network takes its images: in colour or as luma, plain or normalised, as `color`, `mean` and `std` say."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

KEYS = ("color", "mean", "std")
LUMA_BLACK, LUMA_RANGE = 16 / 255, 219 / 255  # of ITU-R BT.601: Y runs from 16 to 235


@dataclass(frozen=True)
class InputForm:
    """The form of a network's inputs, and so of its outputs.

    `normalise` and `undo` are inverse to each other. Losses see normalised tensors; scores, pictures and the results of
    inference are made of images in [0, 1].

    Raises:
        ValueError: for an unknown colour, or a `mean` or `std` that does not fit the channels.
    """

    color: Literal["y"] | None = None  # "y": the luma of BT.601 alone, in [16, 235] / 255, C = 1; None: RGB
    mean: Sequence[float] | None = None  # subtracted from each channel; one number counts for all
    std: Sequence[float] | None = None  # divides each channel, after `mean`

    def __post_init__(self) -> None:
        if self.color not in (None, "y"):
            raise ValueError(f"color: must be 'y' or null, got {self.color!r}; leave it out for RGB")
        for name, values in {"mean": self.mean, "std": self.std}.items():
            if values is not None and len(values) not in (1, self.channels):
                raise ValueError(f"{name}: needs one number for each of {self.channels} channels, got {list(values)}")
            if values is not None and not all(math.isfinite(value) for value in values):
                raise ValueError(f"{name}: must be finite, got {list(values)}")
        if self.std is not None and min(self.std) <= 0:
            raise ValueError(f"std: must be positive, got {list(self.std)}")

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> "InputForm":
        """Return the form that the keys `color`, `mean` and `std` of a data set or of a weight file describe."""
        return cls(*(values.get(key) for key in KEYS))

    @classmethod
    def of_weights(cls, content: Mapping[str, Any]) -> "InputForm | None":
        """Return the form that the content of a weight file names; None for a file that does not say.

        Raises:
            TypeError, ValueError: when it is no form.
        """
        meta = content.get("meta")
        form = meta.get("input") if isinstance(meta, Mapping) else None
        return cls.of(form) if isinstance(form, Mapping) else None

    @property
    def channels(self) -> int:
        """Number of channels."""
        return 1 if self.color else 3

    @property
    def is_normalised(self) -> bool:
        """Whether there is a mean or a deviation that changes anything."""
        return not {"mean", "std"}.isdisjoint(self.to_plain())

    def to_plain(self) -> dict[str, Any]:
        """Return the keys that have an effect, as plain values: {} for plain RGB. Equal forms give equal results."""
        plain: dict[str, Any] = {"color": self.color} if self.color else {}
        for key, values, idle in (("mean", self.mean, 0), ("std", self.std, 1)):
            if values is not None and any(value != idle for value in values):
                plain[key] = [float(value) for value in values]
        return plain

    def __str__(self) -> str:
        """Return the form in words, for messages: "color y, mean [0.5], std null"."""
        plain = self.to_plain()
        return ", ".join(f"{key} {plain.get(key, 'null')}" for key in KEYS)

    def normalise(self, images: Tensor) -> Tensor:
        """Return inputs (..., C, H, W) made of images in [0, 1], RGB or luma as `color` says."""
        if self.mean is not None:
            images = images - _per_channel(self.mean, images)
        return images if self.std is None else images / _per_channel(self.std, images)

    def undo(self, outputs: Tensor) -> Tensor:
        """Return images in [0, 1], not clamped, of outputs (..., C, H, W) or of other tensors in this form."""
        if self.std is not None:
            outputs = outputs * _per_channel(self.std, outputs)
        return outputs if self.mean is None else outputs + _per_channel(self.mean, outputs)

    def clamp(self, outputs: Tensor) -> Tensor:
        """Return outputs whose images are clamped to [0, 1]."""
        return self.normalise(self.undo(outputs).clamp(0, 1)) if self.is_normalised else outputs.clamp(0, 1)

    def to_picture(self, image: Tensor) -> Tensor:
        """Return an image as `undo` gives it, for viewing: luma becomes gray from black, 0, to white, 1."""
        return (image - LUMA_BLACK) / LUMA_RANGE if self.color == "y" else image


PLAIN_RGB = InputForm()


def _per_channel(values: Sequence[float], like: Tensor) -> Tensor:
    return torch.tensor(values, dtype=like.dtype, device=like.device).view(-1, 1, 1)
