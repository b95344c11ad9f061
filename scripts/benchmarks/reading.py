"""Reading of training data: loaders alone, and with a training step."""

import argparse
import importlib.util
import itertools
import math
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import torch
from torch import Tensor

from basicsr.data import build_dataloader, build_dataset
from basicsr.data.data_sampler import EnlargedSampler
from basicsr.data.device_cache import DeviceCacheError, DeviceLoader
from basicsr.errors import OptionError
from basicsr.images.files import read_image, write_image
from basicsr.images.matlab_resize import imresize
from benchmarks.config import Row, Size
from benchmarks.report import Result
from benchmarks.timing import captured_if_asked, p95, synchronise
from benchmarks.training import random_batch, training_step

CREATE_LMDB = Path(__file__).resolve().parents[1] / "data_preparation/create_lmdb.py"
PHOTOS = (
    "astronaut.png",
    "brick.png",
    "camera.png",
    "chelsea.png",
    "coffee.png",
    "grass.png",
    "gravel.png",
    "motorcycle_left.png",
    "retina.jpg",
    "rocket.jpg",
)
DEVICE_CACHE = "device cache"  # one of the ways of reading data
NOTES = [
    "images per s: of the loader alone. needed per s: by training that never waits (batch / median step).",
    "wait: from asking for a batch to having it, between training steps; the start of the workers does not count. "
    "A batch of the device cache is cut in that time, and lies on the device; the others are copied in the step.",
    "Files lie in the system's cache. The caches of decoded images have been filled before.",
]


class BatchTimes(NamedTuple):
    """Times of waiting for a batch, and of the step on it, in seconds."""

    wait: float
    step: float


