"""Network inputs made from pixels."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from basicsr.config.input_form import KEYS, InputForm
from basicsr.images.color import rgb_to_y_pt
from basicsr.images.files import to_tensor


@dataclass(frozen=True)
class ToInput(InputForm):
    """Converts pixels (H, W, 3) to a network input (C, H, W), float32 in [0, 1] unless normalised."""

    def __call__(self, image: np.ndarray) -> Tensor:
        """Return the input made from one image."""
        values = to_tensor(image)
        return self.normalise(rgb_to_y_pt(values[None])[0] if self.color == "y" else values)


def input_form(dataset: Any, options: Any) -> InputForm:
    """Return the form of a data set's images.

    Args:
        dataset: a data set of this package; or one written for BasicSR 1.4, whose attributes `mean` and `std`, where
            they are numbers, say by what its images were normalised.
        options: its section; what it says of `color`, `mean` and `std` counts where the data set has none of these.

    Raises:
        ValueError: when the numbers do not fit the channels.
    """
    inner = getattr(dataset, "dataset", dataset)  # of the one inside a wrapper
    own = getattr(inner, "to_input", None)
    if isinstance(own, InputForm):
        return own
    found = {key: options.get(key) for key in KEYS}
    mean, std = (_numbers(getattr(inner, key, None)) or _numbers(found[key]) for key in ("mean", "std"))
    return InputForm("y" if found["color"] == "y" else None, mean, std)


def _numbers(values: Any) -> list[float] | None:
    """Return the numbers of a number, a list, an array or a tensor; None for anything else."""
    try:
        found = np.asarray(values, dtype=np.float64).flatten().tolist()
    except (TypeError, ValueError):
        return None
    return found if found and np.isfinite(found).all() else None
