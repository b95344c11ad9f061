"""The transformer layer of the ATD family, blocks of layers that share a token dictionary, and residual groups of them.

Letters in shapes: see `atd_arch.py`. Parameter names follow the official releases.
"""

from collections.abc import Iterable, Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from basicsr.archs.layers.atd_attention import CategoryAttention, DictionaryAttention, WindowAttention
from basicsr.archs.layers.atd_sizes import Connection, LayerSizes
from basicsr.archs.layers.ffn import ConvFFN
from basicsr.archs.layers.groups import stable_group_order
from basicsr.archs.layers.multiply_adds import MultiplyAdds
from basicsr.archs.layers.norms import TokenNorm
from basicsr.archs.layers.shifted_windows import ShiftedWindows
from basicsr.archs.layers.tokens import full_precision, map_to_tokens, recomputed, tokens_to_map
from basicsr.archs.prunable import Gate


class ATDLayer(nn.Module):
    """Attention to the window, to the dictionary and to the category side by side, then a conv FFN.

    Args:
        shifted: windows lie half a window further down and right.
        refines: the next layer gets a dictionary refined by this image (version 1).

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
        """Return the tokens and the dictionary for the next layer."""
        z = self.norm1(x_BNC)
        value, categories, weights = self.attn_atd(z, td, self.refines)
        qkv = self.wqkv(z).flatten(0, 1)
        order = stable_group_order(categories, self.sizes.tokens)
        seen = self.attn_win(qkv, windows) + self.attn_aca(qkv, order)
        x = x_BNC + value + seen.view_as(x_BNC)
        extra = F.embedding(categories, self.fc_td(td)) if self.fc_td is not None else None
        x = x + self.convffn(self.norm2(x), windows.size, extra)
        return x, td if weights is None else self._refined(td, weights, x)

    def stop_refining(self) -> None:
        """Pass the dictionary on unchanged, as the last layer does. The weights stay, because files hold them."""
        if self.refines:
            self.refines = False
            self.norm3.requires_grad_(False)
            self.sigma.requires_grad_(False)

    def _refined(self, td: Tensor, weights_BNM: Tensor, x_BNC: Tensor) -> Tensor:
        """Return the dictionary, (B, M, C), mixed with averages of the image's tokens."""
        with full_precision(x_BNC.device):
            seen = self.norm3(weights_BNM.mT).softmax(dim=-1) @ x_BNC.to(weights_BNM.dtype)
            return torch.lerp(seen, td.to(seen.dtype), self.sigma.sigmoid())

    def multiply_adds(self, size: tuple[int, int]) -> MultiplyAdds:
        """Return the multiply-adds on one (H, W) map, whose sides are multiples of the window."""
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
        places: 0-based indices of the layers that pruning has kept.
        use_checkpoint: recompute layers in the backward pass.
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
            cast(ATDLayer, self.layers[str(places[-1])]).stop_refining()

    def forward(
        self,
        x_BNC: Tensor,
        grids: tuple[ShiftedWindows, ShiftedWindows],
        gates: Sequence[Gate] | None = None,
        taps: Sequence[int] = (),
    ) -> tuple[Tensor, dict[int, Tensor]]:
        """Return the tokens after all layers, and after the layers `taps`, counted among those that are kept.

        Args:
            grids: windows, and shifted windows.
            gates: one for each layer; see `prunable.py`.
        """
        td: Tensor = self.td
        tapped = {}
        for place, (layer, gate) in enumerate(zip(self.layers.values(), gates or (1,) * len(self.layers), strict=True)):
            if isinstance(gate, Tensor) or gate:
                x, refined = self._run(cast(ATDLayer, layer), x_BNC, td, grids)
                x_BNC, td = interpolated(gate, x, x_BNC), interpolated(gate, refined, td)
            if place in taps:
                tapped[place] = x_BNC
        return x_BNC, tapped

    def _run(
        self, layer: ATDLayer, x: Tensor, td: Tensor, grids: tuple[ShiftedWindows, ShiftedWindows]
    ) -> tuple[Tensor, Tensor]:
        """Return the results of one layer."""
        windows = grids[int(layer.shifted)]
        if self.use_checkpoint and self.training:
            return recomputed(layer, x, td, windows)
        return layer(x, td, windows)


def interpolated(gate: Gate, new: Tensor, old: Tensor) -> Tensor:
    """Return `new` for a gate of 1, `old` for one of 0; for a tensor a value between them, exact at its ends."""
    if not isinstance(gate, Tensor) or new is old:
        return new
    return torch.lerp(old.to(new.dtype), new, gate.to(new))


class ResidualGroup(nn.Module):
    """A block of layers, a convolution, the sum with the input, and in version 2 a norm."""

    def __init__(self, block: TokenBlock, conv: nn.Module, norm: nn.Module | None):
        super().__init__()
        self.residual_group = block
        self.conv = conv
        self.norm = norm

    def forward(self, s_BNC: Tensor, y_BNC: Tensor, size: tuple[int, int]) -> Tensor:
        """Return the output from the input `s` and the block's output `y`."""
        s = map_to_tokens(self.conv(tokens_to_map(y_BNC, size))) + s_BNC
        return s if self.norm is None else self.norm(s)


def body_conv(dim: int, kind: Connection) -> nn.Module:
    """Return the convolution after a group."""
    if kind == "1conv":
        return nn.Conv2d(dim, dim, 3, padding=1)
    return nn.Sequential(
        nn.Conv2d(dim, dim // 4, 3, padding=1),
        nn.LeakyReLU(0.2),
        nn.Conv2d(dim // 4, dim // 4, 1),
        nn.LeakyReLU(0.2),
        nn.Conv2d(dim // 4, dim, 3, padding=1),
    )
