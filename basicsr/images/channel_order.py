"""Arrays that carry their channel order: `basicsr.compat` hands BGR images to code whose images are RGB.

Such images come from `tensor2img` of plug-ins written for BasicSR 1.4 and end in metrics, `Upscaler` and `write_image`.
"""

from typing import Any

import numpy as np


class BGRImage(np.ndarray):
    """Pixels (H, W, 3) marked as BGR, OpenCV's order, so that metrics take the luma of the right channels.

    An index that picks or reorders channels gives a plain array: its caller handles the order.
    """

    def __getitem__(self, key: Any) -> Any:
        item = super().__getitem__(key)
        if not isinstance(item, BGRImage):
            return item
        return item if item.ndim == 3 and item.shape[2] == 3 and not _indexes_channels(key) else item.view(np.ndarray)


def as_rgb(image: np.ndarray) -> np.ndarray:
    """Return the same pixels with their channels in the order RGB, as a plain array."""
    return np.ascontiguousarray(image[..., ::-1]) if isinstance(image, BGRImage) else image


def _indexes_channels(key: Any) -> bool:
    """Return whether an index of an (H, W, 3) array selects along its last axis."""
    if not isinstance(key, tuple):
        return isinstance(key, np.ndarray) and key.ndim == 3
    given = [part for part in key if part is not None and part is not Ellipsis]
    if any(part is Ellipsis for part in key):
        return key[-1] is not Ellipsis and key[-1] != slice(None)
    return len(given) > 2 and given[2] != slice(None)
