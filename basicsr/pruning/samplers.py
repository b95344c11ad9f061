"""Binary masks over the residual groups of a network, drawn from a distribution that learns which groups stay.

N groups; a mask is N numbers, 1 keeps the group, 0 drops it. A sampler draws masks with a straight-through gradient to
its logits, its only parameters. Draws depend on nothing but the seed, the iteration and the logits: the noise comes
from a generator of their own on the CPU, so all devices, processes and resumed runs draw the same masks.

Source: TinyFusion (arXiv 2412.01199), TinySR (arXiv 2508.17434).
"""

import itertools
import logging
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from basicsr.config.pruning import DualOptions, PruneOptions
from basicsr.pruning.costs import Resource

logger = logging.getLogger("basicsr")

MAX_MASKS = 20_000  # masks that may have a logit each
MAX_LOGIT = 10.0
MAX_ENUMERATED = 16  # groups whose masks the bernoulli sampler enumerates; no more than 12,870 of them are maximal
SEED_FACTOR, CHUNK_FACTOR = 1_000_003, 2_654_435_761  # prime; PyTorch's CPU generator uses the low 32 bits of a seed
Ranking = list[tuple[tuple[int, ...], float]]
BudgetMode = Literal["hard", "loss"]


class MaskSampler(nn.Module):
    """A distribution of masks; subclasses say which.

    Args:
        choices: (rows, N) of 0 and 1, what the logits decide about; part of the state, to refuse that of another run.
        seed: of the draws.
        scale: factor on the logits.
    """

    choices: Tensor

    def __init__(self, choices: Tensor, *, seed: int, scale: float = 1.0) -> None:
        super().__init__()
        self.number = choices.shape[1]
        self.seed = seed
        self.scale = scale
        self.register_buffer("choices", choices.to(torch.int8))

    def sample(self, iteration: int, tau: float, eps: float = 0.0, chunk: int = 0) -> Tensor:
        """A mask, exactly 0 and 1, with a straight-through gradient to the logits.

        Args:
            tau: temperature, > 0; shapes the gradient, not which mask is drawn.
            eps: probability in [0, 1] of drawing uniformly among the allowed masks; such a draw has no gradient.
            chunk: part of the batch, >= 0, where parts draw masks of their own.

        Shape:
            output: (N,), float.

        Raises:
            FloatingPointError: when a logit is not finite.
        """
        if not all(bool(logits.isfinite().all()) for logits in self.parameters()):
            raise FloatingPointError(f"the logits of the mask are not finite at iteration {iteration}, tau {tau:.4g}")
        generator = torch.Generator().manual_seed((self.seed * SEED_FACTOR + iteration + chunk * CHUNK_FACTOR) % 2**63)
        explores = float(torch.rand((), generator=generator)) < eps
        mask = self._draw_uniformly(generator) if explores else self._draw(generator, tau)
        return mask.to(self.choices.device)

    def mode(self) -> Tensor:
        """The decision: (N,) of 0 and 1, int64."""
        raise NotImplementedError

    def marginals(self) -> Tensor:
        """(N,) probabilities of keeping each group, differentiable."""
        raise NotImplementedError

    def entropy(self) -> Tensor:
        """Entropy of the draws in nats, differentiable."""
        raise NotImplementedError

    def ranking(self, k: int) -> Ranking:
        """The k most probable masks and their probabilities, best first; equal ones in a fixed order."""
        raise NotImplementedError

    def constrain_(self) -> None:
        """Keep the logits bounded; to be called after each step of their optimizer."""

    def expected_cost(self, resource: Resource) -> Tensor:
        """Expected cost of a mask, a differentiable scalar."""
        pi = self.marginals()
        return resource.fixed + (pi * torch.tensor(resource.groups, dtype=pi.dtype, device=pi.device)).sum()

    def _draw(self, generator: torch.Generator, tau: float) -> Tensor:
        """A mask on the CPU with a gradient."""
        raise NotImplementedError

    def _draw_uniformly(self, generator: torch.Generator) -> Tensor:
        """A mask on the CPU without one."""
        raise NotImplementedError

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *args: Any) -> None:
        for name, own in sorted(self.state_dict().items()):  # "choices" come first and say most
            saved = state_dict.get(prefix + name, own)
            if saved.shape != own.shape:
                raise ValueError(
                    f"{prefix}{name}: the saved mask logits are those of another run, got {_size(saved)}, this run has "
                    f"{_size(own)}; resume with the network, budget and sampler they were learned with"
                )
            if name == "choices" and not torch.equal(saved.to(own), own):
                raise ValueError(
                    f"{prefix}choices: the saved mask logits, {_size(saved)}, stand for other masks than this run's "
                    f"{_size(own)}; resume with the budget and sampler they were learned with"
                )
        super()._load_from_state_dict(state_dict, prefix, *args)


