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
from typing import TYPE_CHECKING, Any, Literal, cast, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from basicsr.archs.layers.attention import gathered_attention
from basicsr.archs.layers.patches import PatchGrid
from basicsr.archs.layers.plans import planned
from basicsr.archs.layers.tokens import (
    ConvFFN,
    MultiplyAdds,
    PreNorm,
    TokenNorm,
    full_precision,
    map_to_tokens,
    mirrored_index,
    nearest_centre,
    recomputed,
    sorted_windows,
    stable_group_order,
    takes_kmeans_kernel,
    tokens_to_map,
)
from basicsr.archs.layers.windows import Heads, Windows
from basicsr.archs.prunable import Gate, GroupInfo, check_gates, gated
from basicsr.config.registry import ARCH_REGISTRY
from basicsr.engine.distributed import all_reduce_sum

if TYPE_CHECKING:
    from basicsr.inference.fast_catanet import PreparedCATANet

Tail = Literal["original", "direct"]
CENTRE_DECAY = 0.999  # of the moving average of the token centres

# Sizes that the contract tests build the network with.
TINY = {
    "dim": 16, "block_num": 2, "qk_dim": 12, "mlp_dim": 24, "heads": 2,
    "patch_size": (8, 10), "num_tokens": (4, 8), "group_size": (64, 32), "n_iters": (2, 3),
}  # fmt: skip


def _sums_by_centre(z_MC: Tensor, unit_centres_TC: Tensor) -> Tensor:
    """Return the sum of the tokens nearest to each centre, and their number, (T, C + 1); the sum has a gradient."""
    if takes_kmeans_kernel(z_MC, unit_centres_TC):
        from basicsr.archs.kernels.kmeans import kmeans_sums

        return kmeans_sums(z_MC, unit_centres_TC)
    with torch.no_grad():
        member = F.one_hot(nearest_centre(z_MC[None], unit_centres_TC)[0], len(unit_centres_TC)).to(z_MC.dtype)
    # One product gives the sums, and a column of ones the counts.
    return member.T @ torch.cat([z_MC, torch.ones_like(z_MC[:, :1])], dim=1)


