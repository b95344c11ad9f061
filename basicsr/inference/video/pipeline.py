"""An enlarged video: decoding, network and encoding at the same time, in segments, which a later run can go on with."""

import hashlib
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from tqdm import tqdm

from basicsr.engine.folder_lock import folders_locked
from basicsr.engine.signals import RunStoppedError
from basicsr.inference.video import segments
from basicsr.inference.video.color import Samples, from_rgb, to_gray, to_rgb
from basicsr.inference.video.encoder import Encoding, plan_encoding
from basicsr.inference.video.formats import EVEN_TIMES
from basicsr.inference.video.join import carried_streams, join
from basicsr.inference.video.network import Network
from basicsr.inference.video.probe import VideoFacts, probe
from basicsr.inference.video.reader import Batch, as_tensors, check_even_times, read_batches, upright
from basicsr.inference.video.segments import Parts
from basicsr.inference.video.threads import Channel, Stopwatch, Team

logger = logging.getLogger("basicsr")
QUEUED_BATCHES = 4  # between two threads
HASHED_BYTES = 1 << 20  # of the beginning and of the end of a source, by which a run knows it again


@dataclass(frozen=True)
class VideoSettings:
    """How a video is done.

    Args:
        batch: pictures that go through the network together.
        codec, crf, preset: as in `formats.CODECS`; None: the usual ones.
        resume: go on with the segments of a run that did not end.
        overwrite: delete those segments, if `resume` does not use them.
        keep_location: copy the place where it was taken.
    """

    batch: int = 1
    codec: str | None = None
    crf: int | None = None
    preset: str | None = None
    resume: bool = False
    overwrite: bool = False
    keep_location: bool = True


class VideoReport(NamedTuple):
    """What was done.

    Args:
        frames: of the output.
        height, width: of the output in px.
        encoding: in words.
        copied: kinds of the streams besides the pictures.
        resumed: frames that an earlier run had done.
        seconds: that this run took.
        work: seconds in which each of decoding, network and encoding was at work; they overlap.
    """

    frames: int
    height: int
    width: int
    encoding: str
    copied: list[str]
    resumed: int
    seconds: float
    work: dict[str, float]

    @property
    def frames_per_second(self) -> float:
        """Return the frames that this run did, a second."""
        return (self.frames - self.resumed) / max(self.seconds, 1e-9)

    def __str__(self) -> str:
        total = sum(self.work.values()) or 1.0
        shares = ", ".join(f"{stage} {100 * seconds / total:.0f} %" for stage, seconds in self.work.items())
        copied = ", ".join(f"{self.copied.count(kind)} {kind}" for kind in dict.fromkeys(self.copied))
        sound = "" if "audio" in self.copied else ", without sound"
        return (
            f"{self.frames} frames of {self.width}x{self.height} px, {self.seconds:.1f} s, "
            f"{self.frames_per_second:.2f} frames/s, {self.encoding}"
            f"{f', copied: {copied}' if copied else ''}{sound}; work: {shares}"
        )


def enlarge_video(source: str | Path, target: str | Path, network: Network, settings: VideoSettings) -> VideoReport:
    """Write the output for every picture of a video file, with all else that the file holds.

    The output appears when it is whole. Until then segments lie in the hidden folder `.<target>.parts` beside it. They
    stay there when the process dies or an error ends it, and, with `resume`, when it is stopped.

    Raises:
        FileNotFoundError: when there is no source.
        OptionError: when a setting does not fit, or PyAV is not installed.
        OSError: when a file cannot be written.
        ValueError: when the video cannot be read rightly, the codec cannot write it, or there are segments of another
            run; naming the file.
        MemoryError: when not even the smallest tiles fit into memory.
    """
    target, start = Path(target), time.monotonic()
    facts = probe(source)
    encoding = plan_encoding(facts, network.scale, target, settings.codec, settings.crf, settings.preset)
    if target.suffix.lower() in EVEN_TIMES:
        check_even_times(facts, target)
    carried = carried_streams(facts, target)
    parts = Parts(target)
    with folders_locked([parts.folder]):
        tile, resumed = _open_parts(parts, facts, network, encoding, settings)
        with _kept_or_removed(parts, settings.resume):
            seconds = _encode_rest(parts, facts, network, tile, encoding, settings.batch)
            frames = parts.pictures()
            if not frames:
                raise ValueError(f"{facts.path}: cannot be read as a video; no picture could be decoded")
            join(parts, facts, target, encoding, carried, settings.keep_location)
        parts.remove()
    height, width = encoding.height, encoding.width
    return VideoReport(
        frames, height, width, str(encoding), list(carried.values()), resumed, time.monotonic() - start, seconds
    )


