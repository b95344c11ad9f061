"""ATD: image super-resolution by attention to windows, to a dictionary of tokens, and among pixels of one category.

Papers: v1 "Transcending the Limit of Local Window", CVPR 2024; v2 its extension of 2026, arXiv 2603.02581.
Code:   written from a description; parameter names follow the official releases, so their files load strictly.
Differs from the releases: (1) any input from 1x1 px up is right, the mirror at its border being repeated; (2) the sort
        of the categories is stable; (3) the head without upsampler works; (4) evaluation is a pure function of the
        input: no Python branch looks at a tensor, nothing is kept between calls.

Both versions are registered as `ATD`, as in the releases, whose YAML files run unchanged: with `dim_ffn_td` it is v2,
without it v1. Sizes that are left out are those of the releases' constructors, small ones. With no size at all, `ATD`
is the published network: `{type: ATD, upscale: 4}` is v2 in full size, with `version: 1` it is v1.

Shapes: B batch, C channels (`embed_dim`), H x W low-resolution pixels after padding, N = H*W tokens in raster order,
M tokens of the dictionary, Q = `reducted_dim`, h heads, S pixels of a window, s scale. Images are in [0, 1]; the output
is not clamped.
"""

import math
from collections.abc import Sequence
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn

from basicsr.archs.layers.atd_family import ATDFamily
from basicsr.archs.layers.atd_layer import ATDLayer, ResidualGroup, TokenBlock, body_conv, interpolated
from basicsr.archs.layers.atd_sizes import (
    SIZES,
    Connection,
    Unit,
    Upsampler,
    Version,
    complete_kept_layers,
    complete_options,
    layer_sizes,
)
from basicsr.archs.layers.multiply_adds import MultiplyAdds
from basicsr.archs.layers.norms import TokenNorm
from basicsr.archs.layers.reconstruction_head import RGB_MEAN, ReconstructionHead
from basicsr.archs.layers.setup import initialise
from basicsr.archs.layers.shifted_windows import relative_position_index, window_grids
from basicsr.archs.layers.tokens import channels_last, map_to_tokens, mirrored_to_multiple, tokens_to_map
from basicsr.archs.prunable import Gate, GroupInfo, check_gates
from basicsr.config.ranges import Channels, Index, Layers, Pixels, Positive, Scale
from basicsr.config.registry import ARCH_REGISTRY

TAIL_CONVS = ("conv_after_body", "conv_before_upsample", "upsample", "conv_up1", "conv_up2", "conv_hr", "conv_last")

# Sizes that the contract tests build the network with.
TINY = {
    "embed_dim": 12,
    "depths": (2, 1),
    "num_heads": (2, 3),
    "window_size": 4,
    "dim_ffn_td": 3,
    "category_size": 24,
    "num_tokens": 10,
    "reducted_dim": 4,
    "convffn_kernel_size": 3,
    "mlp_ratio": 1.5,
    "upsampler": "pixelshuffledirect",
}