class SubsetSampler(MaskSampler):
    """One of a set of masks, by a softmax over all of them. Budgets hold by construction.

    Args:
        masks: (M, N), the masks that may be drawn; see `feasible_masks`.
        init: initial value of all logits.
        per_block: N logits that masks add up, instead of M; they mean the same whatever the number of kept groups.
    """

    def __init__(
        self, masks: Tensor, *, seed: int, scale: float = 1.0, init: float = 0.02, per_block: bool = False
    ) -> None:
        super().__init__(masks, seed=seed, scale=scale)
        self.per_block = per_block
        self.logits = nn.Parameter(torch.full((masks.shape[1 if per_block else 0],), init))
        self._shift_invariant = not per_block or len(set(masks.sum(1).tolist())) == 1

    def probabilities(self) -> Tensor:
        """(M,), differentiable."""
        return self._scores(self.logits).softmax(0)

    def mode(self) -> Tensor:
        """The most probable mask, (N,) int64; of equal ones the first."""
        return self.choices[self._scores(self.logits).argmax()].long()

    def marginals(self) -> Tensor:
        """(N,) probabilities of keeping each group, differentiable."""
        return self._mix(self.probabilities())

    def entropy(self) -> Tensor:
        """Entropy of the masks in nats, differentiable."""
        return torch.special.entr(self.probabilities()).sum()

    def ranking(self, k: int) -> Ranking:
        """The k most probable masks and their probabilities, best first; equal ones in the order of `choices`."""
        p, order = self.probabilities().detach().cpu().sort(descending=True, stable=True)
        masks = self.choices.cpu()[order[:k]].tolist()
        return [(tuple(mask), value) for mask, value in zip(masks, p[:k].tolist(), strict=True)]

    @torch.no_grad()
    def constrain_(self) -> None:
        """Subtract the mean, where that changes no probability, and clamp to +-`MAX_LOGIT`."""
        if self._shift_invariant:
            self.logits.sub_(self.logits.mean())
        self.logits.clamp_(-MAX_LOGIT, MAX_LOGIT)

    def _draw(self, generator: torch.Generator, tau: float) -> Tensor:
        scores = self._scores(self.logits.cpu())
        return self._mix(straight_through(scores + gumbel_noise(scores, generator), tau))

    def _draw_uniformly(self, generator: torch.Generator) -> Tensor:
        index = torch.randint(len(self.choices), (), generator=generator)
        return self.choices.cpu()[index].to(self.logits.dtype)

    def _scores(self, logits: Tensor) -> Tensor:
        """(M,) logits of the masks."""
        return self.scale * ((self.choices.to(logits) * logits).sum(1) if self.per_block else logits)

    def _mix(self, weights: Tensor) -> Tensor:
        """(N,) sum of the masks by (M,) weights; no matmul, which autocast would round."""
        return (weights[:, None] * self.choices.to(weights)).sum(0)