class _WindowAttention(nn.Module):
    """Projections of a multi-head attention in windows. Query/key heads (Q/h) and value heads (C/h) differ in width."""

    def __init__(self, dim: int, qk_dim: int, heads: int):
        super().__init__()
        self.heads = Heads(heads, qk_dim // heads, dim // heads)
        self.to_q = nn.Linear(dim, qk_dim, bias=False)
        self.to_k = nn.Linear(dim, qk_dim, bias=False)
        self.to_v = nn.Linear(dim, dim, bias=False)
        self.proj = nn.Linear(dim, dim, bias=False)

    def project(self, z_BNC: Tensor) -> Tensor:
        """Queries, keys and values of all tokens side by side, (B*N, 2*Q + C)."""
        weight = torch.cat([self.to_q.weight, self.to_k.weight, self.to_v.weight])
        return F.linear(z_BNC.flatten(0, 1), weight)

    def multiply_adds(self, tokens: int, pairs: int) -> MultiplyAdds:
        """Multiply-adds of projecting `tokens` tokens and attending over `pairs` (query, key) pairs, no padding."""
        qk_dim, dim = self.to_q.weight.shape
        return MultiplyAdds(tokens * 2 * dim * (qk_dim + dim), pairs * (qk_dim + dim))


class IASA(_WindowAttention):
    """Intra-group self-attention, with the inter-group cross-attention of the same queries added (paper, Sec. 3.2)."""

    def __init__(self, dim: int, qk_dim: int, heads: int, group_size: int):
        super().__init__(dim, qk_dim, heads)
        self.group_size = group_size

    def windows(self, order_BN: Tensor) -> Windows:
        """Sub-groups of tokens in the order of their groups; each also sees the keys of the next one."""
        return sorted_windows(order_BN, self.group_size, reach=2)

    def forward(self, z_BNC: Tensor, global_kv: Tensor, order_BN: Tensor) -> Tensor:
        """Attend inside sub-groups of similar tokens and, beside that, to all token centres.

        Args:
            z_BNC: normalised tokens in raster order.
            global_kv: (h, T, (Q + C)/h) keys and values of the token centres.
            order_BN: for each image, the tokens (rows of all B*N) sorted by their group.

        Returns:
            (B, N, C) in raster order.
        """
        y = gathered_attention(self.project(z_BNC), self.windows(order_BN), self.heads, global_kv, scatter=True)
        return self.proj(y).view_as(z_BNC)


class IRCA(nn.Module):
    """Keys and values of the inter-group cross-attention: projections of the token centres (paper, Sec. 3.2)."""

    def __init__(self, dim: int, qk_dim: int, heads: int):
        super().__init__()
        self.heads = heads
        self.to_k = nn.Linear(dim, qk_dim, bias=False)
        self.to_v = nn.Linear(dim, dim, bias=False)

    def forward(self, centres_TC: Tensor) -> Tensor:
        """(T, C) token centres to (h, T, (Q + C)/h) keys and values."""
        kv = (x.unflatten(1, (self.heads, -1)).transpose(0, 1) for x in (self.to_k(centres_TC), self.to_v(centres_TC)))
        return torch.cat(list(kv), dim=2)


class TAB(nn.Module):
    """Token-aggregation block: group tokens by content, attend inside the groups and to the groups' centres.

    State: `means (T, C)`, a moving average of the token centres over the training batches, and `initted`, whether it
    has been set. Until it is, the centres are pooled from the input at hand. `_initialised` is its twin in Python, so
    that no forward has to read a tensor. With `track_state` off, training leaves the state alone.

    Source: CATANet, Sec. 3.2, Alg. 1.
    """

    def __init__(
        self, dim: int, qk_dim: int, mlp_dim: int, heads: int, n_iters: int, num_tokens: int, group_size: int
    ):  # fmt: skip
        super().__init__()
        self.n_iters = n_iters
        self.num_tokens = num_tokens
        self.decay = CENTRE_DECAY
        self.track_state = True
        self.norm = TokenNorm(dim)
        self.mlp = PreNorm(dim, ConvFFN(dim, mlp_dim))
        self.irca_attn = IRCA(dim, qk_dim, heads)
        self.iasa_attn = IASA(dim, qk_dim, heads, group_size)
        self.conv1x1 = nn.Conv2d(dim, dim, 1, bias=False)
        self.means: Tensor
        self.initted: Tensor
        self.register_buffer("means", torch.randn(num_tokens, dim))
        self.register_buffer("initted", torch.tensor(False))
        self._initialised = False

    def follow(self, other: "TAB") -> None:
        """Take over the Python state that mirrors `other`'s buffers; whoever copies buffers (EMA) calls it."""
        self._initialised = other._initialised

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        if not self.initted.is_meta:
            self._initialised = bool(self.initted)

    def forward(self, t_BNC: Tensor, size: tuple[int, int]) -> Tensor:
        """(B, N, C) tokens of an (H, W) map to the same shape."""
        return self.aggregate(t_BNC, *self.group(t_BNC), size)

    def group(self, t_BNC: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Normalised tokens (B, N, C), token centres (T, C), and the tokens' order (B, N) by their nearest centre.

        In training this moves the stored centres.
        """
        z = self.norm(t_BNC)
        centres = self.means if self._initialised else self._pooled_centres(z)
        if self.training:
            centres = self._refined_centres(z, centres)
            if self.track_state:
                self._track(centres.detach())
        with torch.no_grad():
            with full_precision(z.device):
                groups = nearest_centre(z.to(centres.dtype), F.normalize(centres, dim=-1))
            return z, centres, stable_group_order(groups, self.num_tokens)

    def aggregate(self, t_BNC: Tensor, z_BNC: Tensor, centres: Tensor, order: Tensor, size: tuple[int, int]) -> Tensor:
        """Attention in and to the groups, then the FFN; no state is read or written."""
        y = self.iasa_attn(z_BNC, self.irca_attn(centres), order)
        t = t_BNC + F.linear(y, self.conv1x1.weight.flatten(1))
        return t + self.mlp(t, size)

    def multiply_adds(self, size: tuple[int, int]) -> MultiplyAdds:
        """Multiply-adds of an evaluation on an (H, W) map."""
        length = size[0] * size[1]
        dim, group_size = self.conv1x1.in_channels, min(length, self.iasa_attn.group_size)
        queries = -(-length // group_size) * group_size
        centres = sum(p.numel() for p in self.irca_attn.parameters()) * self.num_tokens
        around = MultiplyAdds(
            length * dim**2 + centres, length * dim * self.num_tokens
        )  # conv1x1, keys, values; grouping
        attention = self.iasa_attn.multiply_adds(length, queries * (2 * group_size + self.num_tokens))
        return attention + around + cast(ConvFFN, self.mlp.fn).multiply_adds(size)

    @torch.no_grad()
    def _pooled_centres(self, z_BNC: Tensor) -> Tensor:
        """Averages of T equal runs of the (mirrored) token sequence over the batch, (T, C)."""
        batch, length, _ = z_BNC.shape
        run = length // self.num_tokens + 1
        index = planned(mirrored_index, 0, run * self.num_tokens, length, like=z_BNC)
        runs = z_BNC.index_select(1, index).unflatten(1, (self.num_tokens, run))
        sums = runs.to(self.means.dtype).mean(dim=2).sum(dim=0)
        if not self.training:
            return sums / batch
        sums = all_reduce_sum(F.pad(sums, (0, 1), value=batch))  # the batches of the ranks may differ in size
        return sums[:, :-1] / sums[:, -1:]

    def _refined_centres(self, z_BNC: Tensor, centres: Tensor) -> Tensor:
        """`n_iters` steps of spherical k-means over the global batch; gradient flows through the last one only."""
        with full_precision(z_BNC.device):
            z = F.normalize(z_BNC.flatten(0, 1).to(centres.dtype), dim=-1)
            with torch.no_grad():
                for _ in range(self.n_iters - 1):
                    centres = self._kmeans_step(z, centres)
            return self._kmeans_step(z, centres)

    def _kmeans_step(self, z_MC: Tensor, centres: Tensor) -> Tensor:
        """New unit centres: the normalised sums of their tokens. A centre that no token chose stays as it is."""
        centres = F.normalize(centres, dim=-1)
        sums = all_reduce_sum(_sums_by_centre(z_MC, centres))  # one exchange between ranks carries sums and counts
        return torch.where(sums[:, -1:] > 0, F.normalize(sums[:, :-1], dim=-1), centres)

    @torch.no_grad()
    def _track(self, centres: Tensor) -> None:
        if self._initialised:
            self.means.lerp_(centres, 1 - self.decay)
        else:
            self.means.copy_(centres)
            self.initted.fill_(True)
            self._initialised = True


class _PatchAttention(_WindowAttention):
    """Self-attention among the pixels of each overlapping patch."""

    def forward(self, z_BNC: Tensor, grid: PatchGrid) -> Tensor:
        """(B, N, C) normalised tokens to the blended outputs of all patches, (B, N, C)."""
        y = gathered_attention(self.project(z_BNC), grid.windows(len(z_BNC), z_BNC), self.heads)
        # Blending is linear, so the output projection can come after it, on fewer tokens.
        return self.proj(grid.merge(y.view(len(z_BNC), -1, y.shape[1])))


class LRSA(nn.Module):
    """Local-region self-attention over overlapping patches, then a conv FFN over the whole map (paper, Sec. 3.3)."""

    def __init__(self, dim: int, qk_dim: int, mlp_dim: int, heads: int, patch_size: int):
        super().__init__()
        self.patch_size = patch_size
        attention = PreNorm(dim, _PatchAttention(dim, qk_dim, heads))
        self.layer = nn.ModuleList([attention, PreNorm(dim, ConvFFN(dim, mlp_dim))])

    def multiply_adds(self, size: tuple[int, int]) -> MultiplyAdds:
        """Multiply-adds on an (H, W) map."""
        grid = PatchGrid(size, self.patch_size)
        attention, ffn = (cast(PreNorm, layer).fn for layer in self.layer)
        attending = cast(_PatchAttention, attention).multiply_adds(grid.count * grid.area, grid.count * grid.area**2)
        return attending + cast(ConvFFN, ffn).multiply_adds(size)

    def forward(self, t_BNC: Tensor, size: tuple[int, int]) -> Tensor:
        """(B, N, C) tokens of an (H, W) map to the same shape."""
        grid = PatchGrid(size, self.patch_size)
        t = grid.scale_as_merged(t_BNC) + self.layer[0](t_BNC, grid)
        return t + self.layer[1](t, size)


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
            channel and one pixel shuffle, which costs a tenth.
        use_checkpoint: compute attention and FFNs again in the backward pass instead of keeping what they need: less
            memory, slower training, the same gradients.

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
        patch_size: int | Sequence[int] = (16, 20, 24, 28, 16, 20, 24, 28),
        num_tokens: int | Sequence[int] = (16, 32, 64, 128, 16, 32, 64, 128),
        group_size: int | Sequence[int] = (256, 128, 64, 32, 256, 128, 64, 32),
        n_iters: int | Sequence[int] = 5,
        tail: Tail = "original",
        use_checkpoint: bool = False,
    ):
        super().__init__()
        if upscale not in (1, 2, 3, 4):
            raise ValueError(f"upscale: must be 1, 2, 3 or 4, got {upscale}")
        for name, value in (("in_chans", in_chans), ("dim", dim), ("qk_dim", qk_dim), ("mlp_dim", mlp_dim),
                            ("heads", heads), ("block_num", block_num)):  # fmt: skip
            if value < 1:
                raise ValueError(f"{name}: must be at least 1, got {value}")
        for name, value in (("dim", dim), ("qk_dim", qk_dim)):
            if value % heads:
                raise ValueError(f"{name}: must be a multiple of heads ({heads}), got {value}")
        if tail not in get_args(Tail):
            raise ValueError(f"tail: must be one of {', '.join(get_args(Tail))}, got {tail!r}")
        self.upscale = upscale
        self.tail = tail
        self.use_checkpoint = use_checkpoint
        self._same_for_all = {
            "upscale": upscale, "in_chans": in_chans, "dim": dim, "qk_dim": qk_dim, "mlp_dim": mlp_dim, "heads": heads,
            "tail": tail, "use_checkpoint": use_checkpoint,
        }  # fmt: skip
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
        if tail == "direct":
            self.last_conv = nn.Conv2d(dim, in_chans * upscale**2, 3, padding=1)
        elif upscale == 4:
            self.upconv1 = nn.Conv2d(dim, 4 * dim, 3, padding=1)
            self.upconv2 = nn.Conv2d(dim, 4 * dim, 3, padding=1)
        elif upscale > 1:
            self.upconv = nn.Conv2d(dim, upscale**2 * dim, 3, padding=1)
        if tail == "original":
            self.last_conv = nn.Conv2d(dim, in_chans, 3, padding=1)
        self.apply(_init_weights)
        for module in self.modules():  # kernels lie in memory as the maps do; 1x1 kernels have but one layout
            if isinstance(module, nn.Conv2d) and module.kernel_size != (1, 1):
                module.to(memory_format=torch.channels_last)

    def forward(
        self, x: Tensor, gates: Sequence[Gate] | None = None, taps: Sequence[int] = ()
    ) -> Tensor | tuple[Tensor, dict[int, Tensor]]:
        """(B, in_chans, H, W) -> (B, in_chans, s*H, s*W); with `taps` also group -> its output (B, C, H, W).

        Args:
            gates: for pruning, a factor 0 or 1 on the residual of each group; see `prunable.py`.
            taps: groups, from 0.
        """
        size = (x.shape[2], x.shape[3])
        base = F.interpolate(x, scale_factor=self.upscale, mode="bilinear") if self.upscale > 1 else x
        shallow = self.first_conv(x.contiguous(memory_format=torch.channels_last))
        t = map_to_tokens(shallow)
        features = {}
        for i, gate in enumerate(check_gates(gates, len(self.blocks))):
            t = gated(t, gate, partial(self._residual, i, t, size))
            if i in taps:
                features[i] = tokens_to_map(t, size)
        y = self._reconstruct(tokens_to_map(t, size) + shallow) + base
        return (y, features) if taps else y

    def _residual(self, i: int, t_BNC: Tensor, size: tuple[int, int]) -> Tensor:
        """What group `i` adds to its input."""
        tab, lrsa = cast(tuple[TAB, LRSA], tuple(self.blocks[i].children()))
        if self.use_checkpoint and self.training:
            # Grouping stays outside: done again, it would move the stored centres twice.
            deep = recomputed(tab.aggregate, t_BNC, *tab.group(t_BNC), size)
            deep = recomputed(lrsa, deep, size)
        else:
            deep = lrsa(tab(t_BNC, size), size)
        return map_to_tokens(self.mid_convs[i](tokens_to_map(deep, size)))

    def prunable_groups(self) -> list[GroupInfo]:
        """The residual groups, with what is their own; see `prunable.py`."""
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
        """Arguments that construct this network with the groups `keep` alone."""
        per_group = {name: [values[i] for i in keep] for name, values in self._per_group.items()}
        return {**self._same_for_all, "block_num": len(keep), **per_group}

    def set_state_tracking(self, flags: Sequence[bool], decay: float | None = None) -> None:
        """Say which groups move their token centres in training, and with which decay (None: 0.999)."""
        for block, flag in zip(self.blocks, flags, strict=True):
            tab = cast(TAB, next(block.children()))
            tab.track_state = bool(flag)
            tab.decay = CENTRE_DECAY if decay is None else decay

    def prepared(self, dtype: torch.dtype = torch.float32) -> "PreparedCATANet":
        """A faster form of this network for inference, equal in its outputs; see `catanet_prepared.py`.

        Args:
            dtype: of convolutions and FFNs: float32 or bfloat16.
        """
        from basicsr.inference.fast_catanet import PreparedCATANet

        return PreparedCATANet(deepcopy(self).eval().requires_grad_(False), dtype)

    def multiply_adds(self, height: int, width: int) -> MultiplyAdds:
        """Multiply-adds of an evaluation on one (height, width) low-resolution image."""
        total = MultiplyAdds(0, 0)
        for i in range(len(self.blocks)):
            total += self._group_multiply_adds(i, height, width)
        for name, module in self.named_children():
            if isinstance(module, nn.Conv2d):
                direct = name == "last_conv" and self.tail == "direct"
                side = 1 if direct else {"upconv2": 2, "last_conv": self.upscale}.get(name, 1)  # enlarged before it
                total += (module.weight.numel() * height * width * side**2, 0)
        return total

    def _group_multiply_adds(self, i: int, height: int, width: int) -> MultiplyAdds:
        total = MultiplyAdds(cast(Tensor, self.mid_convs[i].weight).numel() * height * width, 0)
        for part in self.blocks[i].children():
            total += cast(TAB | LRSA, part).multiply_adds((height, width))
        return total

    def _reconstruct(self, x: Tensor) -> Tensor:
        """(B, C, H, W) features to what is added to the enlarged input, (B, in_chans, s*H, s*W)."""
        if self.tail == "direct":
            return F.pixel_shuffle(self.last_conv(x), self.upscale)
        if self.upscale == 4:
            x = F.leaky_relu(F.pixel_shuffle(self.upconv1(x), 2), 0.1)
            x = F.leaky_relu(F.pixel_shuffle(self.upconv2(x), 2), 0.1)
        elif self.upscale > 1:
            x = F.leaky_relu(F.pixel_shuffle(self.upconv(x), self.upscale), 0.1)
        return self.last_conv(x)


def _per_group(name: str, value: int | Sequence[int], block_num: int, at_least: int = 1) -> list[int]:
    """One value for each residual group."""
    values = [value] * block_num if isinstance(value, int) else list(value)
    if len(values) != block_num:
        raise ValueError(
            f"{name}: needs one value for each of the {block_num} groups (block_num), got {len(values)}: {values}"
        )
    if min(values) < at_least:
        raise ValueError(f"{name}: must be at least {at_least}, got {values}")
    return values


def _init_weights(module: nn.Module) -> None:
    """Linear layers: truncated normal of std 0.02, zero bias. Convolutions and norms keep the framework's default."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


@ARCH_REGISTRY.register(name="CATANet-L")
def catanet_l(*, upscale: int = 4, in_chans: int = 3, use_checkpoint: bool = False) -> CATANet:
    """CATANet-L, the network of the paper's tables: 477K / 550K / 535K parameters at x2 / x3 / x4."""
    return CATANet(upscale=upscale, in_chans=in_chans, use_checkpoint=use_checkpoint)


@ARCH_REGISTRY.register(name="CATANet-M")
def catanet_m(*, upscale: int = 4, in_chans: int = 3, use_checkpoint: bool = False) -> CATANet:
    """CATANet-M: 306,471 parameters at x2. The paper gives no sizes; these are chosen to match its 306K."""
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
    """CATANet-S: 230,079 parameters at x2. The paper gives no sizes; these are chosen to match its 230K."""
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
    """CATANet-XS: the groups `keep` of CATANet-L, by default three; 216,515 parameters at x2.

    Args:
        keep: groups of CATANet-L, from 0, rising.

    Source: docs/prune_distill.md.
    """
    return _pruned_l(upscale, in_chans, keep, "original", use_checkpoint)


@ARCH_REGISTRY.register(name="CATANet-XS-D")
def catanet_xs_d(
    *, upscale: int = 4, in_chans: int = 3, keep: Sequence[int] = (0, 1, 2, 7), use_checkpoint: bool = False
) -> CATANet:
    """CATANet-XS-D: by default four groups, and a direct tail; 214,188 / 219,603 / 227,184 parameters at x2 / x3 / x4.

    Args:
        keep: groups of CATANet-L, from 0, rising.

    Source: docs/prune_distill.md.
    """
    return _pruned_l(upscale, in_chans, keep, "direct", use_checkpoint)


def _pruned_l(upscale: int, in_chans: int, keep: Sequence[int], tail: Tail, use_checkpoint: bool) -> CATANet:
    with torch.device("meta"):
        whole = CATANet(upscale=upscale, in_chans=in_chans, tail=tail, use_checkpoint=use_checkpoint)
    if list(keep) != sorted(set(keep) & set(range(len(whole.blocks)))) or not keep:
        raise ValueError(f"keep: must be groups of CATANet-L, 0 to {len(whole.blocks) - 1}, rising, got {list(keep)}")
    return CATANet(**whole.compact_kwargs(keep))
