"""Work on a CUDA device that is not there: PyTorch follows shapes and devices, and computes nothing.

It ends with an error where tensors of two devices meet, and where Python would have to wait for a value of the GPU
(`nonzero`, `bool(tensor)`, `.item()`). It cannot see kernels that PyTorch does not know, and has no backward pass.
"""

from typing import NamedTuple

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.func import functional_call
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from basicsr.config.registry import OPTIMIZER_REGISTRY
from basicsr.engine.ema import EMA


class Pretended(NamedTuple):
    """What is known of an output, and of the second of two equal calls."""

    device: str
    shape: tuple[int, ...]
    copies: list[str]  # operations that took something from the CPU to the device


class _HostCopies(TorchDispatchMode):
    """Notes the operations that take tensors of the CPU and give one of the device."""

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        given = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        made = [leaf for leaf in tree_leaves(out) if isinstance(leaf, torch.Tensor)]
        alone = all(leaf.device.type == "cpu" for leaf in given)
        from_cpu = [leaf for leaf in given if leaf.device.type == "cpu" and (alone or leaf.dim())]
        if from_cpu and any(leaf.device.type == "cuda" for leaf in made):
            self.found.append(str(func))
        return out


def forward_on_fake_cuda(net, *shape):
    """Two calls with an input of `shape`; the first may make what is kept. `net` is left as it was."""
    with FakeTensorMode(allow_non_fake_inputs=True):
        state = {name: _twin(value) for name, value in [*net.named_parameters(), *net.named_buffers()]}
        x = torch.rand(*shape, device="cuda")
        functional_call(net, state, (x,))
        with _HostCopies() as copies:
            output = functional_call(net, state, (x,))
    return Pretended(output.device.type, tuple(output.shape), copies.found)


def update_on_fake_cuda(optimizer, **arguments):
    """Copies to the device of two updates of parameters that have gradients, and of the moving average after them."""
    with FakeTensorMode(allow_non_fake_inputs=True):  # the average is a copy, which has a mode of its own
        net = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3, device="cuda"), torch.nn.Linear(8, 8, device="cuda"))
        kind = OPTIMIZER_REGISTRY.get(optimizer)
        made = kind([*net.named_parameters()] if getattr(kind, "takes_names", False) else net.parameters(), **arguments)
        average = EMA(net, 0.9)
        updates, averages = _HostCopies(), _HostCopies()
        for _ in range(2):
            for parameter in net.parameters():
                parameter.grad = torch.zeros_like(parameter)
            with updates:
                torch.nn.utils.clip_grad_norm_(net.parameters(), 0.5)
                made.step()
            with averages:
                average.update_parameters(net)
    return updates.found, averages.found


def _twin(value):
    return torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device="cuda")