class NMSampler(MaskSampler):
    """N:M masks: of each local block of neighbouring groups a fixed number stays; pairs of blocks may shift groups.

    Each block chooses among its masks by a softmax. Each pair (j, h) then chooses, by a softmax of 3, to shift `shift`
    groups from j to h, none, or from h to j: the receiver adds its most probable inactive groups (`expand`), the giver
    drops its least probable active ones (`corrode`), by the marginals of the blocks' own choices. What a block cannot
    give or take is left out of the choice. The number of kept groups never changes.

    Args:
        patterns: (keep, size) of each local block.
        init: initial value of all logits.
        pairs: of local blocks; each block in one pair at most.
        min_keep: groups that a block keeps at least when it gives.

    Source: TinySR, dynamic inter-block activation and expansion-corrosion.

    Note:
        Not the clamped products of TinySR's code, which stop the gradient where both masks are 1.
    """

    def __init__(
        self, patterns: Sequence[tuple[int, int]], *, seed: int, scale: float = 1.0, init: float = 0.02,
        pairs: Sequence[tuple[int, int]] = (), shift: int = 1, min_keep: int = 0,
        force_keep: Sequence[int] = (), force_drop: Sequence[int] = (),
    ) -> None:  # fmt: skip
        self.keeps, self.sizes = [keep for keep, _ in patterns], [size for _, size in patterns]
        number = sum(self.sizes)
        kept = torch.tensor([i in force_keep for i in range(number)]).split(self.sizes)
        dropped = torch.tensor([i in force_drop for i in range(number)]).split(self.sizes)
        options = [_block_masks(*block) for block in zip(self.keeps, kept, dropped, strict=True)]
        super().__init__(torch.block_diag(*options), seed=seed, scale=scale)
        self.pairs, self.shift, self.min_keep = list(pairs), shift, min_keep
        self._options, self._kept, self._dropped = options, kept, dropped
        self._rows = [len(masks) for masks in options]
        self._possible = [[self._can_shift(j, h, way) for way in (-1, 0, 1)] for j, h in self.pairs]
        self.logits = nn.Parameter(torch.full((sum(self._rows),), init))
        transfer = torch.full((len(self.pairs), 3), init)
        self.transfer = nn.Parameter(transfer) if pairs else transfer

    def mode(self) -> Tensor:
        """The most probable mask of each block, shifted in the most probable way of each pair; (N,) int64."""
        masks = [m[scores.argmax()] for m, scores in zip(self._options, self._scores(self.logits.cpu()), strict=True)]
        ways = [F.one_hot(scores.argmax(), 3) for scores in self._transfer_scores(self.transfer.cpu())]
        return self._shifted([m.float() for m in masks], ways).long().to(self.choices.device)

    def marginals(self) -> Tensor:
        """(N,) probabilities of keeping each group, shifts included; differentiable but for who is added or dropped."""
        chosen = [scores.softmax(0) for scores in self._scores(self.logits)]
        none = chosen[0].new_tensor([0.0, 1.0, 0.0])
        ways = dict.fromkeys(range(len(self.sizes)), none)
        for (j, h), scores in zip(self.pairs, self._transfer_scores(self.transfer), strict=True):
            ways[j], ways[h] = scores.softmax(0), scores.softmax(0).flip(0)
        stacks = self._stacks([masks.float() for masks in self._options])
        return torch.cat(
            [
                (ways[j][:, None, None] * chosen[j][:, None] * stack.to(chosen[j])).sum((0, 1))
                for j, stack in enumerate(stacks)
            ]
        )

    def entropy(self) -> Tensor:
        """Entropy in nats of the choices of blocks and pairs, differentiable."""
        scores = [*self._scores(self.logits), *self._transfer_scores(self.transfer)]
        return torch.stack([torch.special.entr(choice.softmax(0)).sum() for choice in scores]).sum()

    @torch.no_grad()
    def ranking(self, k: int) -> Ranking:
        """The k most probable masks, best first; equal ones in descending order as binary numbers.

        The first need not be `mode()`: different choices can lead to the same mask, whose probabilities add up.
        """
        chosen = [scores.softmax(0).cpu() for scores in self._scores(self.logits)]
        stacks = self._stacks([masks.float() for masks in self._options])
        best: list[list[Ranking]] = [
            [_best(_distribution(masks.long().tolist(), p.tolist()), k) for masks in stack]
            for stack, p in zip(stacks, chosen, strict=True)
        ]
        units: list[tuple[list[int], Ranking]] = [([j], best[j][1]) for j in self._single_blocks()]
        for (j, h), scores in zip(self.pairs, self._transfer_scores(self.transfer), strict=True):
            ways = [
                [(mask, p * q) for mask, p in _product(best[j][way], best[h][2 - way], k)]
                for way, q in enumerate(scores.softmax(0).tolist())
                if q > 0
            ]
            units.append(([j, h], _best(itertools.chain(*ways), k)))
        found: Ranking = [((), 1.0)]
        for _, unit in units:
            found = _product(found, unit, k)
        place = self._places([j for blocks, _ in units for j in blocks])
        return _best(((tuple(mask[i] for i in place), p) for mask, p in found), k)

    @torch.no_grad()
    def constrain_(self) -> None:
        """Subtract the mean of each choice, which changes no probability, and clamp to +-`MAX_LOGIT`."""
        for choice in (*self.logits.split(self._rows), *self.transfer):
            choice.sub_(choice.mean())
        self.logits.clamp_(-MAX_LOGIT, MAX_LOGIT)
        self.transfer.clamp_(-MAX_LOGIT, MAX_LOGIT)

    def cost_range(self, resource: Resource) -> tuple[float, float]:
        """Least and greatest cost of the masks that choices and shifts can lead to, whatever the logits."""
        costs = torch.tensor(resource.groups, dtype=torch.float64).split(self.sizes)
        low = high = resource.fixed
        for j in self._single_blocks():
            least, most = self._block_cost_range(j, self.keeps[j], costs[j])
            low, high = low + least, high + most
        for p, (j, h) in enumerate(self.pairs):
            ranges = [
                (self._block_cost_range(j, n_j, costs[j]), self._block_cost_range(h, n_h, costs[h]))
                for n_j, n_h in self._splits(p)
            ]
            low += min(first[0] + second[0] for first, second in ranges)
            high += max(first[1] + second[1] for first, second in ranges)
        return low, high

    def _draw(self, generator: torch.Generator, tau: float) -> Tensor:
        logits, transfer = self.logits.cpu(), self.transfer.cpu()
        noise = gumbel_noise(logits, generator).split(self._rows)
        scores = [score + g for score, g in zip(self._scores(logits), noise, strict=True)]
        chosen = [straight_through(score, tau) for score in scores]
        masks = [(y[:, None] * m.to(y)).sum(0) for y, m in zip(chosen, self._options, strict=True)]
        ways = self._transfer_scores(transfer)
        ways = [straight_through(way + g, tau) for way, g in zip(ways, gumbel_noise(transfer, generator), strict=True)]
        return self._shifted(masks, ways)

    def _draw_uniformly(self, generator: torch.Generator) -> Tensor:
        """Uniform over all masks that choices and shifts can lead to, whatever the logits."""
        keeps = list(self.keeps)
        for p, (j, h) in enumerate(self.pairs):
            splits = self._splits(p)
            ways = [float(self._mask_count(j, n_j) * self._mask_count(h, n_h)) for n_j, n_h in splits]
            way = torch.multinomial(torch.tensor(ways, dtype=torch.float64), 1, generator=generator)
            keeps[j], keeps[h] = splits[int(way)]
        masks = []
        for keep, kept, dropped in zip(keeps, self._kept, self._dropped, strict=True):
            order = torch.rand(len(kept), generator=generator).masked_fill(kept, 2.0).masked_fill(dropped, -1.0)
            masks.append(torch.zeros(len(kept)).scatter(0, order.argsort(descending=True)[:keep], 1.0))
        return torch.cat(masks).to(self.logits.dtype)

    def _scores(self, logits: Tensor) -> list[Tensor]:
        """The scores of each block's masks."""
        return list((self.scale * logits).split(self._rows))

    def _transfer_scores(self, transfer: Tensor) -> list[Tensor]:
        """The scores of each pair's three ways, -inf where a block could not give or take."""
        impossible = ~torch.tensor(self._possible, dtype=torch.bool, device=transfer.device).reshape(transfer.shape)
        return list((self.scale * transfer).masked_fill(impossible, -math.inf))

    def _shifted(self, masks: Sequence[Tensor], ways: Sequence[Tensor]) -> Tensor:
        """(N,) mask of the blocks' masks and the pairs' one-hot ways."""
        stacks, shifted = self._stacks(masks), list(masks)
        for (j, h), way in zip(self.pairs, ways, strict=True):
            shifted[j] = (way[:, None] * stacks[j]).sum(0)
            shifted[h] = (way.flip(0)[:, None] * stacks[h]).sum(0)
        return torch.cat(shifted)

    def _stacks(self, masks: Sequence[Tensor]) -> list[Tensor]:
        """For each block its (..., size) masks after giving, as they are, and after taking: (3, ..., size)."""
        stacks = []
        for j, (mask, priority) in enumerate(zip(masks, self._priorities(), strict=True)):
            gives = corrode(mask, priority, self.shift, self._kept[j]) if self._can_give(j) else mask
            takes = expand(mask, priority, self.shift, self._dropped[j]) if self._can_take(j) else mask
            stacks.append(torch.stack([gives, mask, takes]))
        return stacks

    @torch.no_grad()
    def _priorities(self) -> list[Tensor]:
        """Marginals of each block's own choice, rounded so that equal ones tie whatever the order of the sum."""
        scores = self._scores(self.logits.detach().cpu().double())
        return [
            (score.softmax(0)[:, None] * masks).sum(0).round(decimals=9)
            for score, masks in zip(scores, self._options, strict=True)
        ]

    def _can_give(self, j: int) -> bool:
        return self.keeps[j] - self.shift >= max(self.min_keep, int(self._kept[j].sum()))

    def _can_take(self, j: int) -> bool:
        return self.keeps[j] + self.shift <= self.sizes[j] - int(self._dropped[j].sum())

    def _can_shift(self, j: int, h: int, way: int) -> bool:
        """Whether block j can take from block h (way 1), or give to it (way -1)."""
        giver, taker = (h, j) if way > 0 else (j, h)
        return way == 0 or (self._can_give(giver) and self._can_take(taker))

    def _splits(self, pair: int) -> list[tuple[int, int]]:
        """How many groups the two blocks of a pair can keep."""
        (j, h), possible = self.pairs[pair], self._possible[pair]
        shifts = [way * self.shift for way, can in zip((-1, 0, 1), possible, strict=True) if can]
        return [(self.keeps[j] + shift, self.keeps[h] - shift) for shift in shifts]

    def _mask_count(self, j: int, keep: int) -> int:
        kept, dropped = int(self._kept[j].sum()), int(self._dropped[j].sum())
        return math.comb(self.sizes[j] - kept - dropped, keep - kept)

    def _block_cost_range(self, j: int, keep: int, costs: Tensor) -> tuple[float, float]:
        forced, free = costs[self._kept[j]], costs[~(self._kept[j] | self._dropped[j])].sort().values
        count, base = keep - len(forced), float(forced.sum())
        return base + float(free[:count].sum()), base + float(free[len(free) - count :].sum())

    def _single_blocks(self) -> list[int]:
        return [j for j in range(len(self.sizes)) if not any(j in pair for pair in self.pairs)]

    def _places(self, blocks: Sequence[int]) -> list[int]:
        """Where each group stands in a mask that has the blocks in another order."""
        starts = dict(zip(blocks, itertools.accumulate((self.sizes[j] for j in blocks), initial=0), strict=False))
        return [starts[j] + i for j, size in enumerate(self.sizes) for i in range(size)]


