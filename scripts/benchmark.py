"""Measure speed, memory and reading of data, in a way that can be repeated and compared.

    latency     seconds of a forward, and frames per second
    train-step  seconds of forward, backward and Adam step
    memory      peak memory of one forward in a fresh process
    data        images per second from a folder, its cache, an LMDB and a cache on the device, and how long a training
                step waits for them
    video       frames per second from file to file, and the cost of decoding and encoding
    compare     ratios between result files

    python scripts/benchmark.py latency --net CATANet-L --size 64 320x180 --threads 2 --vs form=literal --vs form=train

A network is a preset (CATANet-L, CATANet-S, ...), a YAML file with `network_g`, or a checkpoint that carries it. Each
`--vs key=value,...` adds a configuration that differs from the first in these keys: net, scale, weights, form, dtype,
device, compile, graph, precision. Every round runs each configuration once, in turn, so that a machine that slows down
slows all of them; then it runs one product of two 2048 x 2048 float32 matrices, a unit that makes machines and days
comparable.

Forms: `train`, the network that is trained; `prepared`, the form that test.py runs where a network has one (else it
runs `train`); `literal`, CATANet, ATD or ATD-U written as the papers describe them, the yardsticks of tests/reference.
Inputs are random, in [0, 1], and on the device already. Untrained networks get their token centres from one training
forward, because trained ones have them stored.

CUDA is timed between two events around each call; other devices on the clock, until the device is done. MPS was never
run. `--graph` captures the forward, or the whole training step with its optimizer, as a CUDA graph and replays it.
`--precision` is that of float32 products: highest; high allows TF32; medium also bfloat16.

    python scripts/benchmark.py latency --device cuda --graph --size 64 256 --vs no-graph --vs precision=high

Results are printed, and written as Markdown and as JSON, which also holds every single sample.
"""

import argparse
import json
import shlex
import sys
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

import torch

from basicsr.engine.atomic import check_file_target, write_atomically
from basicsr.engine.device import keep_freed_memory
from basicsr.errors import CheckpointError, UnknownNameError
from basicsr.text import tolerate_encoding
from benchmarks.config import Config, Size
from benchmarks.latency import latency, memory
from benchmarks.reading import data
from benchmarks.report import compare, machine, markdown
from benchmarks.training import train_step
from benchmarks.video import video

DEFAULT_ROUNDS = {"cpu": (2, 9), "gpu": (10, 50)}  # rounds of warm-up, and those that count


def image_size(text: str) -> Size:
    """Return the size of `64` or `320x180` (width x height)."""
    sides = [int(side) for side in text.split("x")]
    if len(sides) > 2 or min(sides) < 1:
        raise ValueError
    return Size(sides[0], sides[-1])


def at_least_one(text: str) -> int:
    """Return a number above 0."""
    if int(text) < 1:
        raise ValueError
    return int(text)


def parser_of_commands() -> argparse.ArgumentParser:
    """Return the parser of all subcommands."""
    parser = argparse.ArgumentParser(
        prog="benchmark", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="kind", required=True)
    bodies = {
        "latency": latency,
        "train-step": train_step,
        "memory": memory,
        "data": data,
        "video": video,
        "compare": compare,
    }
    for kind, body in bodies.items():
        sub = commands.add_parser(kind, help=body.__doc__, description=body.__doc__)
        sub.set_defaults(body=body, vs=[], threads=torch.get_num_threads(), launches=False)
        add = sub.add_argument
        add("-o", "--output", type=Path, default=Path("results/benchmark") / kind, help="of .md and .json, no suffix")
        if kind == "compare":
            add("files", type=Path, nargs="+", help="JSON files of one kind; the first is the reference")
            continue
        trains = kind in ("train-step", "data")
        add("--net", default="CATANet-S" if kind == "data" else "CATANet-L", help="preset, YAML file or checkpoint")
        add("--scale", type=at_least_one, default=4, help="of a preset, and of the data (default: 4)")
        add("--weights", help="checkpoint for a preset or YAML file")
        forms, dtypes = ["train", "literal"], ["float32", "bfloat16"]
        if kind == "video":
            add_video_options(sub)
            continue
        add("--form", choices=forms if trains else ["prepared", *forms], default="train" if trains else "prepared")
        add("--dtype", choices=dtypes if trains else [*dtypes, "float16"], default="float32")
        add("--device", choices=["cpu", "cuda", "mps"], default="cpu")
        add("--compile", action=argparse.BooleanOptionalAction, default=False, help="run through torch.compile")
        add("--precision", choices=["highest", "high", "medium"], default="highest", help="of float32 products")
        add("--threads", type=at_least_one, help="of PyTorch on the CPU")
        add("--graph", action=argparse.BooleanOptionalAction, default=False, help="replay a CUDA graph")
        if kind != "data":
            add("--vs", action="append", metavar="KEY=VALUE,...", help="one more configuration; repeatable")
        if kind in ("latency", "memory"):
            add("--size", type=image_size, nargs="+", default=[Size(64, 64)], help="inputs: 64, or 320x180 (W x H)")
        if kind in ("latency", "train-step"):
            add("--warmup", type=at_least_one, help="rounds before those that count (default: 2, on a GPU 10)")
            add("--runs", type=at_least_one, help="rounds that count (default: 9, on a GPU 50)")
            add("--launches", action="store_true", help="count ATen calls, too, without own kernels")
        if trains:
            add("--batch", type=at_least_one, default=16, help="images a step (default: 16)")
        if kind == "train-step":
            add("--patch", type=at_least_one, default=64, help="low-resolution side of a patch (default: 64)")
        if kind == "data":
            add_data_options(sub)
    return parser


