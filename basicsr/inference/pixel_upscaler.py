"""A network as a function from pixels to pixels, in tiles that fit into memory.

An image goes through `PixelUpscaler.rows` in bands of tiles, of which an array, a PNG file or a video is made. No step
holds more than a band of floats, so memory depends on the tiles and hardly on the image.
"""

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from basicsr.archs.image_network import ImageNetwork
from basicsr.archs.published import input_channels
from basicsr.engine.cuda_graphs import GraphedForward
from basicsr.engine.device import matmul_precision as precision_of_block
from basicsr.engine.plan_cache import PLANS
from basicsr.images.files import to_tensor
from basicsr.images.tiling import bands_of, spans, tiles_when_full
from basicsr.inference.forward import inference_forward
from basicsr.inference.image_io import Pixels, enlarge_alpha, match_channels, output_dtype, output_values, quantize
from basicsr.inference.memory import TilePlanner
from basicsr.inference.settings import (
    OVERLAP,
    check_matmul_precision,
    resolve_device,
    resolve_dtype,
    resolve_tile,
)
from basicsr.inference.writing import STRIP_ROWS

Progress = Callable[[int, int], None]  # is called with the steps that are done, and all there are


class PixelUpscaler:
    """The part of `Upscaler`, which describes the arguments, that knows nothing of files.

    Threads may share it. They take turns in the network; what is around it runs at the same time.
    """

    def __init__(
        self,
        net: nn.Module,
        spec: Mapping[str, Any],
        *,
        device: str | torch.device = "auto",
        dtype: str | torch.dtype = "float32",
        tile: int | Literal["auto"] | None = "auto",
        overlap: int = OVERLAP,
        self_ensemble: bool = False,
        memory: int | None = None,
        matmul_precision: str = "highest",
        is_published: bool = False,
    ):
        self.spec = dict(spec)
        self.is_published = is_published
        self.family: str | None = getattr(net, "family", None)
        self.device = resolve_device(device)
        self.dtype = resolve_dtype(dtype, self.device)
        check_matmul_precision(matmul_precision)
        self.matmul_precision = matmul_precision
        self.tile, self.overlap = resolve_tile(tile, overlap)
        self.upscale = int(getattr(net, "upscale", spec.get("upscale", 1)))
        self.channels = net.in_chans if isinstance(net, ImageNetwork) else input_channels(spec)
        self._lock = threading.RLock()  # of the network, its graphs, and what is known about memory
        self.net, self.self_ensemble = net, self_ensemble
        self._run = inference_forward(net.to(self.device).eval(), self.dtype, self.upscale, self_ensemble)
        self._run_or_tile = tiles_when_full(self.predict)
        self._graphed = GraphedForward(self._forward, self.device, keep=PLANS.recorded)
        self._planner = TilePlanner(self._forward, self.channels, self.upscale, self.device, memory)
        if memory is not None and self.tile == "auto":
            self._planner.check_limit()

    def batch(self, images: Sequence[Pixels], *, bits: int = 8, progress: Progress | None = None) -> list[Pixels]:
        """Return the outputs for arrays of one shape and type, which go through the network together.

        Small images keep a GPU busy only together. Outputs equal those of single images up to rounding.

        Args:
            images: as arrays of `Upscaler.__call__`.
            bits: as there.
            progress: is called after every tile with the number of tiles done and of all.

        Raises:
            ValueError: when they differ in shape or type; and as `Upscaler.__call__`.
        """
        images = [match_channels(image, self.channels) for image in images]
        if len({(image.shape, image.dtype) for image in images}) > 1:
            raise ValueError(f"batch: images differ: {sorted({f'{i.dtype} {i.shape}' for i in images})}")
        if not images:
            return []
        shape, dtype = self.output_shape(images[0]), output_dtype(bits)
        outputs = [np.empty(shape, dtype) for _ in images]
        top = 0
        held = sum(output.nbytes for output in outputs)
        for rows in self.rows(images, bits=bits, held=held, progress=progress):
            for output, strip in zip(outputs, rows, strict=True):
                output[top : top + len(strip)] = strip
            top += rows.shape[1]
        return [output if output.shape[2] > 1 else output[..., 0] for output in outputs]

    def rows(
        self, images: Sequence[Pixels], *, bits: int = 8, held: int = 0, progress: Progress | None = None
    ) -> Iterator[np.ndarray]:
        """Yield the outputs for images of one shape, in strips of rows from top to bottom, (B, rows, s*W, C).

        Args:
            images: (H, W, C) each, or with alpha (H, W, C + 1); C is that of the network.
            bits: as in `Upscaler.__call__`.
            held: bytes of the outputs that the caller keeps, for `tile: auto`.
            progress: is called after every tile with the number of tiles done and of all.

        Raises:
            ValueError: when the network gives nan or inf.
            MemoryError: when not even the smallest tiles fit into memory.
        """
        size = (images[0].shape[0], images[0].shape[1])

        def crop(y: slice, x: slice) -> Tensor:
            return torch.stack([to_tensor(image[y, x, : self.channels]) for image in images])

        tile = self.tile_for(*size, count=len(images), held=held)
        overlap = min(self.overlap, tile // 2)
        total = len(spans(size[0], tile, overlap)) * len(spans(size[1], tile, overlap))
        tiles_done = 0

        def run(lq: Tensor) -> Tensor:
            nonlocal tiles_done
            output = self.run_or_tile(lq)
            tiles_done += 1
            if progress is not None:
                progress(tiles_done, total)
            return output

        done = 0
        for band in bands_of(run, crop, size, tile, overlap, feather=overlap):
            for top in range(0, band.shape[-2], STRIP_ROWS):
                values = output_values(band[..., top : top + STRIP_ROWS, :])
                bottom = done + values.shape[1]
                if images[0].shape[2] > self.channels:
                    alphas = [enlarge_alpha(image, done, bottom, self.upscale) for image in images]
                    values = np.concatenate([values, np.stack(alphas)], axis=3)
                done = bottom
                yield quantize(values, bits)

    def tile_for(self, height: int, width: int, *, count: int = 1, held: int = 0) -> int:
        """Return the side of the tiles in px for an image of (height, width); its longer side or more: no tiles.

        Args:
            count: images that go through the network together.
            held: bytes that the caller keeps.

        Raises:
            MemoryError: when the smallest tiles take more than the `memory` that was allowed, naming what they take.
        """
        if self.tile == "auto":
            with self._lock:
                return self._planner.tile_for(height, width, count, held)
        return self.tile or max(height, width)

    def predict(self, lq: Tensor) -> Tensor:
        """Return (B, C, s*h, s*w) for (B, C, h, w), float32, not clamped, on the device of the network; without tiles.

        On CUDA, sizes that repeat (tiles, frames of a video) run as a graph.
        """
        with self._lock, torch.inference_mode(), precision_of_block(self.matmul_precision):
            return self._graphed(lq.to(self.device))

    def run_or_tile(self, lq: Tensor) -> Tensor:
        """Return what `predict` does, in smaller tiles after memory ran out.

        Raises:
            MemoryError: when not even the smallest tiles fit into memory.
        """
        with self._lock:
            return self._run_or_tile(lq)

    def output_shape(self, image: Pixels) -> tuple[int, int, int]:
        """Return the (s*H, s*W, C) of the output for pixels (H, W, C)."""
        return self.upscale * image.shape[0], self.upscale * image.shape[1], image.shape[2]

    def _forward(self, lq: Tensor) -> Tensor:
        return self._run(lq).float()
