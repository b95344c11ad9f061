"""Cache of decoded images, shared by all workers of a loader: the second epoch decodes nothing."""

import mmap
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from basicsr.data.storage import StoredImage

BYTES_PER_MB = 1 << 20


class CachedImages:
    """The pixels of `images` by position; those that fit into `cache_mb` are decoded only once.

    The cache is one anonymous memory map. Forked workers share it, and its pages take memory only as they are
    filled. It needs no locks: all writers of an image write the same bytes, and an image is read only
    when its flag, written last, is set. Images are cached in the order of the list until one does not fit. Images of 16
    bits are not cached.

    Note: a spawned worker receives no map and fills one of its own.

    Args:
        images: in a folder or an LMDB.
        sizes: (height, width) in pixels of each, then of other images that are made from them; see `get`.
        cache_mb: limit in MiB; 0: no cache.
        channels: number of channels of each image.
    """

    def __init__(
        self, images: Sequence[StoredImage], sizes: Sequence[tuple[int, int]], cache_mb: int, channels: int = 3
    ) -> None:
        self.images = images
        self.sizes = sizes
        self.channels = channels
        self._starts = np.cumsum([0] + [1 + channels * height * width for height, width in sizes])  # of flag and pixels
        self._cached_images = int(self._starts[1:].searchsorted(cache_mb * BYTES_PER_MB, side="right"))
        self._map = self._new_map()

    @property
    def cache_bytes(self) -> int:
        """Size of the full cache in bytes."""
        return int(self._starts[self._cached_images])

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, position: int) -> np.ndarray:
        """Return image `position`, (H, W, 3) RGB or (H, W, 1) gray, uint8 or uint16; read-only if from the cache."""
        return self.get(position, self.images[position].read)

    def has_room_for(self, position: int) -> bool:
        """Return whether the cache has room for the image at `position` of `sizes`."""
        return self._map is not None and position < self._cached_images

    def get(self, position: int, read: Callable[[], np.ndarray]) -> np.ndarray:
        """Return the image at `position` of `sizes` from the cache; call `read` for it if it is not there."""
        if self._map is None or position >= self._cached_images:
            return read()
        start, (height, width) = int(self._starts[position]), self.sizes[position]
        if not self._map[start]:
            image = read()
            if image.dtype != np.uint8:
                return image
            self._map[start + 1 : start + 1 + image.size] = image.tobytes()
            self._map[start] = 1
        pixels = np.frombuffer(self._map, np.uint8, self.channels * height * width, start + 1)
        pixels.flags.writeable = False
        return pixels.reshape(height, width, self.channels)

    def _new_map(self) -> mmap.mmap | None:
        return mmap.mmap(-1, self.cache_bytes) if self.cache_bytes else None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_map": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._map = self._new_map()