class BernoulliSampler(MaskSampler):
    """Each group on its own: binary concrete. How many groups stay is random, so it needs `budget_loss`.

    At first every group stays with probability K/N, K the most groups that fit the tightest budget. The decision is the
    best mask of `feasible_masks`.

    Source: Maddison et al. (arXiv 1611.00712), Jang et al. (arXiv 1611.01144).
    """

    def __init__(
        self, number: int, resources: Sequence[Resource], *, seed: int, scale: float = 1.0,
        force_keep: Sequence[int] = (), force_drop: Sequence[int] = (),
    ) -> None:  # fmt: skip
        super().__init__(torch.eye(number), seed=seed, scale=scale)
        self.resources = _limited(resources)
        self.force_keep, self.force_drop = list(force_keep), list(force_drop)
        self._kept = torch.tensor([i in force_keep for i in range(number)])
        self._free = torch.tensor([i not in force_keep and i not in force_drop for i in range(number)])
        self._masks = None
        if number <= MAX_ENUMERATED:
            self._masks = feasible_masks(number, self.resources, force_keep, force_drop)
        elif best_mask([0.0] * number, self.resources, force_keep, force_drop) is None:
            raise ValueError(infeasible_text(self.resources, max(1, len(force_keep)), force_keep, force_drop))
        free = max(1, int(self._free.sum()))
        share = min(max((self._most_groups() - len(force_keep)) / free, 0.5 / free), 1 - 0.5 / free)
        self.logits = nn.Parameter(torch.full((number,), math.log(share / (1 - share)) / scale))

    def mode(self) -> Tensor:
        """The mask of `feasible_masks` with the largest sum of logits, (N,) int64; of equal ones the first.

        Among all masks within the budget that would be the empty one while no group is kept more often than not.
        """
        if self._masks is None:
            values = self.logits.tolist()
            mask = torch.tensor(best_mask(values, self.resources, self.force_keep, self.force_drop))
        else:
            mask = self._masks[self._mask_scores(self._masks).argmax()]
        return mask.to(self.choices.device)

    def marginals(self) -> Tensor:
        """(N,) probabilities of keeping each group, differentiable."""
        return self._forced((self.scale * self.logits).sigmoid())

    def entropy(self) -> Tensor:
        """Entropy of the masks in nats, differentiable."""
        pi = self.marginals()
        return (torch.special.entr(pi) + torch.special.entr(1 - pi)).sum()

    def ranking(self, k: int) -> Ranking:
        """The k masks within the budget that are drawn most often; only the decision of more than 16 groups."""
        masks = self.mode()[None].cpu() if self._masks is None else self._masks
        masks = masks[self._mask_scores(masks).sort(descending=True, stable=True).indices[:k]]
        pi = self.marginals().detach().cpu().double()
        p = torch.where(masks == 1, pi, 1 - pi).prod(1)
        return [(tuple(mask), value) for mask, value in zip(masks.tolist(), p.tolist(), strict=True)]

    @torch.no_grad()
    def constrain_(self) -> None:
        """Clamp to +-`MAX_LOGIT`."""
        self.logits.clamp_(-MAX_LOGIT, MAX_LOGIT)

    def _draw(self, generator: torch.Generator, tau: float) -> Tensor:
        u = torch.rand(self.number, generator=generator).clamp_min(1e-9)  # below 1 by itself
        logits = self.logits.cpu()
        scores = self.scale * logits + (u.log() - (-u).log1p()).to(logits.dtype)
        soft = (scores / tau).sigmoid()
        return self._forced((scores > 0).to(soft) + (soft - soft.detach()))

    def _draw_uniformly(self, generator: torch.Generator) -> Tensor:
        """Uniform over `feasible_masks`; of many groups, they are kept in random order as long as they fit."""
        if self._masks is not None:
            return self._masks[torch.randint(len(self._masks), (), generator=generator)].to(self.logits.dtype)
        mask = self._kept.long()
        for i in torch.randperm(self.number, generator=generator).tolist():
            tried = mask | F.one_hot(torch.tensor(i), self.number)
            if self._free[i] and all(r.fits(r.total(tried)) for r in self.resources):
                mask = tried
        return mask.to(self.logits.dtype)

    def _mask_scores(self, masks: Tensor) -> Tensor:
        """(M,) sums of logits, rounded so that equal ones tie whatever the order of the sum."""
        return (masks * self.logits.detach().cpu().double()).sum(1).round(decimals=9)

    def _forced(self, values: Tensor) -> Tensor:
        return torch.where(self._free.to(values.device), values, self._kept.to(values))

    def _most_groups(self) -> int:
        counts = range(self.number - len(self.force_drop), 0, -1)
        fitting = (
            n for n in counts if all(r.fits(r.minimum(n, self.force_keep, self.force_drop)) for r in self.resources)
        )
        return next(fitting)


