"""The whole chain on a small scale: data, training in two processes, test, picture. `make demo` runs it, in minutes.

A CATANet-S learns x2 from scratch on ten photographs that scikit-image's wheel carries, so nothing is downloaded, and
is compared with bicubic on three others. Then the trained CATANet-XS of `pretrained_models/` enlarges these three x4,
and the network for photographs, which `basicsr-infer` takes by default, enlarges them as small JPEG files. The scores
and a picture of each part come out under `results/demo/`.
"""

import argparse
import importlib.util
import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from basicsr.images.files import list_images, read_image, write_image
from basicsr.inference.tasks import PHOTO, weight_file
from basicsr.text import tolerate_encoding

REPOSITORY = Path(__file__).resolve().parents[1]
PHOTOS = {
    "train": (
        "motorcycle_left.png",
        "coffee.png",
        "rocket.jpg",
        "camera.png",
        "brick.png",
        "grass.png",
        "gravel.png",
        "ihc.png",
        "retina.jpg",
        "hubble_deep_field.jpg",
    ),
    "test": ("astronaut.png", "chelsea.png", "coins.png"),
}
SHOWN = "astronaut"
DATASET = "demo"
JPEG_QUALITY = 75
SHIPPED = {  # method -> its weights
    "CATANet-XS": REPOSITORY / "pretrained_models/CATANet-XS_x4.pth",
    "CATANet-XS for photographs": weight_file(PHOTO, 4),
}
TRAIN_OPTIONS = REPOSITORY / "options/train/train_demo_CATANet_S_x2.yml"

WINDOW_PX = 64  # side of the window that the picture magnifies
PANEL_PX = 512  # side of each of its panels, a multiple of the window
GAP_PX = 24
TITLE_PX, LABEL_PX = 34, 28
INK, FADED, PAPER, MARK = (24, 24, 28), (110, 110, 118), (255, 255, 255), (255, 196, 0)


class DemoError(RuntimeError):
    """A step of the demo could not be done."""


class Part(NamedTuple):
    """One of the comparisons."""

    title: str
    picture: str
    """its name."""
    runs: Mapping[str, str]
    """method -> its test run; bicubic first, last the network that the picture is about."""


PARTS = (
    Part(
        "Three photographs, x2",
        "comparison_x2.png",
        {"Bicubic": "test_demo_Bicubic_x2", "CATANet-S": "test_demo_CATANet_S_x2"},
    ),
    Part(
        "Three photographs, x4",
        "comparison_x4.png",
        {"Bicubic": "test_demo_Bicubic_x4", "CATANet-XS": "test_demo_CATANet_XS_x4"},
    ),
    Part(
        f"The same three as JPEG files of quality {JPEG_QUALITY}, x4",
        "comparison_x4_jpeg.png",
        {
            "Bicubic": "test_demo_Bicubic_x4_jpeg",
            "CATANet-XS": "test_demo_CATANet_XS_x4_jpeg",
            "CATANet-XS for photographs": "test_demo_CATANet_XS_photo_x4_jpeg",
        },
    ),
)


class Panel(NamedTuple):
    """One square of the picture and the two lines under it."""

    image: Image.Image
    label: str
    note: str


def main(argv: list[str] | None = None) -> int:
    """Run the command line; 0: the picture and the scores are there."""
    tolerate_encoding()
    parser = argparse.ArgumentParser(prog="demo", description=__doc__)
    parser.add_argument("--iterations", type=int, metavar="N", help="of training, instead of those in the option file")
    parser.add_argument(
        "--output",
        type=Path,
        default=REPOSITORY,
        metavar="FOLDER",
        help="gets datasets/, experiments/ and results/ (default: the repository)",
    )
    args = parser.parse_args(argv)
    if args.iterations is not None and args.iterations < 1:
        parser.error("--iterations must be at least 1")
    root = args.output.resolve()
    start = time.monotonic()
    try:
        prepare_data(root)
        train(root, args.iterations)
        tables = [test(root, part) for part in PARTS]
    except (DemoError, OSError) as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return 1
    results = root / "results/demo"
    (results / "scores.md").write_text("\n".join(tables), encoding="utf-8")
    minutes, seconds = divmod(round(time.monotonic() - start), 60)
    print("\n" + "\n".join(tables) + f"\nDone in {minutes} min {seconds} s. Look at")
    for name in (*(part.picture for part in PARTS), "scores.md"):
        print(f"  {results / name}")
    print(f"  {root / 'experiments/demo_CATANet_S_x2'}")
    return 0


