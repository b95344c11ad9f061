"""Low-resolution images without ground truth."""

from collections.abc import Sequence
from typing import Any, Literal

from torch.utils.data import Dataset

from basicsr.config.ranges import Megabytes, PixelDeviation, PixelMean, Scale, Seed
from basicsr.config.registry import DATASET_REGISTRY
from basicsr.data.cache import CachedImages
from basicsr.data.data_sampler import SampleIndex, locate
from basicsr.data.listing import chosen_names
from basicsr.data.network_input import ToInput
from basicsr.data.storage import StoredImage, open_store


@DATASET_REGISTRY.register()
class SingleImageDataset(Dataset[dict[str, Any]]):
    """`{lq, lq_path}`: whole images, float32 RGB (3, h, w) in [0, 1], and the paths of their files.

    Args:
        dataroot_lq: folder of images, subfolders included, or an LMDB.
        meta_info_file: text file that lists the images to use, one name a line.
        io_backend: {type: disk} for a folder, {type: lmdb} for an LMDB, whose path ends in `.lmdb`.
        scale: not used; a run passes its scale, phase and seed to every data set.
        phase: not used.
        color: "y": the luma alone, one channel.
        mean: subtracted from each channel.
        std: divides each channel.
        cache_mb: limit in MiB for decoded images in memory; 0: decode every time.
        seed: not used.

    Raises:
        FileNotFoundError: when the folder, the LMDB or a listed image is missing.
        ValueError: when an argument is out of range, or images are damaged.
    """

    def __init__(
        self,
        *,
        dataroot_lq: str,
        meta_info_file: str | None = None,
        io_backend: dict | None = None,
        scale: Scale = 4,
        phase: str = "test",
        color: Literal["y"] | None = None,
        mean: Sequence[PixelMean] | None = None,
        std: Sequence[PixelDeviation] | None = None,
        cache_mb: Megabytes = 0,
        seed: Seed = 0,
    ) -> None:
        self.to_input = ToInput(color, mean, std)
        store = open_store(dataroot_lq, io_backend)
        images = [StoredImage(store, name) for name in chosen_names(store, meta_info_file)]
        self.lq_paths = [image.path for image in images]
        self._images = CachedImages(images, store.sizes([image.name for image in images]), cache_mb)

    @property
    def paths(self) -> list[str]:
        """The path of each image."""
        return [str(path) for path in self.lq_paths]

    @property
    def stored_images(self) -> Sequence[StoredImage]:
        """All images that are read from files."""
        return self._images.images

    def __len__(self) -> int:
        return len(self.lq_paths)

    def __getitem__(self, key: int | SampleIndex) -> dict[str, Any]:
        position = locate(key, len(self))[1]
        return {"lq": self.to_input(self._images[position]), "lq_path": str(self.lq_paths[position])}