class FixedSampler(MaskSampler):
    """Always the same mask, so that random, uniform and hand-made masks run through the same code.

    Args:
        mask: (N,) of 0 and 1.
    """

    def __init__(self, mask: Tensor) -> None:
        super().__init__(mask[None], seed=0)

    def mode(self) -> Tensor:
        """The mask, (N,) int64."""
        return self.choices[0].long()

    def marginals(self) -> Tensor:
        """The mask, (N,) float."""
        return self.choices[0].float()

    def entropy(self) -> Tensor:
        """0."""
        return torch.zeros((), device=self.choices.device)

    def ranking(self, k: int) -> Ranking:
        """The mask, with probability 1."""
        return [(tuple(self.mode().tolist()), 1.0)][:k]

    def _draw(self, generator: torch.Generator, tau: float) -> Tensor:
        return self.marginals()

    def _draw_uniformly(self, generator: torch.Generator) -> Tensor:
        return self.marginals()


def build_sampler(
    prune: PruneOptions, number: int, resources: Sequence[Resource], mode: BudgetMode = "hard"
) -> MaskSampler:
    """The sampler that `prune` describes, for a network of `number` groups.

    Args:
        mode: hard: refuse patterns (nm) that reach masks beyond the budget. `subset` and `fixed` always stay within it,
            `bernoulli` only in its decision.

    Raises:
        ValueError: when the options do not fit the network or each other, or no mask fits the budget.
    """
    keep, drop = prune.force_keep, prune.force_drop
    common: dict[str, Any] = {"seed": prune.mask_seed, "scale": prune.logit_scale}
    check_forced(number, keep, drop)
    searches = prune.sampler in ("subset", "bernoulli")  # the others drop groups without a budget
    if all(r.fits(r.full) for r in resources) and (searches or _limited(resources)):
        logger.warning("budget: the full network fits, so there is nothing to prune; lower a limit")
    if prune.sampler == "fixed":
        return FixedSampler(_checked_fixed_mask(prune, number, resources))
    if prune.sampler == "bernoulli":
        return BernoulliSampler(number, resources, force_keep=keep, force_drop=drop, **common)
    if prune.sampler == "subset":
        masks = feasible_masks(number, resources, keep, drop)
        return SubsetSampler(masks, init=prune.logit_init, per_block=prune.logits == "per_block", **common)
    sampler = NMSampler(
        _checked_patterns(prune, number, resources), init=prune.logit_init, pairs=_checked_pairs(prune),
        shift=prune.inter_block.k, min_keep=prune.min_keep_per_block, force_keep=keep, force_drop=drop, **common,
    )  # fmt: skip
    _check_reachable(sampler, prune, resources, mode)
    return sampler