def add_data_options(sub: argparse.ArgumentParser) -> None:
    """Add the options of reading."""
    add = sub.add_argument
    add("--runs", type=at_least_one, default=3, help="rounds that count (default: 3)")
    add("--gt", type=Path, help="folder of ground truth (default: photographs from scikit-image's wheel)")
    add("--lq", type=Path, help="its low-resolution images (default: made on the fly)")
    add("--filename-tmpl", help="their names (default: {}xSCALE)")
    add("--gt-size", type=at_least_one, default=256, help="side of a ground-truth patch (default: 256)")
    add("--workers", type=int, default=2, help="processes that read (default: 2)")
    add("--cache-mb", type=at_least_one, default=2048, help="of the cached reading (default: 2048)")
    add("--batches", type=at_least_one, default=20, help="batches a round, read alone (default: 20)")
    add("--steps", type=at_least_one, default=5, help="training steps a round (default: 5)")


def add_video_options(sub: argparse.ArgumentParser) -> None:
    """Add the options of videos; the network runs as in `basicsr-infer`."""
    sub.set_defaults(form="prepared", compile=False, graph=False)
    add = sub.add_argument
    add("--dtype", choices=["float32", "bfloat16", "float16"], default="float32")
    add("--device", choices=["cpu", "cuda", "mps"], default="cpu")
    add("--precision", choices=["highest", "high", "medium"], default="highest", help="of float32 products")
    add("--threads", type=at_least_one, help="of PyTorch on the CPU")
    add("--size", type=image_size, nargs="+", default=[Size(64, 64)], help="of the source: 64, or 960x540 (W x H)")
    add("--input", type=Path, help="a video as the source (default: a photograph that moves)")
    add("--frames", type=at_least_one, default=192, help="of the source (default: 192)")
    add("--ext", default="mp4", help="suffix of the output (default: mp4)")
    add("--codec", help="as of basicsr-infer")
    add("--crf", type=int, help="as of basicsr-infer")
    add("--preset", help="as of basicsr-infer")
    add("--batch", type=at_least_one, default=1, help="frames that go through the network together (default: 1)")
    add("--runs", type=at_least_one, default=3, help="runs that count, after one of warm-up (default: 3)")


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Return the arguments; `configs` holds the first configuration and, for each `--vs`, a changed one."""
    parser = parser_of_commands()
    args = parser.parse_args(argv)
    if args.kind == "compare":
        return args
    keys = [field.name for field in fields(Config)]
    commands = [argv]
    for changes in args.vs:
        items = changes.split(",")
        for item in items:
            if item.partition("=")[0].removeprefix("no-") not in keys:
                parser.error(f"--vs {changes}: {item!r} changes none of {', '.join(keys)}")
        commands.append([*argv, *(f"--{item}" for item in items)])
    parsed = [parser.parse_args(command) for command in commands]
    args.configs = [Config(**{key: getattr(one, key) for key in keys}) for one in parsed]
    if args.kind in ("latency", "train-step"):
        on_cpu = all(config.device == "cpu" for config in args.configs)
        warmup, runs = DEFAULT_ROUNDS["cpu" if on_cpu else "gpu"]
        args.warmup, args.runs = args.warmup or warmup, args.runs or runs
    return args


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; 0: the tables are there, 2: a mistake of the user, in one line on stderr."""
    tolerate_encoding()
    argv = sys.argv[1:] if argv is None else argv
    args = parse(argv)
    torch.set_num_threads(args.threads)
    keep_freed_memory()  # as train.py and test.py do
    try:
        check_file_target(f"{args.output}.json", "-o")
        rows, notes, head = args.body(args)
        head = {
            **(machine() if head is None else head),
            "command": shlex.join(["python", "scripts/benchmark.py", *argv]),
        }
        text = markdown(args.kind, head, rows, notes)
        write_atomically(f"{args.output}.md", text)
        content = {"kind": args.kind, "head": head, "rows": rows, "notes": notes}
        write_atomically(f"{args.output}.json", json.dumps(content, indent=1) + "\n")
    except (ValueError, UnknownNameError, CheckpointError, OSError) as error:
        print(f"benchmark: {error}", file=sys.stderr)
        return 2
    print(text)
    print(f"Written to {args.output}.md and {args.output}.json")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
