#!/usr/bin/env python
"""Print the packages that basicsr and some of its extras need, one a line, for `pip install --requirement`.

basicsr itself is not among them, so that an environment filled from this list can serve several checkouts.
"""

import argparse
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

if sys.version_info >= (3, 11):
    import tomllib
else:
    from pip._vendor import tomli as tomllib  # every virtual environment has pip

ROOT = Path(__file__).resolve().parents[1]


def expand_extra(name: str, extras: Mapping[str, Sequence[str]], project: str) -> Iterator[str]:
    """Yield the requirements of an extra, with those of the project's other extras that it lists."""
    for requirement in extras[name]:
        if nested := re.fullmatch(rf"{project}\[(.*)\]", requirement):
            for extra in nested[1].split(","):
                yield from expand_extra(extra.strip(), extras, project)
        else:
            yield requirement


def main() -> None:
    """Print requirements.txt and the requirements of the extras on the command line."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("extras", nargs="*", metavar="EXTRA", help=f"of pyproject.toml: {', '.join(extras)}")
    args = parser.parse_args()
    if unknown := set(args.extras) - set(extras):
        parser.error(f"no such extra: {', '.join(sorted(unknown))}")
    print((ROOT / "requirements.txt").read_text(encoding="utf-8").strip())
    for extra in args.extras:
        print(*expand_extra(extra, extras, project["name"]), sep="\n")


if __name__ == "__main__":
    main()
