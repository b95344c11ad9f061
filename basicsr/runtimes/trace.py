"""A network as a graph of public operations, for any size of input or for one: the source of all exported files.

`traced` is `torch.export` in the form of `archs/layers/export_mode.py`. It fails when the code of a network fixes a
size, which later exporters would do silently.
"""

import math
from collections.abc import Hashable
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_unflatten

from basicsr.archs.atd_arch import ATD
from basicsr.archs.atdu_arch import ATDUNet
from basicsr.archs.catanet_arch import CATANet
from basicsr.archs.fast_catanet import PreparedCATANet
from basicsr.archs.layers.export_mode import GraphForm, graph_form
from basicsr.archs.layers.group_hook import group_choices
from basicsr.archs.layers.token_aggregation import TAB
from basicsr.errors import OptionError

OLDEST_TORCH = (2, 10)  # 2.6 and 2.9 were tried and fail; 2.14 works
EXAMPLE = (46, 58)  # px beyond the smallest side: the input that graphs for any size are traced with
MAX_SIDE = 8192  # px, of an input


def check_torch_version() -> None:
    """Check that this PyTorch is known to trace the networks.

    Raises:
        OptionError: for an older one, whose exporter fails on them or ties graphs of any size to one.
    """
    if tuple(map(int, torch.__version__.split(".")[:2])) < OLDEST_TORCH:
        oldest = ".".join(map(str, OLDEST_TORCH))
        raise OptionError(
            f"PyTorch {torch.__version__} cannot export these networks; install PyTorch {oldest} or newer. Training, "
            "testing and inference work with this one"
        )


class GraphNet(nn.Module):
    """A network in the form of `archs/layers/export_mode.py`, with the plans of its sizes as buffers.

    Args:
        net: in evaluation; runs inside `graph_form`.
        example: (1, C, H, W), an input.
        is_static: all inputs have the size of the example.
        with_groups: the groups that the network chooses are further outputs, (1, N) int32 each.

    Shape: (1, C, H, W) -> (1, C, s*H, s*W).
    """

    def __init__(self, net: nn.Module, example: Tensor, is_static: bool, with_groups: bool = False):
        super().__init__()
        self.net, self.is_static, self.with_groups = net, is_static, with_groups
        form = GraphForm(is_static)
        with torch.no_grad(), graph_form(form):
            net(example)
        plans, self._structure = tree_flatten(form.known)
        self._plans: list[Any] = [self._keep(f"plan_{i}", plan) for i, plan in enumerate(plans)]

    def _keep(self, name: str, plan: Any) -> Any:
        """Return the name of a new buffer that holds the tensor; other values are returned as they are."""
        if not isinstance(plan, Tensor):
            return plan
        self.register_buffer(name, plan.clone())
        return name

    def forward(self, lq: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Return the output; with `with_groups` also the groups."""
        plans = [getattr(self, plan) if isinstance(plan, str) else plan for plan in self._plans]
        known: dict[Hashable, Any] = tree_unflatten(plans, self._structure)
        with graph_form(GraphForm(self.is_static, known)), group_choices() as groups:
            sr = self.net(lq)
        return (sr, *(chosen.int() for chosen in groups.chosen)) if self.with_groups else sr


def for_graph(net: nn.Module, dtype: torch.dtype = torch.float32) -> nn.Module:
    """Return a frozen copy of a network that can run inside `graph_form`.

    Args:
        dtype: of convolutions and FFNs. Inputs and outputs are float32.

    Raises:
        OptionError: when the token centres of a CATANet were never set, or the network has no form in `dtype`.
    """
    net = deepcopy(net).eval().requires_grad_(False)
    if isinstance(net, CATANet):
        if not all(module.initialised for module in net.modules() if isinstance(module, TAB)):
            raise OptionError("the network has no token centres, which training sets; train it before you export it")
        return PreparedCATANet(net, dtype, for_graph=True)
    if dtype != torch.float32:
        raise OptionError(f"--dtype: {type(net).__name__} supports float32 only")
    return net.to(memory_format=torch.contiguous_format)


def side_rule(net: nn.Module) -> tuple[int, int]:
    """Return the smallest side in pixels of inputs of a graph for any size, and the number whose multiples sides are.

    Such a graph has sub-groups and patches of full size and mirrors nothing at its border. Tracers take a side of one
    pixel for a constant.
    """
    if isinstance(net, CATANet):
        patches, groups = net._per_group["patch_size"], net._per_group["group_size"]
        return max(2, max(patches) + 1, math.ceil(math.sqrt(max(groups)))), 1
    if isinstance(net, ATD):
        return _multiple(math.ceil(math.sqrt(net._options["category_size"])), net.window_size), net.window_size
    if isinstance(net, ATDUNet):
        needed = max(math.ceil(math.sqrt(size)) << level for level, size in enumerate(net.category_size))
        return _multiple(needed, net.padding_unit), net.padding_unit
    unit = int(getattr(net, "padding_unit", getattr(net, "multiple_of", 1)))
    return _multiple(max(2, int(getattr(net, "min_side", 2))), unit), unit


def sides_beyond(extra: tuple[int, int], min_side: int, multiple: int) -> tuple[int, int]:
    """Return (height, width) of inputs of a graph for any size, at least `extra` pixels beyond the smallest."""
    return _multiple(min_side + extra[0], multiple), _multiple(min_side + extra[1], multiple)


def _multiple(number: int, unit: int) -> int:
    return -(-number // unit) * unit


def traced(
    net: nn.Module,
    channels: int,
    size: tuple[int, int] | None,
    rule: tuple[int, int] = (2, 1),
    with_groups: bool = False,
) -> torch.export.ExportedProgram:
    """Return the graph of a network as `for_graph` returns it.

    Args:
        net: as `for_graph` returns it.
        channels: of its input.
        size: (height, width) of all inputs; None: any size.
        rule: `side_rule`, for inputs of any size.
        with_groups: see `GraphNet`.

    Raises:
        OptionError: when the code of the network fixes a side of inputs that may have any size.
    """
    min_side, multiple = rule
    height, width = size or sides_beyond(EXAMPLE, *rule)
    example = torch.rand(1, channels, height, width, generator=torch.Generator().manual_seed(0))
    module = GraphNet(net, example, is_static=size is not None, with_groups=with_groups).eval()
    sides = None
    if size is None:
        least, most = -(-min_side // multiple), MAX_SIDE // multiple
        units = [torch.export.Dim(name, min=least, max=most) for name in ("height", "width")]
        sides = {"lq": {2 + i: unit if multiple == 1 else multiple * unit for i, unit in enumerate(units)}}
    try:
        with torch.no_grad():
            return torch.export.export(module, (example,), dynamic_shapes=sides, strict=False)
    except torch._dynamo.exc.UserError as error:
        if size is not None:
            raise
        lines = str(error).splitlines()
        reason = next((line.strip() for line in lines[1:] if "- " in line), lines[0])
        raise OptionError(
            f"{type(net).__name__}: its code fixes a side, so it cannot be exported for any size ({reason}); give "
            "--no-dynamic, and tile sides to --tile"
        ) from error
