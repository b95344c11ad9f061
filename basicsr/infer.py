"""Enlarge or clean images and videos: `python inference.py -i photo.png --task lightweight`, or `basicsr-infer`.

Without --model the network is the published one of the task, read from experiments/pretrained_models/ under its
published name. A file of --model names its own network; a published one without that entry is known by its weights.
Outputs go to the folder -o as <name>_ATD_<task>_SRx<scale> with the suffix of the input, or <name>_<network>_SRx<scale>
for other networks; existing files of these names stay as they are without --overwrite. They have 8 bits (or --bits 16),
rounded; JPEG has quality 95; sound is not copied. docs/inference.md says more.
"""

import argparse
import logging
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from basicsr.errors import CheckpointError, OptionError

if TYPE_CHECKING:
    from basicsr.inference.comparison import Box
    from basicsr.inference.upscaler import Upscaler

logger = logging.getLogger("basicsr")
T = TypeVar("T")
WEIGHTS = Path("experiments/pretrained_models")
STOPPED = "the outputs that are there are whole; the same command does the others"


@dataclass(frozen=True)
class Task:
    """What the published networks were trained for."""

    files: Mapping[int, str]
    """value of the option `by` -> name of the weight file, without suffix."""
    by: str
    """the option that chooses the file: scale, sigma or quality."""
    channels: int = 3
    """of its images: 3, RGB, or 1, gray."""


TASKS = {
    "classical": Task({2: "001_ATD_SRx2_finetune", 3: "002_ATD_SRx3_finetune", 4: "003_ATD_SRx4_finetune"}, "scale"),
    "lightweight": Task(
        {2: "101_ATD_light_SRx2_scratch", 3: "102_ATD_light_SRx3_finetune", 4: "103_ATD_light_SRx4_finetune"}, "scale"
    ),
    "denoise-color": Task(
        {
            15: "201_ATD_U_denoising_color_sigma15",
            25: "202_ATD_U_denoising_color_sigma25",
            50: "203_ATD_U_denoising_color_sigma50",
        },
        "sigma",
    ),
    "denoise-gray": Task(
        {
            15: "301_ATD_U_denoising_gray_sigma15",
            25: "302_ATD_U_denoising_gray_sigma25",
            50: "303_ATD_U_denoising_gray_sigma50",
        },
        "sigma",
        channels=1,
    ),
    "jpeg": Task(
        {
            10: "401_ATD_U_jpegcar_gray_q10",
            20: "402_ATD_U_jpegcar_gray_q20",
            30: "403_ATD_U_jpegcar_gray_q30",
            40: "404_ATD_U_jpegcar_gray_q40",
        },
        "quality",
        channels=1,
    ),
}
# Of the networks of super-resolution that a published file can hold.
TASK_OF = {"ATD": "classical", "ATD-v1": "classical", "ATD-light": "lightweight", "ATD-v1-light": "lightweight"}


class Request(NamedTuple):
    """A checked command line."""

    model: Path
    task: str | None  # None: whatever the model was trained for
    scale: int | None
    level: str  # "_sigma25", "_q10" or ""


def main(argv: list[str] | None = None) -> int:
    """The command `basicsr-infer`.

    Returns:
        0: all outputs are there, 1: some are not, which it names, 2: none was tried, 130 and 143: stopped by Ctrl-C or
        SIGTERM; what was finished by then is whole, what was not is not there.
    """
    args = _parser().parse_args(argv)
    # Only now, for this imports torch and --help should not wait for it.
    from basicsr.engine.run import run_command

    failed: list[str] = []
    return run_command("basicsr-infer", lambda: failed.extend(infer(args))) or (1 if failed else 0)


