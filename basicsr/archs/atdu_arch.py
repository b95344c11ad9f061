"""ATD-U: image restoration by a U of ATD layers; denoising, removal of JPEG artifacts.

Paper:  the extension of ATD of 2026, arXiv 2603.02581.
Code:   written from a description; parameter names follow the official release, so its files load strictly.
Differs from the release: (1) any input from 1x1 px up is right, the mirror at its border being repeated; (2) the sort
        of the categories is stable; (3) evaluation is a pure function of the input.

Shapes: B batch, H x W pixels, N tokens in raster order, C channels of a level: `embed_dim` at the finest, twice as many
at each that follows. Images are in [0, 1]; the output is not clamped.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import cast

import torch
from torch import Tensor, nn

from basicsr.archs.layers.atd_family import ATDFamily
from basicsr.archs.layers.atd_layer import ATDLayer, TokenBlock
from basicsr.archs.layers.atd_sizes import LayerSizes, check_heads, check_kernel
from basicsr.archs.layers.multiply_adds import MultiplyAdds
from basicsr.archs.layers.norms import TokenNorm
from basicsr.archs.layers.setup import check_at_least, initialise
from basicsr.archs.layers.shifted_windows import window_grids
from basicsr.archs.layers.tokens import (
    channels_last,
    map_to_tokens,
    mirrored_to_multiple,
    pixel_unshuffle,
    tokens_to_map,
)
from basicsr.config.ranges import Channels, Layers, Pixels, Positive, Scale
from basicsr.config.registry import ARCH_REGISTRY

# Sizes that the contract tests build the network with, and the scales that it has.
TINY = {
    "in_chans": 3,
    "embed_dim": 8,
    "depths": (1, 2),
    "num_heads": (1, 2),
    "window_size": (4, 4),
    "dim_ffn_td": (2, 3),
    "category_size": (24, 16),
    "num_tokens": (8, 6),
    "reducted_dim": (3, 4),
    "convffn_kernel_size": 3,
    "mlp_ratio": 1.5,
}
SCALES = (1,)


class _Level(nn.Module):
    """The layers of one place in the U."""

    def __init__(self, block: TokenBlock):
        super().__init__()
        self.block = block


class _PixelUnshuffle(nn.PixelUnshuffle):
    """Pixel unshuffle that can be exported."""

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, 4C, H, W) from (B, C, 2H, 2W)."""
        return pixel_unshuffle(x, self.downscale_factor)


class _Resample(nn.Module):
    """A convolution and a pixel (un)shuffle, under the published name."""

    def __init__(self, name: str, channels: int, out_channels: int, shuffle: nn.Module):
        super().__init__()
        self.name = name
        self.add_module(name, nn.Sequential(nn.Conv2d(channels, out_channels, 3, padding=1, bias=False), shuffle))

    def forward(self, t_BNC: Tensor, size: tuple[int, int]) -> Tensor:
        """Return the tokens of the resampled map, from tokens (B, N, C) of an (H, W) map."""
        conv, shuffle = self.get_submodule(self.name).children()
        return map_to_tokens(shuffle(conv(tokens_to_map(t_BNC, size))))


