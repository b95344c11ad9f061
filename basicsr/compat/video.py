"""Videos frame by frame in RGB, as programs import them from `basicsr.utils.video`.

`Upscaler.upscale_video` is the way to enlarge a video: it keeps sound, times and depth, which these do not.
"""

from collections.abc import Iterator
from contextlib import ExitStack
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import numpy as np
import torch

from basicsr.engine.atomic import atomic_path
from basicsr.images.walk import log_passed_over, walk
from basicsr.inference.video.color import from_rgb, to_rgb
from basicsr.inference.video.encoder import Encoding, configure, frame_of, plan_encoding
from basicsr.inference.video.formats import CODECS, VIDEO_SUFFIXES, codec_for
from basicsr.inference.video.join import FORMATS
from basicsr.inference.video.library import load_av
from basicsr.inference.video.probe import VideoFacts, picture_facts, probe
from basicsr.inference.video.reader import as_tensors, read_batches, upright

CPU = torch.device("cpu")


class Header(NamedTuple):
    """The header of a video file."""

    height: int
    width: int
    fps: float
    frames: int
    """may be wrong; 0: unknown."""


def list_videos(folder: str | Path) -> list[str]:
    """Return the paths of all videos in `folder`, relative to it, by the rule of `basicsr.images.walk`, sorted."""
    found = walk(folder, lambda name: name.endswith(VIDEO_SUFFIXES))
    log_passed_over(folder, found)
    return found.names


class VideoReader:
    """The frames of a video file, RGB uint8 (H, W, 3), upright, in their order. May be used in `with`.

    Raises:
        FileNotFoundError: when there is no such file.
        ValueError: when it cannot be read as a video, naming it.
    """

    def __init__(self, path: str | Path):
        self._facts = probe(path)
        self.facts = Header(*self._facts.upright, float(self._facts.rate), self._facts.frames)

    def __enter__(self) -> "VideoReader":
        return self

    def __exit__(self, *error: object) -> None: ...

    def __iter__(self) -> Iterator[np.ndarray]:
        """Yield all frames."""
        for batch in read_batches(self._facts, batch=1, segment=1):
            rgb = upright(to_rgb(as_tensors(batch.planes, CPU), self._facts.samples), self._facts.turn)[0]
            yield (rgb * 255).round_().to(torch.uint8).permute(1, 2, 0).contiguous().numpy()


class VideoWriter:
    """Writes frames into a video file, in the usual codec of its suffix. Use it in `with`.

    The file appears, whole, only when the block ends well.

    Args:
        path: parent folders are made; an existing file is replaced.
        fps: frames a second.

    Raises:
        ValueError: when the suffix is unknown, or the codec cannot write frames of this size.
    """

    def __init__(self, path: str | Path, fps: float):
        self.path = Path(path)
        self.fps = fps
        self.frames = 0
        self._stack = ExitStack()
        self._output: Any = None
        self._facts: VideoFacts | None = None

    def __enter__(self) -> "VideoWriter":
        codec_for(self.path, None)
        self._temporary = self._stack.enter_context(atomic_path(self.path))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None and not self.frames:
            error = ValueError(f"{self.path}: no frame was written")
            self._stack.__exit__(ValueError, error, None)
            raise error
        if error is None:
            self._output.mux(self._stream.encode(None))
        if self._output is not None:
            self._output.close()
        self._stack.__exit__(kind, error, trace)

    def write(self, frame: np.ndarray) -> None:
        """Add a frame, RGB (H, W, 3) or gray (H, W), uint8.

        Raises:
            ValueError: when it has another size than the first, or the codec does not take it.
        """
        size = (frame.shape[0], frame.shape[1])
        if self._facts is None:
            self._facts = picture_facts(self.path, *size, Fraction(self.fps).limit_denominator(1001))
            self._encoding = plan_encoding(self._facts, 1, self.path, None, None, None)
            self._open(self._encoding)
        if size != (self._facts.height, self._facts.width):
            expected = (self._facts.height, self._facts.width)
            raise ValueError(f"{self.path}: a frame of {size} after frames of {expected} (height, width)")
        rgb = torch.from_numpy(np.ascontiguousarray(frame)).float().div_(255)
        rgb = (rgb.expand(3, -1, -1) if rgb.ndim == 2 else rgb.permute(2, 0, 1))[None]
        planes = [plane[0].numpy() for plane in from_rgb(rgb, self._encoding.samples)]
        picture = frame_of(planes, self._encoding)
        picture.pts = self.frames
        self._output.mux(self._stream.encode(picture))
        self.frames += 1

    def _open(self, encoding: Encoding) -> None:
        self._output = load_av().open(str(self._temporary), "w", format=FORMATS[self.path.suffix.lower()])
        self._stream = self._output.add_stream(CODECS[encoding.codec].encoder, rate=encoding.rate)
        configure(self._stream.codec_context, encoding)