def infer(args: argparse.Namespace) -> list[str]:
    """Do what a command line asks for; returns the inputs that have no output.

    Raises:
        OptionError: when an option does not fit the others or the network.
        CheckpointError: when there are no weights, or they do not fit.
        FileNotFoundError: when there is no input.
        RunStoppedError: on Ctrl-C or SIGTERM.
    """
    from basicsr.engine.signals import RunStoppedError
    from basicsr.inference.upscaler import OVERLAP, Upscaler

    request = check_request(args)
    source, output = Path(args.input), Path(args.output)
    check_output(output)
    names = input_names(source)
    if not request.model.exists():
        hint = "check the path" if args.model else "put the published file there, or name another by --model"
        raise CheckpointError(f"{request.model}: no such file; {hint}")
    upscaler = Upscaler.from_checkpoint(
        request.model, device=args.device, dtype=args.dtype, tile=args.tile, self_ensemble=args.self_ensemble,
        overlap=OVERLAP if args.overlap is None else args.overlap, memory=args.memory,
        matmul_precision=args.matmul_precision,
    )  # fmt: skip
    check_network(upscaler, request)
    label = output_label(upscaler, request) if args.suffix is None else args.suffix
    folder = source if source.is_dir() else source.parent
    jobs = plan(folder, output, names, label, upscaler.channels, args)
    failed: list[Job] = []
    with _sigterm_as_exception():
        try:
            for group in groups(jobs, upscaler, args):
                failed += _do(upscaler, group, args)
        except KeyboardInterrupt:
            raise RunStoppedError(signal.SIGINT, STOPPED) from None
    if failed:
        inputs = ", ".join(job.name for job in failed)
        logger.error("%d of %d inputs could not be processed: %s", len(failed), len(names), inputs)
    return [job.name for job in failed]


@dataclass(frozen=True)
class Job:
    """An input, and where its output goes."""

    name: str
    source: Path
    target: Path
    is_video: bool
    compare: Path | None = None


def plan(
    folder: Path, output: Path, names: list[str], label: str, channels: int, args: argparse.Namespace
) -> list[Job]:
    """What there is to do: inputs that are outputs of this command, or whose outputs exist, are left out and named.

    Raises:
        OptionError: when two inputs would have the same output, an output would replace an input that is not another
            one's output, or its format has no 16 bits.
    """
    from basicsr.images.files import DEEP_SUFFIXES
    from basicsr.images.video import VIDEO_SUFFIXES

    jobs = []
    for name in names:
        is_video = Path(name).suffix.lower() in VIDEO_SUFFIXES
        target = output / output_name(
            name, label, channels, args.ext if (args.ext in VIDEO_SUFFIXES) == is_video else None
        )
        if args.bits == 16 and not is_video and target.suffix.lower() not in DEEP_SUFFIXES:
            raise OptionError(f"--bits 16: {target.suffix} files have no 16 bits ({name}); add --ext png")
        compare = target.with_name(f"{target.stem}_compare.png") if args.compare and not is_video else None
        jobs.append(Job(name, folder / name, target, is_video, compare))
    owners: dict[Path, Job] = {}
    for job in jobs:
        for path in (job.target.resolve(), *([job.compare.resolve()] if job.compare else [])):
            other = owners.setdefault(path, job)
            if other is not job:
                raise OptionError(
                    f"{folder}: {other.name} and {job.name} would both be written to {job.target}; rename one of them"
                )
    left = []
    for job in jobs:
        owner = owners.get(job.source.resolve())
        if owner is job:
            raise OptionError(f"{job.source}: its output would replace it; name another folder by -o, or a --suffix")
        if owner is not None:
            logger.info("%s: is left out, for it is an output of this command", job.source)
        else:
            left.append(job)
    if args.overwrite:
        return left
    existing = [job for job in left if job.target.exists() and (job.compare is None or job.compare.exists())]
    for job in existing:
        logger.info("%s: stays as it is; --overwrite replaces it", job.target)
    if existing:
        logger.warning("%d of %d outputs exist and stay as they are; --overwrite replaces them", len(existing),
                       len(left))  # fmt: skip
    return [job for job in left if job not in existing]