@ARCH_REGISTRY.register()
class ATDUNet(ATDFamily):
    """Image restoration by attention to windows, token dictionaries and categories at several resolutions.

    The defaults are those of the published constructor, which no published network has; for that see `ATD-U`. Arguments
    with one value a level begin with the finest.

    Args:
        in_chans: channels of the input and the output.
        out_chans: None, or the same.
        embed_dim: channels of the finest level.
        depths: layers of the level's encoder, and of its decoder.
        num_heads: attention heads, which divide the level's channels.
        window_size: side of the windows in pixels; inputs are padded to multiples of the last times 2^(levels - 1),
            which every level must divide.
        dim_ffn_td: channels of the FFN for a pixel's category.
        category_size: pixels of a sub-group in the attention among categories.
        num_tokens: tokens of a dictionary, that is categories.
        reducted_dim: channels of queries and keys of the dictionary.
        convffn_kernel_size: side of the FFN's depth-wise convolution in pixels, odd.
        mlp_ratio: hidden channels of the FFN over those of the level.
        bias: give projections and the outer convolutions a bias.
        patch_norm: normalise the tokens before the first level.
        use_checkpoint: recompute layers in the backward pass: less memory, slower training, the same gradients.
        upscale: 1, as in published option files.
        img_range: 1, as in published option files.

    Shape:
        (B, in_chans, H, W) -> the same, any H, W >= 1; values around [0, 1], not clamped.

    Raises:
        ValueError: naming the argument, for sizes that do not fit each other.

    Source: arXiv 2603.02581.
    """

    min_side = 1
    multiple_of = 1
    relative = "ATD-U"

    def __init__(
        self,
        *,
        in_chans: Channels = 1,
        out_chans: Channels | None = None,
        embed_dim: Channels = 40,
        depths: Sequence[Layers] = (6, 8, 8, 6),
        num_heads: Sequence[Layers] = (1, 2, 4, 8),
        window_size: Sequence[Pixels] = (16, 16, 16, 8),
        dim_ffn_td: Sequence[Channels] = (4, 8, 16, 16),
        category_size: Sequence[Channels] = (128, 128, 128, 128),
        num_tokens: Sequence[Channels] = (256, 256, 256, 256),
        reducted_dim: Sequence[Channels] = (4, 8, 16, 16),
        convffn_kernel_size: Pixels = 5,
        mlp_ratio: Positive = 4,
        bias: bool = False,
        patch_norm: bool = False,
        use_checkpoint: bool = False,
        upscale: Scale = 1,
        img_range: Positive = 1.0,
    ):
        super().__init__()
        _check_fixed({"upscale": upscale, "img_range": img_range}, in_chans, out_chans)
        per_level = {
            "depths": depths,
            "num_heads": num_heads,
            "window_size": window_size,
            "dim_ffn_td": dim_ffn_td,
            "category_size": category_size,
            "num_tokens": num_tokens,
            "reducted_dim": reducted_dim,
        }
        self.padding_unit = _check_levels(in_chans, embed_dim, per_level)
        check_kernel(convffn_kernel_size)
        self.upscale = upscale
        self.window_size, self.category_size = list(window_size), list(category_size)

        def layers(level: int, width: int, more_heads: int = 1) -> _Level:
            """Return the layers of one place in the U, `width` channels wide."""
            sizes = LayerSizes(
                dim=width,
                heads=num_heads[level] * more_heads,
                window=window_size[level],
                category=category_size[level],
                tokens=num_tokens[level],
                reduced=reducted_dim[level],
                hidden=int(width * mlp_ratio),
                kernel=convffn_kernel_size,
                category_channels=dim_ffn_td[level],
                qkv_bias=bias,
                proj_bias=bias,
                ffn_bias=False,
                own_index=True,
            )
            return _Level(TokenBlock(sizes, depths[level], range(depths[level]), use_checkpoint))

        self._build(in_chans, [embed_dim * 2**level for level in range(len(depths))], bias, patch_norm, layers)
        initialise(self)

    def _build(
        self, in_chans: int, widths: Sequence[int], bias: bool, patch_norm: bool, layers: Callable[..., _Level]
    ) -> None:
        """Add all layers; parameters are drawn in this order. `widths`: channels of the levels."""
        dim = widths[0]
        upwards = range(len(widths) - 2, -1, -1)
        self.conv_first = nn.Conv2d(in_chans, dim, 3, padding=1, bias=bias)
        self.patch_embed = nn.ModuleDict({"norm": TokenNorm(dim)} if patch_norm else {})
        self.encoders = nn.ModuleList(layers(level, width) for level, width in enumerate(widths[:-1]))
        self.downs = nn.ModuleList(_Resample("down", width, width // 2, _PixelUnshuffle(2)) for width in widths[:-1])
        self.middle_blks = layers(len(widths) - 1, widths[-1])
        self.ups = nn.ModuleList(
            _Resample("up", 2 * widths[level], 4 * widths[level], nn.PixelShuffle(2)) for level in upwards
        )
        self.reduces = nn.ModuleList(
            nn.Linear(2 * widths[level], widths[level], bias=bias) if level else nn.Identity() for level in upwards
        )
        self.decoders = nn.ModuleList(layers(level, widths[level] if level else 2 * dim) for level in upwards)
        self.refine_blks = layers(0, 2 * dim, more_heads=2)
        self.conv_after_body = nn.Conv2d(2 * dim, dim, 3, padding=1, bias=bias)
        self.conv_last = nn.Conv2d(dim, in_chans, 3, padding=1, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """Return the restored image, (B, in_chans, H, W), from the same."""
        height, width = x.shape[2:]
        x = mirrored_to_multiple(x, self.padding_unit)
        sizes = [(x.shape[2] // 2**level, x.shape[3] // 2**level) for level in range(len(self.window_size))]
        grids = [window_grids(size, side, x) for size, side in zip(sizes, self.window_size, strict=True)]
        shallow = self.conv_first(channels_last(x))
        s = map_to_tokens(shallow)
        if "norm" in self.patch_embed:
            s = self.patch_embed["norm"](s)
        skips = []
        for level, (encoder, down) in enumerate(zip(self.encoders, self.downs, strict=True)):
            s, _ = cast(_Level, encoder).block(s, grids[level])
            skips.append(s)
            s = down(s, sizes[level])
        s, _ = self.middle_blks.block(s, grids[-1])
        for up, reduce, decoder in zip(self.ups, self.reduces, self.decoders, strict=True):
            level = len(skips) - 1
            s = reduce(torch.cat([up(s, sizes[level + 1]), skips.pop()], dim=2))
            s, _ = cast(_Level, decoder).block(s, grids[level])
        s, _ = self.refine_blks.block(s, grids[0])
        features = self.conv_after_body(tokens_to_map(s, sizes[0])) + shallow
        return (x + self.conv_last(features))[:, :, :height, :width]

    def multiply_adds(self, height: int, width: int) -> MultiplyAdds:
        """Return the multiply-adds of an evaluation on one (height, width) image."""
        unit, deepest = self.padding_unit, len(self.window_size) - 1
        height, width = (-(-side // unit) * unit for side in (height, width))
        upwards = range(deepest - 1, -1, -1)
        at_level = [(self.conv_first, 0), (self.conv_after_body, 0), (self.conv_last, 0), (self.refine_blks, 0)]
        at_level += [(module, level) for level, module in enumerate([*self.encoders, self.middle_blks])]
        at_level += [(module, level) for level, module in enumerate(self.downs)]
        at_level += [(module, level + 1) for level, module in zip(upwards, self.ups, strict=True)]
        for modules in (self.reduces, self.decoders):
            at_level += [(module, level) for level, module in zip(upwards, modules, strict=True)]
        total = MultiplyAdds(0, 0)
        for module, level in at_level:
            size = (height >> level, width >> level)
            if isinstance(module, _Level):
                for layer in module.block.layers.values():
                    total += cast(ATDLayer, layer).multiply_adds(size)
            else:
                total += (sum(p.numel() for p in module.parameters() if p.ndim > 1) * math.prod(size), 0)
        return total


def _check_fixed(ones: Mapping[str, float], in_chans: int, out_chans: int | None) -> None:
    """Check the arguments that have only one possible value.

    Raises:
        ValueError: naming the argument that has another one.
    """
    for name, value in ones.items():
        if value != 1:
            raise ValueError(f"{name}: must be 1 for ATDUNet, got {value}")
    if out_chans not in (None, in_chans):
        raise ValueError(f"out_chans: must be in_chans ({in_chans}), got {out_chans}")


def _check_levels(in_chans: int, embed_dim: int, per_level: Mapping[str, Sequence[int]]) -> int:
    """Return the number whose multiples the sides of inputs are padded to, after checking the sizes of all levels.

    Raises:
        ValueError: naming the argument that does not fit.
    """
    depths, window_size, num_heads = (per_level[name] for name in ("depths", "window_size", "num_heads"))
    levels = len(depths)
    if levels < 2:
        raise ValueError(f"depths: needs at least 2 levels, got {list(depths)}")
    for name, values in per_level.items():
        if len(values) != levels:
            raise ValueError(f"{name}: needs one value for each of the {levels} depths, got {list(values)}")
    lowest = {name: min(values) for name, values in per_level.items()}
    check_at_least(1, in_chans=in_chans, embed_dim=embed_dim, **lowest)
    check_at_least(2, window_size=lowest["window_size"])
    for level, heads in enumerate(num_heads):
        check_heads(embed_dim * 2**level, [heads])
    if embed_dim % 2:
        raise ValueError(f"embed_dim: must be even, got {embed_dim}")
    unit = window_size[-1] * 2 ** (levels - 1)
    for level, window in enumerate(window_size):
        if (unit >> level) % window:
            raise ValueError(
                f"window_size: must divide {unit >> level}, the last times 2^{levels - 1 - level}, at level {level}, "
                f"got {list(window_size)}"
            )
    return unit


@ARCH_REGISTRY.register(name="ATD-U")
def atd_u(*, in_chans: Channels = 3, use_checkpoint: bool = False, upscale: Scale = 1) -> ATDUNet:
    """Build ATD-U as published for all tasks: 24,905,120 parameters in colour, 24,903,392 in gray (`in_chans: 1`)."""
    return ATDUNet(
        upscale=upscale,
        in_chans=in_chans,
        embed_dim=48,
        window_size=(16, 8, 8, 8),
        dim_ffn_td=(6, 12, 12, 12),
        num_tokens=(128, 128, 128, 128),
        reducted_dim=(6, 12, 24, 24),
        mlp_ratio=2.66,
        use_checkpoint=use_checkpoint,
    )
