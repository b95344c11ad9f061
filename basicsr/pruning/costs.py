"""Costs of the residual groups of a network: blocks, parameters, multiply-adds, measured latency."""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from statistics import median
from typing import Any, cast

import torch
from torch import Tensor, nn

from basicsr.archs.prunable import GroupInfo, Prunable, image_channels
from basicsr.config.pruning import BudgetOptions
from basicsr.engine.run import read_on_rank0_and_broadcast

logger = logging.getLogger("basicsr")

ROUNDING = 1e-9  # relative; a mask whose cost equals the limit fits, in any order of addition
WARMUP_RUNS = 2
ADDITIVITY_MASKS = 5
ADDITIVITY_TOLERANCE = 0.1  # largest relative error of the sum of groups for which a latency table is reliable
Bits = Sequence[int] | Tensor


@dataclass(frozen=True)
class Resource:
    """The cost of every group and of the rest of a network in one unit, and the limit for a compact network."""

    name: str
    """One of the limits in section `budget`: blocks, params, macs_g, latency_ms."""
    fixed: float
    """Cost without any group."""
    groups: tuple[float, ...]
    limit: float | None = None
    """None: no limit."""
    record: Mapping[str, Any] = field(default_factory=dict, compare=False)
    """Conditions of the measurement, for reports."""

    @property
    def full(self) -> float:
        """Cost of the network with all groups."""
        return self.fixed + sum(self.groups)

    def total(self, mask: Bits) -> float:
        """Return the cost with the groups that are 1 in `mask`."""
        return self.fixed + sum(cost for cost, bit in zip(self.groups, mask, strict=True) if bit)

    def fits(self, cost: float) -> bool:
        """Return whether `cost` is within the limit."""
        return self.limit is None or cost <= self.limit * (1 + ROUNDING)

    def minimum(self, count: int, force_keep: Sequence[int] = (), force_drop: Sequence[int] = ()) -> float:
        """Return the least cost of at least `count` groups, with all of `force_keep` and none of `force_drop`."""
        free = sorted(c for i, c in enumerate(self.groups) if i not in force_keep and i not in force_drop)
        return self.fixed + sum(self.groups[i] for i in force_keep) + sum(free[: max(0, count - len(force_keep))])

    def text(self, cost: float) -> str:
        """Return `cost` as text: 164,331 for parameters; 27.1 for G or ms."""
        return f"{cost:,.0f}" if self.name in ("blocks", "params") else f"{cost:.4g}"


def limited_resources(resources: Sequence[Resource]) -> list[Resource]:
    """Return the resources that have a limit."""
    return [r for r in resources if r.limit is not None]


def group_resources(
    net: nn.Module, budget: BudgetOptions, device: torch.device | str, measured: Mapping[str, Any] | None = None
) -> list[Resource]:
    """Return the costs of a prunable network: blocks, params, macs_g, and latency_ms (measured) if it is limited.

    Rank 0 measures for all processes, which call this together; else each would allow other masks.

    Args:
        net: implements the protocol of `basicsr/archs/prunable.py`, with the tail and the FFNs that it will have after
            the cut (see `in_form`); not changed.
        budget: section `budget` of the options.
        device: where the run trains; `latency_device: auto` measures there.
        measured: an earlier `latency_table` to use; None: measure now.

    Raises:
        ValueError: when `latency_device` is not on this machine.
    """
    resources, limit = counted_resources(net, budget), budget.limits.get("latency_ms")
    if limit is not None:
        number, where = len(resources[0].groups), _latency_device(budget, device)
        table = measured or read_on_rank0_and_broadcast(lambda: latency_table(net, number, budget.ref_size, where))
        resources.append(Resource("latency_ms", table["fixed_ms"], tuple(table["groups_ms"]), limit, record=table))
    return resources


def counted_resources(net: nn.Module, budget: BudgetOptions) -> list[Resource]:
    """Return those costs of a prunable network that are counted, not measured: blocks, params, macs_g."""
    groups, limits = cast(Prunable, net).prunable_groups(), budget.limits
    return [
        Resource("blocks", 0, (1,) * len(groups), limits.get("blocks")),
        parameter_resource(net, groups, limits.get("params")),
        multiply_add_resource(net, groups, budget.ref_size, limits.get("macs_g")),
    ]


def parameter_resource(net: nn.Module, groups: Sequence[GroupInfo], limit: float | None = None) -> Resource:
    """Return the numbers of parameters of each group, by name prefixes, and of the rest; buffers do not count."""
    counts = [0] * len(groups)
    fixed = 0
    for name, parameter in net.named_parameters():
        owner = next((j for j, group in enumerate(groups) if _belongs(name, group.prefixes)), None)
        if owner is None:
            fixed += parameter.numel()
        else:
            counts[owner] += parameter.numel()
    return Resource("params", fixed, tuple(counts), limit)


