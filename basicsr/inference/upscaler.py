"""A network as a function from image to image: file, pixels, tiles, network, pixels, file. The one path of inference.

`Upscaler.predict` is what runs the network, `Upscaler.rows` what goes through an image in bands, of which an array, a
PNG file or a video is made. No step holds more than a band of floats, so memory depends on the tiles and hardly on
the image.
"""

import contextlib
import logging
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

import cv2
import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from basicsr.archs.layers.atd_family import ATDFamily
from basicsr.archs.published import input_channels, read_network
from basicsr.config.schema import MatmulPrecision
from basicsr.engine.cuda_graphs import GraphedForward
from basicsr.engine.device import matmul_precision, memory_limit, pick_device, resident_bytes
from basicsr.engine.plan_cache import PLANS
from basicsr.errors import OptionError
from basicsr.images.alpha import ALPHA_SUFFIXES, decode_alpha, encode_with_alpha
from basicsr.images.files import (
    DEEP_SUFFIXES,
    IMAGE_SUFFIXES,
    as_rgb,
    checked_size,
    decode_gray,
    decode_image,
    encode_image,
    image_facts,
    to_tensor,
    write_image,
)
from basicsr.images.matlab_resize import imresize
from basicsr.images.png_stream import PngStream, whole_or_nothing
from basicsr.images.tiling import bands_of, tiles_when_full
from basicsr.images.video import VideoReader, VideoWriter
from basicsr.inference.comparison import Box, comparison
from basicsr.inference.memory import Appetite

logger = logging.getLogger("basicsr")
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
LEVELS: dict[int, np.dtype[Any]] = {
    8: np.dtype(np.uint8),
    16: np.dtype(np.uint16),
    32: np.dtype(np.float32),
}  # bits -> type of arrays
MAX_SIDE = {".jpg": 65500, ".jpeg": 65500, ".webp": 16383}  # px, of an image in that format

TILES = (512, 384, 256, 192, 128, 96, 64)  # px: sides that `auto` chooses from, the largest that fits
OVERLAP = 16  # px; docs/inference.md has the measurements
SPARE = 0.8  # of the memory that there is, `auto` plans to use
SMALL = 100 * 1024  # bytes a px that no network takes; images for which there is so much are not measured for
STRIP_ROWS = 64  # of the output that are rounded at a time
CANVAS_BYTES = 512 * 2**20  # outputs that have to be held and are larger lie in a file, which the system may write out

Pixels = np.ndarray
Run = Callable[[Tensor], Tensor]
T = TypeVar("T")