def feasible_masks(
    number: int, resources: Sequence[Resource], force_keep: Sequence[int] = (), force_drop: Sequence[int] = ()
) -> Tensor:
    """All maximal masks within every limit: none of them could keep another group. At least one group is kept.

    Returns:
        (M, N) int64, in descending order as binary numbers whose first digit is group 0; masks of equally many groups
        so are in lexicographic order of their kept groups, (0, 1, 2) first.

    Raises:
        ValueError: when no mask fits, or more than `MAX_MASKS` do.
    """
    limited = _limited(resources)
    free = [i for i in range(number) if i not in force_drop]
    tails = [[sum(r.groups[j] for j in free if j >= i) for i in range(number + 1)] for r in limited]
    masks: list[list[int]] = []  # indices of their groups

    def visit(i: int, kept: list[int], dropped: list[int], costs: list[float]) -> None:
        """Decide about group `i` and all after it, with those before it kept at `costs` or dropped."""
        most = [cost + tail[i] for cost, tail in zip(costs, tails, strict=True)]
        if any(all(r.fits(m + r.groups[j]) for r, m in zip(limited, most, strict=True)) for j in dropped):
            return  # whatever follows, group j would still fit
        if i == number:
            masks.append(kept)
            if len(masks) > MAX_MASKS:
                raise ValueError(
                    f"prune.sampler: subset needs a logit for each mask, and more than {MAX_MASKS:,} masks of {number} "
                    "groups fit the budget; use sampler nm or bernoulli"
                )
            return
        added = [cost + r.groups[i] for cost, r in zip(costs, limited, strict=True)]
        if i in free and all(r.fits(cost) for r, cost in zip(limited, added, strict=True)):
            visit(i + 1, [*kept, i], dropped, added)
        if i not in force_keep:
            visit(i + 1, kept, [*dropped, i] if i in free else dropped, costs)

    visit(0, [], [], [r.fixed for r in limited])
    if not any(masks):
        raise ValueError(infeasible_text(limited, max(1, len(force_keep)), force_keep, force_drop))
    return torch.tensor([[int(i in kept) for i in range(number)] for kept in masks])


def uniform_mask(number: int, keep: int) -> tuple[int, ...]:
    """`keep` of `number` groups, evenly spread from the first to the last: 8, 3 keeps groups 0, 4 and 7.

    Raises:
        ValueError: when `keep` is not in 1 .. `number`.
    """
    if not 1 <= keep <= number:
        raise ValueError(f"keep: must be in 1..{number}, got {keep}")
    step = (number - 1) / (keep - 1) if keep > 1 else 0.0
    kept = {int(j * step + 0.5) for j in range(keep)}
    return tuple(int(i in kept) for i in range(number))


def best_mask(
    values: Sequence[float], resources: Sequence[Resource], force_keep: Sequence[int] = (),
    force_drop: Sequence[int] = (),
) -> tuple[int, ...] | None:  # fmt: skip
    """The mask of `feasible_masks` with the largest sum of values, exact for any number of groups; None: none fits.

    Branch and bound over the groups in descending order of value. A branch ends when even the best groups of the
    numbers that can still follow, from the fewest that leave no room to the most that fit, do not beat the best mask.
    """
    limited, number = _limited(resources), len(values)
    free = [i for i in range(number) if i not in force_keep and i not in force_drop]
    order = sorted(free, key=lambda i: -values[i])
    tails = [[sorted(r.groups[i] for i in order[depth:]) for depth in range(len(order) + 1)] for r in limited]
    best, found = -math.inf, None

    def counts(depth: int, costs: Sequence[float], dropped: Sequence[int]) -> tuple[int, int]:
        """The fewest and the most groups that can follow."""
        fewest = most = len(order) - depth
        for r, cost, tail in zip(limited, costs, tails, strict=True):
            sums = itertools.accumulate(tail[depth], initial=cost)
            most = min(most, sum(r.fits(total) for total in sums) - 1)
            largest = max([r.groups[i] for i in dropped] + tail[depth][-1:], default=0.0)
            sums = itertools.accumulate(reversed(tail[depth]), initial=cost)
            fewest = min(fewest, next((n for n, total in enumerate(sums) if not r.fits(total + largest)), fewest))
        return fewest, most

    def visit(depth: int, kept: list[int], costs: list[float], value: float) -> None:
        """Decide about `order[depth]` and all after it, with `kept` of those before it, worth `value`."""
        nonlocal best, found
        rest, dropped = order[depth:], [i for i in order[:depth] if i not in kept]
        totals = [cost + sum(tail[depth]) for cost, tail in zip(costs, tails, strict=True)]
        if any(all(r.fits(t + r.groups[i]) for r, t in zip(limited, totals, strict=True)) for i in dropped):
            return  # whatever follows, group i would still fit
        fewest, most = counts(depth, costs, dropped)
        count = min(max(fewest, sum(values[i] > 0 for i in rest)), most)
        if fewest > most or value + sum(values[i] for i in rest[:count]) <= best:
            return
        if not rest:
            best, found = value, kept
            return
        i = rest[0]
        added = [cost + r.groups[i] for cost, r in zip(costs, limited, strict=True)]
        if all(r.fits(cost) for r, cost in zip(limited, added, strict=True)):
            visit(depth + 1, [*kept, i], added, value + values[i])
        visit(depth + 1, kept, costs, value)

    costs = [r.total([int(i in force_keep) for i in range(number)]) for r in limited]
    if all(r.fits(cost) for r, cost in zip(limited, costs, strict=True)):
        visit(0, [], costs, 0.0)
    if found is None or not (found or force_keep):
        return None
    return tuple(int(i in found or i in force_keep) for i in range(number))


def budget_loss(
    sampler: MaskSampler, resources: Sequence[Resource], weights: Mapping[str, float], two_sided: bool
) -> Tensor:
    """Squared distance of the expected costs from their limits, in parts of the full network's, weighted and added up.

    Args:
        weights: factor by the name of each limited resource.
        two_sided: costs below a limit count too, so that the budget is used.
    """
    loss = torch.zeros((), device=sampler.choices.device)
    for resource in resources:
        if resource.limit is None:
            continue
        excess = (sampler.expected_cost(resource) - resource.limit) / resource.full
        loss = loss + weights[resource.name] * (excess if two_sided else excess.clamp_min(0)).square()
    return loss


