"""Measure speed, memory and reading of data, in a way that can be repeated and compared.

    latency     seconds of a forward, and frames per second
    train-step  seconds of forward, backward and Adam step
    memory      peak memory of one forward in a fresh process
    data        images per second from a folder, its cache, an LMDB and a cache on the device, and how long a training
                step waits for them
    compare     ratios between result files

    python scripts/benchmark.py latency --net CATANet-L --size 64 320x180 --threads 2 --vs form=literal --vs form=train

A network is a preset (CATANet-L, CATANet-S, ...), a YAML file with `network_g`, or a checkpoint that carries it. Each
`--vs key=value,...` adds a configuration that differs from the first in these keys: net, scale, weights, form, dtype,
device, compile, graph, precision. Every round runs each configuration once, in turn, so that a machine that slows down
slows all of them; then it runs one product of two 2048 x 2048 float32 matrices, a unit that makes machines and days
comparable.

Forms: `train`, the network that people read and train; `prepared`, what test.py runs where a network has it, else it
runs `train`; `literal`, CATANet, ATD or ATD-U as the papers read, the yardsticks of tests/reference. Inputs are random,
in [0, 1], and on the device already. Untrained networks get their token centres from one training forward, because
trained ones have them stored.

CUDA is timed between two events around each call; other devices on the clock, until the device is done. MPS was never
run. `--graph` captures the forward, or the whole training step with its optimizer, as a CUDA graph and replays it.
`--precision` is that of float32 products: highest; high allows TF32; medium also bfloat16.

    python scripts/benchmark.py latency --device cuda --graph --size 64 256 --vs no-graph --vs precision=high

Results are printed, and written as Markdown and as JSON, which also holds every single sample.
"""

import argparse
import importlib.util
import itertools
import json
import math
import multiprocessing
import os
import platform
import runpy
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import nullcontext
from dataclasses import dataclass, fields, replace
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from basicsr.archs import build_network
from basicsr.archs.published import load_network
from basicsr.config.schema import load_options
from basicsr.config.yaml_file import load_yaml
from basicsr.engine.checkpoint import load_weights
from basicsr.engine.cuda_graphs import CudaBackend, GraphBackend, reason_of
from basicsr.engine.device import keep_freed_memory
from basicsr.engine.launches import count_launches
from basicsr.engine.plan_cache import PLANS
from basicsr.errors import CheckpointError, OptionError, UnknownNameError
from basicsr.version import __version__

REPOSITORY = Path(__file__).resolve().parents[1]
REFERENCE = REPOSITORY / "tests/reference"
CREATE_LMDB = REPOSITORY / "scripts/data_preparation/create_lmdb.py"
PHOTOS = (
    "astronaut.png", "brick.png", "camera.png", "chelsea.png", "coffee.png", "grass.png", "gravel.png",
    "motorcycle_left.png", "retina.jpg", "rocket.jpg",
)  # fmt: skip

DEVICE_CACHE = "device cache"  # one of the ways of reading data
UNIT_SIDE = 2048  # of the matrices whose product is the unit of time
CENTRES_SIDE = 16  # of the image that sets token centres; small, so that it does not count in the peak of memory
SETTLING_CALLS = 3  # before a capture: they compile kernels, choose algorithms and make the optimizer's state
DEFAULT_ROUNDS = {"cpu": (2, 9), "gpu": (10, 50)}  # rounds of warm-up, and those that count
COMPARED = ("median_ms", "p95_ms", "matmuls", "rss_peak_mib", "cuda_peak_mib", "images_per_s", "wait_p95_ms")
COUNTING = (
    "Multi-Adds (G) of one image, a multiply-add counted once: of convolutions and linear layers, and of attention. "
    "The paper's 46.8 G of CATANet-L x4, for an input of 256x256, are the first alone."
)

Row = dict[str, Any]  # texts say what was measured, numbers what was found; lists are samples


class Size(NamedTuple):
    """Of an image in pixels."""

    width: int
    height: int

    def __str__(self) -> str:
        return f"{self.width}x{self.height}"


class Job(NamedTuple):
    """A call to measure, and what it is."""

    device: str
    call: Callable[[], object]
    facts: Row
    precision: str = "highest"