def groups(jobs: list[Job], upscaler: "Upscaler", args: argparse.Namespace) -> Iterator[list[Job]]:
    """The jobs, up to --batch images of equal size together, videos alone."""
    from basicsr.images.files import image_size

    waiting: dict[tuple[int, int], list[Job]] = {}
    for job in jobs:
        if args.batch == 1 or job.is_video or job.compare is not None:
            yield [job]
            continue
        try:
            size = image_size(job.source)
        except (ValueError, OSError):  # named when it is tried
            yield [job]
            continue
        group = waiting.setdefault(size, [])
        group.append(job)
        if len(group) == args.batch:
            yield waiting.pop(size)
    yield from waiting.values()


def _do(upscaler: "Upscaler", group: list[Job], args: argparse.Namespace) -> list[Job]:
    """Write the outputs of jobs that go together; returns those that failed, with the reason logged."""
    start = time.monotonic()
    job = group[0]
    try:
        if job.is_video:
            frames, height, width = upscaler.upscale_video(job.source, job.target, batch=args.batch)
            seconds = max(time.monotonic() - start, 1e-9)
            logger.info("%s -> %s, %d frames of %dx%d px, %.1f s, %.2f frames/s, without sound", job.source, job.target,
                        frames, width, height, seconds, frames / seconds)  # fmt: skip
            return []
        if len(group) > 1:
            sizes = upscaler.upscale_files([(one.source, one.target) for one in group], bits=args.bits)
        else:
            crops = [] if args.crop is None else [args.crop]
            sizes = [upscaler.upscale_file(job.source, job.target, bits=args.bits, compare=job.compare, crops=crops)]
    except (ValueError, OSError, MemoryError) as error:
        if len(group) > 1:  # one of them may be damaged, or differ in its channels
            return [failed for one in group for failed in _do(upscaler, [one], args)]
        logger.error("%s", error)
        return [job]
    seconds = (time.monotonic() - start) / len(group)
    for one, (height, width) in zip(group, sizes, strict=True):
        logger.info("%s -> %s, %dx%d px, %.1f s", one.source, one.target, width, height, seconds)
    return []


@contextmanager
def _sigterm_as_exception() -> Iterator[None]:
    """Let SIGTERM end the block by an exception, so that what is half-written is removed; SIGINT does that anyway."""
    from basicsr.engine.signals import RunStoppedError

    def stop(number: int, frame: FrameType | None) -> None:
        raise RunStoppedError(number, STOPPED)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


def check_request(args: argparse.Namespace) -> Request:
    """The model, the task and the scale that a command line means.

    Raises:
        OptionError: naming the option that is missing, does not belong to the task, or has no published network.
    """
    name = args.task or (None if args.model else "classical")
    if args.scale is not None and args.scale < 1:
        raise OptionError(f"--scale: must be at least 1, got {args.scale}")
    by = TASKS[name].by if name else "scale"
    for option in ("sigma", "quality"):
        if getattr(args, option) is not None and option != by:
            owners = ", ".join(other for other, task in TASKS.items() if task.by == option)
            raise OptionError(f"--{option}: belongs to --task {owners}, got {name or 'no task'}")
    if by != "scale" and args.scale not in (None, 1):
        raise OptionError(f"--scale: --task {name} keeps the size, got {args.scale}; leave it out")
    level = "" if args.sigma is None else f"_sigma{args.sigma:g}"
    level += "" if args.quality is None else f"_q{args.quality}"
    if args.model or name is None:
        return Request(Path(args.model), name, args.scale if by == "scale" else 1, level)
    value = getattr(args, by)
    if by == "scale" and value is None:
        value = 4
    files = TASKS[name].files
    if value not in files:
        choices = ", ".join(f"{choice}" for choice in files)
        got = "is missing" if value is None else f"there is no published network for {value:g}"
        raise OptionError(f"--{by}: {got}; --task {name} has {choices}, for others name a file by --model")
    return Request(WEIGHTS / f"{files[value]}.pth", name, value if by == "scale" else 1, level)


