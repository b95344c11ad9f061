"""A network as a function from image to image, and from file to file: the public interface of inference."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image
from torch import Tensor

from basicsr.archs.published import read_network
from basicsr.inference.animation import first_frame, upscale_animation
from basicsr.inference.comparison import Box, draw_comparison
from basicsr.inference.formats import PNG_SUFFIXES
from basicsr.inference.image_io import Pixels, output_dtype
from basicsr.inference.kinds import array_of_pil, arrays_of_tensor, pil_of_array, tensor_of_arrays
from basicsr.inference.metadata import Metadata
from basicsr.inference.pixel_upscaler import PixelUpscaler, Progress
from basicsr.inference.reading import Picture, is_animation, read_picture
from basicsr.inference.settings import OutputSettings, Settings, check_settings
from basicsr.inference.tasks import PHOTO, weight_file
from basicsr.inference.video.network import network_of
from basicsr.inference.video.pipeline import VideoSettings, enlarge_video
from basicsr.inference.writing import CANVAS_BYTES, canvas, check_target, fill, write_pixels, write_png

if TYPE_CHECKING:
    from typing_extensions import Unpack  # in `typing` since Python 3.11

logger = logging.getLogger("basicsr")


class Upscaler(PixelUpscaler):
    """A network that enlarges or cleans images: `Upscaler.for_photos()("photo.jpg")`.

    Threads may share one: the outputs are those of one thread after the other.

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
        memory: bytes that this process should stay below, for `tile: auto`; None: all that is free. What cannot suffice
            is an error.
        matmul_precision: of float32 products and convolutions on a GPU, while the network runs: highest, high (TF32) or
            medium.
        is_published: the weights are those of a published network, known by their shapes.

    Raises:
        OptionError: when a setting is out of its range, or cannot be had on this device.
    """

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

    def __call__(self, image: Any, *, bits: int = 8, batch: int = 1, progress: Progress | None = None) -> Any:
        """Return the output for an image, or for a list of them, of the same kind as what went in.

        Args:
            image: one of these, or a list or tuple of them:

                - an array, RGB (H, W, 3) or gray (H, W), with alpha (H, W, 4) or (H, W, 2), uint8, uint16, or floats in
                  [0, 1];
                - a tensor (C, H, W) or (B, C, H, W), uint8, or floats in [0, 1], on any device;
                - a PIL image;
                - the path of an image file.

                A network of RGB is given three equal channels for gray; one of gray is given the gray that OpenCV makes
                of RGB.
            bits: of output arrays: 8, uint8; 16, uint16; both clamped to [0, 1] and rounded to the nearest level; 32,
                float32, clamped. Tensors keep their type, PIL images have 8 bits.
            batch: images of a list that go through the network together, where they follow each other and have equal
                sizes.
            progress: is called as progress(done, total) with tiles for one image, with images for a list. An exception
                in it ends the work.

        Returns:
            For a list a list. For a PIL image a PIL image with the colour profile of the input, and for a tensor a
            tensor of its type, on its device, with as many axes. For an array or a path an array, (s*H, s*W, 3) RGB or,
            by a network of gray, (s*H, s*W). Where the image has alpha, one channel more: alpha enlarged bicubically.

        Raises:
            OSError: when a file cannot be read.
            ValueError: when an image is damaged or of another shape or type, or the network gives no numbers for it.
            MemoryError: when not even the smallest tiles fit into memory.
        """
        if isinstance(image, (list, tuple)):
            return self._list(image, bits, batch, progress)
        if isinstance(image, Tensor):
            is_integer = not image.is_floating_point()
            outputs = self.batch(arrays_of_tensor(image), bits=8 if is_integer else 32, progress=progress)
            return tensor_of_arrays(outputs, image)
        if isinstance(image, Image.Image):
            if bits != 8:
                raise ValueError(f"bits: PIL images are given back in 8 bits, got {bits}; pass an array")
            pixels, profile = array_of_pil(image, self.channels)
            return pil_of_array(self.batch([pixels], progress=progress)[0], profile)
        pixels = self.read(image) if isinstance(image, (str, Path)) else image
        return self.batch([pixels], bits=bits, progress=progress)[0]

    def _list(self, images: Sequence[Any], bits: int, batch: int, progress: Progress | None) -> list[Any]:
        """Return the outputs for images of any kinds, arrays of equal shapes together."""
        outputs: list[Any] = []
        while len(outputs) < len(images):
            first = images[len(outputs)]
            group = [first]
            if isinstance(first, np.ndarray):
                for other in images[len(outputs) + 1 : len(outputs) + batch]:
                    if not isinstance(other, np.ndarray) or (other.shape, other.dtype) != (first.shape, first.dtype):
                        break
                    group.append(other)
            outputs += self.batch(group, bits=bits) if len(group) > 1 else [self(first, bits=bits)]
            if progress is not None:
                progress(len(outputs), len(images))
        return outputs

    def read(self, path: str | Path) -> Pixels:
        """Return the pixels of a file with the channels of the network; see `read_picture`."""
        return read_picture(path, self.channels).pixels

    def upscale_file(
        self,
        source: str | Path,
        target: str | Path,
        *,
        bits: int = 8,
        compare: str | Path | None = None,
        crops: Sequence[Box] = (),
        progress: Progress | None = None,
        batch: int = 1,
        **output: Any,
    ) -> tuple[int, int]:
        """Write the output for the image file `source` to `target`, in the format that its suffix names.

        Folders are made. An existing file is replaced; it is whole at any time, old or new. PNG files are written row
        by row; outputs in other formats are held as a whole, large ones in a file next to the target. Transparency is
        kept in PNG, TIFF, WebP, AVIF and GIF; for others it is left out, with a warning. The output carries the colour
        profile, EXIF and XMP, upright, without location. Animations are done frame by frame.

        Args:
            bits: 8; or 16, in PNG and TIFF.
            compare: a PNG file to draw the bicubic enlargement and the output into, side by side; of an animation, its
                first frame.
            crops: parts of the input to show enlarged there; none: the parts with the most detail.
            progress: is called as progress(done, total) with tiles, or with frames of an animation.
            batch: frames of an animation that go through the network together.
            output: color, keep_location, quality: as in `OutputSettings`.

        Returns:
            (height, width) of the output in pixels.

        Raises:
            OSError: when a file cannot be read or written.
            ValueError: naming the file, when it is damaged, `target` cannot hold the output, or that is nan or inf.
            MemoryError: when not even the smallest tiles fit into memory.
        """
        source, target, settings = Path(source), Path(target), OutputSettings(bits=bits, **output)
        if is_animation(source):
            size = upscale_animation(self, source, target, settings, batch=batch, progress=progress)[1:]
            if compare is not None:
                frame = first_frame(source, self)
                self._compare(frame, self.batch([frame])[0], compare, crops, None)
            return size
        picture = self._read_for(source, target, settings)
        image, shape = picture.pixels, self.output_shape(picture.pixels)
        try:
            if target.suffix.lower() in PNG_SUFFIXES and compare is None:
                strips = self.rows([image], bits=bits, progress=progress)
                write_png((rows[0] for rows in strips), target, shape, bits, picture.metadata)
                return shape[:2]
            with canvas(shape, output_dtype(bits), target.parent) as pixels:
                held = min(pixels.nbytes, CANVAS_BYTES)
                fill(pixels, (rows[0] for rows in self.rows([image], bits=bits, held=held, progress=progress)))
                if compare is not None:
                    self._compare(image, pixels, compare, crops, picture.metadata.profile)
                write_pixels(pixels, target, self.channels, settings, picture.metadata)
        except ValueError as error:
            raise ValueError(f"{source}: {error}") from error
        return shape[:2]

    def upscale_files(
        self, pairs: Sequence[tuple[str | Path, str | Path]], *, bits: int = 8, **output: Any
    ) -> list[tuple[int, int]]:
        """Write the outputs for image files of one shape and type, which go through the network together.

        Args:
            pairs: source and target of each; as in `upscale_file`, but no animations.
            bits: 8; or 16, in PNG and TIFF.
            output: as in `upscale_file`.

        Returns:
            (height, width) of each output in pixels.

        Raises:
            ValueError: when the images differ in shape or type, before the network runs; the rest as `upscale_file`.
        """
        settings = OutputSettings(bits=bits, **output)
        paths = [(Path(source), Path(target)) for source, target in pairs]
        if animations := [str(source) for source, _ in paths if is_animation(source)]:
            raise ValueError(f"{animations[0]}: is an animation, which goes alone")
        pictures = [self._read_for(source, target, settings) for source, target in paths]
        outputs = self.batch([picture.pixels for picture in pictures], bits=bits)
        for output_pixels, picture, (_, target) in zip(outputs, pictures, paths, strict=True):
            pixels = output_pixels if output_pixels.ndim == 3 else output_pixels[..., None]
            write_pixels(pixels, target, self.channels, settings, picture.metadata)
        return [(pixels.shape[0], pixels.shape[1]) for pixels in outputs]

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

    def _read_for(self, source: Path, target: Path, settings: OutputSettings) -> Picture:
        """Return the picture of a file, after a check that the format of `target` can hold its output."""
        picture = read_picture(source, self.channels, settings, upscale=self.upscale, target=target)
        check_target(target, self.output_shape(picture.pixels)[:2], settings.bits)
        return picture

    def _compare(
        self, image: Pixels, output: Pixels, path: str | Path, crops: Sequence[Box], profile: bytes | None
    ) -> None:
        """Draw the comparison, which is RGB, with the colour profile of the output where that is RGB, too."""
        network = str(self.spec.get("type", type(self).__name__))
        pixels = output if output.ndim == 3 else output[..., None]
        picture = draw_comparison(image, pixels, self.channels, network, crops)
        metadata = Metadata(profile if self.channels == 3 else None)
        write_pixels(picture, Path(path), 3, OutputSettings(), metadata)