class Span(NamedTuple):
    """Seconds of waiting for a batch, and of the step on it."""

    wait: float
    step: float


class Result(NamedTuple):
    """What a subcommand found, and where; by default on this machine."""

    rows: list[Row]
    notes: list[str]
    head: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Config:
    """One thing to measure. The fields are the keys of `--vs`."""

    net: str
    scale: int
    weights: str | None
    form: str
    dtype: str
    device: str
    compile: bool
    graph: bool = False
    precision: str = "highest"

    def autocast(self) -> Any:
        """The context of a forward; the prepared form has its precision built in."""
        if self.form == "prepared" or self.dtype == "float32":
            return nullcontext()
        return torch.autocast(self.device, getattr(torch, self.dtype))

    def build(self) -> tuple[Any, Any]:
        """The network in evaluation as people read it, and in the form to measure; on the device."""
        if not {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}[self.device]:
            raise OptionError(f"device: there is no {self.device} on this machine")
        if self.graph and self.device != "cuda":
            raise OptionError(f"graph: CUDA graphs need device cuda, got {self.device}; use no-graph")
        if self.graph and self.form == "literal":
            raise OptionError("graph: the literal form waits for the GPU in its forward; use no-graph")
        set_precision(self.precision)
        net: Any = build_net(self).to(self.device)
        form = net
        if self.form == "literal":
            form = literal_twin(net).to(self.device)
        elif self.form == "prepared":
            if not hasattr(net, "prepared"):
                raise OptionError(
                    f"form: {type(net).__name__} has no prepared form, test.py runs it as it is; use form train"
                )
            if self.dtype == "float16":
                raise OptionError(f"form: {type(net).__name__} has no prepared form in float16; use form train")
            form = net.prepared(dtype=getattr(torch, self.dtype))
        return net, torch.compile(form, dynamic=False) if self.compile else form

    @property
    def mode(self) -> str:
        """Return how the network is run: eager, compiled, graph, or the last two."""
        return ", ".join(name for name, on in (("compiled", self.compile), ("graph", self.graph)) if on) or "eager"

    def facts(self, net: Any, size: Size) -> Row:
        """What stands at the beginning of a row."""
        name = Path(self.net).name if Path(self.net).is_file() else self.net
        weights = f" ({Path(self.weights).name})" if self.weights else ""
        output = Size(size.width * net.upscale, size.height * net.upscale)
        count = net.multiply_adds(size.height, size.width) if hasattr(net, "multiply_adds") else None
        return {
            "network": f"{name} x{net.upscale}{weights}", "form": self.form, "dtype": self.dtype, "device": self.device,
            "precision": self.precision, "mode": self.mode, "input": str(size), "output": str(output),
            "parameters": sum(p.numel() for p in net.parameters()),
            "multi_adds_conv_linear_G": count and count[0] / 1e9, "multi_adds_attention_G": count and count[1] / 1e9,
        }  # fmt: skip


def build_net(config: Config) -> nn.Module:
    """The network of a configuration in evaluation, its token centres set."""
    torch.manual_seed(0)  # the same weights in every form
    path, weights = Path(config.net), config.weights
    if path.suffix in (".pth", ".pt"):
        net = load_network(path)
    elif path.suffix in (".yml", ".yaml"):
        net = build_network(load_options(path, is_train="train" in load_yaml(path)[0]).network_g)
    else:
        net = build_network({"type": config.net, "upscale": config.scale})
    if weights:
        load_weights(net, weights)
    if any(name.endswith("initted") and not flag for name, flag in net.named_buffers()):
        with torch.no_grad():
            net.train()(torch.rand(1, channels_of(net), CENTRES_SIDE, CENTRES_SIDE))
    return net.eval()


def channels_of(net: nn.Module) -> int:
    """Channels of the images that a network takes."""
    return next((module.in_channels for module in net.modules() if isinstance(module, nn.Conv2d)), 3)


