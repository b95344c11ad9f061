"""Blocks that more than one network is built from: tokens and maps, sorted groups, norms, conv FFN.

Shapes: B batch, H x W map size, N = H*W tokens in raster order, C channels, h heads, D padded head width, W windows of
S pixels.
Token sequences are (B, N, C); a map in channels-last memory and its tokens are two views of the same bytes, so the
networks change between them for free.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from basicsr.archs.kernels import runs_triton
from basicsr.archs.layers.export_mode import active_form, at_most, counting_order, groups_are_watched, settled
from basicsr.archs.layers.plans import planned, sizes_are_numbers
from basicsr.archs.layers.windows import Inverse, Windows, repeats_gradients, slots_by_entry

SIMILARITY_ROWS = 1 << 16  # tokens whose similarities to all centres are held at a time


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
    """Return positions `start .. stop-1`, int32, of a sequence of `length` entries that is mirrored at its ends.

    Entry `i` is `i mod 2n`, and `2n - 1 - i` in the second half of that period, so a longer sequence keeps bouncing.
    """
    i = torch.arange(start, stop, dtype=torch.int32, device=device) % (2 * length)
    return torch.where(i < length, i, 2 * length - 1 - i)


def mirrored_to_multiple(x_BCHW: Tensor, multiple: int) -> Tensor:
    """Return the map with sides that are multiples of `multiple`, mirrored at the bottom and right, edge included."""
    form = active_form()
    if form is not None and not form.is_static:
        return x_BCHW  # whoever traces a graph for any size promises multiples
    for dim in (2, 3):
        length = x_BCHW.shape[dim]
        target = (length + multiple - 1) // multiple * multiple  # positive, for ONNX rounds quotients towards zero
        if torch.compiler.is_compiling() or target > length:  # a compiled graph holds for other sizes too
            x_BCHW = x_BCHW.index_select(dim, planned(mirrored_index, 0, target, length, like=x_BCHW))
    return x_BCHW


def takes_kmeans_kernel(tokens: Tensor, centres: Tensor) -> bool:
    """Return whether the kernels for nearest centres serve: centres in float32, and nobody who needs similarities."""
    return runs_triton(tokens) and centres.dtype == torch.float32 and not groups_are_watched()


def nearest_centre(z_BNC: Tensor, unit_centres_TC: Tensor) -> Tensor:
    """Return the index of the centre with the largest dot product for each token, (B, N); of equals the first.

    Without gradient. Evaluations hold the similarities of `SIMILARITY_ROWS` tokens at a time.
    """
    tokens = z_BNC.flatten(0, 1)
    with torch.no_grad():
        if takes_kmeans_kernel(tokens, unit_centres_TC):
            from basicsr.archs.kernels import kmeans

            return kmeans.nearest_centre(tokens, unit_centres_TC).view(z_BNC.shape[:2])
        parts = tokens.split(SIMILARITY_ROWS) if sizes_are_numbers(tokens) else [tokens]
        nearest = [(part @ unit_centres_TC.T).argmax(dim=-1) for part in parts]
        groups = (nearest[0] if len(nearest) == 1 else torch.cat(nearest)).view(z_BNC.shape[:2])
        return settled(groups, lambda: z_BNC @ unit_centres_TC.T)


def stable_group_order(groups_BN: Tensor, group_num: int) -> Tensor:
    """Return the order that brings the tokens of a group together, raster order kept inside each group.

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
    batch = groups_BN.shape[0]
    if batch > 1:
        groups_BN = groups_BN + planned(_first_groups, batch, group_num, like=groups_BN)
    dtype = torch.int16 if batch * group_num <= torch.iinfo(torch.int16).max else torch.int32
    return groups_BN.flatten().to(dtype).sort(stable=True).indices.view_as(groups_BN)


def _first_groups(batch: int, group_num: int, device: torch.device) -> Tensor:
    """Return the number of the first group of each image, (batch, 1), where groups are numbered through the batch."""
    return torch.arange(batch, device=device)[:, None] * group_num


def sorted_windows(order_BN: Tensor, group_size: int, reach: int = 1) -> Windows:
    """Return equal sub-groups of tokens in the order `order_BN` of `stable_group_order`, as windows to attend in.

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
    place_of = form.places_of(order_BN) if form is not None else None
    order_BN = order_BN.int()
    rows = order_BN
    if form is not None or torch.compiler.is_compiling() or stop > length:
        rows = order_BN.index_select(1, planned(mirrored_index, 0, stop, length, like=order_BN))
    keys = reach * size
    inverse = None
    if repeats_gradients(order_BN):
        inverse = Inverse(order_BN, planned(_sorted_key_slots, number, size, keys, length, like=order_BN))
    return Windows(rows, number, size, size, keys, length, place_of, inverse)


def _sorted_key_slots(number: int, step: int, keys: int, length: int, device: torch.device) -> Tensor:
    """Return the key slots of sorted sub-groups that hold each place of the order; see `Inverse`."""
    places = mirrored_index(0, (number - 1) * step + keys, length, device)
    return slots_by_entry(places.unfold(0, keys, step).flatten(), length)


class MultiplyAdds(NamedTuple):
    """Multiply-adds of one image, as papers count them: one for each product that is added up."""

    conv_linear: float  # convolutions and linear layers; what most papers mean by "Multi-Adds"
    attention: float  # products with queries, keys and values, and with token centres

    def __add__(self, other: tuple) -> "MultiplyAdds":
        return MultiplyAdds(self[0] + other[0], self[1] + other[1])


def recomputed(function: Callable[..., Any], *inputs: Any) -> Any:
    """Return `function(*inputs)`, computed again in the backward pass instead of keeping what that needs.

    The random state is not kept, for nothing here is random and a GPU would have to be waited for.
    """
    return checkpoint(function, *inputs, use_reentrant=False, preserve_rng_state=False)


class TokenNorm(nn.LayerNorm):
    """LayerNorm over the channels of tokens, on NVIDIA GPUs by a kernel for rows as narrow as these.

    Args:
        dim: channels C.
    """

    def __init__(self, dim: int):
        super().__init__(dim)

    def forward(self, t: Tensor) -> Tensor:
        """Return (..., C) tokens normalised; float32 under autocast, as PyTorch's are."""
        if not runs_triton(t):
            return super().forward(t)
        from basicsr.archs.kernels.layer_norm import layer_norm

        t = t.float() if torch.is_autocast_enabled(t.device.type) else t
        return layer_norm(t, self.weight, self.bias, self.eps)


class PreNorm(nn.Module):
    """LayerNorm over the channels, then `fn`."""

    def __init__(self, dim: int, fn: nn.Module):
        super().__init__()
        self.norm = TokenNorm(dim)
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
