"""Computations on a CUDA device that does not exist: PyTorch tracks shapes and devices and computes nothing.

They raise where tensors of two devices meet, and where Python would have to wait for a value from the GPU
(`nonzero`, `bool(tensor)`, `.item()`). Custom kernels and backward passes are not covered.
"""

from typing import NamedTuple

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.func import functional_call
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from basicsr.config.registry import OPTIMIZER_REGISTRY
from basicsr.engine.ema import EMA


class FakeForward(NamedTuple):
    """The output of a forward pass on the fake device, and the copies of the second of two equal passes."""

    device: str
    shape: tuple[int, ...]
    copies: list[str]  # operations that copied a tensor from the CPU to the device


class _HostCopies(TorchDispatchMode):
    """Record the operations that take tensors on the CPU and return one on the device."""

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        given = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        made = [leaf for leaf in tree_leaves(out) if isinstance(leaf, torch.Tensor)]
        all_on_cpu = all(leaf.device.type == "cpu" for leaf in given)
        from_cpu = [leaf for leaf in given if leaf.device.type == "cpu" and (all_on_cpu or leaf.dim())]
        if from_cpu and any(leaf.device.type == "cuda" for leaf in made):
            self.found.append(str(func))
        return out


def forward_on_fake_cuda(net, *shape):
    """Run `net` twice on an input of `shape`; tensors that the first call caches are not copies. `net` is unchanged."""
    with FakeTensorMode(allow_non_fake_inputs=True):
        state = {name: _twin(value) for name, value in [*net.named_parameters(), *net.named_buffers()]}
        x = torch.rand(*shape, device="cuda")
        functional_call(net, state, (x,))
        with _HostCopies() as copies:
            output = functional_call(net, state, (x,))
    return FakeForward(output.device.type, tuple(output.shape), copies.found)


def update_on_fake_cuda(optimizer, **arguments):
    """Return the copies to the device in two optimizer steps, and in the moving average's updates after them."""
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
