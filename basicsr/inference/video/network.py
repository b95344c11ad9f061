"""What the pipeline runs: an `Upscaler` as a function from frames to frames on its device."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from basicsr.engine.weight_digest import weights_digest
from basicsr.images.tiling import predict_in_tiles


class Enlarger(Protocol):
    """What is needed of `Upscaler`, which is made of this package and so cannot be imported here."""

    net: nn.Module
    spec: dict[str, Any]
    device: torch.device
    dtype: torch.dtype
    overlap: int
    upscale: int
    channels: int
    self_ensemble: bool
    matmul_precision: str

    def tile_for(self, height: int, width: int, *, count: int = 1) -> int:
        """Return the side of the tiles in px that fit into memory."""

    def run_or_tile(self, lq: Tensor) -> Tensor:
        """Return the output for (B, C, h, w), in tiles after memory ran out."""


class Network(NamedTuple):
    """What enlarges pictures.

    Args:
        run: maps (B, C, h, w) in [0, 1] on `device`, and the side of tiles in px, to (B, C, s*h, s*w).
        tile_for: the side of the tiles for height, width and `count` pictures.
        scale: s.
        channels: C, 3 or 1.
        device: where it runs.
        identity: what decides its results: weights and settings.
    """

    run: Callable[[Tensor, int], Tensor]
    tile_for: Callable[..., int]
    scale: int
    channels: int
    device: torch.device
    identity: Mapping[str, str]


def network_of(upscaler: Enlarger) -> Network:
    """Return an `Upscaler` as the pipeline runs it."""

    def run(lq: Tensor, tile: int) -> Tensor:
        if tile >= max(lq.shape[-2:]):
            return upscaler.run_or_tile(lq)
        overlap = min(upscaler.overlap, tile // 2)
        return predict_in_tiles(upscaler.run_or_tile, lq, tile, overlap, feather=overlap).to(lq.device)

    kind = [str(upscaler.spec.get("type")), str(upscaler.dtype), f"overlap {upscaler.overlap}"]
    kind += [upscaler.matmul_precision, upscaler.device.type, *(["self_ensemble"] if upscaler.self_ensemble else [])]
    identity = {"weights": weights_digest({"params": upscaler.net.state_dict()}), "network": ", ".join(kind)}
    return Network(run, upscaler.tile_for, upscaler.upscale, upscaler.channels, upscaler.device, identity)
