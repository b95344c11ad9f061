"""Blocks that more than one network is built from: the order of groups, overlapping patches, conv FFN.

Shapes: B batch, H x W map size, N = H*W tokens in raster order, C channels, h heads, D padded head width.
Token sequences are (B, N, C); a map in channels-last memory and its tokens are two views of the same bytes, so the
networks change between them for free.
"""

import math
from contextlib import AbstractContextManager, nullcontext
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from basicsr.archs.gathered_attention import Windows


def full_precision(device: torch.device) -> AbstractContextManager[Any]:
    """No autocast inside, on devices that have it: for choices (argmax) that rounding would flip."""
    available = torch.amp.is_autocast_available(device.type)
    return torch.autocast(device.type, enabled=False) if available else nullcontext()


def tokens_to_map(t_BNC: Tensor, size: tuple[int, int]) -> Tensor:
    """(B, H*W, C) tokens as a (B, C, H, W) map in channels-last memory; a view."""
    return t_BNC.unflatten(1, size).permute(0, 3, 1, 2)


def map_to_tokens(x_BCHW: Tensor) -> Tensor:
    """(B, C, H, W) map as (B, H*W, C) tokens; a view where the map is in channels-last memory."""
    return x_BCHW.permute(0, 2, 3, 1).flatten(1, 2)


def mirrored_index(start: int, stop: int, length: int, device: torch.device) -> Tensor:
    """Positions `start .. stop-1` of a sequence of `length` entries that is mirrored at its ends as often as needed.

    Entry `i` is `i mod 2n`, and `2n - 1 - i` in the second half of that period, so a longer sequence keeps bouncing.
    """
    i = torch.arange(start, stop, device=device) % (2 * length)
    return torch.where(i < length, i, 2 * length - 1 - i)


def stable_group_order(groups_BN: Tensor, group_num: int) -> Tensor:
    """Order that brings the tokens of a group together, raster order kept inside each group.

    Args:
        groups_BN: group of every token, integers in [0, group_num).

    Returns:
        (B, N): for each image, the index among all B*N tokens of the token that comes at each place.

    Note:
        Narrow integer keys in one dimension take torch's radix sort, 10 to 100 times faster than sorting int64 rows.
    """
    batch, _ = groups_BN.shape
    dtype = torch.int16 if batch * group_num <= torch.iinfo(torch.int16).max else torch.int32
    image = torch.arange(batch, device=groups_BN.device)[:, None]
    return (groups_BN + image * group_num).flatten().to(dtype).sort(stable=True).indices.view_as(groups_BN)


class MultiplyAdds(NamedTuple):
    """Multiply-adds of one image, as papers count them: one for each product that is added up."""

    conv_linear: float  # convolutions and linear layers; what most papers mean by "Multi-Adds"
    attention: float  # products with queries, keys and values, and with token centres

    def __add__(self, other: tuple) -> "MultiplyAdds":
        return MultiplyAdds(self[0] + other[0], self[1] + other[1])


class AxisPlan(NamedTuple):
    """How overlapping patches lie along one axis of `side` pixels, in plain lists.

    `layers` says where the pixels' values are found in the row of all patches' pixels (patch after patch): layer 0 has
    every pixel once; layer k has the pixels that k further patches cover too, as (pixels, slots).
    """

    patch: int  # px: side of a patch
    starts: list[int]  # first pixel of each patch
    layers: list[tuple[list[int], list[int]]]  # (pixels, slots), each pixel at most once a layer
    weight: list[float]  # (side,): factor on the sum of a pixel's values
    coverage: list[float] | None  # (side,): weight times number of patches; None where that is 1 everywhere


