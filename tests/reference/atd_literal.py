"""The ATD family read off its specification, line by sentence: the oracle of `atd_arch.py` and `atdu_arch.py`.

Nothing here is optimised. Logits, softmax and masks are written out; the mask covers every window; tokens are sorted by
argsort and gathered with expanded indices. It is also the yardstick of speed. The modules are named like the published
state dicts, so published checkpoints load strictly.

Sizes: B batch, C channels, H x W pixels, N = H*W tokens in raster order, M dictionary tokens, ws window side.

Sources: "Transcending the Limit of Local Window: Advanced Super-Resolution Transformer with Adaptive Token Dictionary",
CVPR 2024, and its extension of 2026, arXiv:2603.02581.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LN_100 = torch.tensor(100.0).log().item()  # a float32 number
MEAN = (0.4488, 0.4371, 0.4040)


def bounced(total: int, n: int) -> Tensor:
    """Indices 0 .. n-1, n-1 .. 0, 0 .. n-1 and so on, `total` of them: a side of `n` px padded by mirroring."""
    i = torch.arange(total) % (2 * n)
    return torch.where(i < n, i, 2 * n - 1 - i)


def padded(x: Tensor, multiple: int) -> Tensor:
    """The map with its bottom and right mirrored, edge included, up to the next multiple."""
    height, width = x.shape[2:]
    x = x[:, :, bounced(math.ceil(height / multiple) * multiple, height)]
    return x[:, :, :, bounced(math.ceil(width / multiple) * multiple, width)]


def tokens(x: Tensor) -> Tensor:
    """(B, C, H, W) to (B, N, C)."""
    return x.flatten(2).transpose(1, 2)


def as_map(t: Tensor, size: tuple[int, int]) -> Tensor:
    """(B, N, C) to (B, C, H, W)."""
    return t.transpose(1, 2).unflatten(2, size)


def cut_windows(x: Tensor, ws: int) -> Tensor:
    """(B, H, W, C) to (B * windows, ws * ws, C)."""
    batch, height, width, channels = x.shape
    x = x.view(batch, height // ws, ws, width // ws, ws, channels)
    return x.permute(0, 1, 3, 2, 4, 5).reshape(-1, ws * ws, channels)


def join_windows(x: Tensor, ws: int, size: tuple[int, int]) -> Tensor:
    """The inverse of `cut_windows`."""
    height, width = size
    x = x.view(-1, height // ws, width // ws, ws, ws, x.shape[-1])
    return x.permute(0, 1, 3, 2, 4, 5).reshape(-1, height, width, x.shape[-1])


def shift_mask(size: tuple[int, int], ws: int) -> Tensor:
    """(windows, ws * ws, ws * ws): -100 between pixels of different regions, 0 between others."""
    labels = torch.zeros(size)
    count = 0
    splits = (slice(0, -ws), slice(-ws, -(ws // 2)), slice(-(ws // 2), None))
    for rows in splits:
        for columns in splits:
            labels[rows, columns] = count
            count += 1
    windows = cut_windows(labels[None, :, :, None], ws).squeeze(-1)
    return torch.where(windows[:, :, None] == windows[:, None, :], 0.0, -100.0)


def position_index(ws: int) -> Tensor:
    """(ws * ws, ws * ws) int64 rows of the table of biases."""
    y, x = (axis.flatten() for axis in torch.meshgrid(torch.arange(ws), torch.arange(ws), indexing="ij"))
    return (y[:, None] - y[None] + ws - 1) * (2 * ws - 1) + (x[:, None] - x[None] + ws - 1)


def split_heads(qkv: Tensor, heads: int) -> tuple[Tensor, ...]:
    """(.., n, 3C) to three of (.., heads, n, C / heads)."""
    return qkv.unflatten(-1, (3, heads, -1)).movedim(-3, 0).transpose(-2, -3).unbind(0)


class WindowAttention(nn.Module):
    """Softmax attention in windows, with a bias for every relative position."""

    def __init__(self, dim: int, ws: int, heads: int, bias: bool, own_index: bool):
        super().__init__()
        self.ws, self.heads = ws, heads
        self.relative_position_bias_table = nn.Parameter(torch.empty((2 * ws - 1) ** 2, heads))
        nn.init.trunc_normal_(self.relative_position_bias_table, std=0.02)
        self.proj = nn.Linear(dim, dim, bias=bias)
        if own_index:
            self.register_buffer("relative_position_index_SA", position_index(ws))

    def forward(self, qkv: Tensor, size: tuple[int, int], shift: int, index: Tensor) -> Tensor:
        batch, ws = len(qkv), self.ws
        x = qkv.unflatten(1, size).roll((-shift, -shift), dims=(1, 2))
        q, k, v = split_heads(cut_windows(x, ws), self.heads)
        logits = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
        logits = logits + self.relative_position_bias_table[index].permute(2, 0, 1)
        if shift:
            mask = shift_mask(size, ws).to(logits)
            logits = (logits.unflatten(0, (batch, -1)) + mask[None, :, None]).flatten(0, 1)
        x = (logits.softmax(dim=-1) @ v).transpose(1, 2).flatten(2)
        x = join_windows(x, ws, size).roll((shift, shift), dims=(1, 2)).flatten(1, 2)
        return self.proj(x)


class DictionaryAttention(nn.Module):
    """Cosine attention of all pixels to the token dictionary."""

    def __init__(self, dim: int, reducted_dim: int, num_tokens: int, bias: bool, version: int):
        super().__init__()
        self.top = 1.0 if version == 1 else 3.0
        self.scale = nn.Parameter(torch.full((num_tokens,), 0.5) if version == 1 else torch.ones(1))
        self.wq = nn.Linear(dim, reducted_dim, bias=bias)
        self.wk = nn.Linear(dim, reducted_dim, bias=bias)
        self.wv = nn.Linear(dim, dim, bias=bias)

    def forward(self, x: Tensor, td: Tensor) -> tuple[Tensor, Tensor]:
        q = F.normalize(self.wq(x), dim=-1, eps=1e-12)
        k = F.normalize(self.wk(td), dim=-1, eps=1e-12)
        similarity = q @ k.transpose(1, 2)
        a = (similarity * (1 + self.scale.clamp(0, self.top) * math.log(td.shape[1]))).softmax(dim=-1)
        return a @ self.wv(td), a


class CategoryAttention(nn.Module):
    """Self-attention in equal chunks of the pixels sorted by category."""

    def __init__(self, dim: int, heads: int, category_size: int, bias: bool, version: int):
        super().__init__()
        self.heads, self.category_size = heads, category_size
        if version == 1:
            self.logit_scale = nn.Parameter(torch.full((1, 1), math.log(10)))
        self.proj = nn.Linear(dim, dim, bias=bias)

    def forward(self, qkv: Tensor, category: Tensor) -> Tensor:
        n = qkv.shape[1]
        order = category.argsort(dim=1, stable=True)
        x = qkv.gather(1, order[:, :, None].expand_as(qkv))
        g = min(n, self.category_size)
        groups = math.ceil(n / g)
        pad = groups * g - n
        if pad:
            x = torch.cat([x, x[:, n - pad :].flip(1)], dim=1)
        q, k, v = split_heads(x.unflatten(1, (groups, g)), self.heads)
        alpha = self.logit_scale.clamp(max=LN_100).exp() if hasattr(self, "logit_scale") else q.shape[-1] ** -0.5
        y = (alpha * (q @ k.transpose(-1, -2))).softmax(dim=-1) @ v
        y = y.transpose(-2, -3).flatten(-2).flatten(1, 2)[:, :n]
        back = order.argsort(dim=1)
        return self.proj(y.gather(1, back[:, :, None].expand_as(y)))


class FFN(nn.Module):
    """Two linear layers and, between them, a depth-wise convolution; a category's channels join before it."""

    def __init__(self, dim: int, hidden: int, kernel: int, more: int, bias: bool):
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden, bias=bias)
        conv = nn.Conv2d(
            hidden + more, hidden + more, kernel, padding=(kernel - 1) // 2, groups=hidden + more, bias=bias
        )
        self.dwconv = nn.ModuleDict({"depthwise_conv": nn.Sequential(conv)})
        self.fc2 = nn.Linear(hidden + more, dim, bias=bias)

    def forward(self, y: Tensor, size: tuple[int, int], e: Tensor | None) -> Tensor:
        u = F.gelu(self.fc1(y))
        if e is not None:
            u = torch.cat([u, e], dim=-1)
        u = u + tokens(F.gelu(self.dwconv["depthwise_conv"](as_map(u, size))))
        return self.fc2(u)