def test(root: Path, part: Part) -> str:
    """Score the methods of a part, draw its picture, and return the table of scores as Markdown."""
    for method, name in part.runs.items():
        command: list[str | Path] = [REPOSITORY / "basicsr/test.py", "-opt", REPOSITORY / f"options/test/{name}.yml"]
        if method in SHIPPED:
            command += ["--force_yml", f"path:pretrain_network_g={SHIPPED[method]}"]
        run(root, sys.executable, *command)
    scores = {method: read_scores(root, name) for method, name in part.runs.items()}
    results = root / "results/demo"
    results.mkdir(parents=True, exist_ok=True)
    draw_comparison(root, part, scores).save(results / part.picture)
    return f"# {part.title}\n\n{score_table(scores)}\n"


def run(folder: Path, *command: str | Path, env: Mapping[str, str] | None = None) -> None:
    """Run a command in `folder`, with its output in ours.

    Raises:
        DemoError: when it fails, with the command and its exit code.
    """
    words = [str(word) for word in command]
    print(f"\n$ {shlex.join(words)}", flush=True)
    code = subprocess.run(words, cwd=folder, env={**os.environ, **(env or {})}).returncode
    if code:
        raise DemoError(f"`{shlex.join(words)}` failed with exit code {code}; its own message stands above")


def prepare_data(root: Path) -> None:
    """Write the photographs to `datasets/demo/{train,test}/HR`, their halves and quarters to `.../LR/X2` and `X4`.

    The quarters for the test are written as JPEG, too, to `.../LR/X4_jpeg`.

    Raises:
        DemoError: without scikit-image, whose wheel carries the photographs.
    """
    spec = importlib.util.find_spec("skimage")
    if spec is None or spec.origin is None:
        raise DemoError("scikit-image, which carries the photographs, is missing; run `pip install -e '.[demo]'`")
    source = Path(spec.origin).parent / "data"
    for split, names in PHOTOS.items():
        folder = root / "datasets/demo" / split
        for name in names:
            write_image(folder / "HR" / Path(name).with_suffix(".png"), read_image(source / name))
        command: list[str | Path] = [REPOSITORY / "scripts/data_preparation/generate_lr.py", "--overwrite"]
        command += ["-i", folder / "HR", "-o", folder / "LR", "--scale", "2", "4", "--workers", "2"]
        run(root, sys.executable, *command)
    quarters = root / "datasets/demo/test/LR/X4"
    for name in list_images(quarters):
        target = (quarters.with_name("X4_jpeg") / name).with_suffix(".jpg")
        target.parent.mkdir(exist_ok=True)
        Image.fromarray(read_image(quarters / name)).save(target, quality=JPEG_QUALITY)


def train(root: Path, iterations: int | None) -> None:
    """Train in two processes on this machine's CPU."""
    command: list[str | Path] = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    command += [REPOSITORY / "basicsr/train.py", "-opt", TRAIN_OPTIONS]
    if iterations is not None:
        command += ["--force_yml", f"train:total_iter={iterations}", f"train:scheduler:periods=[{iterations}]"]
    run(root, *command, env={"OMP_NUM_THREADS": "1"})  # one core each; unset, torchrun warns and does the same


def read_scores(root: Path, name: str) -> dict[str, Any]:
    """Return the scores of a test run: `protocols`, `mean` and `per_image`."""
    return json.loads((root / "results" / name / "scores.json").read_text(encoding="utf-8"))[DATASET]


