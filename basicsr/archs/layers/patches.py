"""Overlapping square patches of a map: windows to attend in, and the blending of their outputs.

Shapes: B batch, H x W map size in pixels, N = H*W tokens in raster order, C channels.

Source: CATANet (arXiv 2503.06896), local-region self-attention; the rule of the bands is that of the published weights.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from basicsr.archs.layers.export_mode import active_form, at_most, has_values
from basicsr.archs.layers.plans import planned
from basicsr.archs.layers.windows import Inverse, Windows, repeats_gradients, slots_by_entry

MAX_TAPS = 3  # bands of 2 px and one shifted patch: never more than three patches over a pixel along an axis


class PatchAxis:
    """How overlapping patches of `patch` px every `patch - 2` px lie along one axis of `side` px.

    The last patch is shifted back to end at the border; a side shorter than `patch` is one patch. Where patches overlap
    their values are summed and halved once for each band `[min(a, L), a + 2)`, a = start of a patch on the regular grid
    but the first, L = start of the last patch.
    """

    def __init__(self, side: int, patch: int):
        self.side, self.stride, self.patch = side, patch - 2, at_most(patch, side)
        self.last = side - self.patch
        self.count = (self.last + self.stride - 1) // self.stride + 1

    def pixels(self, device: torch.device) -> Tensor:
        """Return the pixels under each patch, (count, patch) int32."""
        starts = (torch.arange(self.count, dtype=torch.int32, device=device) * self.stride).clamp(max=self.last)
        return starts[:, None] + torch.arange(self.patch, dtype=torch.int32, device=device)

    def taps(self, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
        """Return the summands of every pixel, (taps, side): patch, offset in it, and factor, 0 for none.

        Taps are the last patch over a pixel and those before it; where `side` is a number, only those that are used.
        """
        pixel = torch.arange(self.side, dtype=torch.int32, device=device)
        back = torch.arange(MAX_TAPS, dtype=torch.int32, device=device)[:, None]
        top = torch.where(pixel >= self.last, self.count - 1, pixel // self.stride)
        patch = (top - back).clamp(min=0)
        offset = pixel - (patch * self.stride).clamp(max=self.last)
        covers = (top >= back) & (offset < self.patch)
        factor = self._band_factor(pixel) * covers.to(torch.float32)
        taps = patch, offset * covers, factor
        if not has_values(covers):
            return taps
        used = covers.any(dim=1)
        return taps[0][used], taps[1][used], taps[2][used]

    def _band_factor(self, pixel: Tensor) -> Tensor:
        """Return the factor on the sum at each pixel, (side,)."""
        regular, end = pixel // self.stride, (self.count - 1) * self.stride + 2
        in_regular_band = (regular >= 1) & (regular <= self.count - 2) & (pixel - regular * self.stride < 2)
        in_last_band = (pixel >= self.last) & (pixel < end) & (self.count > 1)
        return torch.where(in_regular_band, 0.5, 1.0) * torch.where(in_last_band, 0.5, 1.0)


class Blend(NamedTuple):
    """How the slots of all patches (their pixels, patch after patch) are added up at the tokens of a batch."""

    slots: Tensor  # (entries,) int32: token after token, the slots that are added up
    entry_tokens: Tensor  # (entries,) int32: the token of each entry, for devices that may lack embedding_bag
    first: Tensor  # (B*N,) int32: the first entry of each token
    factor: Tensor  # (entries,) float32 on the slots
    token_factor: Tensor  # (B*N, 1) float32: the same by token
    tokens: Tensor  # (B * slots of an image,) int32: the token of each slot


class PatchGrid:
    """Overlapping square patches of an H x W map: `windows` to attend in, and `merge` to blend what comes out of them.

    Args:
        size: (H, W) in pixels, each at least 1.
        patch: side of a patch in pixels, at least 3; the stride is `patch - 2`.
    """

    def __init__(self, size: tuple[int, int], patch: int):
        self.size, self.key = size, (*size, patch)
        self.y, self.x = (PatchAxis(side, patch) for side in size)
        self.count = self.y.count * self.x.count
        self.area = self.y.patch * self.x.patch

    def windows(self, batch: int, like: Tensor) -> Windows:
        """Return the patches of `batch` images as windows over all their tokens, on the device of `like`."""
        rows = planned(_patch_rows, batch, *self.key, like=like)
        inverse = None
        if repeats_gradients(like):
            tokens = planned(_tokens, batch, self.size[0] * self.size[1], like=like)
            inverse = Inverse(tokens, planned(_patch_key_slots, *self.key, like=like))
        area = self.area
        return Windows(rows, self.count, area, area, area, valid=rows.shape[1], inverse=inverse)

    def merge(self, p_BMC: Tensor) -> Tensor:
        """Return the weighted sum of the patches' values of each token, (B, N, C), from (B, patches * area, C)."""
        if active_form() is not None:
            return self._merge_in_graph(p_BMC)
        batch, _, channels = p_BMC.shape
        blend = planned(_blend, batch, *self.key, like=p_BMC)
        return _Merge.apply(p_BMC.reshape(-1, channels), blend).view(batch, -1, channels)

    def scale_as_merged(self, t_BNC: Tensor) -> Tensor:
        """Return (B, N, C) tokens as if taken into patches and merged: the same, but where factors do not sum to 1."""
        coverage = planned(_coverage, *self.key, like=t_BNC)
        return t_BNC if coverage is None else t_BNC * coverage.to(t_BNC.dtype)

    def _merge_in_graph(self, p_BMC: Tensor) -> Tensor:
        """Return `merge` of one image, along rows, then along columns: plans are short, and whole rows are copied."""
        (x_places, x_factor), (y_places, y_factor) = planned(_taps_by_axis, *self.key, like=p_BMC)
        # By indices of several dimensions: a tracer takes reshapes of such sizes for conditions on them.
        along_x = _total(F.embedding(x_places, p_BMC.flatten(0, 1)) * x_factor)
        along_y = _total(F.embedding(y_places, along_x.flatten(2, 3).flatten(0, 1)) * y_factor)
        return along_y.view(1, self.size[0] * self.size[1], p_BMC.shape[2])


