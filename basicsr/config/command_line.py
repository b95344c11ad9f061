"""The command line of train.py and test.py. It imports only the standard library, so that --help responds at once."""

import argparse
import math
import os
from collections.abc import Mapping, Sequence
from typing import Literal

from basicsr.text import tolerate_encoding


def parse_command_line(
    prog: str, description: str, argv: Sequence[str] | None, *, trains: bool = False
) -> argparse.Namespace:
    """Return the arguments of train.py or test.py, with `launcher` inferred when it is not given.

    Args:
        trains: offer `--minutes`, which only `train_pipeline` obeys.
    """
    tolerate_encoding()
    parser = argparse.ArgumentParser(prog=prog, description=description)
    parser.add_argument("-opt", required=True, metavar="X.yml", help="options of the run")
    parser.add_argument(
        "--launcher", choices=["none", "pytorch", "slurm"], help="default: pytorch under torchrun, otherwise none"
    )
    parser.add_argument(
        "--auto_resume", action="store_true", help="resume from the newest state of this run, if there is one"
    )
    parser.add_argument(
        "--force_resume", action="store_true", help="resume although options that affect the result have changed"
    )
    parser.add_argument(
        "--debug", action="store_true", help="short intervals, no trackers, and `debug_` before the name"
    )
    parser.add_argument("--check", action="store_true", help="check the options, print them with defaults, and exit")
    parser.add_argument("--local_rank", "--local-rank", type=int, help="ignored; accepted for old launchers")
    parser.add_argument(
        "--force_yml", nargs="+", action="extend", default=[], metavar="a:b=value", help="override options of the file"
    )
    if trains:
        parser.add_argument(
            "--minutes",
            type=_positive,
            default=math.inf,
            metavar="N",
            help="save the state and stop N minutes after the start of the process: exit code 75, under torchrun 0",
        )
    args = parser.parse_args(argv)
    args.launcher = args.launcher or infer_launcher(os.environ)
    return args


def _positive(text: str) -> float:
    value = float(text)
    if not value > 0:
        raise argparse.ArgumentTypeError(f"must be above 0, got {text}")
    return value


def infer_launcher(environ: Mapping[str, str]) -> Literal["none", "pytorch"]:
    """Return the launcher to use when none is given: "pytorch" under torchrun, otherwise "none"."""
    return "pytorch" if "WORLD_SIZE" in environ and "LOCAL_RANK" in environ else "none"
