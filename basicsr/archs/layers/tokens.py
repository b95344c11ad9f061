"""Tokens and maps, mirrored borders, and the precision and memory that their layers compute with.

Shapes: B batch, H x W map size, N = H*W tokens in raster order, C channels.
Token sequences are (B, N, C); a map in channels-last memory and its tokens are two views of the same bytes, so the
networks change between them for free.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from basicsr.archs.layers.export_mode import active_form
from basicsr.archs.layers.plans import planned


def full_precision(device: torch.device) -> AbstractContextManager[Any]:
    """Return a context without autocast: for choices (argmax) that rounding would flip."""
    available = torch.amp.is_autocast_available(device.type)
    return torch.autocast(device.type, enabled=False) if available else nullcontext()


def recomputed(function: Callable[..., Any], *inputs: Any) -> Any:
    """Return `function(*inputs)`, recomputed in the backward pass to save memory.

    The random state is not kept: nothing here is random, and keeping it would stall a GPU.
    """
    return checkpoint(function, *inputs, use_reentrant=False, preserve_rng_state=False)


def tokens_to_map(t_BNC: Tensor, size: tuple[int, int]) -> Tensor:
    """Return (B, H*W, C) tokens as a (B, C, H, W) map in channels-last memory; a view."""
    return t_BNC.unflatten(1, size).permute(0, 3, 1, 2)


def map_to_tokens(x_BCHW: Tensor) -> Tensor:
    """Return a (B, C, H, W) map as (B, H*W, C) tokens; a view where the map is in channels-last memory."""
    return x_BCHW.permute(0, 2, 3, 1).flatten(1, 2)


def channels_last(x_BCHW: Tensor) -> Tensor:
    """Return the map in channels-last memory, so that its tokens are a view; in an exported graph as it is."""
    return x_BCHW if active_form() else x_BCHW.contiguous(memory_format=torch.channels_last)


def pixel_unshuffle(x: Tensor, factor: int) -> Tensor:
    """Return `F.pixel_unshuffle`; in an exported graph, of one image, with at most four dimensions."""
    if not active_form():
        return F.pixel_unshuffle(x, factor)
    _, channels, height, width = x.shape
    x = x.view(channels, height // factor, factor, width).transpose(1, 2)
    x = x.reshape(factor * channels, height // factor, width // factor, factor).permute(0, 3, 1, 2)
    return x.reshape(1, factor**2 * channels, height // factor, width // factor)


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
        return x_BCHW  # inputs of a graph for any size are multiples
    for dim in (2, 3):
        length = x_BCHW.shape[dim]
        target = (length + multiple - 1) // multiple * multiple  # positive, because ONNX rounds quotients towards zero
        if torch.compiler.is_compiling() or target > length:  # a compiled graph serves other sizes, too
            x_BCHW = x_BCHW.index_select(dim, planned(mirrored_index, 0, target, length, like=x_BCHW))
    return x_BCHW
