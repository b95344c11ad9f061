"""Which group of the teacher each group of the student is compared with."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple, cast

from torch import nn

from basicsr.archs.prunable import Prunable
from basicsr.config.pruning import DistillOptions, PruneOptions
from basicsr.config.schema import Options
from basicsr.engine.checkpoint import load_file
from basicsr.pruning.distillation import has_feature_terms


class Origin(NamedTuple):
    """Where the groups of a network come from: for each, its index in other networks, 0-based, ascending."""

    original: list[int]
    """In the network that was cut first, where several searches follow each other."""
    teacher: list[int]
    """In `network_t`."""

    def of(self, kept: Sequence[int]) -> "Origin":
        """Return the origin of the groups that stay."""
        return Origin([self.original[i] for i in kept], [self.teacher[i] for i in kept])


def origin_of_groups(opt: Options, student: nn.Module, teacher: nn.Module) -> Origin:
    """Return where the groups of `network_g` come from, in a search.

    A network that was cut before comes from the groups `prune.kept` of the original one, or else from those in its
    weight file. A teacher of as many groups has the same ones; another has those in its weight file, or else all.

    Raises:
        ValueError: when that does not fit the networks, or a feature term compares groups of unknown origin.
    """
    number, others = (len(n.prunable_groups()) if isinstance(n, Prunable) else 0 for n in (student, teacher))
    found = _kept_before(opt, "original")
    original = found or list(range(number))
    if len(original) != number or original != sorted(set(original)):
        raise ValueError(
            f"prune.kept: must name, in ascending order, those {number} groups of the original network that network_g "
            f"has, got {original}"
        )
    if others == number:
        return Origin(original, list(range(number)))
    theirs = list(_meta_of(opt.path.pretrain_network_t).get("original", range(others)))
    if found is not None and set(original) <= set(theirs):
        return Origin(original, [theirs.index(i) for i in original])
    if has_feature_terms(opt.kd):
        raise ValueError(
            f"prune.kept: network_g has {number} groups, network_t {others}; say which of those network_g has, or set "
            "the weights of feature terms in kd to 0"
        )
    return Origin(original, original)


def kept_in_files(opt: Options) -> dict[str, list[int]]:
    """Return what weight files of fine-tuning say about the groups: `kept` of the teacher's, and of the `original`'s.

    {} where neither the options nor the weights that the run begins with say it.
    """
    kept = _kept_before(opt, "kept")
    return (
        {}
        if kept is None
        else {"kept": kept, "original": list(_meta_of(opt.path.pretrain_network_g).get("original", kept))}
    )


def _kept_before(opt: Options, key: str) -> list[int] | None:
    """Return `prune.kept`, or else the groups that the weight file of `network_g` names under `key`; None: neither."""
    prune, meta = opt.prune or PruneOptions(), _meta_of(opt.path.pretrain_network_g)
    found = prune.kept if prune.kept is not None else meta.get(key, meta.get("kept"))
    return None if found is None else list(found)


def _meta_of(path: str | None) -> dict[str, Any]:
    """Return what a weight file says about its network besides the weights; {} without a file."""
    return load_file(path).get("meta", {}) if path is not None else {}


def kept_of_run(opt: Options) -> list[int]:
    """Return the teacher's groups that `network_g` kept: `prune.kept`, or else those in its weight file.

    Returns:
        0-based group indices, ascending.

    Raises:
        ValueError: when neither names them.
    """
    found = _kept_before(opt, "kept")
    if found is None:
        raise ValueError(
            "prune.kept: is missing, and so it is in the weight file; stage finetune compares features with the "
            "teacher's and must know which groups network_g kept: run stage search, or give e.g. [0, 4, 7]"
        )
    return found


def compared_groups(
    kd: DistillOptions, student: Prunable, teacher: Prunable, kept: Sequence[int]
) -> list[tuple[int, int]]:
    """Return (group of the student, group of the teacher) whose outputs are compared in fine-tuning.

    Args:
        kd: section `kd` of the options.
        student, teacher: the networks.
        kept: the teacher's groups that the student inherited; 0-based, ascending.

    Raises:
        ValueError: when `kept` or `kd.taps` does not fit the networks.
    """
    groups, mine = teacher.prunable_groups(), len(student.prunable_groups())
    number = len(groups)
    if len(kept) != mine or not set(kept) <= set(range(number)):
        raise ValueError(
            f"prune.kept: must name, of the teacher's groups 0 to {number - 1}, the {mine} that network_g kept, "
            f"got {list(kept)}"
        )
    pairs = tapped_pairs(kd.taps, kept, number, kd.match)
    if kd.match == "absorb":  # a group cannot stand for the operations after its block
        last = {group.block: group.index for group in groups}
        pairs = [(own, min(other, last[groups[kept[own]].block])) for own, other in pairs]
    return pairs


def tapped_pairs(taps: str | Sequence[int], kept: Sequence[int], number: int, match: str) -> list[tuple[int, int]]:
    """Return (group of the student, group of the teacher) for `kd.taps`.

    Raises:
        ValueError: for a tap that is no group of the student.
    """
    pairs = list(enumerate(matched_groups(kept, number, match)))
    if taps == "all":
        return pairs
    if taps == "last":
        return pairs[-1:]
    wrong = [tap for tap in taps if not 0 <= cast(int, tap) < len(pairs)]
    if wrong:
        raise ValueError(f"kd.taps: must be groups of the student, 0 to {len(pairs) - 1}, got {wrong}")
    return [pairs[cast(int, tap)] for tap in taps]


def matched_groups(kept: Sequence[int], number: int, match: str) -> list[int]:
    """Return, for each group of the student, the teacher's group whose output is its target.

    Args:
        kept: the teacher's groups that the student inherited; 0-based, ascending.
        number: groups of the teacher.
        match: "absorb": the last one before the next kept group, so that each inherited group gets the inputs that it
            was trained on; "origin": the group itself; "uniform": evenly spread.
    """
    if match == "origin":
        return list(kept)
    if match == "absorb":
        return [following - 1 for following in kept[1:]] + [number - 1]
    return [math.floor((j + 1) * number / len(kept) + 0.5) - 1 for j in range(len(kept))]
