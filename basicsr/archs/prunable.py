"""The protocol of networks whose residual groups can be pruned: the interface between networks and pruning.

A residual group is `x + R(x)` with `R` keeping the shape. With a gate m it becomes `x + m * R(x)`, and a group whose
gate stays 0 can be cut out. `PruneDistillModel` masks, distils and cuts any network that keeps this protocol.

A network whose groups can be parts of several kinds names the kind in an attribute `prune_unit`. One whose feed-forward
networks can be narrowed has an argument `mlp_dim`, the number of their hidden channels, and implements `Narrowable`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from torch import Tensor, nn

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
    block: int = 0  # groups of one block follow each other directly; between blocks other layers lie


@runtime_checkable
class Prunable(Protocol):
    """A network of residual groups. Groups are numbered from 0."""

    tail_prefixes: tuple[str, ...]
    """Prefixes of the parameters after the groups, for training the tail alone."""

    def prunable_groups(self) -> list[GroupInfo]:
        """Return all groups, in order."""

    def forward(
        self, x: Tensor, gates: Sequence[Gate] | None = None, taps: Sequence[int] = ()
    ) -> Tensor | tuple[Tensor, dict[int, Tensor]]:
        """Return the output; with `taps` also index -> output (B, C, H, W) of these groups. `gates`: one a group."""

    def compact_kwargs(self, keep: Sequence[int]) -> dict[str, Any]:
        """Return the arguments that construct this network with the groups `keep` alone."""

    def set_state_tracking(self, flags: Sequence[bool], decay: float | None = None) -> None:
        """Choose the groups that write their state buffers in training, and the decay (None: the network's own)."""


@runtime_checkable
class Narrowable(Protocol):
    """A prunable network with feed-forward networks of `mlp_dim` hidden channels each."""

    def ffn_axes(self) -> list[dict[str, int]]:
        """Return, for each feed-forward network, parameter name -> axis of its hidden channels."""


def missing_members(net: object) -> list[str]:
    """Return the members of the protocol that a network lacks."""
    members = ("prunable_groups", "compact_kwargs", "set_state_tracking", "tail_prefixes")
    return [name for name in members if not hasattr(net, name)]


def image_channels(net: nn.Module) -> int:
    """Return the channels of a network's input: those of its first convolution."""
    return next((parameter.shape[1] for parameter in net.parameters() if parameter.ndim == 4), 3)


def gated(x: Tensor, gate: Gate, residual: Callable[[], Tensor]) -> Tensor:
    """Return `x + gate * residual()`. A Python 1 is the plain sum; for a Python 0 `residual` is not called."""
    if isinstance(gate, Tensor):
        return x + gate.to(x.dtype) * residual()
    return x + residual() if gate else x


def check_gates(gates: Sequence[Gate] | None, number: int) -> Sequence[Gate]:
    """Return one gate for each of `number` groups; None: all are 1.

    Raises:
        ValueError: when there are more or fewer.
    """
    if gates is None:
        return (1,) * number
    if len(gates) != number:
        raise ValueError(f"gates: needs one for each of the {number} groups, got {len(gates)}")
    return gates