@lru_cache(maxsize=256)  # lists, for a cached tensor would carry the mode (inference, tracing) of the call that made it
def axis_plan(side: int, patch: int) -> AxisPlan:
    """Plan for patches of `patch` px every `patch - 2` px; the last one is shifted back to end at the border.

    Where patches overlap their values are summed and halved once for each band `[min(a, L), a + 2)`, a = start of a
    patch on the regular grid, L = start of the last one. A side shorter than `patch` is one patch.

    Source: CATANet (arXiv 2503.06896), local-region self-attention; the band rule is that of the published weights.
    """
    stride, patch = patch - 2, min(patch, side)
    last = side - patch
    count = math.ceil(last / stride) + 1
    starts = [min(i * stride, last) for i in range(count)]
    slots: list[list[int]] = [[] for _ in range(side)]
    for i, start in enumerate(starts):
        for offset in range(patch):
            slots[start + offset].append(i * patch + offset)
    weight = [1.0] * side
    for i in range(1, count):
        for pixel in range(starts[i], i * stride + 2):
            weight[pixel] /= 2
    layers = []
    for depth in range(max(map(len, slots))):
        pixels = [pixel for pixel in range(side) if len(slots[pixel]) > depth]
        layers.append((pixels, [slots[pixel][depth] for pixel in pixels]))
    coverage = [w * len(s) for w, s in zip(weight, slots, strict=True)]
    return AxisPlan(patch, starts, layers, weight, None if set(coverage) == {1.0} else coverage)


class PatchGrid:
    """Overlapping square patches of an H x W map: `windows` to attend in, and `merge` to blend what comes out of them.

    Args:
        size: (H, W) in pixels, each at least 1.
        patch: side of a patch in pixels, at least 3; the stride is `patch - 2`.
    """

    def __init__(self, size: tuple[int, int], patch: int, device: torch.device):
        self.size = size
        self.device = device
        self.y, self.x = (axis_plan(side, patch) for side in size)
        self.count = len(self.y.starts) * len(self.x.starts)
        self.area = self.y.patch * self.x.patch

    def pixels(self) -> Tensor:
        """The token under every pixel of every patch, (patches * area,)."""
        rows, columns = (
            torch.tensor(plan.starts, device=self.device)[:, None] + torch.arange(plan.patch, device=self.device)
            for plan in (self.y, self.x)
        )
        return (rows[:, None, :, None] * self.size[1] + columns[None, :, None, :]).flatten()

    def windows(self, batch: int) -> Windows:
        """The patches of `batch` images as windows over all their tokens."""
        image = torch.arange(batch, dtype=torch.int32, device=self.device)[:, None] * (self.size[0] * self.size[1])
        pixels = self.pixels().int() + image
        return Windows(pixels, self.count, step=self.area, queries=self.area, keys=self.area, valid=pixels.shape[1])

    def merge(self, p_BMC: Tensor) -> Tensor:
        """(B, patches * area, C) to (B, N, C): the weighted sum of what the patches say of a pixel."""
        total = _AddUp.apply(p_BMC, self)
        rows, columns = (torch.tensor(plan.weight, dtype=total.dtype, device=self.device) for plan in (self.y, self.x))
        return total * (rows[:, None] * columns).flatten()[:, None]

    def scale_as_merged(self, t_BNC: Tensor) -> Tensor:
        """(B, N, C) tokens taken into patches and merged: the same, but where weights do not add up to one."""
        for axis, plan in ((1, self.y), (2, self.x)):
            if plan.coverage is not None:
                coverage = torch.tensor(plan.coverage, dtype=t_BNC.dtype, device=self.device).view(
                    -1, *[1] * (3 - axis)
                )
                t_BNC = (t_BNC.unflatten(1, self.size) * coverage).flatten(1, 2)
        return t_BNC

    def take(self, t_BNC: Tensor) -> Tensor:
        """Every patch's pixels: (B, N, C) to (B, patches * area, C)."""
        return _rows_of_each(t_BNC, self.pixels())

    def add_up(self, p_BMC: Tensor) -> Tensor:
        """Sum of what the patches say of every pixel, the adjoint of `take`: (B, patches * area, C) to (B, N, C)."""
        row_step, column_step = len(self.x.starts) * self.area, self.area
        row_layers = [self._tensors(*layer) for layer in self.y.layers]
        column_layers = [self._tensors(*layer) for layer in self.x.layers]
        total = p_BMC.new_empty(0)
        for i, (rows, row_slots) in enumerate(row_layers):
            row_base = row_slots // self.y.patch * row_step + row_slots % self.y.patch * self.x.patch
            for j, (columns, column_slots) in enumerate(column_layers):
                column_base = column_slots // self.x.patch * column_step + column_slots % self.x.patch
                values = _rows_of_each(p_BMC, (row_base[:, None] + column_base).flatten())
                if i == j == 0:
                    total = values.unflatten(1, self.size)
                else:
                    total[:, rows[:, None], columns] += values.unflatten(1, (len(rows), len(columns)))
        return total.flatten(1, 2)

    def _tensors(self, *lists: list[int]) -> list[Tensor]:
        return [torch.tensor(values, device=self.device) for values in lists]


