"""Timing of calls in turn, with their peak memory; CUDA graphs; calls in a fresh process."""

import math
import multiprocessing
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from statistics import median
from typing import Any, NamedTuple

import torch
from torch import Tensor

from basicsr.engine.cuda_graphs import CudaBackend, GraphBackend, reason_of
from basicsr.engine.device import set_matmul_precision
from basicsr.engine.plan_cache import PLANS
from basicsr.errors import OptionError
from benchmarks.config import Config, Row

UNIT_SIDE = 2048  # of the matrices whose product is the unit of time
SETTLING_CALLS = 3  # before a capture: they compile kernels, choose algorithms and make the optimizer's state


class Job(NamedTuple):
    """A call to measure, and the beginning of its row."""

    device: str
    call: Callable[[], object]
    facts: Row
    precision: str = "highest"


class Graphed:
    """A function of tensors, captured once as a CUDA graph and replayed for every other input of the same shapes.

    Args:
        function: runs on the current stream alone and never waits for the GPU.
        inputs: the first ones, on the GPU.
        backend: for tests; None: CUDA, as `train.py` and `test.py` use it.

    Raises:
        OptionError: when the function cannot be captured.
    """

    def __init__(self, function: Callable[..., Any], *inputs: Tensor, backend: GraphBackend | None = None):
        self.inputs = [x.clone() for x in inputs]
        backend = backend or CudaBackend(inputs[0].device, PLANS.recorded)
        for _ in range(SETTLING_CALLS):
            backend.run(lambda: function(*self.inputs))
        try:
            self.recorded = backend.record(lambda: function(*self.inputs))
        except RuntimeError as error:
            raise OptionError(f"graph: this network cannot be captured ({reason_of(error)}); use no-graph") from error

    def __call__(self, *inputs: Tensor) -> Any:
        """Return the output for these inputs, in memory that the next call writes to."""
        for own, given in zip(self.inputs, inputs, strict=True):
            own.copy_(given)
        return self.recorded.replay()


def captured_if_asked(config: Config, function: Callable[..., Any], *inputs: Tensor) -> Callable[..., Any]:
    """Return the function, or with `graph` its replay."""
    return Graphed(function, *inputs) if config.graph else function


def with_peak(device: str, make: Callable[[], Job]) -> Job:
    """Return the job that `make` builds; on CUDA it is called twice, and its facts get the peak memory.

    That is the peak of building, weights and calls, over the memory taken before.
    """
    if device != "cuda":
        return make()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    job = make()
    for _ in range(2):  # the second one has the optimizer's state besides its activations
        job.call()
    torch.cuda.synchronize()
    return job._replace(facts={**job.facts, "cuda_peak_mib": (torch.cuda.max_memory_allocated() - before) / 2**20})


def synchronise(device: str) -> None:
    """Wait until the device has finished all work."""
    if device != "cpu":
        torch.get_device_module(device).synchronize()


def p95(samples: Sequence[float]) -> float:
    """Return the 95th percentile by nearest rank, a value that occurred: the largest of fewer than 20."""
    return sorted(samples)[math.ceil(0.95 * len(samples)) - 1]


def elapsed_ms(job: Job) -> float:
    """Return the milliseconds of one call, until the device has finished it."""
    set_matmul_precision(job.precision)
    synchronise(job.device)
    if job.device == "cuda":
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        job.call()
        end.record()
        end.synchronize()
        return start.elapsed_time(end)
    begin = time.perf_counter()
    job.call()
    synchronise(job.device)
    return 1e3 * (time.perf_counter() - begin)


def matrix_product(device: str) -> Job:
    """Return the job whose duration is the unit of time."""
    a, out = (torch.rand(UNIT_SIDE, UNIT_SIDE, device=device) for _ in range(2))
    return Job(device, lambda: torch.mm(a, a, out=out), {})


def timed(jobs: Sequence[Job], warmup: int, runs: int) -> list[Row]:
    """Return a row for each job. Every round runs all of them in turn, then the unit on each of their devices."""
    units = [matrix_product(device) for device in dict.fromkeys(job.device for job in jobs)]
    samples: list[list[float]] = [[] for _ in (*jobs, *units)]
    for number in range(warmup + runs):
        for job, kept in zip((*jobs, *units), samples, strict=True):
            ms = elapsed_ms(job)
            if number >= warmup:
                kept.append(ms)
    medians = [median(kept) for kept in samples]
    unit_ms = {unit.device: value for unit, value in zip(units, medians[len(jobs) :], strict=True)}
    return [
        {
            **job.facts,
            "median_ms": value,
            "p95_ms": p95(kept),
            "times_first": value / medians[0],
            "matmul_ms": unit_ms[job.device],
            "matmuls": value / unit_ms[job.device],
            "images_per_s" if "batch" in job.facts else "frames_per_s": 1e3 * job.facts.get("batch", 1) / value,
            "samples_ms": kept,
        }
        for job, kept, value in zip(jobs, samples, medians)  # noqa: B905 - the units have no row
    ]


def in_fresh_process(function: Callable[..., Any], *arguments: Any) -> Any:
    """Return the result of a function in a fresh process.

    Raises:
        OSError: when the process was killed.
    """
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        try:
            return pool.submit(function, *arguments).result()
        except BrokenProcessPool as error:
            names = ", ".join(map(str, arguments))
            raise OSError(f"{names}: the process was killed; is the memory enough?") from error