class Layer(nn.Module):
    """Three attentions side by side, an FFN, and in version 1 a refinement of the dictionary."""

    def __init__(self, dim: int, ws: int, heads: int, category_size: int, num_tokens: int, reducted_dim: int,
                 kernel: int, mlp_ratio: float, dim_ffn_td: int, shift: int, *, version: int, last: bool,
                 qkv_bias: bool = True, proj_bias: bool = True, ffn_bias: bool = True,
                 own_index: bool = False):  # fmt: skip
        super().__init__()
        self.version, self.shift = version, shift
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        if version == 1 and not last:
            self.norm3 = nn.InstanceNorm1d(num_tokens, affine=True)
            self.sigma = nn.Parameter(torch.zeros(num_tokens, 1))
        self.wqkv = nn.Linear(dim, 3 * dim, bias=qkv_bias)
        self.attn_win = WindowAttention(dim, ws, heads, proj_bias, own_index)
        self.attn_atd = DictionaryAttention(dim, reducted_dim, num_tokens, qkv_bias, version)
        self.attn_aca = CategoryAttention(dim, heads, category_size, qkv_bias, version)
        if version == 2:
            self.fc_td = nn.Linear(dim, dim_ffn_td, bias=proj_bias)
        more = dim_ffn_td if version == 2 else 0
        self.convffn = FFN(dim, math.floor(dim * mlp_ratio), kernel, more, ffn_bias)

    def forward(self, x: Tensor, td: Tensor, size: tuple[int, int], index: Tensor | None) -> tuple[Tensor, Tensor]:
        index = self.attn_win.relative_position_index_SA if index is None else index
        normed = self.norm1(x)
        qkv = self.wqkv(normed)
        from_td, a = self.attn_atd(normed, td)
        category = a.argmax(dim=-1)
        in_windows = self.attn_win(qkv, size, self.shift, index)
        in_categories = self.attn_aca(qkv, category)
        if self.version == 1:
            x = x + in_windows + from_td + in_categories
            e = None
        else:
            x = x + from_td + in_windows + in_categories
            rows = self.fc_td(td)
            e = rows.gather(1, category[:, :, None].expand(-1, -1, rows.shape[2]))
        x = x + self.convffn(self.norm2(x), size, e)
        if hasattr(self, "norm3"):
            r = self.norm3(a.transpose(1, 2)).softmax(dim=-1)
            s = self.sigma.sigmoid()
            td = s * td + (1 - s) * (r @ x)
        return x, td