def check_network(upscaler: "Upscaler", request: Request) -> None:
    """Refuse a network that does what was not asked for.

    Raises:
        OptionError: saying what it does.
    """
    model, scale, kind = request.model, upscaler.upscale, upscaler.spec["type"]
    if request.scale not in (None, scale):
        does = "keeps the size" if scale == 1 else f"enlarges {scale} times"
        asked = f"--task {request.task}" if request.scale == 1 else f"--scale {request.scale}"
        raise OptionError(f"{model}: its network, {kind}, {does}, which is not {asked}; take another file")
    if request.task is None:
        return
    task = TASKS[request.task]
    if upscaler.channels != task.channels:
        raise OptionError(
            f"{model}: its network, {kind}, takes images of {upscaler.channels} channels, --task {request.task} has "
            f"{task.channels}; take another file or task"
        )
    if task.by == "scale" and scale == 1:
        raise OptionError(f"{model}: its network, {kind}, keeps the size, which is not --task {request.task}")
    if upscaler.is_published and TASK_OF.get(kind, request.task) != request.task:
        raise OptionError(f"{model}: holds {kind}, which is of --task {TASK_OF[kind]}, not {request.task}")


def output_label(upscaler: "Upscaler", request: Request) -> str:
    """What is added to the names of outputs: `_ATD_classical_SRx4`, `_ATD_jpeg_q10`, `_CATANet-XS_SRx4`."""
    kind = upscaler.spec["type"]
    task = request.task or (TASK_OF.get(kind) if upscaler.is_published else None)
    enlarged = f"_SRx{upscaler.upscale}" if upscaler.upscale > 1 else ""
    if upscaler.is_atd and task is not None:
        return f"_ATD_{task}{enlarged}{request.level}"
    return f"_{kind}{enlarged}{request.level}"


def output_name(name: str, label: str, channels: int, suffix: str | None = None) -> Path:
    """The path of an output below its folder: as that of the input, with the label, in the same format or another.

    Colour images do not fit into `.pgm` files, so these become `.ppm`.
    """
    path = Path(name)
    suffix = suffix or (".ppm" if channels == 3 and path.suffix.lower() == ".pgm" else path.suffix)
    return path.with_name(f"{path.stem}{label}{suffix}")


def input_names(source: Path) -> list[str]:
    """The file itself, or all images and then all videos in the folder and its subfolders, relative to it.

    Raises:
        OptionError: when the file is neither, or the folder has none.
        FileNotFoundError: when there is nothing.
    """
    from basicsr.images.files import IMAGE_SUFFIXES, list_images
    from basicsr.images.video import VIDEO_SUFFIXES, list_videos

    kinds = f"images: {' '.join(IMAGE_SUFFIXES)}; videos: {' '.join(VIDEO_SUFFIXES)}"
    if source.is_dir():
        names = [*list_images(source), *list_videos(source)]
        if not names:
            raise OptionError(f"{source}: holds no images and no videos ({kinds}); check the path")
        return names
    if not source.exists():
        raise FileNotFoundError(f"{source}: no such file or folder; check the path")
    if source.suffix.lower() not in (*IMAGE_SUFFIXES, *VIDEO_SUFFIXES):
        raise OptionError(f"{source}: unknown suffix {source.suffix!r}; take one of these, {kinds}")
    return [source.name]