def multiply_add_resource(
    net: nn.Module, groups: Sequence[GroupInfo], size: tuple[int, int], limit: float | None = None
) -> Resource:
    """Return the multiply-adds in G of each group on a (height, width) input, attention included, and of the rest.

    Without a method `multiply_adds` of the network, the rest counts as 0, with a warning if there is a limit.
    """
    counts = tuple(sum(group.macs(*size)) / 1e9 for group in groups)
    whole = getattr(net, "multiply_adds", None)
    if whole is None and limit is not None:
        logger.warning("budget.macs_g: %s has no multiply_adds(), so only its groups count", type(net).__name__)
    fixed = max(0.0, sum(whole(*size)) / 1e9 - sum(counts)) if whole else 0.0
    return Resource("macs_g", fixed, counts, limit, record={"size": list(size), "fixed_known": whole is not None})


def latency_table(
    net: nn.Module, number: int, size: tuple[int, int], device: torch.device | str, runs: int = 10
) -> dict[str, Any]:
    """Return the median latencies in ms of each group and of the rest, and the error of their sum.

    The latency of a group is the mean of two differences: adding it to the empty network, and removing it from the
    full one. The masks are timed in turn, so that a slow phase of the machine affects all of them.

    Args:
        net: the network; not changed.
        number: groups of the network.
        size: (height, width) of the input.
        device: to measure on.
        runs: timed forwards of each mask.

    Returns:
        A plain dict for reports: fixed_ms, groups_ms, full_ms, additivity_error (largest relative error of the sum on
        random masks), device, device_name, dtype, torch, size, runs.
    """
    device = torch.device(device)
    masks = _latency_masks(number)
    times = _median_times(_timer(net, size, device), masks, runs)
    full, empty = times[0], times[1]
    without, alone = times[2 : 2 + number], times[2 + number : 2 + 2 * number]
    groups = [max(0.0, ((full - w) + (a - empty)) / 2) for w, a in zip(without, alone, strict=True)]
    table = Resource("latency_ms", empty, tuple(groups))
    checks = list(zip(masks, times, strict=True))[2 + 2 * number :]
    error = max(abs(table.total(mask) / measured - 1) for mask, measured in checks)
    if error > ADDITIVITY_TOLERANCE:
        logger.warning(
            "budget.latency_ms: the latencies of the groups add up to %.0f %% off on a mask; time on an idle machine",
            100 * error,
        )
    return {
        "fixed_ms": empty,
        "groups_ms": groups,
        "full_ms": full,
        "additivity_error": error,
        "device": str(device),
        "device_name": _device_name(device),
        "dtype": str(next(net.parameters()).dtype).removeprefix("torch."),
        "torch": str(torch.__version__),
        "size": list(size),
        "runs": runs,
    }


def _latency_masks(number: int) -> list[list[int]]:
    """Return the masks to time: all groups, none, all but one, one alone, and random ones that check the sum."""
    generator = torch.Generator().manual_seed(0)
    only = torch.eye(number, dtype=torch.int64)
    random = torch.randint(2, (ADDITIVITY_MASKS, number), generator=generator)
    return [[1] * number, [0] * number, *(1 - only).tolist(), *only.tolist(), *random.tolist()]


def _timer(net: nn.Module, size: tuple[int, int], device: torch.device) -> Callable[[Sequence[int]], float]:
    """Return a function that times one forward in evaluation under a mask, in ms; `net` is not changed."""
    copy = deepcopy(net).to(device).eval()
    reference = next(copy.parameters())
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(1, image_channels(net), *size, generator=generator).to(reference)

    def timed(mask: Sequence[int]) -> float:
        with torch.inference_mode():
            _synchronise(device)
            begin = time.perf_counter()
            copy(x, gates=list(mask))
            _synchronise(device)
            return 1e3 * (time.perf_counter() - begin)

    return timed


def _median_times(timed: Callable[[Sequence[int]], float], masks: Sequence[Sequence[int]], runs: int) -> list[float]:
    for _ in range(WARMUP_RUNS):
        timed(masks[0])
    rounds = [[timed(mask) for mask in masks] for _ in range(runs)]
    return [median(samples) for samples in zip(*rounds, strict=True)]


def _latency_device(budget: BudgetOptions, device: torch.device | str) -> torch.device:
    """Return the device that `latency_device` names."""
    if budget.latency_device == "auto":
        return torch.device(device)
    try:
        found = torch.device(budget.latency_device)
        torch.empty(0, device=found)
    except (RuntimeError, AssertionError) as error:  # an AssertionError where PyTorch is built without the device
        raise ValueError(
            f"budget.latency_device: is not on this machine, got {budget.latency_device!r}; use auto or cpu"
        ) from error
    return found


def _synchronise(device: torch.device) -> None:
    if device.type != "cpu":
        torch.get_device_module(device).synchronize()


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def _belongs(name: str, prefixes: Sequence[str]) -> bool:
    return any(name.startswith(prefix.rstrip(".") + ".") for prefix in prefixes)
