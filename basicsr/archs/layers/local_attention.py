"""CATANet's local-region self-attention: attention among the pixels of overlapping patches.

Shapes: B batch, H x W map size, N = H*W tokens in raster order, C channels.

Source: CATANet (arXiv 2503.06896), Sec. 3.3.
"""

from typing import cast

from torch import Tensor, nn

from basicsr.archs.layers.attention import gathered_attention
from basicsr.archs.layers.ffn import ConvFFN
from basicsr.archs.layers.multiply_adds import MultiplyAdds
from basicsr.archs.layers.norms import PreNorm
from basicsr.archs.layers.patches import PatchGrid
from basicsr.archs.layers.projections import AttentionProjections


class PatchAttention(AttentionProjections):
    """Self-attention among the pixels of each overlapping patch."""

    def forward(self, z_BNC: Tensor, grid: PatchGrid) -> Tensor:
        """Return the blended outputs of all patches, (B, N, C), from normalised tokens (B, N, C)."""
        y = gathered_attention(self.project(z_BNC), grid.windows(len(z_BNC), z_BNC), self.heads)
        # Blending is linear, so the output projection can follow it, on fewer tokens.
        return self.proj(grid.merge(y.view(len(z_BNC), -1, y.shape[1])))


class LRSA(nn.Module):
    """Local-region self-attention over overlapping patches, then a conv FFN over the whole map (paper, Sec. 3.3)."""

    def __init__(self, dim: int, qk_dim: int, mlp_dim: int, heads: int, patch_size: int):
        super().__init__()
        self.patch_size = patch_size
        attention = PreNorm(dim, PatchAttention(dim, qk_dim, heads))
        self.layer = nn.ModuleList([attention, PreNorm(dim, ConvFFN(dim, mlp_dim))])

    def multiply_adds(self, size: tuple[int, int]) -> MultiplyAdds:
        """Return the multiply-adds on an (H, W) map."""
        grid = PatchGrid(size, self.patch_size)
        attention, ffn = (cast(PreNorm, layer).fn for layer in self.layer)
        attending = cast(PatchAttention, attention).multiply_adds(grid.count * grid.area, grid.count * grid.area**2)
        return attending + cast(ConvFFN, ffn).multiply_adds(size)

    def forward(self, t_BNC: Tensor, size: tuple[int, int]) -> Tensor:
        """Return tokens (B, N, C) of an (H, W) map, from the same."""
        grid = PatchGrid(size, self.patch_size)
        t = grid.scale_as_merged(t_BNC) + self.layer[0](t_BNC, grid)
        return t + self.layer[1](t, size)
