"""Modules around a network: DDP, a moving average, a mask."""

from torch import nn
from torch.nn.parallel import DistributedDataParallel

from basicsr.engine.ema import EMA


class Wrapper(nn.Module):
    """Base class of modules that a model puts around its network, such as a mask; `bare_network` unwraps them."""

    module: nn.Module


def bare_network(net: nn.Module) -> nn.Module:
    """Return the network inside DDP, EMA or a wrapper of a model."""
    while isinstance(net, (DistributedDataParallel, EMA, Wrapper)):
        net = net.module
    return net