def _patch_pixels(height: int, width: int, patch: int, device: torch.device) -> Tensor:
    """Return the token under every slot of one image, (slots,) int32."""
    rows, columns = (PatchAxis(side, patch).pixels(device) for side in (height, width))
    return (rows[:, None, :, None] * width + columns[None, :, None, :]).flatten()


def _patch_rows(batch: int, height: int, width: int, patch: int, device: torch.device) -> Tensor:
    """Return the token under every slot, numbered through the batch, (batch, slots) int32."""
    pixels = _patch_pixels(height, width, patch, device)[None]
    if batch == 1:
        return pixels
    return pixels + torch.arange(batch, dtype=torch.int32, device=device)[:, None] * (height * width)


def _tokens(batch: int, number: int, device: torch.device) -> Tensor:
    """Return all tokens, numbered through the batch, (batch, number) int32."""
    return torch.arange(batch * number, dtype=torch.int32, device=device).view(batch, number)


def _patch_key_slots(height: int, width: int, patch: int, device: torch.device) -> Tensor:
    """Return the slots that hold each token; see `Inverse`."""
    return slots_by_entry(_patch_pixels(height, width, patch, device), height * width)


def _blend(batch: int, height: int, width: int, patch: int, device: torch.device) -> Blend:
    """Return the plan of `merge`. Entries with factor 0 are left out where sizes are numbers."""
    y, x = PatchAxis(height, patch), PatchAxis(width, patch)
    (y_patch, y_offset, y_factor), (x_patch, x_offset, x_factor) = y.taps(device), x.taps(device)
    area = y.patch * x.patch
    y_slot = (y_patch * (x.count * area) + y_offset * x.patch).T  # (H, taps)
    x_slot = (x_patch * area + x_offset).T
    slots = (y_slot[:, None, :, None] + x_slot[None, :, None, :]).reshape(height * width, -1)
    factor = (y_factor.T[:, None, :, None] * x_factor.T[None, :, None, :]).reshape(height * width, -1)
    token_factor = factor.amax(dim=1, keepdim=True)
    token = torch.arange(height * width, dtype=torch.int32, device=device)
    tokens, first = token[:, None].expand_as(slots), token * slots.shape[1]
    if has_values(factor):
        used = factor > 0
        counts = used.sum(dim=1)
        tokens, slots, factor, first = tokens[used], slots[used], factor[used], counts.cumsum(0) - counts
    entries = factor.numel()
    image = torch.arange(batch, dtype=torch.int32, device=device)[:, None]
    return Blend(
        slots=(slots.flatten() + image * (y.count * x.count * area)).flatten(),
        entry_tokens=(tokens.flatten() + image * (height * width)).flatten(),
        first=(first + image * entries).flatten().int(),
        factor=factor.flatten().repeat(batch),
        token_factor=token_factor.repeat(batch, 1),
        tokens=_patch_rows(batch, height, width, patch, device).flatten(),
    )


