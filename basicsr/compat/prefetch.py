"""The prefetchers of BasicSR 1.4, for a train.py of a plug-in's own: each gives a batch at a time, then None."""

import queue
import threading
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch.utils.data import DataLoader

_END = object()


class PrefetchGenerator:
    """Yields the items of an iterable, which a thread takes ahead.

    Args:
        generator: the iterable.
        num_prefetch_queue: items to take ahead.
    """

    def __init__(self, generator: Iterable[Any], num_prefetch_queue: int) -> None:
        self.queue: queue.Queue[Any] = queue.Queue(num_prefetch_queue)
        self._generator = generator
        threading.Thread(target=self._fill, daemon=True).start()

    def __iter__(self) -> "PrefetchGenerator":
        return self

    def __next__(self) -> Any:
        item = self.queue.get()
        if item is _END:
            self.queue.put(_END)  # for whoever asks again
            raise StopIteration
        if isinstance(item, Exception):
            raise item
        return item

    def _fill(self) -> None:
        try:
            for item in self._generator:
                self.queue.put(item)
        except Exception as error:  # noqa: BLE001 - it is raised where the item is asked for
            self.queue.put(error)
        self.queue.put(_END)


class PrefetchDataLoader(DataLoader[Any]):
    """A loader whose batches a thread takes ahead.

    Args:
        num_prefetch_queue: batches to take ahead.
        kwargs: of `DataLoader`.
    """

    def __init__(self, num_prefetch_queue: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.num_prefetch_queue = num_prefetch_queue

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        return PrefetchGenerator(super().__iter__(), self.num_prefetch_queue)


class CPUPrefetcher:
    """Gives the batches of a loader: `next()`, None at the end of an epoch; `reset()` begins the next one."""

    def __init__(self, loader: Iterable[Any]) -> None:
        self.ori_loader = loader
        self.reset()

    def next(self) -> Any:
        """Return the next batch, None at the end."""
        return next(self.loader, None)

    def reset(self) -> None:
        """Begin an epoch."""
        self.loader = iter(self.ori_loader)


class CUDAPrefetcher(CPUPrefetcher):
    """As `CPUPrefetcher`, with the tensors of a batch on the GPU, copied while the step before runs.

    Args:
        loader: its batches should be in page-locked memory.
        opt: with `num_gpu`: 0 keeps the batches on the CPU, as a machine without CUDA does.
    """

    def __init__(self, loader: Iterable[Any], opt: Mapping[str, Any]) -> None:
        self.opt = opt
        has_gpu = torch.cuda.is_available() and opt.get("num_gpu", 1) != 0
        self.stream = torch.cuda.Stream() if has_gpu else None
        super().__init__(loader)

    def next(self) -> Any:
        """Return the next batch, None at the end."""
        if self.stream is not None:
            torch.cuda.current_stream().wait_stream(self.stream)
        batch = self.batch
        self._preload()
        return batch

    def reset(self) -> None:
        """Begin an epoch."""
        super().reset()
        self._preload()

    def _preload(self) -> None:
        """Fetch a batch, and begin to copy it."""
        self.batch = super().next()
        if self.batch is not None and self.stream is not None:
            with torch.cuda.stream(self.stream):
                for key, value in self.batch.items():
                    if torch.is_tensor(value):
                        self.batch[key] = value.cuda(non_blocking=True)
