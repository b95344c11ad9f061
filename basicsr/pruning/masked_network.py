"""A network that runs under drawn masks."""

from collections.abc import Sequence
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.func import functional_call

from basicsr.archs.prunable import Gate, Prunable
from basicsr.engine.device import to_float64
from basicsr.engine.distributed import gather_objects
from basicsr.engine.wrapper import Wrapper
from basicsr.pruning.samplers.base import MaskSampler


class Draw(NamedTuple):
    """Everything that the mask of a forward depends on besides the logits."""

    iteration: int
    """1-based."""
    chunk: int
    """Index of the part of the batch."""
    tau: float
    """Temperature."""
    eps: float
    """Probability of a uniform draw."""
    learning: bool
    """False: the mask is decided, the logits are frozen."""


class MaskedNetwork(Wrapper):
    """A network and the sampler of its masks as one module, so that DDP averages the gradients of both.

    Args:
        net: implements the protocol of `archs/prunable.py`.
        sampler: of the masks.
        rank: of low-rank additions to linear layers and 1x1 convolutions, the only weights that learn then; 0: none.
        skip: leave out dropped groups where the mask has no gradient. Not under DDP, which waits for every gradient,
            and not where only the logits learn, since the loss would have no gradient.
    """

    def __init__(self, net: nn.Module, sampler: MaskSampler, rank: int = 0, skip: bool = True):
        super().__init__()
        self.module = net
        self.sampler = sampler
        self.low_rank = nn.ParameterDict()
        self.mask = torch.zeros(sampler.number)  # mask of the last forward
        self.learned = False  # True: that mask has a gradient to the logits
        for name, weight in net.named_parameters() if rank else ():
            if weight.dim() in (2, 4) and weight[0, 0].numel() == 1 and name.endswith("weight"):
                outputs, inputs = weight.shape[:2]
                key = name.replace(".", "|")  # names in a ParameterDict must not contain dots
                self.low_rank[f"{key}|a"] = nn.Parameter(weight.new_empty(rank, inputs).normal_(std=inputs**-0.5))
                self.low_rank[f"{key}|b"] = nn.Parameter(weight.new_zeros(outputs, rank))
        self.skip = skip and any(p.requires_grad for p in (*net.parameters(), *self.low_rank.parameters()))

    def forward(self, x: Tensor, draw: Draw, taps: Sequence[int] = ()) -> Tensor | tuple[Tensor, dict[int, Tensor]]:
        """Run the network under the mask of `draw`; dropped groups do not update their state buffers.

        Shape:
            x: (B, 3, h, w). output: (B, 3, s*h, s*w); with `taps` also the outputs of these groups by index.
        """
        mask = self.sampler.sample(draw.iteration, draw.tau, draw.eps, draw.chunk) if draw.learning else self.decided()
        self.mask, self.learned = mask.detach(), mask.requires_grad
        bits = [bool(bit) for bit in self.mask]
        cast(Prunable, self.module).set_state_tracking(bits)
        gates: Sequence[Gate]
        if self.skip and not self.learned:
            gates = [int(bit) for bit in bits]
        else:  # the sum times 0 keeps logits in the graph that this draw did not use
            gates = list((mask + 0 * sum(p.sum() for p in self.sampler.parameters())).to(x.device).unbind())
        changed = self.changed_weights()
        return functional_call(self.module, changed, (x, gates, taps)) if changed else self.module(x, gates, taps)

    def decided(self) -> Tensor:
        """Return the sampler's decision as an (N,) float mask."""
        return self.sampler.mode().float()

    def parameters_of_dropped(self, kept: Sequence[bool]) -> list[nn.Parameter]:
        """Return the weights and low-rank additions of the groups that are not `kept`."""
        groups = cast(Prunable, self.module).prunable_groups()
        prefixes = tuple(prefix for group in groups if not kept[group.index] for prefix in group.prefixes)
        additions = ((key.replace("|", "."), p) for key, p in self.low_rank.items())
        return [p for name, p in (*self.module.named_parameters(), *additions) if name.startswith(prefixes)]

    def changed_weights(self) -> dict[str, Tensor]:
        """Return the weights that have low-rank additions, with these added, by name."""
        result = {}
        for key in self.low_rank:
            if key.endswith("|a"):
                name = key.removesuffix("|a").replace("|", ".")
                weight = self.module.get_parameter(name)
                addition = self.low_rank[f"{key[:-1]}b"] @ self.low_rank[key]
                result[name] = weight + addition.view_as(weight)
        return result

    def check_ranks_agree(self, iteration: int) -> None:
        """Check that all processes drew the same mask and have the same logits; all processes call it.

        Raises:
            RuntimeError: naming the iteration, and mask and sum of logits of each process.
        """
        checksum = sum(float(to_float64(p).sum()) for p in self.sampler.parameters())
        found = gather_objects((self.mask.tolist(), checksum))
        if len({str(item) for item in found}) > 1:
            raise RuntimeError(f"iteration {iteration}: the processes disagree on (mask, sum of logits): {found}")
