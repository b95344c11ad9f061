"""Many images and videos: the inputs, the files of their outputs, and the loop over them."""

import argparse
import logging
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from basicsr.engine.atomic import check_folder
from basicsr.engine.signals import RunStoppedError
from basicsr.errors import OptionError
from basicsr.images.files import DEEP_SUFFIXES, image_size
from basicsr.inference.formats import output_suffix
from basicsr.inference.inputs import MEDIA_SUFFIXES, Source
from basicsr.inference.progress import shown_progress
from basicsr.inference.reading import is_animation
from basicsr.inference.upscaler import Upscaler
from basicsr.inference.video.formats import VIDEO_SUFFIXES, codec_for

logger = logging.getLogger("basicsr")
STOPPED = "the outputs that are there are whole; the same command does the others"


@dataclass(frozen=True)
class Job:
    """An input, and the file of its output."""

    name: str
    source: Path
    target: Path
    is_video: bool
    compare: Path | None = None

    @property
    def outputs(self) -> list[Path]:
        """Return the files that the job writes."""
        return [self.target] if self.compare is None else [self.target, self.compare]


def check_output_folder(output: Path) -> None:
    """Check that a path can be the folder of outputs.

    Raises:
        OptionError: when it is a file, cannot be written, or is named like an image or a video.
    """
    if output.exists() and not output.is_dir():
        raise OptionError(f"-o {output}: is a file; name a folder")
    if not output.exists() and output.suffix.lower() in MEDIA_SUFFIXES:
        raise OptionError(f"-o {output}: names the folder of the outputs, not a file; name a folder")
    check_folder(output, "-o")


def plan_jobs(sources: list[Source], label: str, channels: int, args: argparse.Namespace, output: Path) -> list[Job]:
    """Return the jobs to do: without inputs that are outputs of this command or whose outputs exist; these are logged.

    Args:
        sources: the inputs.
        label: ending of output names.
        channels: of the network.
        args: the command line.
        output: the folder of the outputs.

    Raises:
        OptionError: when two inputs would have the same output, an output would replace an input that is not another
            one's output, or its format has no 16 bits.
    """
    jobs = [_job(source, label, channels, args, output) for source in sources]
    jobs = _without_own_outputs(jobs, _owners(jobs))
    if args.overwrite:
        return jobs
    existing = [job for job in jobs if all(path.exists() for path in job.outputs)]
    for job in existing:
        logger.info("%s: stays as it is; --overwrite replaces it", job.target)
    if existing:
        counts = f"{len(existing)} of {len(jobs)}"
        logger.warning("%s outputs exist and stay as they are; --overwrite replaces them", counts)
    return [job for job in jobs if job not in existing]


def _job(source: Source, label: str, channels: int, args: argparse.Namespace, output: Path) -> Job:
    """Return the job of an input, in the format of the input or, of the same kind, that of --ext."""
    path = Path(source.name)
    is_video = path.suffix.lower() in VIDEO_SUFFIXES
    ext = args.ext if args.ext is not None and (args.ext in VIDEO_SUFFIXES) == is_video else None
    suffix = (ext or path.suffix) if is_video else output_suffix(path.suffix, channels, ext)
    target = output / path.with_name(f"{path.stem}{label}{suffix}")
    if is_video:
        codec_for(target, args.codec)
    if args.bits == 16 and not is_video and target.suffix.lower() not in DEEP_SUFFIXES:
        raise OptionError(f"--bits 16: {target.suffix} files have no 16 bits ({source.name}); add --ext png")
    compare = target.with_name(f"{target.stem}_compare.png") if args.compare and not is_video else None
    return Job(source.name, source.path, target, is_video, compare)


def _owners(jobs: list[Job]) -> dict[Path, Job]:
    """Return the job that writes each output file.

    Raises:
        OptionError: when two jobs would write the same one.
    """
    owners: dict[Path, Job] = {}
    for job in jobs:
        for path in job.outputs:
            other = owners.setdefault(path.resolve(), job)
            if other is not job:
                raise OptionError(
                    f"{other.source} and {job.source} would both be written to {job.target}; rename one of them, "
                    "or give their folders, whose outputs go into subfolders where there are several"
                )
    return owners


