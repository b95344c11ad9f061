"""Results: the machine they were measured on, tables in Markdown, and ratios between result files."""

import argparse
import itertools
import json
import os
import platform
import subprocess
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

import torch

from basicsr.errors import OptionError
from basicsr.version import __version__
from benchmarks.config import Row

COMPARED = ("median_ms", "p95_ms", "matmuls", "rss_peak_mib", "cuda_peak_mib", "images_per_s", "wait_p95_ms")
COUNTING = (
    "Multi-Adds (G) of one image, a multiply-add counted once: of convolutions and linear layers, and of attention. "
    "The paper's 46.8 G of CATANet-L x4, for an input of 256x256, are the first alone."
)


class Result(NamedTuple):
    """The result of a subcommand; its head describes this machine where it is None."""

    rows: list[Row]
    notes: list[str]
    head: Mapping[str, Any] | None = None


def notes_on(args: argparse.Namespace) -> list[str]:
    """Return explanations of the columns."""
    notes = [COUNTING]
    if any(config.device == "cuda" for config in args.configs):
        notes.append("cuda peak: building, capture and calls of a configuration, its weights included.")
    if args.launches:
        notes.append("launches: ATen calls that are no views, of one forward or one forward and backward, plain path.")
    return notes


def compare(args: argparse.Namespace) -> Result:
    """Compare the rows that all files have, side by side."""
    files = [read_result(path) for path in args.files]
    if len({file["kind"] for file in files}) > 1:
        raise OptionError(f"compare: needs files of one kind, got {', '.join(file['kind'] for file in files)}")
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
        raise OptionError("compare: no row is in all files; measure the same configurations and sizes")
    differing = [key for key in files[0]["head"] if len({str(file["head"].get(key)) for file in files}) > 1]
    head = {
        label: f"{path}; " + "; ".join(f"{key}: {file['head'].get(key)}" for key in differing)
        for label, path, file in zip(labels, args.files, files, strict=True)
    }
    return Result(rows, [], head)


def point_of(row: Row) -> tuple[str, ...]:
    """Return the strings of a row, which name what it measured; without the default precision, which old files lack."""
    items = ((key, value) for key, value in row.items() if isinstance(value, str))
    return tuple(value for key, value in items if (key, value) != ("precision", "highest"))


def read_result(path: Path) -> dict[str, Any]:
    """Return the content of a JSON file of this script.

    Raises:
        OptionError: for another file.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise OptionError(f"{path}: is no JSON file ({error})") from error
    if not isinstance(content, dict) or not {"kind", "head", "rows"} <= content.keys():
        raise OptionError(f"{path}: is no result of this script; give the JSON file that it wrote")
    return content


def machine() -> dict[str, Any]:
    """Return the conditions that times depend on besides the configuration."""
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
    """Return the version of the NVIDIA driver by its own tool."""
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
    """Return the result as a page: head, table and notes."""
    keys = [key for key in dict.fromkeys(itertools.chain(*rows)) if not key.startswith("samples")]
    numbers = {key for key in keys if not any(isinstance(row.get(key), str) for row in rows)}
    lines = [f"# {kind}", "", *(f"- {key}: {value}" for key, value in head.items()), ""]
    table = [[label_of(key) for key in keys], ["---:" if key in numbers else "---" for key in keys]]
    table += [[cell(row.get(key)) for key in keys] for row in rows]
    lines += [f"| {' | '.join(cells)} |" for cells in table]
    return "\n".join([*lines, "", *(f"- {note}" for note in notes)]).rstrip() + "\n"


def label_of(key: str) -> str:
    """Return the heading of a column for the key of its values."""
    return key.replace("_", " ")


def cell(value: str | float | None) -> str:
    """Return a value of a row as text."""
    if isinstance(value, float):
        return f"{value:,.2f}" if abs(value) >= 1 else f"{value:.3g}"
    return "-" if value is None else value if isinstance(value, str) else f"{value:,}"
