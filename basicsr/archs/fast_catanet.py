"""CATANet prepared for inference: the same outputs, faster and in less memory.

`CATANet.prepared()` builds it; validation, `test.py` and `infer.py` call that. It stands below `catanet_arch.py`, which
offers it. Differences from the network that is read and trained, and why:

- Constants are computed once: unit token centres, their keys and values, the product of `conv1x1` and `proj`.
- On CPUs, linear layers and convolutions run with their activation and residual fused (oneDNN, private calls of
  PyTorch, with public ones as fallback).
- The reconstruction works in strips of rows, for its tensors are 16 times as large as the image.

Shapes and names are those of `catanet_arch.py`.
"""

from typing import Literal, Protocol, cast

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from basicsr.archs.layers.attention import gathered_attention
from basicsr.archs.layers.export_mode import active_form, has_values
from basicsr.archs.layers.ffn import ConvFFN
from basicsr.archs.layers.groups import nearest_centre, stable_group_order
from basicsr.archs.layers.local_attention import LRSA, PatchAttention
from basicsr.archs.layers.patches import PatchGrid
from basicsr.archs.layers.projections import AttentionProjections
from basicsr.archs.layers.token_aggregation import TAB
from basicsr.archs.layers.tokens import channels_last, map_to_tokens, tokens_to_map

STRIP_ROWS = 32  # low-resolution rows of a strip of the reconstruction on a CPU
STRIP_BYTES = 1 << 28  # of the enlarged features of a strip on a GPU, where each launch should do as much as it can


def _fused(x: Tensor) -> bool:
    """Return whether oneDNN's fused calls are available for this tensor."""
    return has_values(x) and active_form() is None and x.device.type == "cpu" and torch.backends.mkldnn.is_available()


def _linear_gelu(x: Tensor, layer: nn.Linear) -> Tensor:
    """Return `gelu(layer(x))`."""
    if _fused(x):
        return torch.ops.mkldnn._linear_pointwise(x, layer.weight, layer.bias, "gelu", [], "none")
    return F.gelu(layer(x))


def _linear_plus(x: Tensor, weight: Tensor, bias: Tensor | None, residual: Tensor) -> Tensor:
    """Return `residual + linear(x)`."""
    if _fused(x) and x.dtype == residual.dtype:
        return torch.ops.mkldnn._linear_pointwise.binary(x, residual, weight, bias, "add")
    return residual + F.linear(x, weight, bias)


def _conv(x: Tensor, layer: nn.Conv2d, activation: str = "none") -> Tensor:
    """Return a convolution of stride 1, then its activation: "none", "gelu", or "leaky_relu" of slope 0.1."""
    if _fused(x):
        scalars, algorithm = ([0.1], "") if activation == "leaky_relu" else ([], "none")
        padding = list(cast(tuple[int, int], layer.padding))
        return torch.ops.mkldnn._convolution_pointwise(
            x, layer.weight, layer.bias, padding, [1, 1], [1, 1], layer.groups, activation, scalars, algorithm
        )
    x = layer(x)
    return F.leaky_relu(x, 0.1) if activation == "leaky_relu" else F.gelu(x) if activation == "gelu" else x


class _FFN(nn.Module):
    """FFN with norm and residual: `t + FFN(LayerNorm(t))`."""

    def __init__(self, norm: nn.LayerNorm, ffn: ConvFFN, dtype: torch.dtype):
        super().__init__()
        self.norm = norm
        self.dtype = dtype
        self.fc1, self.fc2 = ffn.fc1.to(dtype), ffn.fc2.to(dtype)
        self.dwconv = cast(nn.Conv2d, ffn.dwconv.depthwise_conv[0]).to(dtype)

    def forward(self, t_BNC: Tensor, size: tuple[int, int]) -> Tensor:
        u = _linear_gelu(self.norm(t_BNC).to(self.dtype), self.fc1)
        u = map_to_tokens(_conv(tokens_to_map(u, size), self.dwconv, "gelu")).add_(u)
        return _linear_plus(u, self.fc2.weight, self.fc2.bias, t_BNC)


