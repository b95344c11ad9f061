"""N:M masks with inter-block activation (TinySR): local blocks choose masks, pairs of blocks shift groups."""

import itertools
import math
from collections import Counter
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from basicsr.pruning.samplers.base import MAX_LOGIT, Mask, MaskSampler, Ranking
from basicsr.pruning.samplers.draws import gumbel_noise, straight_through
from basicsr.pruning.samplers.local_blocks import LocalBlocks


class NMSampler(MaskSampler):
    """Sampler of N:M masks: each local block of neighbouring groups keeps a fixed number; pairs may shift groups.

    Each block chooses among its masks by a softmax. Each pair (j, h) then chooses, by a softmax of 3, to shift `shift`
    groups from j to h, none, or from h to j: the receiver adds its most probable inactive groups (`expand`), the giver
    drops its least probable active ones (`corrode`), by the marginals of the blocks' own choices. Ways that a block
    cannot take are excluded from the choice. The number of kept groups never changes.

    Args:
        patterns: (keep, size) of each local block.
        seed, scale: see `MaskSampler`.
        init: initial value of all logits.
        pairs, shift, min_keep, force_keep, force_drop: see `LocalBlocks`.

    Source: TinySR, dynamic inter-block activation and expansion-corrosion.

    Note:
        Not the clamped products of TinySR's code, which stop the gradient where both masks are 1.
    """

    def __init__(
        self,
        patterns: Sequence[tuple[int, int]],
        *,
        seed: int,
        scale: float = 1.0,
        init: float = 0.02,
        pairs: Sequence[tuple[int, int]] = (),
        shift: int = 1,
        min_keep: int = 0,
        force_keep: Sequence[int] = (),
        force_drop: Sequence[int] = (),
    ) -> None:
        blocks = LocalBlocks(patterns, pairs, shift, min_keep, force_keep, force_drop)
        super().__init__(torch.block_diag(*blocks.masks), seed=seed, scale=scale)
        self.blocks = blocks
        self._rows = [len(masks) for masks in blocks.masks]
        self.logits = nn.Parameter(torch.full((sum(self._rows),), init))
        transfer = torch.full((len(blocks.pairs), 3), init)
        self.transfer = nn.Parameter(transfer) if pairs else transfer

    def mode(self) -> Tensor:
        """Return the most probable mask of each block, shifted in the most probable way of each pair; (N,) int64."""
        scores = self._scores(self.logits.cpu())
        masks = [masks[score.argmax()] for masks, score in zip(self.blocks.masks, scores, strict=True)]
        ways = [F.one_hot(score.argmax(), 3) for score in self._transfer_scores(self.transfer.cpu())]
        return self._shifted([mask.float() for mask in masks], ways).long().to(self.choices.device)

    def marginals(self) -> Tensor:
        """Return the (N,) probabilities of keeping each group, shifts included.

        Differentiable, except for the choice of the groups that a shift adds or drops.
        """
        chosen = [scores.softmax(0) for scores in self._scores(self.logits)]
        stay = chosen[0].new_tensor([0.0, 1.0, 0.0])
        ways = dict.fromkeys(range(len(chosen)), stay)
        for (j, h), scores in zip(self.blocks.pairs, self._transfer_scores(self.transfer), strict=True):
            ways[j], ways[h] = scores.softmax(0), scores.softmax(0).flip(0)
        return torch.cat(
            [
                (ways[j][:, None, None] * chosen[j][:, None] * stack.to(chosen[j])).sum((0, 1))
                for j, stack in enumerate(self._stacks())
            ]
        )

    def entropy(self) -> Tensor:
        """Return the entropy in nats of the choices of blocks and pairs, differentiable."""
        scores = [*self._scores(self.logits), *self._transfer_scores(self.transfer)]
        return torch.stack([torch.special.entr(choice.softmax(0)).sum() for choice in scores]).sum()

    @torch.no_grad()
    def ranking(self, k: int) -> Ranking:
        """Return the k most probable masks, best first; equal ones in descending order as binary numbers.

        The first can differ from `mode()`: several choices can lead to one mask, whose probabilities add up.
        """
        chosen = [scores.softmax(0).cpu() for scores in self._scores(self.logits)]
        best: list[list[Ranking]] = [
            [_top(_summed(masks.long().tolist(), p.tolist()), k) for masks in stack]
            for stack, p in zip(self._stacks(), chosen, strict=True)
        ]
        units: list[tuple[list[int], Ranking]] = [([j], best[j][1]) for j in self.blocks.single_blocks]
        for (j, h), scores in zip(self.blocks.pairs, self._transfer_scores(self.transfer), strict=True):
            ways = [
                [(mask, p * q) for mask, p in _top_products(best[j][way], best[h][2 - way], k)]
                for way, q in enumerate(scores.softmax(0).tolist())
                if q > 0
            ]
            units.append(([j, h], _top(itertools.chain(*ways), k)))
        found: Ranking = [((), 1.0)]
        for _, unit in units:
            found = _top_products(found, unit, k)
        place = self.blocks.places([j for blocks, _ in units for j in blocks])
        return _top(((tuple(mask[i] for i in place), p) for mask, p in found), k)

    @torch.no_grad()
    def constrain_(self) -> None:
        """Subtract the mean of each choice, which changes no probability, and clamp to +-`MAX_LOGIT`."""
        for choice in (*self.logits.split(self._rows), *self.transfer):
            choice.sub_(choice.mean())
        self.logits.clamp_(-MAX_LOGIT, MAX_LOGIT)
        self.transfer.clamp_(-MAX_LOGIT, MAX_LOGIT)

    def _draw(self, generator: torch.Generator, tau: float) -> Tensor:
        logits, transfer = self.logits.cpu(), self.transfer.cpu()
        noise = gumbel_noise(logits, generator).split(self._rows)
        scores = [score + g for score, g in zip(self._scores(logits), noise, strict=True)]
        chosen = [straight_through(score, tau) for score in scores]
        masks = [(y[:, None] * m.to(y)).sum(0) for y, m in zip(chosen, self.blocks.masks, strict=True)]
        ways = self._transfer_scores(transfer)
        ways = [straight_through(way + g, tau) for way, g in zip(ways, gumbel_noise(transfer, generator), strict=True)]
        return self._shifted(masks, ways)

    def _draw_uniformly(self, generator: torch.Generator) -> Tensor:
        return self.blocks.draw_uniformly(generator).to(self.logits.dtype)

    def _scores(self, logits: Tensor) -> list[Tensor]:
        """Return the scaled logits of each block's masks."""
        return list((self.scale * logits).split(self._rows))

    def _transfer_scores(self, transfer: Tensor) -> list[Tensor]:
        """Return the scaled logits of each pair's three ways, -inf for a way that is impossible."""
        possible = torch.tensor(self.blocks.possible_ways, dtype=torch.bool, device=transfer.device)
        return list((self.scale * transfer).masked_fill(~possible.reshape(transfer.shape), -math.inf))

    def _shifted(self, masks: Sequence[Tensor], ways: Sequence[Tensor]) -> Tensor:
        """Return the (N,) mask made of the blocks' masks and the pairs' one-hot ways."""
        stacks, shifted = self.blocks.shifted_masks(masks, self._priorities()), list(masks)
        for (j, h), way in zip(self.blocks.pairs, ways, strict=True):
            shifted[j] = (way[:, None] * stacks[j]).sum(0)
            shifted[h] = (way.flip(0)[:, None] * stacks[h]).sum(0)
        return torch.cat(shifted)

    def _stacks(self) -> list[Tensor]:
        """Return (3, rows, size) for each block: all its masks after giving, unchanged, and after taking."""
        return self.blocks.shifted_masks([masks.float() for masks in self.blocks.masks], self._priorities())

    @torch.no_grad()
    def _priorities(self) -> list[Tensor]:
        """Return the marginals of each block's own choice, rounded so that equal ones tie in any order of addition."""
        scores = self._scores(self.logits.detach().cpu().double())
        return [
            (score.softmax(0)[:, None] * masks).sum(0).round(decimals=9)
            for score, masks in zip(scores, self.blocks.masks, strict=True)
        ]


def _summed(masks: Iterable[Sequence[int]], p: Iterable[float]) -> Iterable[tuple[Mask, float]]:
    """Return each mask once, with the sum of its probabilities."""
    sums: Counter[Mask] = Counter()
    for mask, value in zip(masks, p, strict=True):
        sums[tuple(mask)] += value  # type: ignore[assignment]
    return sums.items()


def _top(masks: Iterable[tuple[Mask, float]], k: int) -> Ranking:
    """Return the k most probable masks; ties (up to rounding) in descending order as binary numbers."""
    return sorted(masks, key=lambda item: (-round(item[1], 9), [-bit for bit in item[0]]))[:k]


def _top_products(first: Ranking, second: Ranking, k: int) -> Ranking:
    """Return the k most probable concatenated masks of two independent parts."""
    return _top(((a + b, p * q) for a, p in first for b, q in second), k)