class Block(nn.Module):
    """Layers that share a dictionary."""

    def __init__(self, depth: int, dim: int, ws: int, heads: int, category_size: int, num_tokens: int, *sizes: float,
                 version: int, **biases: bool):  # fmt: skip
        super().__init__()
        self.td = nn.Parameter(torch.randn(num_tokens, dim))
        self.layers = nn.ModuleList(
            Layer(dim, ws, heads, category_size, num_tokens, *sizes, ws // 2 if j % 2 else 0, version=version,
                  last=j == depth - 1, **biases)
            for j in range(depth)
        )  # fmt: skip

    def forward(self, x: Tensor, size: tuple[int, int], index: Tensor | None = None) -> Tensor:
        td = self.td[None].expand(len(x), -1, -1)
        for layer in self.layers:
            x, td = layer(x, td, size, index)
        return x


def body_conv(dim: int, kind: str) -> nn.Module:
    """The convolution at the end of a block."""
    if kind == "1conv":
        return nn.Conv2d(dim, dim, 3, padding=1)
    return nn.Sequential(
        nn.Conv2d(dim, dim // 4, 3, padding=1), nn.LeakyReLU(0.2),
        nn.Conv2d(dim // 4, dim // 4, 1), nn.LeakyReLU(0.2),
        nn.Conv2d(dim // 4, dim, 3, padding=1),
    )  # fmt: skip


def initialise(net: nn.Module) -> None:
    """Linear layers: truncated normal of std 0.02, zero bias."""
    for module in net.modules():
        if isinstance(module, nn.Linear):
            nn.init.trunc_normal_(module.weight, std=0.02)
            if module.bias is not None:
                nn.init.zeros_(module.bias)


class LiteralATD(nn.Module):
    """ATD with the published arguments; version 2 where `dim_ffn_td` is given. (B, in, H, W) to (B, in, s*H, s*W)."""

    def __init__(
        self, *, upscale: int = 2, in_chans: int = 3, img_size: int = 64, embed_dim: int = 90,
        depths: Sequence[int] = (6, 6, 6, 6), num_heads: Sequence[int] = (6, 6, 6, 6), window_size: int = 8,
        dim_ffn_td: int | None = None, category_size: int = 128, num_tokens: int = 64, reducted_dim: int = 4,
        convffn_kernel_size: int = 5, img_range: float = 1.0, mlp_ratio: float = 2.0, upsampler: str = "",
        resi_connection: str = "1conv", use_checkpoint: bool = False, qkv_bias: bool = True, patch_norm: bool = True,
        ape: bool = False,
    ):  # fmt: skip
        super().__init__()
        dim, version = embed_dim, 1 if dim_ffn_td is None else 2
        self.upscale, self.ws, self.img_range, self.upsampler = upscale, window_size, img_range, upsampler
        self.mean = torch.tensor(MEAN if in_chans == 3 else (0.0,)).view(1, -1, 1, 1)
        self.register_buffer("relative_position_index_SA", position_index(window_size))
        self.conv_first = nn.Conv2d(in_chans, dim, 3, padding=1)
        self.patch_embed = nn.ModuleDict({"norm": nn.LayerNorm(dim)} if patch_norm else {})
        if ape:
            self.absolute_pos_embed = nn.Parameter(torch.empty(1, img_size**2, dim))
            nn.init.trunc_normal_(self.absolute_pos_embed, std=0.02)
        self.layers = nn.ModuleList()
        for depth, heads in zip(depths, num_heads, strict=True):
            block = Block(depth, dim, window_size, heads, category_size, num_tokens, reducted_dim, convffn_kernel_size,
                          mlp_ratio, dim_ffn_td or 0, version=version, qkv_bias=qkv_bias)  # fmt: skip
            parts = {"residual_group": block, "conv": body_conv(dim, resi_connection)}
            self.layers.append(nn.ModuleDict(parts | ({"norm": nn.LayerNorm(dim)} if version == 2 else {})))
        self.norm = nn.LayerNorm(dim)
        self.conv_after_body = body_conv(dim, resi_connection)
        if upsampler == "pixelshuffle":
            self.conv_before_upsample = nn.Sequential(nn.Conv2d(dim, 64, 3, padding=1), nn.LeakyReLU(0.01))
            steps = [3] if upscale == 3 else [2] * int(math.log2(upscale))
            stages = [(nn.Conv2d(64, 64 * s * s, 3, padding=1), nn.PixelShuffle(s)) for s in steps]
            self.upsample = nn.Sequential(*[module for stage in stages for module in stage])
            self.conv_last = nn.Conv2d(64, in_chans, 3, padding=1)
        elif upsampler == "pixelshuffledirect":
            conv = nn.Conv2d(dim, in_chans * upscale**2, 3, padding=1)
            self.upsample = nn.Sequential(conv, nn.PixelShuffle(upscale))
        elif upsampler == "nearest+conv":
            self.conv_before_upsample = nn.Sequential(nn.Conv2d(dim, 64, 3, padding=1), nn.LeakyReLU(0.01))
            self.conv_up1, self.conv_up2, self.conv_hr = (nn.Conv2d(64, 64, 3, padding=1) for _ in range(3))
            self.conv_last = nn.Conv2d(64, in_chans, 3, padding=1)
        else:
            self.conv_last = nn.Conv2d(dim, in_chans, 3, padding=1)
        initialise(self)

    def forward(self, lq: Tensor) -> Tensor:
        height, width = lq.shape[2:]
        x = padded(lq, self.ws)
        size = (x.shape[2], x.shape[3])
        mean = self.mean.to(x)
        x = (x - mean) * self.img_range
        x0 = self.conv_first(x)
        s = tokens(x0)
        if "norm" in self.patch_embed:
            s = self.patch_embed["norm"](s)
        if hasattr(self, "absolute_pos_embed"):
            s = s + self.absolute_pos_embed
        for block in self.layers:
            y = block["residual_group"](s, size, self.relative_position_index_SA)
            s = tokens(block["conv"](as_map(y, size))) + s
            if "norm" in block:
                s = block["norm"](s)
        f = self.conv_after_body(as_map(self.norm(s), size)) + x0
        if self.upsampler == "pixelshuffle":
            out = self.conv_last(self.upsample(self.conv_before_upsample(f)))
        elif self.upsampler == "pixelshuffledirect":
            out = self.upsample(f)
        elif self.upsampler == "nearest+conv":
            f = self.conv_before_upsample(f)
            f = F.leaky_relu(self.conv_up1(F.interpolate(f, scale_factor=2, mode="nearest")), 0.2)
            f = F.leaky_relu(self.conv_up2(F.interpolate(f, scale_factor=2, mode="nearest")), 0.2)
            out = self.conv_last(F.leaky_relu(self.conv_hr(f), 0.2))
        else:
            out = x + self.conv_last(f)
        out = out / self.img_range + mean
        return out[:, :, : height * self.upscale, : width * self.upscale]


class LiteralATDUNet(nn.Module):
    """ATD-U with the published arguments; (B, in, H, W) to the same."""

    def __init__(
        self, *, in_chans: int = 1, embed_dim: int = 40, depths: Sequence[int] = (6, 8, 8, 6),
        num_heads: Sequence[int] = (1, 2, 4, 8), window_size: Sequence[int] = (16, 16, 16, 8),
        dim_ffn_td: Sequence[int] = (4, 8, 16, 16), category_size: Sequence[int] = (128, 128, 128, 128),
        num_tokens: Sequence[int] = (256, 256, 256, 256), reducted_dim: Sequence[int] = (4, 8, 16, 16),
        convffn_kernel_size: int = 5, mlp_ratio: float = 4, bias: bool = False, patch_norm: bool = False,
        use_checkpoint: bool = False, upscale: int = 1, img_range: float = 1.0,
    ):  # fmt: skip
        super().__init__()
        dim, levels = embed_dim, len(depths)
        self.multiple = window_size[-1] * 2 ** (levels - 1)

        def stage(level: int, width: int, more_heads: int = 1) -> nn.Module:
            block = Block(depths[level], width, window_size[level], num_heads[level] * more_heads,
                          category_size[level], num_tokens[level], reducted_dim[level], convffn_kernel_size, mlp_ratio,
                          dim_ffn_td[level], version=2, qkv_bias=bias, proj_bias=bias, ffn_bias=False,
                          own_index=True)  # fmt: skip
            return nn.ModuleDict({"block": block})

        def resample(channels: int, factor: float, shuffle: nn.Module, name: str) -> nn.Module:
            conv = nn.Conv2d(channels, int(channels * factor), 3, padding=1, bias=False)
            return nn.ModuleDict({name: nn.Sequential(conv, shuffle)})

        self.conv_first = nn.Conv2d(in_chans, dim, 3, padding=1, bias=bias)
        self.patch_embed = nn.ModuleDict({"norm": nn.LayerNorm(dim)} if patch_norm else {})
        self.encoders, self.downs, self.ups, self.reduces, self.decoders = (nn.ModuleList() for _ in range(5))
        for level in range(levels - 1):
            width = dim * 2**level
            self.encoders.append(stage(level, width))
            self.downs.append(resample(width, 0.5, nn.PixelUnshuffle(2), "down"))
        self.middle_blks = stage(levels - 1, dim * 2 ** (levels - 1))
        for level in reversed(range(levels - 1)):
            width = dim * 2**level
            self.ups.append(resample(2 * width, 2, nn.PixelShuffle(2), "up"))
            self.reduces.append(nn.Linear(2 * width, width, bias=bias) if level else nn.Identity())
            self.decoders.append(stage(level, width if level else 2 * width))
        self.refine_blks = stage(0, 2 * dim, more_heads=2)
        self.conv_after_body = nn.Conv2d(2 * dim, dim, 3, padding=1, bias=bias)
        self.conv_last = nn.Conv2d(dim, in_chans, 3, padding=1, bias=bias)
        initialise(self)

    def forward(self, lq: Tensor) -> Tensor:
        x = padded(lq, self.multiple)
        f0 = self.conv_first(x)
        size = (x.shape[2], x.shape[3])
        s = tokens(f0)
        if "norm" in self.patch_embed:
            s = self.patch_embed["norm"](s)
        skips = []
        for encoder, down in zip(self.encoders, self.downs, strict=True):
            s = encoder["block"](s, size)
            skips.append(s)
            s = tokens(down["down"](as_map(s, size)))
            size = (size[0] // 2, size[1] // 2)
        s = self.middle_blks["block"](s, size)
        for up, reduce, decoder in zip(self.ups, self.reduces, self.decoders, strict=True):
            s = tokens(up["up"](as_map(s, size)))
            size = (size[0] * 2, size[1] * 2)
            s = reduce(torch.cat([s, skips.pop()], dim=2))
            s = decoder["block"](s, size)
        s = self.refine_blks["block"](s, size)
        f = self.conv_after_body(as_map(s, size)) + f0
        return (x + self.conv_last(f))[:, :, : lq.shape[2], : lq.shape[3]]
