"""The exponential moving average of a network."""

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn


class EMA(AveragedModel):
    """Exponential moving average of a network's parameters; its buffers follow the network's.

    CATANet keeps its token centres in buffers, so a copy with stale buffers would be another network.
    """

    def __init__(self, net: nn.Module, decay: float):
        super().__init__(net)
        self._average = get_ema_multi_avg_fn(decay)
        self.n_averaged.fill_(1)  # the average starts at the network's initial weights
        self.requires_grad_(False)

    @torch.no_grad()
    def update_parameters(self, model: nn.Module) -> None:
        """Take the network into the average; only by operations on the device, so that a CUDA graph can repeat it.

        `n_averaged` stays as it is, because nothing depends on it.
        """
        pairs = [(p.detach(), q.detach()) for p, q in zip(self.module.parameters(), model.parameters(), strict=True)]
        for is_float in (True, False):  # PyTorch's function decides by the first tensor of a list
            alike = [pair for pair in pairs if pair[0].is_floating_point() is is_float]
            if alike:
                self._average([average for average, _ in alike], [new for _, new in alike], self.n_averaged)
        for own, buffer in zip(self.module.buffers(), model.buffers(), strict=True):
            own.copy_(buffer)
        for own_module, module in zip(self.module.modules(), model.modules(), strict=True):
            follow = getattr(own_module, "follow", None)
            if callable(follow):
                follow(module)  # Python state that mirrors buffers