def _coverage(height: int, width: int, patch: int, device: torch.device) -> Tensor | None:
    """Return the sum of the factors on each token, (N, 1); None where all are known to be 1."""
    (_, x_factor), (_, y_factor) = _taps_by_axis(height, width, patch, device)
    coverage = (_total(y_factor) * _total(x_factor).flatten(2)).flatten()[:, None]  # (1, H, 1) and (1, 1, W)
    return None if has_values(coverage) and bool((coverage == 1).all()) else coverage


def _taps_by_axis(
    height: int, width: int, patch: int, device: torch.device
) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Return the summands along each axis, and their factors.

    Along x for every row of every row of patches, (taps, R, W) and (taps, 1, W, 1); along y (taps, H) and (taps, H, 1).
    """
    y, x = PatchAxis(height, patch), PatchAxis(width, patch)
    area = y.patch * x.patch
    row = torch.arange(y.count * y.patch, dtype=torch.int32, device=device)
    patch_row = row // y.patch
    first = patch_row * (x.count * area) + (row - patch_row * y.patch) * x.patch
    x_patch, x_offset, x_factor = x.taps(device)
    y_patch, y_offset, y_factor = y.taps(device)
    x_places = first[:, None] + (x_patch * area + x_offset)[:, None]
    return (x_places, x_factor[:, None, :, None]), (y_patch * y.patch + y_offset, y_factor[:, :, None])


def _total(x: Tensor) -> Tensor:
    """Return the sum over the first dimension, which stays."""
    parts = x.split(1) if x.shape[0] > 1 else [x]
    return sum(parts[1:], parts[0])


class _Merge(torch.autograd.Function):
    """Blend slots (B*slots, C) into tokens (B*N, C); the gradient is a gather, where autograd would scatter."""

    @staticmethod
    def forward(ctx: Any, p: Tensor, blend: Blend) -> Tensor:
        ctx.blend = blend
        return (_sum_in_bags if p.device.type in ("cpu", "cuda") else _sum_entries)(p, blend)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return _Unmerge.apply(grads[0], ctx.blend), None


class _Unmerge(torch.autograd.Function):
    """The adjoint of `_Merge`: tokens (B*N, C) to slots (B*slots, C)."""

    @staticmethod
    def forward(ctx: Any, t: Tensor, blend: Blend) -> Tensor:
        ctx.blend = blend
        return (t * blend.token_factor.to(t.dtype)).index_select(0, blend.tokens)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return _Merge.apply(grads[0], ctx.blend), None


def _sum_in_bags(p: Tensor, blend: Blend) -> Tensor:
    """Return the weighted sums of slots (B*slots, C) at all tokens, (B*N, C)."""
    return F.embedding_bag(blend.slots, p, blend.first, mode="sum", per_sample_weights=blend.factor.to(p.dtype))


def _sum_entries(p: Tensor, blend: Blend) -> Tensor:
    """Return `_sum_in_bags` where PyTorch may have no bags: on MPS."""
    entries = p.index_select(0, blend.slots) * blend.factor[:, None].to(p.dtype)
    return p.new_zeros(len(blend.first), p.shape[1]).index_add_(0, blend.entry_tokens, entries)
