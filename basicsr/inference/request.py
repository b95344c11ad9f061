"""What a command line of `basicsr-infer` asks for: which weight file, and whether its network fits.

Imports no torch, so that mistakes are told at once.
"""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from basicsr.errors import OptionError
from basicsr.inference.tasks import PHOTO, TASK_OF_TYPE, TASKS, weight_file

if TYPE_CHECKING:
    from basicsr.inference.upscaler import Upscaler


class Request(NamedTuple):
    """The model, the task and the scale of a checked command line."""

    model: Path
    task: str | None  # None: the one that the model was trained for
    scale: int | None
    level: str  # "_sigma25", "_q10" or ""


def check_request(args: argparse.Namespace) -> Request:
    """Return the model, the task and the scale that a command line means.

    Raises:
        OptionError: naming the option that is missing, does not belong to the task, or has no network.
    """
    name = args.task or (None if args.model else PHOTO)
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
    return Request(weight_file(name, value), name, value if by == "scale" else 1, level)


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
    """Return the ending of output names: `_CATANet-XS_photo_SRx4`, `_ATD_classical_SRx4`, `_CATANet-L_SRx4`."""
    kind = upscaler.spec["type"]
    task = request.task or (TASK_OF_TYPE.get(kind) if upscaler.is_published else None)
    enlarged = f"_SRx{upscaler.upscale}" if upscaler.upscale > 1 else ""
    family = kind if task == PHOTO else upscaler.family
    network = f"{family}_{task}" if family and task else kind
    return f"_{network}{enlarged}{request.level}"
