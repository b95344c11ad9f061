"""Masks to rank: those within the budget, the learned one, the uniform one, and the selection of --masks."""

import argparse
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from torch import nn

from basicsr.archs import build_network
from basicsr.archs.prunable import Prunable
from basicsr.config.convert import build_section
from basicsr.config.location import Location
from basicsr.config.pruning import PruneOptions
from basicsr.config.schema import Options
from basicsr.errors import OptionError
from basicsr.pruning.compaction import in_form
from basicsr.pruning.costs import Resource, group_resources
from basicsr.pruning.feasible import MAX_MASKS, feasible_masks, uniform_mask
from basicsr.pruning.option_errors import option_error_context
from basicsr.pruning.samplers import build_sampler
from basicsr.pruning.samplers.checks import check_forced


class Learned(NamedTuple):
    """The decision of a search."""

    mask: str
    p: dict[str, float]
    """Probability of each mask that its sampler ranks."""


def bits(mask: str) -> list[int]:
    """Return a mask as numbers 0 and 1."""
    return [int(bit) for bit in mask]


def is_mask(text: str) -> bool:
    """Return whether a text consists of bits."""
    return re.fullmatch("[01]+", text) is not None


def mask_choice(text: str) -> str:
    """Return an argument of --masks: `all`, `sample:M` with M at least 2, or a mask.

    Raises:
        argparse.ArgumentTypeError: for any other text.
    """
    if text != "all" and not is_mask(text) and (not re.fullmatch(r"sample:\d+", text) or int(text[7:]) < 2):
        raise argparse.ArgumentTypeError(
            f"expected all, sample:M with M at least 2, or a mask of 0 and 1, got {text!r}"
        )
    return text


def masks_within_budget(
    opt: Options, teacher: nn.Module, device: torch.device, latency: Mapping[str, Any] | None = None
) -> tuple[list[str], list[Resource]]:
    """Return all masks that the search chooses among, and the costs of its groups.

    Args:
        opt: of the search.
        teacher: the network that is cut.
        device: of the run.
        latency: of the groups, as the search has measured it; None: measured now, if it is limited.

    Raises:
        OptionError: when the budget leaves no choice, or the search cuts another network.
    """
    prune = opt.prune or PruneOptions()
    number = len(cast(Prunable, teacher).prunable_groups())
    searched = len(cast(Prunable, build_network(opt.network_g)).prunable_groups())
    if number != searched:
        raise opt.where.at("network_t").error(
            f"has {number} groups, but network_g {searched}; to rank the masks of network_g, make it the teacher, too"
        )
    with option_error_context(opt):
        check_forced(number, prune.force_keep, prune.force_drop)
        form = in_form(teacher, prune.tail, opt.compact.mlp_dim)
        resources = group_resources(form, opt.budget, device, latency)
        found = feasible_masks(number, resources, prune.force_keep, prune.force_drop)
    masks = ["".join(map(str, mask)) for mask in found.tolist()]
    if len(masks) == 1:
        raise opt.where.at("budget").error(
            f"leaves one mask, {masks[0]}, so there is nothing to rank; give the option file of a search"
        )
    return masks, resources


def measured_latency(folder: Path) -> dict[str, Any] | None:
    """Return the latencies of the groups in the report of a search; None where it has none.

    Measured again, they could allow other masks.

    Raises:
        OptionError: when there is no report.
    """
    found = _read_report(folder / "prune_report.json").get("resources", {}).get("latency_ms")
    return {"fixed_ms": found["fixed"], "groups_ms": found["groups"]} if found else None


def read_search(folder: Path, masks: Sequence[str], resources: Sequence[Resource]) -> Learned:
    """Return the mask that a finished search chose, and the probabilities of all masks by its logits.

    Raises:
        OptionError: when there is no report, or it is of a search among other masks.
    """
    path = folder / "prune_report.json"
    report = _read_report(path)
    try:
        mask = "".join(map(str, report["mask"]))
        prune = build_section(PruneOptions, report["options"]["prune"], Location({(): str(path)}, ("options", "prune")))
        state = {name: torch.tensor(value) for name, value in report["logits"].items()}
    except OptionError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise OptionError(f"{path}: is no report of a search ({type(error).__name__}: {error})") from error
    try:
        sampler = build_sampler(prune, len(masks[0]), resources)
        sampler.load_state_dict(state)
    except (ValueError, RuntimeError) as error:
        raise OptionError(f"{path}: does not fit the budget of the option file: {error}") from error
    if mask not in masks:
        raise OptionError(f"{path}: chose {mask}, which is not within the budget of the option file; give the search's")
    return Learned(mask, {"".join(map(str, found)): p for found, p in sampler.ranking(MAX_MASKS)})


def _read_report(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise OptionError(f"{path}: no such file; name the folder of a search that has ended")
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise OptionError(f"{path}: is no report of a search ({type(error).__name__}: {error})") from error


def uniform_of(masks: Sequence[str]) -> str | None:
    """Return the evenly spread mask with the largest allowed number of groups; None if no such mask is allowed."""
    for count in sorted({mask.count("1") for mask in masks}, reverse=True):
        mask = "".join(map(str, uniform_mask(len(masks[0]), count)))
        if mask in masks:
            return mask
    return None


def chosen_masks(wanted: Sequence[str], ranking: Sequence[str], special: Sequence[str]) -> list[str]:
    """Return the masks that --masks selects, best zero-shot first.

    Args:
        wanted: arguments of --masks.
        ranking: all masks, best zero-shot first.
        special: masks that a sample always contains, besides the best and the worst.
    """
    if wanted == ["all"]:
        return list(ranking)
    if not wanted[0].startswith("sample:"):
        return [mask for mask in ranking if mask in wanted]
    count = min(int(wanted[0].removeprefix("sample:")), len(ranking))
    places = {round(k * (len(ranking) - 1) / (count - 1)) for k in range(count)}
    return [mask for place, mask in enumerate(ranking) if place in places or mask in special]
