"""The course of a mask search: its phases, temperature and exploration, and the network that runs under a drawn mask.

warmup (uniform masks, frozen logits) -> search -> settle (the best mask, frozen logits) -> the end of the run
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.func import functional_call

from basicsr.archs.prunable import Gate, Prunable
from basicsr.config.pruning import BudgetOptions, PruneOptions
from basicsr.engine.wrapper import Wrapper
from basicsr.pruning.costs import Resource
from basicsr.pruning.samplers import DualWeights, MaskSampler, budget_loss

Phase = Literal["warmup", "search", "settle"]


class Draw(NamedTuple):
    """Which mask a forward runs under: everything that the draw depends on beside the logits."""

    iteration: int
    chunk: int  # part of the batch
    tau: float
    eps: float
    learning: bool  # False: the mask is decided, the logits stay


class MaskedNetwork(Wrapper):
    """A network and the sampler of its masks as one module, so that DDP averages the gradients of both.

    Args:
        net: keeps the protocol of `archs/prunable.py`.
        rank: of low-rank additions to linear layers and 1x1 convolutions, the only weights then to learn; 0: none.
        skip: leave out dropped groups where the mask has no gradient. Not under DDP, which waits for every gradient,
            nor where the logits are all that learns, since the loss would have no gradient at all.
    """

    def __init__(self, net: nn.Module, sampler: MaskSampler, rank: int = 0, skip: bool = True):
        super().__init__()
        self.module = net
        self.sampler = sampler
        self.low_rank = nn.ParameterDict()
        self.mask = torch.zeros(sampler.number)  # of the last forward
        self.learned = False  # whether that mask has a gradient to the logits
        for name, weight in net.named_parameters() if rank else ():
            if weight.dim() in (2, 4) and weight[0, 0].numel() == 1 and name.endswith("weight"):
                outputs, inputs = weight.shape[:2]
                key = name.replace(".", "|")  # parameters' names hold no dots
                self.low_rank[f"{key}|a"] = nn.Parameter(weight.new_empty(rank, inputs).normal_(std=inputs**-0.5))
                self.low_rank[f"{key}|b"] = nn.Parameter(weight.new_zeros(outputs, rank))
        self.skip = skip and any(p.requires_grad for p in (*net.parameters(), *self.low_rank.parameters()))

    def forward(self, x: Tensor, draw: Draw, taps: Sequence[int] = ()) -> Tensor | tuple[Tensor, dict[int, Tensor]]:
        """The network under the mask of `draw`; groups that it drops leave their state alone."""
        mask = self.sampler.sample(draw.iteration, draw.tau, draw.eps, draw.chunk) if draw.learning else self.decided()
        self.mask, self.learned = mask.detach(), mask.requires_grad
        bits = [bool(bit) for bit in self.mask]
        cast(Prunable, self.module).set_state_tracking(bits)
        gates: Sequence[Gate]
        if self.skip and not self.learned:
            gates = [int(bit) for bit in bits]
        else:  # the empty sum keeps logits in the graph that this draw did not use
            gates = list((mask + 0 * sum(p.sum() for p in self.sampler.parameters())).to(x.device).unbind())
        changed = self.changed()
        return functional_call(self.module, changed, (x, gates, taps)) if changed else self.module(x, gates, taps)

    def decided(self) -> Tensor:
        """The sampler's decision as a float mask."""
        return self.sampler.mode().float()

    def idle(self, asked: Sequence[bool]) -> list[nn.Parameter]:
        """Weights and low-rank additions of the groups that are not `asked`."""
        groups = cast(Prunable, self.module).prunable_groups()
        prefixes = tuple(prefix for group in groups if not asked[group.index] for prefix in group.prefixes)
        additions = ((key.replace("|", "."), p) for key, p in self.low_rank.items())
        return [p for name, p in (*self.module.named_parameters(), *additions) if name.startswith(prefixes)]

    def changed(self) -> dict[str, Tensor]:
        """Weights with their low-rank additions, by name."""
        result = {}
        for key in self.low_rank:
            if key.endswith("|a"):
                name = key.removesuffix("|a").replace("|", ".")
                weight = self.module.get_parameter(name)
                addition = self.low_rank[f"{key[:-1]}b"] @ self.low_rank[key]
                result[name] = weight + addition.view_as(weight)
        return result