class _TAB(nn.Module):
    """Token aggregation with the stored token centres."""

    def __init__(self, tab: TAB, dtype: torch.dtype):
        super().__init__()
        attention = tab.iasa_attn
        self.norm = tab.norm
        self.heads = attention.heads
        self.windows = attention.windows
        self.num_tokens = tab.num_tokens
        self.has_centres = tab.initialised
        self.pooled_centres = tab._pooled_centres
        self.to_qkv = _joined_projections(attention, dtype)
        self.global_of = tab.irca_attn
        self.out = nn.Parameter((tab.conv1x1.weight.flatten(1) @ attention.proj.weight).to(self.to_qkv.dtype))
        self.unit_centres: Tensor
        self.global_kv: Tensor
        self.register_buffer("unit_centres", F.normalize(tab.means, dim=-1))
        self.register_buffer("global_kv", tab.irca_attn(tab.means))
        self.ffn = _FFN(tab.mlp.norm, cast(ConvFFN, tab.mlp.fn), dtype)

    def forward(self, t_BNC: Tensor, size: tuple[int, int]) -> Tensor:
        """Return tokens (B, N, C) of an (H, W) map, from the same."""
        batch, length, _ = t_BNC.shape
        z = self.norm(t_BNC)
        unit_centres, global_kv = self.unit_centres, self.global_kv
        if not self.has_centres:
            centres = self.pooled_centres(z)
            unit_centres, global_kv = F.normalize(centres, dim=-1), self.global_of(centres)
        groups = nearest_centre(z, unit_centres)
        windows = self.windows(stable_group_order(groups, self.num_tokens))
        qkv = F.linear(z.to(self.to_qkv.dtype), self.to_qkv).flatten(0, 1)
        y = gathered_attention(qkv, windows, self.heads, global_kv, scatter=True)
        return self.ffn(_linear_plus(y.view(batch, length, -1), self.out, None, t_BNC), size)


class _LRSA(nn.Module):
    """Local-region self-attention."""

    def __init__(self, lrsa: LRSA, dtype: torch.dtype):
        super().__init__()
        norm_attention, norm_ffn = lrsa.layer.children()
        attention = cast(PatchAttention, norm_attention.fn)
        self.norm = cast(nn.LayerNorm, norm_attention.norm)
        self.patch_size = lrsa.patch_size
        self.heads = attention.heads
        self.to_qkv = _joined_projections(attention, dtype)
        self.out = nn.Parameter(attention.proj.weight.to(self.to_qkv.dtype, copy=True))
        self.ffn = _FFN(cast(nn.LayerNorm, norm_ffn.norm), cast(ConvFFN, norm_ffn.fn), dtype)

    def forward(self, t_BNC: Tensor, size: tuple[int, int]) -> Tensor:
        batch, grid = len(t_BNC), PatchGrid(size, self.patch_size)
        windows = grid.windows(batch, t_BNC)
        qkv = F.linear(self.norm(t_BNC).to(self.to_qkv.dtype), self.to_qkv).flatten(0, 1)
        y = gathered_attention(qkv, windows, self.heads)
        y = grid.merge(y.view(batch, -1, y.shape[1]))
        return self.ffn(_linear_plus(y, self.out, None, grid.scale_as_merged(t_BNC)), size)


def _joined_projections(attention: AttentionProjections, dtype: torch.dtype) -> nn.Parameter:
    """Return the weights of queries, keys and values as one matrix.

    On GPUs in `dtype`; on CPUs as they are, for the kernel there always computes in float32.
    """
    weight = torch.cat([attention.to_q.weight, attention.to_k.weight, attention.to_v.weight])
    return nn.Parameter(weight if weight.device.type == "cpu" else weight.to(dtype))


class TrainedNetwork(Protocol):
    """The parts of a `CATANet` that its prepared form is built from, besides its upconvs."""

    upscale: int
    min_side: int
    multiple_of: int
    tail: Literal["original", "direct"]
    first_conv: nn.Conv2d
    blocks: nn.ModuleList
    mid_convs: nn.ModuleList
    last_conv: nn.Conv2d


