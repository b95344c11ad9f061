"""The feed-forward network of CATANet and ATD, with a depth-wise convolution.

Shapes: B batch, H x W map size, N = H*W tokens in raster order, C channels.
"""

from typing import ClassVar

import torch
from torch import Tensor, nn

from basicsr.archs.layers.multiply_adds import MultiplyAdds
from basicsr.archs.layers.tokens import map_to_tokens, tokens_to_map


class DepthwiseConv(nn.Module):
    """Depth-wise convolution of `kernel` x `kernel` px followed by GELU, on tokens."""

    def __init__(self, dim: int, kernel: int, bias: bool = True):
        super().__init__()
        conv = nn.Conv2d(dim, dim, kernel, padding=kernel // 2, groups=dim, bias=bias)
        self.depthwise_conv = nn.Sequential(conv, nn.GELU())

    def forward(self, t_BNC: Tensor, size: tuple[int, int]) -> Tensor:
        """Return tokens (B, N, dim) of an (H, W) map, from the same."""
        return map_to_tokens(self.depthwise_conv(tokens_to_map(t_BNC, size)))


class ConvFFN(nn.Module):
    """Feed-forward network with a depth-wise convolution parallel to its hidden layer.

    `u = [GELU(fc1 t); e]; u <- u + GELU(DW(u)); fc2 u`, with `e` optional further channels.

    Args:
        kernel: side of the depth-wise convolution in pixels, odd.
        extra: channels of `e`.

    Shape: (B, N, C), (H, W) -> (B, N, C).

    Attributes:
        hidden_axes: parameter -> its axis of hidden channels, where there is no `e`.
    """

    hidden_axes: ClassVar[dict[str, int]] = {
        "fc1.weight": 0,
        "fc1.bias": 0,
        "dwconv.depthwise_conv.0.weight": 0,
        "dwconv.depthwise_conv.0.bias": 0,
        "fc2.weight": 1,
    }

    def __init__(self, dim: int, hidden_dim: int, kernel: int = 5, extra: int = 0, bias: bool = True):
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden_dim, bias=bias)
        self.act = nn.GELU()
        self.dwconv = DepthwiseConv(hidden_dim + extra, kernel, bias)
        self.fc2 = nn.Linear(hidden_dim + extra, dim, bias=bias)

    def multiply_adds(self, size: tuple[int, int]) -> MultiplyAdds:
        """Return the multiply-adds on an (H, W) map."""
        weights = (*self.fc1.parameters(), *self.dwconv.parameters(), *self.fc2.parameters())
        return MultiplyAdds(size[0] * size[1] * sum(w.numel() for w in weights if w.ndim > 1), 0)

    def forward(self, t_BNC: Tensor, size: tuple[int, int], e_BNC: Tensor | None = None) -> Tensor:
        """Return tokens (B, N, C) of an (H, W) map, from the same."""
        u = self.act(self.fc1(t_BNC))
        if e_BNC is not None:
            u = torch.cat([u, e_BNC.to(u.dtype)], dim=2)
        return self.fc2(u + self.dwconv(u, size))
