"""Construct networks of unchecked sizes without letting them take all memory.

A constructor may compute with tensors, as in `[x.item() for x in torch.linspace(0, rate, depth)]`, so the meta device,
whose tensors hold no numbers, cannot be relied on alone.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

T = TypeVar("T")
MAX_TRIAL_BYTES = 1 << 32  # of a network that is built only to check its arguments
BYTES_PER_NUMBER = 8  # assumed of results of arithmetic
# Results that are surely smaller are counted afterwards: the meta device may import PyTorch's compiler, for seconds.
SMALL_BYTES = 1 << 24
META = torch.device("meta")


class TooLargeError(RuntimeError):
    """The tensors of a network exceed the memory that it may take."""


def build_for_shapes(build: Callable[[], T], max_bytes: int = MAX_TRIAL_BYTES) -> T:
    """Return `build()`, for the names and shapes of its tensors: where possible they take no memory.

    A constructor that reads numbers runs on the CPU, as all constructors do in the end, and its tensors may at no time
    take more than `max_bytes`. PyTorch's random state stays as it is.

    Raises:
        TooLargeError: when such a constructor exceeds the limit, before the memory is taken.
    """
    try:
        with META:
            return build()
    except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError):
        # Either it reads numbers or the arguments are wrong; only the latter fails again.
        with torch.random.fork_rng(devices=[]), _MemoryLimit(max_bytes):
            return build()


class _MemoryLimit(TorchDispatchMode):
    """Sum up the living tensors made in its context, and stop before they exceed a number of bytes."""

    def __init__(self, max_bytes: int):
        super().__init__()
        self.max_bytes = max_bytes
        self.bytes = 0
        self._living: list[tuple[StorageWeakRef, int]] = []

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Return False, for nothing is compiled here: PyTorch would import its compiler first, which takes seconds."""
        return False

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Run an operation whose result fits."""
        kwargs = dict(kwargs or {})
        if all(returned.alias_info is not None for returned in func._schema.returns):
            return func(*args, **kwargs)  # a view, or a write to a tensor that is there
        self._check(_bytes_of_result(func, args, kwargs))
        result = func(*args, **kwargs)
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor) and not tensor.is_meta:
                storage = tensor.untyped_storage()
                self._living.append((StorageWeakRef(storage), storage.nbytes()))
                self.bytes += storage.nbytes()
        self._check(0)
        return result

    def _check(self, more: int) -> None:
        """Raise unless `more` bytes still fit."""
        if self.bytes + more > self.max_bytes:
            self._living = [(storage, size) for storage, size in self._living if not storage.expired()]
            self.bytes = sum(size for _, size in self._living)
        if self.bytes + more > self.max_bytes:
            raise TooLargeError(f"its tensors take more than {self.max_bytes / 2**20:.0f} MiB")


def _bytes_of_result(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> int:
    """Return the bytes that an operation is about to take; 0 where that is known only afterwards."""
    leaves = tree_leaves((args, kwargs))
    shapes = [x.shape for x in leaves if isinstance(x, Tensor)]
    if shapes and torch.Tag.pointwise in func.tags:
        return math.prod(torch.broadcast_shapes(*shapes)) * BYTES_PER_NUMBER
    factors = [*map(math.prod, shapes), *(x for x in leaves if type(x) in (int, float) and x > 1)]
    if shapes and math.prod(factors) * BYTES_PER_NUMBER < SMALL_BYTES:
        return 0

    def without_memory(x: Any) -> Any:
        return torch.empty_strided(x.size(), x.stride(), dtype=x.dtype, device=META) if isinstance(x, Tensor) else x

    args, kwargs = tree_map(without_memory, (args, kwargs))
    if any(argument.name == "device" for argument in func._schema.arguments):
        kwargs |= {"device": META, "pin_memory": None}
    if "generator" in kwargs:
        kwargs["generator"] = None
    try:
        result = func(*args, **kwargs)
    except (RuntimeError, TypeError):  # e.g. `item()`, which needs the number
        return 0
    return sum(x.untyped_storage().nbytes() for x in tree_leaves(result) if isinstance(x, Tensor))
