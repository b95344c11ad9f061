"""CATANet: content-aware token aggregation for light-weight image super-resolution.

Paper:  Liu et al., CVPR 2025, https://arxiv.org/abs/2503.06896
Code:   written from the paper; parameter names follow the official release, so its `params` files load strictly.
Differs from the release: (1) every size is an argument; (2) any input from 1x1 px up is right; (3) under several
        processes the token centres come from the whole global batch; (4) the sort is stable; (5) evaluation is a pure
        function of the input: no Python branch looks at a tensor.

Shapes: B batch, C channels (`dim`), H x W low-resolution pixels, N = H*W tokens in raster order, T token centres,
Q = `qk_dim`, h heads, D padded head width, s scale. Images are RGB in [0, 1]; the output is not clamped.
"""

from collections.abc import Sequence
from copy import deepcopy
from functools import partial
from typing import Any, Literal, cast, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from basicsr.archs.fast_catanet import PreparedCATANet
from basicsr.archs.layers.ffn import ConvFFN
from basicsr.archs.layers.local_attention import LRSA
from basicsr.archs.layers.multiply_adds import MultiplyAdds
from basicsr.archs.layers.setup import check_at_least, initialise
from basicsr.archs.layers.token_aggregation import CENTRE_DECAY, TAB
from basicsr.archs.layers.tokens import channels_last, map_to_tokens, recomputed, tokens_to_map
from basicsr.archs.prunable import Gate, GroupInfo, check_gates, gated
from basicsr.config.registry import ARCH_REGISTRY

Tail = Literal["original", "direct"]

# Sizes of CATANet-L, one a group.
PATCH_SIZES = (16, 20, 24, 28, 16, 20, 24, 28)
TOKEN_NUMBERS = (16, 32, 64, 128, 16, 32, 64, 128)
GROUP_SIZES = (256, 128, 64, 32, 256, 128, 64, 32)

# Sizes that the contract tests build the network with.
TINY = {
    "dim": 16,
    "block_num": 2,
    "qk_dim": 12,
    "mlp_dim": 24,
    "heads": 2,
    "patch_size": (8, 10),
    "num_tokens": (4, 8),
    "group_size": (64, 32),
    "n_iters": (2, 3),
}