def data(args: argparse.Namespace) -> Result:
    """Measure loaders alone, then with a training step; all ways of reading in turn, in every round."""
    config = args.configs[0]
    net, run = config.build()
    lq, gt = random_batch(config, net, args.batch, args.gt_size // args.scale)
    step = captured_if_asked(config, training_step(config, run), lq, gt)
    alone: dict[str, list[BatchTimes]] = {}
    training: dict[str, list[BatchTimes]] = {}
    with tempfile.TemporaryDirectory() as temporary:
        ways, failures = loaders(args, Path(temporary))
        ways["one batch, kept"] = itertools.repeat({"lq": lq, "gt": gt})
        for _, (way, loader) in itertools.product(range(args.runs), ways.items()):
            if loader is not ways["one batch, kept"]:
                place = config.device if way == DEVICE_CACHE else "cpu"  # where a batch of this loader lies
                alone.setdefault(way, []).extend(batch_times(iter(loader), lambda lq, gt: None, place, args.batches))
            training.setdefault(way, []).extend(batch_times(iter(loader), step, config.device, args.steps))
    facts = {key: value for key, value in config.facts(net, Size(*lq.shape[2:])).items() if isinstance(value, str)}
    facts = {**facts, "workers": args.workers, "batch": args.batch}
    rows = [{"reading": way, **facts, **timings(alone.get(way, []), training[way], args.batch)} for way in training]
    rows += [{"reading": failure} for failure in failures]
    return Result(rows, NOTES)


def timings(alone: list[BatchTimes], training: list[BatchTimes], batch: int) -> Row:
    """Return the numbers of a row: of a loader alone, and between training steps."""
    reading = [1e3 * times.wait for times in alone]
    waits, steps = ([1e3 * times[k] for times in training] for k in range(2))
    return {
        "images_per_s": 1e3 * batch * len(reading) / sum(reading) if reading else None,
        "needed_per_s": 1e3 * batch / median(steps),
        "wait_median_ms": median(waits),
        "wait_p95_ms": p95(waits),
        "step_median_ms": median(steps),
        "step_p95_ms": p95(steps),
        "waiting_percent": 100 * sum(waits) / (sum(waits) + sum(steps)),
        "samples_wait_ms": waits,
        "samples_step_ms": steps,
        "samples_reading_ms": reading,
    }


def loaders(args: argparse.Namespace, temporary: Path) -> tuple[dict[str, Any], list[str]]:
    """Return a training loader for each way of reading the same images, and a sentence for each way that failed."""
    roots = {side: root for side, root in (("gt", args.gt), ("lq", args.lq)) if root}
    roots = roots or photographs(temporary, args.scale)
    folders = {f"dataroot_{side}": str(root) for side, root in roots.items()}
    packed = {f"dataroot_{side}": str(temporary / f"{side}.lmdb") for side in roots}
    ways: dict[str, dict[str, Any]] = {
        "folder": {"cache_mb": 0, **folders},
        "folder, cached": {"cache_mb": args.cache_mb, **folders},
        "LMDB": {"cache_mb": 0, "io_backend": {"type": "lmdb"}, **packed},
        DEVICE_CACHE: {"cache_mb": 0, **folders},
    }
    failures = []
    fault = pack(zip(folders.values(), packed.values(), strict=True))
    if fault is not None:
        del ways["LMDB"]
        failures.append(f"LMDB: not measured ({fault})")
    template = args.filename_tmpl or f"{{}}x{args.scale}"
    common = {"type": "PairedImageDataset", "gt_size": args.gt_size, "filename_tmpl": template}
    result: dict[str, Any] = {}
    for way, own in ways.items():
        dataset: Any = build_dataset({**common, **own}, scale=args.scale, phase="train", seed=0)
        for k in range(len(dataset) if own["cache_mb"] else 0):
            dataset[k]  # fills the cache
        # One epoch, longer than all batches taken and read ahead.
        samples = args.batch * (max(args.batches, args.steps) + 4 * args.workers + 4)
        sampler = EnlargedSampler(len(dataset), 1, 0, ratio=math.ceil(samples / len(dataset)))
        if way == DEVICE_CACHE:
            try:
                result[way] = DeviceLoader(dataset, args.batch, sampler, torch.device(args.device))
            except DeviceCacheError as error:
                failures.append(f"{way}: not measured ({error})")
            continue
        result[way] = build_dataloader(
            dataset,
            phase="train",
            batch_size=args.batch,
            num_workers=args.workers,
            sampler=sampler,
            prefetch_factor=2,
            pin_memory=args.device == "cuda",
        )
    return result, failures


def pack(pairs: Iterable[tuple[str, str]]) -> str | None:
    """Make LMDBs of folders, (folder, LMDB) each; return the last line of the first failure."""
    for source, target in pairs:
        command = [sys.executable, str(CREATE_LMDB), "-i", source, "-o", target]
        process = subprocess.run(command, capture_output=True, text=True)
        if process.returncode:
            return process.stderr.strip().splitlines()[-1]
    return None


def photographs(folder: Path, scale: int) -> dict[str, Path]:
    """Write photographs from scikit-image's wheel into the folders `gt` and `lq`, and return these."""
    spec = importlib.util.find_spec("skimage")
    if spec is None or spec.origin is None:
        raise OptionError("--gt: name a folder, or `pip install scikit-image` for the photographs in its wheel")
    for name in PHOTOS:
        image = read_image(Path(spec.origin).parent / "data" / name)
        image = image[: image.shape[0] // scale * scale, : image.shape[1] // scale * scale]
        stem = Path(name).stem
        write_image(folder / "gt" / f"{stem}.png", image)
        write_image(folder / "lq" / f"{stem}x{scale}.png", imresize(image, 1 / scale))
    return {"gt": folder / "gt", "lq": folder / "lq"}


def batch_times(
    batches: Iterator[Mapping[str, Tensor]], step: Callable[[Tensor, Tensor], None], device: str, count: int
) -> list[BatchTimes]:
    """Return the times of `count` batches after the first, which waits for the workers to start."""
    result = []
    for _ in range(1 + count):
        start = time.perf_counter()
        batch = next(batches)
        synchronise(device)  # a batch that the device itself cuts
        ready = time.perf_counter()
        step(batch["lq"].to(device, non_blocking=True), batch["gt"].to(device, non_blocking=True))
        synchronise(device)
        result.append(BatchTimes(ready - start, time.perf_counter() - ready))
    return result[1:]
