"""The command line that train.py and test.py share. It imports nothing heavy, so that --help answers at once."""

import argparse
import os
from collections.abc import Mapping, Sequence
from typing import Literal


def parse_command_line(prog: str, description: str, argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line that train.py and test.py share."""
    parser = argparse.ArgumentParser(prog=prog, description=description)
    parser.add_argument("-opt", required=True, metavar="X.yml", help="options of the run")
    parser.add_argument(
        "--launcher", choices=["none", "pytorch", "slurm"], help="default: pytorch under torchrun, else none"
    )
    parser.add_argument(
        "--auto_resume", action="store_true", help="continue from the newest state of this run, if there is one"
    )
    parser.add_argument(
        "--force_resume", action="store_true", help="continue although options changed that decide the result"
    )
    parser.add_argument("--debug", action="store_true", help="short intervals, no trackers, a name of its own")
    parser.add_argument("--check", action="store_true", help="check the options, print them resolved, and exit")
    parser.add_argument("--local_rank", "--local-rank", type=int, help="accepted for old launchers, and ignored")
    parser.add_argument("--force_yml", nargs="+", default=[], metavar="a:b=value", help="override options of the file")
    args = parser.parse_args(argv)
    args.launcher = args.launcher or inferred_launcher(os.environ)
    return args


def inferred_launcher(environ: Mapping[str, str]) -> Literal["none", "pytorch"]:
    """The launcher to assume when none is named: "pytorch" under torchrun, else "none"."""
    return "pytorch" if "WORLD_SIZE" in environ and "LOCAL_RANK" in environ else "none"