@ARCH_REGISTRY.register()
class CATANet(nn.Module):
    """Light-weight super-resolution by attention among tokens of similar content. The defaults are CATANet-L.

    Args:
        upscale: 1, 2, 3 or 4.
        in_chans: channels of the input and the output.
        dim: feature channels C, a multiple of `heads`.
        block_num: number K of residual groups.
        qk_dim: channels of queries and keys, a multiple of `heads`.
        mlp_dim: hidden channels of the FFNs.
        heads: attention heads.
        patch_size: side of the local patches in pixels, >= 3; one value or one a group. The stride is 2 less.
        num_tokens: token centres; one value or one a group.
        group_size: tokens of a sub-group; one value or one a group.
        n_iters: k-means steps of a training forward, >= 1; one value or one a group.
        tail: "original": convolutions and pixel shuffles, at x4 in two steps; "direct": one convolution to s^2 values a
            channel and one pixel shuffle, at a tenth of the cost.
        use_checkpoint: recompute attention and FFNs in the backward pass: less memory, slower training, the same
            gradients.

    Shape:
        (B, in_chans, H, W) -> (B, in_chans, s*H, s*W), any H, W >= 1; values around [0, 1], not clamped.

    Raises:
        ValueError: naming the argument, for sizes that do not fit each other.

    The residual groups can be pruned; see `prunable.py` for the protocol.

    Note:
        In training mode with `torch.distributed` initialised, every forward sums the centres over the ranks, so all
        ranks must call it together.

    Source: Liu et al., CVPR 2025, Sec. 3 and 4.1.
    """

    min_side = 1
    multiple_of = 1
    tail_prefixes = ("upconv", "last_conv.")

    def __init__(
        self,
        *,
        upscale: int = 4,
        in_chans: int = 3,
        dim: int = 40,
        block_num: int = 8,
        qk_dim: int = 36,
        mlp_dim: int = 96,
        heads: int = 4,
        patch_size: int | Sequence[int] = PATCH_SIZES,
        num_tokens: int | Sequence[int] = TOKEN_NUMBERS,
        group_size: int | Sequence[int] = GROUP_SIZES,
        n_iters: int | Sequence[int] = 5,
        tail: Tail = "original",
        use_checkpoint: bool = False,
    ):
        super().__init__()
        if upscale not in (1, 2, 3, 4):
            raise ValueError(f"upscale: must be 1, 2, 3 or 4, got {upscale}")
        sizes = {"in_chans": in_chans, "dim": dim, "qk_dim": qk_dim, "mlp_dim": mlp_dim, "heads": heads}
        check_at_least(1, **sizes, block_num=block_num)
        for name, value in (("dim", dim), ("qk_dim", qk_dim)):
            if value % heads:
                raise ValueError(f"{name}: must be a multiple of heads ({heads}), got {value}")
        if tail not in get_args(Tail):
            raise ValueError(f"tail: must be one of {', '.join(get_args(Tail))}, got {tail!r}")
        self.upscale = upscale
        self.tail: Tail = tail
        self.use_checkpoint = use_checkpoint
        self._same_for_all = {"upscale": upscale, **sizes, "tail": tail, "use_checkpoint": use_checkpoint}
        self._per_group = {
            "patch_size": _per_group("patch_size", patch_size, block_num, at_least=3),
            "num_tokens": _per_group("num_tokens", num_tokens, block_num),
            "group_size": _per_group("group_size", group_size, block_num),
            "n_iters": _per_group("n_iters", n_iters, block_num),
        }
        self.first_conv = nn.Conv2d(in_chans, dim, 3, padding=1)
        self.blocks = nn.ModuleList(
            nn.ModuleList(
                [TAB(dim, qk_dim, mlp_dim, heads, iters, tokens, group), LRSA(dim, qk_dim, mlp_dim, heads, patch)]
            )
            for patch, tokens, group, iters in zip(*self._per_group.values(), strict=True)
        )
        self.mid_convs = nn.ModuleList(nn.Conv2d(dim, dim, 3, padding=1) for _ in range(block_num))
        self._build_tail(dim, in_chans)
        initialise(self)

    def _build_tail(self, dim: int, in_chans: int) -> None:
        """Add the layers of `_reconstruct`."""
        if self.tail == "direct":
            self.last_conv = nn.Conv2d(dim, in_chans * self.upscale**2, 3, padding=1)
            return
        if self.upscale == 4:
            self.upconv1 = nn.Conv2d(dim, 4 * dim, 3, padding=1)
            self.upconv2 = nn.Conv2d(dim, 4 * dim, 3, padding=1)
        elif self.upscale > 1:
            self.upconv = nn.Conv2d(dim, self.upscale**2 * dim, 3, padding=1)
        self.last_conv = nn.Conv2d(dim, in_chans, 3, padding=1)

    def forward(
        self, x: Tensor, gates: Sequence[Gate] | None = None, taps: Sequence[int] = ()
    ) -> Tensor | tuple[Tensor, dict[int, Tensor]]:
        """Return (B, in_chans, s*H, s*W) from (B, in_chans, H, W); with `taps` also group -> its output (B, C, H, W).

        Args:
            gates: for pruning, a factor 0 or 1 on the residual of each group; see `prunable.py`.
            taps: 0-based indices of groups.
        """
        size = (x.shape[2], x.shape[3])
        base = F.interpolate(x, scale_factor=self.upscale, mode="bilinear") if self.upscale > 1 else x
        shallow = self.first_conv(channels_last(x))
        t = map_to_tokens(shallow)
        features = {}
        for i, gate in enumerate(check_gates(gates, len(self.blocks))):
            t = gated(t, gate, partial(self._residual, i, t, size))
            if i in taps:
                features[i] = tokens_to_map(t, size)
        y = self._reconstruct(tokens_to_map(t, size) + shallow) + base
        return (y, features) if taps else y

    def _residual(self, i: int, t_BNC: Tensor, size: tuple[int, int]) -> Tensor:
        """Return what group `i` adds to its input."""
        tab, lrsa = cast(tuple[TAB, LRSA], tuple(self.blocks[i].children()))
        if self.use_checkpoint and self.training:
            # Grouping is not recomputed: it would move the stored centres twice.
            deep = recomputed(tab.aggregate, t_BNC, *tab.group(t_BNC), size)
            deep = recomputed(lrsa, deep, size)
        else:
            deep = lrsa(tab(t_BNC, size), size)
        return map_to_tokens(self.mid_convs[i](tokens_to_map(deep, size)))

    def prunable_groups(self) -> list[GroupInfo]:
        """Return the residual groups; see `prunable.py`."""
        return [
            GroupInfo(
                index=i,
                prefixes=(f"blocks.{i}.", f"mid_convs.{i}."),
                hparams={name: values[i] for name, values in self._per_group.items()},
                state_buffers=(f"blocks.{i}.0.means", f"blocks.{i}.0.initted"),
                macs=partial(self._group_multiply_adds, i),
            )
            for i in range(len(self.blocks))
        ]

    def compact_kwargs(self, keep: Sequence[int]) -> dict[str, Any]:
        """Return the arguments that construct this network with the groups `keep` alone."""
        per_group = {name: [values[i] for i in keep] for name, values in self._per_group.items()}
        return {**self._same_for_all, "block_num": len(keep), **per_group}

    def ffn_axes(self) -> list[dict[str, int]]:
        """Return the axes of the hidden channels of each FFN; see `prunable.py`."""
        return [
            {f"{name}.{parameter}": axis for parameter, axis in module.hidden_axes.items()}
            for name, module in self.named_modules()
            if isinstance(module, ConvFFN)
        ]

    def set_state_tracking(self, flags: Sequence[bool], decay: float | None = None) -> None:
        """Choose the groups that move their token centres in training, and the decay (None: 0.999)."""
        for block, flag in zip(self.blocks, flags, strict=True):
            tab = cast(TAB, next(block.children()))
            tab.track_state = bool(flag)
            tab.decay = CENTRE_DECAY if decay is None else decay

    def prepared(self, dtype: torch.dtype = torch.float32) -> PreparedCATANet:
        """Return a faster form of this network for inference, with equal outputs; see `fast_catanet.py`.

        Any network may offer this method; validation, testing and inference then use its result.

        Args:
            dtype: of convolutions and FFNs: float32 or bfloat16.
        """
        return PreparedCATANet(deepcopy(self).eval().requires_grad_(False), dtype)

    def multiply_adds(self, height: int, width: int) -> MultiplyAdds:
        """Return the multiply-adds of an evaluation on one (height, width) low-resolution image."""
        total = MultiplyAdds(0, 0)
        for i in range(len(self.blocks)):
            total += self._group_multiply_adds(i, height, width)
        for name, module in self.named_children():
            if isinstance(module, nn.Conv2d):
                direct = name == "last_conv" and self.tail == "direct"
                side = 1 if direct else {"upconv2": 2, "last_conv": self.upscale}.get(name, 1)  # of its input, enlarged
                total += (module.weight.numel() * height * width * side**2, 0)
        return total

    def _group_multiply_adds(self, i: int, height: int, width: int) -> MultiplyAdds:
        """Return those of group `i`."""
        total = MultiplyAdds(cast(Tensor, self.mid_convs[i].weight).numel() * height * width, 0)
        for part in self.blocks[i].children():
            total += cast(TAB | LRSA, part).multiply_adds((height, width))
        return total

    def _reconstruct(self, x: Tensor) -> Tensor:
        """Return the residual to the enlarged input, (B, in_chans, s*H, s*W), from features (B, C, H, W)."""
        if self.tail == "direct":
            return F.pixel_shuffle(self.last_conv(x), self.upscale)
        if self.upscale == 4:
            x = F.leaky_relu(F.pixel_shuffle(self.upconv1(x), 2), 0.1)
            x = F.leaky_relu(F.pixel_shuffle(self.upconv2(x), 2), 0.1)
        elif self.upscale > 1:
            x = F.leaky_relu(F.pixel_shuffle(self.upconv(x), self.upscale), 0.1)
        return self.last_conv(x)


