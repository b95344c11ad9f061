"""The fit of a new tail: a convolution before a pixel shuffle is linear, so least squares give its weights at once.

Training needs a thousand steps to come where this starts, and its first gradients, through a tail that knows nothing,
spoil the groups that the network has inherited.
"""

from collections.abc import Iterable, Mapping
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from basicsr.archs.prunable import Prunable
from basicsr.config.pruning import PruneOptions
from basicsr.engine.device import to_float64
from basicsr.engine.distributed import all_reduce_sum

RIDGE = 1e-6  # of the mean square of an input: keeps the system solvable where inputs are equal or 0


class TailFit:
    """The first `prune.tail_fit` iterations of fine-tuning, which train nothing but collect the normal equations.

    The last of them solves the equations: of all weights of the tail, these bring the output nearest to the ground
    truth, by the mean square over the batches.

    Args:
        prune: section `prune` of the options; stage search has no such fit.
    """

    def __init__(self, prune: PruneOptions) -> None:
        self.iterations = prune.tail_fit if prune.stage == "finetune" else 0
        self._products: Tensor | None = None
        self._targets: Tensor | None = None

    def check(self, net: nn.Module) -> None:
        """Check that the tail of a network is one convolution before a pixel shuffle.

        Raises:
            ValueError: naming the key.
        """
        if not self.iterations:
            return
        if not isinstance(net, Prunable):
            raise ValueError(f"prune.tail_fit: {type(net).__name__} does not name its tail; see archs/prunable.py")
        conv = _tail_of(net)
        if conv is None or conv.stride != (1, 1) or conv.groups != 1 or conv.padding_mode != "zeros":
            raise ValueError(
                f"prune.tail_fit: the tail of {type(net).__name__} is not one convolution, whose weights least squares "
                "give; set it to 0, or take the direct tail"
            )

    def active(self, iteration: int) -> bool:
        """Return whether iteration `iteration` (1-based) belongs to the fit."""
        return iteration <= self.iterations

    @torch.no_grad()
    def add(self, net: nn.Module, lq: Tensor, gt: Tensor) -> Tensor:
        """Add the batches of all processes to the equations; returns this one's mean square error, a scalar.

        Args:
            net: in any mode; its state does not change.
            lq, gt: (B, C, h, w) and (B, C, s*h, s*w).
        """
        conv = cast(nn.Conv2d, _tail_of(net))
        seen: dict[str, Tensor] = {}
        handle = conv.register_forward_hook(lambda _, args, result: seen.update(input=args[0], output=result))
        mode = net.training
        try:
            output = net.eval()(lq)
        finally:
            handle.remove()
            net.train(mode)
        residual = gt - output
        wanted = to_float64(seen["output"]) + to_float64(F.pixel_unshuffle(residual, gt.shape[-1] // lq.shape[-1]))
        size = 1 + conv.weight[0].numel()
        products, targets = wanted.new_zeros(size, size), wanted.new_zeros(size, conv.out_channels)
        for features, target in zip(seen["input"], wanted, strict=True):  # one by one: nine times the features
            columns = F.unfold(features[None], conv.kernel_size, conv.dilation, cast(tuple[int, int], conv.padding))[0]
            columns = to_float64(torch.cat([columns, columns.new_ones(1, columns.shape[1])]))
            products += columns @ columns.T
            targets += columns @ target.flatten(1).T
        products, targets = all_reduce_sum(products).cpu(), all_reduce_sum(targets).cpu()
        self._products = products if self._products is None else self._products + products
        self._targets = targets if self._targets is None else self._targets + targets
        return residual.square().mean()

    @torch.no_grad()
    def solve(self, nets: Iterable[nn.Module]) -> None:
        """Solve the equations, and put the weights into each of the networks."""
        products, targets = cast(Tensor, self._products), cast(Tensor, self._targets)
        ridge = RIDGE * products.diagonal().mean() * torch.eye(len(products), dtype=products.dtype)
        solution = torch.linalg.solve(products + ridge, targets)
        for net in nets:
            conv = cast(nn.Conv2d, _tail_of(net))
            conv.weight.copy_(solution[:-1].T.reshape(conv.weight.shape))
            cast(Tensor, conv.bias).copy_(solution[-1])
        self._products = self._targets = None

    def state_dict(self) -> dict[str, Tensor]:
        """Return the equations so far, on the CPU and the same in all processes; empty outside of the fit."""
        found = {"products": self._products, "targets": self._targets}
        return {name: value for name, value in found.items() if value is not None}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restore `state_dict()`."""
        equations = {name: value.cpu() for name, value in state.items()}
        self._products, self._targets = equations.get("products"), equations.get("targets")


def _tail_of(net: nn.Module) -> nn.Conv2d | None:
    """Return the convolution that is the whole tail of a network, with a bias; None: the tail is another."""
    prefixes = cast(Prunable, net).tail_prefixes
    owners = {name.rpartition(".")[0] for name, _ in net.named_parameters() if name.startswith(prefixes)}
    found = net.get_submodule(owners.pop()) if len(owners) == 1 else None
    return found if isinstance(found, nn.Conv2d) and found.bias is not None else None
