"""The order of training samples: a pure function of (seed, epoch), the same for any number of processes."""

from collections.abc import Iterator, Sized
from typing import NamedTuple

import numpy as np
from torch.utils.data import Sampler


class SampleIndex(NamedTuple):
    """Key of one training sample: all random choices in it follow from these two numbers."""

    epoch: int
    index: int  # type: ignore[assignment]  # hides tuple.index; in [0, images * ratio), of image index % images


def locate(key: int | SampleIndex, size: int) -> tuple[SampleIndex, int]:
    """Return the sample of a loader's key, and the position of its image in a data set of `size` images.

    Raises:
        IndexError: when a plain integer is not in [0, size), which ends a `for` loop over a data set.
    """
    if isinstance(key, SampleIndex):
        return key, key.index % size
    if not 0 <= key < size:
        raise IndexError(f"sample {key} of a data set of {size} images")
    return SampleIndex(epoch=0, index=key), key


class EnlargedSampler(Sampler[SampleIndex]):
    """Shuffled indices of a data set repeated `ratio` times, dealt to the ranks in turn.

    Rank r takes the positions r, r + W, r + 2W, ... of one common order, so the k-th batches (of b) of W ranks together
    hold the samples of the k-th batch of W * b in a single process. The remainder of a division by W is left out of the
    epoch, as a single process leaves out its last, incomplete batch.

    Args:
        dataset_size: images in the data set, >= 1; or the data set itself.
        num_replicas: processes that share an epoch, >= 1.
        rank: this process, in [0, num_replicas).
        ratio: repetitions of the data set in an epoch, >= 1; each repetition of an image is cropped differently.
        seed: of the shuffling.
        shuffle: False: keep the order of the data set.

    Raises:
        ValueError: when an argument is out of its range.
    """

    def __init__(
        self,
        dataset_size: int | Sized,
        num_replicas: int,
        rank: int,
        ratio: int = 1,
        seed: int = 0,
        shuffle: bool = True,
    ) -> None:
        dataset_size = len(dataset_size) if isinstance(dataset_size, Sized) else dataset_size
        for name, value in {"dataset_size": dataset_size, "num_replicas": num_replicas, "ratio": ratio}.items():
            if value < 1:
                raise ValueError(f"EnlargedSampler: {name} must be at least 1, got {value}")
        if not 0 <= rank < num_replicas:
            raise ValueError(f"EnlargedSampler: rank must be in [0, {num_replicas}), got {rank}")
        self.total = dataset_size * ratio
        self.num_replicas = num_replicas
        self.rank = rank
        self.seed = seed
        self.shuffle = shuffle
        self.epoch = 0
        self.start = 0

    def set_epoch(self, epoch: int, start: int = 0) -> None:
        """Set the epoch, and skip the first `start` samples of this rank: those seen before a resume.

        Raises:
            ValueError: when `start` is not in [0, len(self)].
        """
        if not 0 <= start <= len(self):
            raise ValueError(f"EnlargedSampler: start must be in [0, {len(self)}], got {start}")
        self.epoch = epoch
        self.start = start

    def __iter__(self) -> Iterator[SampleIndex]:
        order = np.arange(self.total)
        if self.shuffle:
            order = np.random.default_rng([self.seed, self.epoch]).permutation(order)
        epoch = self.epoch  # a later set_epoch must not change the order of a running iterator
        for position in range(self.start, len(self)):
            yield SampleIndex(epoch, int(order[self.rank + position * self.num_replicas]))

    def __len__(self) -> int:
        """Return the samples of this rank in a whole epoch; the same for every rank and every `start`."""
        return self.total // self.num_replicas
