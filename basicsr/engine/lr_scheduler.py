"""The learning rate as a pure function of the iteration: no state to save; edited milestones count after a resume.

Iterations count from 1. The rates equal those of a PyTorch scheduler that steps once before every iteration but the
first, so the rate drops in iteration `milestone + 1`.
"""

import math
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

from basicsr.config.ranges import Iteration, Iterations, Positive, Rate, Weight
from basicsr.config.registry import SCHEDULER_REGISTRY

Schedule = Callable[[int, float], float]
"""(iteration >= 1, configured rate) -> rate of that iteration."""


def build_schedule(spec: Mapping[str, Any] | None) -> Schedule:
    """Return the schedule of a spec (`{type: MultiStepLR, milestones: [...]}`); None: a constant rate."""
    if spec is None:
        return lambda it, base_lr: base_lr
    arguments = {key: value for key, value in spec.items() if key != "type"}
    return SCHEDULER_REGISTRY.get(spec["type"])(**arguments)


def learning_rate(it: int, base_lr: float, schedule: Schedule, warmup_iter: int = -1) -> float:
    """Return the rate of iteration `it`: linear warm-up to the configured rate at `warmup_iter`, then the schedule.

    Args:
        it: from 1.
        base_lr: the configured rate.
        schedule: what `build_schedule` returned.
        warmup_iter: iterations of warm-up; 0 or -1: none.
    """
    return base_lr * it / warmup_iter if it < warmup_iter else schedule(it, base_lr)


@SCHEDULER_REGISTRY.register()
@dataclass(frozen=True, kw_only=True)
class MultiStepLR:
    """Multiply the rate by `gamma` after each milestone."""

    milestones: Sequence[Iterations]
    """iterations, ascending."""
    gamma: Positive = 0.1
    """factor at each milestone."""

    def __post_init__(self) -> None:
        _check_ascending("milestones", self.milestones, minimum=1)
        if self.gamma <= 0:
            raise ValueError(f"gamma: must be above 0, got {self.gamma}")

    def __call__(self, it: int, base_lr: float) -> float:
        """Return the rate of iteration `it`."""
        return base_lr * self.gamma ** bisect_right(self.milestones, it - 1)


@SCHEDULER_REGISTRY.register()
@dataclass(frozen=True, kw_only=True)
class MultiStepRestartLR(MultiStepLR):
    """`MultiStepLR` that, after iteration `restarts[k]`, starts again from `restart_weights[k]` times the rate."""

    restarts: Sequence[Iteration] = (0,)
    """iterations, ascending; before the first, the weight is 1."""
    restart_weights: Sequence[Weight] = (1,)
    """factor on the rate from each restart on."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_ascending("restarts", self.restarts, minimum=0)
        _check_same_length("restarts", self.restarts, self.restart_weights)

    def __call__(self, it: int, base_lr: float) -> float:
        """Return the rate of iteration `it`."""
        restart = bisect_right(self.restarts, it - 1) - 1
        if restart < 0:
            return super().__call__(it, base_lr)
        drops = bisect_right(self.milestones, it - 1) - bisect_right(self.milestones, self.restarts[restart])
        return base_lr * self.restart_weights[restart] * self.gamma**drops


@SCHEDULER_REGISTRY.register()
@dataclass(frozen=True, kw_only=True)
class CosineAnnealingRestartLR:
    """Half a cosine from `restart_weights[k] * rate` down to `eta_min` in each period; `eta_min` after the last.

    Source: Loshchilov and Hutter, "SGDR", ICLR 2017, eq. 5, with the weight on the amplitude.
    """

    periods: Sequence[Iterations]
    """iterations of each period."""
    restart_weights: Sequence[Weight] = (1,)
    """factor on the rate from each restart on."""
    eta_min: Rate = 0
    """the lowest rate, absolute."""

    def __post_init__(self) -> None:
        if not self.periods or min(self.periods) < 1:
            raise ValueError(f"periods: must be a list of numbers of iterations >= 1, got {list(self.periods)}")
        _check_same_length("periods", self.periods, self.restart_weights)
        if self.eta_min < 0:
            raise ValueError(f"eta_min: must be at least 0, got {self.eta_min}")

    def __call__(self, it: int, base_lr: float) -> float:
        """Return the rate of iteration `it`."""
        ends = list(accumulate(self.periods))
        done = min(it - 1, ends[-1])
        k = bisect_left(ends, done)  # the end of a period still belongs to it: eta_min is reached
        phase = 1 - (ends[k] - done) / self.periods[k]
        amplitude = self.restart_weights[k] * (base_lr - self.eta_min)
        return self.eta_min + amplitude * (1 + math.cos(math.pi * phase)) / 2


def _check_ascending(key: str, values: Sequence[int], minimum: int) -> None:
    if list(values) != sorted(values) or any(value < minimum for value in values):
        raise ValueError(f"{key}: must be iterations >= {minimum} in ascending order, got {list(values)}")


def _check_same_length(key: str, values: Sequence[int], weights: Sequence[float]) -> None:
    if len(values) != len(weights):
        raise ValueError(f"restart_weights: needs one number for each of the {len(values)} {key}, got {list(weights)}")
