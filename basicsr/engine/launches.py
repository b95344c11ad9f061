"""Count the operations that a function submits to the device: on a GPU each is a launch, whatever its size."""

from collections import Counter
from collections.abc import Callable
from typing import Any

from torch.utils._python_dispatch import TorchDispatchMode

# No views by their schema, but they launch nothing either.
NO_LAUNCH = frozenset({"aten::_unsafe_view", "aten::_reshape_alias", "aten::lift_fresh"})


class LaunchCounter(TorchDispatchMode):
    """Counter of the ATen calls inside a `with` block that are not views, backward passes included.

    Views alias an argument and launch nothing. Kernels outside PyTorch's dispatcher (C++ or Triton in
    `torch.autograd.Function`) are not counted, so compare counts of the plain path, `BASICSR_KERNELS=0`. Composite
    calls such as `linear` count once under `torch.inference_mode`, and by their parts under `torch.no_grad`.
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
    """Return whether an operator only returns its argument with another shape or name."""
    return bool(func.is_view) or func._schema.name in NO_LAUNCH


def count_launches(function: Callable[[], object]) -> int:
    """Run `function` once and return the number of its ATen calls that are not views."""
    with LaunchCounter() as counter:
        function()
    return counter.total
