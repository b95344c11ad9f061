"""Enlarge or clean images: `python inference.py -i photo.png --task lightweight --scale 4`, or `basicsr-infer`.

Without --model the network is the published one of the task, read from experiments/pretrained_models/ under its
published name. A file of --model names its own network; a published one without that entry is known by its weights.
Outputs go to the folder -o as <name>_ATD_<task>_SRx<scale> with the suffix of the input, or <name>_<network>_SRx<scale>
for other networks; existing files of these names are replaced. They have 8 bits, rounded; JPEG has quality 95.
"""

import argparse
import logging
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from basicsr.utils.errors import CheckpointError, OptionError

if TYPE_CHECKING:
    from basicsr.restorer import Restorer

logger = logging.getLogger("basicsr")
WEIGHTS = Path("experiments/pretrained_models")


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
    """The command `basicsr-infer`; 0: all images are written, 1: some are not, which it names, 2: none was tried."""
    args = _parser().parse_args(argv)
    # Only now, for this imports torch and --help should not wait for it.
    from basicsr.utils.run import run_command

    failed: list[str] = []
    return run_command("basicsr-infer", lambda: failed.extend(infer(args))) or (1 if failed else 0)


def infer(args: argparse.Namespace) -> list[str]:
    """Do what a command line asks for; returns the inputs that have no output.

    Raises:
        OptionError: when an option does not fit the others or the network.
        CheckpointError: when there are no weights, or they do not fit.
        FileNotFoundError: when there is no input.
    """
    from basicsr.restorer import device_called, load_restorer

    request = check_request(args)
    source, output = Path(args.input), Path(args.output)
    check_output(output)
    names = input_names(source)
    if not request.model.exists():
        hint = "check the path" if args.model else "put the published file there, or name another by --model"
        raise CheckpointError(f"{request.model}: no such file; {hint}")
    restorer = load_restorer(request.model, device_called(args.device))
    check_network(restorer, request)
    label = output_label(restorer, request)
    folder = source if source.is_dir() else source.parent
    targets = {name: output / output_name(name, label, restorer.channels) for name in names}
    outputs = {path.resolve() for path in targets.values()}
    if len(outputs) < len(targets):
        raise OptionError(f"{source}: holds images that differ in .pgm and .ppm alone; rename some")
    failed = []
    for name, target in targets.items():
        path = folder / name
        if path.resolve() in outputs:
            logger.info("%s: is left out, for it is an output of this command", path)
            continue
        start = time.monotonic()
        try:
            height, width = restorer.restore_file(path, target)
        except (ValueError, OSError) as error:
            logger.error("%s", error)
            failed.append(name)
            continue
        logger.info("%s -> %s, %dx%d px, %.1f s", path, target, width, height, time.monotonic() - start)
    if failed:
        logger.error("%d of %d images could not be processed: %s", len(failed), len(names), ", ".join(failed))
    return failed


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


def check_network(restorer: "Restorer", request: Request) -> None:
    """Refuse a network that does what was not asked for.

    Raises:
        OptionError: saying what it does.
    """
    model, scale, kind = request.model, restorer.upscale, restorer.spec["type"]
    if request.scale not in (None, scale):
        does = "keeps the size" if scale == 1 else f"enlarges {scale} times"
        asked = f"--task {request.task}" if request.scale == 1 else f"--scale {request.scale}"
        raise OptionError(f"{model}: its network, {kind}, {does}, which is not {asked}; take another file")
    if request.task is None:
        return
    task = TASKS[request.task]
    if restorer.channels != task.channels:
        raise OptionError(
            f"{model}: its network, {kind}, takes images of {restorer.channels} channels, --task {request.task} has "
            f"{task.channels}; take another file or task"
        )
    if task.by == "scale" and scale == 1:
        raise OptionError(f"{model}: its network, {kind}, keeps the size, which is not --task {request.task}")
    if restorer.is_published and TASK_OF.get(kind, request.task) != request.task:
        raise OptionError(f"{model}: holds {kind}, which is of --task {TASK_OF[kind]}, not {request.task}")


def output_label(restorer: "Restorer", request: Request) -> str:
    """What is added to the names of outputs: `_ATD_classical_SRx4`, `_ATD_jpeg_q10`, `_CATANet-XS_SRx4`."""
    kind = restorer.spec["type"]
    task = request.task or (TASK_OF.get(kind) if restorer.is_published else None)
    enlarged = f"_SRx{restorer.upscale}" if restorer.upscale > 1 else ""
    if restorer.is_atd and task is not None:
        return f"_ATD_{task}{enlarged}{request.level}"
    return f"_{kind}{enlarged}{request.level}"


def output_name(name: str, label: str, channels: int) -> Path:
    """The path of an output below its folder: as that of the input, with the label, in the same format.

    Colour images do not fit into `.pgm` files, so these become `.ppm`.
    """
    path = Path(name)
    suffix = ".ppm" if channels == 3 and path.suffix.lower() == ".pgm" else path.suffix
    return path.with_name(f"{path.stem}{label}{suffix}")


def input_names(source: Path) -> list[str]:
    """The image itself, or all in the folder and its subfolders, relative to it.

    Raises:
        OptionError: when the file is no image, or the folder has none.
        FileNotFoundError: when there is nothing.
    """
    from basicsr.utils.img_util import IMAGE_SUFFIXES, list_images

    if source.is_dir():
        names = list_images(source)
        if not names:
            raise OptionError(f"{source}: holds no images ({' '.join(IMAGE_SUFFIXES)}); check the path")
        return names
    if not source.exists():
        raise FileNotFoundError(f"{source}: no such file or folder; check the path")
    if source.suffix.lower() not in IMAGE_SUFFIXES:
        raise OptionError(f"{source}: unknown image suffix {source.suffix!r}; use one of {' '.join(IMAGE_SUFFIXES)}")
    return [source.name]


def check_output(output: Path) -> None:
    """Refuse what cannot be a folder, before the network runs.

    Raises:
        OptionError: when it is a file, or named like an image.
    """
    from basicsr.utils.img_util import IMAGE_SUFFIXES

    if output.exists() and not output.is_dir():
        raise OptionError(f"-o {output}: is a file; name a folder")
    if not output.exists() and output.suffix.lower() in IMAGE_SUFFIXES:
        raise OptionError(f"-o {output}: names the folder of the outputs, not a file; name a folder")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="basicsr-infer", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="\n".join(_published()),
    )  # fmt: skip
    parser.add_argument("-i", "--input", required=True, metavar="PATH", help="image, or folder with subfolders")
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
    return parser


def _published() -> Iterator[str]:
    yield f"published networks, in {WEIGHTS}/:"
    for name, task in TASKS.items():
        for value, file in task.files.items():
            yield f"  --task {name} --{task.by} {value}".ljust(38) + f"{file}.pth"


if __name__ == "__main__":
    raise SystemExit(main())
