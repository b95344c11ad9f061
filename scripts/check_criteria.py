"""Judge a search by the goals of CATANet-XS: `python scripts/check_criteria.py experiments/search_XS_x4`.

Prints the criteria C1 to C7 of docs/prune_distill.md as a Markdown table. C1 and C5 are judged by `prune_report.json`,
which the search wrote. The others need more than a search; their notes name the command that measures them.
"""

import argparse
import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch

from basicsr.archs import build_network
from basicsr.text import tolerate_encoding

MAX_PARAMETERS = 230_000
DEFAULT_TOLERANCE = 1e-6  # of reports that do not record compact.tolerance
VERDICTS = {True: "pass", False: "fail", None: "not measured"}


class Criterion(NamedTuple):
    """One goal and its state."""

    key: str
    text: str
    value: float | None
    threshold: str
    passed: bool | None
    note: str


def main(argv: list[str] | None = None) -> int:
    """Run the command line.

    Exit code 0: no judged criterion fails; 1: one fails; 2: error in arguments or files.
    """
    tolerate_encoding()
    parser = argparse.ArgumentParser(
        prog="check_criteria", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="of the search run, experiments/<name>")
    args = parser.parse_args(argv)
    try:
        found = read_criteria(args.folder / "prune_report.json")
    except (ValueError, OSError) as error:
        parser.exit(2, f"{parser.prog}: {error}\n")
    print("| | criterion | value | threshold | verdict | note |\n|---|---|---:|---|---|---|")
    for key, text, value, threshold, passed, note in found:
        shown = "–" if value is None else f"{value:,}" if isinstance(value, int) else f"{value:.3g}"
        print(f"| {key} | {text} | {shown} | {threshold} | {VERDICTS[passed]} | {note} |")
    return int(any(criterion.passed is False for criterion in found))


def read_criteria(path: Path) -> list[Criterion]:
    """Return the criteria of a report.

    Raises:
        FileNotFoundError: when there is no such file.
        ValueError: when it is no report of a search.
    """
    try:
        return list(criteria(json.loads(path.read_text(encoding="utf-8"))))
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{path}: no such file; name the folder of a search that has ended") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path}: is no report of a search ({type(error).__name__}: {error})") from error


def criteria(report: Mapping[str, Any]) -> Iterator[Criterion]:
    """Yield the criteria of the content of a `prune_report.json`."""
    parameters, scale = parameters_at_x2(report)
    yield Criterion(
        "C1",
        "parameters of the compact network",
        parameters,
        f"< {MAX_PARAMETERS:,}",
        parameters < MAX_PARAMETERS,
        f"at x{scale}" if scale else "",
    )
    yield _later("C2", "quality: mean PSNR-Y against CATANet-S", ">= S - 0.02 dB", "fine-tune, then test both networks")
    yield _later("C3", "speed: latency over that of CATANet-S", "< 1", "scripts/benchmark.py latency --vs, or compare")
    yield _later(
        "C4", "real time: latency at a stated input and device", "<= 41.67 ms", "24 fps; scripts/benchmark.py latency"
    )
    error = max(report["equality"].values(), default=math.nan)
    tolerance = report.get("equality_tolerance", DEFAULT_TOLERANCE)
    yield Criterion(
        "C5",
        "compaction: masked against cut network, largest difference",
        error,
        f"<= {tolerance:g}",
        error <= tolerance,
        f"in {report.get('equality_dtype', 'float32')}",
    )
    yield _later("C6", "mobile: exported model against this one", "<= 2/255", "basicsr-export compares them")
    yield _later("C7", "generality: another network through the same steps", "runs, C5 holds", "this table of it")


def parameters_at_x2(report: Mapping[str, Any]) -> tuple[int, int | None]:
    """Return the number of parameters of the compact network at x2 if it has one, and the scale of this number."""
    spec = report["compact"]["network_g"]
    if "upscale" not in spec:
        return report["compact"]["params"], None
    try:
        with torch.device("meta"):
            net = build_network({**spec, "upscale": 2})
    except ValueError:  # the network has no x2
        return report["compact"]["params"], spec["upscale"]
    return sum(p.numel() for p in net.parameters()), 2


def _later(key: str, text: str, threshold: str, note: str) -> Criterion:
    return Criterion(key, text, None, threshold, None, note)


if __name__ == "__main__":
    raise SystemExit(main())
