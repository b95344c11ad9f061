"""Square windows that tile a map, shifted or not, with a learned bias for each relative position.

Shapes: B batch, H x W map size in pixels, N = H*W tokens in raster order, h heads, S pixels of a window.

Source: Swin Transformer (arXiv 2103.14030), Sec. 3.2.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from basicsr.archs.layers.attention import gathered_attention
from basicsr.archs.layers.export_mode import active_form, has_values
from basicsr.archs.layers.plans import planned
from basicsr.archs.layers.windows import Heads, PositionBias, Windows, far_apart


class WindowPlan(NamedTuple):
    """The pixels of all windows of a batch; those that reach around the border come last."""

    rows: Tensor  # (B, N) int32: the token at every place, numbered through the batch
    place_of: Tensor  # (B*N,) int32: the place of every token
    labels: Tensor | None  # (windows, S) int32: pixels of different labels do not lie side by side in the image
    uniform: int  # windows at the beginning that have one label


class ShiftedWindows:
    """Square windows that tile the maps of a batch, moved down and right by `shift` px around the border.

    Made once a forward for each size and shift.

    Args:
        size: (H, W) in pixels, multiples of `side`.
        side: of a window in pixels.
        shift: 0, or `side // 2`.
        like: a tensor of the batch, (B, ...), on the device of the attention.
    """

    def __init__(self, size: tuple[int, int], side: int, shift: int, like: Tensor):
        self.size, self.side = size, side
        plan = planned(_window_plan, like.shape[0], *size, side, shift, like=like)
        self.labels, self.uniform = plan.labels, plan.uniform
        area, places = side**2, size[0] * size[1]
        self.windows = Windows(plan.rows, places // area, area, area, area, valid=places, place_of=plan.place_of)
        self.far = far_apart(plan.labels) if plan.labels is not None and active_form() is not None else None

    def attend(self, qkv: Tensor, heads: Heads, bias_hSS: Tensor) -> Tensor:
        """Return softmax attention in every window, scale 1/sqrt(D), with a bias for every pair of pixels.

        Args:
            qkv: (B*N, 3C) rows in raster order: all queries, then all keys, then all values.

        Returns:
            (B*N, C), in that order too.
        """
        bias = PositionBias(bias_hSS, self.labels, self.uniform, self.far)
        return gathered_attention(qkv, self.windows, heads, scatter=True, bias=bias)


def window_grids(size: tuple[int, int], side: int, like: Tensor) -> tuple[ShiftedWindows, ShiftedWindows]:
    """Return the windows of the maps of a batch, and those shifted by half a window; see `ShiftedWindows`."""
    return ShiftedWindows(size, side, 0, like), ShiftedWindows(size, side, side // 2, like)


def _window_plan(batch: int, height: int, width: int, side: int, shift: int, device: torch.device) -> WindowPlan:
    """Return the plan of windows; each tensor follows from one range, as exports for any size need it."""
    area, rows, columns = side**2, height // side, width // side

    def count(length: int) -> Tensor:
        return torch.arange(length, dtype=torch.int32, device=device)

    place = count(rows * columns * area)
    window, inside = place // area, place % area
    y = (window // columns * side + inside // side + shift) % height
    x = (window % columns * side + inside % side + shift) % width
    tokens = y * width + x
    from_y, from_x = (place // width + (height - shift)) % height, (place + (width - shift)) % width  # of a token
    window_of = from_y // side * columns + from_x // side
    inside_of = from_y % side * side + from_x % side
    labels, uniform = None, rows * columns
    if shift:
        labels = _labels(count(rows * columns), count(area), (rows, columns), side, shift)
        uniform = 0
        if has_values(place):  # windows with several labels last
            several = (labels != labels[:, :1]).any(dim=1)
            order = several.int().argsort(stable=True)
            labels, tokens = labels[order], tokens.view(-1, area)[order].flatten()
            window_of = order.argsort().int()[window_of.long()]
            uniform = int((~several).sum())
    place_of = window_of * area + inside_of
    if batch == 1:
        return WindowPlan(tokens[None], place_of, labels, uniform)
    first = count(batch)[:, None] * (height * width)
    return WindowPlan(tokens + first, (place_of + first).flatten(), labels, uniform)


def _labels(window: Tensor, inside: Tensor, number: tuple[int, int], side: int, shift: int) -> Tensor:
    """Return the label of every pixel of every window, (windows, S) int32: which sides of the border it lies across."""
    in_last_row = (window // number[1] == number[0] - 1).int()[:, None]
    in_last_column = (window % number[1] == number[1] - 1).int()[:, None]
    behind_y, behind_x = (inside // side >= side - shift).int(), (inside % side >= side - shift).int()
    return in_last_row * behind_y * 2 + in_last_column * behind_x


def border_mask(size: tuple[int, int], side: int, shift: int) -> Tensor:
    """Return what is added to the scores in each window in raster order, (windows, S, S): 0, or -100 across the border.

    Args:
        size: (H, W) in pixels, multiples of `side`.
        side: of a window in pixels.
        shift: of the windows in pixels.
    """
    number = size[0] // side, size[1] // side
    labels = _labels(torch.arange(number[0] * number[1]), torch.arange(side**2), number, side, shift)
    return far_apart(labels)[:, 0] + 0.0  # no negative zeros


def relative_position_index(side: int) -> Tensor:
    """Return the row, in a table of (2*side - 1)^2 biases, of every pair (query, key) of pixels, (S, S) int64."""
    y, x = torch.arange(side).repeat_interleave(side), torch.arange(side).repeat(side)
    return (y[:, None] - y + side - 1) * (2 * side - 1) + x[:, None] - x + side - 1


def relative_position_bias(table: Tensor, side: int) -> Tensor:
    """Return `table[relative_position_index(side)]`, (heads, S, S) [query, key], from a table ((2*side - 1)^2, heads).

    The biases of a query are a window of the table. Taking it as a view has a gradient ten times as fast as an index.
    """
    form = active_form()
    if form is not None:
        index = form.constant(("relative", side), lambda: relative_position_index(side).int().flatten())
        return table.T.index_select(1, index).unflatten(1, (side**2, side**2))
    turned = table.T.unflatten(1, (2 * side - 1, 2 * side - 1)).flip(1, 2)
    return turned.unfold(1, side, 1).unfold(2, side, 1).flip(1, 2).flatten(3).flatten(1, 2)
