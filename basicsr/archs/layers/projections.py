"""Projections of tokens to queries, keys and values, as CATANet's two kinds of attention have them.

Shapes: B batch, N tokens in raster order, C channels, Q = `qk_dim`.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from basicsr.archs.layers.multiply_adds import MultiplyAdds
from basicsr.archs.layers.windows import Heads


class AttentionProjections(nn.Module):
    """Projections of a multi-head attention, whose query/key heads (Q/h) and value heads (C/h) differ in width."""

    def __init__(self, dim: int, qk_dim: int, heads: int):
        super().__init__()
        self.heads = Heads(heads, qk_dim // heads, dim // heads)
        self.to_q = nn.Linear(dim, qk_dim, bias=False)
        self.to_k = nn.Linear(dim, qk_dim, bias=False)
        self.to_v = nn.Linear(dim, dim, bias=False)
        self.proj = nn.Linear(dim, dim, bias=False)

    def project(self, z_BNC: Tensor) -> Tensor:
        """Return the queries, keys and values of all tokens in one matrix, (B*N, 2*Q + C)."""
        weight = torch.cat([self.to_q.weight, self.to_k.weight, self.to_v.weight])
        return F.linear(z_BNC.flatten(0, 1), weight)

    def multiply_adds(self, tokens: int, pairs: int) -> MultiplyAdds:
        """Return the multiply-adds of projecting `tokens` tokens and attending over `pairs` (query, key) pairs."""
        qk_dim, dim = self.to_q.weight.shape
        return MultiplyAdds(tokens * 2 * dim * (qk_dim + dim), pairs * (qk_dim + dim))
