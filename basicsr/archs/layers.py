"""Blocks that more than one network is built from: sorted groups, shifted windows, overlapping patches, conv FFN.

Shapes: B batch, H x W map size, N = H*W tokens in raster order, C channels, h heads, D padded head width, W windows of
S pixels.
Token sequences are (B, N, C); a map in channels-last memory and its tokens are two views of the same bytes, so the
networks change between them for free.
"""

from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from basicsr.archs.gathered_attention import FAR, Heads, PositionBias, Windows, gathered_attention, graph_attention
from basicsr.archs.graph_form import GraphForm, active_form, at_most, counting_order


def full_precision(device: torch.device) -> AbstractContextManager[Any]:
    """No autocast inside, on devices that have it: for choices (argmax) that rounding would flip."""
    available = torch.amp.is_autocast_available(device.type)
    return torch.autocast(device.type, enabled=False) if available else nullcontext()


def pixel_unshuffle_in_graph(x: Tensor) -> Tensor:
    """(1, C, 2H, 2W) to (1, 4C, H, W) as `F.pixel_unshuffle`, which ONNX writes with six dimensions."""
    _, channels, height, width = x.shape
    x = x.view(channels, height // 2, 2, width).transpose(1, 2)
    x = x.reshape(2 * channels, height // 2, width // 2, 2).permute(0, 3, 1, 2)
    return x.reshape(1, 4 * channels, height // 2, width // 2)


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
    dtype = torch.int64 if active_form() is None else torch.int32
    i = torch.arange(start, stop, dtype=dtype, device=device) % (2 * length)
    return torch.where(i < length, i, 2 * length - 1 - i)


def mirrored_to_multiple(x_BCHW: Tensor, multiple: int) -> Tensor:
    """The map, mirrored at the bottom and at the right, edge included, until its sides are multiples of `multiple`."""
    form = active_form()
    for dim in (2, 3):
        length = x_BCHW.shape[dim]
        target = (length + multiple - 1) // multiple * multiple  # positive, for ONNX rounds quotients towards zero
        if form is not None:  # whoever traces a graph for any size promises multiples
            if form.is_static and target > length:
                make = partial(mirrored_index, 0, target, length, x_BCHW.device)
                x_BCHW = x_BCHW.index_select(dim, form.constant(("mirror", target, length), make))
        elif torch.compiler.is_compiling() or target > length:  # an exported graph holds for other sizes too
            x_BCHW = x_BCHW.index_select(dim, mirrored_index(0, target, length, x_BCHW.device))
    return x_BCHW


def stable_group_order(groups_BN: Tensor, group_num: int) -> Tensor:
    """Order that brings the tokens of a group together, raster order kept inside each group.

    Args:
        groups_BN: group of every token, integers in [0, group_num).

    Returns:
        (B, N): for each image, the index among all B*N tokens of the token that comes at each place.

    Note:
        Narrow integer keys in one dimension take torch's radix sort, 10 to 100 times faster than sorting int64 rows.
    """
    form = active_form()
    if form is not None:
        order, places = counting_order(groups_BN.flatten().int(), group_num)
        order_BN = order[None]
        form.keep_places(order_BN, places)
        return order_BN
    batch, _ = groups_BN.shape
    dtype = torch.int16 if batch * group_num <= torch.iinfo(torch.int16).max else torch.int32
    image = torch.arange(batch, device=groups_BN.device)[:, None]
    return (groups_BN + image * group_num).flatten().to(dtype).sort(stable=True).indices.view_as(groups_BN)


def sorted_windows(order_BN: Tensor, group_size: int, reach: int = 1) -> Windows:
    """Equal sub-groups of tokens in the order `order_BN` of `stable_group_order`, as windows to attend in.

    The order is mirrored where the last sub-groups need more tokens than there are.

    Args:
        group_size: tokens of a sub-group; one sub-group where there are fewer.
        reach: sub-groups whose keys a query sees: its own and those that follow.
    """
    length = order_BN.shape[1]
    size = at_most(group_size, length)
    number = (length + size - 1) // size
    stop = (number + reach - 1) * size
    form = active_form()
    if form is not None:
        places = form.plan(("sorted", stop, length), partial(mirrored_index, 0, stop, length, order_BN.device))
        rows = order_BN.index_select(1, places)
        return Windows(rows, number, size, size, reach * size, length, place_of=form.places_of(order_BN))
    places = mirrored_index(0, stop, length, order_BN.device)
    return Windows(order_BN[:, places].int(), number, step=size, queries=size, keys=reach * size, valid=length)


class MultiplyAdds(NamedTuple):
    """Multiply-adds of one image, as papers count them: one for each product that is added up."""

    conv_linear: float  # convolutions and linear layers; what most papers mean by "Multi-Adds"
    attention: float  # products with queries, keys and values, and with token centres

    def __add__(self, other: tuple) -> "MultiplyAdds":
        return MultiplyAdds(self[0] + other[0], self[1] + other[1])


class AxisPlan:
    """How overlapping patches of `patch` px every `patch - 2` px lie along one axis of `side` px.

    The last patch is shifted back to end at the border; a side shorter than `patch` is one patch. Where patches overlap
    their values are summed and halved once for each band `[min(a, L), a + 2)`, a = start of a patch on the regular grid
    but the first, L = start of the last patch.

    Everything is computed by integer tensors, so that a compiled graph holds for all sizes.

    Source: CATANet (arXiv 2503.06896), local-region self-attention; the band rule is that of the published weights.
    """

    def __init__(self, side: int, patch: int, device: torch.device):
        self.stride, self.patch = patch - 2, at_most(patch, side)
        self.last = side - self.patch
        self.count = (self.last + self.stride - 1) // self.stride + 1
        self.dtype = torch.int64 if active_form() is None else torch.int32
        self.pixel = torch.arange(side, dtype=self.dtype, device=device)

    def starts(self) -> Tensor:
        """First pixel of each patch, (count,)."""
        return self.start(torch.arange(self.count, dtype=self.dtype, device=self.pixel.device))

    def start(self, patch: Tensor) -> Tensor:
        """First pixel of the patches with these indices."""
        return (patch * self.stride).clamp(max=self.last)

    def covering(self) -> list[tuple[Tensor, Tensor, Tensor]]:
        """(patch, offset in it, whether there is one) for every pixel: the last patch over it, and the two before."""
        top = torch.where(self.pixel >= self.last, self.count - 1, self.pixel // self.stride)
        found = []
        for back in range(3):  # bands of 2 px and one shifted patch: never more than three patches over a pixel
            patch = (top - back).clamp(min=0)
            offset = self.pixel - self.start(patch)
            found.append((patch, offset, (top >= back) & (offset < self.patch)))
        return found

    def taps(self) -> tuple[Tensor, Tensor, Tensor]:
        """What is added up at every pixel, (taps, side): patch, offset in it, and the factor on it, 0 for none."""
        top = torch.where(self.pixel >= self.last, self.count - 1, self.pixel // self.stride)
        back = torch.arange(3, dtype=self.dtype, device=self.pixel.device)[:, None]  # see `covering`
        patch = (top - back).clamp(min=0)
        offset = self.pixel - self.start(patch)
        there = (top >= back) & (offset < self.patch)
        taps = patch, offset * there, self.weight(torch.float32) * there.to(torch.float32)
        if torch.compiler.is_compiling():
            return taps
        used = there.any(dim=1)  # of a final size only what counts
        return taps[0][used], taps[1][used], taps[2][used]

    def weight(self, dtype: torch.dtype) -> Tensor:
        """Factor on the sum of each pixel's values, (side,)."""
        regular, end = self.pixel // self.stride, (self.count - 1) * self.stride + 2
        in_regular_band = (regular >= 1) & (regular <= self.count - 2) & (self.pixel - regular * self.stride < 2)
        in_last_band = (self.pixel >= self.last) & (self.pixel < end) & (self.count > 1)
        return torch.where(in_regular_band, 0.5, 1.0).to(dtype) * torch.where(in_last_band, 0.5, 1.0).to(dtype)

    def coverage(self, dtype: torch.dtype) -> Tensor:
        """Weight times number of patches over each pixel, (side,); 1 where patches overlap two by two."""
        return self.weight(dtype) * sum((there.to(dtype) for _, _, there in self.covering()), torch.zeros(()))


class PatchGrid:
    """Overlapping square patches of an H x W map: `windows` to attend in, and `merge` to blend what comes out of them.

    Args:
        size: (H, W) in pixels, each at least 1.
        patch: side of a patch in pixels, at least 3; the stride is `patch - 2`.
    """

    def __init__(self, size: tuple[int, int], patch: int, device: torch.device):
        self.size = size
        self.key = (*size, patch)
        self.device = device
        self.y, self.x = (AxisPlan(side, patch, device) for side in size)
        self.count = self.y.count * self.x.count
        self.area = self.y.patch * self.x.patch
        self._taps: tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]] | None = None

    def pixels(self) -> Tensor:
        """The token under every pixel of every patch, (patches * area,)."""
        rows, columns = (
            plan.starts()[:, None] + torch.arange(plan.patch, dtype=plan.dtype, device=self.device)
            for plan in (self.y, self.x)
        )
        return (rows[:, None, :, None] * self.size[1] + columns[None, :, None, :]).flatten()

    def windows(self, batch: int) -> Windows:
        """The patches of `batch` images as windows over all their tokens."""
        form = active_form()
        if form is not None:
            pixels = form.plan(("pixels", *self.key), self.pixels)[None]
            return Windows(pixels, self.count, self.area, self.area, self.area, valid=pixels.shape[1])
        image = torch.arange(batch, dtype=torch.int32, device=self.device)[:, None] * (self.size[0] * self.size[1])
        pixels = self.pixels().int() + image
        return Windows(pixels, self.count, step=self.area, queries=self.area, keys=self.area, valid=pixels.shape[1])

    def merge(self, p_BMC: Tensor) -> Tensor:
        """(B, patches * area, C) to (B, N, C): the weighted sum of what the patches say of a pixel."""
        form = active_form()
        if form is not None:
            return self._merge_in_graph(p_BMC, form)
        total = _AddUp.apply(p_BMC, self)
        return total * (self.y.weight(total.dtype)[:, None] * self.x.weight(total.dtype)).flatten()[:, None]

    def scale_as_merged(self, t_BNC: Tensor) -> Tensor:
        """(B, N, C) tokens taken into patches and merged: the same, but where weights do not add up to one."""
        form = active_form()
        if form is not None:
            factor, is_one = form.plan(("coverage", *self.key), self._coverage_in_graph)
            return t_BNC if is_one else t_BNC * factor
        coverage = self.y.coverage(t_BNC.dtype)[:, None] * self.x.coverage(t_BNC.dtype)
        if not torch.compiler.is_compiling() and self.device.type == "cpu" and bool((coverage == 1).all()):
            return t_BNC
        return t_BNC * coverage.flatten()[:, None]

    def _coverage_in_graph(self) -> tuple[Tensor, bool]:
        """The factor on each token, (N, 1), and whether all are known to be 1."""
        (_, x_factor), (_, y_factor) = self._taps_in_graph()
        factor = (_total(y_factor) * _total(x_factor).flatten(2)).flatten()[:, None]  # (1, H, 1) and (1, 1, W)
        return factor, not torch.compiler.is_compiling() and bool((factor == 1).all())

    def _merge_in_graph(self, p_BMC: Tensor, form: GraphForm) -> Tensor:
        """`merge` along rows, then along columns, so that plans are short and whole rows are copied."""
        (x_places, x_factor), (y_places, y_factor) = form.plan(("taps", *self.key), self._taps_in_graph)
        # By indices of several dimensions: a tracer takes reshapes of such sizes for conditions on them.
        along_x = _total(F.embedding(x_places, p_BMC.flatten(0, 1)) * x_factor)
        along_y = _total(F.embedding(y_places, along_x.flatten(2, 3).flatten(0, 1)) * y_factor)
        return along_y.view(1, self.size[0] * self.size[1], p_BMC.shape[2])

    def _taps_in_graph(self) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
        """What is added up, and the factors on it.

        Along x for every row of every row of patches, (taps, R, W) and (taps, 1, W, 1); along y (taps, H) and
        (taps, H, 1).
        """
        if self._taps is not None:
            return self._taps
        row = torch.arange(self.y.count * self.y.patch, dtype=torch.int32, device=self.device)
        patch_row = row // self.y.patch
        first = patch_row * (self.x.count * self.area) + (row - patch_row * self.y.patch) * self.x.patch
        patch, offset, x_factor = self.x.taps()
        x_places = first[:, None] + (patch * self.area + offset)[:, None]
        patch, offset, y_factor = self.y.taps()
        self._taps = (x_places, x_factor[:, None, :, None]), (patch * self.y.patch + offset, y_factor[:, :, None])
        return self._taps

    def take(self, t_BNC: Tensor) -> Tensor:
        """Every patch's pixels: (B, N, C) to (B, patches * area, C)."""
        return _rows_of_each(t_BNC, self.pixels())

    def add_up(self, p_BMC: Tensor) -> Tensor:
        """Sum of what the patches say of every pixel, the adjoint of `take`: (B, patches * area, C) to (B, N, C)."""
        total = p_BMC.new_zeros(())
        for i, (row_patch, row_offset, row_there) in enumerate(self.y.covering()):
            row_slot = row_patch * (self.x.count * self.area) + row_offset * self.x.patch
            for j, (column_patch, column_offset, column_there) in enumerate(self.x.covering()):
                column_slot = column_patch * self.area + column_offset
                if i == j == 0:  # every pixel lies in a patch
                    total = _rows_of_each(p_BMC, (row_slot[:, None] + column_slot).flatten()).unflatten(1, self.size)
                elif torch.compiler.is_compiling() or p_BMC.is_meta:  # no shape may depend on a mask
                    values = _rows_of_each(p_BMC, (row_slot[:, None] + column_slot).flatten()).unflatten(1, self.size)
                    total = total + values * (row_there[:, None] & column_there).to(values.dtype)[:, :, None]
                else:  # the bands are a tenth of the pixels
                    rows, columns = row_there.nonzero(), column_there.nonzero()[:, 0]
                    values = _rows_of_each(p_BMC, (row_slot[rows] + column_slot[columns]).flatten())
                    total[:, rows, columns] += values.unflatten(1, (len(rows), len(columns)))
        return total.flatten(1, 2)


def _total(x: Tensor) -> Tensor:
    """Sum over the first dimension, which stays."""
    parts = x.split(1) if x.shape[0] > 1 else [x]
    return sum(parts[1:], parts[0])


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


def relative_position_index(side: int) -> Tensor:
    """Row, in a table of (2*side - 1)^2 biases, of every pair (query, key) of pixels of a window, (S, S) int64."""
    y, x = torch.arange(side).repeat_interleave(side), torch.arange(side).repeat(side)
    return (y[:, None] - y + side - 1) * (2 * side - 1) + x[:, None] - x + side - 1


def relative_position_bias(table: Tensor, side: int) -> Tensor:
    """`table[relative_position_index(side)]`, (heads, S, S) [query, key], from a table ((2*side - 1)^2, heads).

    The biases of a query are a window of the table. Taking it as a view has a gradient ten times as fast as an index.
    """
    form = active_form()
    if form is not None:
        index = form.constant(("relative", side), lambda: relative_position_index(side).int().flatten())
        return table.T.index_select(1, index).unflatten(1, (side**2, side**2))
    turned = table.T.unflatten(1, (2 * side - 1, 2 * side - 1)).flip(1, 2)
    return turned.unfold(1, side, 1).unfold(2, side, 1).flip(1, 2).flatten(3).flatten(1, 2)


class ShiftedWindows:
    """Square windows that tile the maps of a batch, moved down and right by `shift` px around the border.

    Made once a forward for each size and shift. Windows that reach around the border come last: their pixels carry
    labels, and those of different labels do not lie side by side in the image.

    Args:
        batch: images.
        size: (H, W) in pixels, multiples of `side`.
        side: of a window in pixels.
        shift: 0, or `side // 2`.

    Source: Swin Transformer (arXiv 2103.14030), Sec. 3.2.
    """

    def __init__(self, batch: int, size: tuple[int, int], side: int, shift: int, device: torch.device):
        form = active_form()
        self.apart: Tensor | None = None
        if form is not None:
            self._plan_in_graph(form, size, side, shift, device)
            return
        rows, columns = (
            ((torch.arange(length, device=device) + shift) % length).unflatten(0, (-1, side)) for length in size
        )
        self.size, self.side = size, side
        number = (len(rows), len(columns))
        tokens = rows[:, None, :, None] * size[1] + columns[None, :, None, :]
        self.labels: Tensor | None = None
        self.uniform = number[0] * number[1]
        if shift:
            behind = (torch.arange(side, device=device) >= side - shift).int()  # pixels from across the border
            last_row, last_column = (torch.arange(n, device=device) == n - 1 for n in number)
            labels = (last_row[:, None] * behind)[:, None, :, None] * 2 + (last_column[:, None] * behind)[:, None]
            self.labels = _border_last(labels).flatten(1).int()
            tokens = _border_last(tokens)
            self.uniform = (number[0] - 1) * (number[1] - 1)
        area = side**2
        image = torch.arange(batch, device=device)[:, None] * (size[0] * size[1])
        places = (tokens.flatten() + image).int()
        self.windows = Windows(places, number[0] * number[1], step=area, queries=area, keys=area, valid=places.shape[1])

    def _plan_in_graph(
        self, form: GraphForm, size: tuple[int, int], side: int, shift: int, device: torch.device
    ) -> None:
        """As `__init__`, but with windows in raster order, and what lies apart in all of them."""
        self.size, self.side, self.uniform, area = size, side, 0, side**2
        rows, columns = (length // side for length in size)

        def count(length: int) -> Tensor:
            return torch.arange(length, dtype=torch.int32, device=device)

        def places() -> tuple[Tensor, Tensor]:
            # From one number each, for a tracer takes reshapes of such sizes for conditions on them.
            place = count(rows * columns * area)
            window, inside = place // area, place % area
            y = (window // columns * side + inside // side + shift) % size[0]
            x = (window % columns * side + inside % side + shift) % size[1]
            token = count(rows * columns * area)
            from_y, from_x = (token // size[1] + (size[0] - shift)) % size[0], (token + (size[1] - shift)) % size[1]
            window = from_y // side * columns + from_x // side
            return y * size[1] + x, window * area + from_y % side * side + from_x % side

        def labels() -> Tensor:
            window, inside = count(rows * columns), count(area)
            in_last_row = (window // columns == rows - 1).int()[:, None]
            in_last_column = (window % columns == columns - 1).int()[:, None]
            behind_y, behind_x = (inside // side >= side - shift).int(), (inside % side >= side - shift).int()
            return in_last_row * behind_y * 2 + in_last_column * behind_x

        tokens, place_of = form.plan(("windows", *size, side, shift), places)
        self.windows = Windows(tokens[None], rows * columns, area, area, area, rows * columns * area, place_of)
        if shift:
            self.labels = form.plan(("labels", *size, side, shift), labels)
            self.apart = (self.labels[:, None, :, None] != self.labels[:, None, None]).to(torch.float32) * FAR

    def attend(self, qkv: Tensor, heads: Heads, bias_hSS: Tensor) -> Tensor:
        """Softmax attention in every window, scale 1/sqrt(D), with a bias for every pair of pixels.

        Args:
            qkv: (B*N, 3C) rows in raster order: all queries, then all keys, then all values.

        Returns:
            (B*N, C), in that order too.
        """
        if active_form() is not None:
            # What lies apart is computed once for all layers.
            return graph_attention(qkv, self.windows, heads, scatter=True, bias_hQK=bias_hSS, apart=self.apart)
        bias = PositionBias(bias_hSS, self.labels, self.uniform)
        return gathered_attention(qkv, self.windows, heads, scatter=True, bias=bias)


def _border_last(x: Tensor) -> Tensor:
    """(rows, columns, ...) of windows as a list, those of the last row and the last column behind the others."""
    parts = (x[:-1, :-1], x[:-1, -1:], x[-1:, :])
    return torch.cat([part.flatten(0, 1) for part in parts])


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

    def __init__(self, dim: int, kernel: int, bias: bool = True):
        super().__init__()
        conv = nn.Conv2d(dim, dim, kernel, padding=kernel // 2, groups=dim, bias=bias)
        self.depthwise_conv = nn.Sequential(conv, nn.GELU())

    def forward(self, t_BNC: Tensor, size: tuple[int, int]) -> Tensor:
        """(B, N, dim) tokens of an (H, W) map to the same shape."""
        return map_to_tokens(self.depthwise_conv(tokens_to_map(t_BNC, size)))


class ConvFFN(nn.Module):
    """Feed-forward network with a depth-wise convolution beside its hidden layer.

    `u = [GELU(fc1 t); e]; u <- u + GELU(DW(u)); fc2 u`, with `e` further channels from elsewhere, if any.

    Args:
        kernel: side of the depth-wise convolution in pixels, odd.
        extra: channels of `e`.

    Shape: (B, N, C), (H, W) -> (B, N, C).
    """

    def __init__(self, dim: int, hidden_dim: int, kernel: int = 5, extra: int = 0, bias: bool = True):
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden_dim, bias=bias)
        self.act = nn.GELU()
        self.dwconv = DepthwiseConv(hidden_dim + extra, kernel, bias)
        self.fc2 = nn.Linear(hidden_dim + extra, dim, bias=bias)

    def multiply_adds(self, size: tuple[int, int]) -> MultiplyAdds:
        """Multiply-adds on an (H, W) map."""
        weights = (*self.fc1.parameters(), *self.dwconv.parameters(), *self.fc2.parameters())
        return MultiplyAdds(size[0] * size[1] * sum(w.numel() for w in weights if w.ndim > 1), 0)

    def forward(self, t_BNC: Tensor, size: tuple[int, int], e_BNC: Tensor | None = None) -> Tensor:
        """(B, N, C) tokens of an (H, W) map to the same shape."""
        u = self.act(self.fc1(t_BNC))
        if e_BNC is not None:
            u = torch.cat([u, e_BNC.to(u.dtype)], dim=2)
        return self.fc2(u + self.dwconv(u, size))
