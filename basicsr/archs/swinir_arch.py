"""SwinIR: image restoration by attention to shifted windows.

Paper: Liang et al., SwinIR, ICCVW 2021 (arXiv 2108.10257); windows: Liu et al., Swin Transformer, ICCV 2021.
Code:  written from the papers; parameter names follow the published files, which load strictly.
Differs from them: any input from 1x1 px up is right, the mirror at its border being repeated; attention is that of
       `kernels/`; dropout inside the attention is not possible.

Shapes: B batch, C channels (`embed_dim`), H x W low-resolution pixels after padding, N = H*W tokens in raster order,
s scale. Images are in [0, 1]; the output is not clamped.
"""

from collections.abc import Iterator, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from basicsr.archs.layers.atd_layer import body_conv
from basicsr.archs.layers.atd_sizes import Connection, Upsampler
from basicsr.archs.layers.norms import TokenNorm
from basicsr.archs.layers.reconstruction_head import RGB_MEAN, ReconstructionHead
from basicsr.archs.layers.setup import check_at_least, initialise
from basicsr.archs.layers.shifted_windows import (
    ShiftedWindows,
    border_mask,
    relative_position_bias,
    relative_position_index,
    window_grids,
)
from basicsr.archs.layers.tokens import channels_last, map_to_tokens, mirrored_to_multiple, recomputed, tokens_to_map
from basicsr.archs.layers.windows import Heads
from basicsr.config.ranges import Channels, Decay, Layers, Pixels, Positive, Probability, Scale
from basicsr.config.registry import ARCH_REGISTRY

TINY = {
    "img_size": 8,
    "embed_dim": 8,
    "depths": (2, 1),
    "num_heads": (2, 2),
    "window_size": 4,
    "mlp_ratio": 1.5,
    "upsampler": "pixelshuffledirect",
}
LIGHT = {"embed_dim": 60, "depths": (6,) * 4, "num_heads": (6,) * 4, "upsampler": "pixelshuffledirect"}
CLASSICAL = {"embed_dim": 180, "depths": (6,) * 6, "num_heads": (6,) * 6, "upsampler": "pixelshuffle"}
Grids = tuple[ShiftedWindows, ShiftedWindows]


class WindowAttention(nn.Module):
    """Self-attention in windows with a learned bias for each relative position."""

    def __init__(self, dim: int, heads: int, window: int, qkv_bias: bool):
        super().__init__()
        self.heads = Heads(heads, dim // heads, dim // heads)
        self.relative_position_bias_table = nn.Parameter(torch.empty((2 * window - 1) ** 2, heads))
        nn.init.trunc_normal_(self.relative_position_bias_table, std=0.02)
        self.register_buffer("relative_position_index", relative_position_index(window))  # read by nothing
        self.qkv = nn.Linear(dim, 3 * dim, bias=qkv_bias)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x_BNC: Tensor, windows: ShiftedWindows) -> Tensor:
        """Return (B, N, C)."""
        bias_hSS = relative_position_bias(self.relative_position_bias_table, windows.side)
        return self.proj(windows.attend(self.qkv(x_BNC).flatten(0, 1), self.heads, bias_hSS)).view_as(x_BNC)


class Mlp(nn.Module):
    """Two linear layers with GELU between."""

    def __init__(self, dim: int, hidden: int):
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        """Return (..., C) from (..., C)."""
        return self.fc2(F.gelu(self.fc1(x)))