class DualWeights:
    """Weights of `budget_loss` that grow while a budget is exceeded: dual ascent.

    Args:
        values: initial weight by the name of each limited resource.
    """

    def __init__(self, values: Mapping[str, float], dual: DualOptions) -> None:
        self.values = {name: float(value) for name, value in values.items()}
        self.dual = dual

    def step(self, costs: Mapping[str, tuple[float, float | None]]) -> None:
        """Move each weight by `eta` times the part by which the expected cost exceeds the limit; within [0, max].

        Args:
            costs: (expected cost, limit) by resource; others than those with a weight are passed over.
        """
        for name, value in self.values.items():
            cost, limit = costs[name]
            if limit is not None:
                self.values[name] = min(max(value + self.dual.eta * (cost / limit - 1), 0.0), self.dual.max)

    def state_dict(self) -> dict[str, float]:
        """The weights by resource."""
        return dict(self.values)

    def load_state_dict(self, state: Mapping[str, float]) -> None:
        """Take over the weights of an interrupted run.

        Raises:
            ValueError: when it limited other resources.
        """
        if set(state) != set(self.values):
            raise ValueError(f"budget: the saved run limits {sorted(state)}, this run limits {sorted(self.values)}")
        self.values = {name: float(state[name]) for name in self.values}


def expand(mask: Tensor, priority: Tensor, count: int, barred: Tensor) -> Tensor:
    """`mask` with the `count` inactive groups of highest priority added; of equal ones those of lower index.

    Args:
        barred: groups that are never added, bool.

    Shape:
        mask: (..., n), 0 and 1 in value. priority, barred: (n,). output: as `mask`, with its gradient.
    """
    candidates = priority.expand(mask.shape).masked_fill((mask.detach() > 0.5) | barred, -math.inf)
    chosen = candidates.sort(stable=True, dim=-1, descending=True).indices[..., :count]
    added = torch.zeros_like(mask).scatter(-1, chosen, 1.0)
    return mask + added - mask * added


def corrode(mask: Tensor, priority: Tensor, count: int, held: Tensor) -> Tensor:
    """`mask` without the `count` active groups of lowest priority; of equal ones those of lower index go.

    Args:
        held: groups that are never dropped, bool.

    Shape:
        see `expand`.
    """
    candidates = priority.expand(mask.shape).masked_fill((mask.detach() < 0.5) | held, math.inf)
    chosen = candidates.sort(stable=True, dim=-1).indices[..., :count]
    return mask * (1 - torch.zeros_like(mask).scatter(-1, chosen, 1.0))


def gumbel_noise(like: Tensor, generator: torch.Generator) -> Tensor:
    """Standard Gumbel noise, drawn in float32 whatever the type of `like`."""
    u = torch.rand(like.shape, generator=generator).clamp_min(1e-9)  # below 1 by itself
    return -(-u.log()).log().to(like.dtype)


def straight_through(scores: Tensor, tau: float) -> Tensor:
    """The one-hot choice of the largest score, with the gradient of softmax(scores / tau)."""
    soft = (scores / tau).softmax(-1)
    hard = F.one_hot(scores.argmax(-1), scores.shape[-1]).to(soft)
    return hard + (soft - soft.detach())  # the parentheses keep the value exactly 0 or 1


def check_forced(number: int, force_keep: Sequence[int], force_drop: Sequence[int]) -> None:
    """Refuse forced groups that do not exist or are forced both ways."""
    for key, groups in (("force_keep", force_keep), ("force_drop", force_drop)):
        if wrong := [i for i in groups if not 0 <= i < number]:
            raise ValueError(f"prune.{key}: the network has groups 0..{number - 1}, got {wrong}")
        if len(set(groups)) < len(groups):
            raise ValueError(f"prune.{key}: names a group twice, got {list(groups)}")
    if both := sorted(set(force_keep) & set(force_drop)):
        raise ValueError(f"prune.force_keep: groups {both} are in prune.force_drop too; keep them in one")
    if len(force_drop) == number:
        raise ValueError(f"prune.force_drop: drops all {number} groups; leave at least one")


def infeasible_text(
    limited: Sequence[Resource], count: int, force_keep: Sequence[int] = (), force_drop: Sequence[int] = ()
) -> str:
    """What to say when `count` groups do not fit: what each limited resource needs at least, and what is allowed."""
    blocks = f"{count} block{'s' if count > 1 else ''}"
    needs = [
        f"budget.{r.name}: {r.text(r.minimum(count, force_keep, force_drop))} needed for {blocks}"
        f"{' and the fixed part' if r.fixed else ''}, {r.text(r.limit or 0)} allowed"
        for r in limited
    ]
    forced = f" with prune.force_keep {list(force_keep)}" if force_keep else ""
    return f"budget: no mask{forced} fits all limits; {'; '.join(needs)}; raise the limits that are too low"


def _limited(resources: Sequence[Resource]) -> list[Resource]:
    return [r for r in resources if r.limit is not None]


def _block_masks(keep: int, kept: Tensor, dropped: Tensor) -> Tensor:
    """(rows, n) masks of `keep` of n groups, among them all `kept` and none of `dropped`; (0, 1, ..) first."""
    masks = [[int(i in chosen) for i in range(len(kept))] for chosen in itertools.combinations(range(len(kept)), keep)]
    table = torch.tensor(masks).reshape(len(masks), len(kept))
    return table[(table[:, kept] == 1).all(1) & (table[:, dropped] == 0).all(1)]


def _distribution(masks: Iterable[Sequence[int]], p: Iterable[float]) -> Iterable[tuple[tuple[int, ...], float]]:
    """Each mask once, with the sum of its probabilities."""
    sums: Counter[tuple[int, ...]] = Counter()
    for mask, value in zip(masks, p, strict=True):
        sums[tuple(mask)] += value  # type: ignore[assignment]
    return sums.items()


