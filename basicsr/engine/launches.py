"""How many operations a function hands to the device: on a GPU each of them is a launch, whatever its size."""

from collections import Counter
from collections.abc import Callable
from typing import Any

from torch.utils._python_dispatch import TorchDispatchMode

# Not views by their schema, but no work for the device either.
NO_WORK = frozenset({"aten::_unsafe_view", "aten::_reshape_alias", "aten::lift_fresh"})


class LaunchCounter(TorchDispatchMode):
    """Counts the ATen calls inside it that are not views, also those of a backward pass.

    Views, which alias an argument and write to none, move no data and launch nothing. Kernels that PyTorch's dispatcher
    does not know (C++ or Triton behind `torch.autograd.Function`) are not counted: counts to compare are those of the
    plain path, `BASICSR_KERNELS=0`. Under `torch.inference_mode` composite calls such as `linear` come whole, under
    `torch.no_grad` in their parts.
    """

    def __init__(self) -> None:
        super().__init__()
        self.calls: Counter[str] = Counter()

    @property
    def total(self) -> int:
        """Return the number of calls."""
        return self.calls.total()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if not is_view(func):
            self.calls[func._schema.name] += 1
        return func(*args, **(kwargs or {}))


def is_view(func: Any) -> bool:
    """Return whether an operator only gives its argument another shape, or another name."""
    return bool(func.is_view) or func._schema.name in NO_WORK


def count_launches(function: Callable[[], object]) -> int:
    """Run `function` once and return the number of its ATen calls that are not views."""
    with LaunchCounter() as counter:
        function()
    return counter.total
