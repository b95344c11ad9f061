"""LayerNorm over the channels of tokens, alone and before another module."""

from typing import Any

import torch
from torch import Tensor, nn

from basicsr.archs.kernels import runs_triton
from basicsr.archs.kernels.loader import triton_kernels


class TokenNorm(nn.LayerNorm):
    """LayerNorm over the channels of tokens, on NVIDIA GPUs by a kernel for narrow rows.

    Args:
        dim: channels C.
    """

    def __init__(self, dim: int):
        super().__init__(dim)

    def forward(self, t: Tensor) -> Tensor:
        """Return (..., C) tokens normalised; float32 under autocast, as PyTorch's."""
        if not runs_triton(t):
            return super().forward(t)
        t = t.float() if torch.is_autocast_enabled(t.device.type) else t
        return triton_kernels().layer_norm(t, self.weight, self.bias, self.eps)


class PreNorm(nn.Module):
    """LayerNorm over the channels, then `fn`."""

    def __init__(self, dim: int, fn: nn.Module):
        super().__init__()
        self.norm = TokenNorm(dim)
        self.fn = fn

    def forward(self, x: Tensor, *args: Any) -> Tensor:
        """Return `fn(norm(x), *args)`."""
        return self.fn(self.norm(x), *args)
