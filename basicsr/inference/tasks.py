"""The tasks that networks are shipped or were published for, and their weight files.

Imports no torch, so that `basicsr-infer --help` answers at once.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from basicsr.errors import OptionError

SHIPPED = Path(__file__).with_name("weights")  # package data, so an installed package has them, too
PUBLISHED = Path("experiments/pretrained_models")  # where users put published files


@dataclass(frozen=True)
class Task:
    """A task, and the networks for it."""

    files: Mapping[int, str]
    """value of the option `by` -> name of the weight file, without suffix."""
    by: str
    """the option that chooses the file: scale, sigma or quality."""
    channels: int = 3
    """of its images: 3, RGB, or 1, gray."""
    folder: Path = PUBLISHED
    """of the files."""


PHOTO = "photo"  # the default
TASKS = {
    PHOTO: Task({2: "CATANet-XS_x2_photo", 4: "CATANet-XS_x4_photo"}, "scale", folder=SHIPPED),
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


def weight_file(name: str, value: float | None) -> Path:
    """Return the path of the network for a task.

    Args:
        name: of the task.
        value: of the option that chooses the network: the scale, sigma or quality.

    Raises:
        OptionError: when there is no network for this value.
    """
    task = TASKS[name]
    file = next((file for choice, file in task.files.items() if choice == value), None)
    if file is None:
        choices = ", ".join(f"{choice}" for choice in task.files)
        got = "is missing" if value is None else f"there is no network for {value:g}"
        task_name = f"{name}, the default," if name == PHOTO else name
        raise OptionError(f"--{task.by}: {got}; --task {task_name} has {choices}, for others name a file by --model")
    return task.folder / f"{file}.pth"


def list_tasks() -> Iterator[str]:
    """Yield the lines of `--help` that name the files of all tasks."""
    for folder, title in ((SHIPPED, "shipped networks"), (PUBLISHED, f"published networks, in {PUBLISHED}/")):
        yield f"{title}:"
        for name, task in TASKS.items():
            for value, file in task.files.items() if task.folder == folder else ():
                yield f"  --task {name} --{task.by} {value}".ljust(38) + f"{file}.pth"