class SwinLayer(nn.Module):
    """Attention to a window, then two linear layers, each behind a norm and added to its input.

    Args:
        mask_size: (H, W) of the mask that published files hold for shifted windows; None: not shifted. Read by nothing.
        drop_path: probability that a sample leaves a branch out, in training.
    """

    def __init__(
        self, dim: int, heads: int, window: int, hidden: int, qkv_bias: bool, mask_size: tuple[int, int] | None,
        drop_path: float,
    ):  # fmt: skip
        super().__init__()
        self.shifted = mask_size is not None
        self.drop_path = drop_path
        self.norm1, self.norm2 = TokenNorm(dim), TokenNorm(dim)
        self.attn = WindowAttention(dim, heads, window, qkv_bias)
        self.mlp = Mlp(dim, hidden)
        if mask_size is not None:
            whole = (-(-mask_size[0] // window) * window, -(-mask_size[1] // window) * window)
            self.register_buffer("attn_mask", border_mask(whole, window, window // 2))

    def draw_factors(self, x_BNC: Tensor) -> tuple[Tensor, Tensor] | None:
        """Return random factors on both branches, (B, 1, 1), whose mean is 1; None where nothing is left out."""
        if not self.training or self.drop_path == 0:
            return None
        keep = 1 - self.drop_path
        drawn = torch.rand(2, len(x_BNC), 1, 1, device=x_BNC.device) < keep
        return drawn[0].to(x_BNC) / keep, drawn[1].to(x_BNC) / keep

    def forward(self, x_BNC: Tensor, windows: ShiftedWindows, factors: tuple[Tensor, Tensor] | None) -> Tensor:
        """Return the tokens of the next layer."""
        branch = self.attn(self.norm1(x_BNC), windows)
        x = x_BNC + (branch if factors is None else branch * factors[0])
        branch = self.mlp(self.norm2(x))
        return x + (branch if factors is None else branch * factors[1])


class SwinBlock(nn.Module):
    """Layers of which every second one has shifted windows."""

    def __init__(self, layers: Sequence[SwinLayer], use_checkpoint: bool):
        super().__init__()
        self.blocks = nn.ModuleList(layers)
        self.use_checkpoint = use_checkpoint

    def forward(self, x_BNC: Tensor, grids: Grids) -> Tensor:
        """Return the tokens after all layers."""
        for module in self.blocks:
            layer = cast(SwinLayer, module)
            inputs = x_BNC, grids[int(layer.shifted)], layer.draw_factors(x_BNC)
            x_BNC = recomputed(layer, *inputs) if self.use_checkpoint and self.training else layer(*inputs)
        return x_BNC


class RSTB(nn.Module):
    """Residual group: a block of layers, a convolution, the sum with the input."""

    def __init__(self, block: SwinBlock, conv: nn.Module):
        super().__init__()
        self.residual_group = block
        self.conv = conv

    def forward(self, x_BNC: Tensor, size: tuple[int, int], grids: Grids) -> Tensor:
        """Return the tokens after the group."""
        return map_to_tokens(self.conv(tokens_to_map(self.residual_group(x_BNC, grids), size))) + x_BNC


@ARCH_REGISTRY.register()
class SwinIR(ReconstructionHead):
    """Residual groups of Swin Transformer layers between two convolutions.

    Args:
        img_size: side in pixels, or (height, width), of the masks that weight files hold; else without effect, except
            with `ape`.
        patch_size: 1.
        in_chans: channels of the input and the output; 3: RGB, from which a mean is taken.
        embed_dim: feature channels C, a multiple of all `num_heads`.
        depths: layers of each residual group.
        num_heads: attention heads in each residual group.
        window_size: side of the windows in pixels, at least 2, below `img_size`.
        mlp_ratio: hidden channels of the linear layers over C.
        qkv_bias: give queries, keys and values a bias.
        qk_scale: must be null, for a scale of 1/sqrt(head width).
        drop_rate: must be 0.
        attn_drop_rate: must be 0.
        drop_path_rate: probability, in training, that a sample leaves out a branch of the last layer; it rises linearly
            from 0 at the first.
        norm_layer: accepted for old code; norms are LayerNorm.
        ape: add a learned vector to every position; the network then takes inputs of `img_size`.
        patch_norm: normalise the tokens before the first group.
        use_checkpoint: recompute layers in the backward pass: less memory, slower training, the same gradients.
        upscale: s; 1, 3 or a power of 2 with pixelshuffle, any with pixelshuffledirect, 4 with nearest+conv, else 1.
        img_range: factor on the input inside.
        upsampler: "pixelshuffle", "pixelshuffledirect", "nearest+conv", or "" for none.
        resi_connection: "1conv", or "3conv" with a bottleneck.

    Shape:
        (B, in_chans, H, W) -> (B, in_chans, s*H, s*W), any H, W >= 1; values around [0, 1], not clamped.

    Raises:
        ValueError: naming the argument, for sizes that do not fit each other.
    """

    min_side = 1
    multiple_of = 1

    def __init__(
        self,
        img_size: Pixels | Sequence[Pixels] = 64,
        patch_size: Pixels = 1,
        in_chans: Channels = 3,
        embed_dim: Channels = 96,
        depths: Sequence[Layers] = (6, 6, 6, 6),
        num_heads: Sequence[Layers] = (6, 6, 6, 6),
        window_size: Pixels = 7,
        mlp_ratio: Positive = 4.0,
        qkv_bias: bool = True,
        qk_scale: Positive | None = None,
        drop_rate: Probability = 0.0,
        attn_drop_rate: Probability = 0.0,
        drop_path_rate: Decay = 0.1,
        norm_layer: Any = None,
        ape: bool = False,
        patch_norm: bool = True,
        use_checkpoint: bool = False,
        upscale: Scale = 2,
        img_range: Positive = 1.0,
        upsampler: Upsampler = "",
        resi_connection: Connection = "1conv",
    ) -> None:
        super().__init__()
        sides = (img_size, img_size) if isinstance(img_size, int) else (img_size[0], img_size[-1])
        _check_fixed(patch_size=(patch_size, 1), qk_scale=(qk_scale, None), drop_rate=(drop_rate, 0),
                     attn_drop_rate=(attn_drop_rate, 0))  # fmt: skip
        _check_sizes(sides, in_chans, embed_dim, depths, num_heads, window_size)
        _check_scale(upscale, upsampler)
        if not 0 <= drop_path_rate < 1:
            raise ValueError(f"drop_path_rate: must be in [0, 1), got {drop_path_rate}")
        self.upscale, self.upsampler, self.img_range = upscale, upsampler, img_range
        self.window_size = self.padding_unit = window_size
        mean = torch.tensor(RGB_MEAN if in_chans == 3 else (0.0,))
        self.register_buffer("mean", mean[:, None, None], persistent=False)
        self.conv_first = nn.Conv2d(in_chans, embed_dim, 3, padding=1)
        self.patch_embed = nn.ModuleDict({"norm": TokenNorm(embed_dim)} if patch_norm else {})
        self.absolute_pos_embed = nn.Parameter(torch.zeros(1, sides[0] * sides[1], embed_dim)) if ape else None
        if self.absolute_pos_embed is not None:
            nn.init.trunc_normal_(self.absolute_pos_embed, std=0.02)
        hidden, rates = int(embed_dim * mlp_ratio), _rising(drop_path_rate, sum(depths))
        self.layers = nn.ModuleList()
        for depth, heads in zip(depths, num_heads, strict=True):
            sizes = embed_dim, heads, window_size, hidden, qkv_bias
            layers = [SwinLayer(*sizes, sides if j % 2 else None, next(rates)) for j in range(depth)]
            self.layers.append(RSTB(SwinBlock(layers, use_checkpoint), body_conv(embed_dim, resi_connection)))
        self.norm = TokenNorm(embed_dim)
        self.conv_after_body = body_conv(embed_dim, resi_connection)
        self.build_head(embed_dim, in_chans)
        initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, in_chans, s*H, s*W) from (B, in_chans, H, W)."""
        height, width = x.shape[2:]
        mean = cast(Tensor, self.mean).to(x.dtype)
        x = (mirrored_to_multiple(x, self.window_size) - mean) * self.img_range
        size = (x.shape[2], x.shape[3])
        shallow = self.conv_first(channels_last(x))
        t = map_to_tokens(shallow)
        if "norm" in self.patch_embed:
            t = self.patch_embed["norm"](t)
        if self.absolute_pos_embed is not None:
            if t.shape[1] != self.absolute_pos_embed.shape[1]:
                raise ValueError(f"ape: the network takes inputs of img_size only, got {height}x{width} px")
            t = t + self.absolute_pos_embed
        grids = window_grids(size, self.window_size, t)
        for group in self.layers:
            t = group(t, size, grids)
        features = self.conv_after_body(tokens_to_map(self.norm(t), size)) + shallow
        y = self.reconstruct(features, x) / self.img_range + mean
        return y[:, :, : height * self.upscale, : width * self.upscale]


def _rising(last: float, number: int) -> Iterator[float]:
    """Yield numbers from 0 to `last`, evenly spaced."""
    yield from (last * i / max(1, number - 1) for i in range(number))


def _check_fixed(**values: tuple[Any, Any]) -> None:
    for name, (value, only) in values.items():
        if value != only:
            raise ValueError(f"{name}: must be {'null' if only is None else only}, got {value}")


def _check_sizes(
    sides: Sequence[int], in_chans: int, dim: int, depths: Sequence[int], heads: Sequence[int], window: int
) -> None:
    check_at_least(1, in_chans=in_chans, embed_dim=dim)
    check_at_least(2, window_size=window)
    if min(sides) <= window:
        raise ValueError(f"img_size: must be above window_size ({window}), got {list(sides)}")
    if not depths or min(depths) < 1 or len(depths) != len(heads):
        raise ValueError(f"depths: needs as many numbers >= 1 as num_heads ({list(heads)}), got {list(depths)}")
    if min(heads) < 1 or any(dim % number for number in heads):
        raise ValueError(f"num_heads: must divide embed_dim ({dim}), got {list(heads)}")


def _check_scale(upscale: int, upsampler: str) -> None:
    fits = {
        "pixelshuffle": upscale == 3 or (upscale >= 1 and upscale & (upscale - 1) == 0),
        "pixelshuffledirect": upscale >= 1,
        "nearest+conv": upscale == 4,
        "": upscale == 1,
    }
    if upsampler not in fits:
        raise ValueError(f"upsampler: must be one of {', '.join(map(repr, fits))}, got {upsampler!r}")
    if not fits[upsampler]:
        raise ValueError(f"upscale: {upscale} is not possible with upsampler {upsampler!r}")


@ARCH_REGISTRY.register(name="SwinIR-light")
def swinir_light(
    *, upscale: Scale = 4, in_chans: Channels = 3, use_checkpoint: bool = False, img_size: Pixels = 64
) -> SwinIR:
    """Build SwinIR for light-weight super-resolution: 910,152 / 918,267 / 929,628 parameters at x2 / x3 / x4.

    The paper counts 878K / 886K / 897K, without the 32,400 relative position biases.
    """
    sizes: dict[str, Any] = LIGHT
    return SwinIR(img_size, in_chans=in_chans, window_size=8, mlp_ratio=2, upscale=upscale,
                  use_checkpoint=use_checkpoint, **sizes)  # fmt: skip


@ARCH_REGISTRY.register(name="SwinIR-classical")
def swinir_classical(
    *, upscale: Scale = 4, in_chans: Channels = 3, use_checkpoint: bool = False, img_size: Pixels = 64
) -> SwinIR:
    """Build SwinIR for classical super-resolution: 11,752,487 / 11,937,127 / 11,900,199 parameters at x2 / x3 / x4."""
    sizes: dict[str, Any] = CLASSICAL
    return SwinIR(img_size, in_chans=in_chans, window_size=8, mlp_ratio=2, upscale=upscale,
                  use_checkpoint=use_checkpoint, **sizes)  # fmt: skip