def literal_twin(net: nn.Module) -> nn.Module:
    """The literal network with the sizes and weights of `net`, in evaluation.

    Raises:
        OptionError: when there is none.
    """
    from basicsr.archs.atd_arch import ATD
    from basicsr.archs.atdu_arch import ATDUNet
    from basicsr.archs.catanet_arch import CATANet

    twins: tuple[tuple[type[nn.Module], str, str, Callable[[Any], Row]], ...] = (
        (CATANet, "catanet_literal.py", "LiteralCATANet", arguments_of_catanet),
        (ATD, "atd_literal.py", "LiteralATD", arguments_of_atd),
        (ATDUNet, "atd_literal.py", "LiteralATDUNet", arguments_of_atd_u),
    )
    for kind, file, name, arguments in twins:
        if isinstance(net, kind):
            twin = runpy.run_path(str(REFERENCE / file))[name](**arguments(net))
            twin.load_state_dict(net.state_dict())
            return twin.eval()
    names = ", ".join(kind.__name__ for kind, *_ in twins)
    raise OptionError(f"form: only {names} have a literal form, got {type(net).__name__}; use form train")


def arguments_of_catanet(net: Any) -> Row:
    """What builds the literal CATANet of these sizes."""
    parts: list[Any] = [part for block in net.blocks for part in block.children()]
    tabs, lrsas = parts[::2], parts[1::2]
    heads = tabs[0].iasa_attn.heads
    return {
        "upscale": net.upscale, "in_chans": net.first_conv.in_channels, "block_num": len(tabs), "heads": heads.number,
        "dim": heads.number * heads.v, "qk_dim": heads.number * heads.qk, "mlp_dim": tabs[0].mlp.fn.fc1.out_features,
        "patch_size": [lrsa.patch_size for lrsa in lrsas], "num_tokens": [tab.num_tokens for tab in tabs],
        "group_size": [tab.iasa_attn.group_size for tab in tabs], "n_iters": [tab.n_iters for tab in tabs],
    }  # fmt: skip


def arguments_of_atd(net: Any) -> Row:
    """What builds the literal ATD of these sizes."""
    arguments = net.compact_kwargs(range(len(net.prunable_groups())))
    if arguments["kept_layers"] is not None:
        raise OptionError("form: an ATD that lost layers has no literal form; use form train")
    return {key: value for key, value in arguments.items() if key not in ("version", "prune_unit", "kept_layers")}


def arguments_of_atd_u(net: Any) -> Row:
    """What builds the literal ATD-U of these sizes."""
    blocks = [level.block for level in (*net.encoders, net.middle_blks)]
    sizes = [block.layers["0"].sizes for block in blocks]
    every = [*sizes, net.refine_blks.block.layers["0"].sizes]
    # Of the ratios that give every layer its hidden channels, the whole part of ratio times dim, the middle one.
    ratio = (max(s.hidden / s.dim for s in every) + min((s.hidden + 1) / s.dim for s in every)) / 2
    return {
        "in_chans": net.conv_first.in_channels, "embed_dim": sizes[0].dim, "mlp_ratio": ratio,
        "depths": [len(block.layers) for block in blocks], "num_heads": [s.heads for s in sizes],
        "window_size": [s.window for s in sizes], "dim_ffn_td": [s.category_channels for s in sizes],
        "category_size": [s.category for s in sizes], "num_tokens": [s.tokens for s in sizes],
        "reducted_dim": [s.reduced for s in sizes], "convffn_kernel_size": sizes[0].kernel,
        "bias": net.conv_first.bias is not None, "patch_norm": "norm" in net.patch_embed,
    }  # fmt: skip


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
        for mine, given in zip(self.inputs, inputs, strict=True):
            mine.copy_(given)
        return self.recorded.replay()


def captured_if_asked(config: Config, function: Callable[..., Any], *inputs: Tensor) -> Callable[..., Any]:
    """Return the function, or with `graph` its replay."""
    return Graphed(function, *inputs) if config.graph else function


def set_precision(precision: str) -> None:
    """Let float32 products be computed with this precision; on CUDA cuDNN's convolutions, too."""
    torch.set_float32_matmul_precision(precision)
    torch.backends.cudnn.allow_tf32 = precision != "highest"


