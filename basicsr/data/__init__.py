"""Data sets and their loaders. The `datasets` section of a YAML file describes them."""

import inspect
import sys
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, Sampler

import basicsr
from basicsr.config.registry import DATASET_REGISTRY
from basicsr.data.data_sampler import EnlargedSampler
from basicsr.data.guard import collate
from basicsr.engine.signals import leave_signals_to_parent

loader_from_section: Callable[..., DataLoader[Any]] | None = None
"""builds a loader from the arguments of BasicSR's `build_dataloader`; set by `basicsr.compat`"""


def build_dataset(
    spec: Mapping[str, Any], *, scale: int | None = None, phase: str | None = None, seed: int = 0
) -> Dataset[Any]:
    """Build the data set `spec["type"]` from those keys of `spec` that its constructor names.

    The others are for the loader, or were warned of when the options were read. A constructor with `**kwargs` gets them
    all, and one with a parameter `opt` gets the whole section as a plain dict, `scale` and `phase` included.

    Args:
        spec: section of the options, {type: name of the class, ...}.
        scale: of the run; passed to classes with a parameter of this name, like `phase` and `seed`, unless `spec` sets
            it. None: as in `spec`, or the default of the class.
        phase: "train", "val" or "test"; None: as for `scale`.
        seed: of random crops and flips.

    Raises:
        UnknownNameError: when no data set has this name.
        ValueError, FileNotFoundError: from the data set, when it cannot be used.
    """
    make = DATASET_REGISTRY.get(spec["type"])
    parameters = inspect.signature(make).parameters
    takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    run = {key: value for key, value in {"scale": scale, "phase": phase}.items() if value is not None}
    given = {**run, "seed": seed, **spec}
    arguments = {key: value for key, value in given.items() if key != "type" and (takes_any or key in parameters)}
    if "opt" in parameters:
        arguments["opt"] = {**_plain(spec), **run}
    dataset: Any = make(**arguments)
    if not getattr(dataset, "opt", None):  # models of plug-ins read the name in `dataloader.dataset.opt`
        dataset.opt = {**_plain(spec), **run}
    return dataset


def build_dataloader(
    dataset: Dataset[Any],
    dataset_opt: Mapping[str, Any] | None = None,
    *old_arguments: Any,
    phase: str | None = None,
    batch_size: int = 1,
    num_workers: int = 0,
    sampler: Sampler[Any] | None = None,
    seed: int = 0,
    pin_memory: bool = False,
    persistent_workers: bool = False,
    prefetch_factor: int | None = None,
    timeout: float = 0,
    **old_keywords: Any,
) -> DataLoader[Any]:
    """Build a loader of batches of `dataset`: full ones in training, all samples otherwise.

    Args:
        dataset: from `build_dataset`.
        dataset_opt: section of the data set, in a plug-in's own train.py, which passes BasicSR's arguments.
        old_arguments: those after it.
        phase: "train", "val" or "test".
        batch_size: samples in a batch of this process.
        num_workers: processes that read samples; 0: this process reads them.
        sampler: order of the samples; None: shuffled in training, else the order of the data set.
        seed: of the shuffling.
        pin_memory: copy batches to page-locked memory (CUDA only).
        persistent_workers: keep the workers from epoch to epoch.
        prefetch_factor: batches that each worker reads ahead; None: PyTorch's default.
        timeout: seconds to wait for a batch from the workers before a RuntimeError; 0: no limit.

    Raises:
        ValueError: when a training epoch does not fill one batch.
    """
    if dataset_opt is not None:
        basicsr.attach_compat()
    if dataset_opt is not None and loader_from_section is not None:
        old_keywords |= {} if sampler is None else {"sampler": sampler}
        old_keywords |= {"seed": seed} if seed else {}
        return loader_from_section(dataset, dataset_opt, *old_arguments, **old_keywords)
    if old_keywords or phase is None:
        raise TypeError(f"build_dataloader: needs phase, and has no arguments {list(old_keywords)}")
    is_train = phase == "train"
    if sampler is None and is_train:
        sampler = EnlargedSampler(len(dataset), 1, 0, seed=seed)  # type: ignore[arg-type]
    if is_train:
        check_epoch_length(sampler, batch_size)
    return DataLoader(
        dataset,
        batch_size=batch_size,
        collate_fn=collate,
        sampler=sampler,
        num_workers=num_workers,
        drop_last=is_train,
        pin_memory=pin_memory,
        persistent_workers=persistent_workers and num_workers > 0,
        prefetch_factor=prefetch_factor if num_workers else None,
        timeout=timeout if num_workers else 0,
        worker_init_fn=_start_worker,
        # Forked workers share the cache of decoded images; newer versions of Python spawn them by default.
        multiprocessing_context="fork" if num_workers and sys.platform == "linux" else None,
        # A generator of its own: drawing the workers' seed must not move PyTorch's global one.
        generator=torch.Generator().manual_seed(seed),
    )


def check_epoch_length(sampler: Any, batch_size: int) -> None:
    """Check that an epoch of this process, the length of its sampler, fills one batch.

    Raises:
        ValueError: when it does not.
    """
    if len(sampler) < batch_size:
        raise ValueError(
            f"batch_size_per_gpu: an epoch has {len(sampler)} samples a process, less than a batch of "
            f"{batch_size}; raise dataset_enlarge_ratio or lower batch_size_per_gpu"
        )


def _start_worker(worker: int) -> None:
    """Leave signals to the parent and use one thread: the workers themselves are the parallelism."""
    import cv2  # not at the top: the package is imported where no image is read

    leave_signals_to_parent()
    cv2.setNumThreads(0)  # not 1: in a forked process OpenCV hangs when it resizes its pool of threads
    torch.set_num_threads(1)


def _plain(value: Any) -> Any:
    """Return `value` with every mapping as a dict and every sequence as a list, for plug-ins that write to them."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value
