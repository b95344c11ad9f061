"""Which group of the teacher each group of the student is compared with."""

import math
from collections.abc import Sequence
from typing import cast

from basicsr.archs.prunable import Prunable
from basicsr.config.pruning import DistillOptions, PruneOptions
from basicsr.config.schema import Options
from basicsr.engine.checkpoint import load_file


def kept_of_run(opt: Options) -> list[int]:
    """Return the teacher's groups that `network_g` kept: `prune.kept`, or else those in its weight file.

    Returns:
        0-based group indices, ascending.

    Raises:
        ValueError: when neither names them.
    """
    prune = opt.prune or PruneOptions()
    if prune.kept is not None:
        return list(prune.kept)
    path = opt.path.pretrain_network_g
    found = load_file(path).get("meta", {}).get("kept") if path is not None else None
    if found is None:
        raise ValueError(
            "prune.kept: is missing, and so it is in the weight file; stage finetune compares features with the "
            "teacher's and must know which groups network_g kept: run stage search, or give e.g. [0, 4, 7]"
        )
    return list(found)


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
