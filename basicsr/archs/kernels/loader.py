"""The one place that imports the Triton kernels, on first use: Triton is optional."""

import functools
from types import ModuleType


@functools.cache
def triton_kernels() -> ModuleType:
    """Return the module of all Triton kernels; ask `runs_triton` first."""
    from basicsr.archs.kernels import triton_ops

    return triton_ops