class PreparedCATANet(nn.Module):
    """CATANet in evaluation with the weights that it has now; built by `CATANet.prepared`.

    Args:
        net: a copy of the network in evaluation; its modules are taken over.
        dtype: of convolutions and FFNs, and on GPUs of attention. The choice of groups and the residual stream stay
            float32, on CPUs also attention.
        for_graph: to be traced in the form of `export_mode.py`, in which alone it then runs: kernels in the published
            order, no strips.

    Shape: (B, in_chans, H, W) -> (B, in_chans, s*H, s*W), any H, W >= 1.
    """

    def __init__(self, net: TrainedNetwork, dtype: torch.dtype = torch.float32, for_graph: bool = False):
        super().__init__()
        self.upscale, self.min_side, self.multiple_of = net.upscale, net.min_side, net.multiple_of
        self.dtype = dtype
        self.first_conv = net.first_conv
        self.blocks = nn.ModuleList(
            nn.ModuleList([_TAB(cast(TAB, tab), dtype), _LRSA(cast(LRSA, lrsa), dtype)])
            for tab, lrsa in (block.children() for block in net.blocks)
        )
        self.mid_convs = net.mid_convs.to(dtype)
        names = {1: [], 4: ["upconv1", "upconv2"]}.get(net.upscale, ["upconv"]) if net.tail == "original" else []
        self.for_graph = for_graph
        upconvs = [cast(nn.Conv2d, getattr(net, name)) for name in names]
        self.upconvs = nn.ModuleList(conv if for_graph else _shuffled(conv) for conv in upconvs).to(dtype)
        self.last_conv = net.last_conv.to(dtype)
        self.shuffle = 2 if net.upscale == 4 else net.upscale
        self.direct = net.tail == "direct"
        self.to(memory_format=torch.contiguous_format if for_graph else torch.channels_last)
        self.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, in_chans, s*H, s*W) from (B, in_chans, H, W)."""
        size = (x.shape[2], x.shape[3])
        shallow = self.first_conv(channels_last(x))
        t = map_to_tokens(shallow)
        for block, mid_conv in zip(self.blocks, self.mid_convs, strict=True):
            deep = t
            for part in block.children():
                deep = part(deep, size)
            t = t + map_to_tokens(_conv(tokens_to_map(deep.to(self.dtype), size), cast(nn.Conv2d, mid_conv)))
        features = (tokens_to_map(t, size) + shallow).to(self.dtype)
        if self.for_graph:
            return self._reconstruct_in_graph(x, features)
        out = F.interpolate(x, scale_factor=self.upscale, mode="bilinear") if self.upscale > 1 else x.clone()
        if not has_values(features):  # a loop over strips would hold for one height only
            self._add_strip(out, features, 0, size[0])
            return out
        rows = strip_rows(features, self.upscale)
        for top in range(0, size[0], rows):
            self._add_strip(out, features, top, min(top + rows, size[0]))
        return out

    def _reconstruct_in_graph(self, x: Tensor, features: Tensor) -> Tensor:
        """Return the output, (B, in_chans, s*H, s*W), without strips."""
        for conv in self.upconvs:
            features = F.leaky_relu(F.pixel_shuffle(conv(features), self.shuffle), 0.1)
        y = self.last_conv(features)
        if self.direct:
            y = F.pixel_shuffle(y, self.upscale)
        base = F.interpolate(x, scale_factor=self.upscale, mode="bilinear") if self.upscale > 1 else x
        return base + y.to(x.dtype)

    def _add_strip(self, out: Tensor, features: Tensor, top: int, bottom: int) -> None:
        """Reconstruct the rows that belong to the low-resolution rows [top, bottom) and add them to `out`.

        Two more rows on either side hold all that three convolutions see, and what their zero padding changes.
        """
        start, end = max(top - 2, 0), min(bottom + 2, features.shape[2])
        x = features[:, :, start:end]
        for conv in self.upconvs:
            x = _pixel_shuffle_last(_conv(x, cast(nn.Conv2d, conv), "leaky_relu"), self.shuffle)
        x = _conv(x, self.last_conv)
        s = self.upscale
        if self.direct:
            x = F.pixel_shuffle(x, s)
        out[:, :, top * s : bottom * s] += x[:, :, (top - start) * s : (bottom - start) * s]


def strip_rows(features_BCHW: Tensor, upscale: int) -> int:
    """Return the low-resolution rows of a strip: few for a CPU's caches, on a GPU as many as `STRIP_BYTES` hold."""
    if features_BCHW.device.type == "cpu":
        return STRIP_ROWS
    row = features_BCHW[:, :, 0].numel() * upscale**2 * features_BCHW.element_size()
    return max(STRIP_ROWS, STRIP_BYTES // row)


def _shuffled(conv: nn.Conv2d) -> nn.Conv2d:
    """Return a convolution with outputs reordered from (channel, dy, dx) to (dy, dx, channel)."""
    channels = conv.in_channels
    order = torch.arange(conv.out_channels).view(channels, -1).T.flatten()
    result = nn.Conv2d(channels, conv.out_channels, 3, padding=1).to(conv.weight)
    result.load_state_dict({"weight": conv.weight[order], "bias": cast(Tensor, conv.bias)[order]})
    return result


def _pixel_shuffle_last(x: Tensor, factor: int) -> Tensor:
    """Return the pixel shuffle of (dy, dx, channel) outputs in channels-last memory: long runs are copied."""
    return rearrange(x, "b (dy dx c) h w -> b (h dy) (w dx) c", dy=factor, dx=factor).permute(0, 3, 1, 2)