@ARCH_REGISTRY.register()
class ATD(ReconstructionHead, ATDFamily):
    """Super-resolution with an adaptive token dictionary, version 1 (CVPR 2024) or 2 (2026).

    Every argument from `embed_dim` to `upsampler` may be left out (None): all of them, and it is the published network
    in full size; some, and the rest are the defaults of the published constructor, given here in brackets.

    Args:
        upscale: s; 1, 3 or a power of 2 with pixelshuffle, any with pixelshuffledirect, 4 with nearest+conv, else 1.
        in_chans: channels of the input and the output; 3: RGB, from which a mean is taken.
        img_size: side of a padded input with `ape`; else without effect.
        patch_size: 1.
        embed_dim: feature channels C, a multiple of all `num_heads` [90].
        depths: layers of each residual group [6, 6, 6, 6].
        num_heads: attention heads in each residual group [6, 6, 6, 6].
        window_size: side of the windows in pixels, at least 2 [8].
        dim_ffn_td: channels of the FFN for a pixel's category; only version 2 has them, and setting them selects
            version 2 [16 with `version: 2`].
        category_size: pixels of a sub-group in the attention among categories [128].
        num_tokens: tokens of a dictionary, that is categories [64].
        reducted_dim: channels of queries and keys of the dictionary [4].
        convffn_kernel_size: side of the FFN's depth-wise convolution in pixels, odd [5].
        mlp_ratio: hidden channels of the FFN over C [2].
        upsampler: "pixelshuffle", "pixelshuffledirect", "nearest+conv", or "" for none [""].
        img_range: factor on the input inside.
        resi_connection: "1conv", or "3conv" with a bottleneck.
        qkv_bias: give queries, keys and values a bias.
        patch_norm: normalise the tokens before the first group.
        ape: add a learned vector to every position; the network then takes inputs of one size.
        use_checkpoint: recompute layers in the backward pass: less memory, slower training, the same gradients.
        version: 1 or 2; None: 2 with `dim_ffn_td` or without any size, else 1.
        prune_unit: parts that `prunable_groups` returns: "group", residual groups, or "layer", the layers in them.
        kept_layers: for each residual group the 0-based indices, ascending, of the layers that pruning has kept; None:
            all. They keep their names, and whether their windows are shifted.

    Shape:
        (B, in_chans, H, W) -> (B, in_chans, s*H, s*W), any H, W >= 1; values around [0, 1], not clamped.

    Raises:
        ValueError: naming the argument, for sizes that do not fit each other.

    Source: CVPR 2024, Sec. 3; arXiv 2603.02581, Sec. 3.
    """

    min_side = 1
    multiple_of = 1
    tail_prefixes = ("norm.", *(f"{name}." for name in TAIL_CONVS))

    def __init__(
        self,
        *,
        upscale: Scale = 2,
        in_chans: Channels = 3,
        img_size: Pixels = 64,
        patch_size: Pixels = 1,
        embed_dim: Channels | None = None,
        depths: Sequence[Layers] | None = None,
        num_heads: Sequence[Layers] | None = None,
        window_size: Pixels | None = None,
        dim_ffn_td: Channels | None = None,
        category_size: Channels | None = None,
        num_tokens: Channels | None = None,
        reducted_dim: Channels | None = None,
        convffn_kernel_size: Pixels | None = None,
        mlp_ratio: Positive | None = None,
        upsampler: Upsampler | None = None,
        img_range: Positive = 1.0,
        resi_connection: Connection = "1conv",
        qkv_bias: bool = True,
        patch_norm: bool = True,
        ape: bool = False,
        use_checkpoint: bool = False,
        version: Version | None = None,
        prune_unit: Unit = "group",
        kept_layers: Sequence[Sequence[Index]] | None = None,
    ):
        super().__init__()
        self._options = complete_options(
            {
                "embed_dim": embed_dim,
                "depths": depths,
                "num_heads": num_heads,
                "window_size": window_size,
                "dim_ffn_td": dim_ffn_td,
                "category_size": category_size,
                "num_tokens": num_tokens,
                "reducted_dim": reducted_dim,
                "convffn_kernel_size": convffn_kernel_size,
                "mlp_ratio": mlp_ratio,
                "upsampler": upsampler,
                "upscale": upscale,
                "in_chans": in_chans,
                "img_size": img_size,
                "img_range": img_range,
                "resi_connection": resi_connection,
                "qkv_bias": qkv_bias,
                "patch_norm": patch_norm,
                "ape": ape,
                "use_checkpoint": use_checkpoint,
                "version": version,
                "prune_unit": prune_unit,
            }
        )
        if patch_size != 1:
            raise ValueError(f"patch_size: must be 1, got {patch_size}")
        self._build(kept_layers)
        initialise(self)

    def _build(self, kept_layers: Sequence[Sequence[int]] | None) -> None:
        """Add all layers; parameters are drawn in this order."""
        options = self._options
        self.version: Version = options["version"]
        self.relative = f"ATD v{self.version}"
        self.upscale = options["upscale"]
        self.upsampler = options["upsampler"]
        self.window_size: int = options["window_size"]
        self.img_range: float = options["img_range"]
        self.prune_unit: Unit = options["prune_unit"]
        self._depths, self._heads = list(options["depths"]), list(options["num_heads"])
        self._kept = complete_kept_layers(kept_layers, self._depths)
        dim, in_chans, connection = options["embed_dim"], options["in_chans"], options["resi_connection"]
        mean = torch.tensor(RGB_MEAN if in_chans == 3 else (0.0,), dtype=torch.float32)
        self.register_buffer("mean", mean[:, None, None], persistent=False)
        self.register_buffer("relative_position_index_SA", relative_position_index(self.window_size))
        self.conv_first = nn.Conv2d(in_chans, dim, 3, padding=1)
        self.patch_embed = nn.ModuleDict({"norm": TokenNorm(dim)} if options["patch_norm"] else {})
        self.absolute_pos_embed: nn.Parameter | None = None
        if options["ape"]:
            self.absolute_pos_embed = nn.Parameter(torch.empty(1, options["img_size"] ** 2, dim))
            nn.init.trunc_normal_(self.absolute_pos_embed, std=0.02)
        self.layers = nn.ModuleList()
        for depth, heads, places in zip(self._depths, self._heads, self._kept, strict=True):
            block = TokenBlock(layer_sizes(options, heads), depth, places, options["use_checkpoint"])
            norm = TokenNorm(dim) if self.version == 2 else None
            self.layers.append(ResidualGroup(block, body_conv(dim, connection), norm))
        self.norm = TokenNorm(dim)
        self.conv_after_body = body_conv(dim, connection)
        self.build_head(dim, in_chans)

    def forward(
        self, x: Tensor, gates: Sequence[Gate] | None = None, taps: Sequence[int] = ()
    ) -> Tensor | tuple[Tensor, dict[int, Tensor]]:
        """Return (B, in_chans, s*H, s*W) from (B, in_chans, H, W); with `taps` also group -> its output (B, C, H, W).

        Args:
            gates: for pruning, 0 or 1 for each group of `prunable_groups`; see `prunable.py`.
            taps: 0-based indices of groups.
        """
        height, width = x.shape[2:]
        mean = cast(Tensor, self.mean).to(x.dtype)
        x = (mirrored_to_multiple(x, self.window_size) - mean) * self.img_range
        size = (x.shape[2], x.shape[3])
        shallow = self.conv_first(channels_last(x))
        s = map_to_tokens(shallow)
        if "norm" in self.patch_embed:
            s = self.patch_embed["norm"](s)
        s, tapped = self._body(self._placed(s, size), size, gates, taps)
        features = self.conv_after_body(tokens_to_map(self.norm(s), size)) + shallow
        y = self.reconstruct(features, x) / self.img_range + mean
        y = y[:, :, : height * self.upscale, : width * self.upscale]
        if not taps:
            return y
        return y, {i: tokens_to_map(t, size)[:, :, :height, :width] for i, t in tapped.items()}

    def _placed(self, s_BNC: Tensor, size: tuple[int, int]) -> Tensor:
        """Return the tokens plus the position embedding, with `ape`."""
        if self.absolute_pos_embed is None:
            return s_BNC
        if s_BNC.shape[1] != self.absolute_pos_embed.shape[1]:
            raise ValueError(
                f"ape: the network has {self.absolute_pos_embed.shape[1]} positions (img_size squared), got an input "
                f"of {size[0]}x{size[1]} px after padding; give it inputs of that size, or train without ape"
            )
        return s_BNC + self.absolute_pos_embed

    def _body(
        self, s: Tensor, size: tuple[int, int], gates: Sequence[Gate] | None, taps: Sequence[int]
    ) -> tuple[Tensor, dict[int, Tensor]]:
        """Return the tokens after all residual groups, and after the groups `taps`."""
        grids = window_grids(size, self.window_size, s)
        by_layer = self.prune_unit == "layer"
        gates = check_gates(gates, sum(map(len, self._kept)) if by_layer else len(self.layers))
        tapped: dict[int, Tensor] = {}
        first = 0  # the number of the group's first layer
        for i, module in enumerate(self.layers):
            group = cast(ResidualGroup, module)
            number = len(self._kept[i])
            if by_layer:
                inner = [tap - first for tap in taps]
                y, seen = group.residual_group(s, grids, gates[first : first + number], inner)
                tapped |= {first + place: tokens for place, tokens in seen.items()}
                s = group(s, y, size)
            else:
                gate = gates[i]
                if isinstance(gate, Tensor) or gate:
                    s = interpolated(gate, group(s, group.residual_group(s, grids)[0], size), s)
                if i in taps:
                    tapped[i] = s
            first += number
        return s, tapped

    def prunable_groups(self) -> list[GroupInfo]:
        """Return the residual groups, or with `prune_unit: layer` their layers; see `prunable.py`."""
        if self.prune_unit == "group":
            return [
                GroupInfo(
                    index=i,
                    prefixes=(f"layers.{i}.",),
                    hparams={"depths": depth, "num_heads": heads},
                    state_buffers=(),
                    macs=partial(self._group_multiply_adds, i),
                )
                for i, (depth, heads) in enumerate(zip(self._depths, self._heads, strict=True))
            ]
        places = [(i, j) for i, kept in enumerate(self._kept) for j in kept]
        return [
            GroupInfo(
                index=index,
                prefixes=(f"layers.{i}.residual_group.layers.{j}.",),
                hparams={},
                state_buffers=(),
                macs=partial(self._layer_multiply_adds, i, j),
                block=i,
            )
            for index, (i, j) in enumerate(places)
        ]

    def compact_kwargs(self, keep: Sequence[int]) -> dict[str, Any]:
        """Return the arguments that construct this network with the groups, or layers, `keep` alone."""
        depths, heads, kept = self._depths, self._heads, self._kept
        if self.prune_unit == "group":
            depths, heads, kept = [depths[i] for i in keep], [heads[i] for i in keep], [kept[i] for i in keep]
        else:
            places = [(i, j) for i, block in enumerate(kept) for j in block]
            kept = [[j for place, j in map(places.__getitem__, keep) if place == i] for i in range(len(kept))]
        whole = all(len(block) == depth for block, depth in zip(kept, depths, strict=True))
        return {**self._options, "depths": depths, "num_heads": heads, "kept_layers": None if whole else kept}

    def set_state_tracking(self, flags: Sequence[bool], decay: float | None = None) -> None:
        """Do nothing: no forward writes state."""

    def multiply_adds(self, height: int, width: int) -> MultiplyAdds:
        """Return the multiply-adds of an evaluation on one (height, width) low-resolution image."""
        pixels = math.prod(self._padded(height, width))
        total = MultiplyAdds(0, 0)
        for i in range(len(self.layers)):
            total += self._group_multiply_adds(i, height, width)
        side = 1
        for name in ("conv_first", *TAIL_CONVS):
            for module in getattr(self, name, nn.Identity()).modules():
                side *= 2 if isinstance(module, nn.Conv2d) and name in ("conv_up1", "conv_up2") else 1
                if isinstance(module, nn.Conv2d):
                    total += (module.weight.numel() * pixels * side**2, 0)
                elif isinstance(module, nn.PixelShuffle):
                    side *= module.upscale_factor
        return total

    def _group_multiply_adds(self, i: int, height: int, width: int) -> MultiplyAdds:
        """Return those of group `i`."""
        group = cast(ResidualGroup, self.layers[i])
        convs = sum(p.numel() for p in group.conv.parameters() if p.ndim == 4)
        total = MultiplyAdds(convs * math.prod(self._padded(height, width)), 0)
        for j in self._kept[i]:
            total += self._layer_multiply_adds(i, j, height, width)
        return total

    def _layer_multiply_adds(self, i: int, j: int, height: int, width: int) -> MultiplyAdds:
        """Return those of layer `j` of group `i`."""
        layer = cast(ResidualGroup, self.layers[i]).residual_group.layers[str(j)]
        return cast(ATDLayer, layer).multiply_adds(self._padded(height, width))

    def _padded(self, height: int, width: int) -> tuple[int, int]:
        """Return the sides rounded up to multiples of the window."""
        side = self.window_size
        return -(-height // side) * side, -(-width // side) * side


@ARCH_REGISTRY.register(name="ATD-light")
def atd_light(
    *, upscale: Scale = 4, in_chans: Channels = 3, use_checkpoint: bool = False, prune_unit: Unit = "group"
) -> ATD:
    """Build ATD-light of 2026: 760,956 / 767,451 / 776,544 parameters at x2 / x3 / x4."""
    sizes = SIZES["ATD-light", 2]
    return ATD(upscale=upscale, in_chans=in_chans, use_checkpoint=use_checkpoint, prune_unit=prune_unit, **sizes)


@ARCH_REGISTRY.register(name="ATD-v1")
def atd_v1(
    *, upscale: Scale = 4, in_chans: Channels = 3, use_checkpoint: bool = False, prune_unit: Unit = "group"
) -> ATD:
    """Build ATD of CVPR 2024: 20,113,217 / 20,297,857 / 20,260,929 parameters at x2 / x3 / x4."""
    return ATD(upscale=upscale, in_chans=in_chans, use_checkpoint=use_checkpoint, prune_unit=prune_unit, version=1)


@ARCH_REGISTRY.register(name="ATD-v1-light")
def atd_v1_light(
    *, upscale: Scale = 4, in_chans: Channels = 3, use_checkpoint: bool = False, prune_unit: Unit = "group"
) -> ATD:
    """Build ATD-light of CVPR 2024: 753,204 / 759,699 / 768,792 parameters at x2 / x3 / x4."""
    sizes = SIZES["ATD-light", 1]
    return ATD(upscale=upscale, in_chans=in_chans, use_checkpoint=use_checkpoint, prune_unit=prune_unit, **sizes)