def _best(masks: Iterable[tuple[tuple[int, ...], float]], k: int) -> Ranking:
    """The k most probable; of equal ones, but for rounding, the first as binary numbers in descending order."""
    return sorted(masks, key=lambda item: (-round(item[1], 9), [-bit for bit in item[0]]))[:k]


def _product(first: Ranking, second: Ranking, k: int) -> Ranking:
    """The k most probable masks of two independent parts, one after the other."""
    return _best(((a + b, p * q) for a, p in first for b, q in second), k)


def _checked_patterns(prune: PruneOptions, number: int, resources: Sequence[Resource]) -> list[tuple[int, int]]:
    patterns = [(keep, size) for keep, size in prune.patterns or []]
    text = f"prune.patterns: {[list(pattern) for pattern in patterns]}"
    total, sizes = sum(keep for keep, _ in patterns), sum(size for _, size in patterns)
    if wrong := [[keep, size] for keep, size in patterns if not 0 <= keep <= size or size < 1]:
        raise ValueError(f"{text} must be [keep, size] with 0 <= keep <= size, got {wrong}")
    if sizes != number:
        raise ValueError(f"{text} has sizes that add up to {sizes}, but the network has {number} groups")
    if not total:
        raise ValueError(f"{text} keeps none of {number} groups; keep at least one")
    blocks = next((r.limit for r in resources if r.name == "blocks"), None)
    if blocks not in (None, total):
        raise ValueError(f"{text} keeps {total} of {number} groups, but budget.blocks is {blocks:.0f}; make them equal")
    start = 0
    for keep, size in patterns:
        block = range(start, start := start + size)
        kept, dropped = [i for i in prune.force_keep if i in block], [i for i in prune.force_drop if i in block]
        if len(kept) > keep or size - len(dropped) < keep:
            raise ValueError(
                f"{text} keeps {keep} of groups {block[0]}..{block[-1]}, which prune.force_keep {kept} and "
                f"prune.force_drop {dropped} do not allow"
            )
        if keep < prune.min_keep_per_block:
            raise ValueError(
                f"{text} keeps {keep} of groups {block[0]}..{block[-1]}, but prune.min_keep_per_block is "
                f"{prune.min_keep_per_block}"
            )
        if math.comb(size, keep) > MAX_MASKS:
            raise ValueError(f"{text} has over {MAX_MASKS:,} masks for [{keep}, {size}]; make the local blocks smaller")
    return patterns


def _checked_pairs(prune: PruneOptions) -> list[tuple[int, int]]:
    blocks, pairs = len(prune.patterns or []), prune.inter_block.pairs
    if not prune.inter_block.enable:
        return []
    if pairs == "chain":
        return [(j, j + 1) for j in range(0, blocks - 1, 2)]
    named = [j for pair in pairs for j in pair]
    if any(not 0 <= j < blocks for j in named) or len(set(named)) < len(named):
        raise ValueError(
            f"prune.inter_block.pairs: must name local blocks 0..{blocks - 1}, each in one pair at most, got "
            f"{[list(pair) for pair in pairs]}"
        )
    return [(j, h) for j, h in pairs]


def _check_reachable(sampler: NMSampler, prune: PruneOptions, resources: Sequence[Resource], mode: BudgetMode) -> None:
    ranges = [(r, *sampler.cost_range(r)) for r in _limited(resources)]
    over = [(r, low) for r, low, _ in ranges if not r.fits(low)]
    way_out = "choose patterns that keep fewer groups, or raise the limit"
    if not over and mode == "hard":
        over = [(r, high) for r, _, high in ranges if not r.fits(high)]
        way_out = "some masks do; choose other patterns, raise the limit, or set budget.mode: loss"
    if over:
        costs = "; ".join(f"budget.{r.name}: {r.text(c)} needed, {r.text(r.limit or 0)} allowed" for r, c in over)
        patterns = [list(pattern) for pattern in prune.patterns or []]
        raise ValueError(f"prune.patterns: {patterns} exceeds the budget; {costs}; {way_out}")


def _checked_fixed_mask(prune: PruneOptions, number: int, resources: Sequence[Resource]) -> Tensor:
    mask = prune.fixed_mask or []
    if len(mask) != number:
        raise ValueError(f"prune.fixed_mask: the network has {number} groups, got {len(mask)} numbers, {mask}")
    if set(mask) - {0, 1}:
        raise ValueError(f"prune.fixed_mask: must be {number} numbers 0 or 1, got {mask}")
    if not any(mask):
        raise ValueError(f"prune.fixed_mask: drops all {number} groups, got {mask}; keep at least one")
    if wrong := [i for i in prune.force_keep if not mask[i]] + [i for i in prune.force_drop if mask[i]]:
        raise ValueError(f"prune.fixed_mask: contradicts prune.force_keep or prune.force_drop at groups {wrong}")
    over = [r for r in _limited(resources) if not r.fits(r.total(mask))]
    if over:
        costs = "; ".join(f"budget.{r.name}: {r.text(r.total(mask))}, {r.text(r.limit or 0)} allowed" for r in over)
        raise ValueError(f"prune.fixed_mask: {mask} exceeds the budget; {costs}")
    return torch.tensor(mask)


def _size(tensor: Tensor) -> str:
    if tensor.ndim == 2:
        return f"{len(tensor)} choices of {tensor.shape[1]} groups"
    return f"{'x'.join(map(str, tensor.shape))} logits"
