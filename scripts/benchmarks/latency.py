"""Forwards of single images: seconds, launches, and peak memory in a fresh process."""

import argparse
import itertools
import os
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from basicsr.engine.launches import count_launches
from benchmarks.config import Config, Row, Size, channels_of
from benchmarks.report import Result, cell, notes_on
from benchmarks.timing import Job, captured_if_asked, in_fresh_process, synchronise, timed, with_peak


def latency(args: argparse.Namespace) -> Result:
    """Measure forwards of single images."""
    rows: list[Row] = []
    for size in args.size:
        torch.compiler.reset()  # what was compiled for another size
        jobs = [with_peak(config.device, partial(forward, config, size)) for config in args.configs]
        rows += timed(jobs, args.warmup, args.runs)
    if args.launches:
        for row, (size, config) in zip(rows, itertools.product(args.size, args.configs), strict=True):
            row["launches"] = in_fresh_process(launches_of_forward, config, size)
    points = [
        f"{row['input']} -> {row['output']}, {cell(row['frames_per_s'])} fps (1 / median): {row['network']}, "
        f"{row['form']}, {row['dtype']}, {row['precision']}, {row['mode']}, {row['device']}, batch 1, "
        f"{args.threads} CPU threads"
        for row in rows
    ]
    return Result(rows, [*notes_on(args), *points])


def forward(config: Config, size: Size) -> Job:
    """Return the forward of one image of this size."""
    net, run = config.build()
    x = torch.rand(1, channels_of(net), size.height, size.width, device=config.device)

    def infer(x: Tensor) -> Any:
        with torch.inference_mode(), config.autocast():
            return run(x)

    call = captured_if_asked(config, infer, x)
    return Job(config.device, partial(call, x), config.facts(net, size), config.precision)


def launches_of_forward(config: Config, size: Size) -> int:
    """Return the ATen calls of one forward, views left out, in this fresh process without own kernels."""
    os.environ["BASICSR_KERNELS"] = "0"
    net, run = replace(config, graph=False, compile=False).build()
    x = torch.rand(1, channels_of(net), size.height, size.width, device=config.device)
    with torch.no_grad(), config.autocast():  # inference mode would hand linear layers over as one call
        run(x)  # makes cached data
        return count_launches(lambda: run(x))


def memory(args: argparse.Namespace) -> Result:
    """Measure peak memory, each configuration and size in a process of its own."""
    rows = [
        in_fresh_process(peak_memory, config, size, args.threads)
        for size, config in itertools.product(args.size, args.configs)
    ]
    before = "RSS before: with the network loaded, before the one forward of one image; on a GPU, after two of them."
    return Result(rows, [*notes_on(args), before])


def peak_memory(config: Config, size: Size, threads: int) -> Row:
    """Return the row of one forward in this process, which has done nothing else."""
    torch.set_num_threads(threads)
    job = with_peak(config.device, partial(forward, config, size))
    before = resident_mib("VmRSS")
    job.call()
    synchronise(job.device)
    peak = resident_mib("VmHWM")
    return {**job.facts, "rss_before_mib": before, "rss_peak_mib": peak, "rss_added_mib": peak - before}


def resident_mib(field: str) -> float:
    """Return the MiB of this process's resident set, now (VmRSS) or at its peak (VmHWM, the only one on macOS)."""
    status = Path("/proc/self/status")
    if status.is_file():  # on Linux ru_maxrss starts at the parent's peak
        return int(status.read_text(encoding="ascii").partition(f"{field}:")[2].split()[0]) / 2**10
    import resource  # Windows has none

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)