def _per_group(name: str, value: int | Sequence[int], block_num: int, at_least: int = 1) -> list[int]:
    """Return one value for each residual group."""
    values = [value] * block_num if isinstance(value, int) else list(value)
    if len(values) != block_num:
        raise ValueError(
            f"{name}: needs one value for each of the {block_num} groups (block_num), got {len(values)}: {values}"
        )
    if min(values) < at_least:
        raise ValueError(f"{name}: must be at least {at_least}, got {values}")
    return values


@ARCH_REGISTRY.register(name="CATANet-L")
def catanet_l(*, upscale: int = 4, in_chans: int = 3, use_checkpoint: bool = False) -> CATANet:
    """Build CATANet-L, the network of the paper's tables: 477K / 550K / 535K parameters at x2 / x3 / x4."""
    return CATANet(upscale=upscale, in_chans=in_chans, use_checkpoint=use_checkpoint)


@ARCH_REGISTRY.register(name="CATANet-M")
def catanet_m(*, upscale: int = 4, in_chans: int = 3, use_checkpoint: bool = False) -> CATANet:
    """Build CATANet-M: 306,471 parameters at x2. The paper gives no sizes; these are chosen to match its 306K."""
    return CATANet(
        upscale=upscale,
        in_chans=in_chans,
        use_checkpoint=use_checkpoint,
        dim=36,
        block_num=6,
        mlp_dim=84,
        patch_size=(16, 20, 24, 28, 16, 20),
        num_tokens=(16, 32, 64, 128, 16, 32),
        group_size=(256, 128, 64, 32, 256, 128),
    )


