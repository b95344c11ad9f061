"""The three attentions of an ATD layer: to a window, to the token dictionary, and among pixels of one category.

Letters in shapes: see `atd_arch.py`. Parameter names follow the official releases.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from basicsr.archs.layers.atd_sizes import LayerSizes
from basicsr.archs.layers.attention import gathered_attention
from basicsr.archs.layers.export_mode import active_form, has_values
from basicsr.archs.layers.group_hook import recorded_groups
from basicsr.archs.layers.groups import sorted_windows
from basicsr.archs.layers.plans import planned
from basicsr.archs.layers.shifted_windows import ShiftedWindows, relative_position_bias, relative_position_index
from basicsr.archs.layers.tokens import full_precision
from basicsr.archs.layers.windows import Heads

LN_100 = 4.605170249938965  # bound of v1's logit scale, a float32 number in the release
# Similarities of pixels to the dictionary that an evaluation computes at a time: as many as the caches of a CPU hold,
# and on a GPU enough to fill a launch.
SIMILARITIES = {"cpu": 1 << 19}
SIMILARITIES_ON_GPU = 1 << 26


class WindowAttention(nn.Module):
    """Self-attention in shifted windows with a learned bias for each relative position."""

    def __init__(self, sizes: LayerSizes):
        super().__init__()
        self.heads = Heads(sizes.heads, sizes.dim // sizes.heads, sizes.dim // sizes.heads)
        self.relative_position_bias_table = nn.Parameter(torch.empty((2 * sizes.window - 1) ** 2, sizes.heads))
        nn.init.trunc_normal_(self.relative_position_bias_table, std=0.02)
        self.proj = nn.Linear(sizes.dim, sizes.dim, bias=sizes.proj_bias)
        if sizes.own_index:  # read by nothing; files hold it
            self.register_buffer("relative_position_index_SA", relative_position_index(sizes.window))

    def forward(self, qkv: Tensor, windows: ShiftedWindows) -> Tensor:
        """Return (B*N, C) from rows (B*N, 3C) of queries, keys and values."""
        bias_hSS = relative_position_bias(self.relative_position_bias_table, windows.side)
        return self.proj(windows.attend(qkv, self.heads, bias_hSS))


class DictionaryAttention(nn.Module):
    """Cross-attention of all pixels to a dictionary of M tokens, which also assigns each pixel to its nearest token."""

    def __init__(self, sizes: LayerSizes):
        super().__init__()
        v1 = sizes.category_channels is None
        self.top = 1.0 if v1 else 3.0
        self.scale = nn.Parameter(torch.full((sizes.tokens,), 0.5) if v1 else torch.ones(1))
        self.wq = nn.Linear(sizes.dim, sizes.reduced, bias=sizes.qkv_bias)
        self.wk = nn.Linear(sizes.dim, sizes.reduced, bias=sizes.qkv_bias)
        self.wv = nn.Linear(sizes.dim, sizes.dim, bias=sizes.qkv_bias)

    def forward(self, z_BNC: Tensor, td: Tensor, keep: bool) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return values (B, N, C), categories (B, N), and with `keep` the weights (B, N, M).

        Similarities and weights have full precision even under autocast, because the categories depend on them.

        Args:
            td: the dictionary, (M, C), or (B, M, C) with one for each image.
        """
        q, k, v = self.wq(z_BNC), self.wk(td), self.wv(td)
        number = td.shape[-2]
        with full_precision(z_BNC.device):
            dtype = torch.promote_types(q.dtype, torch.float32)
            q, k = F.normalize(q.to(dtype), dim=-1), F.normalize(k.to(dtype), dim=-1)
            k = k * (1 + self.scale.clamp(0.0, self.top) * math.log(number))[:, None]
            if keep or torch.is_grad_enabled() or not has_values(q):
                weights = (q @ k.mT).softmax(dim=-1)
                chosen = recorded_groups(_largest(weights), lambda: q @ k.mT)
                return weights.to(v.dtype) @ v, chosen, weights if keep else None
            values, categories = [], []
            most = SIMILARITIES.get(q.device.type, SIMILARITIES_ON_GPU)
            for piece in q.split(max(1, most // (len(q) * number)), dim=1):
                weights = (piece @ k.mT).softmax(dim=-1)
                values.append(weights.to(v.dtype) @ v)
                categories.append(_largest(weights))
            chosen = recorded_groups(torch.cat(categories, dim=1), lambda: q @ k.mT)
            return torch.cat(values, dim=1), chosen, None


@torch.no_grad()
def _largest(weights_BNM: Tensor) -> Tensor:
    """Return `weights.argmax(dim=-1)` of softmax weights, (B, N); on CPUs by `amax`, three times as fast.

    The largest of M weights is at least 1/M, so the next smaller number is behind it by far more than M / 2^100.
    """
    if active_form() is not None or weights_BNM.device.type != "cpu":
        return weights_BNM.argmax(dim=-1).int()
    number = weights_BNM.shape[-1]
    behind = weights_BNM - weights_BNM.amax(dim=-1, keepdim=True)
    rank = planned(_falling_ranks, number, like=behind).to(behind.dtype)
    places = number - torch.add(rank, behind, alpha=2.0**100).amax(dim=-1)
    return places.long().clamp(0, number - 1)  # a NaN must not become an index out of range


def _falling_ranks(number: int, device: torch.device) -> Tensor:
    """Return `number` .. 1, float32."""
    return torch.arange(number, 0, -1, dtype=torch.float32, device=device)


class CategoryAttention(nn.Module):
    """Self-attention in equal sub-groups of the pixels, sorted by category."""

    def __init__(self, sizes: LayerSizes):
        super().__init__()
        self.heads = Heads(sizes.heads, sizes.dim // sizes.heads, sizes.dim // sizes.heads)
        self.category_size = sizes.category
        self.logit_scale = nn.Parameter(torch.full((1, 1), math.log(10))) if sizes.category_channels is None else None
        self.proj = nn.Linear(sizes.dim, sizes.dim, bias=sizes.qkv_bias)

    def forward(self, qkv: Tensor, order_BN: Tensor) -> Tensor:
        """Return (B*N, C) from rows (B*N, 3C) of queries, keys and values.

        Args:
            order_BN: the rows of each image, sorted by category.
        """
        factor = None
        if self.logit_scale is not None:  # a learned scale instead of 1/sqrt(D)
            factor = self.logit_scale.clamp(max=LN_100).exp() * self.heads.qk**0.5
        windows = sorted_windows(order_BN, self.category_size)
        return self.proj(gathered_attention(qkv, windows, self.heads, scatter=True, factor=factor))