def _open_parts(
    parts: Parts, facts: VideoFacts, network: Network, encoding: Encoding, settings: VideoSettings
) -> tuple[int, int]:
    """Return the side of tiles, and the frames that are there already; the folder of segments is ready.

    Raises:
        ValueError: when there are segments and the settings do not say what to do with them, or do not fit them.
    """
    stored = {
        "source": _digest_of_file(facts.path),
        "codec": encoding.codec,
        "crf": encoding.crf,
        "preset": encoding.preset,
        "encoding": repr(encoding),
        "batch": settings.batch,
        "segment_frames": segments.SEGMENT_FRAMES,
        **network.identity,
    }
    if parts.exist() and settings.resume:
        tile = int(parts.resume(stored)["tile"])
        frames = parts.pictures()
        logger.info("%s: goes on behind %d frames that are done", facts.path, frames)
        return tile, frames
    if parts.exist() and not settings.overwrite:
        raise ValueError(
            f"{facts.path}: {parts.pictures()} of its frames were done by a run that did not end ({parts.folder}); add "
            "--resume to go on with them, or --overwrite to start anew"
        )
    # One side of tiles for all pictures, whatever memory is free later: tiles change the result a little.
    tile = network.tile_for(*facts.upright, count=settings.batch)
    parts.start({**stored, "tile": tile})
    return tile, 0


@contextmanager
def _kept_or_removed(parts: Parts, resume: bool) -> Iterator[None]:
    """Decide what becomes of the segments when the block does not end well."""
    try:
        yield
    except BaseException as error:
        is_stopped = isinstance(error, (KeyboardInterrupt, RunStoppedError))
        if not parts.exist() or (is_stopped and not resume):
            parts.remove()
        else:
            logger.warning("%d frames are kept in %s; --resume goes on with them", parts.pictures(), parts.folder)
        raise


def _encode_rest(
    parts: Parts, facts: VideoFacts, network: Network, tile: int, encoding: Encoding, batch: int
) -> dict[str, float]:
    """Write the segments that are missing; returns the seconds in which each stage was at work."""
    first, done = parts.count(), parts.pictures()
    watches = {stage: Stopwatch() for stage in ("decoding", "network", "encoding")}
    with Team() as team:
        decoded, enlarged = team.channel(QUEUED_BATCHES), team.channel(QUEUED_BATCHES)
        batches = read_batches(facts, batch, segments.SEGMENT_FRAMES, skip=done)
        team.start(_send, watches["decoding"].during(batches), decoded)
        team.start(_encode, enlarged, parts, first, encoding, watches["encoding"])
        total = facts.frames if facts.frames > done else None
        name = facts.path.name
        with tqdm(desc=name, total=total, initial=done, unit="frame", leave=False, disable=None) as bar:
            for pictures in decoded:
                with watches["network"]:
                    output = _enlarged(pictures, facts, network, tile, encoding.samples)
                enlarged.put(output)
                bar.update(len(pictures.times))
        enlarged.close()
    return {stage: watch.seconds for stage, watch in watches.items()}


def _send(batches: Iterator[Batch], channel: Channel[Batch]) -> None:
    for batch in batches:
        channel.put(batch)
    channel.close()


def _encode(batches: Channel[Batch], parts: Parts, number: int, encoding: Encoding, watch: Stopwatch) -> None:
    """Write batches into segments; a batch lies within one segment."""
    waiting = iter(batches)
    for first in waiting:
        count = 0
        with parts.writing(number, encoding) as segment:
            for batch in chain([first], waiting):
                with watch:
                    segment.write(batch)
                count += len(batch.times)
                if count == segments.SEGMENT_FRAMES:
                    break
            with watch:
                segment.finish()
        number += 1


def _enlarged(batch: Batch, facts: VideoFacts, network: Network, tile: int, samples: Samples) -> Batch:
    """Return the output for pictures, as planes to encode.

    Raises:
        ValueError: when the network gives nan or inf.
    """
    with torch.inference_mode():
        rgb = upright(to_rgb(as_tensors(batch.planes, network.device), facts.samples), facts.turn)
        output = network.run((to_gray(rgb) if network.channels == 1 else rgb).contiguous(), tile)
        if not torch.stack(torch.aminmax(output)).isfinite().all():  # nan passes through aminmax
            raise ValueError(
                f"{facts.path}: the network gives values that are no numbers (nan or inf); its weights are damaged"
            )
        planes = from_rgb(output.expand(-1, 3, -1, -1), samples)
        return Batch([np.asarray(plane.cpu()) for plane in planes], batch.times)


def _digest_of_file(path: Path) -> str:
    """Return a digest of a file's size, beginning and end."""
    size = path.stat().st_size
    digest = hashlib.sha256(str(size).encode())
    with path.open("rb") as file:
        digest.update(file.read(HASHED_BYTES))
        file.seek(max(0, size - HASHED_BYTES))
        digest.update(file.read(HASHED_BYTES))
    return digest.hexdigest()[:32]
