"""The warm-up of a new tail: first iterations of fine-tuning in which only the reconstruction learns."""

from collections.abc import Iterable
from typing import cast

import torch
from torch import nn

from basicsr.archs.prunable import Prunable
from basicsr.config.pruning import PruneOptions
from basicsr.engine.optimizer_groups import set_rate


class TailWarmup:
    """`prune.tail_warmup_iter` iterations with frozen groups and a learning rate of their own.

    Args:
        prune: section `prune` of the options; stage search has no such warm-up.
    """

    def __init__(self, prune: PruneOptions) -> None:
        self.iterations = prune.tail_warmup_iter if prune.stage == "finetune" else 0
        self.rate = prune.tail_warmup_lr

    def check(self, net: nn.Module) -> None:
        """Check that the network names its tail, where there is a warm-up.

        Raises:
            ValueError: naming the key.
        """
        if self.iterations and not isinstance(net, Prunable):
            raise ValueError(
                f"prune.tail_warmup_iter: {type(net).__name__} does not name its tail; see archs/prunable.py, or set "
                "it to 0"
            )

    def active(self, iteration: int) -> bool:
        """Return whether iteration `iteration` (1-based) belongs to the warm-up."""
        return iteration <= self.iterations

    def set_state_tracking(self, net: nn.Module, iteration: int) -> None:
        """Freeze the state buffers of the groups during the warm-up, and release them after it."""
        if self.iterations:
            prunable = cast(Prunable, net)
            prunable.set_state_tracking([not self.active(iteration)] * len(prunable.prunable_groups()))

    def drop_other_gradients(self, net: nn.Module, iteration: int) -> None:
        """During the warm-up, remove the gradients of all parameters outside the tail."""
        if self.active(iteration):
            for name, p in net.named_parameters():
                if not name.startswith(cast(Prunable, net).tail_prefixes):
                    p.grad = None

    def set_rates(self, optimizers: Iterable[torch.optim.Optimizer], iteration: int) -> None:
        """During the warm-up, replace the scheduled learning rates."""
        if self.active(iteration):
            for optimizer in optimizers:
                for group in optimizer.param_groups:
                    set_rate(group, self.rate)