@ARCH_REGISTRY.register(name="CATANet-S")
def catanet_s(*, upscale: int = 4, in_chans: int = 3, use_checkpoint: bool = False) -> CATANet:
    """Build CATANet-S: 230,079 parameters at x2. The paper gives no sizes; these are chosen to match its 230K."""
    return CATANet(
        upscale=upscale,
        in_chans=in_chans,
        use_checkpoint=use_checkpoint,
        dim=36,
        block_num=4,
        patch_size=(16, 20, 24, 28),
        num_tokens=(16, 32, 64, 128),
        group_size=(256, 128, 64, 32),
    )


@ARCH_REGISTRY.register(name="CATANet-XS")
def catanet_xs(
    *, upscale: int = 4, in_chans: int = 3, keep: Sequence[int] = (0, 1, 2), use_checkpoint: bool = False
) -> CATANet:
    """Build CATANet-XS: the groups `keep` of CATANet-L, by default three; 216,515 parameters at x2.

    Args:
        keep: 0-based indices of groups of CATANet-L, ascending.

    Source: docs/prune_distill.md.
    """
    return _pruned_l(upscale, in_chans, keep, "original", use_checkpoint)


@ARCH_REGISTRY.register(name="CATANet-XS-D")
def catanet_xs_d(
    *, upscale: int = 4, in_chans: int = 3, keep: Sequence[int] = (0, 1, 2, 7), use_checkpoint: bool = False
) -> CATANet:
    """Build CATANet-XS-D: by default four groups, with a direct tail.

    It has 214,188 / 219,603 / 227,184 parameters at x2 / x3 / x4.

    Args:
        keep: 0-based indices of groups of CATANet-L, ascending.

    Source: docs/prune_distill.md.
    """
    return _pruned_l(upscale, in_chans, keep, "direct", use_checkpoint)


@ARCH_REGISTRY.register(name="CATANet-XXS")
def catanet_xxs(
    *, upscale: int = 4, in_chans: int = 3, keep: Sequence[int] = (0, 4, 7), use_checkpoint: bool = False
) -> CATANet:
    """Build CATANet-XXS, the fastest: by default three groups, all with patches of 16 px, and a direct tail.

    It has 162,004 / 167,419 / 175,000 parameters at x2 / x3 / x4.

    Args:
        keep: 0-based indices of groups of CATANet-L, ascending.

    Source: docs/prune_distill.md.
    """
    return _pruned_l(upscale, in_chans, keep, "direct", use_checkpoint, patch_size=16)


def _pruned_l(
    upscale: int,
    in_chans: int,
    keep: Sequence[int],
    tail: Tail,
    use_checkpoint: bool,
    patch_size: int | None = None,
) -> CATANet:
    """Return CATANet-L with the groups `keep` alone, and their patches of `patch_size` px or those of CATANet-L."""
    number = len(PATCH_SIZES)
    if list(keep) != sorted(set(keep) & set(range(number))) or not keep:
        raise ValueError(f"keep: must be ascending indices of groups of CATANet-L, 0 to {number - 1}, got {list(keep)}")
    return CATANet(
        upscale=upscale,
        in_chans=in_chans,
        block_num=len(keep),
        patch_size=[patch_size or PATCH_SIZES[i] for i in keep],
        num_tokens=[TOKEN_NUMBERS[i] for i in keep],
        group_size=[GROUP_SIZES[i] for i in keep],
        tail=tail,
        use_checkpoint=use_checkpoint,
    )
