"""A forward pass on a CUDA device that is not there: PyTorch follows shapes and devices, and computes nothing.

It ends with an error where tensors of two devices meet, and where Python would have to wait for a value of the GPU
(`nonzero`, `bool(tensor)`, `.item()`). It cannot see copies to the device, nor kernels that PyTorch does not know.
"""

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.func import functional_call


def forward_on_fake_cuda(net, *shape):
    """The device and the shape of the output for an input of `shape`; `net` is left as it was."""
    with FakeTensorMode(allow_non_fake_inputs=True):
        state = {name: _twin(value) for name, value in [*net.named_parameters(), *net.named_buffers()]}
        output = functional_call(net, state, (torch.rand(*shape, device="cuda"),))
    return output.device.type, tuple(output.shape)


def _twin(value):
    return torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device="cuda")
