"""CATANet read off its specification, line by sentence: the oracle of `catanet_arch.py` and the yardstick of its speed.

Nothing here is optimised. Attention heads keep their unequal widths, so torch takes its unfused path; patches are cut
and pasted one by one; queries, keys and values are gathered apart; the flag `initted` is read from its buffer. The
modules are named like the published state dict, so a published checkpoint loads strictly.

Sizes: B batch, C channels (dim), H x W pixels, N = H*W tokens in raster order, T centres, Q query and key width.

Source: "CATANet: Efficient Content-Aware Token Aggregation for Lightweight Image Super-Resolution", arXiv:2503.06896.
"""

from collections.abc import Sequence
from math import ceil

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def norm1(v: Tensor) -> Tensor:
    """`v` scaled to length 1 along its last axis."""
    return F.normalize(v, dim=-1, eps=1e-12)


def bounced(total: int, n: int, device: torch.device) -> Tensor:
    """Indices 0 .. n-1, n-1 .. 0, 0 .. n-1 and so on, `total` of them: a sequence of `n` padded by mirroring."""
    i = torch.arange(total, device=device) % (2 * n)
    return torch.where(i < n, i, 2 * n - 1 - i)


def attention(q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
    """Multi-head attention on (..., tokens, width); heads are contiguous slices, the scale is 1/sqrt(Q/heads)."""
    q, k, v = (x.unflatten(-1, (heads, -1)).transpose(-2, -3) for x in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v).transpose(-2, -3).flatten(-2)


def nearest(zn: Tensor, c: Tensor) -> Tensor:
    """Index (B, N) of the centre in `c` (T, C) with the largest dot product, the lowest of equals."""
    return (zn @ c.t()).argmax(dim=-1)


def update(zn: Tensor, c: Tensor) -> Tensor:
    """Centres (T, C) moved to the direction of the sum of their tokens; a centre without tokens stays."""
    members = F.one_hot(nearest(zn, c).flatten(), len(c)).to(zn.dtype)
    sums = members.t() @ zn.flatten(0, 1)
    return torch.where(members.sum(dim=0).unsqueeze(1) > 0, norm1(sums), c)


class FFN(nn.Module):
    """fc1, GELU, plus a depth-wise 5x5 convolution with GELU, fc2; on (B, C, H, W)."""

    def __init__(self, dim: int, mlp_dim: int):
        super().__init__()
        self.fc1 = nn.Linear(dim, mlp_dim)
        depthwise_conv = nn.Sequential(nn.Conv2d(mlp_dim, mlp_dim, 5, padding=2, groups=mlp_dim))
        self.dwconv = nn.ModuleDict({"depthwise_conv": depthwise_conv})
        self.fc2 = nn.Linear(mlp_dim, dim)

    def forward(self, t: Tensor, height: int, width: int) -> Tensor:
        u = F.gelu(self.fc1(t))
        on_map = u.transpose(1, 2).unflatten(2, (height, width))
        u = u + F.gelu(self.dwconv["depthwise_conv"](on_map)).flatten(2).transpose(1, 2)
        return self.fc2(u)


class PatchAttention(nn.Module):
    """Full self-attention over each of (patches, tokens, C)."""

    def __init__(self, dim: int, qk_dim: int, heads: int):
        super().__init__()
        self.heads = heads
        self.to_q = nn.Linear(dim, qk_dim, bias=False)
        self.to_k = nn.Linear(dim, qk_dim, bias=False)
        self.to_v = nn.Linear(dim, dim, bias=False)
        self.proj = nn.Linear(dim, dim, bias=False)

    def forward(self, a: Tensor) -> Tensor:
        return self.proj(attention(self.to_q(a), self.to_k(a), self.to_v(a), self.heads))


class GroupAttention(PatchAttention):
    """Attention of sorted tokens to their own sub-group and the next, plus to the centres."""

    def __init__(self, dim: int, qk_dim: int, heads: int, group_size: int):
        super().__init__(dim, qk_dim, heads)
        self.group_size = group_size

    def forward(self, z: Tensor, order: Tensor, k_g: Tensor, v_g: Tensor) -> Tensor:
        n = z.shape[1]
        gs = min(n, self.group_size)
        ng = ceil(n / gs)
        q, k, v = (x.gather(1, order.unsqueeze(-1).expand_as(x)) for x in (self.to_q(z), self.to_k(z), self.to_v(z)))
        q = q[:, bounced(ng * gs, n, z.device)].unflatten(1, (ng, gs))
        k, v = (x[:, bounced((ng + 1) * gs, n, z.device)] for x in (k, v))
        k, v = (torch.stack([x[:, j * gs : (j + 2) * gs] for j in range(ng)], dim=1) for x in (k, v))
        y = attention(q, k, v, self.heads) + attention(q, k_g.expand(*q.shape[:2], -1, -1), v_g, self.heads)
        y = y.flatten(1, 2)[:, :n]
        y = y.gather(1, order.argsort(dim=1).unsqueeze(-1).expand_as(y))
        return self.proj(y)


class PreNorm(nn.Module):
    """`fn` of the layer norm."""

    def __init__(self, dim: int, fn: nn.Module):
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.fn = fn

    def forward(self, t: Tensor, *args: int) -> Tensor:
        return self.fn(self.norm(t), *args)


class TAB(nn.Module):
    """Token aggregation block: tokens sorted by their nearest centre attend to their neighbours in that order."""

    def __init__(self, dim: int, qk_dim: int, mlp_dim: int, heads: int, n_iter: int, num_tokens: int, group_size: int):
        super().__init__()
        self.n_iter = n_iter
        self.register_buffer("means", torch.randn(num_tokens, dim))
        self.register_buffer("initted", torch.tensor(False))
        self.norm = nn.LayerNorm(dim)
        self.mlp = PreNorm(dim, FFN(dim, mlp_dim))
        to_k, to_v = nn.Linear(dim, qk_dim, bias=False), nn.Linear(dim, dim, bias=False)
        self.irca_attn = nn.ModuleDict({"to_k": to_k, "to_v": to_v})
        self.iasa_attn = GroupAttention(dim, qk_dim, heads, group_size)
        self.conv1x1 = nn.Conv2d(dim, dim, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[2:]
        t = x.flatten(2).transpose(1, 2)
        z = self.norm(t)
        with torch.no_grad():
            c = self.means.clone() if self.initted else self.pooled(z)
            if self.training:
                for _ in range(self.n_iter - 1):
                    c = update(norm1(z), norm1(c))
        if self.training:
            c = update(norm1(z), norm1(c))
        with torch.no_grad():
            order = nearest(norm1(z), norm1(c)).argsort(dim=1, stable=True)
        y = self.iasa_attn(z, order, self.irca_attn["to_k"](c), self.irca_attn["to_v"](c))
        t = t + self.conv1x1(y.transpose(1, 2).unflatten(2, (height, width))).flatten(2).transpose(1, 2)
        t = t + self.mlp(t, height, width)
        if self.training:
            with torch.no_grad():
                self.means.copy_(0.999 * self.means + 0.001 * c if self.initted else c)
                self.initted.fill_(True)
        return t.transpose(1, 2).unflatten(2, (height, width))

    def pooled(self, z: Tensor) -> Tensor:
        """Means (T, C) of T equal consecutive runs of the padded tokens, over the batch too.

        Where 2N is a multiple of the length of a run, a run of the padding holds the tokens of an earlier one in
        reverse: two equal centres, and rounding decides which of them a token is nearest to.
        """
        n, runs = z.shape[1], len(self.means)
        padded = bounced(n + runs - n % runs, n, z.device)
        return z[:, padded].unflatten(1, (runs, -1)).mean(dim=(0, 2))


class LRSA(nn.Module):
    """Local-region self-attention inside overlapping patches."""

    def __init__(self, dim: int, qk_dim: int, mlp_dim: int, heads: int, patch_size: int):
        super().__init__()
        self.patch_size = patch_size
        attend = PreNorm(dim, PatchAttention(dim, qk_dim, heads))
        self.layer = nn.ModuleList([attend, PreNorm(dim, FFN(dim, mlp_dim))])

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[2:]
        patch_h, rows, row_bands = self.patches(height)
        patch_w, columns, column_bands = self.patches(width)
        corners = [(top, left) for top in rows for left in columns]
        cut = [x[:, :, top : top + patch_h, left : left + patch_w] for top, left in corners]
        a = torch.stack(cut, dim=1).flatten(0, 1).flatten(2).transpose(1, 2)
        a = a + self.layer[0](a)
        a = a.transpose(1, 2).unflatten(2, (patch_h, patch_w)).unflatten(0, (len(x), -1))
        x = torch.zeros_like(x)
        for i, (top, left) in enumerate(corners):
            x[:, :, top : top + patch_h, left : left + patch_w] += a[:, i]
        for start, end in row_bands:
            x[:, :, start:end] /= 2
        for start, end in column_bands:
            x[:, :, :, start:end] /= 2
        t = x.flatten(2).transpose(1, 2)
        t = t + self.layer[1](t, height, width)
        return t.transpose(1, 2).unflatten(2, (height, width))

    def patches(self, side: int) -> tuple[int, list[int], list[tuple[int, int]]]:
        """Length of a patch along an axis of `side` pixels, starts of the patches, bands (start, end) to be halved."""
        length, stride = min(self.patch_size, side), self.patch_size - 2
        last = side - length
        grid = [i * stride for i in range(ceil(last / stride) + 1)]
        return length, [min(a, last) for a in grid], [(min(a, last), a + 2) for a in grid[1:]]


class LiteralCATANet(nn.Module):
    """CATANet with the arguments of `basicsr.archs.catanet_arch.CATANet`; (B, 3, H, W) to (B, 3, s*H, s*W)."""

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
        patch_size: Sequence[int] = (16, 20, 24, 28, 16, 20, 24, 28),
        num_tokens: Sequence[int] = (16, 32, 64, 128, 16, 32, 64, 128),
        group_size: Sequence[int] = (256, 128, 64, 32, 256, 128, 64, 32),
        n_iters: Sequence[int] = (5, 5, 5, 5, 5, 5, 5, 5),
    ):
        super().__init__()
        self.upscale = upscale
        self.first_conv = nn.Conv2d(in_chans, dim, 3, padding=1)
        self.blocks = nn.ModuleList()
        for i in range(block_num):
            tab = TAB(dim, qk_dim, mlp_dim, heads, n_iters[i], num_tokens[i], group_size[i])
            self.blocks.append(nn.ModuleList([tab, LRSA(dim, qk_dim, mlp_dim, heads, patch_size[i])]))
        self.mid_convs = nn.ModuleList(nn.Conv2d(dim, dim, 3, padding=1) for _ in range(block_num))
        if upscale == 4:
            self.upconv1 = nn.Conv2d(dim, dim * 4, 3, padding=1)
            self.upconv2 = nn.Conv2d(dim, dim * 4, 3, padding=1)
        elif upscale in (2, 3):
            self.upconv = nn.Conv2d(dim, dim * upscale**2, 3, padding=1)
        self.last_conv = nn.Conv2d(dim, in_chans, 3, padding=1)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02, a=-2, b=2)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, lq: Tensor) -> Tensor:
        base = lq
        if self.upscale > 1:
            base = F.interpolate(lq, scale_factor=self.upscale, mode="bilinear", align_corners=False)
        x0 = self.first_conv(lq)
        x = x0
        for (tab, lrsa), mid_conv in zip(self.blocks, self.mid_convs, strict=True):
            x = x + mid_conv(lrsa(tab(x)))
        x = x + x0
        if self.upscale == 4:
            x = F.leaky_relu(F.pixel_shuffle(self.upconv1(x), 2), 0.1)
            x = F.leaky_relu(F.pixel_shuffle(self.upconv2(x), 2), 0.1)
        elif self.upscale > 1:
            x = F.leaky_relu(F.pixel_shuffle(self.upconv(x), self.upscale), 0.1)
        return self.last_conv(x) + base
