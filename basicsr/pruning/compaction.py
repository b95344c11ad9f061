"""Cutting dropped groups out of a network: the result is an ordinary, smaller network of the same class.

Works for every network that implements the protocol of `archs/prunable.py`. `keep` is always a list of 0-based group
indices, ascending.
"""

import math
from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import Any, cast

import torch
from torch import Tensor, nn

from basicsr.archs.prunable import Gate, GroupInfo, Narrowable, Prunable, image_channels
from basicsr.engine.checkpoint import mismatch

SHAPES = ((1, 64, 64), (2, 48, 80), (1, 33, 57))  # batch, height, width of the check's inputs, with odd sizes
NEW_CONV_STD = 1e-3  # of a new tail: its output starts near 0, so that the network starts as bilinear upscaling


def kept_groups(mask: Sequence[int] | Tensor) -> list[int]:
    """Return the groups that a mask of 0 and 1 keeps: 0-based group indices, ascending."""
    return [i for i, bit in enumerate(mask) if int(bit)]


def compact(net: nn.Module, keep: Sequence[int]) -> nn.Module:
    """Return a new network with only the groups `keep` of `net`, and its weights, buffers, training mode and device.

    Raises:
        ValueError: when `keep` is empty or no ascending list of groups.
    """
    source = cast(Prunable, net)
    groups = source.prunable_groups()
    _check_keep("keep", keep, len(groups))
    small = type(net)(**source.compact_kwargs(keep))
    _match_device_and_mode(small, net)
    places = cast(Prunable, small).prunable_groups()
    small.load_state_dict(kept_state(net.state_dict(), groups, keep, places))
    return small


def kept_state(
    state: Mapping[str, Tensor], groups: Sequence[GroupInfo], keep: Sequence[int], places: Sequence[GroupInfo]
) -> dict[str, Tensor]:
    """Return the state dict without dropped groups; a kept group gets its names in the cut network.

    Args:
        state: of the whole network.
        groups: of the whole network.
        keep: those that stay.
        places: all groups of the cut network. It may number them from 0, or keep the names of the whole network.
    """
    new_prefix: dict[str, str | None] = {prefix: None for group in groups for prefix in group.prefixes}
    for index, place in zip(keep, places, strict=True):
        new_prefix |= dict(zip(groups[index].prefixes, place.prefixes, strict=True))
    result = {}
    for name, value in state.items():
        prefix = next((p for p in new_prefix if name.startswith(p)), None)
        if prefix is None:
            result[name] = value
        elif (new := new_prefix[prefix]) is not None:
            result[new + name.removeprefix(prefix)] = value
    return result


def with_tail(net: nn.Module, tail: str) -> nn.Module:
    """Return `net` with another reconstruction, initialised with small numbers; all other weights are copied.

    Raises:
        ValueError: when the class of `net` has no argument `tail`.
    """
    check_tail(net)
    source, kwargs = cast(Prunable, net), _arguments(net)
    if kwargs["tail"] == tail:
        return net
    other = type(net)(**{**kwargs, "tail": tail})
    _match_device_and_mode(other, net)
    with torch.no_grad():
        for name, parameter in other.named_parameters():
            if name.startswith(cast(Prunable, other).tail_prefixes):
                parameter.normal_(std=NEW_CONV_STD) if parameter.dim() > 1 else parameter.zero_()
    same = {n: v for n, v in net.state_dict().items() if not n.startswith(source.tail_prefixes)}
    other.load_state_dict(same, strict=False)
    return other


def narrowed(net: nn.Module, mlp_dim: int) -> nn.Module:
    """Return `net` with `mlp_dim` hidden channels in each feed-forward network: those of the greatest importance.

    The importance of a channel is the product of the norms of its weights in all layers of the FFN: those that lead
    into it, those within it, and those that lead out. The channels that stay keep their order.

    Raises:
        ValueError: when `net` does not declare its FFNs, or they are narrower.
    """
    source, kwargs = cast(Narrowable, net), _arguments(net)
    check_mlp_dim(net, mlp_dim)
    if kwargs["mlp_dim"] == mlp_dim:
        return net
    state = net.state_dict()
    for axes in source.ffn_axes():
        by_channel = {name: state[name].movedim(axis, 0) for name, axis in axes.items()}
        norms = [weight.flatten(1).norm(dim=1) for weight in by_channel.values() if weight.dim() > 1]
        chosen = torch.stack(norms).prod(dim=0).topk(mlp_dim).indices.sort().values
        state |= {name: state[name].index_select(axis, chosen) for name, axis in axes.items()}
    small = type(net)(**{**kwargs, "mlp_dim": mlp_dim})
    _match_device_and_mode(small, net)
    small.load_state_dict(state)
    return small