def with_peak(device: str, make: Callable[[], Job]) -> Job:
    """Return the job that `make` builds.

    On CUDA it is called twice, and its facts tell how much memory of the card its network, building and calls took at
    most, over what was taken before.
    """
    if device != "cuda":
        return make()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    job = make()
    for _ in range(2):  # the second one finds the optimizer's state beside its activations
        job.call()
    torch.cuda.synchronize()
    return job._replace(facts={**job.facts, "cuda_peak_mib": (torch.cuda.max_memory_allocated() - before) / 2**20})


def forward(config: Config, size: Size) -> Job:
    """One image of this size through the network."""
    net, run = config.build()
    x = torch.rand(1, channels_of(net), size.height, size.width, device=config.device)

    def infer(x: Tensor) -> Any:
        with torch.inference_mode(), config.autocast():
            return run(x)

    call = captured_if_asked(config, infer, x)
    return Job(config.device, partial(call, x), config.facts(net, size), config.precision)


def training(config: Config, batch: int, patch: int) -> Job:
    """Return a training step on one random batch, over and over."""
    net, run = config.build()
    lq, gt = random_batch(config, net, batch, patch)
    step = captured_if_asked(config, training_step(config, run), lq, gt)
    facts = {**config.facts(net, Size(patch, patch)), "batch": batch}
    return Job(config.device, partial(step, lq, gt), facts, config.precision)


def training_step(config: Config, run: Any) -> Callable[[Tensor, Tensor], None]:
    """Forward, L1 loss, backward and Adam step of a batch (lq, gt)."""
    run.train()
    on_card = {"fused": True, "capturable": config.graph} if config.device == "cuda" else {}
    optimizer = torch.optim.Adam(run.parameters(), lr=2e-4, betas=(0.9, 0.99), **on_card)

    def step(lq: Tensor, gt: Tensor) -> None:
        optimizer.zero_grad()
        with config.autocast():
            output = run(lq)
        F.l1_loss(output.float(), gt).backward()
        optimizer.step()

    return step


def random_batch(config: Config, net: Any, batch: int, patch: int) -> list[Tensor]:
    """Random lq and gt with a low-resolution side of `patch` pixels."""
    shape = batch, channels_of(net)
    return [torch.rand(*shape, side, side, device=config.device) for side in (patch, patch * net.upscale)]


def synchronise(device: str) -> None:
    """Wait until the device has done all it was given."""
    if device != "cpu":
        torch.get_device_module(device).synchronize()


def p95(samples: Sequence[float]) -> float:
    """The 95th percentile by nearest rank: a value that occurred; the largest of fewer than 20."""
    return sorted(samples)[math.ceil(0.95 * len(samples)) - 1]


def elapsed_ms(job: Job) -> float:
    """Return the milliseconds of one call, until the device has done it."""
    set_precision(job.precision)
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
    """The unit of time."""
    a, out = (torch.rand(UNIT_SIDE, UNIT_SIDE, device=device) for _ in range(2))
    return Job(device, lambda: torch.mm(a, a, out=out), {})


def timed(jobs: Sequence[Job], warmup: int, runs: int) -> list[Row]:
    """A row for each job. Every round runs all of them in turn, and the unit on each of their devices."""
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
            **job.facts, "median_ms": value, "p95_ms": p95(kept), "times_first": value / medians[0],
            "matmul_ms": unit_ms[job.device], "matmuls": value / unit_ms[job.device],
            "images_per_s" if "batch" in job.facts else "frames_per_s": 1e3 * job.facts.get("batch", 1) / value,
            "samples_ms": kept,
        }
        for job, kept, value in zip(jobs, samples, medians)  # noqa: B905 - the units have no row
    ]  # fmt: skip


def latency(args: argparse.Namespace) -> Result:
    """Forwards of single images."""
    rows: list[Row] = []
    for size in args.size:
        torch.compiler.reset()  # what was compiled for another size
        jobs = [with_peak(config.device, partial(forward, config, size)) for config in args.configs]
        rows += timed(jobs, args.warmup, args.runs)
    if args.launches:
        for row, (size, config) in zip(rows, itertools.product(args.size, args.configs), strict=True):
            row["launches"] = apart(launches_of_forward, config, size)
    points = [
        f"{row['input']} -> {row['output']}, {cell(row['frames_per_s'])} fps (1 / median): {row['network']}, "
        f"{row['form']}, {row['dtype']}, {row['precision']}, {row['mode']}, {row['device']}, batch 1, "
        f"{args.threads} CPU threads"
        for row in rows
    ]
    return Result(rows, [*notes_on(args), *points])


