"""Animated GIF, WebP, PNG and AVIF files: every frame through the network, times and repetitions kept."""

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from basicsr.engine.atomic import atomic_path
from basicsr.engine.device import memory_limit, pick_device
from basicsr.images.files import exif_orientation
from basicsr.inference.formats import ALPHA_SUFFIXES, ANIMATION_FORMATS
from basicsr.inference.image_io import Pixels
from basicsr.inference.metadata import Metadata
from basicsr.inference.pixel_upscaler import PixelUpscaler, Progress
from basicsr.inference.reading import ProfileConverter, opened, upright
from basicsr.inference.settings import OutputSettings
from basicsr.inference.writing import as_pil, check_target, hard_edged, lossy_arguments

BYTES_PER_PIXEL = 4  # of a frame that Pillow holds
CLEAR = 2  # disposal of GIF: the frame is removed before the next one, which may be transparent


class Animation(NamedTuple):
    """What the file of an animation says, but for its frames."""

    milliseconds: list[float]
    """of each frame"""
    plays: int
    """how often it is shown; 0: without end"""
    has_still: bool
    """the first frame is shown only by programs that know no animations; PNG has such"""
    has_alpha: bool
    size: tuple[int, int]
    """(H, W) in px, upright"""


def upscale_animation(
    upscaler: PixelUpscaler,
    source: Path,
    target: Path,
    settings: OutputSettings,
    *,
    batch: int = 1,
    progress: Progress | None = None,
) -> tuple[int, int, int]:
    """Write the output for every frame of an animated picture; the file is whole or absent.

    Frames are read as they are shown, whole. Equal frames that follow each other may become one, shown as long. GIF
    files have 256 colours a frame. The outputs of all frames are held in memory until they are written.

    Args:
        upscaler: the network.
        source: the animation.
        target: .gif, .webp, .png, .apng or .avif.
        settings: of the output; 8 bits.
        batch: frames that go through the network together.
        progress: is called with the number of frames done and of all.

    Returns:
        (frames, height, width) of the output.

    Raises:
        OSError: when a file cannot be read or written.
        ValueError: naming the file, when it is damaged or `target` cannot hold it.
        MemoryError: when the frames do not fit into memory.
    """
    suffix = target.suffix.lower()
    if suffix not in ANIMATION_FORMATS:
        known = ", ".join(ANIMATION_FORMATS)
        raise ValueError(f"{source}: is an animation, which {suffix} files cannot hold; use one of {known} (--ext)")
    if settings.bits != 8:
        raise ValueError(f"{source}: is an animation, which has 8 bits a channel, not {settings.bits}")
    with opened(source) as image:
        facts = _read_facts(image)
        converter = ProfileConverter(image, source, upscaler.channels, settings.color, target)
        size = (upscaler.upscale * facts.size[0], upscaler.upscale * facts.size[1])
        metadata = converter.metadata(image, size, settings.keep_location)
    check_target(target, size, settings.bits)
    total = len(facts.milliseconds)
    held = BYTES_PER_PIXEL * total * size[0] * size[1]
    if held > memory_limit(pick_device(0)):
        raise MemoryError(f"{source}: {total} frames of {size[1]}x{size[0]} px do not fit into memory; split the file")
    has_alpha = facts.has_alpha and suffix in ALPHA_SUFFIXES
    frames: list[Image.Image] = []
    for inputs in _chunks(_frames(source, converter, has_alpha), batch):
        for output in upscaler.batch(inputs):
            pixels = output if output.ndim == 3 else output[..., None]
            frames.append(as_pil(hard_edged(pixels, upscaler.channels) if suffix == ".gif" else pixels))
        if progress is not None:
            progress(len(frames), total)
    _write(frames, facts, target, settings.quality, metadata)
    return total, *size


def first_frame(source: Path, upscaler: PixelUpscaler) -> Pixels:
    """Return the first frame of an animation, (H, W, C), without alpha."""
    with opened(source) as image:
        converter = ProfileConverter(image, source, upscaler.channels, "keep", None)
    return next(_frames(source, converter, has_alpha=False))


def _read_facts(image: Image.Image) -> Animation:
    """Return the facts of an animation; decodes all frames, for times and transparency are known only then."""
    milliseconds, has_alpha = [], False
    is_gif = image.format == "GIF"
    loops = image.info.get("loop")
    plays = (1 if loops is None else loops and loops + 1) if is_gif else (loops or 0)
    for k in range(getattr(image, "n_frames", 1)):
        image.seek(k)
        image.load()
        milliseconds.append(float(image.info.get("duration", 0)))
        has_alpha = has_alpha or bool(np.asarray(image.convert("RGBA"))[..., 3].min() < 255)
    orientation = exif_orientation(image)
    width, height = image.size if orientation < 5 else image.size[::-1]
    has_still = bool(getattr(image, "default_image", image.info.get("default_image", False)))
    image.seek(0)
    return Animation(milliseconds, plays, has_still, has_alpha, (height, width))


def _frames(source: Path, converter: ProfileConverter, has_alpha: bool) -> Iterator[Pixels]:
    """Yield the frames as they are shown, upright, (H, W, C), or with alpha (H, W, C + 1)."""
    with opened(source) as image:
        orientation = exif_orientation(image)
        for k in range(getattr(image, "n_frames", 1)):
            image.seek(k)
            frame = image.convert("RGBA")
            yield upright(converter.pixels_of(frame if has_alpha else frame.convert("RGB")), orientation)


def _write(frames: list[Image.Image], facts: Animation, target: Path, quality: int | None, metadata: Metadata) -> None:
    suffix, times = target.suffix.lower(), [round(time) for time in facts.milliseconds]
    if facts.has_still and ANIMATION_FORMATS[suffix] != "PNG":
        frames, times = frames[1:], times[1:]
    options: dict[str, Any] = {"duration": times, **lossy_arguments(suffix, quality), **metadata.for_pillow()}
    if suffix == ".gif":
        options = {"duration": times, **({"loop": facts.plays and facts.plays - 1} if facts.plays != 1 else {})}
        options |= {"disposal": CLEAR} if frames[0].mode in ("RGBA", "LA") else {}
    elif ANIMATION_FORMATS[suffix] == "PNG":
        xmp = options.pop("xmp", None)
        if xmp is not None:
            options["pnginfo"] = PngInfo()
            options["pnginfo"].add_itxt("XML:com.adobe.xmp", xmp.decode())
        options |= {"loop": facts.plays, "default_image": facts.has_still}
        options["duration"] = times[1:] if facts.has_still else times
    else:
        options["loop"] = facts.plays
    with atomic_path(target) as temporary:
        first, *others = frames
        first.save(temporary, ANIMATION_FORMATS[suffix], save_all=True, append_images=others, **options)


def _chunks(items: Iterator[Pixels], size: int) -> Iterator[list[Pixels]]:
    while chunk := list(islice(items, size)):
        yield chunk