def score_table(scores: Mapping[str, Mapping[str, Any]]) -> str:
    """Return a Markdown table: for each image, then for the mean, a row for each method."""
    protocols: dict[str, str] = next(iter(scores.values()))["protocols"]
    names = [f"{metric.split('_')[0].upper()} ({protocol})" for metric, protocol in protocols.items()]
    lines = [["image", "method", *names], ["---", "---", *["---:"] * len(names)]]
    for image in (*next(iter(scores.values()))["per_image"], None):
        for method, found in scores.items():
            values = found["mean"] if image is None else found["per_image"][image]
            lines.append([image or "**mean**", method, *(f"{values[metric]:.4f}" for metric in protocols)])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def draw_comparison(root: Path, part: Part, scores: Mapping[str, Mapping[str, Any]]) -> Image.Image:
    """Return the photograph `SHOWN` and a magnified window of it: bicubic, the networks and the original."""
    outputs = {
        method: read_image(root / "results" / name / "visualization" / DATASET / f"{SHOWN}_{name}.png")
        for method, name in part.runs.items()
    }
    bicubic, *_, sr = outputs.values()
    hr = read_image(root / "datasets/demo/test/HR" / f"{SHOWN}.png")[: sr.shape[0], : sr.shape[1]]
    top, left = most_improved_window(bicubic, sr, hr)
    box = (left, top, left + WINDOW_PX, top + WINDOW_PX)

    whole = Image.fromarray(hr)
    ImageDraw.Draw(whole).rectangle((box[0] - 3, box[1] - 3, box[2] + 2, box[3] + 2), outline=MARK, width=3)
    panels = [Panel(whole.resize((PANEL_PX, PANEL_PX)), f"{SHOWN}.png", "not among the training photographs")]
    for method, pixels in (*outputs.items(), ("Original", hr)):
        # Enlarged without smoothing, so that every pixel stays visible.
        window = Image.fromarray(pixels).crop(box).resize((PANEL_PX, PANEL_PX), Image.Resampling.NEAREST)
        found = scores.get(method)
        note = "PSNR of the picture: {:.2f} dB".format(found["per_image"][SHOWN]["psnr"]) if found else "the target"
        panels.append(Panel(window, method, note))
    return lay_out(panels)


def most_improved_window(bicubic: np.ndarray, sr: np.ndarray, hr: np.ndarray) -> tuple[int, int]:
    """Return (top, left) of the window where the squared error falls most from bicubic to SR."""
    errors = [((image.astype(np.float32) - hr) ** 2).mean(axis=2) for image in (bicubic, sr)]
    gain = cv2.blur(errors[0] - errors[1], (WINDOW_PX, WINDOW_PX), anchor=(0, 0))  # at each window's first pixel
    gain = gain[: hr.shape[0] - WINDOW_PX + 1, : hr.shape[1] - WINDOW_PX + 1]
    top, left = np.unravel_index(gain.argmax(), gain.shape)
    return int(top), int(left)


def lay_out(panels: Sequence[Panel]) -> Image.Image:
    """Return the panels in a row with their lines of text."""
    width = GAP_PX + len(panels) * (PANEL_PX + GAP_PX)
    canvas = Image.new("RGB", (width, PANEL_PX + 3 * GAP_PX + TITLE_PX + LABEL_PX), PAPER)
    draw = ImageDraw.Draw(canvas)
    for k, panel in enumerate(panels):
        x, y = GAP_PX + k * (PANEL_PX + GAP_PX), GAP_PX
        canvas.paste(panel.image, (x, y))
        y += PANEL_PX + GAP_PX // 2
        draw.text((x, y), panel.label, INK, ImageFont.load_default(size=TITLE_PX))
        draw.text((x, y + TITLE_PX + GAP_PX // 3), panel.note, FADED, ImageFont.load_default(size=LABEL_PX))
    return canvas


if __name__ == "__main__":
    raise SystemExit(main())