def train_step(args: argparse.Namespace) -> Result:
    """Training steps on one random batch, over and over."""
    jobs = [with_peak(config.device, partial(training, config, args.batch, args.patch)) for config in args.configs]
    rows = timed(jobs, args.warmup, args.runs)
    if args.launches:
        for row, config in zip(rows, args.configs, strict=True):
            row["launches"] = apart(launches_of_training, config, args.batch, args.patch)
    return Result(rows, [*notes_on(args), "bfloat16 is autocast. The loss is L1."])


def notes_on(args: argparse.Namespace) -> list[str]:
    """Return what the columns mean."""
    notes = [COUNTING]
    if any(config.device == "cuda" for config in args.configs):
        notes.append("cuda peak: building, capture and calls of a configuration, its weights included.")
    if args.launches:
        notes.append("launches: ATen calls that are no views, of one forward or one forward and backward, plain path.")
    return notes


def apart(function: Callable[..., Any], *arguments: Any) -> Any:
    """Return what a function returns in a fresh process.

    Raises:
        OSError: when the process was killed.
    """
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        try:
            return pool.submit(function, *arguments).result()
        except BrokenProcessPool as error:
            told = ", ".join(map(str, arguments))
            raise OSError(f"{told}: the process was killed; is the memory enough?") from error


def launches_of_forward(config: Config, size: Size) -> int:
    """Return the ATen calls of one forward, views left out, in this fresh process without own kernels."""
    os.environ["BASICSR_KERNELS"] = "0"
    net, run = replace(config, graph=False, compile=False).build()
    x = torch.rand(1, channels_of(net), size.height, size.width, device=config.device)
    with torch.no_grad(), config.autocast():  # inference mode would hand linear layers over as one call
        run(x)  # makes what is made once
        return count_launches(lambda: run(x))


def launches_of_training(config: Config, batch: int, patch: int) -> int:
    """Return the ATen calls of forward, loss and backward, views left out, in this fresh process without kernels."""
    os.environ["BASICSR_KERNELS"] = "0"
    net, run = replace(config, graph=False, compile=False).build()
    lq, gt = random_batch(config, net, batch, patch)
    run.train()

    def forward_and_backward() -> None:
        run.zero_grad()
        with config.autocast():
            output = run(lq)
        F.l1_loss(output.float(), gt).backward()

    forward_and_backward()
    return count_launches(forward_and_backward)


def memory(args: argparse.Namespace) -> Result:
    """Peak memory, each configuration and size in a process of its own."""
    rows = [
        apart(peak_memory, config, size, args.threads) for size, config in itertools.product(args.size, args.configs)
    ]
    before = "RSS before: with the network loaded, before the one forward of one image; on a GPU, after two of them."
    return Result(rows, [*notes_on(args), before])


def peak_memory(config: Config, size: Size, threads: int) -> Row:
    """One forward in this process, which has done nothing else."""
    torch.set_num_threads(threads)
    job = with_peak(config.device, partial(forward, config, size))
    before = resident_mib("VmRSS")
    job.call()
    synchronise(job.device)
    peak = resident_mib("VmHWM")
    return {**job.facts, "rss_before_mib": before, "rss_peak_mib": peak, "rss_added_mib": peak - before}


def resident_mib(field: str) -> float:
    """The resident set of this process, now (VmRSS) or at its peak (VmHWM); where only the peak can be had, that."""
    status = Path("/proc/self/status")
    if status.is_file():  # for Linux lets ru_maxrss start at what the parent had
        return int(status.read_text(encoding="ascii").partition(f"{field}:")[2].split()[0]) / 2**10
    import resource  # Windows has none

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


