"""The tasks of the published networks: which weight file a command line means, and whether a network fits it.

Imports no torch, so that `basicsr-infer --help` answers at once.
"""

import argparse
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from basicsr.errors import OptionError

if TYPE_CHECKING:
    from basicsr.inference.upscaler import Upscaler

WEIGHTS = Path("experiments/pretrained_models")


@dataclass(frozen=True)
class Task:
    """A task that networks were published for."""

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
# Type of network -> task, for the super-resolution networks that a published file can hold.
TASK_OF_TYPE = {"ATD": "classical", "ATD-v1": "classical", "ATD-light": "lightweight", "ATD-v1-light": "lightweight"}


class Request(NamedTuple):
    """The model, the task and the scale of a checked command line."""

    model: Path
    task: str | None  # None: the one that the model was trained for
    scale: int | None
    level: str  # "_sigma25", "_q10" or ""


def check_request(args: argparse.Namespace) -> Request:
    """Return the model, the task and the scale that a command line means.

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
    """Check that a network does what was asked for.

    Raises:
        OptionError: naming what it does instead.
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
    if upscaler.is_published and TASK_OF_TYPE.get(kind, request.task) != request.task:
        raise OptionError(f"{model}: holds {kind}, which is of --task {TASK_OF_TYPE[kind]}, not {request.task}")


def output_label(upscaler: "Upscaler", request: Request) -> str:
    """Return the ending of output names: `_ATD_classical_SRx4`, `_ATD_jpeg_q10`, `_CATANet-XS_SRx4`."""
    kind = upscaler.spec["type"]
    task = request.task or (TASK_OF_TYPE.get(kind) if upscaler.is_published else None)
    enlarged = f"_SRx{upscaler.upscale}" if upscaler.upscale > 1 else ""
    network = f"{upscaler.family}_{task}" if upscaler.family and task else kind
    return f"_{network}{enlarged}{request.level}"


def list_published() -> Iterator[str]:
    """Yield the lines of `--help` that name the published files."""
    yield f"published networks, in {WEIGHTS}/:"
    for name, task in TASKS.items():
        for value, file in task.files.items():
            yield f"  --task {name} --{task.by} {value}".ljust(38) + f"{file}.pth"
