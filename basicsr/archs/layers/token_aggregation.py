"""CATANet's token-aggregation block: attention among tokens of similar content, and to the centres of their groups.

Shapes: B batch, H x W map size, N = H*W tokens in raster order, M = B*N, C channels, T token centres, Q = `qk_dim`,
h heads.

Source: CATANet (arXiv 2503.06896), Sec. 3.2.
"""

from typing import Any, cast

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from basicsr.archs.layers.attention import gathered_attention
from basicsr.archs.layers.ffn import ConvFFN
from basicsr.archs.layers.groups import nearest_centre, sorted_windows, stable_group_order, sums_by_centre
from basicsr.archs.layers.multiply_adds import MultiplyAdds
from basicsr.archs.layers.norms import PreNorm, TokenNorm
from basicsr.archs.layers.plans import planned
from basicsr.archs.layers.projections import AttentionProjections
from basicsr.archs.layers.tokens import full_precision, mirrored_index
from basicsr.archs.layers.windows import Windows
from basicsr.engine.distributed import all_reduce_sum

CENTRE_DECAY = 0.999  # of the moving average of the token centres


class IASA(AttentionProjections):
    """Intra-group self-attention, with the inter-group cross-attention of the same queries added (paper, Sec. 3.2)."""

    def __init__(self, dim: int, qk_dim: int, heads: int, group_size: int):
        super().__init__(dim, qk_dim, heads)
        self.group_size = group_size

    def windows(self, order_BN: Tensor) -> Windows:
        """Return sub-groups of tokens in the order of their groups; each also attends to the keys of the next one."""
        return sorted_windows(order_BN, self.group_size, reach=2)

    def forward(self, z_BNC: Tensor, global_kv: Tensor, order_BN: Tensor) -> Tensor:
        """Return the attention inside sub-groups of similar tokens plus that to all token centres.

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
        """Return keys and values, (h, T, (Q + C)/h), of token centres (T, C)."""
        k, v = (rearrange(x, "t (h d) -> h t d", h=self.heads) for x in (self.to_k(centres_TC), self.to_v(centres_TC)))
        return torch.cat([k, v], dim=2)


class TAB(nn.Module):
    """Token-aggregation block: group tokens by content, attend inside the groups and to the groups' centres.

    State: `means (T, C)`, a moving average of the token centres over the training batches, and `initted`, whether it
    has been set. Until then the centres are pooled from the input. `initialised` is the same flag in Python, so that no
    forward reads a tensor. With `track_state` off, training does not change the state.

    Source: CATANet, Sec. 3.2, Alg. 1.
    """

    def __init__(self, dim: int, qk_dim: int, mlp_dim: int, heads: int, n_iters: int, num_tokens: int, group_size: int):
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
        self.initialised = False

    def follow(self, other: "TAB") -> None:
        """Copy the Python state that mirrors `other`'s buffers; the moving average of weights calls it."""
        self.initialised = other.initialised

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        if not self.initted.is_meta:  # a network built for its shapes alone
            self.initialised = bool(self.initted)

    def forward(self, t_BNC: Tensor, size: tuple[int, int]) -> Tensor:
        """Return tokens (B, N, C) of an (H, W) map, from the same."""
        return self.aggregate(t_BNC, *self.group(t_BNC), size)

    def group(self, t_BNC: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return normalised tokens (B, N, C), token centres (T, C), and the tokens' order (B, N) by nearest centre.

        In training this updates the stored centres.
        """
        z = self.norm(t_BNC)
        centres = self.means if self.initialised else self._pooled_centres(z)
        if self.training:
            centres = self._refined_centres(z, centres)
            if self.track_state:
                self._track(centres.detach())
        with torch.no_grad():
            with full_precision(z.device):
                groups = nearest_centre(z.to(centres.dtype), F.normalize(centres, dim=-1))
            return z, centres, stable_group_order(groups, self.num_tokens)

    def aggregate(self, t_BNC: Tensor, z_BNC: Tensor, centres: Tensor, order: Tensor, size: tuple[int, int]) -> Tensor:
        """Return the tokens after attention inside and to the groups, then the FFN; no state is read or written."""
        y = self.iasa_attn(z_BNC, self.irca_attn(centres), order)
        t = t_BNC + F.linear(y, self.conv1x1.weight.flatten(1))
        return t + self.mlp(t, size)

    def multiply_adds(self, size: tuple[int, int]) -> MultiplyAdds:
        """Return the multiply-adds of an evaluation on an (H, W) map."""
        length = size[0] * size[1]
        dim, group_size = self.conv1x1.in_channels, min(length, self.iasa_attn.group_size)
        queries = -(-length // group_size) * group_size
        centres = sum(p.numel() for p in self.irca_attn.parameters()) * self.num_tokens
        conv1x1, grouping = length * dim**2, length * dim * self.num_tokens
        attention = self.iasa_attn.multiply_adds(length, queries * (2 * group_size + self.num_tokens))
        return attention + MultiplyAdds(conv1x1 + centres, grouping) + cast(ConvFFN, self.mlp.fn).multiply_adds(size)

    @torch.no_grad()
    def _pooled_centres(self, z_BNC: Tensor) -> Tensor:
        """Return the averages of T equal runs of the (mirrored) token sequence over the batch, (T, C)."""
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
        """Return the centres after `n_iters` steps of spherical k-means over the global batch.

        Gradient flows through the last step only.
        """
        with full_precision(z_BNC.device):
            z = F.normalize(z_BNC.flatten(0, 1).to(centres.dtype), dim=-1)
            with torch.no_grad():
                for _ in range(self.n_iters - 1):
                    centres = self._kmeans_step(z, centres)
            return self._kmeans_step(z, centres)

    def _kmeans_step(self, z_MC: Tensor, centres: Tensor) -> Tensor:
        """Return new unit centres: the normalised sums of their tokens. A centre without tokens stays as it is."""
        centres = F.normalize(centres, dim=-1)
        sums = all_reduce_sum(sums_by_centre(z_MC, centres))  # one exchange between ranks carries sums and counts
        return torch.where(sums[:, -1:] > 0, F.normalize(sums[:, :-1], dim=-1), centres)

    @torch.no_grad()
    def _track(self, centres: Tensor) -> None:
        """Update the moving average of the centres."""
        if self.initialised:
            self.means.lerp_(centres, 1 - self.decay)
        else:
            self.means.copy_(centres)
            self.initted.fill_(True)
            self.initialised = True