class Upscaler:
    """A network with its weights, as a function from images to images; enlarging by 1 (denoising) included.

        upscale = Upscaler.from_checkpoint("pretrained_models/CATANet-XS_x4.pth")
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
        memory: bytes that this process should stay below, for `tile: auto`; None: all that there is.
        matmul_precision: of float32 products and convolutions on a GPU, while the network runs: highest, high (TF32) or
            medium.
        is_published: the weights are those of a published network, known by their shapes.

    Raises:
        OptionError: when a setting is out of its range, or cannot be had on this device.
    """

    def __init__(
        self, net: nn.Module, spec: Mapping[str, Any], *, device: str | torch.device = "auto",
        dtype: str | torch.dtype = "float32", tile: int | Literal["auto"] | None = "auto", overlap: int = OVERLAP,
        self_ensemble: bool = False, memory: int | None = None, matmul_precision: str = "highest",
        is_published: bool = False,
    ):  # fmt: skip
        self.spec = dict(spec)
        self.is_published = is_published
        self.device = device_called(device)
        self.dtype = _dtype_called(dtype, self.device)
        self.matmul_precision = _checked_precision(matmul_precision)
        self.tile, self.overlap = _checked_tile(tile, overlap)
        self.upscale = int(getattr(net, "upscale", spec.get("upscale", 1)))
        self.channels = input_channels(spec)
        self.is_atd = isinstance(net, ATDFamily)
        self._memory = memory
        self._budget: int | None = None
        self._run = self._runner(net.to(self.device).eval(), self_ensemble)
        self._run_or_tile = tiles_when_full(self.predict)
        self._graphed = GraphedForward(self._forward, self.device, keep=PLANS.recorded)
        self._appetite = Appetite(torch.inference_mode()(self._forward), self.channels, self.device)

    @classmethod
    def from_checkpoint(
        cls, path: str | Path, *, device: str | torch.device = "auto", dtype: str | torch.dtype = "float32",
        tile: int | Literal["auto"] | None = "auto", overlap: int = OVERLAP, self_ensemble: bool = False,
        memory: int | None = None, matmul_precision: str = "highest",
    ) -> "Upscaler":  # fmt: skip
        """The network of a weight file, which needs no other description; see `read_network` and the class.

        Raises:
            CheckpointError: when the file is missing or damaged, or holds no network that is known.
            OptionError: when a setting is out of its range, or cannot be had on this device.
        """
        device = device_called(device)
        dtype = _dtype_called(dtype, device)
        tile, overlap = _checked_tile(tile, overlap)
        _checked_precision(matmul_precision)
        net, spec, is_published = read_network(path)
        return cls(net, spec, device=device, dtype=dtype, tile=tile, overlap=overlap, self_ensemble=self_ensemble,
                   memory=memory, matmul_precision=matmul_precision, is_published=is_published)  # fmt: skip

    def __call__(self, image: Any, *, bits: int = 8) -> Any:
        """The output for an image.

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
            return Image.fromarray(self.batch([_of_pil(image)])[0])
        return self.batch([self.read(image) if isinstance(image, (str, Path)) else image], bits=bits)[0]

    def batch(self, images: Sequence[Pixels], *, bits: int = 8) -> list[Pixels]:
        """The outputs for arrays of one shape and type, which go through the network together.

        Small images keep a GPU busy only together. Outputs equal those of single images up to rounding.

        Raises:
            ValueError: when they differ in shape or type; and as `__call__`.
        """
        images = [self._prepared(image) for image in images]
        if len({(image.shape, image.dtype) for image in images}) > 1:
            raise ValueError(f"batch: images differ: {sorted({f'{i.dtype} {i.shape}' for i in images})}")
        if not images:
            return []
        shape, dtype = self._output_shape(images[0]), LEVELS[_checked_bits(bits)]
        outputs = [np.empty(shape, dtype) for _ in images]
        top = 0
        for rows in self.rows(images, bits=bits, held=sum(output.nbytes for output in outputs)):
            for output, strip in zip(outputs, rows, strict=True):
                output[top : top + len(strip)] = strip
            top += rows.shape[1]
        return [output if output.shape[2] > 1 else output[..., 0] for output in outputs]

    def rows(self, images: Sequence[Pixels], *, bits: int = 8, held: int = 0) -> Iterator[np.ndarray]:
        """The outputs for images of one shape, in strips of rows from top to bottom, (B, rows, s*W, C).

        Args:
            images: (H, W, C) each, or with alpha (H, W, C + 1); C is that of the network.
            bits: as in `__call__`.
            held: bytes that the caller keeps of the outputs, for `tile: auto`.

        Raises:
            ValueError: when the network gives something else than numbers.
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
                values = _numbers(band[..., top : top + STRIP_ROWS, :])
                if images[0].shape[2] > self.channels:
                    alphas = [self._enlarged_alpha(image, done, done + values.shape[1]) for image in images]
                    values = np.concatenate([values, np.stack(alphas)], axis=3)
                done += values.shape[1]
                yield _levels(values, bits)

    def tile_for(self, height: int, width: int, *, count: int = 1, held: int = 0) -> int:
        """Side of the tiles in px for an image of (height, width); at least the longer side: the whole image.

        How `auto` estimates the memory: the network is tried on two small images, of whose tensors the most bytes alive
        at a time are counted (`Appetite`); that grows with the area. A band of tiles in float32 comes on top. What the
        system has available (or `memory` allows) is asked for once, for what this process frees later is its own.

        Args:
            count: images that go through the network together.
            held: bytes that the caller takes.
        """
        whole = max(height, width)
        if self.tile != "auto":
            return self.tile or whole
        if self._budget is None:
            self._budget = memory_limit(self.device)
            if self._memory is not None:
                self._budget = min(self._budget, self._memory - resident_bytes())
        budget = SPARE * self._budget - held
        if height * width * count * SMALL <= budget:
            return whole
        for tile in (whole, *TILES):
            h, w = min(tile, height), min(tile, width)
            band = 0 if tile == whole else 4 * self.channels * self.upscale**2 * min(1.5 * tile, height) * width
            if self._appetite(h * count, w) + band * count <= budget:
                return tile
        return TILES[-1]  # and if that is too much, `tiles_when_full` says so

    def predict(self, lq: Tensor) -> Tensor:
        """(B, C, h, w) to (B, C, s*h, s*w), float32, not clamped, on the device of the network; without tiles.

        On CUDA, sizes that repeat (tiles, frames of a video) run as a graph.
        """
        with torch.inference_mode(), matmul_precision(self.matmul_precision):
            return self._graphed(lq.to(self.device))

    def _forward(self, lq: Tensor) -> Tensor:
        return self._run(lq).float()

    def read(self, path: str | Path) -> Pixels:
        """The pixels of a file as the network takes them: RGB (H, W, 3) or gray (H, W, 1), of 8 or 16 bits.

        Transparency is one channel more. Gray is what OpenCV decodes. Frames after the first and (but in JPEG and TIFF)
        the EXIF orientation are left out, with a warning.

        Raises:
            OSError: when the file cannot be read.
            ValueError: when it is cut off, is no image, or has too many pixels.
        """
        path = Path(path)
        facts = image_facts(path)
        data = path.read_bytes()
        image = checked_size((decode_gray if self.channels == 1 else decode_image)(data, path), facts[:2], path)
        for what in facts.left_out:
            if what == "its transparency":
                alpha = checked_size(decode_alpha(data, path, image.dtype), facts[:2], path)
                image = np.dstack([image, alpha])
            else:
                logger.warning("%s: %s is left out", path, what)
        return image

    def upscale_file(
        self, source: str | Path, target: str | Path, *, bits: int = 8, compare: str | Path | None = None,
        crops: Sequence[Box] = (),
    ) -> tuple[int, int]:  # fmt: skip
        """Write the output for the image file `source` to `target`, in the format that its suffix names.

        Folders are made. An existing file is replaced; it is whole at any time, old or new. PNG files are written row
        by row; outputs in other formats are held as a whole, large ones in a file beside the target. Transparency is
        kept in PNG, TIFF and WebP; for others it is left out, with a warning.

        Args:
            bits: 8; or 16, in PNG and TIFF.
            compare: a PNG file to draw the bicubic enlargement and the output into, side by side.
            crops: what of the input is shown there enlarged; none: the parts with the most detail.

        Returns:
            (height, width) of the output in pixels.

        Raises:
            OSError: when a file cannot be read or written.
            ValueError: when the image is damaged, the format cannot hold the output, or the network gives no numbers;
                naming the file.
            MemoryError: when not even the smallest tiles fit into memory.
        """
        source, target = Path(source), Path(target)
        image = self._read_for(source, target, bits)
        height, width, channels = self._output_shape(image)
        try:
            if target.suffix.lower() == ".png" and compare is None:
                self._stream(self._strips(image, bits, source.name), target, (height, width, channels), bits)
                return height, width
            with _canvas((height, width, channels), LEVELS[bits], target.parent) as output:
                top = 0
                for strip in self._strips(image, bits, source.name, held=min(output.nbytes, CANVAS_BYTES)):
                    output[top : top + len(strip)] = strip
                    top += len(strip)
                if compare is not None:
                    network = str(self.spec.get("type", type(self).__name__))
                    write_image(compare, comparison(image, output, self.channels, network, crops))
                self._write(output, target, bits)
        except ValueError as error:
            raise ValueError(f"{source}: {error}") from error
        return height, width

    def upscale_files(self, pairs: Sequence[tuple[str | Path, str | Path]], *, bits: int = 8) -> list[tuple[int, int]]:
        """Write the outputs for image files of one shape and type, which go through the network together.

        Args:
            pairs: source and target of each; as in `upscale_file`.
            bits: 8; or 16, in PNG and TIFF.

        Returns:
            (height, width) of each output in pixels.

        Raises:
            ValueError: when the images differ in shape or type, before the network runs; and as `upscale_file`, which
                raises the other errors, too.
        """
        images = [self._read_for(Path(source), Path(target), bits) for source, target in pairs]
        outputs = self.batch(images, bits=bits)
        for output, (_, target) in zip(outputs, pairs, strict=True):
            self._write(output if output.ndim == 3 else output[..., None], Path(target), bits)
        return [(output.shape[0], output.shape[1]) for output in outputs]

    def upscale_video(self, source: str | Path, target: str | Path, *, batch: int = 1) -> tuple[int, int, int]:
        """Write the output for every frame of the video file `source` to `target`, at the same frames a second.

        The codec is that of the suffix of `target` (`basicsr.images.video.CODECS`). Sound is not copied. The file
        appears when it is whole. A bar shows the progress on terminals.

        Args:
            batch: frames that go through the network together.

        Returns:
            (frames, height, width) of the output.

        Raises:
            OSError: when a file cannot be read or written.
            ValueError: when the video cannot be read, or the codec not write frames of this size; naming the file.
            MemoryError: when not even the smallest tiles fit into memory.
        """
        with VideoReader(source) as reader, VideoWriter(target, reader.facts.fps) as writer:
            facts = reader.facts
            bar = tqdm(desc=Path(source).name, total=facts.frames or None, unit="frame", leave=False, disable=None)
            with bar:
                for frames in _chunks(iter(reader), batch):
                    for output in self.batch(frames):
                        writer.write(output)
                    bar.update(len(frames))
            if writer.frames < facts.frames:
                logger.warning("%s: its header promises %d frames, %d could be read; it may be damaged", source,
                               facts.frames, writer.frames)  # fmt: skip
        return writer.frames, self.upscale * facts.height, self.upscale * facts.width

    def _runner(self, net: nn.Module, self_ensemble: bool) -> Run:
        """What maps a tensor on the device to the output."""
        prepare = getattr(net, "prepared", None)
        if callable(prepare) and self.dtype != torch.float16:  # its forms are float32 and bfloat16
            run: Run = prepare(self.dtype)
        elif self.dtype == torch.float32:
            run = net
        else:

            def run(lq: Tensor) -> Tensor:
                with torch.autocast(self.device.type, self.dtype):
                    return net(lq)

        run = _padded(run, getattr(net, "min_side", 1), getattr(net, "multiple_of", 1), self.upscale)
        if not self_ensemble:
            return run
        from basicsr.models.sr_model import self_ensemble as over_turns  # with all that trains; only for this

        return lambda lq: over_turns(run, lq)

    def _enlarged_alpha(self, image: Pixels, top: int, bottom: int) -> Pixels:
        """Rows [top, bottom) of the transparency of the output, floats (rows, s*W, 1): the bicubic enlargement."""
        s = self.upscale
        first = max(0, top // s - 4)  # rows of the input that the kernel sees, and more
        alpha = image[first : -(-bottom // s) + 4, :, -1].astype(np.float32)
        alpha /= np.iinfo(image.dtype).max if np.issubdtype(image.dtype, np.integer) else 1
        return imresize(alpha, s)[top - s * first : bottom - s * first, :, None]

    def _prepared(self, image: Any) -> Pixels:
        """An array as (H, W, C) or, with alpha, (H, W, C + 1), C being that of the network."""
        if not isinstance(image, np.ndarray):
            raise ValueError(f"expected an array, a PIL image or a path, got {type(image).__name__}")
        image = as_rgb(image)
        image = image[..., None] if image.ndim == 2 else image
        is_float = np.issubdtype(image.dtype, np.floating)
        if image.ndim != 3 or image.shape[2] not in (1, 2, 3, 4) or 0 in image.shape:
            raise ValueError(f"expected an image (H, W), (H, W, 3) or, with alpha, (H, W, 4), got {image.shape}")
        if image.dtype not in (np.uint8, np.uint16) and not is_float:
            raise ValueError(f"expected an image of uint8, uint16 or floats in [0, 1], got {image.dtype}")
        if is_float and not (np.isfinite(image).all() and np.abs(image).max() <= 2):
            raise ValueError("expected floats in [0, 1]; divide pixels of 8 bits by 255")
        has_alpha = image.shape[2] in (2, 4)
        colours = image[..., :-1] if has_alpha else image
        if colours.shape[2] == 1 and self.channels == 3:
            colours = np.repeat(colours, 3, axis=2)
        elif colours.shape[2] == 3 and self.channels == 1:
            colours = np.ascontiguousarray(colours, np.float32 if is_float else image.dtype)
            colours = cv2.cvtColor(colours, cv2.COLOR_RGB2GRAY)[..., None]
        if colours.shape[2] != self.channels:
            raise ValueError(f"the network takes {self.channels} channels, got an image {image.shape}")
        return np.dstack([colours, image[..., -1]]) if has_alpha else colours

    def _read_for(self, source: Path, target: Path, bits: int) -> Pixels:
        """The pixels of a file, as far as the format of the target can hold their output."""
        image = self.read(source)
        if image.shape[2] > self.channels and target.suffix.lower() not in ALPHA_SUFFIXES:
            logger.warning("%s: its transparency is left out, for %s files have none", source, target.suffix)
            image = image[..., : self.channels]
        check_target(target, (self.upscale * image.shape[0], self.upscale * image.shape[1]), bits)
        return image

    def _output_shape(self, image: Pixels) -> tuple[int, int, int]:
        return self.upscale * image.shape[0], self.upscale * image.shape[1], image.shape[2]

    def _strips(self, image: Pixels, bits: int, name: str, held: int = 0) -> Iterator[Pixels]:
        """The output for one image in strips of rows, under a bar when it takes long."""
        with tqdm(desc=name, total=self.upscale * len(image), unit="row", leave=False, disable=None, delay=3) as bar:
            for rows in self.rows([image], bits=bits, held=held):
                yield rows[0]
                bar.update(rows.shape[1])

    def _write(self, output: Pixels, target: Path, bits: int) -> None:
        """An output (H, W, C) to a file, in the format of its suffix."""
        if target.suffix.lower() == ".png":
            strips = (output[top : top + STRIP_ROWS] for top in range(0, len(output), STRIP_ROWS))
            self._stream(strips, target, output.shape, bits)
            return
        if output.shape[2] > self.channels:
            data = encode_with_alpha(output, target)
        else:
            data = encode_image(output if self.channels == 3 else output[..., 0], target)
        with whole_or_nothing(target) as beside:
            beside.write_bytes(data)

    @staticmethod
    def _stream(strips: Iterator[Pixels], target: Path, shape: tuple[int, ...], bits: int) -> None:
        first = next(strips)  # what fails in the beginning leaves not even a folder
        with whole_or_nothing(target) as beside, beside.open("wb") as file:
            stream = PngStream(file, (shape[0], shape[1]), shape[2], bits)
            for strip in chain([first], strips):
                stream.write(strip)
            stream.close()


def device_called(name: str | torch.device) -> torch.device:
    """The device of a name: auto, cpu, cuda, cuda:1, mps; auto is the GPU where there is one, else the CPU.

    Raises:
        OptionError: when there is no such device here.
    """
    if isinstance(name, torch.device):
        return name
    if name == "auto":
        return pick_device("auto")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise OptionError(f"--device: {name!r} cannot be used here; take auto or cpu") from error
    return device


def check_target(path: str | Path, size: tuple[int, int], bits: int) -> None:
    """Refuse a file whose format cannot hold the output, before the network runs.

    Raises:
        ValueError: naming the file and a format that can.
    """
    suffix = Path(path).suffix.lower()
    if suffix not in IMAGE_SUFFIXES:
        raise ValueError(f"{path}: unknown image suffix {suffix!r}; use one of {' '.join(IMAGE_SUFFIXES)}")
    if _checked_bits(bits) == 32 or (bits == 16 and suffix not in DEEP_SUFFIXES):
        raise ValueError(f"{path}: this format has no {bits}-bit pixels; use one of {' '.join(DEEP_SUFFIXES)}")
    limit = MAX_SIDE.get(suffix)
    if limit is not None and max(size) > limit:
        raise ValueError(f"{path}: {size[1]}x{size[0]} px are more than {suffix} files have ({limit} a side); use .png")


def _checked_bits(bits: int) -> int:
    if bits not in LEVELS:
        raise ValueError(f"bits: must be one of {', '.join(map(str, LEVELS))}, got {bits!r}")
    return bits


def _checked_tile(tile: Any, overlap: Any) -> tuple[int | Literal["auto"], int]:
    if tile != "auto" and not (tile is None or (isinstance(tile, int) and tile >= 0)):
        raise OptionError(f"--tile: must be auto, 0 (the whole image) or a number of px, got {tile!r}")
    smallest = tile if isinstance(tile, int) and tile > 0 else TILES[-1]
    if not (isinstance(overlap, int) and 0 <= 2 * overlap <= smallest):
        raise OptionError(f"--overlap: must be in [0, {smallest // 2}] for tiles of {smallest} px, got {overlap!r}")
    return tile or 0, overlap


def _checked_precision(precision: str) -> str:
    if precision not in get_args(MatmulPrecision):
        choices = ", ".join(get_args(MatmulPrecision))
        raise OptionError(f"--matmul_precision: must be one of {choices}, got {precision!r}")
    return precision


def _dtype_called(name: str | torch.dtype, device: torch.device) -> torch.dtype:
    dtype = DTYPES.get(name, name) if isinstance(name, str) else name
    if dtype not in DTYPES.values():
        raise OptionError(f"--dtype: must be one of {', '.join(DTYPES)}, got {name!r}")
    if dtype == torch.float16 and device.type != "cuda":
        raise OptionError(f"--dtype: float16 runs on CUDA alone, not on {device.type}; take bfloat16 or float32")
    return dtype  # type: ignore[return-value]


def _padded(run: Run, min_side: int, multiple: int, scale: int) -> Run:
    """`run` for images of any size: edges are repeated up to what it takes, and cut off from the output."""
    if min_side <= 1 and multiple <= 1:
        return run

    def padded(lq: Tensor) -> Tensor:
        height, width = lq.shape[-2:]
        missing = [-(-max(side, min_side) // multiple) * multiple - side for side in (height, width)]
        lq = F.pad(lq, (0, missing[1], 0, missing[0]), mode="replicate")
        return run(lq)[..., : scale * height, : scale * width]

    return padded


def _numbers(sr: Tensor) -> np.ndarray:
    """(B, C, h, w) as (B, h, w, C), checked."""
    if not torch.stack(torch.aminmax(sr)).isfinite().all():  # which nan passes through, too
        raise ValueError("the network gives values that are no numbers (nan or inf); its weights are damaged")
    return sr.permute(0, 2, 3, 1).numpy()


def _levels(values: np.ndarray, bits: int) -> np.ndarray:
    """Floats as levels, clamped to [0, 1]; rounded to the nearest if they become integers."""
    clamped = values.clip(0, 1)
    if bits == 32:
        return clamped
    dtype = LEVELS[bits]
    clamped *= np.iinfo(dtype).max
    return np.rint(clamped, out=clamped).astype(dtype)


def _of_pil(image: Image.Image) -> Pixels:
    """The pixels of a PIL image, 8 bits or, of 16-bit gray, 16; with alpha where it has some."""
    if image.mode.startswith("I;16"):
        return np.array(image, dtype=np.uint16)
    if image.mode in ("I", "F"):
        raise ValueError(f"PIL images of mode {image.mode} have no range; pass an array of uint16, or floats in [0, 1]")
    if image.mode in ("LA", "La"):
        return np.array(image.convert("LA"))
    if image.mode in ("RGBA", "RGBa", "PA") or "transparency" in image.info:
        return np.array(image.convert("RGBA"))
    return np.array(image.convert("L" if image.mode in ("1", "L") else "RGB"))


@contextlib.contextmanager
def _canvas(shape: tuple[int, ...], dtype: np.dtype, folder: Path) -> Iterator[Pixels]:
    """An array to be filled; a large one lies in a nameless file in `folder`."""
    if np.prod(shape, dtype=np.int64) * dtype.itemsize <= CANVAS_BYTES:
        yield np.empty(shape, dtype)
        return
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder) as file:
        yield np.memmap(file, dtype, "w+", shape=shape)


def _chunks(items: Iterator[T], size: int) -> Iterator[list[T]]:
    while chunk := list(islice(items, size)):
        yield chunk