class MaskSearch:
    """What happens at which iteration, and when the mask is decided.

    Args:
        sampler: of the masks.
        resources: what a mask costs, limited or not.
    """

    def __init__(
        self, prune: PruneOptions, budget: BudgetOptions, sampler: MaskSampler, resources: Sequence[Resource]
    ) -> None:
        self.prune = prune
        self.budget = budget
        self.sampler = sampler
        self.resources = list(resources)
        self.settles_after = prune.warmup_iter + prune.search_iter
        self.mode = _bits(sampler.mode())
        self.mode_changes = 0
        self.mode_since = 0
        self.hamming = 0
        limited = [r for r in resources if r.limit is not None]
        pulls = budget.mode == "loss" or prune.sampler == "bernoulli"
        self.weights = DualWeights({r.name: budget.weight for r in limited}, budget.dual) if pulls else None

    def phase(self, iteration: int) -> Phase:
        """Of an iteration, from 1."""
        if iteration > self.settles_after:
            return "settle"
        return "warmup" if iteration <= self.prune.warmup_iter else "search"

    def progress(self, iteration: int) -> float:
        """0 at the begin, 1 at the planned end of the search."""
        done = (iteration - self.prune.warmup_iter) / max(self.prune.search_iter, 1)
        return min(max(done, 0.0), 1.0)

    def tau(self, iteration: int) -> float:
        """Temperature."""
        begin, end = self.prune.tau
        return begin + (end - begin) * self.progress(iteration)

    def eps(self, iteration: int) -> float:
        """Probability of a uniform draw."""
        phase = self.phase(iteration)
        return {"warmup": 1.0, "settle": 0.0}.get(phase, self.prune.eps_uniform * (1 - self.progress(iteration)))

    def draw(self, iteration: int, chunk: int) -> Draw:
        """What the forward of this iteration draws."""
        learning = self.phase(iteration) != "settle"
        return Draw(iteration, chunk, self.tau(iteration), self.eps(iteration), learning)

    def penalties(self, iteration: int) -> dict[str, Tensor]:
        """Losses on the logits alone."""
        result: dict[str, Tensor] = {}
        if self.phase(iteration) != "search":
            return result
        if self.weights is not None:
            result["l_budget"] = budget_loss(self.sampler, self.resources, self.weights.values, self.budget.two_sided)
        if self.prune.entropy_weight > 0 and self.progress(iteration) < 0.5:
            factor = self.prune.entropy_weight * (1 - 2 * self.progress(iteration))
            result["l_entropy"] = -factor * self.sampler.entropy()  # a reward for exploring
        return result

    def after_step(self, iteration: int) -> None:
        """Bound the logits, follow the best mask, and end the search early when it has long been clear."""
        if self.phase(iteration) != "search":
            return
        self.sampler.constrain_()
        dual = self.budget.dual
        if self.weights is not None and dual.enable and iteration % dual.every == 0:
            self.weights.step({r.name: (self.sampler.expected_cost(r).item(), r.limit) for r in self.resources})
        mode = _bits(self.sampler.mode())
        if mode != self.mode:
            self.hamming = sum(a != b for a, b in zip(mode, self.mode, strict=True))
            self.mode, self.mode_since, self.mode_changes = mode, iteration, self.mode_changes + 1
        prune = self.prune
        sure = iteration - self.mode_since >= prune.freeze_patience and iteration >= prune.min_search_iter
        if sure and self.sampler.ranking(1)[0][1] >= prune.freeze_conf:
            self.settles_after = min(self.settles_after, iteration)

    def costs(self) -> dict[str, float]:
        """Expected cost, and cost of the best mask, of each resource, under the names of `mask_log.csv`."""
        result = {}
        for resource in self.resources:
            result[f"E_{resource.name}"] = self.sampler.expected_cost(resource).item()
            result[f"mode_{resource.name}"] = resource.total([int(bit) for bit in self.mode])
        return result

    def state_dict(self) -> dict[str, Any]:
        """Plain values and tensors."""
        return {
            "sampler": self.sampler.state_dict(), "settles_after": self.settles_after, "mode": self.mode,
            "mode_changes": self.mode_changes, "mode_since": self.mode_since, "hamming": self.hamming,
            "weights": self.weights.state_dict() if self.weights is not None else {},
        }  # fmt: skip

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state_dict()`.

        Raises:
            ValueError: when it is of another number of groups or masks.
        """
        self.sampler.load_state_dict(state["sampler"])
        for name in ("settles_after", "mode", "mode_changes", "mode_since", "hamming"):
            setattr(self, name, state[name])
        if self.weights is not None and state["weights"]:
            self.weights.load_state_dict(state["weights"])


def _bits(mask: Tensor) -> str:
    """A mask as text, e.g. 10010001."""
    return "".join(str(int(bit)) for bit in mask)