def check_output(output: Path) -> None:
    """Refuse what cannot be a folder, before the network runs.

    Raises:
        OptionError: when it is a file, or named like an image or a video.
    """
    from basicsr.images.files import IMAGE_SUFFIXES
    from basicsr.images.video import VIDEO_SUFFIXES

    if output.exists() and not output.is_dir():
        raise OptionError(f"-o {output}: is a file; name a folder")
    if not output.exists() and output.suffix.lower() in (*IMAGE_SUFFIXES, *VIDEO_SUFFIXES):
        raise OptionError(f"-o {output}: names the folder of the outputs, not a file; name a folder")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="basicsr-infer", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="\n".join(_published()),
    )  # fmt: skip
    parser.add_argument("-i", "--input", required=True, metavar="PATH", help="image, video, or folder with subfolders")
    parser.add_argument(
        "-o", "--output", default="results/test/", metavar="FOLDER", help="for the outputs (default: results/test/)"
    )
    parser.add_argument("--scale", type=int, metavar="N", help="enlargement (default: 4, with --model the model's)")
    parser.add_argument(
        "--task", choices=list(TASKS), help="default: classical, with --model what the model was trained for"
    )
    parser.add_argument(
        "--sigma", type=float, metavar="N", help="noise that the input has, in 8-bit levels; none is added"
    )
    parser.add_argument("--quality", type=int, metavar="Q", help="of the JPEG file that the input is or was")
    parser.add_argument("--model", metavar="FILE", help="weights (default: the published file of the task)")
    parser.add_argument("--device", default="auto", help="auto (the GPU where there is one), cpu, cuda, cuda:1, mps")
    parser.add_argument(
        "--dtype", default="float32", choices=["float32", "bfloat16", "float16"],
        help="of the network; float16 on CUDA alone (default: float32)",
    )  # fmt: skip
    parser.add_argument(
        "--matmul_precision", default="highest", choices=["highest", "high", "medium"],
        help="of float32 on a GPU: highest, high (TF32, faster) or medium (default: highest)",
    )  # fmt: skip
    parser.add_argument(
        "--tile", type=_tile, default="auto", metavar="auto|N",
        help="side of the tiles in px of the input; 0: none; auto: none where memory suffices (default)",
    )  # fmt: skip
    parser.add_argument(
        "--overlap", type=int, metavar="N", help="px of the input that tiles share, and over which they are blended"
    )
    parser.add_argument(
        "--memory", type=_amount, metavar="SIZE", help="that --tile auto plans with, 2G or 800M (default: what is free)"
    )
    parser.add_argument("--batch", type=_count, default=1, metavar="N", help="images of equal size done together")
    parser.add_argument(
        "--self_ensemble", action="store_true", help="mean over 8 flips and rotations, in 8 times the time"
    )
    parser.add_argument("--bits", type=int, choices=[8, 16], default=8, help="of a channel of output images")
    parser.add_argument("--ext", type=_suffix, metavar="png", help="format of the outputs (default: that of the input)")
    parser.add_argument("--suffix", metavar="TEXT", help="added to names instead of _<network>_SRx<scale>")
    parser.add_argument("--overwrite", action="store_true", help="replace outputs that exist")
    parser.add_argument(
        "--compare", action="store_true", help="also write <output>_compare.png: bicubic beside the output, with zooms"
    )
    parser.add_argument(
        "--crop", type=_crop, metavar="X,Y,W,H", help="what --compare zooms, in px of the input (default: most detail)"
    )
    return parser


def _tile(text: str) -> str | int:
    if text != "auto" and not text.isdigit():
        raise argparse.ArgumentTypeError(f"must be auto, 0 or a number of px, got {text!r}")
    return text if text == "auto" else int(text)


def _count(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {text!r}")
    return int(text)


def _amount(text: str) -> int:
    from basicsr.inference.memory import parse_bytes  # here and below: only if asked for, for they import torch

    return _parsed(parse_bytes, text)


def _crop(text: str) -> "Box":
    from basicsr.inference.comparison import parse_box

    return _parsed(parse_box, text)


def _suffix(text: str) -> str:
    from basicsr.images.files import IMAGE_SUFFIXES
    from basicsr.images.video import VIDEO_SUFFIXES

    suffix = f".{text.lower().lstrip('.')}"
    if suffix not in (*IMAGE_SUFFIXES, *VIDEO_SUFFIXES):
        known = " ".join(known[1:] for known in (*IMAGE_SUFFIXES, *VIDEO_SUFFIXES))
        raise argparse.ArgumentTypeError(f"must be one of {known}, got {text!r}")
    return suffix


def _parsed(parse: Callable[[str], T], text: str) -> T:
    """What `parse` makes of it, its refusal in the form that argparse shows."""
    try:
        return parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _published() -> Iterator[str]:
    yield f"published networks, in {WEIGHTS}/:"
    for name, task in TASKS.items():
        for value, file in task.files.items():
            yield f"  --task {name} --{task.by} {value}".ljust(38) + f"{file}.pth"


if __name__ == "__main__":
    raise SystemExit(main())
