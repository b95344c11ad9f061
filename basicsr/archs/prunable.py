"""What a network offers so that whole residual groups can be pruned: the seam between networks and pruning.

A residual group is `x + R(x)` with `R` keeping the shape. With a gate m it becomes `x + m * R(x)`, and a group whose
gate is 0 for good can be cut out. A network that declares its groups in this way is masked, distilled and cut by
`PruneDistillModel` with no line of its own there.

A network that can offer parts of several kinds as its groups says in an attribute `prune_unit` of which kind they are.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from torch import Tensor

from basicsr.archs.layers.multiply_adds import MultiplyAdds

Gate = int | Tensor
"""0 or 1 as a Python number: skip the group, or run it as it is. A 0-d tensor: run it and multiply, so that the gate
gets a gradient even where it is 0."""


@dataclass(frozen=True)
class GroupInfo:
    """One residual group, or another part that takes features to features of the same kind."""

    index: int  # from 0, in the order of the forward pass
    prefixes: tuple[str, ...]  # of its names in the state dict, e.g. ("blocks.3.", "mid_convs.3.")
    hparams: Mapping[str, Any]  # its own values among the constructor's arguments
    state_buffers: tuple[str, ...]  # buffers that a forward in training writes
    macs: Callable[[int, int], MultiplyAdds]  # of an evaluation on an (H, W) low-resolution image
    block: int = 0  # groups of one block follow each other directly; from one block to the next more is done


@runtime_checkable
class Prunable(Protocol):
    """A network of residual groups. Groups are numbered from 0."""

    tail_prefixes: tuple[str, ...]
    """Names of what follows the groups, for training it alone."""

    def prunable_groups(self) -> list[GroupInfo]:
        """All groups, in order."""

    def forward(
        self, x: Tensor, gates: Sequence[Gate] | None = None, taps: Sequence[int] = ()
    ) -> Tensor | tuple[Tensor, dict[int, Tensor]]:
        """The output; with `taps` also what these groups put out, index -> (B, C, H, W). `gates`: one a group."""

    def compact_kwargs(self, keep: Sequence[int]) -> dict[str, Any]:
        """Arguments that construct this network with the groups `keep` alone."""

    def set_state_tracking(self, flags: Sequence[bool], decay: float | None = None) -> None:
        """Say which groups write their state buffers in training, and with which decay (None: the network's own)."""


def missing_members(net: object) -> list[str]:
    """What a network lacks of the protocol."""
    members = ("prunable_groups", "compact_kwargs", "set_state_tracking", "tail_prefixes")
    return [name for name in members if not hasattr(net, name)]


def gated(x: Tensor, gate: Gate, residual: Callable[[], Tensor]) -> Tensor:
    """`x + gate * residual()`. A Python 1 is the plain sum, a Python 0 leaves `residual` alone."""
    if isinstance(gate, Tensor):
        return x + gate.to(x.dtype) * residual()
    return x + residual() if gate else x


def check_gates(gates: Sequence[Gate] | None, number: int) -> Sequence[Gate]:
    """One gate for each of `number` groups; None: all are 1.

    Raises:
        ValueError: when there are more or fewer.
    """
    if gates is None:
        return (1,) * number
    if len(gates) != number:
        raise ValueError(f"gates: needs one for each of the {number} groups, got {len(gates)}")
    return gates