def in_form(net: nn.Module, tail: str, mlp_dim: int | None) -> nn.Module:
    """Return `net` with the reconstruction `prune.tail` and FFNs of `compact.mlp_dim` hidden channels (None: its own).

    Raises:
        ValueError: when its class does not offer the choice.
    """
    if tail != "original":
        net = with_tail(net, tail)
    return net if mlp_dim is None else narrowed(net, mlp_dim)


def check_mlp_dim(net: nn.Module, mlp_dim: int) -> None:
    """Check that the feed-forward networks of a network can be narrowed to `mlp_dim` hidden channels.

    Raises:
        ValueError: when it does not declare them, or they are narrower.
    """
    if not isinstance(net, Narrowable):
        raise ValueError(
            f"compact.mlp_dim: {type(net).__name__} does not declare its feed-forward networks (`ffn_axes` in "
            "archs/prunable.py); leave it at null"
        )
    width = _arguments(net)["mlp_dim"]
    if mlp_dim > width:
        raise ValueError(f"compact.mlp_dim: must be at most the {width} of network_g, got {mlp_dim}")


def check_tail(net: nn.Module) -> None:
    """Check that the reconstruction of a network can be chosen.

    Raises:
        ValueError: when the class of `net` has no argument `tail`.
    """
    if "tail" not in _arguments(net):
        raise ValueError(f"prune.tail: {type(net).__name__} has no choice of tails; leave it at original")


def cut_into(net: nn.Module, whole: nn.Module, keep: Sequence[int]) -> None:
    """Copy the weights and buffers of the groups `keep` of `whole` to `net`.

    A tail of another kind is initialised; of FFNs that are narrower in `net`, see `narrowed`.

    Raises:
        ValueError: when `net` is not the cut network of `whole`, or `keep` is no ascending list of its groups.
    """
    _check_keep("prune.kept", keep, len(cast(Prunable, whole).prunable_groups()))
    small, wanted = compact(whole, keep), _arguments(net) if isinstance(net, Prunable) else {}
    if "tail" in wanted:
        small = with_tail(small, wanted["tail"])
    if isinstance(small, Narrowable) and wanted.get("mlp_dim", math.inf) < _arguments(small)["mlp_dim"]:
        small = narrowed(small, wanted["mlp_dim"])
    if problem := mismatch(net, small.state_dict()):
        raise ValueError(f"network_g: is not what the groups {list(keep)} leave of network_t: {problem}")
    net.load_state_dict(small.state_dict())


def network_spec(net: nn.Module) -> dict[str, Any]:
    """Return the `network_g` of an option file that builds this network."""
    kwargs = _arguments(net)
    return {"type": type(net).__name__, **{k: list(v) if isinstance(v, tuple) else v for k, v in kwargs.items()}}


@torch.no_grad()
def compaction_errors(net: nn.Module, small: nn.Module, keep: Sequence[int]) -> dict[str, float]:
    """Return the largest difference between masked and cut network in evaluation, for each input of `SHAPES`.

    The masked network runs in both ways: skipping dropped groups, and multiplying them by 0. Inputs have the precision
    of the networks.
    """
    number = len(cast(Prunable, net).prunable_groups())
    skip: list[Gate] = [int(i in keep) for i in range(number)]
    reference = next(net.parameters())
    device = reference.device
    was_training = net.training, small.training
    net.eval(), small.eval()
    generator = torch.Generator().manual_seed(0)
    errors = {}
    for count, *size in SHAPES:
        shape = (count, image_channels(net), *size)
        x = torch.rand(shape, generator=generator).to(reference)
        expected = small(x)
        multiply: list[Gate] = [torch.tensor(float(gate), device=device) for gate in skip]
        difference = max(float((net(x, gates) - expected).abs().max()) for gates in (skip, multiply))
        errors["x".join(map(str, shape))] = difference
    net.train(was_training[0]), small.train(was_training[1])
    return errors


def in_double_precision(net: nn.Module) -> nn.Module:
    """Return a copy of a network on the CPU, in float64."""
    return deepcopy(net).to("cpu", torch.float64)


def _arguments(net: nn.Module) -> dict[str, Any]:
    """Return the arguments that construct a network as it is."""
    source = cast(Prunable, net)
    return source.compact_kwargs(range(len(source.prunable_groups())))


def _check_keep(key: str, keep: Sequence[int], number: int) -> None:
    if not keep or list(keep) != sorted(set(keep)) or not set(keep) <= set(range(number)):
        raise ValueError(f"{key}: must be groups from 0 to {number - 1}, ascending, got {list(keep)}")


def _match_device_and_mode(new: nn.Module, old: nn.Module) -> None:
    """Move a new network to the device, precision and mode of the old one."""
    parameter = next(old.parameters())
    new.to(parameter.device, parameter.dtype).train(old.training)
