"""One network computed twice, on two devices or in two precisions, with every token in the same group.

CATANet and ATD choose a group for every token. Where two groups are equally near up to rounding, devices choose
differently, and the outputs then differ by far more than rounding. So the choices of the first computation are recorded
and forced on the second one by `basicsr.archs.layers.group_hook.group_choices`; only rounding is left.
"""

import copy
from contextlib import contextmanager
from typing import NamedTuple

import torch
from archs.registered import tiny
from torch import Tensor

from basicsr.archs.layers.atd_attention import DictionaryAttention
from basicsr.archs.layers.group_hook import group_choices
from basicsr.archs.layers.token_aggregation import TAB

LQ_SHAPE = (2, 3, 24, 31)  # odd and not square, on purpose
WEIGHT_NOISE = 0.02  # added to all weights, so that those that begin at 0 matter


class NetworkResult(NamedTuple):
    """Output, groups and gradients of a network, on the CPU in float64."""

    output: Tensor
    groups: list[Tensor]  # (B, N) for each choice, in the order of the forward pass
    gradients: dict[str, Tensor]  # of the parameters; empty in evaluation


@contextmanager
def float32_results():
    """Disable TF32 inside."""
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before[0])
        torch.backends.cudnn.allow_tf32 = before[1]


def trained_network(name):
    """Return the network of this name as after training: no weight is 0, and its token centres are set."""
    torch.manual_seed(0)
    net = tiny(name)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(WEIGHT_NOISE * torch.randn_like(parameter))
        net.train()(torch.rand(2, 3, 16, 16))
    return net.eval()


def count_group_choices(net):
    """Return how often a forward pass in evaluation chooses groups."""
    return sum(isinstance(module, TAB | DictionaryAttention) for module in net.modules())


def compute(net, device, dtype=torch.float32, forced=None, train=False, prepared=False):
    """Run a copy of `net` on a fixed random batch.

    Args:
        forced: groups to use, from another result.
        train: use training mode, and take the gradients of a random projection of the output.
        prepared: use its form for inference.
    """
    net = copy.deepcopy(net).to(device, dtype).train(train)
    net = net.prepared(dtype) if prepared else net
    generator = torch.Generator().manual_seed(1)
    lq = torch.rand(LQ_SHAPE, generator=generator).to(device, dtype)
    gradients = {}
    with float32_results(), group_choices(forced) as groups, torch.set_grad_enabled(train):
        output = net(lq)
        if train and output.requires_grad:
            weights = torch.randn(output.shape, generator=generator).to(output)
            (output * weights).mean().backward()
            gradients = {name: p.grad.double().cpu() for name, p in net.named_parameters() if p.grad is not None}
    return NetworkResult(output.detach().double().cpu(), [chosen.cpu() for chosen in groups.chosen], gradients)


def largest_difference(one, other):
    """Return the largest absolute difference of the outputs."""
    return float((one.output - other.output).abs().max())


def gradient_difference(one, other):
    """Return the norm of the difference of all gradients over the norm of all gradients."""
    assert one.gradients.keys() == other.gradients.keys()
    norms = [sum(float(g.square().sum()) for g in grads) ** 0.5 for grads in (
        [one.gradients[name] - other.gradients[name] for name in one.gradients], one.gradients.values(),
    )]  # fmt: skip
    return norms[0] / norms[1] if norms[1] else 0.0


def psnr(one, other):
    """Return the PSNR of one output against the other, peak 1, in dB."""
    error = float((one.output - other.output).square().mean())
    return -10 * torch.tensor(max(error, 1e-20)).log10().item()
