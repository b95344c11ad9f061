"""A network as a function from image to image: the one path of inference.

An image goes through `Upscaler.rows` in bands of tiles, of which an array, a PNG file or a video is made. No step holds
more than a band of floats, so memory depends on the tiles and hardly on the image.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from tqdm import tqdm

from basicsr.archs.published import input_channels, read_network
from basicsr.engine.cuda_graphs import GraphedForward
from basicsr.engine.device import matmul_precision as precision_of_block
from basicsr.engine.plan_cache import PLANS
from basicsr.images.files import to_tensor, write_image
from basicsr.images.tiling import bands_of, tiles_when_full
from basicsr.inference.comparison import Box, draw_comparison
from basicsr.inference.forward import inference_forward
from basicsr.inference.image_io import (
    CANVAS_BYTES,
    STRIP_ROWS,
    Pixels,
    canvas,
    enlarge_alpha,
    fill,
    match_channels,
    output_dtype,
    output_values,
    pixels_of_pil,
    quantize,
    read_pixels,
    read_pixels_for,
    write_pixels,
    write_png,
)
from basicsr.inference.memory import TilePlanner
from basicsr.inference.settings import (
    OVERLAP,
    Settings,
    check_matmul_precision,
    check_settings,
    resolve_device,
    resolve_dtype,
    resolve_tile,
)
from basicsr.inference.tasks import PHOTO, weight_file
from basicsr.inference.video.network import network_of
from basicsr.inference.video.pipeline import VideoSettings, enlarge_video

if TYPE_CHECKING:
    from typing_extensions import Unpack  # in `typing` since Python 3.11

logger = logging.getLogger("basicsr")


class Upscaler:
    """A network with its weights, as a function from images to images; enlarging by 1 (denoising) included.

        upscale = Upscaler.for_photos()  # or Upscaler.from_checkpoint("weights.pth")
        sr = upscale(image)  # uint8 (4*H, 4*W, 3)

    Args:
        net: maps (B, C, h, w) in [0, 1] to (B, C, s*h, s*w); is put into evaluation, on `device`. One that has a faster
            form for inference (`prepared`) runs in it.
        spec: what built it, `{type: CATANet-L, upscale: 4}`.
        device: where it runs: auto (the GPU where there is one, else the CPU), cpu, cuda, cuda:1, mps.
        dtype: float32; bfloat16; or float16, on CUDA alone. Inputs, outputs and blending are float32.
        tile: side of the tiles in px of the input. auto: the whole image if memory suffices, else the largest tiles for
            which it does. 0 or None: the whole image.
        overlap: px of the input that neighbouring tiles share at least, and over which they are blended; at most half a
            tile.
        self_ensemble: the mean over the 8 flips and rotations of the input, which takes 8 times as long.
        memory: bytes that this process should stay below, for `tile: auto`; None: all that is free.
        matmul_precision: of float32 products and convolutions on a GPU, while the network runs: highest, high (TF32) or
            medium.
        is_published: the weights are those of a published network, known by their shapes.

    Raises:
        OptionError: when a setting is out of its range, or cannot be had on this device.
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
        self.channels = input_channels(spec)
        self.net, self.self_ensemble = net, self_ensemble
        self._run = inference_forward(net.to(self.device).eval(), self.dtype, self.upscale, self_ensemble)
        self._run_or_tile = tiles_when_full(self.predict)
        self._graphed = GraphedForward(self._forward, self.device, keep=PLANS.recorded)
        self._planner = TilePlanner(self._forward, self.channels, self.upscale, self.device, memory)

    @classmethod
    def from_checkpoint(cls, path: str | Path, **settings: "Unpack[Settings]") -> "Upscaler":
        """Return the network of a weight file, which needs no other description; see `read_network`.

        Args:
            settings: device, dtype, tile, overlap, self_ensemble, memory, matmul_precision: as in the class.

        Raises:
            CheckpointError: when the file is missing or damaged, or its network cannot be told.
            OptionError: when a setting is out of its range, or cannot be had on this device.
        """
        check_settings(settings)  # before the file is read
        net, spec, is_published = read_network(path)
        return cls(net, spec, is_published=is_published, **settings)

    @classmethod
    def for_photos(cls, scale: int = 4, **settings: "Unpack[Settings]") -> "Upscaler":
        """Return the network for photographs (JPEG) that is part of this package, as `basicsr-infer` takes it.

        Args:
            scale: 2 or 4.
            settings: as in `from_checkpoint`.

        Raises:
            CheckpointError: when its file is missing or damaged.
            OptionError: when there is no network for this scale; and as `from_checkpoint`.
        """
        return cls.from_checkpoint(weight_file(PHOTO, scale), **settings)

    def __call__(self, image: Any, *, bits: int = 8) -> Any:
        """Return the output for an image.

        Args:
            image: an array, RGB (H, W, 3) or gray (H, W), with alpha (H, W, 4) or (H, W, 2), uint8, uint16, or floats
                in [0, 1]; a PIL image; or the path of an image file. A network of RGB is given three equal channels for
                gray; one of gray is given the gray that OpenCV makes of RGB.
            bits: of the output: 8, uint8; 16, uint16; both clamped to [0, 1] and rounded to the nearest level; 32,
                float32, clamped.

        Returns:
            For a PIL image a PIL image, of 8 bits. Otherwise an array, (s*H, s*W, 3) RGB or, by a network of gray,
            (s*H, s*W); where the image has alpha, with one channel more: alpha enlarged bicubically.

        Raises:
            OSError: when the file cannot be read.
            ValueError: when the image is damaged or of another shape or type, or the network gives no numbers for it.
            MemoryError: when not even the smallest tiles fit into memory.
        """
        if isinstance(image, Image.Image):
            if bits != 8:
                raise ValueError(f"bits: PIL images are given back in 8 bits, got {bits}; pass an array")
            return Image.fromarray(self.batch([pixels_of_pil(image)])[0])
        return self.batch([self.read(image) if isinstance(image, (str, Path)) else image], bits=bits)[0]

    def batch(self, images: Sequence[Pixels], *, bits: int = 8) -> list[Pixels]:
        """Return the outputs for arrays of one shape and type, which go through the network together.

        Small images keep a GPU busy only together. Outputs equal those of single images up to rounding.

        Raises:
            ValueError: when they differ in shape or type; and as `__call__`.
        """
        images = [match_channels(image, self.channels) for image in images]
        if len({(image.shape, image.dtype) for image in images}) > 1:
            raise ValueError(f"batch: images differ: {sorted({f'{i.dtype} {i.shape}' for i in images})}")
        if not images:
            return []
        shape, dtype = self._output_shape(images[0]), output_dtype(bits)
        outputs = [np.empty(shape, dtype) for _ in images]
        top = 0
        for rows in self.rows(images, bits=bits, held=sum(output.nbytes for output in outputs)):
            for output, strip in zip(outputs, rows, strict=True):
                output[top : top + len(strip)] = strip
            top += rows.shape[1]
        return [output if output.shape[2] > 1 else output[..., 0] for output in outputs]

    def rows(self, images: Sequence[Pixels], *, bits: int = 8, held: int = 0) -> Iterator[np.ndarray]:
        """Yield the outputs for images of one shape, in strips of rows from top to bottom, (B, rows, s*W, C).

        Args:
            images: (H, W, C) each, or with alpha (H, W, C + 1); C is that of the network.
            bits: as in `__call__`.
            held: bytes of the outputs that the caller keeps, for `tile: auto`.

        Raises:
            ValueError: when the network gives nan or inf.
            MemoryError: when not even the smallest tiles fit into memory.
        """
        size = (images[0].shape[0], images[0].shape[1])

        def crop(y: slice, x: slice) -> Tensor:
            return torch.stack([to_tensor(image[y, x, : self.channels]) for image in images])

        tile = self.tile_for(*size, count=len(images), held=held)
        overlap = min(self.overlap, tile // 2)
        done = 0
        for band in bands_of(self._run_or_tile, crop, size, tile, overlap, feather=overlap):
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
        """
        if self.tile == "auto":
            return self._planner.tile_for(height, width, count, held)
        return self.tile or max(height, width)

    def predict(self, lq: Tensor) -> Tensor:
        """Return (B, C, s*h, s*w) for (B, C, h, w), float32, not clamped, on the device of the network; without tiles.

        On CUDA, sizes that repeat (tiles, frames of a video) run as a graph.
        """
        with torch.inference_mode(), precision_of_block(self.matmul_precision):
            return self._graphed(lq.to(self.device))

    def read(self, path: str | Path) -> Pixels:
        """Return the pixels of a file with the channels of the network; see `read_pixels`."""
        return read_pixels(path, self.channels)

    def upscale_file(
        self,
        source: str | Path,
        target: str | Path,
        *,
        bits: int = 8,
        compare: str | Path | None = None,
        crops: Sequence[Box] = (),
    ) -> tuple[int, int]:
        """Write the output for the image file `source` to `target`, in the format that its suffix names.

        Folders are made. An existing file is replaced; it is whole at any time, old or new. PNG files are written row
        by row; outputs in other formats are held as a whole, large ones in a file next to the target. Transparency is
        kept in PNG, TIFF and WebP; for others it is left out, with a warning.

        Args:
            bits: 8; or 16, in PNG and TIFF.
            compare: a PNG file to draw the bicubic enlargement and the output into, side by side.
            crops: parts of the input to show enlarged there; none: the parts with the most detail.

        Returns:
            (height, width) of the output in pixels.

        Raises:
            OSError: when a file cannot be read or written.
            ValueError: naming the file, when it is damaged, `target` cannot hold the output, or that is nan or inf.
            MemoryError: when not even the smallest tiles fit into memory.
        """
        source, target = Path(source), Path(target)
        image = read_pixels_for(source, target, self.channels, self.upscale, bits)
        shape = self._output_shape(image)
        try:
            if target.suffix.lower() == ".png" and compare is None:
                write_png(self._strips(image, bits, source.name), target, shape, bits)
                return shape[:2]
            with canvas(shape, output_dtype(bits), target.parent) as output:
                fill(output, self._strips(image, bits, source.name, held=min(output.nbytes, CANVAS_BYTES)))
                if compare is not None:
                    network = str(self.spec.get("type", type(self).__name__))
                    write_image(compare, draw_comparison(image, output, self.channels, network, crops))
                write_pixels(output, target, self.channels, bits)
        except ValueError as error:
            raise ValueError(f"{source}: {error}") from error
        return shape[:2]

    def upscale_files(self, pairs: Sequence[tuple[str | Path, str | Path]], *, bits: int = 8) -> list[tuple[int, int]]:
        """Write the outputs for image files of one shape and type, which go through the network together.

        Args:
            pairs: source and target of each; as in `upscale_file`.
            bits: 8; or 16, in PNG and TIFF.

        Returns:
            (height, width) of each output in pixels.

        Raises:
            ValueError: when the images differ in shape or type, before the network runs; the rest as `upscale_file`.
        """
        paths = [(Path(source), Path(target)) for source, target in pairs]
        images = [read_pixels_for(source, target, self.channels, self.upscale, bits) for source, target in paths]
        outputs = self.batch(images, bits=bits)
        for output, (_, target) in zip(outputs, paths, strict=True):
            write_pixels(output if output.ndim == 3 else output[..., None], target, self.channels, bits)
        return [(output.shape[0], output.shape[1]) for output in outputs]

    def upscale_video(self, source: str | Path, target: str | Path, **settings: Any) -> tuple[int, int, int]:
        """Write the output for every frame of the video file `source` to `target`, with sound and all else it holds.

        The suffix of `target` chooses the kind of file. It appears when it is whole. A bar shows the progress on
        terminals, a line in the log the result; see `inference.video.pipeline.enlarge_video`.

        Args:
            settings: `batch=4, codec="hevc", crf=20, preset="fast", resume=True`, and others of `VideoSettings`.

        Returns:
            (frames, height, width) of the output.

        Raises:
            OptionError: when PyAV is not installed, or a setting does not fit.
            OSError: when a file cannot be read or written.
            ValueError: when the video cannot be read, or its frames cannot be written so; naming the file.
            MemoryError: when not even the smallest tiles fit into memory.
        """
        report = enlarge_video(source, target, network_of(self), VideoSettings(**settings))
        logger.info("%s -> %s, %s", source, target, report)
        return report.frames, report.height, report.width

    def run_or_tile(self, lq: Tensor) -> Tensor:
        """Return what `predict` does, in tiles after memory ran out."""
        return self._run_or_tile(lq)

    def _forward(self, lq: Tensor) -> Tensor:
        return self._run(lq).float()

    def _output_shape(self, image: Pixels) -> tuple[int, int, int]:
        return self.upscale * image.shape[0], self.upscale * image.shape[1], image.shape[2]

    def _strips(self, image: Pixels, bits: int, name: str, held: int = 0) -> Iterator[Pixels]:
        """Yield the output for one image in strips of rows, under a bar when it takes long."""
        with tqdm(desc=name, total=self.upscale * len(image), unit="row", leave=False, disable=None, delay=3) as bar:
            for rows in self.rows([image], bits=bits, held=held):
                yield rows[0]
                bar.update(rows.shape[1])
