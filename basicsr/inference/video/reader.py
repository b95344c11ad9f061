"""The pictures of a video file as planes, in the order in which they are shown."""

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from basicsr.inference.video.color import Samples
from basicsr.inference.video.library import load_av
from basicsr.inference.video.probe import Turn, VideoFacts, opened

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.video.frame import VideoFrame

logger = logging.getLogger("basicsr")
Planes = list[np.ndarray]


@dataclass
class Batch:
    """Pictures that go through the network together.

    Args:
        planes: of each kind (B, h, w), uint8 or uint16.
        times: of presentation, in units of the source.
    """

    planes: Planes
    times: list[int]


def read_batches(facts: VideoFacts, batch: int, segment: int, skip: int = 0) -> Iterator[Batch]:
    """Yield the pictures of a video in batches that do not reach over the end of a segment.

    Args:
        facts: of the file.
        batch: pictures of a batch, at most.
        segment: pictures of a segment.
        skip: pictures to pass over, a multiple of `segment`. They are decoded, for only that gives the pictures behind
            them bit for bit.

    Raises:
        ValueError: when the pictures change in size or are interlaced, or the file cannot be read.
    """
    planes: list[Planes] = []
    times: list[int] = []
    count = skip
    for picture, time in _pictures(facts, skip):
        planes.append(picture)
        times.append(time)
        count += 1
        if len(times) == batch or count % segment == 0:
            yield Batch([np.stack(kind) for kind in zip(*planes, strict=True)], times)
            planes, times = [], []
    if times:
        yield Batch([np.stack(kind) for kind in zip(*planes, strict=True)], times)


def _pictures(facts: VideoFacts, skip: int) -> Iterator[tuple[Planes, int]]:
    """Yield planes and presentation time of every picture after the first `skip`; times increase."""
    last: int | None = None
    step = max(1, round(1 / (facts.rate * facts.time_base)))
    mixed = 0
    with opened(facts.path) as container:
        for number, frame in enumerate(_decoded(container, facts)):
            time = frame.pts if frame.pts is not None else (0 if last is None else last + step)
            last = time if last is None else max(time, last + 1)
            mixed += frame.interlaced_frame
            if (frame.height, frame.width) != (facts.height, facts.width):
                raise ValueError(f"{facts.path}: its frames change in size; cut it where they do")
            if number >= skip:
                yield planes_of(frame, facts.samples), last
    if mixed:
        logger.warning("%s: %d of its frames are interlaced, and were enlarged as they are", facts.path, mixed)


def _decoded(container: "InputContainer", facts: VideoFacts) -> "Iterator[VideoFrame]":
    """Yield the decoded frames; packets that cannot be decoded are passed over, and the log says what is missing."""
    av = load_av()
    stream: Any = container.streams[facts.stream]
    stream.thread_type = "AUTO"
    damaged = cut = count = 0
    for packet in container.demux(stream):
        cut += packet.is_discard
        try:
            frames = packet.decode()
        except av.error.InvalidDataError:
            damaged += 1
            continue
        count += len(frames)
        yield from frames
    if count + cut < facts.least_frames:
        counts = f"its header promises {facts.frames} frames, {count} could be read"
        logger.warning("%s: %s; it may be damaged", facts.path, counts)
    if damaged:
        logger.warning("%s: %d parts of it are damaged and were passed over", facts.path, damaged)


def check_even_times(facts: VideoFacts, target: Path) -> None:
    """Check that pictures come at an even rate, for a file that holds a rate instead of the time of each picture.

    Raises:
        ValueError: when they do not.
    """
    with opened(facts.path) as container:
        packets = container.demux(container.streams[facts.stream])
        times = sorted(int(packet.pts) for packet in packets if packet.pts is not None)
    step = 1 / (facts.rate * facts.time_base)
    most = max(float(step) / 2, 1.0)  # units of time by which an even rate, rounded, may be off
    if any(abs(time - times[0] - k * float(step)) > most for k, time in enumerate(times)):
        raise ValueError(
            f"{facts.path}: its frames come at uneven times, which {target.suffix} files do not hold; add --ext mkv"
        )


def planes_of(frame: Any, samples: Samples) -> Planes:
    """Return copies of the planes of a frame, (h, w) each, uint8 or uint16."""
    name = frame.format.name
    if name.replace("yuvj", "yuv") != samples.format:
        same = 2 if samples.is_full else 1  # the same on both sides: only the layout changes
        frame = frame.reformat(format=samples.format, src_color_range=same, dst_color_range=same)
    dtype = np.uint8 if samples.bits == 8 else np.uint16
    planes = []
    for plane in frame.planes:
        rows = np.frombuffer(plane, dtype).reshape(plane.height, -1)
        planes.append(rows[:, : plane.width].copy())
    return planes


def as_tensors(planes: Planes, device: torch.device) -> list[Tensor]:
    """Return planes on a device, uint8 or, for uint16, int32."""
    tensors = []
    for plane in planes:
        if plane.dtype == np.uint8:
            tensors.append(torch.from_numpy(plane).to(device))
        else:  # few functions take uint16
            tensors.append(torch.from_numpy(plane.view(np.int16)).to(device).to(torch.int32) & 0xFFFF)
    return tensors


def upright(pictures: Tensor, turn: Turn) -> Tensor:
    """Return pictures (B, C, h, w) as they are shown."""
    if turn.transposed:
        pictures = pictures.transpose(-2, -1)
    flipped = [axis for axis, is_flipped in ((-1, turn.mirrored_x), (-2, turn.mirrored_y)) if is_flipped]
    return pictures.flip(flipped) if flipped else pictures
