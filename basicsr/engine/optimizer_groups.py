"""Optimizers: built from options, with arguments for CUDA and rates as tensors; saved, checked and loaded as states.

A rate that a CUDA graph reads is a tensor on the device. Python code reads the number that was put there last instead,
because reading the tensor would make the CPU wait for the GPU.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from basicsr.config.registry import OPTIMIZER_REGISTRY
from basicsr.engine.optimizers import MUON

Group = dict[str, Any]
RATE = "rate"  # key of a group for the number that its rate tensor holds
FLAGS = ("fused", "foreach", "capturable", "differentiable")  # how a step is computed, not its result
# Keys of groups that states of older versions, of PyTorch and BasicSR, may lack.
ADDED_KEYS = {"scheduled", "initial_lr", "maximize", "decoupled_weight_decay", RATE, *FLAGS}


def build_optimizer(
    spec: Mapping[str, Any], parameters: Iterable[Any], net: nn.Module, **arguments: Any
) -> torch.optim.Optimizer:
    """Build the optimizer of a spec; one that `takes_names`, such as MUON, gets (name, parameter) pairs.

    Args:
        spec: such as `train.optim_g`.
        parameters: as PyTorch's optimizers take them.
        net: gives the names; parameters of other modules are called "".
        arguments: in addition to those of the spec.

    Raises:
        UnknownNameError: when there is no optimizer of this type.
        OptionError: for an argument that it rejects.
    """
    if getattr(OPTIMIZER_REGISTRY.get(spec["type"]), "takes_names", False):
        names = {parameter: name for name, parameter in net.named_parameters()}
        parameters = [(names.get(parameter, ""), parameter) for parameter in parameters]
    return OPTIMIZER_REGISTRY.build(spec, parameters, **arguments)


def arguments_on(device: torch.device, spec: Mapping[str, Any]) -> dict[str, bool]:
    """Return the arguments that an optimizer gets on `device` in addition to its `spec`, which wins.

    On CUDA, Adam and AdamW take one fused step without the CPU, and MUON one that reads nothing back; all of them can
    be part of a CUDA graph. PyTorch's other optimizers choose their foreach form by themselves.
    """
    optimizer = OPTIMIZER_REGISTRY.get(spec["type"])
    if device.type != "cuda" or optimizer not in (torch.optim.Adam, torch.optim.AdamW, MUON):
        return {}
    arguments = {} if optimizer is MUON or spec.get("foreach") or spec.get("differentiable") else {"fused": True}
    return {key: value for key, value in {**arguments, "capturable": True}.items() if key not in spec}


def put_rates_on_device(optimizer: torch.optim.Optimizer) -> None:
    """Turn the rates of capturable groups into float32 tensors where their parameters are."""
    for group in optimizer.param_groups:
        if group.get("capturable") and group["params"] and not isinstance(group["lr"], Tensor):
            group[RATE] = group["lr"]
            group["lr"] = torch.tensor(group["lr"], dtype=torch.float32, device=group["params"][0].device)
    # PyTorch warns of capturable optimizers outside a graph; here a run begins outside, and a run without graphs must
    # give the same numbers.
    optimizer._warned_capturable_if_run_uncaptured = True


def is_capturable(optimizer: torch.optim.Optimizer) -> bool:
    """Return whether its step can be part of a CUDA graph, and later rates reach it there."""
    groups = [group for group in optimizer.param_groups if group["params"]]
    return all(group.get("capturable") and isinstance(group["lr"], Tensor) for group in groups)


def set_rate(group: Group, rate: float) -> None:
    """Set the rate of a group."""
    if not isinstance(group["lr"], Tensor):
        group["lr"] = rate
    elif group.get(RATE) != rate:
        group["lr"].fill_(rate)
        group[RATE] = rate


def rate_of(group: Group) -> float:
    """Return the rate of a group as a number."""
    return group[RATE] if isinstance(group["lr"], Tensor) and RATE in group else float(group["lr"])


def plain_state(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Return `optimizer.state_dict()` with rates as numbers, which every device and version can read."""
    state = optimizer.state_dict()
    groups = [
        {key: rate_of(group) if key == "lr" else value for key, value in group.items() if key != RATE}
        for group in state["param_groups"]
    ]
    return {**state, "param_groups": groups}


def load_state(optimizer: torch.optim.Optimizer, saved: Mapping[str, Any]) -> None:
    """Load the averages of a saved state; rates and all other settings stay those of the optimizer.

    PyTorch decides by the flags of the saved groups where the number of steps lies, so those are replaced first.
    Averages of parameters in another memory format are copied into theirs, which fused steps require.
    """
    configured = [{k: v for k, v in group.items() if k != "params"} for group in optimizer.param_groups]
    groups = [
        {**{k: v for k, v in old.items() if k not in FLAGS}, **{k: v for k, v in new.items() if k in FLAGS}}
        for old, new in zip(saved["param_groups"], configured, strict=True)
    ]
    optimizer.load_state_dict({**saved, "param_groups": groups})
    for group, values in zip(optimizer.param_groups, configured, strict=True):
        group.update(values)
    for parameter, learned in optimizer.state.items():
        for name, value in learned.items():
            if isinstance(value, Tensor) and value.shape == parameter.shape and value.stride() != parameter.stride():
                learned[name] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)


def optimizer_mismatch(optimizer: torch.optim.Optimizer, saved: Mapping[str, Any]) -> str:
    """Return why an optimizer cannot go on from a saved state; "" when it can."""
    groups, learned = optimizer.param_groups, saved["state"]
    sizes, saved_sizes = ([len(group["params"]) for group in each] for each in (groups, saved["param_groups"]))
    if sizes != saved_sizes:
        return f"groups of {saved_sizes} parameters, here {sizes}"
    for group, old in zip(groups, saved["param_groups"], strict=True):
        if absent := set(group) - set(old) - ADDED_KEYS:
            return f"{type(optimizer).__name__} needs {', '.join(sorted(absent))}; it was another optimizer"
        for key, parameter in zip(old["params"], group["params"], strict=True):
            for name, value in learned.get(key, {}).items():
                if isinstance(value, Tensor) and value.ndim and value.shape != parameter.shape:
                    return f"{name} of parameter {key} is {tuple(value.shape)}, here {tuple(parameter.shape)}"
    return ""


def parameters_of(optimizers: Sequence[torch.optim.Optimizer]) -> list[Tensor]:
    """Return all parameters of optimizers, in their order."""
    return [p for optimizer in optimizers for group in optimizer.param_groups for p in group["params"]]