def _rows_of_each(x_BMC: Tensor, index: Tensor) -> Tensor:
    """The same rows of every matrix of a batch; one flat gather, several times faster than indexing the second axis."""
    batch, rows, channels = x_BMC.shape
    if batch > 1:
        index = (torch.arange(batch, device=index.device)[:, None] * rows + index).flatten()
    return x_BMC.reshape(-1, channels).index_select(0, index).view(batch, -1, channels)


class _Take(torch.autograd.Function):
    """`PatchGrid.take` with its adjoint as gradient."""

    @staticmethod
    def forward(ctx: Any, t: Tensor, grid: PatchGrid) -> Tensor:
        ctx.grid = grid
        return grid.take(t)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return _AddUp.apply(grads[0], ctx.grid), None


class _AddUp(torch.autograd.Function):
    """`PatchGrid.add_up` with its adjoint as gradient: gathers both ways, where autograd would scatter."""

    @staticmethod
    def forward(ctx: Any, p: Tensor, grid: PatchGrid) -> Tensor:
        ctx.grid = grid
        return grid.add_up(p)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return _Take.apply(grads[0], ctx.grid), None


class PreNorm(nn.Module):
    """LayerNorm over the channels, then `fn`."""

    def __init__(self, dim: int, fn: nn.Module):
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.fn = fn

    def forward(self, x: Tensor, *args: Any) -> Tensor:
        """`fn(norm(x), *args)`."""
        return self.fn(self.norm(x), *args)


class DepthwiseConv(nn.Module):
    """Depth-wise convolution of `kernel` x `kernel` px followed by GELU, on tokens."""

    def __init__(self, dim: int, kernel: int):
        super().__init__()
        self.depthwise_conv = nn.Sequential(nn.Conv2d(dim, dim, kernel, padding=kernel // 2, groups=dim), nn.GELU())

    def forward(self, t_BNC: Tensor, size: tuple[int, int]) -> Tensor:
        """(B, N, dim) tokens of an (H, W) map to the same shape."""
        return map_to_tokens(self.depthwise_conv(tokens_to_map(t_BNC, size)))


class ConvFFN(nn.Module):
    """Feed-forward network with a depth-wise 5x5 convolution beside its hidden layer.

    `u = GELU(fc1 t); u <- u + GELU(DW5(u)); fc2 u`. Shape: (B, N, C), (H, W) -> (B, N, C).
    """

    def __init__(self, dim: int, hidden_dim: int, kernel: int = 5):
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden_dim)
        self.act = nn.GELU()
        self.dwconv = DepthwiseConv(hidden_dim, kernel)
        self.fc2 = nn.Linear(hidden_dim, dim)

    def multiply_adds(self, size: tuple[int, int]) -> MultiplyAdds:
        """Multiply-adds on an (H, W) map."""
        weights = (*self.fc1.parameters(), *self.dwconv.parameters(), *self.fc2.parameters())
        return MultiplyAdds(size[0] * size[1] * sum(w.numel() for w in weights if w.ndim > 1), 0)

    def forward(self, t_BNC: Tensor, size: tuple[int, int]) -> Tensor:
        """(B, N, C) tokens of an (H, W) map to the same shape."""
        u = self.act(self.fc1(t_BNC))
        return self.fc2(u + self.dwconv(u, size))
