"""Kernels of this project: C++ for the CPU, and Triton for CUDA in modules that are imported only where it is usable.

Callers ask `runs_triton` first, then take a function of `loader.triton_kernels()`.
"""

import functools
import importlib
import importlib.util
import logging
import os

import torch
from torch import Tensor

from basicsr.archs.layers.export_mode import has_values

logger = logging.getLogger("basicsr")
MAX_HEAD_WIDTH = 128  # columns of a head that the attention kernels take; wider ones exceed shared memory
OLDEST = (8, 0)  # compute capability: the first with TF32 and bfloat16


def triton_available(device: torch.device) -> bool:
    """Return whether the Triton kernels can run on `device`.

    They need Triton and an NVIDIA GPU from compute capability 8.0; `BASICSR_KERNELS=0` turns them off. Where they are
    missing on CUDA, one line in the log says why. Tests run them on the CPU, in Triton's interpreter, with
    `TRITON_INTERPRET=1` and `BASICSR_TRITON_ON_CPU=1`.
    """
    if os.environ.get("BASICSR_KERNELS") == "0":
        return False
    if device.type == "cpu":
        return os.environ.get("TRITON_INTERPRET") == os.environ.get("BASICSR_TRITON_ON_CPU") == "1"
    return device.type == "cuda" and _runs_on_cuda(device.index)


def runs_triton(x: Tensor) -> bool:
    """Return whether the Triton kernels can take `x`: not in a traced graph, and not in float64."""
    return has_values(x) and x.dtype != torch.float64 and triton_available(x.device)


@functools.cache
def _runs_on_cuda(index: int | None) -> bool:
    reason = None
    if importlib.util.find_spec("triton") is None:
        reason = "Triton is not installed"
    elif torch.version.hip is not None:
        reason = "they are for NVIDIA GPUs"
    elif torch.cuda.get_device_capability(index) < OLDEST:
        reason = f"the GPU's compute capability is below {OLDEST[0]}.{OLDEST[1]}"
    else:
        try:
            importlib.import_module("triton")
        except (ImportError, OSError, RuntimeError) as error:
            reason = f"Triton cannot be imported: {error}"
    if reason is not None:
        logger.info("No Triton kernels, using plain PyTorch (%s)", reason)
    return reason is None
