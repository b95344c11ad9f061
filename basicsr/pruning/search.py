"""The schedule of a mask search: phases, temperature, exploration, the early decision, and the record of draws.

warmup (uniform masks, frozen logits) -> search -> settle (the best mask, frozen logits) -> the end of the run
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from basicsr.archs.prunable import Prunable, missing_members
from basicsr.config.pruning import BudgetOptions, PruneOptions
from basicsr.config.schema import Options
from basicsr.engine.checkpoint import find_checkpoint
from basicsr.engine.random_state import random_state_kept
from basicsr.engine.run import read_on_rank0_and_broadcast
from basicsr.pruning.budget import DualWeights, budget_loss
from basicsr.pruning.compaction import check_mlp_dim, check_tail, in_form
from basicsr.pruning.costs import Resource, group_resources, limited_resources
from basicsr.pruning.masked_network import Draw
from basicsr.pruning.samplers import build_sampler
from basicsr.pruning.samplers.base import MaskSampler

Phase = Literal["warmup", "search", "settle"]


class MaskSearch:
    """The schedule of a search, its penalties on the logits, and the decision.

    Args:
        prune, budget: sections of the options.
        sampler: of the masks.
        resources: costs of the groups, with or without limits.

    Attributes:
        mode: the most probable mask as bits, such as "10010001".
        mode_since: iteration of the last change of `mode`.
        mode_changes: number of changes.
        hamming: groups that the last change exchanged.
        settles_after: last iteration of the search phase.
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
        weights = {resource.name: budget.weight for resource in limited_resources(resources)}
        has_loss = budget.mode == "loss" or prune.sampler == "bernoulli"
        self.weights = DualWeights(weights, budget.dual) if has_loss else None

    def phase(self, iteration: int) -> Phase:
        """Return the phase of an iteration, 1-based."""
        if iteration > self.settles_after:
            return "settle"
        return "warmup" if iteration <= self.prune.warmup_iter else "search"

    def progress(self, iteration: int) -> float:
        """Return the fraction of the search phase that is done: 0 at its begin, 1 at its planned end."""
        done = (iteration - self.prune.warmup_iter) / max(self.prune.search_iter, 1)
        return min(max(done, 0.0), 1.0)

    def tau(self, iteration: int) -> float:
        """Return the temperature of an iteration."""
        begin, end = self.prune.tau
        return begin + (end - begin) * self.progress(iteration)

    def eps(self, iteration: int) -> float:
        """Return the probability of a uniform draw in an iteration."""
        phase = self.phase(iteration)
        return {"warmup": 1.0, "settle": 0.0}.get(phase, self.prune.eps_uniform * (1 - self.progress(iteration)))

    def draw(self, iteration: int, chunk: int) -> Draw:
        """Return the parameters of a draw.

        Args:
            iteration: 1-based.
            chunk: index of the mask among those of the iteration.
        """
        learning = self.phase(iteration) != "settle"
        return Draw(iteration, chunk, self.tau(iteration), self.eps(iteration), learning)

    def penalties(self, iteration: int) -> dict[str, Tensor]:
        """Return the weighted losses on the logits by name, for the search phase."""
        result: dict[str, Tensor] = {}
        if self.phase(iteration) != "search":
            return result
        if self.weights is not None:
            result["l_budget"] = budget_loss(self.sampler, self.resources, self.weights.values, self.budget.two_sided)
        if self.prune.entropy_weight > 0 and self.progress(iteration) < 0.5:
            factor = self.prune.entropy_weight * (1 - 2 * self.progress(iteration))
            result["l_entropy"] = -factor * self.sampler.entropy()  # a bonus for exploration
        return result

    def after_step(self, iteration: int) -> None:
        """Bound the logits, update the most probable mask, and end the search early once it is decided."""
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
        stable = iteration - self.mode_since >= prune.freeze_patience and iteration >= prune.min_search_iter
        if stable and self.sampler.ranking(1)[0][1] >= prune.freeze_conf:
            self.settles_after = min(self.settles_after, iteration)

    def costs(self) -> dict[str, float]:
        """Return the expected cost and the cost of the best mask of each resource, named as in `mask_log.csv`."""
        result = {}
        for resource in self.resources:
            result[f"E_{resource.name}"] = self.sampler.expected_cost(resource).item()
            result[f"mode_{resource.name}"] = resource.total([int(bit) for bit in self.mode])
        return result

    def state_dict(self) -> dict[str, Any]:
        """Return the state as plain values and tensors."""
        return {
            "sampler": self.sampler.state_dict(),
            "settles_after": self.settles_after,
            "mode": self.mode,
            "mode_changes": self.mode_changes,
            "mode_since": self.mode_since,
            "hamming": self.hamming,
            "weights": self.weights.state_dict() if self.weights is not None else {},
            "latency": next((dict(r.record) for r in self.resources if r.name == "latency_ms"), None),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the state.

        Raises:
            ValueError: when the state has another number of groups or masks.
        """
        self.sampler.load_state_dict(state["sampler"])
        for name in ("settles_after", "mode", "mode_changes", "mode_since", "hamming"):
            setattr(self, name, state[name])
        if self.weights is not None and state["weights"]:
            self.weights.load_state_dict(state["weights"])


class DrawRecord:
    """The masks that a search has drawn: those of this iteration, and all since the last row of the log."""

    def __init__(self) -> None:
        self.since_log: list[Tensor] = []
        """(N,) masks, oldest first."""
        self.count = 0
        """Number of masks drawn in this iteration."""
        self.learned = False
        """True: a mask of this iteration has a gradient to the logits."""

    def start_iteration(self) -> None:
        """Reset the values of the iteration."""
        self.count, self.learned = 0, False

    def add(self, mask: Tensor, learned: bool) -> None:
        """Record a mask."""
        self.count += 1
        self.since_log.append(mask.cpu())
        self.learned = self.learned or learned

    def kept_in_iteration(self) -> list[bool]:
        """Return, for each group, whether a mask of this iteration keeps it."""
        return torch.stack(self.since_log[-self.count :]).amax(dim=0).bool().tolist()

    def pop_keep_frequency(self) -> list[float]:
        """Return the fraction of masks since the last call that keep each group, and forget these masks."""
        frequency = torch.stack(self.since_log).mean(dim=0).tolist()
        self.since_log = []
        return frequency


def build_search(opt: Options, net: nn.Module, device: torch.device) -> MaskSearch:
    """Return the search that the options describe.

    Args:
        opt: of the run.
        net: with its weights, on `device`.
        device: of the run.

    Raises:
        ValueError: when the options do not fit the network or each other.
    """
    prune = opt.prune or PruneOptions()
    with random_state_kept():  # a new tail draws numbers
        form = in_form(net, prune.tail, opt.compact.mlp_dim)
    resources = group_resources(form, opt.budget, device, read_on_rank0_and_broadcast(lambda: _saved_latency(opt)))
    number = len(net.prunable_groups()) if isinstance(net, Prunable) else 0
    return MaskSearch(prune, opt.budget, build_sampler(prune, number, resources, opt.budget.mode), resources)


def _saved_latency(opt: Options) -> Mapping[str, Any] | None:
    """Return the latency table of the run that is resumed: measured again, it would allow other masks."""
    checkpoint = find_checkpoint(opt) if "latency_ms" in opt.budget.limits else None
    return checkpoint.state.get("search", {}).get("latency") if checkpoint else None


def check_search(opt: Options, net: nn.Module) -> None:
    """Check, before it starts, that a search can learn something and end without an error.

    Raises:
        ValueError: naming the key.
    """
    prune, train = opt.prune or PruneOptions(), opt.train
    if not isinstance(net, Prunable):
        raise ValueError(
            f"network_g.type: {type(net).__name__} declares no residual groups: it lacks "
            f"{', '.join(missing_members(net))}; see archs/prunable.py"
        )
    if opt.path.pretrain_network_g is None:
        raise ValueError("path.pretrain_network_g: is missing; a search starts from trained weights")
    planned = prune.warmup_iter + prune.search_iter + prune.settle_iter
    if train is not None and planned != train.total_iter:
        raise ValueError(
            f"prune.search_iter: warmup_iter, search_iter and settle_iter add up to {planned}, but train.total_iter is "
            f"{train.total_iter}; make them equal"
        )
    if prune.delta_w == "lora" and train is not None and train.ema_decay > 0:
        raise ValueError("prune.delta_w: lora has no moving average; set train.ema_decay to 0")
    if prune.delta_w == "none" and prune.sampler == "fixed":
        raise ValueError("prune.delta_w: none leaves nothing to learn with sampler fixed; use full or lora")
    if prune.tail != "original":
        check_tail(net)
    if opt.compact.mlp_dim is not None:
        check_mlp_dim(net, opt.compact.mlp_dim)
    if prune.pick != "mode":
        check_pick(opt)


def check_pick(opt: Options) -> None:
    """Check that masks can be tried and scored at the end of a search.

    Raises:
        ValueError: naming the key.
    """
    if not opt.compact.enable:
        raise ValueError("compact.enable: is false, so there are no networks for prune.pick to try; use pick: mode")
    if not opt.datasets_of("val"):
        raise ValueError("datasets: has no `val` set, by which prune.pick could score the masks; add one")
    if "psnr" not in (opt.val.metrics or {}):
        raise ValueError("val.metrics: has no `psnr`, by which prune.pick scores the masks; add calculate_psnr")


def _bits(mask: Tensor) -> str:
    """Return a mask as text, such as 10010001."""
    return "".join(str(int(bit)) for bit in mask)
