"""The loader that BasicSR 1.4's `build_dataloader` makes from the options of a data set."""

from collections.abc import Mapping
from typing import Any

from torch.utils.data import DataLoader, Dataset, Sampler

from basicsr.data import build_dataloader


def loader_from_section(
    dataset: Dataset[Any],
    dataset_opt: Mapping[str, Any],
    num_gpu: int | str | None = 1,
    dist: bool = False,
    sampler: Sampler[Any] | None = None,
    seed: int | None = None,
) -> DataLoader[Any]:
    """Return a loader of shuffled training batches, or of single images in the order of the data set.

    Args:
        dataset: from `build_dataset`.
        dataset_opt: its section, with `phase`; in training also `batch_size_per_gpu`, `num_worker_per_gpu`.
        num_gpu: of this process, which loads for all of them; not used where `dist` is set.
        dist: whether each GPU has a process.
        sampler: order of the samples; None: shuffled in training.
        seed: of the shuffling; None: 0.
    """
    phase = dataset_opt["phase"]
    if phase != "train":
        return build_dataloader(dataset, phase=phase, sampler=sampler)
    times = 1 if dist or not isinstance(num_gpu, int) else max(1, num_gpu)
    workers = times * int(dataset_opt.get("num_worker_per_gpu") or 0)
    return build_dataloader(
        dataset,
        phase="train",
        batch_size=times * int(dataset_opt["batch_size_per_gpu"]),
        num_workers=workers,
        sampler=sampler,
        seed=seed or 0,
        pin_memory=bool(dataset_opt.get("pin_memory")),
        persistent_workers=bool(dataset_opt.get("persistent_workers")),
    )
