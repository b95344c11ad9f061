"""A data set whose unreadable images are handed on as facts, also from loader processes, instead of ending a loader."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch.utils.data import Dataset, default_collate

from basicsr.data.data_sampler import SampleIndex, locate
from basicsr.images.unreadable import READ_ERRORS, Unreadable, reason_of


class GuardedDataset(Dataset[Any]):
    """The samples of a data set, or `Unreadable` for those that it cannot read; all else is that of the data set."""

    def __init__(self, dataset: Dataset[Any]):
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)  # type: ignore[arg-type]

    def __getitem__(self, key: int | SampleIndex) -> Any:
        """Return the sample of `key`; an `IndexError` ends a `for` loop over the data set as usual."""
        try:
            return self.dataset[key]
        except READ_ERRORS as error:
            position = locate(key, len(self))[1]
            path = path_of(self.dataset, position)
            return Unreadable(position, path, reason_of(error, path))

    def __getattr__(self, name: str) -> Any:
        if name == "dataset":  # while it is unpickled
            raise AttributeError(name)
        return getattr(self.dataset, name)


def path_of(dataset: Any, position: int) -> str:
    """Return the path by which the image at `position` of a data set is known: that of its ground truth, if it has one.

    Data sets of plug-ins keep their paths in other ways; an image without a path is called by its number.
    """
    inner = getattr(dataset, "dataset", dataset)  # in a wrapper
    for attribute in ("gt_paths", "lq_paths", "paths"):
        paths = getattr(inner, attribute, None)
        if isinstance(paths, Sequence) and position < len(paths):
            entry = paths[position]
            if isinstance(entry, Mapping):
                entry = entry.get("gt_path") or entry.get("lq_path")
            if entry:
                return str(entry)
    return f"image {position + 1}"


def collate(samples: list[Any]) -> Any:
    """Return the batch of some samples, or the first `Unreadable` among them."""
    return next((sample for sample in samples if isinstance(sample, Unreadable)), None) or default_collate(samples)