def _without_own_outputs(jobs: list[Job], owners: dict[Path, Job]) -> list[Job]:
    """Return the jobs whose input is not an output of another job.

    Raises:
        OptionError: when a job would replace its own input.
    """
    left = []
    for job in jobs:
        owner = owners.get(job.source.resolve())
        if owner is job:
            raise OptionError(f"{job.source}: its output would replace it; name another folder by -o, or a --suffix")
        if owner is not None:
            logger.info("%s: is left out, for it is an output of this command", job.source)
        else:
            left.append(job)
    return left


def run_jobs(upscaler: Upscaler, jobs: list[Job], args: argparse.Namespace) -> list[Job]:
    """Write the outputs of all jobs; returns those that failed, with the reason logged.

    Raises:
        RunStoppedError: on Ctrl-C or SIGTERM.
    """
    failed: list[Job] = []
    with _stop_signals_as_exception():
        for group in group_jobs(jobs, args.batch):
            failed += _run_group(upscaler, group, args)
    return failed


def group_jobs(jobs: list[Job], batch: int) -> Iterator[list[Job]]:
    """Yield up to `batch` images of equal size together; videos and comparisons alone."""
    incomplete: dict[tuple[int, int], list[Job]] = {}
    for job in jobs:
        if batch == 1 or job.is_video or job.compare is not None:
            yield [job]
            continue
        try:
            size = image_size(job.source)
        except (ValueError, OSError):  # reported when it is tried
            yield [job]
            continue
        group = incomplete.setdefault(size, [])
        group.append(job)
        if len(group) == batch:
            yield incomplete.pop(size)
    yield from incomplete.values()


def _run_group(upscaler: Upscaler, group: list[Job], args: argparse.Namespace) -> list[Job]:
    """Write the outputs of jobs that go together; returns those that failed, with the reason logged."""
    start = time.monotonic()
    job = group[0]
    settings = {"bits": args.bits, "color": args.color, "keep_location": args.keep_location}
    settings["quality"] = args.output_quality
    try:
        if job.is_video:
            options = ("batch", "codec", "crf", "preset", "resume", "overwrite", "keep_location")
            upscaler.upscale_video(job.source, job.target, **{name: getattr(args, name) for name in options})
            return []
        if len(group) > 1:
            sizes = upscaler.upscale_files([(one.source, one.target) for one in group], **settings)
        else:
            settings |= {"crops": [] if args.crop is None else [args.crop], "batch": args.batch}
            with shown_progress(job.source.name, "frame" if is_animation(job.source) else "tile") as progress:
                sizes = [
                    upscaler.upscale_file(job.source, job.target, compare=job.compare, progress=progress, **settings)
                ]
    except (ValueError, OSError, MemoryError) as error:
        if len(group) > 1:  # one of them may be damaged, or differ in its channels
            return [failed for one in group for failed in _run_group(upscaler, [one], args)]
        logger.error("%s", error)
        return [job]
    seconds = (time.monotonic() - start) / len(group)
    for one, (height, width) in zip(group, sizes, strict=True):
        logger.info("%s -> %s, %dx%d px, %.1f s", one.source, one.target, width, height, seconds)
    return []


@contextmanager
def _stop_signals_as_exception() -> Iterator[None]:
    """Let SIGTERM, like SIGINT, end the block by an exception, so that half-written files are removed."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise RunStoppedError(number, STOPPED)

    is_main = threading.current_thread() is threading.main_thread()  # others get no signals
    previous = signal.signal(signal.SIGTERM, stop) if is_main else None
    try:
        yield
    except KeyboardInterrupt:
        raise RunStoppedError(signal.SIGINT, STOPPED) from None
    finally:
        if is_main:
            signal.signal(signal.SIGTERM, previous)