def data(args: argparse.Namespace) -> Result:
    """Loaders alone, then beside a training step; all ways of reading in turn, in every round."""
    config = args.configs[0]
    net, run = config.build()
    lq, gt = random_batch(config, net, args.batch, args.gt_size // args.scale)
    step = captured_if_asked(config, training_step(config, run), lq, gt)
    alone: dict[str, list[Span]] = {}
    training: dict[str, list[Span]] = {}
    with tempfile.TemporaryDirectory() as temporary:
        ways, failures = loaders(args, Path(temporary))
        ways["one batch, kept"] = itertools.repeat({"lq": lq, "gt": gt})
        for _, (way, loader) in itertools.product(range(args.runs), ways.items()):
            if loader is not ways["one batch, kept"]:
                place = config.device if way == DEVICE_CACHE else "cpu"  # where a batch of this loader lies
                alone.setdefault(way, []).extend(spans(iter(loader), lambda lq, gt: None, place, args.batches))
            training.setdefault(way, []).extend(spans(iter(loader), step, config.device, args.steps))
    facts = {key: value for key, value in config.facts(net, Size(*lq.shape[2:])).items() if isinstance(value, str)}
    rows = []
    for way, found in training.items():
        waits, steps = ([1e3 * span[k] for span in found] for k in range(2))
        reading = [1e3 * span.wait for span in alone.get(way, [])]
        rows.append({
            "reading": way, **facts, "workers": args.workers, "batch": args.batch,
            "images_per_s": 1e3 * args.batch * len(reading) / sum(reading) if reading else None,
            "needed_per_s": 1e3 * args.batch / median(steps), "wait_median_ms": median(waits),
            "wait_p95_ms": p95(waits), "step_median_ms": median(steps), "step_p95_ms": p95(steps),
            "waiting_percent": 100 * sum(waits) / (sum(waits) + sum(steps)),
            "samples_wait_ms": waits, "samples_step_ms": steps, "samples_reading_ms": reading,
        })  # fmt: skip
    rows += [{"reading": failure} for failure in failures]
    return Result(rows, [
        "images per s: of the loader alone. needed per s: what training takes that never waits (batch / median step).",
        "wait: from asking for a batch to having it, between training steps; the start of the workers does not count. "
        "A batch of the device cache is cut in that time, and lies on the device; the others are copied in the step.",
        "Files lie in the system's cache. The caches of decoded images have been filled before.",
    ])  # fmt: skip


def loaders(args: argparse.Namespace, temporary: Path) -> tuple[dict[str, Any], list[str]]:
    """A training loader for each way of reading the same images, and what could not be had."""
    from basicsr.data import build_dataloader, build_dataset
    from basicsr.data.data_sampler import EnlargedSampler
    from basicsr.data.device_cache import DeviceCacheError, DeviceLoader

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
    for source, target in zip(folders.values(), packed.values(), strict=True):
        command = [sys.executable, str(CREATE_LMDB), "-i", source, "-o", target]
        process = subprocess.run(command, capture_output=True, text=True)
        if process.returncode and "LMDB" in ways:
            del ways["LMDB"]
            failures.append(f"LMDB: not measured ({process.stderr.strip().splitlines()[-1]})")
    template = args.filename_tmpl or f"{{}}x{args.scale}"
    common = {"type": "PairedImageDataset", "gt_size": args.gt_size, "filename_tmpl": template}
    result: dict[str, Any] = {}
    for way, own in ways.items():
        dataset: Any = build_dataset({**common, **own}, scale=args.scale, phase="train", seed=0)
        for k in range(len(dataset) if own["cache_mb"] else 0):
            dataset[k]  # fills the cache
        # An epoch that outlasts what is taken from it and what the workers read ahead.
        samples = args.batch * (max(args.batches, args.steps) + 4 * args.workers + 4)
        sampler = EnlargedSampler(len(dataset), 1, 0, ratio=math.ceil(samples / len(dataset)))
        if way == DEVICE_CACHE:
            try:
                result[way] = DeviceLoader(dataset, args.batch, sampler, torch.device(args.device))
            except DeviceCacheError as error:
                failures.append(f"{way}: not measured ({error})")
            continue
        result[way] = build_dataloader(
            dataset, phase="train", batch_size=args.batch, num_workers=args.workers, sampler=sampler, prefetch_factor=2,
            pin_memory=args.device == "cuda",
        )  # fmt: skip
    return result, failures


def photographs(folder: Path, scale: int) -> dict[str, Path]:
    """Folders `gt` and `lq` with photographs from scikit-image's wheel."""
    from basicsr.images.files import read_image, write_image
    from basicsr.images.matlab_resize import imresize

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


def spans(
    batches: Iterator[Mapping[str, Tensor]], step: Callable[[Tensor, Tensor], None], device: str, count: int
) -> list[Span]:
    """Of `count` batches, after the first, which waits for the workers to start."""
    result = []
    for _ in range(1 + count):
        start = time.perf_counter()
        batch = next(batches)
        synchronise(device)  # a batch that the device itself cuts
        ready = time.perf_counter()
        step(batch["lq"].to(device, non_blocking=True), batch["gt"].to(device, non_blocking=True))
        synchronise(device)
        result.append(Span(ready - start, time.perf_counter() - ready))
    return result[1:]


def compare(args: argparse.Namespace) -> Result:
    """Rows that stand in all files, side by side."""
    files = [read_result(path) for path in args.files]
    if len({file["kind"] for file in files}) > 1:
        raise OptionError(f"compare: files of one kind, please; got {', '.join(file['kind'] for file in files)}")
    labels = [chr(ord("A") + k) for k in range(len(files))]
    tables = [{point_of(row): row for row in file["rows"]} for file in files]
    rows: list[Row] = []
    for point, measure in itertools.product(tables[0], COMPARED):
        found = [table.get(point, {}).get(measure) for table in tables]
        if all(found):
            ratios = {f"{label} / A": value / found[0] for label, value in zip(labels[1:], found[1:], strict=True)}
            values = dict(zip(labels, found, strict=True))
            rows.append({"what": ", ".join(point), "measure": label_of(measure), **values, **ratios})
    if not rows:
        raise OptionError("compare: no row stands in all files; measure the same configurations and sizes")
    differing = [key for key in files[0]["head"] if len({str(file["head"].get(key)) for file in files}) > 1]
    head = {
        label: f"{path}; " + "; ".join(f"{key}: {file['head'].get(key)}" for key in differing)
        for label, path, file in zip(labels, args.files, files, strict=True)
    }
    return Result(rows, [], head)


def point_of(row: Row) -> tuple[str, ...]:
    """What a row measured; the highest precision goes without saying, as in files of before there was a choice."""
    items = ((key, value) for key, value in row.items() if isinstance(value, str))
    return tuple(value for key, value in items if (key, value) != ("precision", "highest"))


def read_result(path: Path) -> dict[str, Any]:
    """A JSON file of this script."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise OptionError(f"{path}: is no JSON file ({error})") from error
    if not isinstance(content, dict) or not {"kind", "head", "rows"} <= content.keys():
        raise OptionError(f"{path}: is no result of this script; give the JSON file that it wrote")
    return content


def machine() -> dict[str, Any]:
    """What times depend on beside the configuration."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(encoding="utf-8").splitlines() if cpuinfo.is_file() else []
    model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    head = {
        "CPU": f"{model or platform.processor() or platform.machine()}, {cores} cores",
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "OS": f"{platform.system()} {platform.release()} {platform.machine()}",
        "Python": platform.python_version(),
        "PyTorch": torch.__version__,
        "basicsr": __version__,
        "threads": torch.get_num_threads(),
        "BASICSR_KERNELS": os.environ.get("BASICSR_KERNELS", "not set"),
    }
    return {**head, **card()} if torch.cuda.is_available() else head


def card() -> dict[str, str]:
    """Return the CUDA device and the versions of what runs on it."""
    properties = torch.cuda.get_device_properties(torch.cuda.current_device())
    capability = f"compute capability {properties.major}.{properties.minor}"
    return {
        "GPU": f"{properties.name}, {properties.total_memory / 2**30:.1f} GiB, {capability}",
        "driver": driver_version(),
        "CUDA": f"{torch.version.cuda}, cuDNN {torch.backends.cudnn.version()}",
        "Triton": version_of("triton"),
    }


def driver_version() -> str:
    """Return the version of the NVIDIA driver, as its own tool says it."""
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout.splitlines()[0]
    except (OSError, subprocess.SubprocessError, IndexError):
        return "unknown"


def version_of(package: str) -> str:
    """Return the version of an installed package, or that there is none."""
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def markdown(kind: str, head: Mapping[str, Any], rows: Sequence[Row], notes: Sequence[str]) -> str:
    """The result as a page: where, what, and remarks."""
    keys = [key for key in dict.fromkeys(itertools.chain(*rows)) if not key.startswith("samples")]
    numbers = {key for key in keys if not any(isinstance(row.get(key), str) for row in rows)}
    lines = [f"# {kind}", "", *(f"- {key}: {value}" for key, value in head.items()), ""]
    table = [[label_of(key) for key in keys], ["---:" if key in numbers else "---" for key in keys]]
    table += [[cell(row.get(key)) for key in keys] for row in rows]
    lines += [f"| {' | '.join(cells)} |" for cells in table]
    return "\n".join([*lines, "", *(f"- {note}" for note in notes)]).rstrip() + "\n"


def label_of(key: str) -> str:
    """The key of a value as the head of its column."""
    return key.replace("_", " ")


def cell(value: str | float | None) -> str:
    """A value of a row as text."""
    if isinstance(value, float):
        return f"{value:,.2f}" if abs(value) >= 1 else f"{value:.3g}"
    return "-" if value is None else value if isinstance(value, str) else f"{value:,}"


def write_text(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        beside.write_text(text, encoding="utf-8")
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)


def image_size(text: str) -> Size:
    """`64` or `320x180` (width x height)."""
    sides = [int(side) for side in text.split("x")]
    if len(sides) > 2 or min(sides) < 1:
        raise ValueError
    return Size(sides[0], sides[-1])


def at_least_one(text: str) -> int:
    """A number above 0."""
    if int(text) < 1:
        raise ValueError
    return int(text)


def parser_of_commands() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="benchmark", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="kind", required=True)
    bodies = {"latency": latency, "train-step": train_step, "memory": memory, "data": data, "compare": compare}
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
        if kind == "data":
            add("--runs", type=at_least_one, default=3, help="rounds that count (default: 3)")
        if trains:
            add("--batch", type=at_least_one, default=16, help="images a step (default: 16)")
        if kind == "train-step":
            add("--patch", type=at_least_one, default=64, help="low-resolution side of a patch (default: 64)")
        if kind == "data":
            add("--gt", type=Path, help="folder of ground truth (default: photographs from scikit-image's wheel)")
            add("--lq", type=Path, help="its low-resolution images (default: made on the fly)")
            add("--filename-tmpl", help="their names (default: {}xSCALE)")
            add("--gt-size", type=at_least_one, default=256, help="side of a ground-truth patch (default: 256)")
            add("--workers", type=int, default=2, help="processes that read (default: 2)")
            add("--cache-mb", type=at_least_one, default=2048, help="of the cached reading (default: 2048)")
            add("--batches", type=at_least_one, default=20, help="batches a round, read alone (default: 20)")
            add("--steps", type=at_least_one, default=5, help="training steps a round (default: 5)")
    return parser


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """The arguments, and in `configs` the first configuration and those of `--vs`: the same command line, changed."""
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
    """Run the command line; 0: the tables are there, 2: the user's mistake, told in one line."""
    argv = sys.argv[1:] if argv is None else argv
    args = parse(argv)
    torch.set_num_threads(args.threads)
    keep_freed_memory()  # as train.py and test.py do
    try:
        rows, notes, head = args.body(args)
        head = {
            **(machine() if head is None else head),
            "command": shlex.join(["python", "scripts/benchmark.py", *argv]),
        }
        text = markdown(args.kind, head, rows, notes)
        write_text(Path(f"{args.output}.md"), text)
        content = {"kind": args.kind, "head": head, "rows": rows, "notes": notes}
        write_text(Path(f"{args.output}.json"), json.dumps(content, indent=1) + "\n")
    except (ValueError, UnknownNameError, CheckpointError, OSError) as error:
        print(f"benchmark: {error}", file=sys.stderr)
        return 2
    print(text)
    print(f"Written to {args.output}.md and {args.output}.json")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
