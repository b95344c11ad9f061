"""What the networks of the ATD family are built from: the transformer layer, blocks of it, and what tells them apart.

Letters in shapes: see `atd_arch.py`. Parameter names follow the official releases.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from basicsr.archs.layers.attention import gathered_attention
from basicsr.archs.layers.export_mode import active_form, settled
from basicsr.archs.layers.plans import planned, sizes_are_numbers
from basicsr.archs.layers.shifted_windows import ShiftedWindows, relative_position_bias, relative_position_index
from basicsr.archs.layers.tokens import (
    ConvFFN,
    MultiplyAdds,
    TokenNorm,
    full_precision,
    recomputed,
    sorted_windows,
    stable_group_order,
)
from basicsr.archs.layers.windows import Heads
from basicsr.archs.prunable import Gate

LN_100 = 4.605170249938965  # bound of v1's logit scale, a float32 number in the release
# Similarities of pixels to the dictionary that an evaluation holds at a time, where it needs them but once: as many as
# the caches of a CPU hold, and on a GPU so many that a launch has enough to do.
SIMILARITIES = {"cpu": 1 << 19}
SIMILARITIES_ON_GPU = 1 << 26


class LayerSizes(NamedTuple):
    """What a transformer layer is built from."""

    dim: int
    heads: int
    window: int
    category: int
    tokens: int
    reduced: int
    hidden: int
    kernel: int
    category_channels: int | None  # of the FFN that knows the category; None: version 1
    qkv_bias: bool = True
    proj_bias: bool = True
    ffn_bias: bool = True
    own_index: bool = False  # whether the layer's state holds the position index of its windows


class WindowAttention(nn.Module):
    """Self-attention in shifted windows with a learned bias for each relative position."""

    def __init__(self, sizes: LayerSizes):
        super().__init__()
        self.heads = Heads(sizes.heads, sizes.dim // sizes.heads, sizes.dim // sizes.heads)
        self.relative_position_bias_table = nn.Parameter(torch.empty((2 * sizes.window - 1) ** 2, sizes.heads))
        nn.init.trunc_normal_(self.relative_position_bias_table, std=0.02)
        self.proj = nn.Linear(sizes.dim, sizes.dim, bias=sizes.proj_bias)
        if sizes.own_index:  # only for the files
            self.register_buffer("relative_position_index_SA", relative_position_index(sizes.window))

    def forward(self, qkv: Tensor, windows: ShiftedWindows) -> Tensor:
        """(B*N, 3C) rows to (B*N, C)."""
        bias_hSS = relative_position_bias(self.relative_position_bias_table, windows.side)
        return self.proj(windows.attend(qkv, self.heads, bias_hSS))


class DictionaryAttention(nn.Module):
    """Cross-attention of all pixels to a dictionary of M tokens; tells by the way which token a pixel is nearest to."""

    def __init__(self, sizes: LayerSizes):
        super().__init__()
        v1 = sizes.category_channels is None
        self.top = 1.0 if v1 else 3.0
        self.scale = nn.Parameter(torch.full((sizes.tokens,), 0.5) if v1 else torch.ones(1))
        self.wq = nn.Linear(sizes.dim, sizes.reduced, bias=sizes.qkv_bias)
        self.wk = nn.Linear(sizes.dim, sizes.reduced, bias=sizes.qkv_bias)
        self.wv = nn.Linear(sizes.dim, sizes.dim, bias=sizes.qkv_bias)

    def forward(self, z_BNC: Tensor, td: Tensor, keep: bool) -> tuple[Tensor, Tensor, Tensor | None]:
        """Values (B, N, C), categories (B, N), and with `keep` the weights (B, N, M).

        Similarities and weights have full precision even under autocast: the categories hang on them.

        Args:
            td: the dictionary, (M, C), or (B, M, C) where every image has its own.
        """
        q, k, v = self.wq(z_BNC), self.wk(td), self.wv(td)
        number = td.shape[-2]
        with full_precision(z_BNC.device):
            dtype = torch.promote_types(q.dtype, torch.float32)
            q, k = F.normalize(q.to(dtype), dim=-1), F.normalize(k.to(dtype), dim=-1)
            k = k * (1 + self.scale.clamp(0.0, self.top) * math.log(number))[:, None]
            if keep or torch.is_grad_enabled() or not sizes_are_numbers(q):
                weights = (q @ k.mT).softmax(dim=-1)
                chosen = settled(_largest(weights), lambda: q @ k.mT)
                return weights.to(v.dtype) @ v, chosen, weights if keep else None
            values, categories = [], []
            most = SIMILARITIES.get(q.device.type, SIMILARITIES_ON_GPU)
            for piece in q.split(max(1, most // (len(q) * number)), dim=1):
                weights = (piece @ k.mT).softmax(dim=-1)
                values.append(weights.to(v.dtype) @ v)
                categories.append(_largest(weights))
            chosen = settled(torch.cat(categories, dim=1), lambda: q @ k.mT)
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
    return places.long().clamp(0, number - 1)  # what is not a number must not become a place outside


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
        """(B*N, 3C) rows to (B*N, C); `order_BN`: the rows of each image, sorted by category."""
        factor = None
        if self.logit_scale is not None:  # a scale of its own, where the attention takes 1/sqrt(D)
            factor = self.logit_scale.clamp(max=LN_100).exp() * self.heads.qk**0.5
        windows = sorted_windows(order_BN, self.category_size)
        return self.proj(gathered_attention(qkv, windows, self.heads, scatter=True, factor=factor))


class ATDLayer(nn.Module):
    """Attention to the window, to the dictionary and to the category side by side, then a conv FFN.

    In version 1 a layer with `refines` hands a dictionary on that it has refined by what it saw.

    Args:
        shifted: its windows lie half a window further down and right.

    Source: arXiv 2603.02581, Sec. 3; CVPR 2024, Sec. 3.
    """

    def __init__(self, sizes: LayerSizes, shifted: bool, refines: bool):
        super().__init__()
        self.sizes, self.shifted, self.refines = sizes, shifted, refines
        self.norm1, self.norm2 = TokenNorm(sizes.dim), TokenNorm(sizes.dim)
        if refines:
            self.norm3 = nn.InstanceNorm1d(sizes.tokens, affine=True)
            self.sigma = nn.Parameter(torch.zeros(sizes.tokens, 1))
        self.wqkv = nn.Linear(sizes.dim, 3 * sizes.dim, bias=sizes.qkv_bias)
        self.attn_win = WindowAttention(sizes)
        self.attn_atd = DictionaryAttention(sizes)
        self.attn_aca = CategoryAttention(sizes)
        channels = sizes.category_channels
        self.fc_td = None if channels is None else nn.Linear(sizes.dim, channels, bias=sizes.proj_bias)
        self.convffn = ConvFFN(sizes.dim, sizes.hidden, sizes.kernel, channels or 0, sizes.ffn_bias)

    def forward(self, x_BNC: Tensor, td: Tensor, windows: ShiftedWindows) -> tuple[Tensor, Tensor]:
        """The tokens and the dictionary for the next layer."""
        z = self.norm1(x_BNC)
        value, categories, weights = self.attn_atd(z, td, self.refines)
        qkv = self.wqkv(z).flatten(0, 1)
        order = stable_group_order(categories, self.sizes.tokens)
        seen = self.attn_win(qkv, windows) + self.attn_aca(qkv, order)
        x = x_BNC + value + seen.view_as(x_BNC)
        extra = F.embedding(categories, self.fc_td(td)) if self.fc_td is not None else None
        x = x + self.convffn(self.norm2(x), windows.size, extra)
        return x, td if weights is None else self._refined(td, weights, x)

    def leave_dictionary(self) -> None:
        """Refine it no more: nobody comes after this layer. Its weights stay, for they are in the files."""
        if self.refines:
            self.refines = False
            self.norm3.requires_grad_(False)
            self.sigma.requires_grad_(False)

    def _refined(self, td: Tensor, weights_BNM: Tensor, x_BNC: Tensor) -> Tensor:
        """The dictionary, (B, M, C), mixed with what its tokens gather from the image."""
        with full_precision(x_BNC.device):
            seen = self.norm3(weights_BNM.mT).softmax(dim=-1) @ x_BNC.to(weights_BNM.dtype)
            return torch.lerp(seen, td.to(seen.dtype), self.sigma.sigmoid())

    def multiply_adds(self, size: tuple[int, int]) -> MultiplyAdds:
        """Multiply-adds on one (H, W) map, a multiple of the window."""
        s, length = self.sizes, size[0] * size[1]
        group = min(length, s.category)
        linear = length * (5 * s.dim**2 + s.dim * s.reduced) + s.tokens * s.dim * (s.reduced + s.dim)
        linear += s.tokens * s.dim * (s.category_channels or 0)
        pairs = length * s.window**2 + -(-length // group) * group**2
        attention = 2 * s.dim * pairs + length * s.tokens * (s.reduced + s.dim * (2 if self.refines else 1))
        return MultiplyAdds(linear, attention) + self.convffn.multiply_adds(size)


class TokenBlock(nn.Module):
    """Layers that share a dictionary, every second one with shifted windows.

    Args:
        depth: layers of the whole block.
        places: those of them that are there; the others were pruned.
        use_checkpoint: compute layers again in the backward pass instead of keeping what they need.
    """

    def __init__(self, sizes: LayerSizes, depth: int, places: Iterable[int], use_checkpoint: bool):
        super().__init__()
        self.use_checkpoint = use_checkpoint
        places = list(places)
        self.td = nn.Parameter(torch.randn(sizes.tokens, sizes.dim), requires_grad=len(places) > 0)
        v1 = sizes.category_channels is None
        self.layers = nn.ModuleDict(
            {str(j): ATDLayer(sizes, shifted=j % 2 == 1, refines=v1 and j < depth - 1) for j in places}
        )
        if places and places[-1] < depth - 1:
            cast(ATDLayer, self.layers[str(places[-1])]).leave_dictionary()

    def forward(
        self, x_BNC: Tensor, grids: tuple[ShiftedWindows, ShiftedWindows],
        gates: Sequence[Gate] | None = None, taps: Sequence[int] = (),
    ) -> tuple[Tensor, dict[int, Tensor]]:  # fmt: skip
        """The tokens after all layers, and after those at the places `taps` among them.

        Args:
            grids: windows, and shifted windows.
            gates: one for each layer; see `prunable.py`.
        """
        td: Tensor = self.td
        tapped = {}
        for place, (layer, gate) in enumerate(zip(self.layers.values(), gates or (1,) * len(self.layers), strict=True)):
            if isinstance(gate, Tensor) or gate:
                x, refined = self._run(cast(ATDLayer, layer), x_BNC, td, grids)
                x_BNC, td = switched(gate, x, x_BNC), switched(gate, refined, td)
            if place in taps:
                tapped[place] = x_BNC
        return x_BNC, tapped

    def _run(
        self, layer: ATDLayer, x: Tensor, td: Tensor, grids: tuple[ShiftedWindows, ShiftedWindows]
    ) -> tuple[Tensor, Tensor]:
        windows = grids[int(layer.shifted)]
        if self.use_checkpoint and self.training:
            return recomputed(layer, x, td, windows)
        return layer(x, td, windows)


def switched(gate: Gate, new: Tensor, old: Tensor) -> Tensor:
    """`new` for a gate of 1, `old` for one of 0; between them for a tensor, exact at its ends."""
    if not isinstance(gate, Tensor) or new is old:
        return new
    return torch.lerp(old.to(new.dtype), new, gate.to(new))


def describe_state(keys: Iterable[str]) -> str | None:
    """Which network of the family a state dict with these names belongs to; None: none of them."""
    keys = list(keys)
    if any(key.startswith("encoders.") for key in keys):
        return "ATD-U"
    if any(key.endswith(".attn_aca.logit_scale") for key in keys):
        return "ATD v1"
    return "ATD v2" if any(key.endswith(".fc_td.weight") for key in keys) else None


_ADVICE = {
    "ATD v1": "build type ATD without dim_ffn_td",
    "ATD v2": "build type ATD with dim_ffn_td",
    "ATD-U": "build type ATDUNet",
}


class ATDFamily(nn.Module):
    """A network that knows the weights of its relatives, which come in files of the same names."""

    family = "ATD"  # in the names of outputs, as the published command has them
    relative: str
    """What it is itself, in the words of `describe_state`."""

    def explain_mismatch(self, keys: Iterable[str]) -> str:
        """What to do about a state dict with these names, if it is that of a relative; else nothing."""
        found = describe_state(keys)
        if found in (None, self.relative):
            return ""
        return f"these are weights of {found}, the network is {self.relative}: {_ADVICE[str(found)]}"

    def _load_from_state_dict(
        self, state_dict: Mapping[str, Tensor], prefix: str, local_metadata: Any, strict: bool,
        missing_keys: list[str], unexpected_keys: list[str], error_msgs: list[str],
    ) -> None:  # fmt: skip
        super()._load_from_state_dict(
            state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs
        )
        hint = self.explain_mismatch(key.removeprefix(prefix) for key in state_dict if key.startswith(prefix))
        if strict and hint:
            error_msgs.append(hint)


def finish(net: nn.Module) -> None:
    """Initialise linear layers as published, and lay kernels out in memory as the maps are."""
    for module in net.modules():
        if isinstance(module, nn.Linear):
            nn.init.trunc_normal_(module.weight, std=0.02)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Conv2d) and module.kernel_size != (1, 1):
            module.to(memory_format=torch.channels_last)


def check_sizes(at_least: int = 1, **values: int) -> None:
    """Refuse sizes below `at_least`.

    Raises:
        ValueError: naming the first of them.
    """
    for name, value in values.items():
        if value < at_least:
            raise ValueError(f"{name}: must be at least {at_least}, got {value}")


def check_heads(dim: int, num_heads: Sequence[int]) -> None:
    """Refuse heads that do not divide the channels.

    Raises:
        ValueError: naming them.
    """
    for heads in num_heads:
        if heads < 1 or dim % heads:
            raise ValueError(f"num_heads: must divide embed_dim ({dim}), got {list(num_heads)}")


def window_grids(size: tuple[int, int], side: int, like: Tensor) -> tuple[ShiftedWindows, ShiftedWindows]:
    """Return the windows of the maps of a batch, and those shifted by half a window; see `ShiftedWindows`."""
    return ShiftedWindows(size, side, 0, like), ShiftedWindows(size, side, side // 2, like)
